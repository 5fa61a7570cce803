//! One Provider: credentials, connection, what it may hold, what it shows.
//!
//! Observe reads the record and the connection, act connects, refreshes and drains, report writes the status. Which
//! servers are launched is [`super::allocation`]'s.

mod connect;
pub mod connection;
mod report;
pub mod services;

use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;

use super::index::{Change, Key};
use super::{Engine, Mark, records};
use crate::api::{FINALIZER_DRAIN, Provider};
use crate::plan::pressure::Pressure;

pub use self::connection::{Connection, Identity};

/// How often the status of one record is written at most: counts change with every node.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How long a cloud may take to take the credentials, and to list its servers for the first time, before it is said
/// that it does not answer: calls themselves have longer deadlines.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);
const LIST_PATIENCE: Duration = Duration::from_secs(20);

/// A Provider's record changed.
pub fn changed(engine: &mut Engine, change: &Change<Provider>) {
    match change {
        Change::Updated(provider, before) => {
            let key = Key::of(&**provider);
            match before {
                // Our own counts, most of the time.
                Some(before) if only_status(before, provider) => mark_later(engine, key.clone()),
                _ => engine.mark(Mark::Provider(key.clone())),
            }
            // Being deleted is news too: its idle nodes go, and its pools turn elsewhere.
            let same = |before: &Provider| {
                before.spec == provider.spec
                    && before.metadata.deletion_timestamp == provider.metadata.deletion_timestamp
            };
            if !before.as_deref().is_some_and(same) {
                let now = engine.now;
                let memory = engine.memory.providers.entry(key.clone()).or_default();
                memory.reconnect_at = None;
                memory.met.get_or_insert(now);
                mark_users(engine, &key);
            }
        }
        Change::Removed(provider) => {
            let key = Key::of(&**provider);
            engine.connections.remove(&key);
            engine.memory.providers.remove(&key);
            engine.memory.leaks.remove(&key);
            mark_users(engine, &key);
        }
    }
}

/// Whether nothing but the status is different.
fn only_status(before: &Provider, now: &Provider) -> bool {
    before.spec == now.spec
        && before.metadata.deletion_timestamp == now.metadata.deletion_timestamp
        && before.metadata.finalizers == now.metadata.finalizers
}

/// What depends on a Provider: its nodes' deadlines, the pools' offers, the images there.
pub fn mark_users(engine: &mut Engine, key: &Key) {
    engine.mark(Mark::Allocation);
    let nodes: Vec<String> = engine
        .nodes
        .iter()
        .filter(|(node, record)| node.namespace == key.namespace && *record.spec.provider == *key.name)
        .filter_map(|(_, record)| record.uid())
        .collect();
    nodes.into_iter().for_each(|uid| engine.mark(Mark::Node(uid)));
    let images: Vec<Key> = engine.disk_images.iter().map(|(key, _)| key.clone()).collect();
    images.into_iter().for_each(|image| engine.mark(Mark::DiskImage(image)));
    let versions: Vec<Key> = engine
        .provider_images
        .iter()
        .filter(|(version, record)| version.namespace == key.namespace && *record.spec.provider == *key.name)
        .map(|(version, _)| version.clone())
        .collect();
    versions.into_iter().for_each(|version| engine.mark(Mark::ProviderImage(version)));
    let pools: Vec<Key> = engine.pools.iter().map(|(key, _)| key.clone()).collect();
    pools.into_iter().for_each(|pool| engine.mark(Mark::Pool(pool)));
}

/// The Provider's counts changed; its status follows within a second.
pub fn mark_later(engine: &mut Engine, key: Key) {
    engine.mark_within(REPORT_EVERY, Mark::Provider(key));
}

/// What the process remembers of a Provider whether it is connected or not.
#[derive(Debug, Default)]
pub struct Memory {
    /// When its credentials are tried again; `None` is now.
    pub reconnect_at: Option<jiff::Timestamp>,
    /// Since when a cloud that is not connected is waited for.
    pub awaited: Option<jiff::Timestamp>,
    /// Credentials are being tried.
    pub connecting: bool,
    /// Flavors and limits are being read.
    pub reading: bool,
    /// Its cloud was listed completely since it was connected.
    pub listed: bool,
    /// When it was first seen.
    pub met: Option<jiff::Timestamp>,
    /// Refusals of the API server to make records of its nodes.
    pub creates: Pressure,
    /// Why it is not connected.
    pub failure: Option<connect::Failure>,
    /// Credentials that were refused.
    pub refused: Option<connect::Refused>,
}

/// Observe, act, report.
pub fn reconcile(engine: &mut Engine, key: &Key) {
    let Some(provider) = engine.providers.get(key).cloned() else { return };
    if drain(engine, key, &provider) {
        return;
    }
    connect::refresh(engine, key, &provider);
    report::report(engine, key, &provider);
}

/// Takes the finalizer before the first effect in the cloud, and gives it back when nothing of ours is left there.
fn drain(engine: &mut Engine, key: &Key, provider: &std::sync::Arc<Provider>) -> bool {
    let deleting = provider.metadata.deletion_timestamp.is_some();
    let held = provider.finalizers().iter().any(|name| name == FINALIZER_DRAIN);
    let change = match (deleting, held) {
        (false, false) => json!({ "metadata": { "finalizers": with_ours(provider) } }),
        (true, true) if !in_use(engine, key) => {
            let rest: Vec<&String> = provider.finalizers().iter().filter(|name| *name != FINALIZER_DRAIN).collect();
            json!({ "metadata": { "finalizers": rest } })
        }
        (true, false) => return true,
        _ => return false,
    };
    let (client, seen) = (engine.setup.client.clone(), std::sync::Arc::clone(provider));
    engine.write_once(
        Mark::Provider(key.clone()),
        async move { records::patch(&client, &*seen, change).await },
        |engine, provider| {
            let gone = provider.metadata.deletion_timestamp.is_some() && provider.finalizers().is_empty();
            let change = if gone { engine.providers.remove(&provider) } else { engine.providers.wrote(provider) };
            change.into_iter().for_each(|change| changed(engine, &change));
        },
    );
    false
}

fn with_ours(provider: &Provider) -> Vec<String> {
    provider.finalizers().iter().cloned().chain([FINALIZER_DRAIN.to_owned()]).collect()
}

/// Whether any record holds a slot here, the cloud still shows a server of ours, or a version of an image is there that
/// we made.
fn in_use(engine: &Engine, key: &Key) -> bool {
    let recorded =
        engine.nodes.iter().any(|(node, record)| node.namespace == key.namespace && *record.spec.provider == *key.name);
    let creating = engine.creating.values().any(|creating| creating.provider == *key);
    let shown = engine.connections.get(key).is_some_and(|connection| !connection.ours().is_empty());
    let images = engine.provider_images.iter().any(|(image, record)| {
        image.namespace == key.namespace && *record.spec.provider == *key.name && record.spec.managed
    });
    recorded || creating || shown || images
}
