//! From a Secret to a connection, and what is read from the cloud now and then.
//!
//! Secrets are read by name and never watched; what they hold goes nowhere but into the client (rule 16).

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use sha2::{Digest, Sha256};

use super::super::index::Key;
use super::super::{Engine, Mark, records};
use super::connection::{Connection, Identity, reconnect_after};
use super::services;
use crate::api::Provider;
use crate::api::conditions::reason;
use crate::api::provider::Interface;
use crate::cloud::openstack::{self, CloudConfig, OpenStack, Options};
use crate::cloud::poller::{Poller, SharedView, ViewUpdate};
use crate::cloud::view::View;
use crate::cloud::{Cloud, CloudError, ErrorClass, Flavor, Limits};

/// Pause before flavors and limits that could not be read are asked for again.
const FACTS_AGAIN: Duration = Duration::from_secs(5);

/// Why a Provider is not connected.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A reason of `api::conditions`.
    pub reason: &'static str,
    /// What to do about it.
    pub message: String,
    /// The cloud's name for the call that failed, for whoever looks into its logs.
    request_id: Option<String>,
    /// The credentials that were refused, so that they are not sent again and again.
    refused: Option<String>,
}

impl Failure {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), request_id: None, refused: None }
    }

    /// Whether it says the same: each call has another request id, and that alone is no news.
    fn repeats(&self, other: &Self) -> bool {
        self.reason == other.reason && self.message == other.message
    }

    /// The message, with the request id for whoever runs the cloud.
    pub fn sentence(&self) -> String {
        let id = self.request_id.as_deref().map(|id| format!(" (request {id})")).unwrap_or_default();
        format!("{}{id}", self.message)
    }
}

/// How often refused credentials are tried again at once, and then how long they rest: many clouds lock an account
/// after a few wrong passwords.
const REFUSALS: u32 = 3;
const REFUSED_REST: Duration = Duration::from_secs(60);

/// Credentials that were refused, and when they may be tried again.
#[derive(Clone, Debug)]
pub struct Refused {
    fingerprint: String,
    failure: Failure,
    times: u32,
    until: Timestamp,
}

/// What an attempt to connect found.
enum Found {
    /// The same credentials as before: nothing to do.
    Unchanged,
    /// Working credentials.
    Connected { fingerprint: String, cloud: Arc<dyn Cloud> },
}

/// Connects when that is due, and reads flavors and limits when they are old.
pub fn refresh(engine: &mut Engine, key: &Key, provider: &Arc<Provider>) {
    let now = engine.now;
    let connected = engine.connections.contains_key(key);
    let memory = engine.memory.providers.entry(key.clone()).or_default();
    if !memory.connecting && memory.reconnect_at.is_none_or(|at| at <= now) {
        memory.connecting = true;
        if !connected {
            memory.awaited = Some(now);
            for patience in [super::ANSWER_PATIENCE, super::LIST_PATIENCE] {
                engine.wake_in(patience, Mark::Provider(key.clone()));
            }
        }
        connect(engine, key.clone(), Arc::clone(provider));
    }
    read_facts(engine, key);
    services::ask(engine, key);
}

fn connect(engine: &mut Engine, key: Key, provider: Arc<Provider>) {
    let client = engine.setup.client.clone();
    // A connection whose lists fail heals by itself: another one would forget its servers, its back-pressure and the
    // silence that the cloud asked for.
    let known = engine.connections.get(&key).map(|c| c.fingerprint.clone());
    let options = Options {
        requests_per_second: provider.spec.requests_per_second,
        region: provider.spec.region.clone(),
        interface: Some(interface(provider.spec.interface)),
        provider_key: key.to_string(),
        owner: engine.owner.clone(),
        observer: Some(engine.setup.observer(&key)),
        egress: engine.setup.egress.clone(),
    };
    let now = engine.now;
    let resting = engine.memory.providers.get(&key).and_then(|memory| memory.refused.clone()).filter(|r| r.until > now);
    engine.spawn(async move {
        let found = attempt(&client, &key, &provider, options, known, resting).await;
        move |engine: &mut Engine| connected(engine, &key, found)
    });
}

async fn attempt(
    client: &Client,
    key: &Key,
    provider: &Provider,
    options: Options,
    known: Option<String>,
    resting: Option<Refused>,
) -> Result<Found, Failure> {
    let name = &provider.spec.cloud.secret_ref.name;
    let missing = || {
        let message = format!("create the Secret {name} with the key clouds.yaml in namespace {}", key.namespace);
        Failure::new(reason::SECRET_NOT_FOUND, message)
    };
    let secret = records::read::<Secret>(client, &key.namespace, name)
        .await
        .map_err(|error| {
            Failure::new(reason::TRANSIENT_ERROR, format!("the Secret {name} could not be read: {error}"))
        })?
        .ok_or_else(missing)?;
    let data = secret.data.unwrap_or_default();
    let clouds = data
        .get("clouds.yaml")
        .ok_or_else(|| Failure::new(reason::SECRET_INVALID, format!("add the key clouds.yaml to the Secret {name}")))?;
    let authority = data.get("cacert").map(|pem| pem.0.as_slice());
    let fingerprint = fingerprint(provider, &clouds.0, authority);
    if known.as_ref() == Some(&fingerprint) {
        return Ok(Found::Unchanged);
    }
    if let Some(refused) = resting.filter(|refused| refused.fingerprint == fingerprint) {
        return Err(refused.failure);
    }
    let invalid =
        |error: &dyn std::fmt::Display| Failure::new(reason::SECRET_INVALID, format!("the Secret {name}: {error}"));
    let config = CloudConfig::from_yaml(&clouds.0, &provider.spec.cloud.cloud_name, authority)
        .map_err(|error| invalid(&error))?;
    let cloud = OpenStack::new(config, options).map_err(|error| invalid(&error))?;
    if let Err(error) = cloud.check().await {
        let refused = (error.class == ErrorClass::Auth).then_some(fingerprint);
        return Err(Failure { refused, ..explained(&error) });
    }
    Ok(Found::Connected { fingerprint, cloud: Arc::new(cloud) })
}

/// What a failed first call means for the person who reads the condition.
pub fn explained(error: &CloudError) -> Failure {
    let reason = match error.class {
        ErrorClass::Auth => reason::AUTHENTICATION_FAILED,
        ErrorClass::NotFound => reason::ENDPOINT_NOT_FOUND,
        ErrorClass::Throttled => reason::RATE_LIMITED,
        ErrorClass::Invalid => reason::INVALID_CONFIGURATION,
        ErrorClass::Quota | ErrorClass::NoCapacity | ErrorClass::Conflict => reason::TRANSIENT_ERROR,
        ErrorClass::Unavailable | ErrorClass::Unclear => reason::CLOUD_UNREACHABLE,
    };
    let request_id = error.request_id.clone();
    let message = match error.class {
        // What a person must mend is said without the call that met it first.
        ErrorClass::Auth | ErrorClass::NotFound | ErrorClass::Invalid => error.message.clone(),
        _ => format!("{}: {}", error.call, error.message),
    };
    Failure { request_id, ..Failure::new(reason, message) }
}

fn fingerprint(provider: &Provider, clouds: &[u8], authority: Option<&[u8]>) -> String {
    let mut hash = Sha256::new();
    for part in [clouds, authority.unwrap_or_default()] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.update(format!(
        "{} {:?} {:?} {}",
        provider.spec.cloud.cloud_name,
        provider.spec.region,
        provider.spec.interface,
        provider.spec.requests_per_second
    ));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

const fn interface(interface: Interface) -> openstack::Interface {
    match interface {
        Interface::Public => openstack::Interface::Public,
        Interface::Internal => openstack::Interface::Internal,
        Interface::Admin => openstack::Interface::Admin,
    }
}

fn connected(engine: &mut Engine, key: &Key, found: Result<Found, Failure>) {
    let failing = engine.connections.get(key).is_some_and(|connection| connection.error.is_some());
    let works = found.is_ok() && !failing;
    let at = engine.after(reconnect_after(works));
    let now = engine.now;
    let Some(memory) = engine.memory.providers.get_mut(key) else { return };
    memory.connecting = false;
    memory.reconnect_at = Some(at);
    match found {
        Ok(found) => {
            (memory.failure, memory.refused) = (None, None);
            if let Found::Connected { fingerprint, cloud } = found {
                install(engine, key, fingerprint, cloud);
            }
        }
        Err(failure) => {
            note_refusal(memory, &failure, now);
            if !memory.failure.as_ref().is_some_and(|before| before.repeats(&failure)) {
                tracing::warn!(provider = %key, reason = failure.reason, "not connected: {}", failure.sentence());
                memory.failure = Some(failure);
            }
        }
    }
    engine.wake(at, Mark::Provider(key.clone()));
    engine.mark(Mark::Provider(key.clone()));
    engine.mark(Mark::Allocation);
}

/// The same credentials, refused again and again, rest for longer; others are tried at once.
fn note_refusal(memory: &mut super::Memory, failure: &Failure, now: Timestamp) {
    let Some(fingerprint) = failure.refused.clone() else { return };
    let before = memory.refused.take().filter(|refused| refused.fingerprint == fingerprint);
    let times = before.map_or(0, |refused| refused.times).saturating_add(1);
    let rest = if times < REFUSALS { Duration::ZERO } else { REFUSED_REST };
    let until = SignedDuration::try_from(rest).ok().and_then(|rest| now.checked_add(rest).ok()).unwrap_or(now);
    // What rests is not refused anew each time it is read.
    let failure = Failure { refused: None, ..failure.clone() };
    memory.refused = Some(Refused { fingerprint, failure, times, until });
}

/// A new connection starts with an empty view: nothing is launched before a complete list.
fn install(engine: &mut Engine, key: &Key, fingerprint: String, cloud: Arc<dyn Cloud>) {
    let identity = Identity { owner: engine.owner.clone(), provider: key.to_string() };
    let view = SharedView::new(View::new(&identity.owner, &identity.provider));
    let (updates, mut news) = tokio::sync::mpsc::channel(16);
    let (poller, handle) = Poller::new(Arc::clone(&cloud), view, engine.setup.polling, updates);
    tracing::info!(provider = %key, "connected");
    let connection = Connection::new(fingerprint.clone(), identity, cloud, handle, engine.clock);
    engine.connections.insert(key.clone(), connection);
    engine.memory.providers.entry(key.clone()).or_default().listed = false;
    let send = engine.sender();
    let provider = key.clone();
    // Both end when the connection is dropped: the poller with its last handle, the relay with the poller.
    tokio::spawn(poller.run());
    tokio::spawn(async move {
        while let Some(update) = news.recv().await {
            let (provider, made_for) = (provider.clone(), fingerprint.clone());
            send(Box::new(move |engine: &mut Engine| listed(engine, &provider, &made_for, update)));
        }
    });
}

/// A list arrived, or failed: what changed is reconciled.
fn listed(engine: &mut Engine, key: &Key, made_for: &str, update: ViewUpdate) {
    let Some(connection) = engine.connections.get_mut(key).filter(|c| c.fingerprint == made_for) else { return };
    let failed_before = connection.error.is_some();
    let full = update.full;
    let changed = connection.records_of(&update.delta.changed);
    if let Some(error) = &update.error {
        tracing::warn!(provider = %key, %error, "servers could not be listed");
    }
    connection.error = match (connection.error.take(), update.error) {
        // Another request id alone is no news.
        (Some(old), Some(new)) if (old.class, &old.message) == (new.class, &new.message) => Some(old),
        (_, new) => new,
    };
    let gone = engine.records_with(key, &update.delta.gone, &update.delta.changed);
    let searching = if full { engine.searching(key) } else { Vec::new() };
    for record in changed.into_iter().chain(gone).chain(searching) {
        super::super::pool_node::server_changed(engine, &record);
    }
    if update.delta.foreign {
        engine.mark(Mark::Allocation);
    }
    if full {
        super::super::leaks::listed(engine, key);
    }
    let first = full && !std::mem::replace(&mut engine.memory.providers.entry(key.clone()).or_default().listed, true);
    let failing = engine.connections.get(key).is_some_and(|connection| connection.error.is_some());
    if first || failed_before != failing {
        super::mark_users(engine, key);
        engine.mark(Mark::Provider(key.clone()));
    }
    if failing {
        // The credentials may have been changed: read them again soon.
        let soon = engine.after(Duration::from_secs(2));
        engine.memory.providers.entry(key.clone()).or_default().reconnect_at = Some(soon);
        engine.wake(soon, Mark::Provider(key.clone()));
    }
}

fn read_facts(engine: &mut Engine, key: &Key) {
    let now = engine.now;
    let Some(connection) = engine.connections.get(key).filter(|connection| connection.facts_stale(now)) else { return };
    let Some(memory) = engine.memory.providers.get_mut(key).filter(|memory| !memory.reading) else { return };
    memory.reading = true;
    let cloud = connection.cloud();
    let key = key.clone();
    engine.spawn(async move {
        let flavors = cloud.flavors().await;
        let limits = cloud.limits().await;
        move |engine: &mut Engine| facts(engine, &key, flavors, limits)
    });
}

fn facts(engine: &mut Engine, key: &Key, flavors: Result<Vec<Flavor>, CloudError>, limits: Result<Limits, CloudError>) {
    let now: Timestamp = engine.now;
    if let Some(memory) = engine.memory.providers.get_mut(key) {
        memory.reading = false;
    }
    let mut complete = true;
    if let Some(connection) = engine.connections.get_mut(key) {
        match flavors {
            Ok(flavors) => connection.flavors = flavors,
            Err(error) => {
                complete = false;
                tracing::warn!(provider = %key, %error, "flavors could not be read; the known ones stay");
            }
        }
        match limits {
            Ok(limits) => connection.limits = Some(limits),
            // Some clouds hide their limits: the servers are then bounded by maxServers and by the cloud's refusals.
            Err(error) => tracing::warn!(provider = %key, %error, "limits could not be read; the known ones stay"),
        }
        connection.facts_read = Some(now);
    }
    let again = facts_again(engine, key, complete);
    engine.wake_in(again, Mark::Provider(key.clone()));
    super::mark_users(engine, key);
    engine.mark(Mark::Provider(key.clone()));
}

/// How long until flavors and limits are read again.
fn facts_again(engine: &mut Engine, key: &Key, complete: bool) -> Duration {
    let now = engine.now;
    let Some(connection) = engine.connections.get_mut(key) else { return FACTS_AGAIN };
    let last = connection.facts_last();
    if complete {
        return Duration::try_from(last).unwrap_or(FACTS_AGAIN);
    }
    connection.facts_read =
        SignedDuration::try_from(FACTS_AGAIN).ok().and_then(|again| now.checked_add(again - last).ok());
    FACTS_AGAIN
}
