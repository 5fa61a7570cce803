//! The port that fences a record's boot request: closed when nobody can tell what became of the request, removed with
//! the record.
//!
//! Never decides when to close it: [`crate::plan::node`] does.

use std::sync::Arc;

use super::super::Engine;
use super::super::runtime::{MadePort, NodeRuntime};
use super::{Boot, act, launch};
use crate::api::PoolNode;
use crate::cloud::{Cloud, CloudError, Ownership, Passage, ServerStatus};
use crate::plan::node::Fence;

/// Closes it, or learns which server has passed.
pub fn close(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let Some(connection) = engine.connection_of(node) else { return };
    let (name, mark) = (launch::server_name(node), connection.ownership(uid));
    act::call(engine, node, uid, |cloud| async move { passage(&*cloud, &name, &mark).await }, closed);
}

/// What is known of the boot request now.
enum Found {
    /// None that has not passed can.
    Closed,
    /// It made this server.
    Server(String),
    /// It may have made the server that has the port: the cloud cannot tell whose that is (its cell is down).
    Someone,
    /// No port.
    Nothing,
}

/// A server is believed to be the record's only when it says so itself: a port can be given away by hand (rule 10).
async fn passage(cloud: &dyn Cloud, name: &str, mark: &Ownership) -> Result<Found, CloudError> {
    let id = match cloud.close_port(name, mark).await? {
        Passage::Taken(id) => id,
        Passage::Closed => return Ok(Found::Closed),
        Passage::Absent => return Ok(Found::Nothing),
    };
    let server = cloud.get_server(&id).await?;
    Ok(match server.ownership {
        Some(read) if read.owner == mark.owner && read.record == mark.record => Found::Server(id),
        None if server.status == ServerStatus::Unknown => Found::Someone,
        _ => Found::Closed,
    })
}

fn closed(engine: &mut Engine, uid: &str, answer: Result<Found, CloudError>) {
    let now = engine.now;
    if let Ok(Found::Server(_)) = &answer {
        // What the lists did not show belongs into the view.
        let node = engine.runtime.get(uid).and_then(|runtime| engine.nodes.get(&runtime.key));
        let connection = node.and_then(|node| engine.connection_of(node));
        connection.into_iter().for_each(super::provider::Connection::list_all);
    }
    act::with(engine, uid, |runtime| {
        let node = runtime.key.clone();
        match answer {
            Ok(Found::Closed) => {
                tracing::info!(%node, "an unclear boot request is fenced off: it cannot make a server any more");
                runtime.fence = Fence::Closed { at: now };
            }
            Ok(Found::Server(id)) => {
                tracing::info!(%node, server = id, "adopted the server that has the port of an unclear boot request");
                runtime.server_id = Some(id);
                runtime.boot = Boot::Accepted;
            }
            Ok(Found::Someone) => {
                tracing::warn!(%node, "a server that the cloud cannot show has the port of an unclear boot request");
                runtime.fence_failures = runtime.fence_failures.saturating_add(1);
                runtime.fence = Fence::taken(now, runtime.fence_failures);
            }
            Ok(Found::Nothing) => {
                tracing::debug!(%node, "no port of an unclear boot request; looking again later");
                put_off(runtime, now);
            }
            Err(error) => {
                tracing::warn!(%node, %error, "an unclear boot request could not be fenced off; trying again");
                put_off(runtime, now);
            }
        }
    });
}

fn put_off(runtime: &mut NodeRuntime, now: jiff::Timestamp) {
    runtime.fence_failures = runtime.fence_failures.saturating_add(1);
    runtime.fence = Fence::not_closed(now, runtime.fence_failures);
}

/// A port that may be there.
pub struct Left {
    port: MadePort,
    name: String,
    mark: Ownership,
}

/// The port that was made for a record, if one may have been.
pub fn left(engine: &Engine, node: &PoolNode, uid: &str) -> Option<Left> {
    let runtime = engine.runtime.get(uid).filter(|_| node.is_fenced())?;
    let port = match (&runtime.port, runtime.boot) {
        (MadePort::None, _) | (MadePort::Unknown, Boot::Never | Boot::Permitted) => return None,
        (port, _) => port.clone(),
    };
    let mark = engine.connection_of(node)?.ownership(uid);
    Some(Left { port, name: launch::server_name(node), mark })
}

/// Deletes it: a boot request that is still on its way is refused from then on as well.
pub async fn remove(cloud: &dyn Cloud, left: &Left) -> Result<(), CloudError> {
    if let MadePort::Made(id) = &left.port {
        return cloud.delete_port(id).await;
    }
    for port in cloud.ports_made(&left.name, &left.mark).await? {
        cloud.delete_port(&port.id).await?;
    }
    Ok(())
}
