//! The uploader: the program that runs beside whatever builds an image in a pod, and takes what it left to the clouds.
//!
//! The operator writes what it is to do ([`JobTarget`]) and reads what came of it ([`JobResult`]) from the container's
//! termination message. Each cloud is for itself: one that fails takes no other with it. An image that did not
//! become whole is deleted again; one that did is never touched. It tries nothing twice: when to try again is decided by
//! whoever started it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::file;
use super::upload::{Observer, Progress, Source, Target, UploadError, upload};
use crate::api::conditions::reason;
use crate::cloud::openstack::{CloudConfig, Interface, OpenStack, Options};
use crate::cloud::{Cloud, CloudError, ErrorClass, ImageStatus, NewImage, Ownership};
use crate::egress::Egress;

/// Where Kubernetes looks for what a container has to say.
pub const RESULT_PATH: &str = "/dev/termination-log";
/// Kubernetes keeps no more of a termination message.
const LONGEST_RESULT: usize = 4096;
/// The longest account of one failure.
const LONGEST_ERROR: usize = 512;
/// An upload needs a handful of calls.
const REQUESTS_PER_SECOND: f64 = 5.0;
/// How often progress is logged.
const LOG: Duration = Duration::from_secs(15);
/// How long deleting may take once the pod is told to end: it has 30 s by default.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// One cloud that gets the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobTarget {
    /// The Provider's name, by which the result speaks of it.
    pub provider: String,
    /// The cloud's name in the clouds.yaml.
    pub cloud_name: String,
    /// Where the Provider's Secret is mounted: `clouds.yaml`, and `cacert` if there is one.
    pub clouds_directory: PathBuf,
    /// Wins over the clouds.yaml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Wins over the clouds.yaml: `public`, `internal` or `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The image to make.
    pub image: JobImage,
}

/// An image to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobImage {
    /// Its name.
    pub name: String,
    /// The installation (rule 10).
    pub owner: String,
    /// The uid of the record it is made for (rule 10).
    pub record: String,
    /// `namespace/name` of the Provider.
    pub provider: String,
    /// Further properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// What came of one cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum JobResult {
    /// The image is whole and active.
    Made {
        /// The Provider's name.
        provider: String,
        /// The image's id.
        #[serde(rename = "imageID")]
        image_id: String,
    },
    /// There is no image.
    Failed {
        /// The Provider's name.
        provider: String,
        /// What happened, in a sentence.
        error: String,
        /// A word of [`reason`].
        reason: String,
    },
}

/// What the uploader is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// What the build left.
    pub file: PathBuf,
    /// The disk's format, in Glance's word.
    pub format: &'static str,
    /// The clouds.
    pub targets: Vec<JobTarget>,
    /// Where the result is written.
    pub result: PathBuf,
    /// How long an image may take to become active after its last byte.
    pub active_within: Duration,
    /// Where clouds may be.
    pub egress: Egress,
}

/// A failure, as a result tells it.
struct Failure {
    error: String,
    reason: &'static str,
}

impl Failure {
    fn new(reason: &'static str, error: impl Into<String>) -> Self {
        Self { error: error.into(), reason }
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        UploadError::Cloud(error).into()
    }
}

/// Reads a disk's format.
///
/// # Errors
/// A sentence, when it is none that clouds know.
pub fn disk_format(word: &str) -> Result<&'static str, String> {
    const KNOWN: [&str; 6] = ["qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi"];
    let known = KNOWN.into_iter().find(|known| *known == word);
    known.ok_or_else(|| format!("write one of {}", KNOWN.join(", ")))
}

/// Reads the list of targets: JSON, as [`JobTarget`] has it.
///
/// # Errors
/// A sentence that says where the list is wrong.
pub fn targets(json: &str) -> Result<Vec<JobTarget>, String> {
    match serde_json::from_str::<Vec<JobTarget>>(json) {
        Ok(targets) if !targets.is_empty() => Ok(targets),
        Ok(_) => Err("name at least one target".to_owned()),
        Err(error) => Err(format!("not a JSON list of targets: {error}")),
    }
}

/// Uploads, writes the result, and returns whether all clouds have the image and the result could be written.
pub async fn run(order: &Order, stop: CancellationToken) -> bool {
    let outcomes = match file::open(&order.file).await {
        Ok(_) => to_all(order, stop).await,
        // No image is made for nothing.
        Err(error) => {
            let failed = |_: &JobTarget| Err(UploadError::from(error.clone()).into());
            order.targets.iter().map(failed).collect()
        }
    };
    let results: Vec<JobResult> = order.targets.iter().zip(outcomes).map(told).collect();
    let all = results.iter().all(|result| matches!(result, JobResult::Made { .. }));
    match tokio::fs::write(&order.result, fitted(&results)).await {
        Ok(()) => all,
        Err(error) => {
            error!(path = %order.result.display(), error = %error.kind(), "the result cannot be written");
            false
        }
    }
}

fn told((target, outcome): (&JobTarget, Result<String, Failure>)) -> JobResult {
    let provider = target.provider.clone();
    match outcome {
        Ok(image_id) => {
            info!(provider, image = image_id, "uploaded");
            JobResult::Made { provider, image_id }
        }
        Err(Failure { error, reason }) => {
            error!(provider, reason, error, "not uploaded");
            JobResult::Failed { provider, error, reason: reason.to_owned() }
        }
    }
}

/// Makes an image in every cloud that can be reached, fills them, and deletes those that did not become whole.
async fn to_all(order: &Order, stop: CancellationToken) -> Vec<Result<String, Failure>> {
    let prepared = join_all(order.targets.iter().map(|target| prepare(target, order))).await;
    let targets: Vec<Target> = prepared.iter().filter_map(|target| target.as_ref().ok()).cloned().collect();
    let source = Source::File { path: order.file.clone() };
    let filled = tokio::select! {
        filled = upload(&source, &targets, order.active_within, log()) => {
            filled.into_iter().map(|outcome| outcome.map(drop).map_err(Failure::from)).collect()
        }
        () = stop.cancelled() => {
            let stopped = |_: &Target| Err(Failure::new(reason::TRANSIENT_ERROR, "told to stop before it was over"));
            targets.iter().map(stopped).collect::<Vec<_>>()
        }
    };
    let failed = targets.iter().zip(&filled).filter(|(_, outcome)| outcome.is_err()).map(|(target, _)| target);
    let cleaned = join_all(failed.map(remove));
    if !stop.is_cancelled() {
        cleaned.await;
    } else if timeout(CLEAN_UP, cleaned).await.is_err() {
        warn!("images that did not become whole stay behind: there was no time to delete them");
    }
    let mut filled = filled.into_iter();
    let outcome = |target: Result<Target, Failure>| {
        let target = target?;
        filled.next().map_or(Ok(()), |outcome| outcome)?;
        Ok(target.image_id)
    };
    prepared.into_iter().map(outcome).collect()
}

/// Connects to one cloud and makes the empty image there.
async fn prepare(target: &JobTarget, order: &Order) -> Result<Target, Failure> {
    let cloud: Arc<dyn Cloud> = Arc::new(connect(target, &order.egress).await?);
    let JobImage { name, owner, record, provider, properties } = target.image.clone();
    let ownership = Ownership { owner, record, provider };
    let image = NewImage { name, ownership, disk_format: order.format, properties };
    let image_id = create(&*cloud, &image).await?;
    info!(provider = target.provider, image = image_id, name = image.name, "made an empty image");
    Ok(Target { name: target.provider.clone(), cloud, image_id, unwanted: CancellationToken::new() })
}

async fn connect(target: &JobTarget, egress: &Egress) -> Result<OpenStack, Failure> {
    let directory = &target.clouds_directory;
    let clouds = read(&directory.join("clouds.yaml")).await?.ok_or_else(|| {
        let sentence = format!("there is no clouds.yaml in {}: mount the Provider's Secret there", directory.display());
        Failure::new(reason::SECRET_INVALID, sentence)
    })?;
    let authority = read(&directory.join("cacert")).await?;
    let invalid = |error: &dyn std::fmt::Display| Failure::new(reason::SECRET_INVALID, error.to_string());
    let config =
        CloudConfig::from_yaml(&clouds, &target.cloud_name, authority.as_deref()).map_err(|error| invalid(&error))?;
    let interface = target.interface.as_deref().map(Interface::parse).transpose().map_err(|error| invalid(&error))?;
    let options = Options {
        requests_per_second: REQUESTS_PER_SECOND,
        region: target.region.clone(),
        interface,
        provider_key: target.image.provider.clone(),
        owner: target.image.owner.clone(),
        observer: None,
        egress: egress.clone(),
    };
    OpenStack::new(config, options).map_err(|error| invalid(&error))
}

/// A file of a mounted Secret; `None` when there is none.
async fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => {
            let sentence = format!("{} cannot be read: {}", path.display(), error.kind());
            Err(Failure::new(reason::SECRET_INVALID, sentence))
        }
    }
}

/// Makes the image; one whose making was not answered is looked for instead of made twice.
async fn create(cloud: &dyn Cloud, image: &NewImage) -> Result<String, CloudError> {
    let error = match cloud.create_image(image).await {
        Err(error) if error.class == ErrorClass::Unclear => error,
        outcome => return outcome,
    };
    let found = cloud.images_of(&image.ownership.owner).await.unwrap_or_default().into_iter().find(|found| {
        found.status == ImageStatus::Queued
            && found.name == image.name
            && found.ownership.as_ref() == Some(&image.ownership)
    });
    found.map(|found| found.id).ok_or(error)
}

/// Deletes an image that did not become whole; what stays is the collector's.
async fn remove(target: &Target) {
    let (provider, image) = (&target.name, &target.image_id);
    match target.cloud.delete_image(image).await {
        Ok(()) => info!(provider, image, "deleted the image that did not become whole"),
        Err(error) if error.class == ErrorClass::NotFound => {}
        Err(error) => warn!(provider, image, %error, "an image that did not become whole stays behind"),
    }
}

fn log() -> Observer {
    let mut last: Option<Instant> = None;
    Box::new(move |Progress { bytes, total }| {
        if Some(bytes) == total || last.is_none_or(|last| last.elapsed() >= LOG) {
            last = Some(Instant::now());
            info!(bytes, total, "read");
        }
    })
}

/// The results as JSON, in as many bytes as Kubernetes keeps. Accounts of failures are cut first; when that is not
/// enough the last entries are left out, and who misses one finds the image by its owner and record.
fn fitted(results: &[JobResult]) -> String {
    let mut kept = results.to_vec();
    let mut longest = LONGEST_ERROR;
    loop {
        for result in &mut kept {
            if let JobResult::Failed { error, .. } = result {
                error.truncate(error.floor_char_boundary(longest));
            }
        }
        // Plain text and lists of it: always JSON.
        let json = serde_json::to_string(&kept).unwrap_or_default();
        if json.len() <= LONGEST_RESULT {
            return json;
        }
        if longest > 0 {
            longest /= 2;
        } else {
            kept.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(provider: &str, error: &str) -> JobResult {
        JobResult::Failed { provider: provider.to_owned(), error: error.to_owned(), reason: "BuildFailed".to_owned() }
    }

    fn made(provider: &str) -> JobResult {
        JobResult::Made { provider: provider.to_owned(), image_id: uuid::Uuid::new_v4().to_string() }
    }

    #[test]
    fn a_result_is_read_back_as_it_was_written() {
        let json = r#"[{"provider":"a","imageID":"i-1"},{"provider":"b","error":"no","reason":"QuotaExceeded"}]"#;
        let results: Vec<JobResult> = serde_json::from_str(json).unwrap();
        assert_eq!(results[0], JobResult::Made { provider: "a".into(), image_id: "i-1".into() });
        assert!(matches!(&results[1], JobResult::Failed { reason, .. } if reason == "QuotaExceeded"));
        assert_eq!(fitted(&results), json);
    }

    #[test]
    fn a_result_always_fits_and_is_whole_json() {
        let long = "ä\"\\\n".repeat(2000);
        let many = |count: usize| (0..count).map(|n| failed(&format!("p{n}"), &long)).chain([made("last")]).collect();
        let cases: [(Vec<JobResult>, usize); 4] = [
            (many(1), 2),
            (many(20), 21),
            (many(500), 60),
            ((0..64).map(|n| made(&format!("provider-{n}"))).collect(), 48),
        ];
        for (results, least) in cases {
            let json = fitted(&results);
            assert!(json.len() <= LONGEST_RESULT, "{}", json.len());
            let read: Vec<JobResult> = serde_json::from_str(&json).unwrap();
            assert!(read.len() >= least, "{} of {}", read.len(), results.len());
        }
    }

    #[test]
    fn targets_are_read_as_the_operator_writes_them() {
        let json = r#"[{"provider":"a","cloudName":"c","cloudsDirectory":"/clouds/a","interface":"internal",
            "image":{"name":"n","owner":"o","record":"r","provider":"ns/a","properties":{"os_type":"linux"}}}]"#;
        let read = targets(json).unwrap();
        assert_eq!((read[0].clouds_directory.as_path(), read[0].region.as_deref()), (Path::new("/clouds/a"), None));
        assert_eq!(targets(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        assert!(targets("[]").unwrap_err().contains("at least one"));
        assert!(targets(r#"[{"provider":"a"}]"#).unwrap_err().contains("missing field `cloudName`"));
        assert!(targets("nonsense").unwrap_err().contains("JSON list"));
    }

    #[test]
    fn only_formats_that_clouds_know_are_taken() {
        assert_eq!(disk_format("raw"), Ok("raw"));
        assert!(disk_format("qcow").unwrap_err().contains("qcow2"));
    }
}
