//! Source `url`: a file is fetched once, verified, unpacked and sent to all clouds that want it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stage::{BUILT, current, image, image_id, only, ours, rebuild, says, states, status};
use crate::support::{World, eventually};

/// A server of files that counts how often each was asked for.
#[derive(Clone, Default)]
pub struct Files {
    files: Arc<Vec<(&'static str, Vec<u8>)>>,
    downloads: Arc<AtomicUsize>,
    lost: Arc<AtomicBool>,
}

impl Files {
    pub async fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (Self, String) {
        let files = Self { files: Arc::new(files), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/{name}", get(file)).with_state(files.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (files, base)
    }

    fn downloads(&self) -> usize {
        self.downloads.load(Ordering::SeqCst)
    }

    /// Whether it knows no file from now on.
    fn lose(&self, lost: bool) {
        self.lost.store(lost, Ordering::SeqCst);
    }
}

async fn file(State(files): State<Files>, Path(name): Path<String>) -> impl IntoResponse {
    if !name.ends_with("SUMS") {
        files.downloads.fetch_add(1, Ordering::SeqCst);
    }
    let lost = files.lost.load(Ordering::SeqCst);
    match files.files.iter().find(|(known, _)| *known == name && !lost) {
        Some((_, bytes)) => (StatusCode::OK, bytes.clone()),
        None => (StatusCode::NOT_FOUND, Vec::new()),
    }
}

pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn source(url: String, checksum: Value) -> Value {
    json!({"url": {"url": url, "checksum": checksum, "format": "raw"}})
}

#[tokio::test]
async fn one_download_serves_two_providers() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    let disk = bytes(3_000_000);
    let (files, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    let spec = json!({"providers": ["a", "b"], "properties": {"team": "ci"}});
    image(&world, "ci", source(format!("{base}/disk.raw"), json!({"value": hex(&disk)})), spec).await;
    let versions = states(&world, "ci", &[ImageState::Ready; 2]).await;
    assert_eq!(files.downloads(), 1);
    for (cloud, version) in versions.iter().enumerate() {
        let made = &ours(&world, cloud).await[0];
        assert_eq!((&made["id"], &made["size"]), (&json!(image_id(version)), &json!(disk.len())));
        assert_eq!(version.spec.digest, Some(format!("sha256:{}", hex(&disk))));
    }
    world.condition::<DiskImage>("ci", "UpToDate", "True").await;
    world.empty().await;
}

#[tokio::test]
async fn a_compressed_file_named_in_a_list_is_unpacked_on_the_way() {
    let world = World::one_cloud(2).await;
    let disk = bytes(1_000_000);
    let mut packed = async_compression::tokio::bufread::GzipEncoder::new(&disk[..]);
    let mut file = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut packed, &mut file).await.unwrap();
    let list = format!("{}  other.raw\n{} *disk.raw.gz\n", hex(b"other"), hex(&file));
    let (_, base) = Files::serve(vec![("disk.raw.gz", file), ("SHA256SUMS", list.into_bytes())]).await;
    let mut source = source(format!("{base}/disk.raw.gz"), json!({"url": format!("{base}/SHA256SUMS")}));
    source["url"]["compression"] = json!("gz");
    image(&world, "ci", source, json!({"validation": {"boots": 0}})).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    assert_eq!(ours(&world, 0).await[0]["size"], json!(disk.len()));
}

#[tokio::test]
async fn a_file_that_is_not_what_was_promised_never_becomes_an_image() {
    let world = World::one_cloud(2).await;
    let disk = bytes(500_000);
    let (_, base) = Files::serve(vec![("disk.raw", disk)]).await;
    let wrong = json!({"value": hex(b"something else")});
    image(&world, "ci", source(format!("{base}/disk.raw"), wrong), json!({})).await;
    let version = states(&world, "ci", &[ImageState::Failed]).await.remove(0);
    assert_eq!(version.status.unwrap().fault.unwrap().reason, "ChecksumMismatch");
    only(&world, &[]).await;
    assert!(world.servers_ever().await.is_empty(), "nothing was tried");
}

#[tokio::test]
async fn what_cannot_be_fetched_is_told_with_what_to_do() {
    let world = World::one_cloud(1).await;
    let (_, base) =
        Files::serve(vec![("SHA256SUMS", format!("{}  other.raw\n{}  more.raw\n", hex(b"1"), hex(b"2")).into_bytes())])
            .await;
    let absent = source(format!("{base}/absent.raw"), json!({"value": "0".repeat(64)}));
    image(&world, "absent", absent, json!({})).await;
    let listed = source(format!("{base}/disk.raw"), json!({"url": format!("{base}/SHA256SUMS")}));
    image(&world, "unlisted", listed, json!({})).await;
    let told = world.reason::<DiskImage>("absent", "UpToDate", "BuildFailed").await;
    assert!(told["message"].as_str().unwrap().contains("404"), "{told}");
    let told = world.reason::<DiskImage>("unlisted", "UpToDate", "BuildFailed").await;
    assert!(told["message"].as_str().unwrap().contains("disk.raw"), "{told}");
}

#[tokio::test]
async fn an_unchanged_digest_makes_no_new_version() {
    let world = World::one_cloud(1).await;
    let disk = bytes(100_000);
    let (files, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    // Due every minute: the next run finds the same file.
    let spec = json!({"validation": {"boots": 0}, "refresh": {"schedule": "* * * * *", "jitter": "0s"}});
    image(&world, "ci", source(format!("{base}/disk.raw"), json!({"value": hex(&disk)})), spec).await;
    let version = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    // `lastBuildTime` follows the version: before it is told, the first look would pass for the second.
    let first = current(&world, "ci", &version).await["lastBuildTime"].clone();
    eventually(2 * BUILT, || async {
        let seen = status(&world, "ci").await;
        if seen["lastBuildTime"] == first { Err("not looked at again yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let versions = states(&world, "ci", &[ImageState::Ready]).await;
    assert_eq!(versions[0].name_any(), version.name_any());
    assert_eq!(files.downloads(), 1);
    // Asked for by a person it is made all the same.
    rebuild(&world, "ci", "now").await;
    let versions = states(&world, "ci", &[ImageState::Ready; 2]).await;
    current(&world, "ci", &versions[1]).await;
}

#[tokio::test]
async fn what_a_person_asks_for_is_not_forgotten_because_the_list_was_away() {
    let world = World::one_cloud(1).await;
    let disk = bytes(100_000);
    let list = format!("{}  disk.raw\n", hex(&disk)).into_bytes();
    let (files, base) = Files::serve(vec![("disk.raw", disk), ("SHA256SUMS", list)]).await;
    let listed = source(format!("{base}/disk.raw"), json!({"url": format!("{base}/SHA256SUMS")}));
    image(&world, "ci", listed, json!({"validation": {"boots": 0}})).await;
    let first = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    files.lose(true);
    rebuild(&world, "ci", "now").await;
    world.reason::<DiskImage>("ci", "UpToDate", "BuildFailed").await;
    says(&world, "ci", |seen| seen["rebuildRequestedAt"] == "now" && seen["rebuildPending"] == true).await;
    files.lose(false);
    // The file is the same: it is made because it was asked for.
    let versions = states(&world, "ci", &[ImageState::Ready; 2]).await;
    assert_ne!(versions[1].uid(), first.uid());
    current(&world, "ci", &versions[1]).await;
    says(&world, "ci", |seen| seen["rebuildPending"].is_null()).await;
}

#[tokio::test]
async fn a_provider_that_refuses_an_upload_holds_up_no_other() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    world.clouds[0].fault(json!({"call": "upload-image", "fault": {"type": "answer", "status": 413}})).await;
    let disk = bytes(2_000_000);
    let (_, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    let spec = json!({"providers": ["a", "b"], "validation": {"boots": 0}});
    image(&world, "ci", source(format!("{base}/disk.raw"), json!({"value": hex(&disk)})), spec).await;
    let versions = states(&world, "ci", &[ImageState::Failed, ImageState::Ready]).await;
    assert_eq!((versions[0].spec.provider.as_str(), versions[1].spec.provider.as_str()), ("a", "b"));
    eventually(BUILT, || async {
        let left = ours(&world, 0).await;
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    })
    .await;
    world.clouds[0].clear_faults().await;
    says(&world, "ci", |seen| seen["current"].is_string()).await;
}
