//! The whole room against real servers on loopback.

mod fetch;
mod lists;
mod server;
mod upload;

use futures::TryStreamExt;
use reqwest::Url;

use super::{Chunks, SourceError};

/// Bytes that are different everywhere.
fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

async fn all(chunks: Chunks) -> Result<Vec<u8>, SourceError> {
    chunks
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

fn url(text: impl AsRef<str>) -> Url {
    Url::parse(text.as_ref()).unwrap()
}

fn sha256(data: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What people see names neither path, query, user-info nor body.
fn assert_clean(error: &SourceError) {
    let shown = format!("{error} {error:?}");
    for secret in ["hunter2", "/secret-path", "token=", "<html"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
