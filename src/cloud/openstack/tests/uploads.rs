//! Bytes go once, all of them or to no effect, and nothing stands still for long.

use super::*;
use crate::cloud::{Cloud, ErrorClass, ImageBytes};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

const IMAGE: &str = "/image/v2/images/image-1";
const FILE: &str = "/image/v2/images/image-1/file";

/// The image waits for its bytes, which are answered so.
fn waiting(reply: Reply) -> Fake {
    Fake::start(script(reply))
}

fn script(reply: Reply) -> impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static {
    move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", IMAGE) => Some(Reply::Json(200, glance_image("image-1", json!({})))),
        ("PUT", FILE) => Some(reply.clone()),
        _ => None,
    }
}

fn taken() -> Fake {
    waiting(Reply::Text(204, String::new()))
}

fn bytes(chunks: Vec<std::io::Result<Bytes>>) -> ImageBytes {
    Box::pin(stream::iter(chunks))
}

fn some_bytes() -> ImageBytes {
    bytes(vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))])
}

/// A first piece, and then nothing, without an end.
fn silent_bytes() -> ImageBytes {
    Box::pin(stream::iter([Ok(Bytes::from_static(b"abc"))]).chain(stream::pending()))
}

/// The one upload, once the other side has seen what came of it.
async fn uploaded(fake: &Fake) -> Seen {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut puts: Vec<Seen> = fake.seen().into_iter().filter(|seen| seen.is("PUT", FILE)).collect();
        assert!(puts.len() < 2, "sent twice");
        if let Some(seen) = puts.pop() {
            return seen;
        }
        assert!(std::time::Instant::now() < deadline, "nothing arrived");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn all_bytes_arrive_in_order_and_once() {
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);
    impl super::super::CallObserver for Told {
        fn called(&self, service: &'static str, call: &'static str, result: &'static str, _: Duration) {
            self.0.lock().unwrap().push(format!("{service} {call} {result}"));
        }
    }
    let told = Arc::new(Told::default());
    let fake = taken();
    let options = Options { observer: Some(told.clone()), ..options() };
    let cloud = OpenStack::new(config("http", &fake, "", None), options).unwrap();
    // One that is cut, one that is empty, many small ones.
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut chunks = vec![Ok(Bytes::from(large)), Ok(Bytes::new())];
    chunks.extend((0..2000_u32).map(|number| Ok(Bytes::from(number.to_string()))));
    let expected: Vec<u8> = chunks.iter().flatten().flat_map(|chunk| chunk.to_vec()).collect();
    cloud.upload_image("image-1", bytes(chunks)).await.unwrap();
    let seen = uploaded(&fake).await;
    assert!(seen.whole && seen.chunks == expected, "{} of {} bytes", seen.chunks.len(), expected.len());
    assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
    assert_eq!(seen.header("x-auth-token"), Some("token-0"));
    assert_eq!(*told.0.lock().unwrap(), ["identity login ok", "image get-image ok", "image upload-image ok"]);
}

#[tokio::test]
async fn an_empty_image_is_sent_as_such() {
    let fake = taken();
    cloud(&fake).upload_image("image-1", bytes(vec![])).await.unwrap();
    let seen = uploaded(&fake).await;
    assert!(seen.whole && seen.chunks.is_empty());
}

#[tokio::test]
async fn a_token_that_ended_is_found_before_any_byte_is_sent() {
    let fake = Fake::start(|seen| match (seen.method.as_str(), seen.path.as_str(), seen.before) {
        ("GET", IMAGE, 0) => Some(glance_faults(401, "This server could not verify you").first().unwrap().clone()),
        _ => script(Reply::Text(204, String::new()))(seen),
    });
    cloud(&fake).upload_image("image-1", some_bytes()).await.unwrap();
    assert_eq!(uploaded(&fake).await.header("x-auth-token"), Some("token-1"));
}

#[tokio::test]
async fn what_glance_refuses_is_a_refusal_and_sent_once() {
    let cases = [
        (409, "Image status transition from saving to saving is not allowed", ErrorClass::Conflict),
        (415, "Image disk_format qcow2 does not match stream data raw", ErrorClass::Invalid),
        (413, "Image exceeds the storage quota: The size of the data 9 will exceed the limit.", ErrorClass::Quota),
        (413, "Image storage media is full: There is not enough disk space", ErrorClass::NoCapacity),
        (401, "This server could not verify that you are authorized", ErrorClass::Auth),
        (404, "No image found with ID image-1", ErrorClass::NotFound),
    ];
    for (status, message, class) in cases {
        for reply in glance_faults(status, message) {
            let fake = waiting(reply);
            let error = cloud(&fake).upload_image("image-1", some_bytes()).await.unwrap_err();
            assert_eq!((error.class, error.message.as_str()), (class, message));
            assert!(uploaded(&fake).await.whole);
        }
    }
    let fake = waiting(Reply::Text(413, "<html>too large for this proxy</html>".into()));
    let error = cloud(&fake).upload_image("image-1", some_bytes()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid);
}

#[tokio::test]
async fn a_lost_answer_to_an_upload_is_unclear_and_it_is_sent_once() {
    for loss in losses() {
        let fake = waiting(loss.clone());
        let error = impatient(&fake).upload_image("image-1", some_bytes()).await.unwrap_err();
        assert_eq!((error.class, error.call), (ErrorClass::Unclear, "image upload-image"), "{loss:?}: {error}");
        assert!(uploaded(&fake).await.whole, "{loss:?}");
        assert_clean(&error);
    }
}

/// The other side must not take a part of an image for all of it.
#[tokio::test]
async fn bytes_that_end_in_an_error_abort_the_upload() {
    let fake = taken();
    let broken = std::io::Error::other("http://u:canary@h/image cannot be read");
    // More than is held back until there is more to send.
    let chunks = vec![Ok(Bytes::from(vec![7; 4 << 20])), Err(broken), Ok(Bytes::from_static(b"def"))];
    let error = cloud(&fake).upload_image("image-1", bytes(chunks)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unclear);
    assert!(error.message.contains("could not be read to their end"), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    assert!(!uploaded(&fake).await.whole);
}

#[tokio::test]
async fn bytes_that_stop_coming_end_the_upload() {
    let fake = taken();
    let start = std::time::Instant::now();
    let error = impatient(&fake).upload_image("image-1", silent_bytes()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unclear);
    assert!(error.message.contains("stood still"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    let seen = uploaded(&fake).await;
    assert!(!seen.whole && seen.chunks == b"abc");
}

/// Longer in all than the deadline on silence.
#[tokio::test]
async fn an_upload_that_goes_on_may_take_its_time() {
    let fake = taken();
    let slow = stream::iter(0..40).then(|number: u8| async move {
        tokio::time::sleep(Duration::from_millis(25)).await;
        Ok(Bytes::from(vec![number]))
    });
    let start = std::time::Instant::now();
    impatient(&fake).upload_image("image-1", Box::pin(slow)).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(900));
    assert_eq!(uploaded(&fake).await.chunks.len(), 40);
}

/// A connection that is read up to here, and then no further.
struct Deaf(TcpStream, usize);

impl Read for Deaf {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.1 == 0 {
            // As long as the process lives.
            loop {
                std::thread::park();
            }
        }
        let read = self.0.read(buffer)?;
        self.1 = self.1.saturating_sub(read);
        Ok(read)
    }
}

impl Write for Deaf {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[tokio::test]
async fn a_cloud_that_takes_no_bytes_any_more_ends_the_upload() {
    let deaf = Arc::new(|tcp| Box::new(Deaf(tcp, 100_000)) as Box<dyn super::fake::Stream>);
    let fake = Fake::start_with("http", deaf, script(Reply::Text(204, String::new())));
    let endless: ImageBytes = Box::pin(stream::repeat_with(|| Ok(Bytes::from(vec![0; 65536]))));
    let error = impatient(&fake).upload_image("image-1", endless).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unclear);
    assert!(error.message.contains("stood still"), "{error}");
}

/// Tells when nobody has the bytes any more.
struct Held(#[allow(dead_code, reason = "it only has to live as long as the bytes")] tokio::sync::oneshot::Sender<()>);

fn held_bytes(rest: ImageBytes) -> (ImageBytes, tokio::sync::oneshot::Receiver<()>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let held = Held(sender);
    let bytes = rest.inspect(move |_| {
        let _ = &held;
    });
    (Box::pin(bytes), receiver)
}

async fn let_go(receiver: tokio::sync::oneshot::Receiver<()>) {
    let waited = tokio::time::timeout(Duration::from_secs(20), receiver).await;
    assert!(waited.expect("the bytes are still held").is_err());
}

#[tokio::test]
async fn an_answer_before_the_last_byte_is_no_success_and_ends_the_upload() {
    for (status, class) in [(204, ErrorClass::Unclear), (409, ErrorClass::Unclear), (429, ErrorClass::Throttled)] {
        let fake = waiting(Reply::Early(status));
        let (bytes, held) = held_bytes(silent_bytes());
        let error = cloud(&fake).upload_image("image-1", bytes).await.unwrap_err();
        assert_eq!(error.class, class, "{status}: {error}");
        let_go(held).await;
        assert!(!uploaded(&fake).await.whole, "{status}");
    }
}

#[tokio::test]
async fn who_gives_an_upload_up_ends_it() {
    let fake = taken();
    let (bytes, held) = held_bytes(silent_bytes());
    let cloud = cloud(&fake);
    let given_up = tokio::time::timeout(Duration::from_millis(500), cloud.upload_image("image-1", bytes)).await;
    assert!(given_up.is_err());
    let_go(held).await;
    assert!(!uploaded(&fake).await.whole);
}

#[tokio::test]
async fn an_image_that_waits_for_nothing_is_sent_nothing() {
    for status in ["saving", "active", "deactivated", "killed"] {
        let image = glance_image("image-1", json!({"status": status}));
        let fake = Fake::start(move |seen| seen.is("GET", IMAGE).then(|| Reply::Json(200, image.clone())));
        let error = cloud(&fake).upload_image("image-1", some_bytes()).await.unwrap_err();
        assert_eq!((error.class, fake.count("PUT", FILE)), (ErrorClass::Conflict, 0), "{status}");
    }
    let gone = glance_faults(404, "No image found with ID image-1").first().unwrap().clone();
    let fake = Fake::start(move |seen| seen.is("GET", IMAGE).then(|| gone.clone()));
    let error = cloud(&fake).upload_image("image-1", some_bytes()).await.unwrap_err();
    assert_eq!((error.class, fake.count("PUT", FILE)), (ErrorClass::NotFound, 0));
}
