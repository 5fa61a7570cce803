//! Neutron: floating IPs and ports.
//!
//! Only things of our own project are listed, and that is checked here again: an administrator's credentials see all.
//! A floating IP is made with its owner in its description in one call, so that it is never without one (rule 10).

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked, gone, nothing, refused};
use super::fence::CLOSED;
use super::ownership;
use super::paging::{Link, page};
use crate::cloud::{CloudError, ErrorClass, NetworkPart, Ownership};

/// What is asked of every port of the project: there may be as many as servers, and more.
const FIELDS: [&str; 7] = ["id", "project_id", "tenant_id", "device_id", "description", "tags", "created_at"];
/// Ids in one question about ports; more would make an address that proxies refuse.
const IDS_PER_CALL: usize = 40;

#[derive(Deserialize)]
struct FloatingIpsPage {
    floatingips: Vec<WireFloatingIp>,
    floatingips_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
struct OneFloatingIp {
    floatingip: WireFloatingIp,
}

#[derive(Deserialize)]
struct WireFloatingIp {
    id: String,
    project_id: Option<String>,
    /// The older name of the same; most clouds send both.
    tenant_id: Option<String>,
    floating_ip_address: Option<IpAddr>,
    port_id: Option<String>,
    description: Option<String>,
    tags: Option<Vec<String>>,
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct PortsPage {
    ports: Vec<WirePort>,
    ports_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
pub(super) struct WirePort {
    pub(super) id: String,
    name: Option<String>,
    project_id: Option<String>,
    /// The older name of the same; most clouds send both.
    tenant_id: Option<String>,
    pub(super) device_id: Option<String>,
    pub(super) device_owner: Option<String>,
    pub(super) revision_number: Option<u64>,
    pub(super) description: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    created_at: Option<String>,
    #[serde(default)]
    fixed_ips: Vec<WireFixedIp>,
}

#[derive(Deserialize)]
struct WireFixedIp {
    ip_address: IpAddr,
}

impl WireFloatingIp {
    fn is_of(&self, project: &str) -> bool {
        self.project_id.as_deref().or(self.tenant_id.as_deref()) == Some(project)
    }
}

impl WirePort {
    fn is_of(&self, project: &str) -> bool {
        self.project_id.as_deref().or(self.tenant_id.as_deref()) == Some(project)
    }
}

page!(FloatingIpsPage, WireFloatingIp, floatingips, floatingips_links);
page!(PortsPage, WirePort, ports, ports_links);

impl OpenStack {
    pub(super) async fn all_floating_ips(&self) -> Result<Vec<NetworkPart>, CloudError> {
        let project = self.client.login().await?.project_id.clone();
        let ask = Ask::get(Call::ListFloatingIps, Service::Network, &["floatingips"])
            .query(vec![("project_id", project.clone())]);
        let listed = self.client.list::<FloatingIpsPage, _>(ask, |wire| wire).await?;
        let ours = listed.items.into_iter().filter(|wire| wire.is_of(&project));
        Ok(ours.map(|wire| self.floating_part(wire)).collect())
    }

    fn floating_part(&self, wire: WireFloatingIp) -> NetworkPart {
        NetworkPart {
            ownership: self.part_ownership(wire.tags.as_deref(), wire.description.as_deref()),
            id: wire.id,
            attached_to: wire.port_id.filter(|id| !id.is_empty()),
            address: wire.floating_ip_address,
            created: created(wire.created_at.as_deref()),
        }
    }

    pub(super) fn part_ownership(&self, tags: Option<&[String]>, description: Option<&str>) -> Option<Ownership> {
        description.and_then(|text| self.identity.in_description(text)).or_else(|| self.identity.in_tags(tags?))
    }

    /// The address made before for the same record is found by its description, also when its answer got lost.
    pub(super) async fn give_floating_ip(
        &self,
        network: &str,
        server_id: &str,
        ownership: &Ownership,
    ) -> Result<IpAddr, CloudError> {
        let port = self.first_port(server_id).await?;
        let before = self.all_floating_ips().await?;
        match before.into_iter().find(|part| part.ownership.as_ref() == Some(ownership)) {
            Some(NetworkPart { attached_to: Some(at), address: Some(address), .. }) if at == port => Ok(address),
            Some(NetworkPart { attached_to: None, id, .. }) => self.attach(&id, &port).await,
            Some(_) => Err(refused(
                Call::AttachFloatingIp,
                ErrorClass::Conflict,
                "the floating IP of this record is attached to another port",
            )),
            None => self.create_floating_ip(network, &port, ownership).await,
        }
    }

    async fn first_port(&self, server_id: &str) -> Result<String, CloudError> {
        checked(Call::ListPorts, server_id)?;
        let mut ports = self.list_ports(vec![("device_id", server_id.to_owned())]).await?;
        ports.retain(|port| port.device_id.as_deref() == Some(server_id));
        // A floating IP leads to an IPv4 address.
        let usable = |port: &WirePort| port.fixed_ips.iter().any(|fixed| fixed.ip_address.is_ipv4());
        ports.into_iter().find(usable).map(|port| port.id).ok_or_else(|| {
            refused(Call::ListPorts, ErrorClass::Conflict, "the server has no port with an IPv4 address yet")
        })
    }

    async fn create_floating_ip(&self, network: &str, port: &str, ownership: &Ownership) -> Result<IpAddr, CloudError> {
        let network = self.network_id(network).await?;
        let description = ownership::description(ownership);
        let body = json!({"floatingip": {
            "floating_network_id": network, "port_id": port, "description": description,
        }});
        let ask = Ask::post(Call::CreateFloatingIp, Service::Network, &["floatingips"], &body);
        let outcome = self.client.ask(ask, |answer| answer.json::<OneFloatingIp>()).await;
        if outcome.as_ref().is_err_and(|error| error.class == ErrorClass::Invalid) {
            self.forget_names();
        }
        address(outcome?, Call::CreateFloatingIp)
    }

    async fn attach(&self, id: &str, port: &str) -> Result<IpAddr, CloudError> {
        let path = ["floatingips", checked(Call::AttachFloatingIp, id)?];
        let body = json!({"floatingip": {"port_id": port}});
        let ask = Ask::put(Call::AttachFloatingIp, Service::Network, &path, &body);
        address(self.client.ask(ask, |answer| answer.json::<OneFloatingIp>()).await?, Call::AttachFloatingIp)
    }

    pub(super) async fn remove_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        let path = ["floatingips", checked(Call::DeleteFloatingIp, id)?];
        gone(self.client.ask(Ask::delete(Call::DeleteFloatingIp, Service::Network, &path), nothing).await)
    }

    /// Neutron's own policy keeps a project from deleting what Nova owns by name, also when its server is long gone:
    /// such a port is disowned first, once its server is proven gone. It goes on naming its server, so that it is
    /// found again should the second deletion fail.
    pub(super) async fn remove_port(&self, id: &str) -> Result<(), CloudError> {
        let path = ["ports", checked(Call::DeletePort, id)?];
        let delete = || Ask::delete(Call::DeletePort, Service::Network, &path);
        let failure = match self.client.try_ask(&delete(), &nothing).await {
            Err(failure) if failure.written && failure.status == Some(403) => failure,
            outcome => return gone(outcome.map_err(|failure| failure.error)),
        };
        let Some(port) = self.list_ports(vec![("id", id.to_owned())]).await?.into_iter().find(|port| port.id == id)
        else {
            return Ok(());
        };
        let server = port.device_id.as_deref().filter(|device| !device.is_empty());
        let Some(server) = server else { return Err(failure.error) };
        match self.server(server).await {
            Err(error) if error.class == ErrorClass::NotFound => {}
            Ok(_) => return Err(refused(Call::DeletePort, ErrorClass::Conflict, "a server has this port")),
            Err(error) => return Err(error),
        }
        self.disown_port(&port).await?;
        gone(self.client.ask(delete(), nothing).await)
    }

    async fn disown_port(&self, port: &WirePort) -> Result<(), CloudError> {
        let path = ["ports", checked(Call::DisownPort, &port.id)?];
        let body = json!({"port": {"device_owner": ""}});
        let ask = Ask::put(Call::DisownPort, Service::Network, &path, &body);
        // For the revision that was read: a server may have come since.
        let ask = match port.revision_number {
            Some(revision) => ask.of_revision(revision),
            None => ask,
        };
        gone(self.client.ask(ask, nothing).await)
    }

    /// Looked for on our side: the mark is in the description, which Neutron compares only as a whole.
    pub(super) async fn marked_ports(&self, owner: &str) -> Result<Vec<NetworkPart>, CloudError> {
        let listed = self.list_ports(FIELDS.map(|field| ("fields", field.to_owned())).to_vec()).await?;
        let parts = listed.into_iter().map(|wire| self.port_part(wire));
        Ok(parts.filter(|part| part.ownership.as_ref().is_some_and(|mark| mark.owner == owner)).collect())
    }

    /// Ports that Nova made carry no mark of ours, only the id of their server.
    pub(super) async fn linked_ports(&self, server_ids: &[String]) -> Result<Vec<NetworkPart>, CloudError> {
        let mut parts = Vec::new();
        for ids in server_ids.chunks(IDS_PER_CALL) {
            let query = ids
                .iter()
                .map(|id| Ok(("device_id", checked(Call::ListPorts, id)?.to_owned())))
                .collect::<Result<Vec<_>, CloudError>>()?;
            let listed = self.list_ports(query).await?;
            // Those that Nova makes are nameless; one with a name is somebody's own (rule 10).
            let nameless = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
            let linked = |wire: &WirePort| {
                wire.device_id.as_ref().is_some_and(|device| ids.contains(device))
                    && nameless(&wire.name)
                    && nameless(&wire.description)
            };
            parts.extend(listed.into_iter().filter(linked).map(|wire| self.port_part(wire)));
        }
        Ok(parts)
    }

    pub(super) async fn list_ports(&self, mut query: Vec<(&'static str, String)>) -> Result<Vec<WirePort>, CloudError> {
        let project = self.client.login().await?.project_id.clone();
        query.push(("project_id", project.clone()));
        let ask = Ask::get(Call::ListPorts, Service::Network, &["ports"]).query(query);
        let listed = self.client.list::<PortsPage, _>(ask, |wire| wire).await?;
        Ok(listed.items.into_iter().filter(|wire| wire.is_of(&project)).collect())
    }

    pub(super) fn port_part(&self, wire: WirePort) -> NetworkPart {
        NetworkPart {
            ownership: self.part_ownership(wire.tags.as_deref(), wire.description.as_deref()),
            id: wire.id,
            attached_to: wire.device_id.filter(|id| !id.is_empty() && id != CLOSED),
            address: None,
            created: created(wire.created_at.as_deref()),
        }
    }
}

fn address(answer: OneFloatingIp, call: Call) -> Result<IpAddr, CloudError> {
    let none = || refused(call, ErrorClass::Unclear, "the floating IP was answered without an address");
    answer.floatingip.floating_ip_address.ok_or_else(none)
}

fn created(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}
