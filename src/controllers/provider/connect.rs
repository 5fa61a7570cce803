//! From a Secret to a connection, and what is read from the cloud now and then.
//!
//! Secrets are read by name and never watched; what they hold goes nowhere but into the client (rule 16).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use sha2::{Digest, Sha256};

use super::super::index::Key;
use super::super::{Engine, Mark, records};
use super::connection::{Connection, Identity, reconnect_after};
use crate::api::Provider;
use crate::api::conditions::reason;
use crate::api::provider::Interface;
use crate::cloud::openstack::{self, CloudConfig, OpenStack, Options};
use crate::cloud::poller::{Poller, SharedView, ViewUpdate};
use crate::cloud::view::View;
use crate::cloud::{Cloud, CloudError, ErrorClass, Flavor, Limits};

/// Why a Provider is not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A reason of `api::conditions`.
    pub reason: &'static str,
    /// What to do about it.
    pub message: String,
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
    let memory = engine.memory.providers.entry(key.clone()).or_default();
    if !memory.connecting && memory.reconnect_at.is_none_or(|at| at <= now) {
        memory.connecting = true;
        connect(engine, key.clone(), Arc::clone(provider));
    }
    read_facts(engine, key);
}

fn connect(engine: &mut Engine, key: Key, provider: Arc<Provider>) {
    let client = engine.setup.client.clone();
    let known = engine.connections.get(&key).filter(|c| c.error.is_none()).map(|c| c.fingerprint.clone());
    let options = Options {
        requests_per_second: provider.spec.requests_per_second,
        region: provider.spec.region.clone(),
        interface: Some(interface(provider.spec.interface)),
        provider_key: key.to_string(),
        owner: engine.owner.clone(),
        observer: Some(engine.setup.observer(&key)),
    };
    engine.spawn(async move {
        let found = attempt(&client, &key, &provider, options, known).await;
        move |engine: &mut Engine| connected(engine, &key, found)
    });
}

async fn attempt(
    client: &Client,
    key: &Key,
    provider: &Provider,
    options: Options,
    known: Option<String>,
) -> Result<Found, Failure> {
    let name = &provider.spec.cloud.secret_ref.name;
    let missing = || Failure {
        reason: reason::SECRET_NOT_FOUND,
        message: format!("create the Secret {name} with the key clouds.yaml in namespace {}", key.namespace),
    };
    let secret = records::read::<Secret>(client, &key.namespace, name)
        .await
        .map_err(|error| Failure {
            reason: reason::TRANSIENT_ERROR,
            message: format!("the Secret {name} could not be read: {error}"),
        })?
        .ok_or_else(missing)?;
    let data = secret.data.unwrap_or_default();
    let clouds = data.get("clouds.yaml").ok_or_else(|| Failure {
        reason: reason::SECRET_INVALID,
        message: format!("add the key clouds.yaml to the Secret {name}"),
    })?;
    let authority = data.get("cacert").map(|pem| pem.0.as_slice());
    let fingerprint = fingerprint(provider, &clouds.0, authority);
    if known.as_ref() == Some(&fingerprint) {
        return Ok(Found::Unchanged);
    }
    let invalid = |error: &dyn std::fmt::Display| Failure {
        reason: reason::SECRET_INVALID,
        message: format!("the Secret {name}: {error}"),
    };
    let config = CloudConfig::from_yaml(&clouds.0, &provider.spec.cloud.cloud_name, authority)
        .map_err(|error| invalid(&error))?;
    let cloud = OpenStack::new(config, options).map_err(|error| invalid(&error))?;
    cloud.check().await.map_err(|error| explained(&error))?;
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
    Failure { reason, message: error.to_string() }
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
    let works = found.is_ok();
    let at = engine.after(reconnect_after(works));
    let Some(memory) = engine.memory.providers.get_mut(key) else { return };
    memory.connecting = false;
    memory.reconnect_at = Some(at);
    let failed_before = std::mem::replace(&mut memory.failure, found.as_ref().err().cloned());
    match found {
        Ok(Found::Unchanged) => {}
        Ok(Found::Connected { fingerprint, cloud }) => install(engine, key, fingerprint, cloud),
        Err(failure) if failed_before.as_ref() == Some(&failure) => {}
        Err(failure) => tracing::warn!(provider = %key, reason = failure.reason, "not connected: {}", failure.message),
    }
    engine.wake(at, Mark::Provider(key.clone()));
    engine.mark(Mark::Provider(key.clone()));
    engine.mark(Mark::Allocation);
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
    connection.error = update.error;
    if let Some(error) = &connection.error {
        tracing::warn!(provider = %key, %error, "servers could not be listed");
    }
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
    let again = if complete { Duration::from_secs(300) } else { Duration::from_secs(5) };
    if !complete {
        let at = engine.after(again);
        engine.connections.get_mut(key).into_iter().for_each(|connection| {
            connection.facts_read = at.checked_sub(super::connection::FACTS_LAST).ok();
        });
    }
    engine.wake_in(again, Mark::Provider(key.clone()));
    super::mark_users(engine, key);
    engine.mark(Mark::Provider(key.clone()));
}
