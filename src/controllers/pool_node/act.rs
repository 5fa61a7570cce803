//! Performs one step of one node, beside the engine, and takes what came of it.
//!
//! Every cloud write asks the guard first; every record write carries the uid and the version that was decided on.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

use super::super::runtime::NodeRuntime;
use super::super::{Engine, Mark, provider_image, records};
use super::{Key, fence, launch, probing, report};
use crate::api::{FINALIZER_SERVER, PoolNode};
use crate::cloud::{Cloud, CloudError, ErrorClass};
use crate::ops::turns;
use crate::plan::node::{Boot, Deletion, Failure, Step};
use crate::plan::pressure::grown;

/// Pause before a step whose write lost a race or was not answered is decided anew, if no watch event does it earlier.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// First and longest pause between two deletions of one server.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The longest pause before a floating IP is tried again: its time is bootTimeout.
const LONGEST_ATTACH_RETRY: Duration = Duration::from_secs(10);
/// Look-ups that must find nothing before a server counts as gone, and the pause between them: one 404 may be a
/// hiccup.
const ENOUGH_NOT_FOUND: u32 = 2;
const NOT_FOUND_AGAIN: Duration = Duration::from_secs(3);
/// How long a node that was released for a look is kept.
const HELD_AFTER_RELEASE: SignedDuration = SignedDuration::from_hours(24);

/// Performs a step.
pub fn perform(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, step: Step) {
    match step {
        Step::Wait => {}
        Step::Boot => launch::boot(engine, node, uid),
        Step::RecordServer => report::record_server(engine, node, uid),
        Step::AttachAddress => attach_address(engine, node, uid),
        Step::Probe => probing::start(engine, node, uid),
        Step::MarkReady => report::ready(engine, node, uid),
        Step::MarkInUse => report::state(engine, node, uid, crate::api::NodeState::InUse),
        Step::MarkHeld => report::state(engine, node, uid, crate::api::NodeState::Held),
        Step::MarkDeleting => report::state(engine, node, uid, crate::api::NodeState::Deleting),
        Step::HoldReleased => hold_released(engine, node, uid),
        Step::MarkFailed(failure) => report::failed(engine, node, uid, failure),
        Step::Condemn(failure) => {
            report::lost(engine, node, failure);
            condemn(engine, node, uid);
        }
        Step::Release => condemn(engine, node, uid),
        Step::DeleteServer => delete_server(engine, node, uid, false),
        Step::ForceDeleteServer => delete_server(engine, node, uid, true),
        Step::LookUp => look_up(engine, node, uid),
        Step::CloseFence => fence::close(engine, node, uid),
        Step::ListAll => engine.connection_of(node).into_iter().for_each(|connection| connection.list_all()),
        Step::Free => free(engine, node, uid),
    }
}

/// Deletes the record if it is still as it was when this was decided: a claim that came first wins (rule 4).
pub fn condemn(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    with(engine, uid, |runtime| runtime.condemning = true);
    let client = engine.setup.client.clone();
    let node = Arc::clone(node);
    let uid = uid.to_owned();
    engine.spawn(async move {
        let answer = turns::usual(|| records::delete(&client, &*node)).await;
        move |engine: &mut Engine| {
            match answer {
                // Not before the winner's version had time to arrive: until then nothing else is decided for it.
                Err(error) => return again(engine, &uid, &error),
                Ok(Some(node)) => engine.wrote_node(node),
                Ok(None) => {}
            }
            with(engine, &uid, |runtime| runtime.condemning = false);
            engine.mark(Mark::Node(uid));
            engine.mark(Mark::Allocation);
        }
    });
}

/// Gives a ready node to a request; compared and written in one step (rule 4).
pub fn claim(engine: &mut Engine, node: &Arc<PoolNode>, claim: crate::api::pool_node::ClaimRef) {
    let Some(uid) = node.uid() else { return };
    with(engine, &uid, |runtime| runtime.claiming = Some(claim.uid.clone()));
    let change = json!({ "spec": { "claimRef": claim } });
    let request = Key::new(&claim.namespace, &claim.name);
    let client = engine.setup.client.clone();
    let node = Arc::clone(node);
    engine.spawn(async move {
        let answer = turns::urgent(|| records::patch(&client, &*node, change)).await;
        move |engine: &mut Engine| {
            match answer {
                Err(error) => return again(engine, &uid, &error),
                Ok(node) => engine.wrote_node(node),
            }
            with(engine, &uid, |runtime| runtime.claiming = None);
            engine.mark(Mark::Node(uid));
            engine.mark(Mark::Request(request));
            engine.mark(Mark::Allocation);
        }
    });
}

fn hold_released(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let name = node.spec.claim_ref.as_ref().map_or("?", |claim| claim.name.as_str());
    let until = engine.now.checked_add(HELD_AFTER_RELEASE).unwrap_or(Timestamp::MAX);
    let hold = json!({ "spec": { "hold": { "reason": format!("released by NodeRequest {name}"), "until": until } } });
    let client = engine.setup.client.clone();
    let seen = Arc::clone(node);
    write(engine, uid, async move { records::patch(&client, &*seen, hold).await });
}

/// Writes the record; the answer is taken like a watch event.
pub fn write(
    engine: &mut Engine,
    uid: &str,
    call: impl Future<Output = Result<PoolNode, records::WriteError>> + Send + 'static,
) {
    with(engine, uid, |runtime| runtime.busy = true);
    let uid = uid.to_owned();
    engine.spawn(async move {
        let answer = call.await;
        move |engine: &mut Engine| {
            with(engine, &uid, |runtime| runtime.busy = false);
            match answer {
                Ok(node) => engine.wrote_node(node),
                Err(error) => again(engine, &uid, &error),
            }
            engine.mark(Mark::Node(uid));
        }
    });
}

fn again(engine: &mut Engine, uid: &str, error: &records::WriteError) {
    match error {
        records::WriteError::Conflict | records::WriteError::NotFound => {
            tracing::debug!(uid, %error, "a write lost a race");
        }
        _ => tracing::warn!(uid, %error, "a record could not be written; deciding anew"),
    }
    // Marked through a timer, not at once: the version that won has to arrive first.
    with(engine, uid, |runtime| runtime.busy = true);
    let uid = uid.to_owned();
    engine.spawn(async move {
        tokio::time::sleep(AGAIN).await;
        move |engine: &mut Engine| {
            with(engine, &uid, |runtime| {
                runtime.busy = false;
                runtime.claiming = None;
                runtime.condemning = false;
            });
            engine.mark(Mark::Node(uid));
            engine.mark(Mark::Allocation);
        }
    });
}

/// A cloud call for a node: only while this replica leads, with the answer applied to the engine.
pub(super) fn call<T, F>(
    engine: &mut Engine,
    node: &PoolNode,
    uid: &str,
    work: impl FnOnce(Arc<dyn Cloud>) -> F,
    done: fn(&mut Engine, &str, Result<T, CloudError>),
) where
    T: Send + 'static,
    F: Future<Output = Result<T, CloudError>> + Send + 'static,
{
    let Some(cloud) = engine.connection_of(node).map(super::provider::Connection::cloud) else {
        engine.wake_in(AGAIN, Mark::Node(uid.to_owned()));
        return;
    };
    if !engine.setup.guard.is_current() {
        return;
    }
    with(engine, uid, |runtime| runtime.busy = true);
    let uid = uid.to_owned();
    let work = work(cloud);
    engine.spawn(async move {
        let answer = work.await;
        move |engine: &mut Engine| {
            with(engine, &uid, |runtime| runtime.busy = false);
            done(engine, &uid, answer);
            engine.mark(Mark::Node(uid));
        }
    });
}

fn attach_address(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let key = Key::of(&**node).sibling(&node.spec.provider);
    let network = engine.providers.get(&key).and_then(|p| p.spec.floating_ip.as_ref().map(|ip| ip.network.clone()));
    let server = engine.runtime.get(uid).and_then(|runtime| runtime.server_id.clone());
    let (Some(network), Some(server), Some(connection)) = (network, server, engine.connection_of(node)) else { return };
    let ownership = connection.ownership(uid);
    let work = |cloud: Arc<dyn Cloud>| async move { cloud.attach_floating_ip(&network, &server, &ownership).await };
    call(engine, node, uid, work, |engine, uid, answer: Result<IpAddr, CloudError>| match answer {
        Ok(address) => with(engine, uid, |runtime| runtime.floating_ip = Some(address)),
        Err(error) => {
            tracing::warn!(uid, %error, "floating IP not attached; trying again");
            let mut failures = 0;
            with(engine, uid, |runtime| {
                runtime.address_failures = runtime.address_failures.saturating_add(1);
                failures = runtime.address_failures;
                runtime.refusal = Some(error);
            });
            pause(engine, uid, grown(FIRST_RETRY, failures, LONGEST_ATTACH_RETRY));
        }
    });
}

/// Leaves a node alone for a while, whatever else happens to it.
fn pause(engine: &mut Engine, uid: &str, pause: Duration) {
    with(engine, uid, |runtime| runtime.busy = true);
    let uid = uid.to_owned();
    engine.spawn(async move {
        tokio::time::sleep(pause).await;
        move |engine: &mut Engine| {
            with(engine, &uid, |runtime| runtime.busy = false);
            engine.mark(Mark::Node(uid));
        }
    });
}

fn delete_server(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, force: bool) {
    let Some(id) = engine.runtime.get(uid).and_then(|runtime| runtime.server_id.clone()) else { return };
    let work = |cloud: Arc<dyn Cloud>| async move {
        if force { cloud.force_delete_server(&id).await } else { cloud.delete_server(&id).await }
    };
    call(engine, node, uid, work, |engine, uid, answer: Result<(), CloudError>| {
        let now = engine.now;
        with(engine, uid, |runtime| deletion_answered(runtime, answer, now));
    });
}

fn deletion_answered(runtime: &mut NodeRuntime, answer: Result<(), CloudError>, now: Timestamp) {
    match answer {
        Ok(()) => {
            runtime.deletions = runtime.deletions.saturating_add(1);
            runtime.deletion = Deletion::Accepted { at: now, times: runtime.deletions };
            runtime.deletion_failures = 0;
        }
        // A 404 is the proof, unless the cloud may not know the server yet that it named a moment ago.
        Err(error) if error.class == ErrorClass::NotFound => {
            runtime.not_found += 1;
            runtime.gone =
                runtime.not_found >= ENOUGH_NOT_FOUND || matches!(runtime.deletion, Deletion::Accepted { .. });
            runtime.looked_up = Some(now);
            runtime.deletion = Deletion::Accepted { at: now, times: runtime.deletions.max(1) };
        }
        Err(error) => {
            runtime.deletion_failures = runtime.deletion_failures.saturating_add(1);
            let pause =
                grown(FIRST_RETRY, runtime.deletion_failures, LONGEST_RETRY).max(error.retry_after.unwrap_or_default());
            let retry = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok());
            tracing::warn!(node = %runtime.key, %error, "server not deleted; trying again");
            runtime.deletion = Deletion::Failed { retry: retry.unwrap_or(Timestamp::MAX) };
        }
    }
}

fn look_up(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let Some(id) = engine.runtime.get(uid).and_then(|runtime| runtime.server_id.clone()) else { return };
    let provider = Key::of(&**node).sibling(&node.spec.provider);
    let Some(cloud) = engine.connections.get(&provider).map(super::provider::Connection::cloud) else { return };
    with(engine, uid, |runtime| runtime.busy = true);
    let uid = uid.to_owned();
    engine.spawn(async move {
        let mut answer = cloud.get_server(&id).await;
        for _ in 1..ENOUGH_NOT_FOUND {
            if !answer.as_ref().is_err_and(|error| error.class == ErrorClass::NotFound) {
                break;
            }
            tokio::time::sleep(NOT_FOUND_AGAIN).await;
            answer = cloud.get_server(&id).await;
        }
        move |engine: &mut Engine| looked_up(engine, &provider, &uid, answer)
    });
}

fn looked_up(engine: &mut Engine, provider: &Key, uid: &str, answer: Result<crate::cloud::Server, CloudError>) {
    let now = engine.now;
    with(engine, uid, |runtime| {
        runtime.busy = false;
        runtime.looked_up = Some(now);
        match &answer {
            Ok(_) => runtime.not_found = 0,
            Err(error) if error.class == ErrorClass::NotFound => {
                runtime.not_found = ENOUGH_NOT_FOUND;
                runtime.gone = true;
            }
            Err(error) => tracing::warn!(node = %runtime.key, %error, "server could not be looked up"),
        }
    });
    // What a list did not show and a look-up does belongs into the view again.
    if answer.is_ok() {
        engine.connections.get(provider).into_iter().for_each(|connection| connection.list_all());
    }
    let gone = engine.runtime.get(uid).filter(|runtime| runtime.gone).and_then(|runtime| runtime.server_id.clone());
    if let (Some(id), Some(connection)) = (gone, engine.connections.get(provider)) {
        connection.prove_gone(&id);
    }
    engine.mark(Mark::Node(uid.to_owned()));
}

/// The server is proven gone: what was made for it goes, then the finalizer, and with it the slot.
fn free(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let client = engine.setup.client.clone();
    let seen = Arc::clone(node);
    let provider = Key::of(&**node).sibling(&node.spec.provider);
    let floating = engine.providers.get(&provider).is_some_and(|provider| provider.spec.floating_ip.is_some());
    let booted =
        engine.runtime.get(uid).is_some_and(|runtime| runtime.server_id.is_some() || runtime.boot == Boot::Unclear);
    let key_pair = provider_image::key_pair_to_remove(engine, node);
    let parts = Parts { floating_ips: floating && booted, port: fence::left(engine, node, uid), key_pair };
    let cloud = engine.connection_of(node).filter(|_| parts.any()).map(super::provider::Connection::cloud);
    let server = engine.runtime.get(uid).and_then(|runtime| runtime.server_id.clone());
    if let Some(server) = server {
        super::super::leaks::server_gone(engine, &provider, &server, uid);
    }
    let record = uid.to_owned();
    write(engine, uid, async move {
        if let Some(cloud) = cloud {
            parts.delete(&*cloud, &record).await;
        }
        turns::usual(|| records::remove_finalizer(&client, &*seen, FINALIZER_SERVER)).await
    });
}

/// What may be left of a record in the cloud when its server is gone.
struct Parts {
    floating_ips: bool,
    port: Option<fence::Left>,
    key_pair: Option<String>,
}

impl Parts {
    const fn any(&self) -> bool {
        self.floating_ips || self.port.is_some() || self.key_pair.is_some()
    }

    /// One that cannot be deleted now carries our mark: the collector finds it, and the slot is not held for it.
    async fn delete(&self, cloud: &dyn Cloud, record: &str) {
        if self.floating_ips
            && let Err(error) = delete_floating_ips(cloud, record).await
        {
            tracing::warn!(record, %error, "floating IP not deleted; it is left to the collector");
        }
        if let Some(port) = &self.port
            && let Err(error) = fence::remove(cloud, port).await
        {
            tracing::warn!(record, %error, "port not deleted; it is left to the collector");
        }
        if let Some(name) = &self.key_pair
            && let Err(error) = cloud.delete_key_pair(name).await
        {
            tracing::warn!(record, %error, "key pair not deleted; it is left to the collector");
        }
    }
}

async fn delete_floating_ips(cloud: &dyn Cloud, record: &str) -> Result<(), CloudError> {
    for part in cloud.floating_ips().await? {
        if part.ownership.as_ref().is_some_and(|ownership| ownership.record == record) {
            cloud.delete_floating_ip(&part.id).await?;
        }
    }
    Ok(())
}

pub(super) fn with(engine: &mut Engine, uid: &str, change: impl FnOnce(&mut NodeRuntime)) {
    if let Some(runtime) = engine.runtime.get_mut(uid) {
        change(runtime);
    }
}

/// The failure of a launch, as a reason for people and a word for metrics.
pub const fn reason_of(failure: Failure) -> (&'static str, &'static str) {
    use crate::api::conditions::reason;
    match failure {
        Failure::ServerError => (reason::SERVER_ERROR, "server_error"),
        Failure::LaunchTimeout => (reason::LAUNCH_TIMEOUT, "launch_timeout"),
        Failure::BootTimeout => (reason::BOOT_TIMEOUT, "boot_timeout"),
        Failure::Refused => (reason::INVALID_CONFIGURATION, "refused"),
        Failure::NeverAppeared => (reason::LAUNCH_LOST, "launch_lost"),
        Failure::ServerLost => (reason::SERVER_LOST, "server_lost"),
        Failure::Unreachable => (reason::UNREACHABLE, "unreachable"),
    }
}
