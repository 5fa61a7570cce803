//! Neutron: the port that is made before a boot request and named in it, so that the request can be fenced off.
//!
//! Nova refuses a boot on a port that any device has, and Neutron changes a port for one revision only when it is asked
//! to: of a server that takes the port and of us who close it, exactly one wins (`tests/conformance/fence.rs`). A port is
//! made with its owner in its description, in one call, as tags are forgotten there (rule 10).

use serde::Deserialize;
use serde_json::json;

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked, nothing, refused};
use super::network::WirePort;
use super::ownership;
use super::transport::{Answer, Garbage};
use crate::cloud::{BootRequest, CloudError, ErrorClass, NetworkPart, Ownership, Passage};

/// The device of a port that no server may have any more.
pub(super) const CLOSED: &str = "nodepool-fenced";
/// What Nova writes before the availability zone as the owner of a server's port.
const OF_NOVA: &str = "compute:";
/// How often the port is looked at before the rest is left to another time: once more than it is tried to be closed.
const LOOKS: u32 = 4;

#[derive(Deserialize)]
struct OnePort {
    port: MadePort,
}

#[derive(Deserialize)]
struct MadePort {
    id: String,
}

/// Who has a port.
enum Holder {
    Nobody,
    Server(String),
    /// Something that is no server: a boot request is refused either way.
    Other,
}

fn holder(port: &WirePort) -> Holder {
    let of_nova = port.device_owner.as_deref().is_some_and(|owner| owner.starts_with(OF_NOVA));
    match port.device_id.as_deref() {
        None | Some("") => Holder::Nobody,
        Some(device) if of_nova && device != CLOSED => Holder::Server(device.to_owned()),
        Some(_) => Holder::Other,
    }
}

impl OpenStack {
    pub(super) async fn make_port(&self, request: &BootRequest) -> Result<String, CloudError> {
        let Some(network) = request.networks.first() else {
            return Err(refused(Call::CreatePort, ErrorClass::Invalid, "launchFence: Port needs an entry in networks"));
        };
        let network = self.network_id(network).await?;
        let groups = self.security_group_ids(&request.security_groups).await?;
        let description = ownership::description(&request.ownership);
        let mut port = json!({"network_id": network, "name": request.name, "description": description});
        if !groups.is_empty() {
            port["security_groups"] = json!(groups);
        }
        let body = json!({ "port": port });
        let ask = Ask::post(Call::CreatePort, Service::Network, &["ports"], &body);
        let outcome = self.client.ask(ask.only_if(request.may_still.clone()), made_id).await;
        if outcome.as_ref().is_err_and(|error| error.class == ErrorClass::Invalid) {
            self.forget_names();
        }
        outcome
    }

    pub(super) async fn own_ports(&self, name: &str, mark: &Ownership) -> Result<Vec<NetworkPart>, CloudError> {
        Ok(self.made_for(name, mark).await?.into_iter().map(|wire| self.port_part(wire)).collect())
    }

    /// By name, and checked by mark: whoever else uses the name is left alone.
    async fn made_for(&self, name: &str, mark: &Ownership) -> Result<Vec<WirePort>, CloudError> {
        let mut ports = self.list_ports(vec![("name", name.to_owned())]).await?;
        let ours = |wire: &WirePort| {
            let read = self.part_ownership(wire.tags.as_deref(), wire.description.as_deref());
            read.is_some_and(|read| read.owner == mark.owner && read.record == mark.record)
        };
        ports.retain(ours);
        Ok(ports)
    }

    pub(super) async fn close(&self, name: &str, mark: &Ownership) -> Result<Passage, CloudError> {
        for _ in 0..LOOKS {
            let ports = self.made_for(name, mark).await?;
            let mut free = Vec::new();
            for port in &ports {
                match holder(port) {
                    Holder::Server(id) => return Ok(Passage::Taken(id)),
                    Holder::Nobody => free.push(port),
                    Holder::Other => {}
                }
            }
            if free.is_empty() {
                return Ok(if ports.is_empty() { Passage::Absent } else { Passage::Closed });
            }
            for port in free {
                match self.close_one(port).await {
                    // It changed since it was read, or is gone: what it is now decides.
                    Err(error) if matches!(error.class, ErrorClass::Conflict | ErrorClass::NotFound) => {}
                    outcome => outcome?,
                }
            }
        }
        Err(refused(Call::ClosePort, ErrorClass::Conflict, "the port changes faster than it can be closed"))
    }

    /// Only for the revision that was read: without that, a server that takes it at this moment would lose it.
    async fn close_one(&self, port: &WirePort) -> Result<(), CloudError> {
        let unversioned = || refused(Call::ClosePort, ErrorClass::Invalid, "this Neutron tells no revision of a port");
        let revision = port.revision_number.ok_or_else(unversioned)?;
        let path = ["ports", checked(Call::ClosePort, &port.id)?];
        let body = json!({"port": {"device_id": CLOSED}});
        let ask = Ask::put(Call::ClosePort, Service::Network, &path, &body);
        self.client.ask(ask.of_revision(revision), nothing).await
    }
}

/// An answer without an id is no answer: the port may exist all the same.
fn made_id(answer: &Answer) -> Result<String, Garbage> {
    let id = answer.json::<OnePort>()?.port.id;
    if checked(Call::CreatePort, &id).is_ok() { Ok(id) } else { Err(Garbage) }
}
