//! One request: what it waits for, what it got, and how it ends.
//!
//! Observe reads the verdict of the last allocation and the nodes that carry the request's claim; report writes it
//! down. A request never holds anything by itself: the claim on the node is the only hold (rule 4).

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::index::{Change, Key};
use super::{Engine, Mark, records, tenancy};
use crate::api::conditions::{self, Desired, FULFILLED, reason};
use crate::api::node_request::AssignedNode;
use crate::api::{NodeRequest, NodeRequestStatus, NodeState, PoolNode, RequestState};
use crate::plan::allocation::{Blocked, Verdict};

/// What the process remembers of requests.
#[derive(Debug, Default)]
pub struct Memory {
    gone: HashSet<String>,
    asking: HashSet<String>,
}

impl Memory {
    /// Whether a request is proven gone: deleted before our eyes, or not there when it was asked for by name.
    #[must_use]
    pub fn proven_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// No node carries its claim any more: nobody will ask again.
    pub fn forget(&mut self, uid: &str) {
        self.gone.remove(uid);
    }

    fn gone(&mut self, uid: String) {
        self.gone.insert(uid);
    }
}

/// A request's record changed.
pub fn changed(engine: &mut Engine, change: &Change<NodeRequest>) {
    let (Change::Updated(request, _) | Change::Removed(request)) = change;
    let key = Key::of(&**request);
    // Only while nodes carry its claim; a claim that lands later is asked about by name.
    if let (Change::Removed(_), Some(uid)) = (change, request.uid().filter(|uid| engine.claims.contains_key(uid))) {
        engine.memory.requests.gone(uid);
    }
    // Served, ended or gone: what becomes of the nodes that carry its claim is decided now.
    let settled = matches!(change, Change::Removed(_))
        || request.metadata.deletion_timestamp.is_some()
        || request.status.as_ref().is_some_and(|status| status.state != RequestState::Pending);
    if settled {
        mark_nodes(engine, &request.uid().unwrap_or_default());
    }
    engine.mark(Mark::Request(key));
    engine.mark(Mark::Allocation);
}

fn mark_nodes(engine: &mut Engine, request: &str) {
    let nodes: Vec<String> = claimed_by(engine, request).filter_map(|(_, node)| node.uid()).collect();
    nodes.into_iter().for_each(|uid| engine.mark(Mark::Node(uid)));
}

fn claimed_by<'a>(engine: &'a Engine, request: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<PoolNode>)> {
    engine
        .claims
        .get(request)
        .into_iter()
        .flatten()
        .filter_map(|key| engine.nodes.get(key).map(|node| (key, node)))
        .filter(move |(_, node)| node.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == request))
}

/// Observe and report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    release_orphans(engine, key);
    if let Some(request) = engine.requests.get(key).filter(|r| r.metadata.deletion_timestamp.is_none()).cloned() {
        report(engine, key, &request);
    }
}

/// Nodes claimed by a request of this name that we do not see: it is asked for before they are released.
fn release_orphans(engine: &mut Engine, key: &Key) {
    let seen = engine.requests.get(key).and_then(|request| request.uid());
    let orphans: HashSet<String> = engine
        .claimed_names
        .get(key)
        .into_iter()
        .flatten()
        .filter(|uid| seen.as_ref() != Some(*uid) && !engine.memory.requests.proven_gone(uid))
        .cloned()
        .collect();
    for uid in orphans {
        if !engine.memory.requests.asking.insert(uid.clone()) {
            continue;
        }
        let (client, key) = (engine.setup.client.clone(), key.clone());
        engine.spawn(async move {
            let answer = records::read::<NodeRequest>(&client, &key.namespace, &key.name).await;
            move |engine: &mut Engine| asked(engine, &key, uid, answer)
        });
    }
}

fn asked(engine: &mut Engine, key: &Key, uid: String, answer: Result<Option<NodeRequest>, records::WriteError>) {
    engine.memory.requests.asking.remove(&uid);
    match answer {
        Ok(found) if found.as_ref().and_then(|request| request.metadata.uid.as_ref()) != Some(&uid) => {
            mark_nodes(engine, &uid);
            engine.memory.requests.gone(uid);
        }
        // It lives: the watch will tell of it.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(request = %key, %error, "a request could not be asked for; its nodes stay");
            engine.wake_in(std::time::Duration::from_secs(2), Mark::Request(key.clone()));
        }
    }
}

fn report(engine: &mut Engine, key: &Key, request: &Arc<NodeRequest>) {
    let old = request.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let desired = match old.state {
        RequestState::Pending => pending(engine, key, request, &mut new),
        RequestState::Fulfilled => fulfilled(engine, key, request, &mut new),
        RequestState::Failed => None,
    };
    let Some(desired) = desired else { return };
    new.observed_generation = request.metadata.generation;
    conditions::set(&mut new.conditions, &desired, request.metadata.generation, &Time(engine.now));
    let before = old.state;
    let created = request.creation_timestamp().map(|time| time.0);
    engine.report(Mark::Request(key.clone()), request, &old, &new, move |engine, request: NodeRequest| {
        let state = request.status.as_ref().map(|status| status.state).unwrap_or_default();
        count(engine, before, state, created, &request);
        engine.requests.wrote(request).into_iter().for_each(|change| changed(engine, &change));
    });
}

fn count(
    engine: &Engine,
    before: RequestState,
    after: RequestState,
    created: Option<Timestamp>,
    request: &NodeRequest,
) {
    match (before, after) {
        (RequestState::Pending, RequestState::Fulfilled) => {
            let waited =
                created.and_then(|created| std::time::Duration::try_from(engine.now.duration_since(created)).ok());
            engine.setup.metrics.request_fulfilled(waited.unwrap_or_default());
        }
        (RequestState::Pending, RequestState::Failed) => {
            let reason = request
                .status
                .as_ref()
                .and_then(|s| conditions::find(&s.conditions, FULFILLED))
                .map(|c| c.reason.as_str());
            let timed_out = reason == Some(reason::WAIT_TIMEOUT);
            engine.setup.metrics.request_failed(if timed_out { "timed_out" } else { "impossible" });
        }
        _ => {}
    }
}

/// What a request that waits shows; `None` when nothing is known yet.
fn pending(engine: &mut Engine, key: &Key, request: &NodeRequest, status: &mut NodeRequestStatus) -> Option<Desired> {
    let uid = request.uid()?;
    let wanted: i64 = request.spec.nodes.iter().map(|set| i64::from(set.count)).sum();
    let claimed: Vec<Arc<PoolNode>> =
        claimed_by(engine, &uid).filter(|(_, node)| holds(node, &uid)).map(|(_, node)| Arc::clone(node)).collect();
    if i64::try_from(claimed.len()).is_ok_and(|claimed| claimed >= wanted) {
        return Some(serve(engine, request, &claimed, status));
    }
    if let Some(desired) = waited_too_long(engine, key, request, status) {
        return Some(desired);
    }
    match engine.memory.allocation.verdicts.get(&uid)? {
        Verdict::Impossible(blocked) => Some(fail(status, blocked.reason, &blocked.message)),
        Verdict::Waiting { position, blocked: Blocked { reason, message } } => {
            status.position = i32::try_from(*position).ok();
            Some(Desired::no(FULFILLED, reason, message.clone()))
        }
        // The claims are under way; the last of them reports.
        Verdict::Served => None,
    }
}

fn fail(status: &mut NodeRequestStatus, reason: &'static str, message: &str) -> Desired {
    status.state = RequestState::Failed;
    status.position = None;
    Desired::no(FULFILLED, reason, message)
}

fn waited_too_long(
    engine: &mut Engine,
    key: &Key,
    request: &NodeRequest,
    status: &mut NodeRequestStatus,
) -> Option<Desired> {
    let timeout = request.spec.wait_timeout?;
    let until = passes(request.creation_timestamp()?.0, timeout)?;
    if until > engine.now {
        engine.wake(until, Mark::Request(key.clone()));
        return None;
    }
    Some(fail(status, reason::WAIT_TIMEOUT, &format!("it waited longer than waitTimeout ({timeout})")))
}

fn passes(since: Timestamp, after: crate::api::Duration) -> Option<Timestamp> {
    since.checked_add(SignedDuration::try_from(after.as_std()).ok()?).ok()
}

fn serve(engine: &Engine, request: &NodeRequest, claimed: &[Arc<PoolNode>], status: &mut NodeRequestStatus) -> Desired {
    status.state = RequestState::Fulfilled;
    status.position = None;
    status.fulfilled_at = Some(Time(engine.now));
    status.nodes = assign(request, claimed);
    let providers: HashSet<Key> = claimed.iter().map(|node| Key::of(&**node).sibling(&node.spec.provider)).collect();
    let name = |provider: Key| provider.name.to_string();
    status.provider = (providers.len() == 1).then(|| providers.into_iter().next().map(name)).flatten();
    Desired::yes(FULFILLED, reason::NODES_ASSIGNED, format!("{} nodes are assigned", status.nodes.len()))
}

/// Nodes in the order of the request's entries, and within one in the order of their slots.
fn assign(request: &NodeRequest, claimed: &[Arc<PoolNode>]) -> Vec<AssignedNode> {
    let key = Key::of(request);
    let mut free: Vec<&Arc<PoolNode>> = claimed.iter().collect();
    free.sort_by_key(|node| (node.spec.provider.clone(), node.spec.slot));
    let mut assigned = Vec::new();
    for set in &request.spec.nodes {
        for number in 0..set.count {
            let pool = tenancy::pool(&key, set);
            let Some(at) = free.iter().position(|node| tenancy::pool_of(node).as_ref() == Some(&pool)) else { break };
            let name = if set.count == 1 { set.name.clone() } else { format!("{}-{number}", set.name) };
            assigned.push(described(&key, name, free.remove(at)));
        }
    }
    assigned
}

fn described(request: &Key, name: String, node: &PoolNode) -> AssignedNode {
    let status = node.status.clone().unwrap_or_default();
    AssignedNode {
        name: name[..name.floor_char_boundary(63)].to_owned(),
        pool_node: node.name_any(),
        namespace: tenancy::foreign(&Key::of(node), request),
        provider: node.spec.provider.clone(),
        server_id: status.server_id.unwrap_or_default(),
        address: status.address.unwrap_or_default(),
        addresses: status.addresses,
        port: status.port.unwrap_or(node.spec.port),
        username: status.username.unwrap_or_else(|| node.spec.username.clone()),
        host_keys: status.host_keys,
        availability_zone: status.availability_zone,
    }
}

/// A served request ends by its deadline; a node that it lost is told, and never replaced behind its back.
fn fulfilled(engine: &mut Engine, key: &Key, request: &NodeRequest, status: &mut NodeRequestStatus) -> Option<Desired> {
    if let Some(deadline) = request.spec.active_deadline {
        let until = passes(status.fulfilled_at.as_ref()?.0, deadline)?;
        if until <= engine.now {
            let message = format!("it was active longer than activeDeadline ({deadline}); its nodes are released");
            return Some(fail(status, reason::ACTIVE_DEADLINE_EXCEEDED, &message));
        }
        engine.wake(until, Mark::Request(key.clone()));
    }
    let lost: Vec<&str> = status
        .nodes
        .iter()
        .filter(|assigned| {
            let node = match &assigned.namespace {
                Some(namespace) => engine.nodes.get(&Key::new(namespace, &assigned.pool_node)),
                None => engine.nodes.get(&key.sibling(&assigned.pool_node)),
            };
            !node.is_some_and(|node| holds(node, &request.uid().unwrap_or_default()))
        })
        .map(|assigned| assigned.pool_node.as_str())
        .collect();
    if lost.is_empty() {
        return Some(Desired::yes(
            FULFILLED,
            reason::NODES_ASSIGNED,
            format!("{} nodes are assigned", status.nodes.len()),
        ));
    }
    Some(Desired::no(FULFILLED, reason::NODE_LOST, format!("these nodes are gone: {}", lost.join(", "))))
}

fn holds(node: &PoolNode, request: &str) -> bool {
    node.metadata.deletion_timestamp.is_none()
        && node.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == request)
        && !matches!(node.state(), NodeState::Failed | NodeState::Deleting)
}
