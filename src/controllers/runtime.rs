//! What this process alone knows of a node: permits, calls under way, what was seen but not yet recorded.
//!
//! All of it may be lost at any instant (rule 14): whatever is missing here is found again from the record and the
//! cloud, except the right to send the boot request, which dies with the process on purpose (rule 2).

use jiff::Timestamp;

use super::index::Key;
use super::records::LaunchPermit;
use crate::cloud::CloudError;
use crate::plan::allocation::Resources;
use crate::plan::node::{Boot, Deletion, Fence, Probe};

/// A record whose create is not answered yet: it holds its slot.
#[derive(Clone, Debug)]
pub struct Creating {
    /// The Provider.
    pub provider: Key,
    /// The Pool; none for the server of an image.
    pub pool: Option<Key>,
    /// Who has it from the start: the uid of the ProviderImage that is made or tried on it.
    pub claim: Option<String>,
    /// The slot.
    pub slot: u32,
    /// The template's hash.
    pub hash: String,
    /// What the server will cost.
    pub resources: Resources,
    /// Since when.
    pub since: Timestamp,
    /// Whether the name turned out to be taken by a record that we do not see yet (or cannot read).
    pub taken: bool,
}

/// The port that a fenced boot request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadePort {
    /// Certainly none.
    None,
    /// Nobody can tell: a lost answer, or another process may have made it.
    Unknown,
    /// This one, by its id.
    Made(String),
}

/// What is known of one node beside its record.
#[derive(Debug)]
pub struct NodeRuntime {
    /// Its record.
    pub key: Key,
    /// The right to boot, while it is unused.
    pub permit: Option<LaunchPermit>,
    /// Its boot request.
    pub boot: Boot,
    /// What stands between its boot request and a server.
    pub fence: Fence,
    /// How often the fence could not be closed.
    pub fence_failures: u32,
    /// The port of that fence.
    pub port: MadePort,
    /// When it was sent.
    pub sent: Option<Timestamp>,
    /// Why it was refused.
    pub refusal: Option<CloudError>,
    /// The server, once known.
    pub server_id: Option<String>,
    /// When it was first seen ACTIVE.
    pub active_since: Option<Timestamp>,
    /// Proven gone.
    pub gone: bool,
    /// Its probe.
    pub probe: Probe,
    /// What the probe recorded.
    pub host_keys: Vec<String>,
    /// How often a floating IP could not be attached.
    pub address_failures: u32,
    /// Its failed launch was counted and told.
    pub told: bool,
    /// The floating IP that was attached.
    pub floating_ip: Option<std::net::IpAddr>,
    /// When an idle node is probed again.
    pub recheck: Option<Timestamp>,
    /// Its deletion in the cloud.
    pub deletion: Deletion,
    /// How often the cloud took the deletion.
    pub deletions: u32,
    /// How often the deletion failed in a row.
    pub deletion_failures: u32,
    /// When the server was last looked up by id.
    pub looked_up: Option<Timestamp>,
    /// How many look-ups in a row found nothing.
    pub not_found: u32,
    /// A write or a call for it is under way.
    pub busy: bool,
    /// Our claim that is not answered yet: the uid of the request.
    pub claiming: Option<String>,
    /// Our condemnation is not answered yet.
    pub condemning: bool,
    /// When it is looked at again by itself.
    pub alarm: Option<Timestamp>,
}

impl NodeRuntime {
    /// A node that this process knows nothing else of: whoever may have booted it is not us.
    #[must_use]
    pub const fn found(key: Key, boot: Boot) -> Self {
        Self {
            key,
            permit: None,
            boot,
            fence: Fence::Off,
            fence_failures: 0,
            port: MadePort::Unknown,
            sent: None,
            refusal: None,
            server_id: None,
            active_since: None,
            gone: false,
            probe: Probe::Idle,
            host_keys: Vec::new(),
            address_failures: 0,
            told: false,
            floating_ip: None,
            recheck: None,
            deletion: Deletion::Unsent,
            deletions: 0,
            deletion_failures: 0,
            looked_up: None,
            not_found: 0,
            busy: false,
            claiming: None,
            condemning: false,
            alarm: None,
        }
    }
}
