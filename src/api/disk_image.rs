//! `DiskImage`: what an image is made of, where it must be, and how fresh.
//!
//! Decides the shape only; when a version is made, promoted or deleted is decided in `plan`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Duration, FlavorSelector, rules};

/// What the image is made of, where it must be, and how fresh.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "DiskImage",
    plural = "diskimages",
    shortname = "di",
    category = "nodepool",
    namespaced,
    status = "DiskImageStatus",
    derive = "PartialEq",
    doc = "What an image is made of, where it must be, and how fresh.",
    validation = rules::own_name("DiskImage", 40),
    printcolumn(name = "Providers", type_ = "string", json_path = ".spec.providers", description = "Where it must be"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.refresh.schedule"),
    printcolumn(name = "Retain", type_ = "integer", json_path = ".spec.retain", priority = 1),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type==\"Available\")].status",
        description = "Whether every Provider has a usable version"),
    printcolumn(name = "Up-To-Date", type_ = "string", json_path = ".status.conditions[?(@.type==\"UpToDate\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Available\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct DiskImageSpec {
    /// The Providers that must have it.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 40)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::names_of("Provider"))]
    pub providers: Vec<String>,
    /// What it is made of; exactly one of its fields.
    pub source: ImageSource,
    /// When a new version is made.
    #[serde(default)]
    pub refresh: Refresh,
    /// How many good versions are kept per Provider; at least the current and the one before.
    #[serde(default = "default_retain")]
    #[x_kube(validation = ("self >= 2 && self <= 50",
        "retain 2 to 50 versions: the current one and the one before are always kept, so that a bad one can be undone"))]
    pub retain: i32,
    /// Make no new versions; what there is stays in use.
    #[serde(default)]
    pub suspend: bool,
    /// How long making one version may take.
    #[serde(default = "default_build_timeout")]
    #[x_kube(validation = rules::duration("1m", "168h"))]
    pub build_timeout: Duration,
    /// How to log in to nodes booted from it.
    pub login: Login,
    /// Properties of the image in the cloud, beside the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "properties_schema")]
    #[x_kube(validation = ("self.all(key, key.size() >= 1 && key.size() <= 255 && !key.startsWith('nodepool'))",
        "write property names of 1 to 255 characters that do not start with nodepool; those are the operator's own"))]
    pub properties: BTreeMap<String, String>,
    /// How a version is tried before it is used.
    #[serde(default)]
    pub validation: Validation,
    /// What happens when a version in use turns out bad.
    #[serde(default)]
    pub rollback: Rollback,
}

/// What an image is made of. Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::exactly_one(&["snapshot", "url", "job", "existing"]))]
pub struct ImageSource {
    /// Boot a base image, set it up over SSH, stop it, take a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSource>,
    /// Fetch a file and upload it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlSource>,
    /// Run a pod that leaves one file, and upload that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
    /// Use an image that others manage in the cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing: Option<ImageSelector>,
}

/// An image in the cloud. Exactly one of `name` and `id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::exactly_one(&["name", "id"]))]
pub struct ImageSelector {
    /// Its exact name; of several, the newest active one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub id: Option<String>,
}

/// Boot a base image, set it up over SSH, stop it, take a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSource {
    /// What to boot.
    pub base_image: ImageSelector,
    /// What to boot it on.
    pub flavor: FlavorSelector,
    /// How to log in to the base image.
    pub login: SnapshotLogin,
    /// A ConfigMap whose files are copied to the server before `setup` runs: nodepool's script-dir.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scripts_config_map_ref: Option<ScriptsRef>,
    /// The command to run, such as `./prepare_node.sh`.
    #[schemars(length(min = 1, max = 65536))]
    pub setup: String,
    /// Environment of the command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "env_schema")]
    #[x_kube(validation = ("self.all(key, key.size() <= 255 && key.matches('^[A-Za-z_][A-Za-z0-9_]*$'))",
        "write environment names of letters, digits and '_' that do not start with a digit, such as HTTP_PROXY"))]
    pub env: BTreeMap<String, String>,
}

/// How to log in to the server on which an image is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotLogin {
    /// The user to log in as.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::username())]
    pub username: String,
    /// The private key; without it, a key pair is made for each build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_secret_ref: Option<PrivateKeySecretRef>,
}

/// A private key in a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct PrivateKeySecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name("Secret"))]
    pub name: String,
    /// The key that holds it; by default that of a Secret of type kubernetes.io/ssh-auth.
    #[serde(default = "default_private_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("self.matches('^[-._a-zA-Z0-9]+$')", "write a key of the Secret: letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

/// A ConfigMap of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ScriptsRef {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name("ConfigMap"))]
    pub name: String,
}

/// Fetch a file and upload it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UrlSource {
    /// Where the file is.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::url())]
    pub url: String,
    /// How it is known to be the right one; an unchanged digest makes no new version.
    pub checksum: Checksum,
    /// The disk's format, once uncompressed.
    pub format: DiskFormat,
    /// How the file is compressed, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// The digest of a file. Exactly one of `value` and `url`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::exactly_one(&["value", "url"]),
    validation = ("!has(self.value) || self.value.size() == (self.algorithm == 'sha512' ? 128 : 64)",
        "write as many hexadecimal digits as the algorithm has: 64 for sha256, 128 for sha512"),
)]
pub struct Checksum {
    /// How the digest is computed.
    #[serde(default)]
    pub algorithm: ChecksumAlgorithm,
    /// The digest itself, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = ("self.matches('^[0-9a-fA-F]+$')", "write the digest in hexadecimal digits"))]
    pub value: Option<String>,
    /// Where a list such as SHA256SUMS is that names the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::url())]
    pub url: Option<String>,
}

/// How a digest is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumAlgorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A disk format that Glance knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's copy-on-write format.
    #[default]
    Qcow2,
    /// The plain bytes of the disk.
    Raw,
    /// VMware's.
    Vmdk,
    /// Hyper-V's older one.
    Vhd,
    /// Hyper-V's newer one.
    Vhdx,
    /// VirtualBox's.
    Vdi,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip.
    Gz,
    /// xz.
    Xz,
    /// Zstandard.
    Zst,
    /// bzip2.
    Bz2,
}

/// Run a pod that leaves one file, and upload that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct JobSource {
    /// The pod, as in a Job's `spec.template`; Kubernetes checks the rest of it when it is started.
    #[schemars(schema_with = "pod_template_schema")]
    pub template: serde_json::Value,
    /// The file the pod leaves, a full path.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = ("self.startsWith('/') && !self.endsWith('/') && !self.contains('/../')",
        "write the full path of the file that the pod leaves, such as /output/image.qcow2"))]
    pub output: String,
    /// The disk's format.
    pub format: DiskFormat,
}

/// When a new version is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// A cron schedule, such as `14 2 * * *` or `@daily`.
    #[serde(default = "default_schedule")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rules::cron())]
    pub schedule: String,
    /// The time zone the schedule is read in.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::time_zone())]
    pub time_zone: String,
    /// Spreads the starts over this long: each image × Provider has its own fixed part of it, shown in the status.
    #[serde(default = "default_jitter")]
    #[x_kube(validation = rules::duration("0s", "24h"))]
    pub jitter: Duration,
}

impl Default for Refresh {
    fn default() -> Self {
        Self { schedule: default_schedule(), time_zone: default_time_zone(), jitter: default_jitter() }
    }
}

/// How to log in to nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Login {
    /// The user that nodes of this image offer.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::username())]
    pub username: String,
    /// The port that they answer on.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Login {
    /// This user on the default port.
    #[must_use]
    pub fn user(username: impl Into<String>) -> Self {
        Self { username: username.into(), port: default_port() }
    }
}

/// How a version is tried before it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Trial boots that must become reachable before a version is used; 0 for none.
    #[serde(default = "default_boots")]
    #[schemars(range(min = 0, max = 10))]
    pub boots: i32,
}

impl Default for Validation {
    fn default() -> Self {
        Self { boots: default_boots() }
    }
}

/// What happens when a version in use turns out bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollback {
    /// Go back to the version before when most launches of this one fail.
    #[serde(default = "default_automatic")]
    pub automatic: bool,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { automatic: default_automatic() }
    }
}

/// What there is of a DiskImage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskImageStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Provider by Provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub providers: Vec<DiskImageProviderStatus>,
    /// `Available`, `UpToDate`, `Progressing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What there is of a DiskImage in one Provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskImageProviderStatus {
    /// The Provider.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The ProviderImage that new nodes boot from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub current: Option<String>,
    /// The ProviderImage to go back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub previous: Option<String>,
    /// The current image's id in the cloud.
    #[serde(rename = "imageID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub image_id: Option<String>,
    /// When the current version was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built_at: Option<Time>,
    /// When the next version is made, jitter included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_build_time: Option<Time>,
    /// The last attempt that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<ImageFailure>,
    /// When the last attempt to make a version began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_build_time: Option<Time>,
    /// Hash of the source of that attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub source_hash: Option<String>,
    /// The generation of that attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// How many attempts in a row failed; a changed spec starts afresh.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub failures: i32,
    /// How much later than the schedule says a version is made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// The scheduled run for which the last version came too early, because it joined those of other Providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anticipated_run: Option<Time>,
    /// The value of the annotation `nodepool.dev/rebuild-requested-at` that was answered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub rebuild_requested_at: Option<String>,
    /// What `rebuildRequestedAt` answers is no good version yet: the next attempt makes one even of a source that has not
    /// changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebuild_pending: bool,
    /// Image ids that were rejected; source `existing` does not choose them again.
    #[serde(rename = "rejectedImageIDs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 255)))]
    pub rejected_image_ids: Vec<String>,
}

/// An attempt to make a version that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFailure {
    /// When.
    pub time: Time,
    /// The version that failed, if the attempt came that far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// One word: what to do about it.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// What happened, in words.
    #[schemars(length(max = 2048))]
    pub message: String,
}

impl DiskImage {
    /// The value of the annotation by which somebody asks for a new version now, as much of it as the status holds.
    #[must_use]
    pub fn rebuild_requested(&self) -> Option<&str> {
        asked_for(&self.metadata)
    }
}

/// The value of the annotation [`ANNOTATION_REBUILD`](super::ANNOTATION_REBUILD), as much of it as a status holds.
#[must_use]
pub fn asked_for(metadata: &ObjectMeta) -> Option<&str> {
    let text = metadata.annotations.as_ref()?.get(super::ANNOTATION_REBUILD)?;
    Some(&text[..text.floor_char_boundary(256)])
}

impl DiskImageSpec {
    /// An image that others manage, found by name, with defaults for all that has one.
    #[must_use]
    pub fn existing(name: impl Into<String>, provider: impl Into<String>, username: impl Into<String>) -> Self {
        Self {
            providers: vec![provider.into()],
            source: ImageSource {
                existing: Some(ImageSelector { name: Some(name.into()), id: None }),
                ..ImageSource::default()
            },
            refresh: Refresh::default(),
            retain: default_retain(),
            suspend: false,
            build_timeout: default_build_timeout(),
            login: Login::user(username),
            properties: BTreeMap::new(),
            validation: Validation::default(),
            rollback: Rollback::default(),
        }
    }
}

fn properties_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 255 }
    })
}

fn env_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 4096 }
    })
}

/// Only what makes it a pod template at all; a copy of the whole schema would age with every Kubernetes release.
fn pod_template_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "spec": {
                "type": "object",
                "required": ["containers"],
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "containers": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 32,
                        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
                    }
                }
            }
        }
    })
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn default_schedule() -> String {
    "@daily".into()
}

fn default_time_zone() -> String {
    "UTC".into()
}

/// All images of all Providers at midnight sharp would be one herd.
fn default_jitter() -> Duration {
    Duration::from_hours(1)
}

fn default_retain() -> i32 {
    2
}

/// Nodepool's own figure for the longest build.
fn default_build_timeout() -> Duration {
    Duration::from_hours(8)
}

fn default_port() -> i32 {
    22
}

fn default_private_key() -> String {
    "ssh-privatekey".into()
}

fn default_boots() -> i32 {
    1
}

fn default_automatic() -> bool {
    true
}
