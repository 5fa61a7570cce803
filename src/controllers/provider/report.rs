//! What a Provider shows: its counts, the project's quota, and three conditions.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::index::Key;
use super::super::{Engine, Mark};
use super::connect::explained;
use super::connection::Connection;
use crate::api::conditions::{self, Desired, QUOTA_AVAILABLE, READY, THROTTLED, reason};
use crate::api::provider::{ProjectQuota, QuotaUsage, ServerCounts};
use crate::api::{NodeState, Provider};
use crate::cloud::Usage;

/// Writes the status when it says something else than before.
pub fn report(engine: &mut Engine, key: &Key, provider: &Arc<Provider>) {
    let old = provider.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = provider.metadata.generation;
    new.servers = Some(counts(engine, key, provider));
    (new.leaks, new.leak_deletions) = super::super::leaks::shown(engine, key, provider);
    let connection = engine.connections.get(key);
    if let Some(connection) = connection {
        new.quota = quota(connection).or(new.quota);
    }
    let desired = [ready(engine, key, provider, connection), quota_available(connection), throttled(connection)];
    conditions::set_all(&mut new.conditions, &desired, provider.metadata.generation, &Time(engine.now));
    engine.report(Mark::Provider(key.clone()), provider, &old, &new, |engine, provider: Provider| {
        engine.providers.wrote(provider).into_iter().for_each(|change| super::changed(engine, &change));
    });
}

fn counts(engine: &Engine, key: &Key, provider: &Provider) -> ServerCounts {
    let mut counts = ServerCounts { max: provider.spec.max_servers, ..ServerCounts::default() };
    let here = |(node, _): &(&Key, &Arc<crate::api::PoolNode>)| node.namespace == key.namespace;
    for (_, node) in engine.nodes.iter().filter(here).filter(|(_, node)| *node.spec.provider == *key.name) {
        counts.used += 1;
        let of_state = match (node.metadata.deletion_timestamp.is_some(), node.state()) {
            (true, _) | (_, NodeState::Failed | NodeState::Deleting) => &mut counts.deleting,
            (_, NodeState::Building) => &mut counts.building,
            (_, NodeState::Ready) if node.spec.claim_ref.is_none() => &mut counts.ready,
            (_, NodeState::Ready | NodeState::InUse) => &mut counts.in_use,
            (_, NodeState::Held) => &mut counts.held,
        };
        *of_state += 1;
    }
    counts
}

fn quota(connection: &Connection) -> Option<ProjectQuota> {
    let limits = connection.limits?;
    let others = connection.others();
    let shown = |usage: Usage, others: i64| usage.max.map(|max| QuotaUsage { max, used: usage.used, others });
    Some(ProjectQuota {
        instances: shown(limits.instances, others.instances),
        cores: shown(limits.cores, others.cores),
        ram_mib: shown(limits.ram_mib, others.ram_mib),
    })
}

fn ready(engine: &Engine, key: &Key, provider: &Provider, connection: Option<&Connection>) -> Desired {
    if provider.metadata.deletion_timestamp.is_some() {
        return Desired::no(READY, reason::DRAINING, "the Provider is being deleted; its nodes go first");
    }
    let failure = engine.memory.providers.get(key).and_then(|memory| memory.failure.clone());
    match (connection, failure) {
        (_, Some(failure)) => Desired::no(READY, failure.reason, failure.sentence()),
        (Some(connection), None) => match &connection.error {
            Some(error) => {
                let failure = explained(error);
                Desired::no(READY, failure.reason, because(failure.sentence(), connection.services.all()))
            }
            None if connection.listed_full().is_none() && overdue(engine, key, super::LIST_PATIENCE) => {
                let message = "the compute service does not list its servers; waiting for its answer";
                Desired::no(READY, reason::CLOUD_UNREACHABLE, message)
            }
            None if connection.listed_full().is_none() => {
                Desired::unknown(READY, reason::NOT_YET_KNOWN, "the cloud's servers are being listed")
            }
            None if connection.services.needed().is_some() => {
                Desired::no(READY, reason::CLOUD_UNREACHABLE, connection.services.needed().unwrap_or_default())
            }
            None if provider.spec.paused => {
                Desired::yes(READY, reason::PAUSED, "nothing new is launched while paused is true")
            }
            None => Desired::yes(READY, reason::AS_EXPECTED, ""),
        },
        (None, None) if overdue(engine, key, super::ANSWER_PATIENCE) => {
            let message = "the cloud does not answer; look at auth_url, the network and the services behind it";
            Desired::no(READY, reason::CLOUD_UNREACHABLE, message)
        }
        (None, None) => Desired::unknown(READY, reason::NOT_YET_KNOWN, "the credentials are being tried"),
    }
}

/// What a call met, and the service behind it.
fn because(met: String, cause: Option<String>) -> String {
    match cause {
        Some(cause) => format!("{met}; {cause}"),
        None => met,
    }
}

/// Whether a cloud that is being connected keeps us waiting for that long.
fn overdue(engine: &Engine, key: &Key, patience: Duration) -> bool {
    let awaited = engine.memory.providers.get(key).and_then(|memory| memory.awaited);
    let waited = awaited.and_then(|since| Duration::try_from(engine.now.duration_since(since)).ok());
    waited.is_some_and(|waited| waited >= patience)
}

fn quota_available(connection: Option<&Connection>) -> Desired {
    let Some(connection) = connection else {
        return Desired::unknown(QUOTA_AVAILABLE, reason::NOT_YET_KNOWN, "the cloud is not connected");
    };
    let pressures = connection.pressures();
    match (pressures.quota, pressures.no_host) {
        (Some(message), _) => Desired::no(QUOTA_AVAILABLE, reason::QUOTA_EXCEEDED, message),
        (None, Some(message)) => {
            let message = because(message, connection.services.all());
            Desired::no(QUOTA_AVAILABLE, reason::NO_VALID_HOST, message)
        }
        (None, None) => Desired::yes(QUOTA_AVAILABLE, reason::AS_EXPECTED, ""),
    }
}

fn throttled(connection: Option<&Connection>) -> Desired {
    match connection.and_then(|connection| connection.pressures().throttled) {
        Some(message) => Desired::yes(THROTTLED, reason::RATE_LIMITED, message),
        None => Desired::no(THROTTLED, reason::AS_EXPECTED, ""),
    }
}
