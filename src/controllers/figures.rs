//! The figures that the statuses of all objects give: what alerts and dashboards need beside the counters.
//!
//! Reads only; a figure shows what a status says, so that both never differ.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::Engine;
use super::index::Key;
use super::metrics::{ConditionLabels, ImageLabels, LeakLabels, NamespaceLabels, ObjectLabels, Observed};
use crate::api::provider::{LeakKind, LeakSighting};
use crate::api::{NodeRequest, RequestState};

/// What there is to show now.
pub fn observe(engine: &Engine) -> Observed {
    let mut seen = Observed::default();
    providers(engine, &mut seen);
    images(engine, &mut seen);
    pools(engine, &mut seen);
    requests(engine, &mut seen);
    seen
}

fn providers(engine: &Engine, seen: &mut Observed) {
    for (key, provider) in engine.providers.iter() {
        let status = provider.status.as_ref();
        let used = status.and_then(|status| status.servers).map_or(0, |servers| servers.used);
        seen.slots.push((object(key), f64::from(provider.spec.max_servers)));
        seen.slots_used.push((object(key), f64::from(used)));
        let Some(status) = status else { continue };
        seen.leaks.extend(leaks(key, &status.leaks));
        seen.conditions.extend(conditions("Provider", key, &status.conditions));
    }
}

/// Every kind is shown, so that one that went to zero is not taken for one that nobody looked for.
fn leaks(key: &Key, sightings: &[LeakSighting]) -> impl Iterator<Item = (LeakLabels, f64)> {
    LeakKind::ALL.into_iter().map(|kind| {
        let count = sightings.iter().filter(|sighting| sighting.kind == kind).count();
        let ObjectLabels { namespace, name } = object(key);
        (LeakLabels { namespace, name, kind: kind.as_str() }, f64::from(u32::try_from(count).unwrap_or(u32::MAX)))
    })
}

fn images(engine: &Engine, seen: &mut Observed) {
    for (key, image) in engine.disk_images.iter() {
        let Some(status) = &image.status else { continue };
        for on in &status.providers {
            let labels = ImageLabels {
                namespace: key.namespace.to_string(),
                diskimage: key.name.to_string(),
                provider: on.name.clone(),
            };
            seen.build_failures.push((labels, f64::from(on.failures)));
        }
        seen.conditions.extend(conditions("DiskImage", key, &status.conditions));
    }
}

fn pools(engine: &Engine, seen: &mut Observed) {
    for (key, pool) in engine.pools.iter() {
        seen.min_ready.push((object(key), f64::from(pool.spec.min_ready)));
        if let Some(status) = &pool.status {
            seen.ready.push((object(key), f64::from(status.ready)));
            seen.conditions.extend(conditions("Pool", key, &status.conditions));
        }
    }
}

fn requests(engine: &Engine, seen: &mut Observed) {
    let mut waiting: BTreeMap<String, (u32, Timestamp)> = BTreeMap::new();
    for (key, request) in engine.requests.iter() {
        // A namespace whose requests are all served shows zero.
        let entry = waiting.entry(key.namespace.to_string()).or_insert((0, engine.now));
        if is_waiting(request) {
            let since = request.creation_timestamp().map_or(engine.now, |time| time.0);
            *entry = (entry.0.saturating_add(1), entry.1.min(since));
        }
    }
    for (namespace, (count, since)) in waiting {
        let waited = engine.now.duration_since(since).as_secs_f64();
        seen.pending.push((NamespaceLabels { namespace: namespace.clone() }, f64::from(count)));
        seen.oldest_pending.push((NamespaceLabels { namespace }, waited.max(0.0)));
    }
}

/// Whether a request still wants nodes.
pub fn is_waiting(request: &NodeRequest) -> bool {
    let state = request.status.as_ref().map(|status| status.state).unwrap_or_default();
    request.metadata.deletion_timestamp.is_none() && state == RequestState::Pending
}

fn object(key: &Key) -> ObjectLabels {
    ObjectLabels { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

fn conditions(kind: &'static str, key: &Key, all: &[Condition]) -> impl Iterator<Item = (ConditionLabels, f64)> {
    all.iter().map(move |condition| {
        let ObjectLabels { namespace, name } = object(key);
        let labels = ConditionLabels {
            kind,
            namespace,
            name,
            condition: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
        };
        (labels, 1.0)
    })
}
