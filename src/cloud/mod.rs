//! The port to a cloud: what the operator asks of it, in which words, and how it can fail.
//!
//! This room turns calls into answers or classed errors. It never sees Kubernetes, never decides what to do about an
//! answer, and never lets a credential, a token, user data or a response body into an error (rule 16).

pub mod error;
mod marks;
pub mod openstack;
pub mod poller;
pub mod probe;
pub mod view;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

pub use error::{CloudError, ErrorClass};
pub use marks::{key_pair_name, key_pair_record};

/// Everything made in a cloud carries the installation's owner under this metadata key (rule 10).
pub const OWNER_KEY: &str = "nodepool_owner";
/// The uid of the record a thing was made for, under this metadata key (rule 10).
pub const RECORD_KEY: &str = "nodepool_record";
/// `namespace/name` of the Provider a server was booted through: two Providers may share a project.
pub const PROVIDER_KEY: &str = "nodepool_provider";
/// The server that a snapshot was made of, on the snapshot. Nova hands the marks of an image down to every snapshot of
/// a server that was booted from it: a snapshot that somebody else takes of it is told from ours by this.
pub const SERVER_KEY: &str = "nodepool_server";

/// Who made a thing and for which record: written on everything we make, compared before anything is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// The installation.
    pub owner: String,
    /// The uid of the record.
    pub record: String,
    /// `namespace/name` of the Provider.
    pub provider: String,
}

/// A server's status, as far as decisions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerStatus {
    /// Still being built (`BUILD`).
    Build,
    /// Running.
    Active,
    /// Failed, or failed to be deleted; still holds its resources.
    Error,
    /// Its deletion is under way, whatever its status says: exists and holds its slot, never serves again.
    Deleting,
    /// Proven gone: a record of a deleted server.
    Deleted,
    /// Deleted but reclaimable: still holds its slot.
    SoftDeleted,
    /// The cloud cannot say (a cell is down): never taken for gone.
    Unknown,
    /// Shut down (`SHUTOFF`), and nothing is being done to it.
    Stopped,
    /// Anything else (PAUSED, REBOOT, …): exists, does not serve.
    Other,
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address itself.
    pub ip: std::net::IpAddr,
    /// Whether it is a floating IP.
    pub floating: bool,
    /// The name of the network.
    pub network: String,
}

/// What servers cost: the units of limits and quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Servers.
    pub instances: i64,
    /// Virtual CPUs.
    pub cores: i64,
    /// Memory in MiB.
    pub ram_mib: i64,
}

/// A server as a list or a GET shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// The cloud's id.
    pub id: String,
    /// The name; not unique in a cloud by itself.
    pub name: String,
    /// Its status.
    pub status: ServerStatus,
    /// Set when its metadata or tags name an owner.
    pub ownership: Option<Ownership>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Where it runs, when told.
    pub availability_zone: Option<String>,
    /// When the cloud says it was made.
    pub created: Option<Timestamp>,
    /// What it costs, when the list tells (microversion 2.47 and later embed the flavor).
    pub resources: Option<Resources>,
    /// Why it failed, scrubbed and cut to 256 characters.
    pub fault: Option<Fault>,
}

/// Why a server failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of failure it tells.
    pub class: ErrorClass,
    /// Nova's message, one line, at most 256 characters.
    pub message: String,
}

/// Which servers to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerQuery {
    /// All of the project, foreign ones included.
    Full,
    /// Those that changed since (deleted ones included). By the cloud's clock.
    ChangedSince(Timestamp),
}

/// The answer to a list: complete, all pages read.
#[derive(Clone, Debug)]
pub struct ServerList {
    /// The servers, each id once.
    pub servers: Vec<Server>,
    /// The cloud's own clock (`Date` header) when the first page was answered.
    pub taken_at: Timestamp,
}

/// A flavor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flavor {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What a server of it costs.
    pub resources: Resources,
}

/// Where an image is in its life in the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageStatus {
    /// Made, and without bytes yet. An upload that was given up comes back to this.
    Queued,
    /// Its bytes are coming.
    Saving,
    /// Complete.
    Active,
    /// Complete, and an administrator lets nobody have its bytes.
    Deactivated,
    /// On its way out, or never to be complete.
    Gone,
}

/// An image of the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: ImageStatus,
    /// Whether lists leave it out.
    pub hidden: bool,
    /// When it was made.
    pub created: Timestamp,
    /// How many bytes it has, once they are there.
    pub size: Option<u64>,
    /// Whether the cloud refuses to delete it.
    pub protected: bool,
    /// Set when its properties or tags name an owner.
    pub ownership: Option<Ownership>,
}

impl Image {
    /// Whether it can be booted and is meant to be.
    #[must_use]
    pub fn bootable(&self) -> bool {
        self.status == ImageStatus::Active && !self.hidden
    }
}

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// The unique name by which it is found again.
    pub name: String,
    /// Who makes it, and for which record.
    pub ownership: Ownership,
    /// `qcow2`, `raw`, …; a snapshot has the format that its host writes, whatever this says.
    pub disk_format: &'static str,
    /// Further properties, the DiskImage's own.
    pub properties: BTreeMap<String, String>,
}

/// The bytes of an image, as they come.
pub type ImageBytes = Pin<Box<dyn futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static>>;

/// How to find an image that others manage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSelector {
    /// By exact name.
    Name(String),
    /// By id.
    Id(String),
}

/// The project's limits and how much of each is used by anybody; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Servers.
    pub instances: Usage,
    /// Virtual CPUs.
    pub cores: Usage,
    /// Memory in MiB.
    pub ram_mib: Usage,
}

/// One limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most there may be; `None` is unlimited.
    pub max: Option<i64>,
    /// How much the whole project uses.
    pub used: i64,
}

/// Asked at the last moment before a request leaves: may it still be sent? A request may wait long for its turn, and
/// a process may be stopped meanwhile.
pub type MayStill = Arc<dyn Fn() -> bool + Send + Sync>;

/// A request for one server. Not `Debug`: it carries user data.
#[derive(Clone)]
pub struct BootRequest {
    /// The unique name by which the server is found again.
    pub name: String,
    /// Who makes it, and for which record.
    pub ownership: Ownership,
    /// The image's id.
    pub image_id: String,
    /// The flavor's id.
    pub flavor_id: String,
    /// Network names or ids; empty leaves the choice to the cloud.
    pub networks: Vec<String>,
    /// Security group names; empty is the project's default.
    pub security_groups: Vec<String>,
    /// The zone to boot in, if one was chosen.
    pub availability_zone: Option<String>,
    /// A key pair's name.
    pub key_name: Option<String>,
    /// Whether to attach a config drive; `None` leaves it to the cloud.
    pub config_drive: Option<bool>,
    /// User data, not yet encoded.
    pub user_data: Option<SecretString>,
    /// Further metadata, the pool's own.
    pub metadata: BTreeMap<String, String>,
    /// The port that takes the place of the first network, made before by [`Cloud::create_port`]: a fence.
    pub port: Option<String>,
    /// Whether the right to boot still holds (rule 2).
    pub may_still: MayStill,
}

/// A port or a floating IP that may be left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPart {
    /// Its id.
    pub id: String,
    /// Set when its tags or description name an owner.
    pub ownership: Option<Ownership>,
    /// The server (ports) or the port (floating IPs) it is attached to.
    pub attached_to: Option<String>,
    /// The address of a floating IP.
    pub address: Option<std::net::IpAddr>,
    /// When it was made, if told.
    pub created: Option<Timestamp>,
}

/// A service of the cloud that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Its type in the catalog: `network`.
    pub service: &'static str,
    /// How it shows.
    pub message: String,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} service does not answer: {}", self.service, self.message)
    }
}

/// What the port of a boot request tells of it, once it was asked to let no server have it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// A boot request that names it and has not passed by now is refused for ever.
    Closed,
    /// This server has it.
    Taken(String),
    /// There is no such port, or not yet: nothing is known.
    Absent,
}

/// A cloud, as the operator sees it: one project in one region, through one Provider's credentials.
///
/// Every call has a deadline, is counted by one rate limiter below all retries, and may be repeated by the
/// implementation only when repeating cannot change the cloud. [`Cloud::create_server`] is sent exactly once.
/// Only [`Cloud::upload_image`] may take as long as it needs: its deadline is one on silence.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// Proves that the credentials work and the catalog has what is needed.
    async fn check(&self) -> Result<(), CloudError>;
    /// All pages of a server list, or an error: never a part of a list.
    async fn list_servers(&self, query: ServerQuery) -> Result<ServerList, CloudError>;
    /// One server by id. [`ErrorClass::NotFound`] is proof that it is gone.
    async fn get_server(&self, id: &str) -> Result<Server, CloudError>;
    /// Sends one POST, once, and returns the new server's id. After any error whose class is
    /// [`ErrorClass::Unclear`] the server may exist all the same.
    async fn create_server(&self, request: &BootRequest) -> Result<String, CloudError>;
    /// Asks for deletion. [`ErrorClass::NotFound`] is proof that it is gone.
    async fn delete_server(&self, id: &str) -> Result<(), CloudError>;
    /// Asks for immediate deletion of a soft-deleted server.
    async fn force_delete_server(&self, id: &str) -> Result<(), CloudError>;
    /// The last lines of a server's console.
    async fn console_tail(&self, id: &str, lines: u32) -> Result<String, CloudError>;
    /// All flavors the project may use.
    async fn flavors(&self) -> Result<Vec<Flavor>, CloudError>;
    /// Images that match, in any state.
    async fn images(&self, selector: &ImageSelector) -> Result<Vec<Image>, CloudError>;
    /// Makes an empty image, once, and returns its id. Private, in a bare container, with its ownership as properties.
    /// After [`ErrorClass::Unclear`] it may exist all the same.
    async fn create_image(&self, image: &NewImage) -> Result<String, CloudError>;
    /// Sends an image's bytes, once. It may take as long as it takes, but not stand still; a stream that ends in an
    /// error aborts it. Whatever the outcome, only the image itself tells what came of it: an upload that was cut off
    /// can leave an active image that is too short, so its size is to be compared.
    async fn upload_image(&self, id: &str, bytes: ImageBytes) -> Result<(), CloudError>;
    /// One image by id. [`ErrorClass::NotFound`] is proof that it is gone.
    async fn get_image(&self, id: &str) -> Result<Image, CloudError>;
    /// The images of the project that carry the owner's mark, in any state, hidden ones included.
    async fn images_of(&self, owner: &str) -> Result<Vec<Image>, CloudError>;
    /// Asks for deletion. [`ErrorClass::NotFound`] is proof that it is gone, [`ErrorClass::Conflict`] says that
    /// something uses it, [`ErrorClass::Invalid`] that it is protected.
    async fn delete_image(&self, id: &str) -> Result<(), CloudError>;
    /// Makes an image of a server, once, and returns its id. After [`ErrorClass::Unclear`] it may exist all the same.
    /// A snapshot that fails later takes its image with it.
    async fn snapshot_server(&self, server_id: &str, image: &NewImage) -> Result<String, CloudError>;
    /// Shuts a server down in good order, which takes a while; one that is stopped, or stopping, is no error.
    async fn stop_server(&self, id: &str) -> Result<(), CloudError>;
    /// Makes a key pair of a public key in OpenSSH's form. One of this name with the same key is no error, one with
    /// another key is [`ErrorClass::Conflict`].
    async fn create_key_pair(&self, name: &str, public_key: &str) -> Result<(), CloudError>;
    /// Deletes a key pair; one that is gone is no error.
    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError>;
    /// The names of all key pairs, which belong to the credentials' user and not to the project.
    async fn key_pairs(&self) -> Result<Vec<String>, CloudError>;
    /// The project's limits and usage.
    async fn limits(&self) -> Result<Limits, CloudError>;
    /// The floating IPs of the project.
    async fn floating_ips(&self) -> Result<Vec<NetworkPart>, CloudError>;
    /// Makes a floating IP on the named network for a server's first port and attaches it; finds the one made before
    /// for the same record instead of making a second.
    async fn attach_floating_ip(
        &self,
        network: &str,
        server_id: &str,
        ownership: &Ownership,
    ) -> Result<std::net::IpAddr, CloudError>;
    /// Deletes a floating IP; one that is gone is no error.
    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError>;
    /// Makes the port that a boot request is to name, on its first network and with its security groups, and returns
    /// its id. Sent once; after [`ErrorClass::Unclear`] the port may exist all the same.
    async fn create_port(&self, request: &BootRequest) -> Result<String, CloudError>;
    /// Lets no server have the port that was made for a boot request, unless one has it already.
    async fn close_port(&self, name: &str, ownership: &Ownership) -> Result<Passage, CloudError>;
    /// The ports that were made for a boot request, by its name and mark.
    async fn ports_made(&self, name: &str, ownership: &Ownership) -> Result<Vec<NetworkPart>, CloudError>;
    /// The ports of the project that carry the owner's mark.
    async fn ports(&self, owner: &str) -> Result<Vec<NetworkPart>, CloudError>;
    /// The ports of these servers, found by the server they are attached to: those that Nova makes carry no mark of
    /// ours, and stay behind when the network service was away while their server was deleted.
    async fn ports_of(&self, server_ids: &[String]) -> Result<Vec<NetworkPart>, CloudError>;
    /// Deletes a port; one that is gone is no error.
    async fn delete_port(&self, id: &str) -> Result<(), CloudError>;
    /// The services that do not answer at all: what one service says of another does not tell which it was.
    async fn silent_services(&self) -> Vec<Silence>;
}
