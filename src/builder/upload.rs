//! Uploads one source to several clouds at the same time.
//!
//! The images exist already, empty; this fills them and waits until they can be used. It decides whether an image in a
//! cloud is whole: the source was what it was said to be, all of it was taken, and the cloud has as many bytes as were
//! sent. One cloud that fails takes no other with it. It never makes or deletes an image, and never tries again.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::{Shared, join_all};
use futures::{FutureExt, StreamExt, stream};
use reqwest::Url;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::checksum::{self, Algorithm, Digest};
use super::fan_out::{Branch, Fate, Poured, fan_out};
use super::fetch::Fetcher;
use super::unpack::{Compression, unpack};
use super::{Chunks, SourceClass, SourceError, file};
use crate::api::conditions::reason;
use crate::cloud::{Cloud, CloudError, ErrorClass, ImageStatus};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// Pauses between looks at an image that is not active yet.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file on a server.
    Url {
        /// Who asks for it.
        fetcher: Fetcher,
        /// Its address.
        url: Url,
        /// What it must have, as it is downloaded.
        digest: Digest,
        /// How it is compressed, if it is.
        compression: Option<Compression>,
    },
    /// A file of this machine.
    File {
        /// Its path.
        path: PathBuf,
    },
}

/// An empty image in a cloud.
#[derive(Clone)]
pub struct Target {
    /// What the log calls it.
    pub name: String,
    /// The cloud.
    pub cloud: Arc<dyn Cloud>,
    /// The image's id there.
    pub image_id: String,
    /// Nobody wants it any more: nothing more is sent.
    pub unwanted: CancellationToken,
}

/// How far the source was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes, as they come from the source.
    pub bytes: u64,
    /// How many there are, if the source says.
    pub total: Option<u64>,
}

/// Is told of progress, at most once a second and at the end.
pub type Observer = Box<dyn FnMut(Progress) + Send>;

/// An image that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// How many bytes the image has.
    pub bytes: u64,
    /// The digest of the source, before anything was uncompressed.
    pub digest: Digest,
}

/// Why an image is not whole, or not known to be. Such an image is to be deleted, whatever its status says: a cloud may
/// take an upload that broke for one that ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The source failed; so it is for every cloud that had not failed before.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The cloud refused.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The cloud stopped taking bytes.
    #[error("the cloud took no bytes of the image for two minutes")]
    Stalled,
    /// The cloud was content before it had everything.
    #[error("the cloud answered before it had the whole image")]
    Cut,
    /// Somebody deleted the image.
    #[error("the image is no longer there: somebody deleted it")]
    Gone,
    /// Something was lost on the way.
    #[error("the cloud has {has} bytes of the image where {sent} were sent")]
    Size {
        /// What was sent.
        sent: u64,
        /// What the cloud says that it has.
        has: u64,
    },
    /// The cloud has everything, and does not get on with it.
    #[error("the image is {} after {} s", .status.map_or("not to be seen", word), .after.as_secs())]
    NotActive {
        /// What it is instead, when the last look could tell.
        status: Option<ImageStatus>,
        /// How long was waited.
        after: Duration,
    },
}

impl UploadError {
    /// The word of [`reason`] for it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => match error.class {
                SourceClass::NotFound | SourceClass::Denied | SourceClass::Invalid => reason::INVALID_CONFIGURATION,
                SourceClass::Mismatch => reason::BUILD_FAILED,
                SourceClass::Unavailable => reason::TRANSIENT_ERROR,
            },
            Self::Cloud(error) => match error.class {
                ErrorClass::Auth => reason::AUTHENTICATION_FAILED,
                ErrorClass::Quota => reason::QUOTA_EXCEEDED,
                ErrorClass::Throttled => reason::RATE_LIMITED,
                ErrorClass::Invalid => reason::INVALID_CONFIGURATION,
                ErrorClass::Unavailable | ErrorClass::Unclear => reason::CLOUD_UNREACHABLE,
                ErrorClass::NotFound | ErrorClass::NoCapacity | ErrorClass::Conflict => reason::TRANSIENT_ERROR,
            },
            Self::Stalled | Self::Cut | Self::Gone | Self::Size { .. } | Self::NotActive { .. } => {
                reason::TRANSIENT_ERROR
            }
        }
    }
}

const fn word(status: ImageStatus) -> &'static str {
    match status {
        ImageStatus::Queued => "still queued",
        ImageStatus::Saving => "still being saved",
        ImageStatus::Active => "active",
        ImageStatus::Deactivated => "deactivated",
        ImageStatus::Gone => "gone",
    }
}

/// Reads the source once and fills all images with it; returns when each is usable or has failed, in their order.
/// An image must be active within `active_within` of its last byte. Dropped before, no image becomes whole.
pub async fn upload(
    source: &Source,
    targets: &[Target],
    active_within: Duration,
    progress: Observer,
) -> Vec<Result<Uploaded, UploadError>> {
    let (chunks, digest) = match source.open(progress).await {
        Ok(opened) => opened,
        Err(error) => return targets.iter().map(|_| Err(error.clone().into())).collect(),
    };
    let (fan, branches) = fan_out(targets.len());
    let poured = fan.pour(chunks).map(Arc::new).boxed().shared();
    let fills = targets.iter().zip(branches).enumerate().map(|(place, (target, branch))| {
        let digest = &digest;
        let fill = fill(target, branch, place, poured.clone(), active_within);
        async move {
            let bytes = fill.await?;
            // Known since the source ended, which it did well, or nothing would be whole.
            let digest = digest.get().cloned().ok_or(UploadError::Cut)?;
            Ok(Uploaded { bytes, digest })
        }
    });
    join_all(fills).await
}

impl Source {
    /// The bytes of the image, and the digest of what they were made from, known at their end at the latest.
    async fn open(&self, progress: Observer) -> Result<(Chunks, Arc<OnceLock<Digest>>), SourceError> {
        let found = Arc::<OnceLock<Digest>>::default();
        match self {
            Self::Url { fetcher, url, digest, compression } => {
                let _ = found.set(digest.clone());
                let fetched = fetcher.open(url).await?;
                let counted = counted(fetched.bytes, fetched.length, progress);
                Ok((unpack(checksum::verified(counted, digest.clone()), *compression), found))
            }
            Self::File { path } => {
                let (bytes, length) = file::open(path).await?;
                let note = Arc::clone(&found);
                let judge = move |digest| {
                    let _ = note.set(digest);
                    Ok(())
                };
                Ok((checksum::judged(counted(bytes, Some(length), progress), Algorithm::Sha256, judge), found))
            }
        }
    }
}

/// Passes bytes on, and tells how many.
fn counted(chunks: Chunks, total: Option<u64>, progress: Observer) -> Chunks {
    let start = (chunks, progress, Progress { bytes: 0, total }, Instant::now());
    stream::unfold(start, |(mut chunks, mut progress, mut so_far, mut told)| async move {
        let next = chunks.next().await;
        match &next {
            Some(Ok(chunk)) => {
                so_far.bytes += chunk.len() as u64;
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    progress(so_far);
                }
            }
            Some(Err(_)) | None => progress(so_far),
        }
        Some((next?, (chunks, progress, so_far, told)))
    })
    .boxed()
}

/// Fills one image and waits until it is active; returns its size.
async fn fill(
    target: &Target,
    branch: Branch,
    place: usize,
    poured: Shared<impl Future<Output = Arc<Poured>>>,
    active_within: Duration,
) -> Result<u64, UploadError> {
    let leave = branch.leave();
    let sending = async {
        tokio::select! {
            sent = target.cloud.upload_image(&target.image_id, Box::pin(branch)) => sent,
            () = target.unwanted.cancelled() => Err(given_up()),
        }
    }
    .inspect(|_| leave.cancel());
    // Whoever is polled drives the source for all.
    let (sent, poured) = tokio::join!(sending, poured);
    let fate = poured.fates.get(place).copied().unwrap_or(Fate::Left);
    let unclear = match (fate, sent) {
        (Fate::Stalled, _) => return Err(UploadError::Stalled),
        (Fate::Cut, sent) => return Err(cut(&poured, sent)),
        (Fate::Left, Ok(())) => return Err(UploadError::Cut),
        (Fate::Served, Ok(())) => None,
        // It has everything, and only its answer got lost.
        (Fate::Served, Err(error)) if error.class == ErrorClass::Unclear => Some(error),
        (Fate::Left | Fate::Served, Err(error)) => return Err(error.into()),
    };
    let bytes = poured.outcome.clone()?;
    active(target, bytes, active_within, unclear).await?;
    Ok(bytes)
}

fn given_up() -> CloudError {
    CloudError {
        class: ErrorClass::Unclear,
        call: "image upload-image",
        message: "given up: nobody wants the image any more".to_owned(),
        retry_after: None,
        request_id: None,
    }
}

/// The source's error, or the cloud's own when there is none.
fn cut(poured: &Poured, sent: Result<(), CloudError>) -> UploadError {
    match (&poured.outcome, sent) {
        (Err(error), _) => error.clone().into(),
        (Ok(_), Err(error)) => error.into(),
        (Ok(_), Ok(())) => UploadError::Cut,
    }
}

/// Waits until an image is active with as many bytes as were sent.
async fn active(target: &Target, sent: u64, within: Duration, unclear: Option<CloudError>) -> Result<(), UploadError> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let (status, wait) = match target.cloud.get_image(&target.image_id).await {
            Ok(image) => match (image.status, &unclear) {
                (ImageStatus::Active, _) => return whole(sent, image.size),
                (ImageStatus::Gone, _) => return Err(UploadError::Gone),
                (ImageStatus::Deactivated, _) => {
                    return Err(UploadError::NotActive { status: Some(image.status), after: start.elapsed() });
                }
                // The cloud gave up what it had been sent.
                (ImageStatus::Queued, Some(error)) => return Err(error.clone().into()),
                (ImageStatus::Queued | ImageStatus::Saving, _) => (Some(image.status), None),
            },
            Err(error) => match error.class {
                ErrorClass::NotFound => return Err(UploadError::Gone),
                ErrorClass::Auth | ErrorClass::Invalid => return Err(error.into()),
                ErrorClass::Throttled
                | ErrorClass::Quota
                | ErrorClass::NoCapacity
                | ErrorClass::Conflict
                | ErrorClass::Unavailable
                | ErrorClass::Unclear => (None, error.retry_after),
            },
        };
        let wait = wait.unwrap_or_default().max(pause);
        if start.elapsed() + wait > within {
            return Err(UploadError::NotActive { status, after: start.elapsed() });
        }
        sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A cloud that tells no size is believed: a trial boot shows what its image is worth.
fn whole(sent: u64, has: Option<u64>) -> Result<(), UploadError> {
    match has {
        Some(has) if has != sent => Err(UploadError::Size { sent, has }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_once_a_second_and_at_the_end() {
        for failure in [None, Some(SourceError::unavailable("broke off"))] {
            let notes: Arc<Mutex<Vec<Progress>>> = Arc::default();
            let taken = Arc::clone(&notes);
            let slow = stream::iter(0..105).then(|_| async {
                sleep(Duration::from_millis(100)).await;
                Ok(Bytes::from_static(b"0123456789"))
            });
            let chunks = slow.chain(stream::iter(failure.map(Err))).boxed();
            let passed = counted(chunks, Some(1050), Box::new(move |progress| taken.lock().unwrap().push(progress)));
            let _ = passed.try_for_each(|_| async { Ok(()) }).await;
            let notes = notes.lock().unwrap();
            let told: Vec<u64> = notes.iter().map(|progress| progress.bytes).collect();
            assert_eq!(told, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1050]);
            assert!(notes.iter().all(|progress| progress.total == Some(1050)));
        }
    }

    #[test]
    fn an_image_of_another_size_is_not_whole() {
        assert_eq!(whole(5, Some(5)), Ok(()));
        assert_eq!(whole(5, None), Ok(()));
        let error = whole(5, Some(4)).unwrap_err();
        assert_eq!(error.to_string(), "the cloud has 4 bytes of the image where 5 were sent");
    }
}
