//! What a Pool shows: its counts, why it is not full, and how its launches go.
//!
//! Never launches: [`super::allocation`] does. Also says what makes a node of the pool outdated ([`hash`]).

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::index::{Change, Key};
use super::provider::REPORT_EVERY;
use super::{Engine, Mark, allocation, tenancy};
use crate::api::conditions::{self, AVAILABLE, Desired, LAUNCH_HEALTHY, PROGRESSING, reason};
use crate::api::disk_image::Login;
use crate::api::pool::{LaunchFailure, PoolProvider};
use crate::api::{NodeState, Pool, PoolNode, PoolStatus, Provider};
use crate::ops::events::Severity;
use crate::plan::node::Boot;
use crate::plan::pressure::later;
use crate::plan::tenancy::Access;

/// The version of the formula in [`hash`]: a new formula must not replace every node there is.
pub const HASH_VERSION: &str = "1";
/// A boot request may take this long before the pool tells of it; slow clouds need a few seconds.
const ANSWERED_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);
/// The longest message and console that are kept with a failure; the schema's bounds.
const MESSAGE_BYTES: usize = 2048;

/// What the process remembers of pools: their last failed launches.
#[derive(Debug, Default)]
pub struct Memory {
    failures: HashMap<Key, LaunchFailure>,
}

impl Memory {
    /// A launch for this pool failed.
    pub fn note_failure(
        &mut self,
        pool: &Key,
        node: &PoolNode,
        reason: &str,
        message: &str,
        console: Option<String>,
        now: Timestamp,
    ) {
        let message = message[..message.floor_char_boundary(MESSAGE_BYTES)].to_owned();
        let failure = LaunchFailure {
            time: Time(now),
            provider: node.spec.provider.clone(),
            node: node.metadata.name.clone().unwrap_or_default(),
            reason: reason.to_owned(),
            message,
            console,
        };
        self.failures.insert(pool.clone(), failure);
    }
}

/// A Pool's record changed.
pub fn changed(engine: &mut Engine, change: &Change<Pool>) {
    let (Change::Updated(pool, _) | Change::Removed(pool)) = change;
    let key = Key::of(&**pool);
    match change {
        Change::Updated(pool, Some(before))
            if before.spec == pool.spec && before.metadata.deletion_timestamp == pool.metadata.deletion_timestamp => {}
        _ => engine.mark(Mark::Allocation),
    }
    if matches!(change, Change::Removed(_)) {
        engine.memory.pools.failures.remove(&key);
    }
    mark_later(engine, key);
}

/// The Pool's counts changed; its status follows within a second.
pub fn mark_later(engine: &mut Engine, key: Key) {
    engine.mark_within(REPORT_EVERY, Mark::Pool(key));
}

/// Tells people on the pool what happened to one of its nodes.
pub fn event(engine: &Engine, node: &PoolNode, reason: &str, message: &str) {
    let Some(pool) = tenancy::pool_of(node).and_then(|pool| engine.pools.get(&pool)) else { return };
    let note = format!("{} on {}: {message}", node.metadata.name.as_deref().unwrap_or("?"), node.spec.provider);
    engine.setup.events.publish(&pool.object_ref(&()), Severity::Warning, reason, note);
}

/// Two nodes with the same hash were made from the same image, flavor and settings.
#[must_use]
pub fn hash(pool: &Pool, provider: &Provider, image_id: &str, flavor_id: &str, login: &Login) -> String {
    let spec = &provider.spec;
    let parts = json!([
        image_id,
        flavor_id,
        login.username,
        login.port,
        pool.spec.user_data_secret_ref,
        pool.spec.metadata,
        pool.spec.readiness.probe,
        spec.networks,
        spec.security_groups,
        spec.key_pair,
        spec.config_drive,
        spec.floating_ip,
    ]);
    Sha256::digest(parts.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Observe and report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    let Some(pool) = engine.pools.get(key).cloned() else { return };
    let old = pool.status.clone().unwrap_or_default();
    let mut new = counts(engine, key, &pool);
    new.last_launch_failure =
        engine.memory.pools.failures.get(key).cloned().or_else(|| old.last_launch_failure.clone());
    new.conditions.clone_from(&old.conditions);
    let due = unanswered(engine, key).map(|(due, _)| due).filter(|due| *due > engine.now);
    due.into_iter().for_each(|due| engine.wake(due, Mark::Pool(key.clone())));
    let desired =
        [available(engine, key, &pool, &new), progressing(engine, key, &pool, &new), healthy(engine, key, &pool, &new)];
    conditions::set_all(&mut new.conditions, &desired, pool.metadata.generation, &Time(engine.now));
    engine.report(Mark::Pool(key.clone()), &pool, &old, &new, |engine, pool: Pool| {
        engine.pools.wrote(pool).into_iter().for_each(|change| changed(engine, &change));
    });
}

fn counts(engine: &Engine, key: &Key, pool: &Pool) -> PoolStatus {
    let mut status = PoolStatus {
        observed_generation: pool.metadata.generation,
        selector: tenancy::selector(key),
        ..PoolStatus::default()
    };
    let hash = |provider: Key| {
        let launch = allocation::template(engine, key, pool, &provider);
        (provider, launch.ok().map(|launch| launch.hash))
    };
    let hashes: HashMap<Key, Option<String>> =
        pool.spec.providers.iter().map(|offer| hash(tenancy::provider(key, offer))).collect();
    for (at, node) in engine.nodes.iter().filter(|(node, record)| is_of(key, node, record)) {
        status.total += 1;
        let wanted = hashes.get(&at.sibling(&node.spec.provider)).and_then(Option::as_deref);
        if wanted == Some(node.spec.template_hash.as_str()) && node.metadata.deletion_timestamp.is_none() {
            status.updated += 1;
        }
        *state_count(&mut status, node) += 1;
    }
    status
}

fn is_of(pool: &Key, node: &Key, record: &PoolNode) -> bool {
    record.spec.pool.as_deref() == Some(&*pool.name)
        && record.spec.pool_namespace.as_deref().unwrap_or(&node.namespace) == &*pool.namespace
}

fn state_count<'a>(status: &'a mut PoolStatus, node: &PoolNode) -> &'a mut i32 {
    match (node.metadata.deletion_timestamp.is_some(), node.state()) {
        (true, _) | (_, NodeState::Failed | NodeState::Deleting) => &mut status.deleting,
        (_, NodeState::Building) => &mut status.building,
        (_, NodeState::Ready) if node.spec.claim_ref.is_none() => &mut status.ready,
        (_, NodeState::Ready | NodeState::InUse) => &mut status.in_use,
        (_, NodeState::Held) => &mut status.held,
    }
}

fn available(engine: &Engine, key: &Key, pool: &Pool, status: &PoolStatus) -> Desired {
    if status.ready >= pool.spec.min_ready {
        let reason = if pool.spec.min_ready == 0 { reason::SCALED_TO_ZERO } else { reason::AS_EXPECTED };
        return Desired::yes(AVAILABLE, reason, "");
    }
    if pool.spec.paused {
        return Desired::no(AVAILABLE, reason::PAUSED, "nothing is launched while paused is true");
    }
    let mut named = pool.spec.providers.iter().map(|offer| tenancy::provider(key, offer));
    if let Some(missing) = named.find(|provider| tenancy::of_provider(engine, key, provider) != Access::Allowed) {
        // Told also when the others could do it all: it is what a person can mend.
        return Desired::no(AVAILABLE, reason::PROVIDER_NOT_FOUND, tenancy::no_provider(key, &missing));
    }
    if let Some(message) = connecting(engine, key, pool) {
        return Desired::unknown(AVAILABLE, reason::NOT_YET_KNOWN, message);
    }
    match (engine.memory.allocation.blocked.get(key), last_failure(engine, key, pool)) {
        (Some(blocked), Some(last)) if blocked.reason == reason::LAUNCHES_FAILING => {
            Desired::no(AVAILABLE, blocked.reason, format!("{}; the last: {}", blocked.message, last.message))
        }
        (Some(blocked), _) => Desired::no(AVAILABLE, blocked.reason, blocked.message.clone()),
        (None, Some(last)) => {
            let message = format!("nodes are being launched; the last launch failed: {}", last.message);
            Desired::no(AVAILABLE, reason::LAUNCHES_FAILING, message)
        }
        (None, None) => match unanswered(engine, key).filter(|(due, _)| *due <= engine.now) {
            Some((_, provider)) => {
                let message = format!(
                    "the Provider {provider} has answered no boot request for {} s: look at its compute service and the \
                     message bus behind it",
                    ANSWERED_WITHIN.as_secs()
                );
                Desired::no(AVAILABLE, reason::LAUNCHING, message)
            }
            None => Desired::no(AVAILABLE, reason::LAUNCHING, "nodes are being launched"),
        },
    }
}

/// A Provider that is silent about this pool's boot requests, and when that is worth telling.
fn unanswered<'a>(engine: &'a Engine, key: &Key) -> Option<(Timestamp, &'a str)> {
    let silent_since = |at: &Key, record: &'a PoolNode| {
        let runtime =
            engine.runtime.get(record.metadata.uid.as_ref()?).filter(|runtime| runtime.boot == Boot::InFlight)?;
        let answered = engine.connections.get(&at.sibling(&record.spec.provider))?.boot_answered;
        Some((later(runtime.sent.max(answered)?, ANSWERED_WITHIN), record.spec.provider.as_str()))
    };
    let nodes = engine.nodes.iter().filter(|(node, record)| is_of(key, node, record));
    nodes.filter_map(|(at, record)| silent_since(at, record)).min()
}

/// The last failed launch, if nothing was launched well since where it failed.
fn last_failure<'a>(engine: &'a Engine, key: &Key, pool: &Pool) -> Option<&'a LaunchFailure> {
    let failed = |offer: &PoolProvider| {
        let provider = tenancy::provider(key, offer);
        let launch = allocation::template(engine, key, pool, &provider).ok()?;
        Some(engine.connections.get(&provider)?.health(&launch.hash)?.last_was_bad())
    };
    let last = engine.memory.pools.failures.get(key)?;
    failed(pool.spec.providers.iter().find(|offer| offer.name == last.provider)?)?.then_some(last)
}

/// At the start a pool waits for its Providers for a moment.
fn connecting(engine: &Engine, key: &Key, pool: &Pool) -> Option<String> {
    let fresh = |offer: &PoolProvider| allocation::settling(engine, key, pool, &tenancy::provider(key, offer));
    let offer = pool.spec.providers.iter().find(|offer| fresh(offer))?;
    Some(format!("the Provider {} is being connected", offer.name))
}

fn progressing(engine: &Engine, key: &Key, pool: &Pool, status: &PoolStatus) -> Desired {
    let outdated = status.total - status.updated - status.deleting;
    if pool.spec.paused {
        return Desired::no(PROGRESSING, reason::PAUSED, "nothing is launched or replaced while paused is true");
    }
    let short = status.ready + status.building < pool.spec.min_ready;
    if let Some(message) = connecting(engine, key, pool).filter(|_| short) {
        return Desired::yes(PROGRESSING, reason::LAUNCHING, message);
    }
    if let Some(blocked) = engine.memory.allocation.blocked.get(key).filter(|_| short) {
        let message = blocked.message.clone();
        // Nothing goes on before a person has done what the message says.
        let stuck =
            [reason::FLAVOR_NOT_FOUND, reason::DISK_IMAGE_NOT_FOUND, reason::PROVIDER_NOT_FOUND, reason::PAUSED];
        return if stuck.contains(&blocked.reason) {
            Desired::no(PROGRESSING, blocked.reason, message)
        } else {
            Desired::yes(PROGRESSING, reason::WAITING_FOR_CAPACITY, message)
        };
    }
    if status.building > 0 {
        return Desired::yes(PROGRESSING, reason::LAUNCHING, "nodes are being launched");
    }
    if outdated > 0 && status.ready > 0 {
        return Desired::yes(PROGRESSING, reason::UPDATING, "nodes of an older image or template are replaced in time");
    }
    Desired::no(PROGRESSING, reason::AS_EXPECTED, "")
}

/// Recent launches mostly fail; that is over when the last one did not and nothing is left to launch.
fn healthy(engine: &Engine, key: &Key, pool: &Pool, status: &PoolStatus) -> Desired {
    let full = status.ready >= pool.spec.min_ready;
    for offer in &pool.spec.providers {
        let provider = tenancy::provider(key, offer);
        let Ok(launch) = allocation::template(engine, key, pool, &provider) else { continue };
        let Some(health) = engine.connections.get(&provider).and_then(|c| c.health(&launch.hash)) else { continue };
        if health.unhealthy() && !(full && health.last_was_good()) {
            let (failed, of) = health.failed();
            let last = engine.memory.pools.failures.get(key).map(|failure| format!("; the last: {}", failure.message));
            let message = format!(
                "{failed} of the last {of} launches of {} on {} failed{}",
                pool.spec.image,
                offer.name,
                last.unwrap_or_default()
            );
            return Desired::no(LAUNCH_HEALTHY, reason::LAUNCHES_FAILING, message);
        }
    }
    Desired::yes(LAUNCH_HEALTHY, reason::AS_EXPECTED, "")
}

/// The figures of all nodes, for the metrics: by state, pool and provider.
pub fn figures(engine: &Engine) {
    let mut counts: HashMap<super::metrics::NodeLabels, usize> = HashMap::new();
    for (key, node) in engine.nodes.iter() {
        let state = if node.metadata.deletion_timestamp.is_some() { NodeState::Deleting } else { node.state() };
        let labels = super::metrics::NodeLabels {
            namespace: key.namespace.to_string(),
            provider: node.spec.provider.clone(),
            pool: tenancy::pool_label(node),
            state: state.as_str(),
        };
        *counts.entry(labels).or_default() += 1;
    }
    for (key, pool) in engine.pools.iter() {
        let open = |offer: &&PoolProvider| {
            tenancy::of_provider(engine, key, &tenancy::provider(key, offer)) == Access::Allowed
        };
        let offers = pool.spec.providers.iter().filter(open);
        for (offer, state) in offers.flat_map(|offer| NodeState::ALL.map(|state| (offer, state))) {
            let provider = tenancy::provider(key, offer);
            let foreign = provider.namespace != key.namespace;
            let labels = super::metrics::NodeLabels {
                namespace: provider.namespace.to_string(),
                provider: offer.name.clone(),
                pool: if foreign { key.to_string() } else { key.name.to_string() },
                state: state.as_str(),
            };
            counts.entry(labels).or_default();
        }
    }
    engine.setup.metrics.node_states(counts);
}
