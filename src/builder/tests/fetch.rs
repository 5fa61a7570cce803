//! Downloads, redirects and broken connections.

use super::server::{Asked, Reply, Server};
use super::*;
use crate::builder::SourceClass;
use crate::builder::fetch::Fetcher;

const ETAG: &str = "\"v1\"";

async fn fetch(server: &Server, rest: &str) -> Result<Vec<u8>, SourceError> {
    all(Fetcher::brisk().open(&server.url(rest)).await?.bytes).await
}

async fn refused(server: &Server, rest: &str) -> SourceError {
    let error = fetch(server, rest).await.unwrap_err();
    assert_clean(&error);
    error
}

#[tokio::test]
async fn a_file_comes_as_it_is() {
    let file = pattern(300_000);
    let served = file.clone();
    let server = Server::start(move |asked| match asked.target.as_str() {
        "/chunked" => Reply::new(200, served.clone()).chunked(),
        // What it says of an encoding is not believed: the digest is that of the file as it lies there.
        _ => Reply::new(200, served.clone()).with("Content-Encoding", "gzip"),
    });
    let fetched = Fetcher::brisk().open(&server.url("/f.img.gz")).await.unwrap();
    assert_eq!(fetched.length, Some(300_000));
    assert_eq!(all(fetched.bytes).await.unwrap(), file);
    let fetched = Fetcher::brisk().open(&server.url("/chunked")).await.unwrap();
    assert_eq!(fetched.length, None);
    assert_eq!(all(fetched.bytes).await.unwrap(), file);
    assert_eq!(server.asked()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn redirects_are_followed_five_times() {
    let server = Server::start(|asked| match asked.target.strip_prefix("/hop/").map(|n| n.parse::<u32>().unwrap()) {
        Some(0) => Reply::new(200, "here"),
        Some(left) => Reply::to(format!("../hop/{}", left - 1)),
        None => Reply::to("/loop/secret-path?token=hunter2"),
    });
    assert_eq!(fetch(&server, "/hop/5").await.unwrap(), b"here");
    for path in ["/hop/6", "/loop"] {
        let error = refused(&server, path).await;
        assert_eq!(error.class, SourceClass::Invalid);
        assert_eq!(error.message, "127.0.0.1 redirects more than 5 times");
    }
}

#[tokio::test]
async fn a_redirect_never_leads_from_https_to_http() {
    let plain = Server::start(|_| Reply::new(200, "changed on the way"));
    let to = plain.url("/secret-path?token=hunter2").to_string();
    let (server, authority) = Server::start_tls(move |asked| match asked.target.as_str() {
        "/file" => Reply::new(200, "safe"),
        "/within" => Reply::to("/file"),
        _ => Reply::to(to.clone()),
    });
    let fetcher = Fetcher::trusting(&authority);
    let within = fetcher.open(&server.url("/within")).await.unwrap();
    assert_eq!(all(within.bytes).await.unwrap(), b"safe");
    let error = fetcher.open(&server.url("/out")).await.err().unwrap();
    assert_clean(&error);
    assert!(error.class == SourceClass::Invalid && error.message.contains("from https to http"), "{error}");
    assert!(plain.asked().is_empty());
    // The other way round is fine.
    let to = server.url("/file").to_string();
    let plain = Server::start(move |_| Reply::to(to.clone()));
    let up = fetcher.open(&plain.url("/")).await.unwrap();
    assert_eq!(all(up.bytes).await.unwrap(), b"safe");
}

#[tokio::test]
async fn an_unknown_authority_is_told() {
    let (server, _) = Server::start_tls(|_| Reply::new(200, ""));
    let error = refused(&server, "/").await;
    assert!(error.class == SourceClass::Invalid && error.message.contains("no known authority"), "{error}");
}

#[tokio::test]
async fn redirects_to_nowhere_are_told() {
    for location in ["ftp://example.org/secret-path", "http://", "file:///secret-path"] {
        let server = Server::start(move |_| Reply::to(location));
        let error = refused(&server, "/").await;
        assert!(error.message.contains("no address of a file"), "{location}: {error}");
    }
    let server = Server::start(|_| Reply::new(302, ""));
    assert!(refused(&server, "/").await.message.contains("HTTP 302"));
    let error = Fetcher::brisk().open(&url("ftp://h/f")).await.err().unwrap();
    assert!(error.message.contains("https://"), "{error}");
}

#[tokio::test]
async fn what_a_status_means() {
    let server = Server::start(|asked| {
        let status = asked.target[1..4].parse().unwrap();
        Reply::new(status, "<html>hunter2</html>")
    });
    for (status, class) in [
        (404, SourceClass::NotFound),
        (410, SourceClass::NotFound),
        (401, SourceClass::Denied),
        (403, SourceClass::Denied),
        (429, SourceClass::Unavailable),
        (500, SourceClass::Unavailable),
        (503, SourceClass::Unavailable),
        (204, SourceClass::Invalid),
        (206, SourceClass::Invalid),
        (304, SourceClass::Invalid),
        (400, SourceClass::Invalid),
        (418, SourceClass::Invalid),
    ] {
        let mut address = server.url(&format!("/{status}/secret-path?token=hunter2"));
        address.set_username("me").unwrap();
        address.set_password(Some("hunter2")).unwrap();
        let error = Fetcher::brisk().open(&address).await.err().unwrap();
        assert_clean(&error);
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.starts_with("127.0.0.1 ") && error.message.contains(&status.to_string()), "{error}");
    }
    assert!(server.asked()[0].header("authorization").unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn a_server_that_is_not_there_may_be_later() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Fetcher::brisk().open(&url(format!("http://{closed}/f"))).await.err().unwrap();
    assert!(error.class == SourceClass::Unavailable && error.message.contains("refuses the connection"), "{error}");
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let error = Fetcher::impatient().open(&url(format!("http://{address}/f"))).await.err().unwrap();
    assert!(error.class == SourceClass::Unavailable && error.message.contains("did not answer within"), "{error}");
}

/// A server that cuts every connection after so many bytes of its file.
fn cutting(file: Vec<u8>, after: usize, validator: (&'static str, &'static str)) -> Server {
    Server::start(move |asked| Reply::file(&file, asked).with(validator.0, validator.1).cut(after))
}

fn ranges(server: &Server) -> Vec<(Option<String>, Option<String>)> {
    let text = |asked: &Asked, name| asked.header(name).map(str::to_owned);
    server.asked().iter().map(|asked| (text(asked, "range"), text(asked, "if-range"))).collect()
}

#[tokio::test]
async fn a_broken_download_is_taken_up_where_it_broke() {
    let file = pattern(10_000);
    let changed = "Wed, 21 Oct 2015 07:28:00 GMT";
    for validator in [("ETag", ETAG), ("Last-Modified", changed)] {
        let server = cutting(file.clone(), 3_000, validator);
        assert_eq!(fetch(&server, "/f").await.unwrap(), file);
        let of = Some(validator.1.to_owned());
        let expected: Vec<_> = [3000, 6000, 9000].map(|from| (Some(format!("bytes={from}-")), of.clone())).into();
        assert_eq!(ranges(&server)[1..], expected);
    }
    // A weak tag proves nothing; the time beside it does.
    let served = file.clone();
    let server = Server::start(move |asked| {
        Reply::file(&served, asked).with("ETag", "W/\"v1\"").with("Last-Modified", changed).cut(6_000)
    });
    assert_eq!(fetch(&server, "/f").await.unwrap(), file);
    assert_eq!(ranges(&server)[1].1.as_deref(), Some(changed));
}

#[tokio::test]
async fn a_download_of_unknown_length_is_taken_up_too() {
    let file = pattern(10_000);
    let served = file.clone();
    let server = Server::start(move |asked| match asked.from() {
        0 => Reply::file(&served, asked).with("ETag", ETAG).chunked().cut(4_000),
        _ => Reply::file(&served, asked),
    });
    assert_eq!(fetch(&server, "/f").await.unwrap(), file);
}

#[tokio::test]
async fn silence_is_as_good_as_a_cut() {
    let file = pattern(10_000);
    let served = file.clone();
    let server = Server::start(move |asked| match asked.before {
        0 => Reply::file(&served, asked).with("ETag", ETAG).stall(5_000),
        _ => Reply::file(&served, asked),
    });
    let bytes = Fetcher::impatient().open(&server.url("/f")).await.unwrap().bytes;
    assert_eq!(all(bytes).await.unwrap(), file);
    assert!(server.asked().iter().any(|asked| asked.from() == 5_000));
}

#[tokio::test]
async fn without_a_validator_or_ranges_a_cut_is_final_but_passing() {
    let file = pattern(10_000);
    let cases: [fn(&Asked, &[u8]) -> Reply; 6] = [
        |asked, file| Reply::file(file, asked),
        |asked, file| Reply::file(file, asked).with("ETag", "W/\"v1\""),
        |asked, file| Reply::file(file, asked).with("ETag", ETAG).with("Accept-Ranges", "none"),
        // Ignores the range, as it may when the file is another one by now.
        |_, file| Reply::new(200, file).with("ETag", ETAG),
        // Another part than was asked for; another length.
        |asked, file| match asked.from() {
            0 => Reply::new(200, file).with("ETag", ETAG),
            from => Reply::new(206, &file[from..]).with("Content-Range", "bytes 1-2/10000"),
        },
        |asked, file| match asked.from() {
            0 => Reply::new(200, file).with("ETag", ETAG),
            from => Reply::new(206, &file[from..]).with("Content-Range", format!("bytes {from}-10000/10001")),
        },
    ];
    for (number, script) in cases.into_iter().enumerate() {
        let served = file.clone();
        let server = Server::start(move |asked| script(asked, &served).cut(4_000));
        let error = refused(&server, "/f").await;
        assert_eq!(error.class, SourceClass::Unavailable, "{number}");
        assert!(error.message.contains("broke off after 4000 bytes"), "{number}: {error}");
        assert_eq!(server.asked().len(), if number < 3 { 1 } else { 2 }, "{number}");
    }
}

#[tokio::test]
async fn a_download_that_gets_nowhere_is_given_up() {
    let file = pattern(10_000);
    let server = Server::start(move |asked| match asked.before {
        0 => Reply::file(&file, asked).with("ETag", ETAG).cut(4_000),
        number if number % 2 == 0 => Reply::new(503, ""),
        _ => Reply::file(&file, asked).with("ETag", ETAG).cut(0),
    });
    let error = refused(&server, "/f").await;
    assert!(error.class == SourceClass::Unavailable && error.message.contains("within 5 attempts"), "{error}");
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn a_download_that_gets_on_is_taken_up_as_often_as_it_breaks() {
    let file = pattern(12 << 20);
    let server = cutting(file.clone(), (1 << 20) + 1, ("ETag", ETAG));
    let got = fetch(&server, "/f").await.unwrap();
    assert!(got == file);
    assert_eq!(server.asked().len(), 12);
}

#[tokio::test]
async fn an_address_that_has_run_out_is_asked_for_anew() {
    let file = pattern(10_000);
    let served = file.clone();
    let server = Server::start(move |asked| match (asked.target.as_str(), asked.before) {
        ("/f", before) => Reply::to(format!("/signed?token={before}")),
        ("/signed?token=0", 1) => Reply::file(&served, asked).with("ETag", ETAG).cut(4_000),
        ("/signed?token=0", _) => Reply::new(403, "expired"),
        _ => Reply::file(&served, asked),
    });
    assert_eq!(fetch(&server, "/f").await.unwrap(), file);
    let targets: Vec<String> = server.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/f", "/signed?token=0", "/signed?token=0", "/f", "/signed?token=3"]);
}

#[tokio::test]
async fn a_file_that_is_gone_halfway_is_told() {
    let file = pattern(10_000);
    let server = Server::start(move |asked| match asked.from() {
        0 => Reply::file(&file, asked).with("ETag", ETAG).cut(4_000),
        _ => Reply::new(404, "<html>hunter2</html>"),
    });
    assert_eq!(refused(&server, "/f").await.class, SourceClass::NotFound);
}
