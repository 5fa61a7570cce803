//! Source `url`: one download, streamed into all the clouds that want it; and what every way of making an image ends
//! with, the wait until the cloud has it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kube::ResourceExt;
use reqwest::Url;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::index::Key;
use super::super::provider::Connection;
use super::super::{Arrival, Engine};
use super::snapshot::refused;
use super::work::{self, News, fault, tell};
use super::{Work, work::Work as Making};
use crate::api::conditions::reason;
use crate::api::disk_image::{ChecksumAlgorithm, DiskFormat, UrlSource};
use crate::api::provider_image::ImageFault;
use crate::api::{DiskImage, ProviderImage};
use crate::builder::checksum::{Algorithm, Digest};
use crate::builder::fetch::Fetcher;
use crate::builder::unpack::Compression;
use crate::builder::upload::{Progress, Source, Target, UploadError, upload};
use crate::builder::{SourceClass, SourceError};
use crate::cloud::{Cloud, ErrorClass, ImageStatus, NewImage, Ownership, ServerStatus};
use crate::ops::lease::LeaderGuard;

/// First and longest pause between two looks at an image that is not active yet.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// How many looks in a row must say that an image is never to be complete: one may be a hiccup.
const ENOUGH: u32 = 2;

/// The image that a version becomes.
pub(super) fn image_to_make(
    image: &DiskImage,
    version: &ProviderImage,
    ownership: Ownership,
    disk_format: &'static str,
) -> NewImage {
    NewImage {
        name: format!("{}-{}", version.spec.disk_image, version.spec.version),
        ownership,
        disk_format,
        properties: image.spec.properties.clone(),
    }
}

/// Glance's word for a format.
pub(super) const fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
        DiskFormat::Vmdk => "vmdk",
        DiskFormat::Vhd => "vhd",
        DiskFormat::Vhdx => "vhdx",
        DiskFormat::Vdi => "vdi",
    }
}

/// The word for people for how a file could not be had.
pub const fn fetch_reason(class: SourceClass) -> &'static str {
    match class {
        SourceClass::NotFound | SourceClass::Denied | SourceClass::Unavailable => reason::DOWNLOAD_FAILED,
        SourceClass::Invalid => reason::INVALID_CONFIGURATION,
        SourceClass::Mismatch => reason::CHECKSUM_MISMATCH,
    }
}

/// An address as it is written in a spec.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<Url, SourceError> {
    text.parse().map_err(|_| SourceError {
        class: SourceClass::Invalid,
        message: "write an address such as https://images.example.org/image.qcow2".to_owned(),
    })
}

/// How a digest is computed.
#[must_use]
pub const fn algorithm(wanted: ChecksumAlgorithm) -> Algorithm {
    match wanted {
        ChecksumAlgorithm::Sha256 => Algorithm::Sha256,
        ChecksumAlgorithm::Sha512 => Algorithm::Sha512,
    }
}

const fn compression(wanted: crate::api::disk_image::Compression) -> Compression {
    use crate::api::disk_image::Compression as Wanted;
    match wanted {
        Wanted::Gz => Compression::Gz,
        Wanted::Xz => Compression::Xz,
        Wanted::Zst => Compression::Zst,
        Wanted::Bz2 => Compression::Bz2,
    }
}

/// Works for a version beside the engine, until it is done or nobody waits for it any more.
pub(super) fn spawn(
    engine: &mut Engine,
    key: &Key,
    uid: &str,
    work: impl Future<Output = Result<(), ImageFault>> + Send + 'static,
) {
    let Some(cancel) = engine.memory.works.works.get(uid).map(|work| work.cancel.clone()) else { return };
    let (key, uid) = (key.clone(), uid.to_owned());
    engine.spawn(async move {
        let ended = tokio::select! {
            ended = work => Some(ended),
            () = cancel.cancelled() => None,
        };
        move |engine: &mut Engine| match ended {
            Some(Ok(())) => tell(engine, &key, &uid, News::Made),
            Some(Err(fault)) => tell(engine, &key, &uid, News::Failed(fault)),
            None => {}
        }
    });
}

/// Waits until the cloud has the whole image. Its end is the version's deadline, or the cloud's word that it failed.
///
/// Of a snapshot, its server tells whether the cloud is still at it: Nova sets it free when a snapshot ended in whatever
/// way, and cannot take the image back when it is the image service that was away.
pub(super) async fn await_active(cloud: &dyn Cloud, id: &str, snapshot_of: Option<&str>) -> Result<(), ImageFault> {
    let mut pause = FIRST_LOOK;
    let (mut not_found, mut left) = (0, 0);
    loop {
        // Before the image: a snapshot's image is active before its server is free.
        left = match snapshot_of {
            Some(server) if is_left(cloud, server).await => left + 1,
            _ => 0,
        };
        match cloud.get_image(id).await {
            Ok(image) if image.status == ImageStatus::Active => return Ok(()),
            Ok(image) if image.status == ImageStatus::Gone => return Err(lost()),
            Err(error) if error.class == ErrorClass::NotFound => {
                not_found += 1;
                // Nova deletes the image of a snapshot that fails.
                if not_found >= ENOUGH {
                    return Err(lost());
                }
            }
            Ok(_) if left >= ENOUGH => {
                return Err(fault(reason::IMAGE_LOST, "the cloud ended the snapshot before it was whole"));
            }
            Ok(_) => not_found = 0,
            // It is asked again: what the cloud cannot tell now says nothing of the image.
            Err(error) => tracing::info!(image = id, %error, "image could not be looked at"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

/// Whether nobody works at a snapshot of this server any more, which was stopped for it.
async fn is_left(cloud: &dyn Cloud, server: &str) -> bool {
    match cloud.get_server(server).await {
        Ok(server) => matches!(server.status, ServerStatus::Stopped | ServerStatus::Deleted),
        Err(error) => error.class == ErrorClass::NotFound,
    }
}

fn lost() -> ImageFault {
    fault(reason::IMAGE_LOST, "the cloud gave the image up before it was complete")
}

/// Takes over a version whose image another process had begun, and which the cloud completes (rule 14).
pub(super) fn resume(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let Some(uid) = version.uid() else { return };
    let Some(status) = &version.status else { return };
    let Some(connection) = engine.connections.get(&key.sibling(&version.spec.provider)) else {
        // Its deadline runs on.
        return engine.wake_in(FIRST_LOOK, super::Mark::ProviderImage(key.clone()));
    };
    let (cloud, Some(id)) = (Connection::cloud(connection), status.image_id.clone()) else { return };
    let server = status.server_id.clone();
    tracing::info!(version = %key, image = id, "taking over what another process had begun");
    let work = Making { image_id: Some(id.clone()), uploading: true, ..Making::new(Work::Running) };
    engine.memory.works.begin(uid.clone(), work);
    spawn(engine, key, &uid, async move { await_active(&*cloud, &id, server.as_deref()).await });
}

/// One version that a download is for.
struct Member {
    key: Key,
    uid: String,
    cloud: Arc<dyn Cloud>,
    image: NewImage,
    unwanted: CancellationToken,
    guard: LeaderGuard,
}

/// Downloads once, for all these versions of one image.
pub fn start(engine: &mut Engine, image: &DiskImage, versions: &[Arc<ProviderImage>]) {
    let Some(wanted) = image.spec.source.url.clone() else { return };
    let format = format_name(wanted.format);
    let mut members = Vec::new();
    for version in versions {
        let key = Key::of(&**version);
        let uid = version.uid().unwrap_or_default();
        let Some(connection) = engine.connections.get(&key.sibling(&version.spec.provider)) else {
            tell(engine, &key, &uid, News::Failed(not_connected(&version.spec.provider)));
            continue;
        };
        let Some(unwanted) = engine.memory.works.works.get(&uid).map(|work| work.cancel.clone()) else { continue };
        let image = image_to_make(image, version, connection.ownership(&uid), format);
        let (cloud, guard) = (Connection::cloud(connection), engine.setup.guard.clone());
        members.push(Member { key, uid, cloud, image, unwanted, guard });
    }
    let digest = versions.iter().find_map(|version| version.spec.digest.clone()).unwrap_or_default();
    let report = engine.sender();
    let active_within = image.spec.build_timeout.as_std();
    let fetcher = engine.setup.fetcher.clone();
    engine.spawn(async move {
        match source(fetcher, &wanted, &digest) {
            Ok(source) => deliver(members, &source, active_within, &report).await,
            Err(error) => {
                members.iter().for_each(|member| member.tell(&report, News::Failed(why(&error.clone().into()))))
            }
        }
        |_: &mut Engine| {}
    });
}

/// `digest` is as a record has it: `sha256:…`.
fn source(fetcher: Fetcher, wanted: &UrlSource, digest: &str) -> Result<Source, SourceError> {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    Ok(Source::Url {
        fetcher,
        url: address(&wanted.url)?,
        digest: Digest::new(algorithm(wanted.checksum.algorithm), hex)?,
        compression: wanted.compression.map(compression),
    })
}

pub(super) fn not_connected(provider: &str) -> ImageFault {
    fault(reason::PROVIDER_NOT_READY, format!("the Provider {provider} is not connected any more"))
}

impl Member {
    /// Makes the empty image; an answer that got lost is not asked for again, and what came of it is removed.
    async fn create(&self) -> Result<String, ImageFault> {
        if !self.guard.is_current() || self.unwanted.is_cancelled() {
            return Err(fault(reason::INTERRUPTED, "nobody wants it any more, or this replica does not lead any more"));
        }
        let made = self.cloud.create_image(&self.image).await;
        made.map_err(|error| refused("the image could not be made", &error))
    }

    fn tell(&self, report: &(impl Fn(Arrival) + ?Sized), news: News) {
        let (key, uid) = (self.key.clone(), self.uid.clone());
        report(Box::new(move |engine: &mut Engine| tell(engine, &key, &uid, news)));
    }
}

async fn deliver(
    members: Vec<Member>,
    source: &Source,
    active_within: Duration,
    report: &(impl Fn(Arrival) + Send + Clone + Sync + 'static),
) {
    let made = join_all(members.iter().map(Member::create)).await;
    let mut ready = Vec::new();
    for (member, answer) in members.into_iter().zip(made) {
        match answer {
            Ok(id) => {
                member.tell(report, News::Image(id.clone()));
                member.tell(report, News::Uploading);
                ready.push((member, id));
            }
            Err(fault) => member.tell(report, News::Failed(fault)),
        }
    }
    if ready.is_empty() {
        return;
    }
    let targets: Vec<Target> = ready
        .iter()
        .map(|(member, id)| Target {
            name: member.key.to_string(),
            cloud: Arc::clone(&member.cloud),
            image_id: id.clone(),
            unwanted: member.unwanted.clone(),
        })
        .collect();
    let members: Arc<Vec<Member>> = Arc::new(ready.into_iter().map(|(member, _)| member).collect());
    let (told, report_progress) = (Arc::clone(&members), report.clone());
    let progress = Box::new(move |progress: Progress| {
        told.iter().for_each(|member| member.tell(&report_progress, News::Progress(progress.bytes, progress.total)));
    });
    let ended = upload(source, &targets, active_within, progress).await;
    for (member, answer) in members.iter().zip(ended) {
        match answer {
            Ok(_) => member.tell(report, News::Made),
            Err(error) => member.tell(report, News::Failed(why(&error))),
        }
    }
}

fn why(error: &UploadError) -> ImageFault {
    let reason = match error {
        UploadError::Source(error) => fetch_reason(error.class),
        _ => reason::UPLOAD_FAILED,
    };
    work::fault(reason, error.to_string())
}
