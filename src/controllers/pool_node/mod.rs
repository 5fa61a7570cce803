//! One node: from its record to the proof that its server is gone.
//!
//! Observe gathers what record, cloud and process know; [`plan::node::decide`] answers; act does the one step beside
//! the engine; what comes of it is reported on the record. Never chooses whom a node serves: [`super::allocation`] does.

mod act;
mod advice;
mod fence;
mod launch;
mod probing;
mod report;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::index::{Change, Key};
use super::runtime::NodeRuntime;
use super::{Engine, Mark, pool, provider, provider_image, tenancy};
use crate::api::pool_node::{ClaimKind, OnRelease};
use crate::api::{ANNOTATION_LAUNCHED_BY, NodeRequest, NodeState, Pool, PoolNode, RequestState};
use crate::cloud::{Server, ServerStatus};
use crate::plan;
use crate::plan::node::{Boot, Claim, Decision, Fence, Hold, Observation, Probe, Sighting, State, Status};

pub use self::act::{claim, condemn};
pub use self::launch::{adopt_permit, server_name};
pub use self::probing::Places;
pub use self::versions::Reads;

/// Longest launch and boot times of a node whose Provider is gone or not known.
const UNKNOWN_LAUNCH_TIMEOUT: Duration = Duration::from_secs(600);
const UNKNOWN_BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// A node's record changed.
pub fn changed(engine: &mut Engine, change: &Change<PoolNode>) {
    match change {
        Change::Updated(node, _) => {
            let Some(uid) = node.uid() else { return };
            meet(engine, node, &uid);
            if let Some(claim) = node.spec.claim_ref.as_ref().filter(|claim| claim.kind == ClaimKind::NodeRequest) {
                engine.claims.entry(claim.uid.clone()).or_default().insert(Key::of(&**node));
                let name = Key::new(&claim.namespace, &claim.name);
                engine.claimed_names.entry(name).or_default().insert(claim.uid.clone());
            }
            engine.mark(Mark::Node(uid));
            mark_neighbours(engine, node);
        }
        Change::Removed(node) => {
            forget_claim(engine, node);
            if let Some(uid) = node.uid() {
                engine.disarm(&Mark::Node(uid.clone()));
                engine.runtime.remove(&uid);
                if node.metadata.deletion_timestamp.is_some() {
                    engine.permitted.remove(&uid);
                }
            }
            mark_neighbours(engine, node);
        }
    }
}

fn forget_claim(engine: &mut Engine, node: &PoolNode) {
    let Some(claim) = &node.spec.claim_ref else { return };
    let Some(nodes) = engine.claims.get_mut(&claim.uid) else { return };
    nodes.remove(&Key::of(node));
    if !nodes.is_empty() {
        return;
    }
    engine.claims.remove(&claim.uid);
    engine.memory.requests.forget(&claim.uid);
    let name = Key::new(&claim.namespace, &claim.name);
    if let Some(uids) = engine.claimed_names.get_mut(&name) {
        uids.remove(&claim.uid);
        if uids.is_empty() {
            engine.claimed_names.remove(&name);
        }
    }
}

fn mark_neighbours(engine: &mut Engine, node: &PoolNode) {
    let key = Key::of(node);
    engine.mark(Mark::Allocation);
    mark_pool(engine, node);
    provider::mark_later(engine, key.sibling(&node.spec.provider));
    if let Some(version) = &node.spec.provider_image {
        provider_image::mark_later(engine, key.sibling(version));
    }
    if let Some(claim) = &node.spec.claim_ref {
        let claimer = Key::new(&claim.namespace, &claim.name);
        engine.mark(match claim.kind {
            ClaimKind::NodeRequest => Mark::Request(claimer),
            ClaimKind::ProviderImage => Mark::ProviderImage(claimer),
        });
    }
}

/// The counts of its pool changed.
fn mark_pool(engine: &mut Engine, node: &PoolNode) {
    if let Some(pool) = tenancy::pool_of(node) {
        pool::mark_later(engine, pool);
    }
}

/// A launch failed: told on the pool it was for.
fn note_failure(
    engine: &mut Engine,
    node: &PoolNode,
    reason: &str,
    message: &str,
    console: Option<String>,
    now: Timestamp,
) {
    if let Some(pool) = tenancy::pool_of(node) {
        engine.memory.pools.note_failure(&pool, node, reason, message, console, now);
        engine.mark(Mark::Pool(pool));
    }
}

/// The pool that a node was booted for.
fn pool_of<'a>(engine: &'a Engine, node: &PoolNode) -> Option<&'a Arc<Pool>> {
    engine.pools.get(&tenancy::pool_of(node)?)
}

/// First sight of a record: who may have booted it?
fn meet(engine: &mut Engine, node: &PoolNode, uid: &str) {
    if engine.runtime.contains_key(uid) {
        return;
    }
    let key = Key::of(node);
    let ours = node.annotations().get(ANNOTATION_LAUNCHED_BY).is_some_and(|by| *by == engine.setup.identity);
    if ours && engine.creating.get(&key).is_some_and(|creating| !creating.taken) {
        // The watch was faster than the answer to our create: the answer decides whether there is a permit.
        return;
    }
    // Our own record without a permit: its create was never answered with 201, so nobody can have booted it (rule 2).
    // Another incarnation's: it may have sent the boot request, so the server is searched for.
    let boot = if ours && !engine.permitted.contains(uid) { Boot::Never } else { Boot::Unclear };
    let mut runtime = NodeRuntime::found(key, boot);
    runtime.server_id = node.status.as_ref().and_then(|status| status.server_id.clone());
    runtime.host_keys = node.status.as_ref().map(|status| status.host_keys.clone()).unwrap_or_default();
    if runtime.server_id.is_some() {
        runtime.boot = Boot::Accepted;
    }
    if runtime.boot == Boot::Unclear && node.is_fenced() {
        // What an earlier life knew of it is asked of the cloud again.
        runtime.fence = Fence::of_unclear(engine.now);
    }
    engine.runtime.insert(uid.to_owned(), runtime);
}

/// The server of a node changed in the cloud.
pub fn server_changed(engine: &mut Engine, uid: &str) {
    if engine.runtime.contains_key(uid) {
        engine.mark(Mark::Node(uid.to_owned()));
    }
}

/// Observe, plan, act. Reports follow from what the act brings back.
pub fn reconcile(engine: &mut Engine, uid: &str) {
    let Some(node) = engine.runtime.get(uid).and_then(|runtime| engine.nodes.get(&runtime.key)).cloned() else {
        return;
    };
    if node.uid().as_deref() != Some(uid) {
        engine.runtime.remove(uid);
        return;
    }
    if engine.nodes.is_unreadable(&Key::of(&*node)) {
        return;
    }
    learn(engine, &node, uid);
    let Some(observation) = observe(engine, &node, uid) else { return };
    let Decision { step, wake } = plan::node::decide(&observation);
    if let Some(at) = wake {
        engine.wake(at.max(engine.now), Mark::Node(uid.to_owned()));
    }
    act::perform(engine, &node, uid, step);
}

/// Takes over what the cloud's view tells: the server of an unclear boot request, its first ACTIVE, its end.
fn learn(engine: &mut Engine, node: &PoolNode, uid: &str) {
    let key = Key::of(node).sibling(&node.spec.provider);
    let Some(runtime) = engine.runtime.get_mut(uid) else { return };
    let Some(connection) = engine.connections.get(&key) else { return };
    let Some(server) = connection.server_of(node, runtime.server_id.as_deref()) else {
        if runtime.server_id.as_deref().is_some_and(|id| connection.gone(id)) {
            runtime.gone = true;
        }
        return;
    };
    if runtime.server_id.is_none() {
        tracing::info!(node = %runtime.key, server = server.id, "adopted the server of an unclear boot request");
        runtime.server_id = Some(server.id.clone());
    }
    if !matches!(runtime.boot, Boot::InFlight) {
        runtime.boot = Boot::Accepted;
    }
    runtime.not_found = 0;
    runtime.gone |= server.status == ServerStatus::Deleted;
    match server.status {
        ServerStatus::Active => {
            if runtime.active_since.is_none() {
                runtime.active_since = Some(engine.now);
                engine
                    .connections
                    .get_mut(&key)
                    .into_iter()
                    .for_each(|connection| connection.host_found(&node.spec.flavor_id));
            }
        }
        _ => runtime.active_since = None,
    }
}

fn observe(engine: &Engine, node: &PoolNode, uid: &str) -> Option<Observation> {
    let runtime = engine.runtime.get(uid)?;
    let provider = engine.providers.get(&runtime.key.sibling(&node.spec.provider));
    let status = node.status.as_ref();
    Some(Observation {
        now: engine.now,
        created: node.creation_timestamp().map_or(engine.now, |time| time.0),
        state: state(node),
        condemned: node.metadata.deletion_timestamp.is_some(),
        boot: if runtime.permit.is_some() { Boot::Permitted } else { runtime.boot },
        fence: runtime.fence,
        server_known: runtime.server_id.is_some(),
        server_recorded: status.is_some_and(|status| status.server_id.is_some()),
        sighting: sighting(engine, node, runtime),
        probe: runtime.probe,
        deletion: runtime.deletion,
        looked_up: runtime.looked_up,
        claim: standing(engine, node),
        hold: node.spec.hold.as_ref().map_or(Hold::None, |hold| Hold::Until(hold.until.as_ref().map(|time| time.0))),
        address_missing: runtime.floating_ip.is_none()
            && provider.is_some_and(|provider| provider.spec.floating_ip.is_some())
            && !engine
                .connection_of(node)
                .and_then(|c| c.server_of(node, runtime.server_id.as_deref()))
                .is_some_and(|server| server.addresses.iter().any(|address| address.floating)),
        boot_timeout: provider.map_or(UNKNOWN_BOOT_TIMEOUT, |provider| provider.spec.boot_timeout.as_std()),
        settle_time: engine.setup.settle_time,
        launch_timeout: provider.map_or(UNKNOWN_LAUNCH_TIMEOUT, |provider| provider.spec.launch_timeout.as_std()),
        recheck: runtime.recheck.or_else(|| first_recheck(engine, node, uid)),
        busy: runtime.busy || runtime.condemning || runtime.claiming.is_some(),
    })
}

/// Spread over the interval by uid, so that nodes that became ready together are not probed together.
fn first_recheck(engine: &Engine, node: &PoolNode, uid: &str) -> Option<Timestamp> {
    let pool = pool_of(engine, node)?;
    let every = pool.spec.readiness.recheck.as_std();
    let ready = node.status.as_ref()?.ready_at.as_ref()?.0;
    if every.is_zero() || node.spec.probe == crate::api::pool::Probe::None {
        return None;
    }
    let share = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 1000;
    let after = every / 2 + every / 2000 * share;
    ready.checked_add(SignedDuration::try_from(after).ok()?).ok().map(|at| at.max(engine.now))
}

fn state(node: &PoolNode) -> State {
    match node.state() {
        NodeState::Building => State::Building,
        NodeState::Ready => State::Ready,
        NodeState::InUse => State::InUse,
        NodeState::Held => State::Held,
        NodeState::Failed => State::Failed,
        NodeState::Deleting => State::Deleting,
    }
}

fn sighting(engine: &Engine, node: &PoolNode, runtime: &NodeRuntime) -> Sighting {
    if runtime.gone {
        return Sighting::Gone;
    }
    let Some(connection) = engine.connection_of(node) else { return Sighting::Unlisted };
    match connection.server_of(node, runtime.server_id.as_deref()) {
        Some(server) => Sighting::Present(status(&server, runtime, engine.now)),
        None => match (connection.listed(), connection.listed_full()) {
            (Some(listed), Some(listed_full)) => Sighting::Missing { listed, listed_full },
            _ => Sighting::Unlisted,
        },
    }
}

fn status(server: &Server, runtime: &NodeRuntime, now: Timestamp) -> Status {
    match server.status {
        ServerStatus::Active => Status::Active { since: runtime.active_since.unwrap_or(now) },
        ServerStatus::Error => Status::Error,
        ServerStatus::SoftDeleted => Status::SoftDeleted,
        ServerStatus::Deleting => Status::Deleting,
        ServerStatus::Stopped | ServerStatus::Other => Status::Stopped,
        // UNKNOWN is never taken for gone or broken; DELETED was taken for gone before.
        ServerStatus::Build | ServerStatus::Unknown | ServerStatus::Deleted => Status::Building,
    }
}

/// Whether the request that has the node still lives. Only proof counts: a request that we do not see may be newer
/// than our watch, so it is asked for by name once before its nodes are released.
fn standing(engine: &Engine, node: &PoolNode) -> Claim {
    let Some(claim) = &node.spec.claim_ref else { return Claim::None };
    if claim.kind == ClaimKind::ProviderImage {
        return if provider_image::needs(engine, node, claim) { Claim::Live } else { Claim::Released };
    }
    let key = Key::new(&claim.namespace, &claim.name);
    let live = engine.requests.get(&key).filter(|request| request.uid().as_deref() == Some(&claim.uid));
    let ended = match live {
        Some(request) => {
            request.metadata.deletion_timestamp.is_some()
                || request.status.as_ref().is_some_and(|status| status.state == RequestState::Failed)
        }
        None => engine.memory.requests.proven_gone(&claim.uid),
    };
    match (ended, claim.on_release) {
        // Claimed by two leaders at once, beyond what the request asked for: nobody was ever told of this node.
        (false, _) if live.is_some_and(|request| surplus(request, node)) => Claim::Released,
        (false, _) => Claim::Live,
        (true, OnRelease::Delete) => Claim::Released,
        (true, OnRelease::Hold) => Claim::ReleasedToHold,
    }
}

/// Whether a request was served without this node, though the node carries its claim. What a request was served with
/// is written once, together with `Fulfilled`, and never changes.
fn surplus(request: &NodeRequest, node: &PoolNode) -> bool {
    let (key, name) = (Key::of(request), node.name_any());
    let namespace = tenancy::foreign(&Key::of(node), &key);
    request.status.as_ref().is_some_and(|status| {
        let mut assigned = status.nodes.iter();
        status.state == RequestState::Fulfilled
            && !assigned.any(|assigned| assigned.pool_node == name && assigned.namespace == namespace)
    })
}

/// The probe that a re-check starts from.
const fn rested(probe: Probe) -> Probe {
    match probe {
        Probe::Running => Probe::Running,
        Probe::Idle | Probe::Answered | Probe::Lost => Probe::Idle,
    }
}
