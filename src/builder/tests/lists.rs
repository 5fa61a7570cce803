//! Lists of digests from a server, and files that have the digest or another one.

use super::server::{Reply, Server};
use super::*;
use crate::builder::SourceClass;
use crate::builder::checksum::{Algorithm, Digest, verified};
use crate::builder::fetch::Fetcher;
use futures::{StreamExt, stream};

async fn listed(list: impl Into<Vec<u8>>, file: &str) -> Result<Digest, SourceError> {
    let list = list.into();
    let server = Server::start(move |_| Reply::new(200, list.clone()));
    let at = server.url("/secret-path/SHA256SUMS?token=hunter2");
    Digest::listed(&Fetcher::brisk(), &at, &url(file), Algorithm::Sha256).await
}

#[tokio::test]
async fn a_list_is_fetched_and_read() {
    let digest = sha256(b"x");
    let found = listed(format!("{digest} *a%b c.img\n"), "https://elsewhere.example/pub/a%25b%20c.img?x=1").await;
    assert_eq!(found.unwrap().to_string(), format!("sha256:{digest}"));
}

#[tokio::test]
async fn what_is_no_list_is_told() {
    let two_mib = vec![b'\n'; 2 << 20];
    for (list, expected) in [
        (b"<html>hunter2</html>".to_vec(), "the list of digests at 127.0.0.1 is none"),
        (format!("{}  hunter2.img", sha256(b"x")).into_bytes(), "does not name f.img among its 1 files"),
        (two_mib, "longer than 1 MiB"),
    ] {
        let error = listed(list, "https://h/f.img").await.unwrap_err();
        assert_clean(&error);
        assert!(error.class == SourceClass::Invalid && error.message.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_told_as_any_file() {
    let server = Server::start(|_| Reply::new(404, ""));
    let list = server.url("/SHA256SUMS");
    let error = Digest::listed(&Fetcher::brisk(), &list, &list, Algorithm::Sha256).await.unwrap_err();
    assert_eq!(error.class, SourceClass::NotFound);
}

#[tokio::test]
async fn only_the_promised_bytes_end_well() {
    let data = pattern(100_000);
    let chunks = || {
        let chunks: Vec<_> = data.chunks(999).map(bytes::Bytes::copy_from_slice).map(Ok).collect();
        stream::iter(chunks).boxed()
    };
    let sha512: String = {
        use sha2::Digest as _;
        sha2::Sha512::digest(&data).iter().map(|byte| format!("{byte:02X}")).collect()
    };
    for digest in [Digest::new(Algorithm::Sha256, &sha256(&data)), Digest::new(Algorithm::Sha512, &sha512)] {
        assert_eq!(all(verified(chunks(), digest.unwrap())).await.unwrap(), data);
    }
    let promised = sha256(b"other");
    let error = all(verified(chunks(), Digest::new(Algorithm::Sha256, &promised).unwrap())).await.unwrap_err();
    assert_eq!(error.class, SourceClass::Mismatch);
    assert!(error.message.contains(&promised) && error.message.contains(&sha256(&data)), "{error}");
}
