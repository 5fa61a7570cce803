//! What a node's record says: state, server, addresses, host keys, and why a launch failed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::Engine;
use super::super::records::{self, WriteError};
use super::super::{provider_image, tenancy};
use super::act::{reason_of, write};
use super::{Key, act, advice};
use crate::api::conditions::{self, Desired, READY, reason};
use crate::api::{NodeState, PoolNode};
use crate::cloud::{ErrorClass, Server};
use crate::ops::turns;
use crate::plan::node::{Failure, Fence};

/// How many of the console's last lines are kept with a failed launch.
const CONSOLE_LINES: u32 = 20;
/// The longest console text that is kept.
const CONSOLE_BYTES: usize = 4096;

/// The address to connect to: a floating one first, then IPv4.
pub fn address(engine: &Engine, node: &PoolNode, uid: &str) -> Option<IpAddr> {
    let runtime = engine.runtime.get(uid)?;
    let recorded = || node.status.as_ref()?.address.as_ref()?.parse().ok();
    let seen = server(engine, node).and_then(|server| {
        server.addresses.iter().max_by_key(|address| (address.floating, address.ip.is_ipv4())).map(|address| address.ip)
    });
    runtime.floating_ip.or(seen).or_else(recorded)
}

fn server(engine: &Engine, node: &PoolNode) -> Option<Arc<Server>> {
    let uid = node.uid()?;
    let runtime = engine.runtime.get(&uid)?;
    engine.connection_of(node)?.server_of(node, runtime.server_id.as_deref())
}

/// What every later status says of the server.
fn server_status(engine: &Engine, node: &PoolNode, uid: &str) -> Value {
    let runtime = engine.runtime.get(uid);
    json!({
        "observedGeneration": node.metadata.generation,
        "serverID": runtime.and_then(|runtime| runtime.server_id.clone()),
        "launchedAt": node.metadata.creation_timestamp,
    })
}

/// Records the server of a boot that lasts.
pub fn record_server(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let mut status = server_status(engine, node, uid);
    status["state"] = json!(NodeState::Building);
    send(engine, node, uid, status);
}

/// Records a state that says nothing more.
pub fn state(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, state: NodeState) {
    let mut status = json!({ "state": state, "observedGeneration": node.metadata.generation });
    if state == NodeState::Deleting {
        let message = "the server is being destroyed";
        tell(engine, node, &mut status, &Desired::no(READY, reason::DRAINING, message));
    }
    send(engine, node, uid, status);
}

/// Adds what the node's condition says now to a status that is written anyway.
fn tell(engine: &Engine, node: &PoolNode, status: &mut Value, desired: &Desired) {
    let mut conditions = node.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    conditions::set(&mut conditions, desired, node.metadata.generation, &Time(engine.now));
    status["conditions"] = json!(conditions);
}

fn send(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, status: Value) {
    let client = engine.setup.client.clone();
    let seen = Arc::clone(node);
    // As text it is a tenth of the size, and thousands may wait for their turn.
    let text = status.to_string();
    let call = move || async move {
        let status: Value = serde_json::from_str(&text).map_err(|error| WriteError::Refused(error.to_string()))?;
        records::patch_status(&client, &*seen, status).await
    };
    write(engine, uid, turns::usual(call));
}

/// Records a node as ready, with all that a client needs to log in (rule 5).
pub fn ready(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let mut status = server_status(engine, node, uid);
    let chosen = address(engine, node, uid);
    let seen = server(engine, node);
    let mut addresses: Vec<Value> = seen
        .iter()
        .flat_map(|server| &server.addresses)
        .map(|address| described(address.ip, address.floating))
        .collect();
    if let Some(floating) = chosen.filter(|ip| !addresses.iter().any(|address| address["address"] == ip.to_string())) {
        addresses.push(described(floating, true));
    }
    status["state"] = json!(NodeState::Ready);
    status["addresses"] = json!(addresses);
    status["address"] = json!(chosen);
    status["port"] = json!(node.spec.port);
    status["username"] = json!(node.spec.username);
    status["hostKeys"] = json!(engine.runtime.get(uid).map(|runtime| runtime.host_keys.clone()).unwrap_or_default());
    status["availabilityZone"] = json!(seen.and_then(|server| server.availability_zone.clone()));
    status["image"] = json!(node.spec.provider_image);
    status["readyAt"] = json!(engine.now);
    tell(engine, node, &mut status, &Desired::yes(READY, reason::AS_EXPECTED, ""));
    if first_time(engine, uid) {
        launch_ended(engine, node, "ready", Some(true), Some(true));
    }
    send(engine, node, uid, status);
}

fn described(ip: IpAddr, floating: bool) -> Value {
    json!({
        "type": if floating { "floating" } else { "fixed" },
        "version": if ip.is_ipv4() { 4 } else { 6 },
        "address": ip,
    })
}

/// Counts a launch and tells the health of template and image; `None` when it says nothing about them.
fn launch_ended(
    engine: &mut Engine,
    node: &PoolNode,
    result: &'static str,
    good: Option<bool>,
    of_image: Option<bool>,
) {
    let key = Key::of(node);
    let took = node.creation_timestamp().and_then(|made| Duration::try_from(engine.now.duration_since(made.0)).ok());
    let pool = tenancy::pool_label(node);
    engine.setup.metrics.launch(&key.namespace, &node.spec.provider, &pool, result, took.unwrap_or_default());
    let now = engine.now;
    if let Some(good) = of_image {
        provider_image::launch_ended(engine, node, good);
    }
    if let (Some(good), Some(connection)) = (good, engine.connections.get_mut(&key.sibling(&node.spec.provider))) {
        connection.launch_ended(&node.spec.template_hash, good, now);
    }
}

/// Whether a failure says something about what is booted, and not only about the cloud.
fn blames_template(engine: &Engine, node: &PoolNode, failure: Failure) -> Option<bool> {
    let back_pressure = |class| {
        matches!(
            class,
            ErrorClass::Quota
                | ErrorClass::NoCapacity
                | ErrorClass::Throttled
                | ErrorClass::Auth
                | ErrorClass::Unavailable
        )
    };
    match failure {
        Failure::ServerError => {
            let fault = server(engine, node).and_then(|server| server.fault.as_ref().map(|fault| fault.class));
            (!fault.is_some_and(back_pressure)).then_some(false)
        }
        Failure::LaunchTimeout | Failure::BootTimeout => Some(false),
        Failure::Refused => {
            let refusal = refusal(engine, node).map(|(class, _)| class);
            (!refusal.is_some_and(back_pressure)).then_some(false)
        }
        Failure::NeverAppeared | Failure::ServerLost | Failure::Unreachable => None,
    }
}

fn refusal(engine: &Engine, node: &PoolNode) -> Option<(ErrorClass, String)> {
    let refusal = engine.runtime.get(&node.uid()?)?.refusal.as_ref()?;
    Some((refusal.class, refusal.to_string()))
}

/// The sentence that people read.
fn sentence(engine: &Engine, node: &PoolNode, failure: Failure) -> String {
    let fault = || server(engine, node).and_then(|server| server.fault.clone()).map(|fault| fault.message);
    match failure {
        Failure::ServerError => fault().unwrap_or_else(|| "the server ended in ERROR".to_owned()),
        Failure::LaunchTimeout => "the server did not become ACTIVE within launchTimeout".to_owned(),
        Failure::BootTimeout if refusal(engine, node).is_some() => {
            let told = refusal(engine, node).map(|(_, message)| message).unwrap_or_default();
            format!("no floating IP could be attached within bootTimeout: {told}")
        }
        Failure::BootTimeout => "the server is ACTIVE but did not answer within bootTimeout; look at the image, the \
                                 security groups and the network"
            .to_owned(),
        Failure::Refused => {
            refusal(engine, node).map_or_else(|| "refused".to_owned(), |(_, message)| advice::advised(message))
        }
        Failure::NeverAppeared => never_appeared(engine, node),
        Failure::ServerLost => "the server disappeared or stopped, and the operator did not do it".to_owned(),
        Failure::Unreachable => "the idle node no longer answers, or answers with another host key".to_owned(),
    }
}

fn never_appeared(engine: &Engine, node: &PoolNode) -> String {
    let runtime = node.uid().and_then(|uid| engine.runtime.get(&uid));
    let closed = runtime.is_some_and(|runtime| matches!(runtime.fence, Fence::Closed { .. }));
    let more = if closed { "; its port was closed, so that none can come of it any more" } else { "" };
    format!("the boot request was not answered, and no server of it was found{more}")
}

/// An idle node is lost: told on the pool, not counted as a launch.
pub fn lost(engine: &mut Engine, node: &PoolNode, failure: Failure) {
    if node.state() == NodeState::Building {
        return;
    }
    let (reason, _) = reason_of(failure);
    let message = sentence(engine, node, failure);
    super::super::pool::event(engine, node, reason, &message);
}

/// A launch is counted once, however often its record has to be written.
fn first_time(engine: &mut Engine, uid: &str) -> bool {
    engine.runtime.get_mut(uid).is_some_and(|runtime| !std::mem::replace(&mut runtime.told, true))
}

/// Records a failed launch with its fault and the console's last lines; on the node, on its pool, and in an event.
pub fn failed(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str, failure: Failure) {
    let (reason, label) = reason_of(failure);
    let message = sentence(engine, node, failure);
    let good = blames_template(engine, node, failure);
    let judged = good == Some(false) && matches!(failure, Failure::BootTimeout | Failure::ServerError);
    if first_time(engine, uid) {
        launch_ended(engine, node, label, good, judged.then_some(false));
        tell_pressure(engine, node, failure);
    }
    let now = engine.now;
    if failure == Failure::Refused && good.is_none() {
        // Back-pressure is told on the provider; the record, for which nothing was made, just goes.
        act::condemn(engine, node, uid);
        return;
    }
    let cloud = engine.connection_of(node).map(super::provider::Connection::cloud);
    let server_id = engine.runtime.get(uid).and_then(|runtime| runtime.server_id.clone());
    let mut status = server_status(engine, node, uid);
    tell(engine, node, &mut status, &Desired::no(READY, reason, message.clone()));
    let (client, seen) = (engine.setup.client.clone(), Arc::clone(node));
    let report = engine.sender();
    write(engine, uid, async move {
        let console = match (cloud, server_id) {
            (Some(cloud), Some(id)) => cloud.console_tail(&id, CONSOLE_LINES).await.ok().map(|text| tail(&text)),
            _ => None,
        };
        status["state"] = json!(NodeState::Failed);
        status["fault"] = json!({ "message": message, "console": console });
        let node = Arc::clone(&seen);
        report(Box::new(move |engine: &mut Engine| {
            // A build's server is booted once; a trial is repeated unless the image is why it failed.
            let ends = if node.is_build() { good == Some(false) } else { judged };
            provider_image::launch_failed(engine, &node, (reason, &message), console.as_deref(), ends);
            super::note_failure(engine, &node, reason, &message, console, now);
            super::super::pool::event(engine, &node, reason, &message);
        }));
        turns::usual(|| records::patch_status(&client, &*seen, status)).await
    });
}

/// "No valid host" and a quota that was passed in a race are told in the server's fault, after a 202 (rule 3).
fn tell_pressure(engine: &mut Engine, node: &PoolNode, failure: Failure) {
    let fault = server(engine, node).and_then(|server| server.fault.clone());
    let now = engine.now;
    let key = Key::of(node).sibling(&node.spec.provider);
    if let (Failure::ServerError, Some(fault), Some(connection)) = (failure, fault, engine.connections.get_mut(&key)) {
        connection.server_failed(&node.spec.flavor_id, fault.class, &fault.message, now);
        engine.mark(super::super::Mark::Provider(key));
    }
}

/// The last lines of a console, short enough for a status.
fn tail(text: &str) -> String {
    let start = text.ceil_char_boundary(text.len().saturating_sub(CONSOLE_BYTES));
    text[start..].to_owned()
}
