//! `Pool`: how many servers of one sort are kept ready. Nodepool's label.
//!
//! Decides the shape only; who gets which slot is decided in `plan`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, Duration, FlavorSelector, rules};

/// What the servers of a Pool are, and how many are kept ready.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "Pool",
    plural = "pools",
    category = "nodepool",
    namespaced,
    status = "PoolStatus",
    derive = "PartialEq",
    doc = "Servers of one sort, kept ready on one or more Providers. Nodepool's label.",
    validation = rules::own_name("Pool", 63),
    scale(
        spec_replicas_path = ".spec.minReady",
        status_replicas_path = ".status.ready",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Min-Ready", type_ = "integer", json_path = ".spec.minReady", description = "Ready nodes wanted"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready", description = "Ready and unclaimed nodes"),
    printcolumn(name = "Building", type_ = "integer", json_path = ".status.building"),
    printcolumn(name = "In-Use", type_ = "integer", json_path = ".status.inUse"),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.held", priority = 1),
    printcolumn(name = "Deleting", type_ = "integer", json_path = ".status.deleting", priority = 1),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.total"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.maxNodes", description = "Most nodes allowed"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updated", priority = 1,
        description = "Nodes of the current image and template"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type==\"Available\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Available\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(self.maxNodes) || self.minReady <= self.maxNodes")
        .message("minReady is above maxNodes; lower minReady or raise maxNodes")
        .field_path(".minReady"),
)]
pub struct PoolSpec {
    /// The DiskImage the servers boot from; on a Provider of another namespace, the one of this name there.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::name_of("DiskImage"))]
    pub image: String,
    /// The flavor, by name or by memory.
    pub flavor: FlavorSelector,
    /// Where the servers may live. No two may have the same name, whatever their namespaces.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub providers: Vec<PoolProvider>,
    /// How many ready and unclaimed nodes to keep. `kubectl scale` sets it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10000))]
    pub min_ready: i32,
    /// The most nodes of this Pool, in use or not; without it only the Providers limit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub max_nodes: Option<i32>,
    /// Ready nodes older than this are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration("1s", "8760h"))]
    pub max_ready_age: Option<Duration>,
    /// When a node counts as ready, and whether that is looked at again.
    #[serde(default)]
    pub readiness: Readiness,
    /// User data of each server; a Secret, because it often holds one. Not on Providers of other namespaces: Secrets are
    /// read in the Provider's namespace only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data_secret_ref: Option<UserDataSecretRef>,
    /// Server metadata, beside the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "metadata_schema")]
    #[x_kube(validation = ("self.all(key, key.size() >= 1 && key.size() <= 255 && !key.startsWith('nodepool'))",
        "write metadata keys of 1 to 255 characters that do not start with nodepool; those are the operator's own"))]
    pub metadata: BTreeMap<String, String>,
    /// How nodes follow a new image or template.
    #[serde(default)]
    pub update: Update,
    /// Launch nothing new for this Pool and take nothing away; what runs goes on.
    #[serde(default)]
    pub paused: bool,
    /// Which namespaces may request nodes of this Pool, beside its own; without it no other. Closing it takes no node
    /// from anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
}

/// One Provider a Pool may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolProvider {
    /// The Provider's name.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = rules::name_of("Provider"))]
    pub name: String,
    /// The Provider's namespace, when that is another one: the Provider must allow it (`spec.allowedNamespaces`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::namespace())]
    pub namespace: Option<String>,
    /// The most nodes of this Pool on this Provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub max_nodes: Option<i32>,
    /// A lower number is filled first; equal ones share in proportion to their free capacity.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
}

impl PoolProvider {
    /// A Provider with the default priority and no limit of its own.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: None, max_nodes: None, priority: default_priority() }
    }
}

/// When a node counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Readiness {
    /// What must answer.
    #[serde(default)]
    pub probe: Probe,
    /// How often a ready node is looked at again, to be replaced when it no longer answers; `0s` for never.
    #[serde(default = "default_recheck")]
    #[x_kube(validation = rules::duration_or_off("1s", "24h"))]
    pub recheck: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { probe: Probe::default(), recheck: default_recheck() }
    }
}

/// What must answer before a node is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// An SSH handshake; the host keys are recorded.
    #[default]
    Ssh,
    /// A TCP connection.
    Tcp,
    /// Nothing: ACTIVE is enough.
    None,
}

/// A key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UserDataSecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name("Secret"))]
    pub name: String,
    /// The key that holds the user data.
    #[serde(default = "default_user_data_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("self.matches('^[-._a-zA-Z0-9]+$')", "write a key of the Secret: letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

/// How nodes follow a new image or template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Whether ready nodes of the old kind are replaced.
    #[serde(default)]
    pub strategy: UpdateStrategy,
    /// With `Rolling`: how many ready nodes may be missing at once because of it.
    #[serde(default = "default_max_unavailable")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: i32,
}

impl Default for Update {
    fn default() -> Self {
        Self { strategy: UpdateStrategy::default(), max_unavailable: default_max_unavailable() }
    }
}

/// Whether ready nodes of an old image or template are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    /// Replace ready nodes of the old kind, a few at a time. Claimed nodes are never touched.
    #[default]
    Rolling,
    /// Keep them; only new nodes are of the new kind.
    OnReplenish,
}

/// What was seen of a Pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Label selector of the Pool's nodes, for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub selector: String,
    /// Ready and unclaimed nodes; what `minReady` wants.
    #[serde(default)]
    pub ready: i32,
    /// Nodes requested or booting.
    #[serde(default)]
    pub building: i32,
    /// Nodes given to a request.
    #[serde(default)]
    pub in_use: i32,
    /// Nodes kept for a person to look at.
    #[serde(default)]
    pub held: i32,
    /// Nodes not yet proven gone.
    #[serde(default)]
    pub deleting: i32,
    /// Building and ready nodes of the current image and template.
    #[serde(default)]
    pub updated: i32,
    /// All nodes, whatever the state.
    #[serde(default)]
    pub total: i32,
    /// The last launch that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_launch_failure: Option<LaunchFailure>,
    /// `Available`, `Progressing`, `LaunchHealthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A launch that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LaunchFailure {
    /// When it was seen to have failed.
    pub time: Time,
    /// The Provider it was on.
    #[schemars(length(max = 63))]
    pub provider: String,
    /// The PoolNode.
    #[schemars(length(max = 253))]
    pub node: String,
    /// One word: what to do about it.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The cloud's own words.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// The last lines of the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub console: Option<String>,
}

impl PoolSpec {
    /// A Pool on one Provider, with defaults for all that has one.
    #[must_use]
    pub fn new(image: impl Into<String>, flavor: FlavorSelector, provider: impl Into<String>, min_ready: i32) -> Self {
        Self {
            image: image.into(),
            flavor,
            providers: vec![PoolProvider::named(provider)],
            min_ready,
            max_nodes: None,
            max_ready_age: None,
            readiness: Readiness::default(),
            user_data_secret_ref: None,
            metadata: BTreeMap::new(),
            update: Update::default(),
            paused: false,
            allowed_namespaces: None,
        }
    }
}

/// Nova takes at most 255 bytes a value; 20 entries leave room for the operator's own in its default quota of 128.
fn metadata_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": { "type": "string", "maxLength": 255 }
    })
}

/// Nodepool's own default.
fn default_priority() -> i32 {
    100
}

fn default_recheck() -> Duration {
    Duration::from_mins(15)
}

fn default_user_data_key() -> String {
    "userData".into()
}

fn default_max_unavailable() -> i32 {
    1
}
