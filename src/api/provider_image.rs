//! `ProviderImage`: one version of one DiskImage in one Provider; the row of `nodepool image-list`.
//!
//! Decides the shape, and which state may follow which. A rejected version must never come back.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

const INSTEAD: &str = "a version is what it was made as; delete it, the DiskImage makes the next one";

/// Which version of which image in which Provider.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "ProviderImage",
    plural = "providerimages",
    shortname = "pi",
    category = "nodepool",
    namespaced,
    status = "ProviderImageStatus",
    derive = "PartialEq",
    doc = "One version of one DiskImage in one Provider. Delete it to go back to the version before.",
    selectable = ".spec.provider",
    selectable = ".spec.diskImage",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.diskImage"),
    printcolumn(name = "Hostname", type_ = "string", json_path = ".status.hostname", priority = 1),
    printcolumn(name = "Version", type_ = "integer", json_path = ".spec.version"),
    printcolumn(name = "Image-ID", type_ = "string", json_path = ".status.imageID"),
    printcolumn(name = "Server-ID", type_ = "string", json_path = ".status.serverID", priority = 1),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Progress",
        type_ = "integer",
        json_path = ".status.progress.percent",
        priority = 1,
        description = "Percent of the file that was read"
    ),
    printcolumn(name = "Current", type_ = "boolean", json_path = ".status.current"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = rules::same_presence("imageID", INSTEAD),
    validation = rules::same_presence("sourceHash", INSTEAD),
    validation = rules::same_presence("digest", INSTEAD),
)]
pub struct ProviderImageSpec {
    /// The DiskImage it is a version of.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::name_of("DiskImage"), validation = rules::immutable("diskImage", INSTEAD))]
    pub disk_image: String,
    /// The Provider it is in.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = rules::name_of("Provider"), validation = rules::immutable("provider", INSTEAD))]
    pub provider: String,
    /// When it was started, in seconds since 1970; a higher number is newer.
    #[schemars(range(min = 1))]
    #[x_kube(validation = rules::immutable("version", INSTEAD))]
    pub version: i64,
    /// The image's id, when it existed before: source `existing`.
    #[serde(rename = "imageID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = rules::immutable("imageID", INSTEAD))]
    pub image_id: Option<String>,
    /// Whether the image in the cloud is the operator's to delete; false for source `existing`.
    #[x_kube(validation = rules::immutable("managed", INSTEAD))]
    pub managed: bool,
    /// Hash of the source it is made from; a DiskImage with another source makes a new version at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::immutable("sourceHash", INSTEAD))]
    pub source_hash: Option<String>,
    /// The generation of the DiskImage it is made by.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub disk_image_generation: Option<i64>,
    /// Digest of the file it is made from, such as `sha256:…`: source `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 160))]
    #[x_kube(validation = rules::immutable("digest", INSTEAD))]
    pub digest: Option<String>,
    /// Set to true to use this version no more; the version before becomes current at once.
    #[serde(default)]
    #[x_kube(validation = ("self || !oldSelf",
        "a rejected version stays rejected; delete it, and the DiskImage makes the next one"))]
    pub rejected: bool,
}

/// Where a version is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImageState {
    /// It is being made.
    #[default]
    Building,
    /// It is on its way into the cloud.
    Uploading,
    /// Trial boots run.
    Validating,
    /// It may be used.
    Ready,
    /// It was found bad, by its trial boots or by a person.
    Rejected,
    /// It could not be made.
    Failed,
    /// It is being deleted.
    Deleting,
}

impl ImageState {
    /// Every state, in order.
    pub const ALL: [Self; 7] =
        [Self::Building, Self::Uploading, Self::Validating, Self::Ready, Self::Rejected, Self::Failed, Self::Deleting];

    /// The state as users read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Building => "Building",
            Self::Uploading => "Uploading",
            Self::Validating => "Validating",
            Self::Ready => "Ready",
            Self::Rejected => "Rejected",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }

    /// Whether `next` may follow; staying is always allowed and not asked here.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Building => !matches!(next, Self::Building),
            Self::Uploading => !matches!(next, Self::Building | Self::Uploading),
            Self::Validating => matches!(next, Self::Ready | Self::Rejected | Self::Failed | Self::Deleting),
            Self::Ready => matches!(next, Self::Rejected | Self::Deleting),
            Self::Rejected | Self::Failed => matches!(next, Self::Deleting),
            Self::Deleting => false,
        }
    }
}

impl fmt::Display for ImageState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What was seen of the version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderImageStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the version is in its life.
    #[serde(default)]
    #[x_kube(validation = rules::forward_only(&ImageState::ALL, ImageState::as_str, ImageState::may_become))]
    pub state: ImageState,
    /// Host name of the server it was made on: `<image>-<version>.template…`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub hostname: String,
    /// The image's id in the cloud.
    #[serde(rename = "imageID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub image_id: Option<String>,
    /// The id of the server it is made on.
    #[serde(rename = "serverID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub server_id: Option<String>,
    /// Whether new nodes boot from this version.
    #[serde(default)]
    pub current: bool,
    /// When the cloud had all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Time>,
    /// When it could first be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// How much of it is in the cloud: source `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last lines that its build printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub log: Option<String>,
    /// Why it failed or was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<ImageFault>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How much of a version is in the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes of the file that were read.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Bytes of the whole file, when its server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_bytes: Option<i64>,
    /// The one as a part of the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
}

/// Why a version failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFault {
    /// One word: what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub reason: String,
    /// What happened, in words.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// The last lines of the console of the server on which it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub console: Option<String>,
}

impl ProviderImage {
    /// Whether it is being made or tried: at most one version of an image in a Provider is (rule 9).
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && matches!(self.state(), ImageState::Building | ImageState::Uploading | ImageState::Validating)
            && self.spec.managed
    }

    /// Whether nodes may be booted from it (rule 8).
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.spec.rejected && self.metadata.deletion_timestamp.is_none() && self.state() == ImageState::Ready
    }

    /// The state, `Building` for a record that has no status yet.
    #[must_use]
    pub fn state(&self) -> ImageState {
        self.status.as_ref().map(|status| status.state).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_version_never_comes_back() {
        assert_eq!(
            ImageState::ALL.into_iter().filter(|next| ImageState::Rejected.may_become(*next)).collect::<Vec<_>>(),
            [ImageState::Deleting]
        );
    }

    #[test]
    fn the_order_of_the_states_is_the_order_of_life() {
        for from in ImageState::ALL {
            assert_eq!(serde_json::to_value(from).unwrap(), from.as_str());
            for to in ImageState::ALL {
                assert!(!from.may_become(to) || from < to, "{from} → {to}");
            }
        }
    }
}
