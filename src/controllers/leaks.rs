//! Finds what was made in a cloud and has no record any more, and removes it (rules 10 and 11).
//!
//! Observe: the cloud's complete list first, the records from the API server second, never from a cache. Plan:
//! [`crate::plan::leaks`]. Act: compare the mark once more, then delete. Report: sightings and deletions in the
//! Provider's status, so that a restart forgets neither.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Client, Resource, ResourceExt};

use super::index::Key;
use super::provider::Connection;
use super::{Engine, Mark};
use crate::api::conditions::reason;
use crate::api::provider::{LeakKind, LeakSighting};
use crate::api::{FINALIZER_IMAGE, PoolNode, Provider, ProviderImage};
use crate::cloud::{Cloud, CloudError, ErrorClass, Image, ImageStatus, NetworkPart, Ownership, key_pair_record};
use crate::ops::events::Severity;
use crate::ops::lease::LeaderGuard;
use crate::plan::leaks::{Findings, Kind, Leak, Sighting, Sightings, Sweep, Thing, find_leaks};

/// For how long a deletion counts against the bound on deletions.
const WINDOW: Duration = Duration::from_secs(600);
/// The deadline of the list of records.
const RECORDS_DEADLINE: Duration = Duration::from_secs(30);
/// How many sightings and deletions the status holds; the schema's bounds.
const SIGHTINGS: usize = 200;
const DELETIONS: usize = 1000;
/// How many servers proven gone are remembered until their ports were looked for.
const GONE: usize = 10_000;

/// What the process remembers for one Provider's sweeps.
#[derive(Debug, Default)]
pub struct Memory {
    /// A sweep is under way.
    sweeping: bool,
    /// The newest findings, until the status shows them.
    pub found: Option<(Sightings, Vec<Timestamp>)>,
    /// Servers of ours that are gone, and their records: Nova may have left their ports behind.
    gone: HashMap<String, String>,
    /// The server that a port was seen left behind by.
    attached: HashMap<String, String>,
    /// What the cloud refused to delete when it was asked last: in use, or protected.
    refused: BTreeSet<(Kind, String)>,
}

/// A server of ours is proven gone.
pub fn server_gone(engine: &mut Engine, provider: &Key, server: &str, record: &str) {
    let memory = engine.memory.leaks.entry(provider.clone()).or_default();
    if memory.gone.len() < GONE {
        memory.gone.insert(server.to_owned(), record.to_owned());
    }
}

/// A full list of a cloud's servers arrived: the time to look for leaks.
pub fn listed(engine: &mut Engine, provider: &Key) {
    let Some(record) = engine.providers.get(provider).cloned() else { return };
    let memory = engine.memory.leaks.entry(provider.clone()).or_default();
    if std::mem::replace(&mut memory.sweeping, true) {
        return;
    }
    let known = memory.found.clone().unwrap_or_else(|| recorded(&record));
    if memory.attached.is_empty() {
        memory.attached = attached(&record);
    }
    let mut gone = std::mem::take(&mut memory.gone);
    let left =
        known.0.iter().filter_map(|((_, id), seen)| Some((memory.attached.get(id)?.clone(), seen.record.clone())));
    gone.extend(left);
    let refused = memory.refused.clone();
    let Some(connection) = engine.connections.get(provider) else { return };
    let sweep = Sweep {
        now: engine.now,
        listed_at: connection.cloud_time().unwrap_or(engine.now),
        owner: engine.owner.clone(),
        provider: provider.to_string(),
        providers: engine.providers.iter().map(|(key, _)| key.to_string()).collect(),
        servers: Some(servers(connection)),
        ports: None,
        floating_ips: None,
        images: None,
        key_pairs: None,
        records: None,
        sightings: known.0,
        refused,
        deletions: known.1,
        fleet: u32::try_from(engine.nodes.len()).unwrap_or(u32::MAX),
        minimum_age: record.spec.launch_timeout.as_std(),
        window: WINDOW,
    };
    let (cloud, client, guard) = (connection.cloud(), engine.setup.client.clone(), engine.setup.guard.clone());
    let key = provider.clone();
    engine.spawn(async move {
        let swept = collect(&client, &guard, &*cloud, &key, sweep, &gone).await;
        move |engine: &mut Engine| report(engine, &key, swept)
    });
}

fn recorded(provider: &Provider) -> (Sightings, Vec<Timestamp>) {
    let status = provider.status.clone().unwrap_or_default();
    let kind = |kind| match kind {
        LeakKind::Server => Kind::Server,
        LeakKind::Port => Kind::Port,
        LeakKind::FloatingIP => Kind::FloatingIp,
        LeakKind::Image => Kind::Image,
        LeakKind::KeyPair => Kind::KeyPair,
    };
    let sighting = |seen: LeakSighting| Sighting {
        record: seen.record,
        first_seen: seen.first_seen.0,
        count: u32::try_from(seen.count).unwrap_or(0),
    };
    let sightings = status.leaks.into_iter().map(|seen| ((kind(seen.kind), seen.id.clone()), sighting(seen))).collect();
    (sightings, status.leak_deletions.into_iter().map(|time| time.0).collect())
}

fn attached(provider: &Provider) -> HashMap<String, String> {
    let leaks = provider.status.iter().flat_map(|status| &status.leaks);
    leaks.filter_map(|seen| Some((seen.id.clone(), seen.attached_to.clone()?))).collect()
}

fn servers(connection: &Connection) -> Vec<Thing> {
    let ours = connection.ours();
    let known: BTreeSet<String> = ours.iter().map(|server| server.id.clone()).collect();
    let ours = ours.iter().map(|server| Thing {
        id: server.id.clone(),
        ownership: server.ownership.clone(),
        created: server.created,
        attached_to: None,
    });
    let others = connection.server_ids().into_iter().filter(|id| !known.contains(id)).map(|id| Thing {
        id,
        ownership: None,
        created: None,
        attached_to: None,
    });
    ours.chain(others).collect()
}

/// What one sweep brought.
struct Swept {
    findings: Findings,
    removed: Vec<(Leak, Result<(), CloudError>)>,
    attached: HashMap<String, String>,
    /// Servers whose ports could not be looked for.
    unasked: HashMap<String, String>,
    /// A service gave no answer.
    unanswered: bool,
}

/// The cloud was listed; now its parts, then the records, then the answer, then what it says.
async fn collect(
    client: &Client,
    guard: &LeaderGuard,
    cloud: &dyn Cloud,
    provider: &Key,
    mut sweep: Sweep,
    gone: &HashMap<String, String>,
) -> Swept {
    let mut unanswered = false;
    let mut told = |listed: Result<Vec<Thing>, CloudError>| {
        let listed = listed.inspect_err(|error| {
            tracing::warn!(%error, "not looked for leaks among these");
            unanswered |= error.class.is_unanswered();
        });
        listed.ok()
    };
    sweep.ports = told(ports(cloud, &sweep, gone).await);
    sweep.floating_ips = told(cloud.floating_ips().await.map(|parts| parts.into_iter().map(part).collect()));
    sweep.images =
        told(cloud.images_of(&sweep.owner).await.map(|images| images.into_iter().filter_map(image).collect()));
    sweep.key_pairs = told(cloud.key_pairs().await.map(|names| key_pairs(names, &sweep)));
    sweep.records = records(client, &provider.namespace).await;
    sweep.key_pairs = without_others(client, &sweep, &provider.namespace).await;
    let unasked = if sweep.ports.is_none() { gone.clone() } else { HashMap::new() };
    let findings = find_leaks(&sweep);
    let mut removed = Vec::new();
    for leak in &findings.delete {
        if !guard.is_current() {
            break;
        }
        removed.push((leak.clone(), remove(cloud, leak, &sweep.owner).await));
    }
    let attached = sweep.ports.into_iter().flatten().filter_map(|port| Some((port.id, port.attached_to?))).collect();
    Swept { findings, removed, attached, unasked, unanswered }
}

/// Ports with our mark, and those that Nova made for servers of ours that are gone.
async fn ports(cloud: &dyn Cloud, sweep: &Sweep, gone: &HashMap<String, String>) -> Result<Vec<Thing>, CloudError> {
    let mut all: Vec<Thing> = cloud.ports(&sweep.owner).await?.into_iter().map(part).collect();
    let ids: Vec<String> = gone.keys().cloned().collect();
    for left in cloud.ports_of(&ids).await?.into_iter().map(part) {
        let record = left.attached_to.as_ref().and_then(|server| gone.get(server));
        let ownership = record.map(|record| Ownership {
            owner: sweep.owner.clone(),
            record: record.clone(),
            provider: sweep.provider.clone(),
        });
        if !all.iter().any(|known| known.id == left.id) {
            all.push(Thing { ownership, ..left });
        }
    }
    Ok(all)
}

fn part(part: NetworkPart) -> Thing {
    Thing { id: part.id, ownership: part.ownership, created: part.created, attached_to: part.attached_to }
}

/// One that is on its way out goes by itself.
fn image(image: Image) -> Option<Thing> {
    let stays = image.status != ImageStatus::Gone;
    stays.then_some(Thing { id: image.id, ownership: image.ownership, created: Some(image.created), attached_to: None })
}

/// Those whose names carry our mark; their names are their ids.
fn key_pairs(names: Vec<String>, sweep: &Sweep) -> Vec<Thing> {
    let ours = names.into_iter().filter_map(|name| {
        let record = key_pair_record(&name, &sweep.owner)?.to_owned();
        let ownership = Ownership { owner: sweep.owner.clone(), record, provider: sweep.provider.clone() };
        Some(Thing { id: name, ownership: Some(ownership), created: None, attached_to: None })
    });
    ours.collect()
}

/// A key pair does not tell its Provider, and belongs to a user, whom Providers of other namespaces may share: what
/// has its record there is left to them. They are asked only when something has none here.
async fn without_others(client: &Client, sweep: &Sweep, namespace: &str) -> Option<Vec<Thing>> {
    let (pairs, here) = (sweep.key_pairs.as_ref()?, sweep.records.as_ref()?);
    let has_record = |thing: &Thing, records: &BTreeSet<String>| {
        thing.ownership.as_ref().is_some_and(|mark| records.contains(&mark.record))
    };
    if pairs.iter().all(|pair| has_record(pair, here)) {
        return Some(pairs.clone());
    }
    let namespaces = sweep.providers.iter().filter_map(|provider| provider.split('/').next());
    let others: BTreeSet<&str> = namespaces.filter(|other| *other != namespace).collect();
    let mut elsewhere = BTreeSet::new();
    for other in others {
        elsewhere.extend(records(client, other).await?);
    }
    Some(pairs.iter().filter(|pair| !has_record(pair, &elsewhere)).cloned().collect())
}

/// All records of a namespace, from the API server and not from a cache; `None` when that is not certain.
async fn records(client: &Client, namespace: &str) -> Option<BTreeSet<String>> {
    let mut all = uids::<PoolNode>(client, namespace, |_| true).await?;
    // One that gave up its finalizer has said that nothing of it is in the cloud: what is there came late.
    let holds =
        |image: &PartialObjectMeta<ProviderImage>| image.finalizers().iter().any(|name| name == FINALIZER_IMAGE);
    all.extend(uids::<ProviderImage>(client, namespace, holds).await?);
    Some(all)
}

async fn uids<K>(
    client: &Client,
    namespace: &str,
    counts: impl Fn(&PartialObjectMeta<K>) -> bool + Send,
) -> Option<BTreeSet<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    let list = tokio::time::timeout(RECORDS_DEADLINE, api.list(&kube::api::ListParams::default())).await;
    match list {
        Ok(Ok(list)) => Some(list.items.iter().filter(|item| counts(item)).filter_map(ResourceExt::uid).collect()),
        Ok(Err(error)) => {
            tracing::warn!(namespace, %error, "records could not be read; nothing is collected");
            None
        }
        Err(_) => {
            tracing::warn!(namespace, "records were not read in time; nothing is collected");
            None
        }
    }
}

async fn remove(cloud: &dyn Cloud, leak: &Leak, owner: &str) -> Result<(), CloudError> {
    let gone_is_fine = |answer: Result<(), CloudError>| match answer {
        Err(error) if error.class == ErrorClass::NotFound => Ok(()),
        answer => answer,
    };
    let is_ours =
        |mark: &Option<Ownership>| mark.as_ref().is_some_and(|mark| mark.owner == owner && mark.record == leak.record);
    match leak.kind {
        Kind::Server => match cloud.get_server(&leak.id).await {
            Ok(server) if is_ours(&server.ownership) => gone_is_fine(cloud.delete_server(&leak.id).await),
            answer => gone_is_fine(answer.map(drop)),
        },
        Kind::Image => match cloud.get_image(&leak.id).await {
            Ok(image) if is_ours(&image.ownership) => gone_is_fine(cloud.delete_image(&leak.id).await),
            answer => gone_is_fine(answer.map(drop)),
        },
        Kind::Port => gone_is_fine(cloud.delete_port(&leak.id).await),
        Kind::FloatingIp => gone_is_fine(cloud.delete_floating_ip(&leak.id).await),
        // Its id is its name, which is its mark.
        Kind::KeyPair => cloud.delete_key_pair(&leak.id).await,
    }
}

/// The cloud did certainly not delete it, and says the same when it is asked soon again: it is in use, or protected.
fn is_refusal(answer: &Result<(), CloudError>) -> bool {
    answer.as_ref().is_err_and(|error| matches!(error.class, ErrorClass::Conflict | ErrorClass::Invalid))
}

fn report(engine: &mut Engine, provider: &Key, swept: Swept) {
    let Swept { findings, removed, attached, unasked, unanswered } = swept;
    let now = engine.now;
    if unanswered && let Some(connection) = engine.connections.get_mut(provider) {
        connection.service_failed(now);
    }
    let Some(record) = engine.providers.get(provider).cloned() else { return };
    let memory = engine.memory.leaks.entry(provider.clone()).or_default();
    memory.sweeping = false;
    memory.gone.extend(unasked);
    let (_, mut deletions) = memory.found.take().unwrap_or_else(|| recorded(&record));
    let oldest = SignedDuration::try_from(WINDOW).ok().and_then(|window| now.checked_sub(window).ok());
    deletions.retain(|at| oldest.is_none_or(|oldest| *at > oldest));
    deletions.extend(removed.iter().filter(|(_, answer)| !is_refusal(answer)).map(|_| now));
    for (leak, answer) in &removed {
        let thing = (leak.kind, leak.id.clone());
        if is_refusal(answer) {
            memory.refused.insert(thing)
        } else {
            memory.refused.remove(&thing)
        };
    }
    memory.refused.retain(|thing| findings.sightings.contains_key(thing));
    memory.attached = attached;
    memory.attached.retain(|id, _| findings.sightings.contains_key(&(Kind::Port, id.clone())));
    memory.found = Some((findings.sightings, deletions));
    for (leak, answer) in removed {
        let note = match answer {
            Ok(()) => format!("{:?} {} was left behind by record {} and is deleted", leak.kind, leak.id, leak.record),
            Err(error) => format!("{:?} {} was left behind and could not be deleted: {error}", leak.kind, leak.id),
        };
        tracing::warn!(provider = %provider, "{note}");
        engine.setup.events.publish(&record.object_ref(&()), Severity::Warning, reason::LEAK_FOUND, note);
    }
    if let Some(why) = findings.frozen {
        tracing::warn!(provider = %provider, why, "leaks are not collected");
        engine.setup.events.publish(&record.object_ref(&()), Severity::Warning, reason::LEAKS_FROZEN, why);
    }
    if findings.held_back > 0 {
        tracing::warn!(provider = %provider, held_back = findings.held_back, "more leaks are due than may be deleted at once");
    }
    engine.mark(Mark::Provider(provider.clone()));
}

/// What the Provider's status says of leaks.
pub fn shown(engine: &Engine, provider: &Key, record: &Arc<Provider>) -> (Vec<LeakSighting>, Vec<Time>) {
    let memory = engine.memory.leaks.get(provider);
    let Some((memory, (sightings, deletions))) = memory.and_then(|memory| Some((memory, memory.found.as_ref()?)))
    else {
        let status = record.status.clone().unwrap_or_default();
        return (status.leaks, status.leak_deletions);
    };
    let kind = |kind: Kind| match kind {
        Kind::Server => LeakKind::Server,
        Kind::Port => LeakKind::Port,
        Kind::FloatingIp => LeakKind::FloatingIP,
        Kind::Image => LeakKind::Image,
        Kind::KeyPair => LeakKind::KeyPair,
    };
    let leaks = sightings.iter().take(SIGHTINGS).map(|((of, id), seen)| LeakSighting {
        kind: kind(*of),
        id: id.clone(),
        record: seen.record.clone(),
        attached_to: memory.attached.get(id).cloned(),
        first_seen: Time(seen.first_seen),
        count: i32::try_from(seen.count).unwrap_or(i32::MAX),
    });
    let deletions = deletions.iter().rev().take(DELETIONS).map(|at| Time(*at));
    (leaks.collect(), deletions.collect())
}
