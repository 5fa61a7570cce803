//! `Provider`: one OpenStack project in one region, and how much of it may be used.
//!
//! Decides the shape only. Credentials live in a Secret; nothing here may hold or show one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AllowedNamespaces, Duration, rules};

/// What a Provider is and what may be taken from it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "nodepool.dev",
    version = "v1alpha1",
    kind = "Provider",
    plural = "providers",
    shortname = "prov",
    category = "nodepool",
    namespaced,
    status = "ProviderStatus",
    derive = "PartialEq",
    doc = "One OpenStack project in one region, and how much of it may be used.",
    validation = rules::own_name("Provider", 40),
    validation = Rule::new(
        "(!has(self.status) || !has(self.status.servers) || self.status.servers.used == 0) || \
         ((has(self.spec.region) ? self.spec.region : '') == (has(oldSelf.spec.region) ? oldSelf.spec.region : '') \
         && self.spec.cloud.cloudName == oldSelf.spec.cloud.cloudName)",
    ).message("region and cloudName cannot be changed while servers exist there; add a second Provider, or set paused: true, \
               delete the nodes of this one and wait until status.servers.used is 0"),
    validation = Rule::new("self.spec.launchFence == 'None' || (has(self.spec.networks) && self.spec.networks.size() > 0)")
        .message("launchFence: Port makes a port on the first of networks: name one there, or write launchFence: None"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.maxServers", description = "Servers allowed"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.servers.used", description = "Slots taken"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.servers.ready"),
    printcolumn(name = "Building", type_ = "integer", json_path = ".status.servers.building"),
    printcolumn(name = "In-Use", type_ = "integer", json_path = ".status.servers.inUse"),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.servers.held", priority = 1),
    printcolumn(name = "Deleting", type_ = "integer", json_path = ".status.servers.deleting", priority = 1),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the cloud can be used"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ProviderSpec {
    /// Where the credentials are.
    pub cloud: CloudRef,
    /// The region to use; without it the one of the clouds.yaml, or the only one of the catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub region: Option<String>,
    /// Which endpoints of the catalog to use.
    #[serde(default)]
    pub interface: Interface,
    /// The most servers that may exist at once, those that are being built or deleted included. Lowering it kills
    /// nothing.
    #[schemars(range(min = 0, max = 10000))]
    pub max_servers: i32,
    /// The most cores and memory to use, when that is less than the project's quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceLimits>,
    /// The most requests a second sent to this cloud, retries included.
    #[serde(default = "default_requests_per_second")]
    // A rule, because the server's own `minimum` rounds 0.01 down to 0 when it meets an integer.
    #[x_kube(validation = ("self >= 0.01 && self <= 1000.0", "write a rate from 0.01 to 1000 requests a second, such as 10"))]
    pub requests_per_second: f64,
    /// How long a server may take from ACTIVE until it answers.
    #[serde(default = "default_boot_timeout")]
    #[x_kube(validation = rules::duration("1s", "2h"))]
    pub boot_timeout: Duration,
    /// How long a server may take from the boot request until ACTIVE.
    #[serde(default = "default_launch_timeout")]
    #[x_kube(validation = rules::duration("1s", "24h"))]
    pub launch_timeout: Duration,
    /// Networks of each server, by name or id, in order; without any, the cloud's own choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub networks: Vec<String>,
    /// Security groups of each server, by name or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub security_groups: Vec<String>,
    /// Availability zones to spread the servers over; without any, the cloud's own choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub availability_zones: Vec<String>,
    /// Name of a key pair that exists in the cloud, put into each server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub key_pair: Option<String>,
    /// Gives each server a floating IP, made with it and deleted with it.
    #[serde(rename = "floatingIP", skip_serializing_if = "Option::is_none")]
    pub floating_ip: Option<FloatingIp>,
    /// Whether servers get a config drive; without it, the cloud's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<bool>,
    /// What keeps a boot request that was not answered from making a server later. With `Port` it is settled in about
    /// two minutes what became of one, instead of the operator's `--settle-time`; each server costs two more calls.
    #[serde(default)]
    pub launch_fence: LaunchFence,
    /// Launch nothing new here; what runs goes on.
    #[serde(default)]
    pub paused: bool,
    /// Which namespaces may have Pools on this Provider, beside its own; without it no other. Closing it destroys their
    /// idle nodes and leaves those in use until they are released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
}

/// What keeps a boot request that was not answered from making a server later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LaunchFence {
    /// Nothing: it is waited for as long as it may be on its way.
    #[default]
    None,
    /// A port on the first network, made before the boot request that names it: the cloud refuses the request once the
    /// port is closed. A request that was let through before still makes its server, which is found and adopted.
    Port,
}

/// Credentials: one cloud of one `clouds.yaml` in one Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudRef {
    /// The Secret in this namespace with the key `clouds.yaml`, and `cacert` if the cloud has its own authority.
    pub secret_ref: CloudSecretRef,
    /// Which cloud of the clouds.yaml.
    #[serde(default = "default_cloud_name")]
    #[schemars(length(min = 1, max = 255))]
    pub cloud_name: String,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct CloudSecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name("Secret"))]
    pub name: String,
}

/// Which endpoint of a service is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// The endpoint for everyone.
    #[default]
    Public,
    /// The endpoint inside the cloud's own network.
    Internal,
    /// The endpoint of the cloud's administrators.
    Admin,
}

impl Interface {
    /// Its name, as a clouds.yaml has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

/// Limits below the project's own quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceLimits {
    /// The most virtual CPUs to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub cores: Option<i32>,
    /// The most memory to use, in MiB.
    #[serde(rename = "ramMiB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000_000_i64))]
    pub ram_mib: Option<i64>,
}

/// Where floating IPs come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FloatingIp {
    /// The external network, by name or id.
    #[schemars(length(min = 1, max = 255))]
    pub network: String,
}

/// What was seen of a Provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// The generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many servers there are, by state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<ServerCounts>,
    /// The project's quota as the cloud told it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<ProjectQuota>,
    /// What was seen in the cloud with our mark and without a record: deleted after a second sighting, a few at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub leaks: Vec<LeakSighting>,
    /// When leaks were deleted, in the last ten minutes: the bound on how many is kept over restarts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub leak_deletions: Vec<Time>,
    /// `Ready`, `QuotaAvailable`, `Throttled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Servers of a Provider, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerCounts {
    /// The most that may exist: `spec.maxServers`.
    #[serde(default)]
    pub max: i32,
    /// Slots taken, whatever the state.
    #[serde(default)]
    pub used: i32,
    /// Requested or booting.
    #[serde(default)]
    pub building: i32,
    /// Reachable and unused.
    #[serde(default)]
    pub ready: i32,
    /// Given to a request.
    #[serde(default)]
    pub in_use: i32,
    /// Kept for a person to look at.
    #[serde(default)]
    pub held: i32,
    /// Not yet proven gone.
    #[serde(default)]
    pub deleting: i32,
}

/// Something of ours in the cloud whose record is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeakSighting {
    /// What it is.
    pub kind: LeakKind,
    /// The cloud's id.
    #[schemars(length(max = 255))]
    pub id: String,
    /// The uid of the record that is gone.
    #[schemars(length(max = 64))]
    pub record: String,
    /// The server that a port was left behind by.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub attached_to: Option<String>,
    /// When it was first seen without its record.
    pub first_seen: Time,
    /// In how many complete lists it was seen so.
    #[schemars(range(min = 0))]
    pub count: i32,
}

/// What can be left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LeakKind {
    /// A server.
    Server,
    /// A port.
    Port,
    /// A floating IP.
    FloatingIP,
    /// An image.
    Image,
    /// A key pair.
    KeyPair,
}

impl LeakKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Server, Self::Port, Self::FloatingIP, Self::Image, Self::KeyPair];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Port => "Port",
            Self::FloatingIP => "FloatingIP",
            Self::Image => "Image",
            Self::KeyPair => "KeyPair",
        }
    }
}

/// The project's quota, what others use of it included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectQuota {
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<QuotaUsage>,
    /// Virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<QuotaUsage>,
    /// Memory in MiB.
    #[serde(rename = "ramMiB", skip_serializing_if = "Option::is_none")]
    pub ram_mib: Option<QuotaUsage>,
}

/// One figure of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUsage {
    /// What the project may use; -1 for no limit.
    pub max: i64,
    /// What the whole project uses now.
    pub used: i64,
    /// The part of `used` that is not the operator's.
    #[serde(default)]
    pub others: i64,
}

impl ProviderSpec {
    /// A Provider with defaults for all that has one.
    #[must_use]
    pub fn new(secret: impl Into<String>, max_servers: i32) -> Self {
        Self {
            cloud: CloudRef { secret_ref: CloudSecretRef { name: secret.into() }, cloud_name: default_cloud_name() },
            region: None,
            interface: Interface::default(),
            max_servers,
            limits: None,
            requests_per_second: default_requests_per_second(),
            boot_timeout: default_boot_timeout(),
            launch_timeout: default_launch_timeout(),
            networks: Vec::new(),
            security_groups: Vec::new(),
            availability_zones: Vec::new(),
            key_pair: None,
            floating_ip: None,
            config_drive: None,
            launch_fence: LaunchFence::None,
            paused: false,
            allowed_namespaces: None,
        }
    }
}

fn default_cloud_name() -> String {
    "openstack".into()
}

/// Ten a second is below what public clouds throttle, and fills 100 nodes in about 20 s.
fn default_requests_per_second() -> f64 {
    10.0
}

fn default_boot_timeout() -> Duration {
    Duration::from_mins(2)
}

fn default_launch_timeout() -> Duration {
    Duration::from_mins(10)
}
