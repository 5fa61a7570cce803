//! Uploads to a simulated cloud, through the real client of the port.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_compression::tokio::bufread::GzipEncoder;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::server::{Reply, Server};
use super::*;
use crate::api::conditions::reason;
use crate::builder::SourceClass;
use crate::builder::checksum::{Algorithm, Digest};
use crate::builder::fetch::Fetcher;
use crate::builder::unpack::Compression;
use crate::builder::upload::{Observer, Progress, Source, Target, UploadError, Uploaded, upload};
use crate::cloud::openstack::{CloudConfig, OpenStack, Options};
use crate::cloud::{Cloud, ErrorClass, ImageStatus, NewImage, Ownership};
use crate::egress::Egress;
use crate::simulator::{self, Running, Settings};

const SOON: Duration = Duration::from_secs(20);

/// A cloud with empty images.
struct Stage {
    simulator: Running,
    targets: Vec<Target>,
}

impl Stage {
    async fn new(images: usize) -> Self {
        let simulator = simulator::serve(&Settings::default()).await.unwrap();
        let mut targets = Vec::new();
        for number in 0..images {
            // A client of its own for each, as for different Providers.
            let config = CloudConfig::from_yaml(simulator.clouds_yaml.as_bytes(), "simulator", None).unwrap();
            let provider = format!("ns/p{number}");
            let options = Options {
                requests_per_second: 1000.0,
                region: None,
                interface: None,
                provider_key: provider.clone(),
                owner: "me".to_owned(),
                observer: None,
                egress: Egress::loopback(),
            };
            let cloud: Arc<dyn Cloud> = Arc::new(OpenStack::new(config, options).unwrap());
            let image = NewImage {
                name: format!("image-{number}"),
                ownership: Ownership { owner: "me".to_owned(), record: "r".to_owned(), provider },
                disk_format: "raw",
                properties: Default::default(),
            };
            let image_id = cloud.create_image(&image).await.unwrap();
            targets.push(Target { name: format!("p{number}"), cloud, image_id, unwanted: CancellationToken::new() });
        }
        Self { simulator, targets }
    }

    async fn fault(&self, fault: Value) {
        let url = format!("{}/simulator/faults", self.simulator.url);
        reqwest::Client::new().post(url).json(&fault).send().await.unwrap().error_for_status().unwrap();
    }

    async fn upload(&self, source: &Source) -> Vec<Result<Uploaded, UploadError>> {
        upload(source, &self.targets, SOON, Box::new(|_| {})).await
    }

    async fn statuses(&self) -> Vec<ImageStatus> {
        let mut statuses = Vec::new();
        for target in &self.targets {
            statuses.push(target.cloud.get_image(&target.image_id).await.unwrap().status);
        }
        statuses
    }
}

fn source(server: &Server, promised: &str, compression: Option<Compression>) -> Source {
    Source::Url {
        fetcher: Fetcher::brisk(),
        url: server.url("/f"),
        digest: Digest::new(Algorithm::Sha256, promised).unwrap(),
        compression,
    }
}

fn serving(file: &[u8]) -> Server {
    let file = file.to_vec();
    Server::start(move |asked| Reply::file(&file, asked))
}

/// Everything that progress tells, in the end.
fn noted() -> (Observer, Arc<Mutex<Vec<Progress>>>) {
    let notes: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let taken = Arc::clone(&notes);
    (Box::new(move |progress| taken.lock().unwrap().push(progress)), notes)
}

/// A file of the test's own; gone with it.
struct Left(PathBuf);

impl Left {
    fn new(data: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("nodepool-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, data).unwrap();
        Self(path)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn one_download_fills_three_images() {
    let stage = Stage::new(3).await;
    let data = pattern(3 << 20);
    let mut packed = Vec::new();
    GzipEncoder::new(&data[..]).read_to_end(&mut packed).await.unwrap();
    let server = serving(&packed);
    let (observer, notes) = noted();
    let source = source(&server, &sha256(&packed), Some(Compression::Gz));
    let outcomes = upload(&source, &stage.targets, SOON, observer).await;
    let digest = Digest::new(Algorithm::Sha256, &sha256(&packed)).unwrap();
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), Uploaded { bytes: data.len() as u64, digest: digest.clone() });
    }
    for target in &stage.targets {
        let image = target.cloud.get_image(&target.image_id).await.unwrap();
        assert_eq!((image.status, image.size), (ImageStatus::Active, Some(data.len() as u64)));
    }
    assert_eq!(server.asked().len(), 1);
    let length = packed.len() as u64;
    assert_eq!(notes.lock().unwrap().last(), Some(&Progress { bytes: length, total: Some(length) }));
}

#[tokio::test]
async fn a_file_is_uploaded_with_its_digest() {
    let stage = Stage::new(1).await;
    let data = pattern(2_000_000);
    let left = Left::new(&data);
    let outcomes = stage.upload(&Source::File { path: left.0.clone() }).await;
    let digest = Digest::new(Algorithm::Sha256, &sha256(&data)).unwrap();
    assert_eq!(outcomes, [Ok(Uploaded { bytes: 2_000_000, digest })]);
}

#[tokio::test]
async fn a_wrong_digest_completes_no_upload() {
    let data = pattern(3 << 20);
    let mut packed = Vec::new();
    GzipEncoder::new(&data[..]).read_to_end(&mut packed).await.unwrap();
    for (file, compression) in [(&data, None), (&packed, Some(Compression::Gz)), (&b"tiny".to_vec(), None)] {
        let stage = Stage::new(2).await;
        let outcomes = stage.upload(&source(&serving(file), &sha256(b"other"), compression)).await;
        for outcome in outcomes {
            let Err(UploadError::Source(error)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(error.class, SourceClass::Mismatch);
            assert_eq!(UploadError::from(error).reason(), reason::BUILD_FAILED);
        }
        assert_eq!(stage.statuses().await, [ImageStatus::Queued; 2]);
    }
}

#[tokio::test]
async fn a_source_that_breaks_completes_no_upload() {
    let file = pattern(1 << 20);
    let digest = sha256(&file);
    let stage = Stage::new(2).await;
    let server = Server::start(move |asked| Reply::file(&file, asked).cut(900_000));
    let outcomes = stage.upload(&source(&server, &digest, None)).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.reason(), reason::TRANSIENT_ERROR);
        assert!(matches!(&error, UploadError::Source(error) if error.message.contains("broke off")), "{error}");
    }
    assert_eq!(stage.statuses().await, [ImageStatus::Queued; 2]);
}

#[tokio::test]
async fn a_source_that_cannot_be_opened_fails_all_alike() {
    let stage = Stage::new(2).await;
    let server = Server::start(|_| Reply::new(404, ""));
    for outcome in stage.upload(&source(&server, &sha256(b""), None)).await {
        assert_eq!(outcome.unwrap_err().reason(), reason::INVALID_CONFIGURATION);
    }
}

#[tokio::test]
async fn one_cloud_that_fails_takes_no_other_with_it() {
    let stage = Stage::new(3).await;
    let refuses = json!({"type": "answer", "status": 413, "message": "The image exceeds the quota."});
    stage.fault(json!({"call": "upload-image", "name": "image-1", "fault": refuses})).await;
    let data = pattern(1 << 20);
    let outcomes = stage.upload(&source(&serving(&data), &sha256(&data), None)).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(UploadError::Cloud(_))), "{outcomes:?}");
    let statuses = stage.statuses().await;
    assert_eq!(statuses, [ImageStatus::Active, ImageStatus::Queued, ImageStatus::Active]);
}

#[tokio::test]
async fn an_image_that_is_gone_fails_alone() {
    let stage = Stage::new(2).await;
    stage.targets[0].cloud.delete_image(&stage.targets[0].image_id).await.unwrap();
    let data = pattern(100_000);
    let outcomes = stage.upload(&source(&serving(&data), &sha256(&data), None)).await;
    let Err(UploadError::Cloud(error)) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(error.class, ErrorClass::NotFound);
    assert!(outcomes[1].is_ok());
}

#[tokio::test]
async fn a_lost_answer_is_no_lost_image() {
    let stage = Stage::new(1).await;
    stage.fault(json!({"call": "upload-image", "fault": {"type": "cut", "effect": true}})).await;
    let data = pattern(100_000);
    let outcomes = stage.upload(&source(&serving(&data), &sha256(&data), None)).await;
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
}

#[tokio::test]
async fn a_lost_upload_is_told_at_once() {
    let stage = Stage::new(1).await;
    stage.fault(json!({"call": "upload-image", "fault": {"type": "cut"}})).await;
    let data = pattern(100_000);
    let outcomes = stage.upload(&source(&serving(&data), &sha256(&data), None)).await;
    let Err(UploadError::Cloud(error)) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(error.class, ErrorClass::Unclear);
}

#[tokio::test]
async fn an_image_that_stays_saving_is_given_up() {
    let stage = Stage::new(1).await;
    stage.fault(json!({"call": "upload-image", "fault": {"type": "image-stuck", "status": "saving"}})).await;
    let data = pattern(100_000);
    let source = source(&serving(&data), &sha256(&data), None);
    let outcomes = upload(&source, &stage.targets, Duration::from_secs(1), Box::new(|_| {})).await;
    let error = outcomes.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, UploadError::NotActive { status: Some(ImageStatus::Saving), .. }), "{error}");
    assert!(error.to_string().contains("still being saved"), "{error}");
}

#[tokio::test]
async fn looks_that_fail_in_passing_are_looked_again() {
    let stage = Stage::new(1).await;
    // More often than the client itself tries again; it has a look of its own before it sends anything.
    let away = json!({"type": "answer", "status": 503});
    stage.fault(json!({"call": "show-image", "skip": 1, "times": 4, "fault": away})).await;
    let data = pattern(100_000);
    let outcomes = stage.upload(&source(&serving(&data), &sha256(&data), None)).await;
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
}

#[tokio::test]
async fn files_that_can_be_no_image_are_told() {
    let stage = Stage::new(1).await;
    let empty = Left::new(b"");
    for (path, expected) in [
        (empty.0.clone(), "is empty"),
        (std::env::temp_dir(), "is a directory"),
        (PathBuf::from("/dev/null"), "no regular file"),
        (PathBuf::from("/nowhere/image.raw"), "there is no file /nowhere/image.raw"),
    ] {
        let error = stage.upload(&Source::File { path }).await.remove(0).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.reason(), reason::INVALID_CONFIGURATION);
    }
    assert_eq!(stage.statuses().await, [ImageStatus::Queued]);
}

#[tokio::test]
async fn a_file_that_is_still_written_is_told() {
    let left = Left::new(&pattern(4 << 20));
    let (mut chunks, length) = crate::builder::file::open(&left.0).await.unwrap();
    assert_eq!(length, 4 << 20);
    chunks.try_next().await.unwrap().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&left.0).unwrap();
    std::io::Write::write_all(&mut file, b"more").unwrap();
    assert!(all(chunks).await.unwrap_err().message.contains("changed while it was read"));
    let (mut chunks, _) = crate::builder::file::open(&left.0).await.unwrap();
    chunks.try_next().await.unwrap().unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(all(chunks).await.unwrap_err().message.contains("changed while it was read"));
}
