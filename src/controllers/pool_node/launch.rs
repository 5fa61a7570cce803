//! The one boot request of a record (rule 2).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt};
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::provider_image::{self, KeyPair};
use super::super::records::{self, LaunchPermit};
use super::super::runtime::MadePort;
use super::super::{Engine, Mark, tenancy};
use super::{Boot, Fence, Key, versions};
use crate::api::conditions::reason;
use crate::api::pool::UserDataSecretRef;
use crate::api::{Pool, PoolNode};
use crate::cloud::{BootRequest, Cloud, CloudError, ErrorClass};
use crate::plan::tenancy::Access;

/// How a boot request ended.
enum Outcome {
    /// The cloud named the server.
    Accepted(String),
    /// The cloud answered something else, or nothing.
    Failed(CloudError),
    /// It was never sent, and may be another time.
    NotSent(String),
    /// It was never sent, and will not be until somebody corrects the pool.
    NotPossible(CloudError),
    /// It was never sent: the key pair of a build could not be made, which says nothing of boots.
    NoKeyPair(CloudError),
}

/// Our create of this record was answered with 201: this process, and only it, may boot it.
pub fn adopt_permit(engine: &mut Engine, node: &PoolNode, permit: LaunchPermit) {
    let uid = permit.uid().to_owned();
    engine.permitted.insert(uid.clone());
    let runtime = super::NodeRuntime::found(Key::of(node), Boot::Never);
    engine.runtime.entry(uid.clone()).or_insert(runtime).permit = Some(permit);
    engine.mark(Mark::Node(uid));
}

/// Sends the boot request. Consumes the permit: whatever happens now, there is no second one.
pub fn boot(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let Some(permit) = engine.runtime.get_mut(uid).and_then(|runtime| runtime.permit.take()) else { return };
    let Some((cloud, request)) = request(engine, node, &permit) else {
        // The provider is not connected or not open to the pool (any more): the record is of no use.
        set(engine, uid, |runtime| runtime.boot = Boot::Never);
        engine.mark(Mark::Node(uid.to_owned()));
        return;
    };
    let now = engine.now;
    set(engine, uid, |runtime| {
        runtime.boot = Boot::InFlight;
        runtime.sent = Some(now);
    });
    let client = engine.setup.client.clone();
    let user_data = template_of(engine, node).and_then(|pool| pool.spec.user_data_secret_ref.clone());
    let key_pair = provider_image::key_pair(engine, node);
    // Rule 8: no boot that starts after a rejection was written uses the version, so the API server is asked now.
    let version = node.spec.provider_image.as_ref().map(|name| versions::ask(engine, Key::of(&**node).sibling(name)));
    let node = Arc::clone(node);
    engine.spawn(async move {
        let mut port = MadePort::None;
        let outcome = match usable(version).await {
            Ok(()) => send(&client, cloud, &node, request, (user_data, key_pair), permit, &mut port).await,
            Err(why) => Outcome::NotSent(why),
        };
        move |engine: &mut Engine| booted(engine, &node, outcome, port)
    });
}

/// Whether the version may be booted from; a node of an image without versions always may.
async fn usable(version: Option<oneshot::Receiver<versions::Answer>>) -> Result<(), String> {
    let Some(version) = version else { return Ok(()) };
    match version.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("its image version was rejected".to_owned()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err("nobody answered for its image version".to_owned()),
    }
}

async fn send(
    client: &Client,
    cloud: Arc<dyn Cloud>,
    node: &PoolNode,
    mut request: BootRequest,
    (user_data, key_pair): (Option<UserDataSecretRef>, Option<KeyPair>),
    permit: LaunchPermit,
    port: &mut MadePort,
) -> Outcome {
    let namespace = node.namespace().unwrap_or_default();
    if let Some(wanted) = user_data {
        match read_user_data(client, &namespace, &wanted).await {
            Ok(data) => request.user_data = Some(data),
            Err(outcome) => return outcome,
        }
    }
    // Asked again when the request's turn has come.
    if !(request.may_still)() {
        return Outcome::NotSent("this replica does not lead any more, or the right to boot has ended".to_owned());
    }
    if let Some(pair) = key_pair {
        if let Err(error) = cloud.create_key_pair(&pair.name, &pair.public_key).await {
            return Outcome::NoKeyPair(error);
        }
        request.key_name = Some(pair.name);
    }
    if node.is_fenced()
        && let Err(error) = fence(&*cloud, &mut request, port).await
    {
        return Outcome::Failed(error);
    }
    let answer = cloud.create_server(&request).await;
    drop(permit);
    match answer {
        Ok(id) => Outcome::Accepted(id),
        Err(error) => Outcome::Failed(error),
    }
}

/// Makes the port that the request names. Without it no boot request is sent: however that failed, nothing was booted.
async fn fence(cloud: &dyn Cloud, request: &mut BootRequest, port: &mut MadePort) -> Result<(), CloudError> {
    match cloud.create_port(request).await {
        Ok(id) => {
            *port = MadePort::Made(id.clone());
            request.port = Some(id);
            Ok(())
        }
        Err(error) => {
            if error.class == ErrorClass::Unclear {
                *port = MadePort::Unknown;
            }
            Err(not_booted(error))
        }
    }
}

/// What was asked for before the boot request failed, however that was: nothing was booted.
fn not_booted(error: CloudError) -> CloudError {
    if error.class == ErrorClass::Unclear { CloudError { class: ErrorClass::Unavailable, ..error } } else { error }
}

async fn read_user_data(client: &Client, namespace: &str, wanted: &UserDataSecretRef) -> Result<SecretString, Outcome> {
    let wrong = |message| Outcome::NotPossible(invalid(message));
    let secret = records::read::<Secret>(client, namespace, &wanted.name)
        .await
        .map_err(|error| Outcome::NotSent(format!("the Secret {} cannot be read: {error}", wanted.name)))?
        .ok_or_else(|| wrong(format!("create the Secret {} with the key {}", wanted.name, wanted.key)))?;
    let data = secret
        .data
        .and_then(|mut data| data.remove(&wanted.key))
        .ok_or_else(|| wrong(format!("add the key {} to the Secret {}", wanted.key, wanted.name)))?;
    String::from_utf8(data.0)
        .map(SecretString::from)
        .map_err(|_| wrong(format!("write text under the key {} of the Secret {}", wanted.key, wanted.name)))
}

/// As if the cloud had refused it: the same is done about it.
const fn invalid(message: String) -> CloudError {
    CloudError { class: ErrorClass::Invalid, call: "userDataSecretRef", message, retry_after: None, request_id: None }
}

/// The pool that a node is booted like: its own, or for a trial one that uses the image.
fn template_of<'a>(engine: &'a Engine, node: &PoolNode) -> Option<&'a Arc<Pool>> {
    super::pool_of(engine, node).or_else(|| provider_image::tried_as(engine, node))
}

fn request(engine: &Engine, node: &PoolNode, permit: &LaunchPermit) -> Option<(Arc<dyn Cloud>, BootRequest)> {
    let key = Key::of(node);
    let provider = engine.providers.get(&key.sibling(&node.spec.provider))?;
    let pool = template_of(engine, node);
    if node.spec.pool.is_some() && pool.is_none() {
        return None;
    }
    if let Some(pool) = tenancy::pool_of(node).filter(|pool| pool.namespace != key.namespace) {
        let secret = super::pool_of(engine, node).is_some_and(|pool| pool.spec.user_data_secret_ref.is_some());
        if secret || tenancy::of_provider(engine, &pool, &key.sibling(&node.spec.provider)) != Access::Allowed {
            return None;
        }
    }
    let connection = engine.connection_of(node)?;
    let zones = &provider.spec.availability_zones;
    let zone = usize::try_from(node.spec.slot).ok().and_then(|slot| zones.get(slot % zones.len().max(1)));
    let guard = engine.setup.guard.clone();
    let until = permit.good_until(provider.spec.launch_timeout.as_std());
    let rejected = engine.rejected.clone();
    let version = node.spec.provider_image.as_ref().map(|name| key.sibling(name));
    let request = BootRequest {
        name: server_name(node),
        ownership: connection.ownership(permit.uid()),
        image_id: node.spec.image_id.clone(),
        flavor_id: node.spec.flavor_id.clone(),
        networks: provider.spec.networks.clone(),
        security_groups: provider.spec.security_groups.clone(),
        availability_zone: zone.cloned(),
        key_name: provider.spec.key_pair.clone(),
        config_drive: provider.spec.config_drive,
        user_data: None,
        metadata: pool.map(|pool| pool.spec.metadata.clone()).unwrap_or_default(),
        port: None,
        may_still: Arc::new(move || guard.is_current() && Instant::now() < until && !rejected.holds(version.as_ref())),
    };
    Some((connection.cloud(), request))
}

/// The name by which a lost boot request's server is found again: the record's name for people, its uid for uniqueness.
#[must_use]
pub fn server_name(node: &PoolNode) -> String {
    let uid = node.uid().unwrap_or_default();
    format!("{}-{}", node.name_any(), uid.get(..8).unwrap_or(&uid))
}

fn booted(engine: &mut Engine, node: &Arc<PoolNode>, outcome: Outcome, port: MadePort) {
    let Some(uid) = node.uid() else { return };
    let now = engine.now;
    // Without its port a boot request was not sent, and what failed says nothing of whether boots are answered.
    let sent = !node.is_fenced() || matches!(port, MadePort::Made(_));
    set(engine, &uid, |runtime| runtime.port = port);
    if sent && matches!(outcome, Outcome::Accepted(_) | Outcome::Failed(_)) {
        with_connection(engine, node, |connection| connection.boot_answered = Some(now));
    }
    match outcome {
        Outcome::Accepted(id) => {
            set(engine, &uid, |runtime| {
                runtime.server_id = Some(id);
                runtime.boot = Boot::Accepted;
            });
            let sent = engine.runtime.get(&uid).and_then(|runtime| runtime.sent).unwrap_or(now);
            with_connection(engine, node, |connection| connection.accepted(sent));
        }
        Outcome::NotSent(why) => {
            tracing::warn!(node = %Key::of(&**node), why, "boot request not sent");
            super::note_failure(engine, node, reason::TRANSIENT_ERROR, &why, None, now);
            set(engine, &uid, |runtime| runtime.boot = Boot::Never);
        }
        Outcome::NoKeyPair(error) => {
            let message = format!("its key pair could not be made: {error}");
            provider_image::launch_failed(engine, node, (reason::TRANSIENT_ERROR, &message), None, true);
            set(engine, &uid, |runtime| runtime.boot = Boot::Never);
        }
        Outcome::NotPossible(error) => {
            tracing::warn!(node = %Key::of(&**node), %error, "boot request not possible");
            set(engine, &uid, |runtime| {
                runtime.boot = Boot::Refused { at: now };
                runtime.refusal = Some(error);
            });
        }
        Outcome::Failed(error) => refused(engine, node, &uid, error, now),
    }
    // It tells of requests that are not answered.
    super::mark_pool(engine, node);
    engine.mark(Mark::Node(uid));
    engine.mark(Mark::Allocation);
}

/// Rule 3: a refusal that tells of the cloud is back-pressure on the provider; one that tells of the request is a
/// failed launch; anything unclear is searched for.
fn refused(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, error: CloudError, now: Timestamp) {
    tracing::warn!(node = %Key::of(&**node), class = error.class.label(), %error, "boot request failed");
    let boot = match error.class {
        ErrorClass::Unclear => Boot::Unclear,
        // Only this request names its port: who has it, if anybody, the port tells.
        ErrorClass::Conflict if node.is_fenced() => Boot::Unclear,
        _ => Boot::Refused { at: now },
    };
    with_connection(engine, node, |connection| connection.boot_failed(&node.spec.flavor_id, &error, now));
    set(engine, uid, |runtime| {
        runtime.boot = boot;
        runtime.refusal = Some(error);
        if boot == Boot::Unclear && node.is_fenced() {
            runtime.fence = Fence::of_unclear(now);
        }
    });
}

fn with_connection(engine: &mut Engine, node: &PoolNode, tell: impl FnOnce(&mut super::provider::Connection)) {
    let key = Key::of(node).sibling(&node.spec.provider);
    if let Some(connection) = engine.connections.get_mut(&key) {
        tell(connection);
    }
    super::provider::mark_later(engine, key);
}

fn set(engine: &mut Engine, uid: &str, change: impl FnOnce(&mut super::NodeRuntime)) {
    if let Some(runtime) = engine.runtime.get_mut(uid) {
        change(runtime);
    }
}
