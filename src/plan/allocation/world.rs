//! What the allocation sees and what it answers: plain values, indexed by position.
//!
//! Positions (`usize`) index the vectors of one [`World`]; they mean nothing in the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// What servers cost, and what limits are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Virtual CPUs.
    pub cores: i64,
    /// Memory in MiB.
    pub ram_mib: i64,
}

/// Everything one pass decides about: the watched records overlaid with our own unconfirmed writes.
#[derive(Clone, Debug)]
pub struct World {
    /// The time of the observation.
    pub now: Timestamp,
    /// Providers, in a stable order.
    pub providers: Vec<Provider>,
    /// Pools, in a stable order.
    pub pools: Vec<Pool>,
    /// All node records, whatever their state: each holds its slot.
    pub nodes: Vec<Node>,
    /// Requests that are not yet ended.
    pub requests: Vec<Request>,
}

/// One Provider's room.
#[derive(Clone, Debug)]
pub struct Provider {
    /// `namespace/name`, for messages.
    pub name: String,
    /// Slots: the most servers there may ever be at once (rule 1).
    pub max_servers: u32,
    /// The most servers the cloud would let us have: its quota minus what others use; `None` is unlimited.
    pub max_instances: Option<i64>,
    /// The most cores for our servers (`limits` and quota minus others); `None` is unlimited.
    pub max_cores: Option<i64>,
    /// The most memory for our servers; `None` is unlimited.
    pub max_ram_mib: Option<i64>,
    /// Whether servers may be launched here at all.
    pub gate: Gate,
    /// Whether the provider is being deleted: nothing new, idle nodes go.
    pub draining: bool,
}

/// Whether something may be launched now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// At most one launch in flight: the probe of a back-off step (rule 3).
    Probe(Blocked),
    /// No.
    Closed(Blocked),
}

/// Why something is not launched: the reason a pool or a request shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// A reason of `api::conditions`.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

/// One Pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// `namespace/name`, for messages.
    pub name: String,
    /// How many ready and unclaimed nodes are wanted.
    pub min_ready: u32,
    /// The most nodes it may have, in any state.
    pub max_nodes: Option<u32>,
    /// Ready nodes older than this are replaced.
    pub max_ready_age: Option<Duration>,
    /// Launches nothing new and replaces nothing.
    pub paused: bool,
    /// Being deleted: unclaimed nodes go.
    pub draining: bool,
    /// Replace outdated idle nodes now (`Rolling`), or only as they are used (`OnReplenish`).
    pub rolling: bool,
    /// How many of `min_ready` may be missing because of replacement.
    pub max_unavailable: u32,
    /// Where it may launch, at most one entry a provider.
    pub offers: Vec<Offer>,
    /// What to do about a provider that it names and that is not there for it. One that is closed to it, or of which
    /// nobody can tell that now, is no offer and is told as if it were not there.
    pub missing: Option<Blocked>,
}

/// A pool's use of one provider.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Index into [`World::providers`].
    pub provider: usize,
    /// The most nodes of this pool there.
    pub max_nodes: Option<u32>,
    /// Lower is filled first; equals share in proportion to free capacity.
    pub priority: i32,
    /// What would be booted there; `Err` says what is missing (image, flavor).
    pub template: Result<Template, Blocked>,
    /// Back-pressure and launch health of this image and flavor there.
    pub gate: Gate,
}

/// What a pool boots on one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Nodes with another hash are outdated.
    pub hash: Arc<str>,
    /// What one server costs.
    pub resources: Resources,
}

/// Where a node stands, as far as allocation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Our create is not answered yet: it holds the slot, nothing may be done to it.
    Creating,
    /// Booting.
    Building,
    /// Booted, reachable, unused.
    Ready,
    /// Not claimed, and nobody can tell now whether its pool may use it, or what its pool says: it counts for
    /// `minReady`, is given to nobody, and goes only with its pool or provider.
    Kept,
    /// A request has it, or our claim is not answered yet.
    Claimed,
    /// Kept for people.
    Held,
    /// Failed, deleting, or our condemnation is not answered yet: holds its slot until proven gone.
    Leaving,
}

/// One node record.
#[derive(Clone, Debug)]
pub struct Node {
    /// Index into [`World::providers`].
    pub provider: usize,
    /// Index into [`World::pools`]; `None` when its pool is gone.
    pub pool: Option<usize>,
    /// Its slot.
    pub slot: u32,
    /// Where it stands.
    pub state: NodeState,
    /// The request that has it: an index into [`World::requests`], when it is claimed by one of those.
    pub request: Option<usize>,
    /// The hash of the template it was made from.
    pub hash: Arc<str>,
    /// When its record was made.
    pub created: Timestamp,
    /// When it became ready.
    pub ready_since: Option<Timestamp>,
    /// What it costs.
    pub resources: Resources,
}

/// One waiting NodeRequest.
#[derive(Clone, Debug)]
pub struct Request {
    /// `namespace/name`, for messages.
    pub name: String,
    /// Higher first.
    pub priority: i32,
    /// Older first.
    pub created: Timestamp,
    /// All on one provider unless set.
    pub spread: bool,
    /// What it wants.
    pub entries: Vec<Entry>,
}

/// A part of a request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Index into [`World::pools`]; `Err` names the pool that does not exist.
    pub pool: Result<usize, Blocked>,
    /// Why nobody can tell now whether the request may use the pool: nothing is given to it or made for it meanwhile,
    /// and what was made for it is not too much.
    pub unsure: Option<Blocked>,
    /// How many nodes.
    pub count: u32,
}

/// One step of a plan. Steps of one plan never touch the same node or slot twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a record in this slot, and boot it.
    Create {
        /// Index into [`World::providers`].
        provider: usize,
        /// The slot.
        slot: u32,
        /// Index into [`World::pools`].
        pool: usize,
    },
    /// Give a ready node to a request.
    Claim {
        /// Index into [`World::nodes`].
        node: usize,
        /// Index into [`World::requests`].
        request: usize,
        /// Index into the request's entries.
        entry: usize,
    },
    /// Destroy a node that nobody has.
    Condemn {
        /// Index into [`World::nodes`].
        node: usize,
        /// Why.
        why: Condemnation,
    },
}

/// Why an unclaimed node is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condemnation {
    /// More than `minReady` are there.
    Surplus,
    /// Older than `maxReadyAge`.
    Aged,
    /// Made from another image or template.
    Outdated,
    /// Its place is needed for a request.
    Evicted,
    /// Its pool or provider is being deleted, or no longer offers it.
    Drained,
}

/// What becomes of a request in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All its nodes are claimed (those claimed by this plan's steps included).
    Served,
    /// It waits.
    Waiting {
        /// Its place in the queue, from 1.
        position: u32,
        /// What it waits for.
        blocked: Blocked,
    },
    /// It can never be served as things are configured.
    Impossible(Blocked),
}

/// Memory between passes, for fairness: how many passes in a row each pool wanted and got nothing at a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fairness {
    /// By (pool name, provider name).
    pub waits: BTreeMap<(String, String), u32>,
}

/// The answer to one world.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to do; independent of each other.
    pub steps: Vec<Step>,
    /// For each request of the world, what becomes of it.
    pub verdicts: Vec<Option<Verdict>>,
    /// For each pool of the world, why it is below `minReady` and nothing (more) is launched for it.
    pub blocked: Vec<Option<Blocked>>,
    /// When time alone changes the answer.
    pub wake: Option<Timestamp>,
    /// Memory for the next pass.
    pub fairness: Fairness,
}
