//! `NodeRequest`: a demand for nodes, all or nothing.
//!
//! Decides the shape, and which state may follow which; who is served when is decided in `plan`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration,
    pool_node::{NodeAddress, OnRelease},
    rules,
};

/// What is asked for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "NodeRequest",
    plural = "noderequests",
    shortname = "nr",
    category = "nodepool",
    namespaced,
    status = "NodeRequestStatus",
    derive = "PartialEq",
    doc = "A demand for nodes, served all or nothing. Delete it, or its owner, to give the nodes back; that destroys them.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Position",
        type_ = "integer",
        json_path = ".status.position",
        description = "Place in the queue"
    ),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Fulfilled\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeRequestSpec {
    /// The nodes wanted, by Pool and count.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = rules::immutable("nodes", "create another NodeRequest"),
        validation = ("self.map(set, set.count).sum() <= 1000", "ask for at most 1000 nodes in one NodeRequest; split it into several"),
    )]
    pub nodes: Vec<NodeSet>,
    /// Whether the nodes may be on several Providers; otherwise all are on one.
    #[serde(default)]
    #[x_kube(validation = rules::immutable("spread", "create another NodeRequest"))]
    pub spread: bool,
    /// Served before requests with a lower number; equal ones by age.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// How long it may wait before it fails; without it, for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration("1s", "8760h"))]
    pub wait_timeout: Option<Duration>,
    /// How long it may keep its nodes; then it fails and they are released.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration("1s", "8760h"))]
    pub active_deadline: Option<Duration>,
    /// What happens to the servers when the request is gone.
    #[serde(default)]
    pub on_release: OnRelease,
}

/// Some nodes of one Pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSet {
    /// The name by which the client finds them in the status, such as `builder`.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = ("self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
        "write a name for these nodes, such as builder or node-1: letters, digits, '-', '_' and '.'"))]
    pub name: String,
    /// The Pool's name.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::name_of("Pool"))]
    pub pool: String,
    /// The Pool's namespace, when that is another one: the Pool must allow it (`spec.allowedNamespaces`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::namespace())]
    pub pool_namespace: Option<String>,
    /// How many.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: i32,
}

/// Where a request is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RequestState {
    /// It waits for its nodes.
    #[default]
    Pending,
    /// It has them all.
    Fulfilled,
    /// It will not be served, or lost what it had; the condition says why.
    Failed,
}

impl RequestState {
    /// Every state, in order.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Fulfilled, Self::Failed];

    /// The state as users read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Fulfilled => "Fulfilled",
            Self::Failed => "Failed",
        }
    }

    /// Whether `next` may follow; staying is always allowed and not asked here.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Fulfilled | Self::Failed),
            Self::Fulfilled => matches!(next, Self::Failed),
            Self::Failed => false,
        }
    }
}

impl fmt::Display for RequestState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What became of the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRequestStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the request is in its life.
    #[serde(default)]
    #[x_kube(validation = rules::forward_only(&RequestState::ALL, RequestState::as_str, RequestState::may_become))]
    pub state: RequestState,
    /// Its place in the queue while it waits; 1 is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub position: Option<i32>,
    /// The Provider of its nodes, unless it is spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub provider: Option<String>,
    /// When it had all its nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fulfilled_at: Option<Time>,
    /// All that a client needs to log in, node by node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub nodes: Vec<AssignedNode>,
    /// `Fulfilled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One node given to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignedNode {
    /// The name under which it was asked for.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The PoolNode.
    #[schemars(length(max = 253))]
    pub pool_node: String,
    /// Its namespace, when that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// The Provider it is on.
    #[schemars(length(max = 63))]
    pub provider: String,
    /// The server's id in the cloud.
    #[serde(rename = "serverID", default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 255))]
    pub server_id: String,
    /// The address to connect to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub address: String,
    /// All addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub addresses: Vec<NodeAddress>,
    /// The port to connect to.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The user to log in as.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub username: String,
    /// The server's SSH host keys, as in a known_hosts file without the name: `ssh-ed25519 AAAA…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 4096)))]
    pub host_keys: Vec<String>,
    /// The availability zone the cloud chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub availability_zone: Option<String>,
}

fn default_count() -> i32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_is_final_and_nothing_waits_again() {
        for state in RequestState::ALL {
            assert!(!RequestState::Failed.may_become(state));
            assert!(!state.may_become(RequestState::Pending));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
