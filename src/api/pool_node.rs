//! `PoolNode`: one server and the slot it holds. The operator writes it; nobody creates one by hand.
//!
//! Decides the shape, and which state may follow which. It must never let a used node look ready again.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{pool::Probe, provider::LaunchFence, rules};

const INSTEAD: &str = "delete the node, its Pool makes a new one";

/// What the server was booted with, who has claimed it, and whether it is kept.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "PoolNode",
    plural = "poolnodes",
    shortname = "pn",
    category = "nodepool",
    namespaced,
    status = "PoolNodeStatus",
    derive = "PartialEq",
    doc = "One server and the slot it holds. Made by the operator; nobody creates one by hand.",
    selectable = ".spec.provider",
    selectable = ".spec.pool",
    validation = Rule::new("self.metadata.name.startsWith(self.spec.provider + '-') && \
        self.metadata.name.substring(self.spec.provider.size() + 1).matches('^(0|[1-9][0-9]{0,3})$') && \
        int(self.metadata.name.substring(self.spec.provider.size() + 1)) == self.spec.slot")
        .message("name a PoolNode <provider>-<slot>: its name is the slot it holds; better, create a NodeRequest or raise a \
                  Pool's minReady and let the operator make it"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Server-ID", type_ = "string", json_path = ".status.serverID", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.providerImage", priority = 1),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claimRef.name"),
    printcolumn(name = "Hold", type_ = "string", json_path = ".spec.hold.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = rules::same_presence("providerImage", INSTEAD),
    validation = rules::same_presence("pool", INSTEAD),
    validation = rules::same_presence("poolNamespace", INSTEAD),
    validation = ("has(self.pool) || (has(self.claimRef) && self.claimRef.kind == 'ProviderImage')",
        "write the pool the node is for; only a node that a ProviderImage has is for none"),
    validation = ("!has(oldSelf.claimRef) || has(self.claimRef)",
        "claimRef cannot be removed: a node once given is never given again; delete its NodeRequest to release it"),
)]
pub struct PoolNodeSpec {
    /// The Provider the server is on.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = rules::immutable("provider", INSTEAD))]
    pub provider: String,
    /// The Pool it was booted for; none for a server on which an image is made or tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::immutable("pool", INSTEAD))]
    pub pool: Option<String>,
    /// The Pool's namespace, when that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::immutable("poolNamespace", INSTEAD))]
    pub pool_namespace: Option<String>,
    /// The Provider's slot it holds.
    #[schemars(range(min = 0, max = 9999))]
    #[x_kube(validation = rules::immutable("slot", INSTEAD))]
    pub slot: i32,
    /// The ProviderImage it boots from; none for an image that the operator does not keep versions of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::immutable("providerImage", INSTEAD))]
    pub provider_image: Option<String>,
    /// The image's id in the cloud.
    #[serde(rename = "imageID")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = rules::immutable("imageID", INSTEAD))]
    pub image_id: String,
    /// The flavor's name.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = rules::immutable("flavor", INSTEAD))]
    pub flavor: String,
    /// The flavor's id in the cloud.
    #[serde(rename = "flavorID")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = rules::immutable("flavorID", INSTEAD))]
    pub flavor_id: String,
    /// Hash of all that the server was booted with; a node with another hash than its Pool's is out of date.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::immutable("templateHash", INSTEAD))]
    pub template_hash: String,
    /// Whom it was given to; set once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_ref: Option<ClaimRef>,
    /// Keeps the server for a person to look at, whatever happens to its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The user to log in as.
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::immutable("username", INSTEAD))]
    pub username: String,
    /// The port to connect to.
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = rules::immutable("port", INSTEAD))]
    pub port: i32,
    /// What must answer before it is ready.
    #[x_kube(validation = rules::immutable("probe", INSTEAD))]
    pub probe: Probe,
    /// How its boot request was fenced, whatever its Provider says now.
    #[serde(default)]
    #[x_kube(validation = rules::immutable("launchFence", INSTEAD))]
    pub launch_fence: LaunchFence,
}

/// Whom a node was given to: a NodeRequest, or the ProviderImage that is made or tried on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// What has the node.
    #[serde(default)]
    #[x_kube(validation = rules::immutable("claimRef.kind", "a node is given once; claim another one"))]
    pub kind: ClaimKind,
    /// The request's namespace.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::immutable("claimRef.namespace", "a node is given once; claim another one"))]
    pub namespace: String,
    /// The request's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::immutable("claimRef.name", "a node is given once; claim another one"))]
    pub name: String,
    /// The request's uid: a later request of the same name is another one.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::immutable("claimRef.uid", "a node is given once; claim another one"))]
    pub uid: String,
    /// What happens to the server when the request is gone.
    #[serde(default)]
    pub on_release: OnRelease,
}

/// What may have a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClaimKind {
    /// A demand of somebody.
    #[default]
    NodeRequest,
    /// A version of an image, to be made on it or tried with it.
    ProviderImage,
}

/// What happens to a server when its request is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnRelease {
    /// It is destroyed.
    #[default]
    Delete,
    /// It is kept for a person to look at.
    Hold,
}

/// Why and how long a server is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// Who keeps it and what for.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// When it is destroyed after all; without it, when the hold is removed or the node deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// Where a node is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    /// Requested or booting.
    #[default]
    Building,
    /// Reachable and unused.
    Ready,
    /// Given to a request and reachable.
    InUse,
    /// Kept for a person to look at.
    Held,
    /// It never became ready, or was lost; its fault says why.
    Failed,
    /// Being destroyed; the slot is free only when the server is proven gone.
    Deleting,
}

impl NodeState {
    /// Every state, in order.
    pub const ALL: [Self; 6] = [Self::Building, Self::Ready, Self::InUse, Self::Held, Self::Failed, Self::Deleting];

    /// The state as users read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Building => "Building",
            Self::Ready => "Ready",
            Self::InUse => "InUse",
            Self::Held => "Held",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }

    /// Whether `next` may follow; staying is always allowed and not asked here.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Building => !matches!(next, Self::Building),
            Self::Ready => matches!(next, Self::InUse | Self::Held | Self::Failed | Self::Deleting),
            Self::InUse => matches!(next, Self::Held | Self::Failed | Self::Deleting),
            Self::Failed => matches!(next, Self::Held | Self::Deleting),
            Self::Held => matches!(next, Self::Deleting),
            Self::Deleting => false,
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What was seen of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolNodeStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the node is in its life.
    #[serde(default)]
    #[x_kube(validation = rules::forward_only(&NodeState::ALL, NodeState::as_str, NodeState::may_become))]
    pub state: NodeState,
    /// The server's id in the cloud.
    #[serde(rename = "serverID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub server_id: Option<String>,
    /// All addresses of the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub addresses: Vec<NodeAddress>,
    /// The address to connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub address: Option<String>,
    /// The port to connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The user to log in as.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub username: Option<String>,
    /// The server's SSH host keys, as in a known_hosts file without the name: `ssh-ed25519 AAAA…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 4096)))]
    pub host_keys: Vec<String>,
    /// The availability zone the cloud chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub availability_zone: Option<String>,
    /// The DiskImage it was booted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub image: Option<String>,
    /// When the cloud took the boot request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launched_at: Option<Time>,
    /// When it first answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAddress {
    /// On the server itself, or mapped to it.
    #[serde(rename = "type")]
    pub type_: AddressType,
    /// The version of the Internet Protocol: 4 or 6.
    #[schemars(range(min = 4, max = 6))]
    pub version: i32,
    /// The address.
    #[schemars(length(max = 64))]
    pub address: String,
}

/// Whether an address is on the server itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AddressType {
    /// On the server itself.
    #[default]
    Fixed,
    /// Mapped to it from outside.
    Floating,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The cloud's own words.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// The cloud's number for it, such as 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The last lines of the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub console: Option<String>,
}

impl PoolNode {
    /// The name that holds this slot: its uniqueness is what keeps a Provider within `maxServers`.
    #[must_use]
    pub fn name_of_slot(provider: &str, slot: i32) -> String {
        format!("{provider}-{slot}")
    }

    /// The ProviderImage that is made or tried on it.
    #[must_use]
    pub fn image_claim(&self) -> Option<&ClaimRef> {
        self.spec.claim_ref.as_ref().filter(|claim| claim.kind == ClaimKind::ProviderImage)
    }

    /// Whether an image is made on it: it boots what the image is made from, no version of it.
    #[must_use]
    pub fn is_build(&self) -> bool {
        self.image_claim().is_some() && self.spec.provider_image.is_none()
    }

    /// Whether a port is made before its boot request.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.spec.launch_fence == LaunchFence::Port
    }

    /// The state, `Building` for a record that has no status yet.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.status.as_ref().map(|status| status.state).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_node_is_never_ready_again() {
        for state in NodeState::ALL {
            assert_eq!(state.may_become(NodeState::Ready), state == NodeState::Building, "{state}");
        }
    }

    #[test]
    fn no_way_leads_back() {
        fn reachable(from: NodeState) -> Vec<NodeState> {
            let mut seen = Vec::new();
            let mut open = vec![from];
            while let Some(state) = open.pop() {
                for next in NodeState::ALL.into_iter().filter(|next| state.may_become(*next)) {
                    if !seen.contains(&next) {
                        seen.push(next);
                        open.push(next);
                    }
                }
            }
            seen
        }
        for state in NodeState::ALL {
            assert!(!reachable(state).contains(&state), "{state} can come back");
            assert!(
                state == NodeState::Deleting || reachable(state).contains(&NodeState::Deleting),
                "{state} never ends"
            );
        }
    }

    #[test]
    fn serde_and_as_str_agree() {
        for state in NodeState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
