//! Nova's servers as it writes them, and what is kept of them.
//!
//! A password made at boot, user data and everything that no decision needs is dropped while reading. A server whose
//! deletion is under way is shown as that, whatever its status says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

use super::fault;
use super::ownership::Identity;
use super::paging::{Link, Page, next};
use crate::cloud::{Address, Fault, Ownership, Resources, Server, ServerStatus};

#[derive(Deserialize)]
pub(crate) struct ServersPage {
    servers: Vec<WireServer>,
    servers_links: Option<Vec<Link>>,
}

impl Page for ServersPage {
    type Item = WireServer;

    fn split(self) -> (Vec<WireServer>, Option<String>) {
        (self.servers, next(self.servers_links))
    }
}

/// One server, in any microversion. A record from a cell that is down has an id and little more.
#[derive(Deserialize)]
pub(crate) struct WireServer {
    id: String,
    name: Option<String>,
    status: Option<String>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    tags: Option<Vec<String>>,
    addresses: Option<BTreeMap<String, Vec<WireAddress>>>,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    availability_zone: Option<String>,
    created: Option<String>,
    updated: Option<String>,
    flavor: Option<WireFlavor>,
    fault: Option<WireFault>,
}

#[derive(Deserialize)]
struct WireAddress {
    addr: String,
    #[serde(rename = "OS-EXT-IPS:type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct WireFlavor {
    vcpus: Option<i64>,
    ram: Option<i64>,
}

#[derive(Deserialize)]
struct WireFault {
    message: Option<String>,
}

impl WireServer {
    /// Whether it can be part of the answer to `changes-since`.
    pub(crate) fn changed_since(&self, since: Timestamp) -> bool {
        let updated = self.updated.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        // Nova cuts fractions of a second off.
        updated.is_none_or(|updated| updated.as_second() >= since.as_second() - 1)
    }

    /// What decisions need of it.
    pub(crate) fn keep(self, identity: &Identity, secrets: &[&SecretString]) -> Server {
        let status = self.status();
        let ownership = self.ownership(identity);
        let resources = self
            .flavor
            .as_ref()
            .and_then(|flavor| Some(Resources { instances: 1, cores: flavor.vcpus?, ram_mib: flavor.ram? }));
        let fault = self.fault.and_then(|fault| fault.message).map(|message| Fault {
            class: fault::server_fault_class(&message),
            message: fault::scrub(&message, secrets),
        });
        Server {
            id: self.id,
            name: self.name.unwrap_or_default(),
            status,
            ownership,
            addresses: addresses(self.addresses.unwrap_or_default()),
            availability_zone: self.availability_zone.filter(|zone| !zone.is_empty()),
            created: self.created.as_deref().and_then(|text| text.parse().ok()),
            resources,
            fault,
        }
    }

    fn status(&self) -> ServerStatus {
        match self.status.as_deref() {
            Some("DELETED") => ServerStatus::Deleted,
            Some("SOFT_DELETED") => ServerStatus::SoftDeleted,
            Some("UNKNOWN") | None => ServerStatus::Unknown,
            _ if matches!(self.task_state.as_deref(), Some("deleting" | "soft-deleting")) => ServerStatus::Deleting,
            Some("BUILD") => ServerStatus::Build,
            Some("ACTIVE") => ServerStatus::Active,
            Some("ERROR") => ServerStatus::Error,
            Some("SHUTOFF") if self.task_state.is_none() => ServerStatus::Stopped,
            Some(_) => ServerStatus::Other,
        }
    }

    fn ownership(&self, identity: &Identity) -> Option<Ownership> {
        let metadata = self.metadata.as_ref();
        identity
            .in_metadata(|key| metadata?.get(key).map(String::as_str))
            .or_else(|| identity.in_tags(self.tags.as_deref()?))
    }
}

/// In an order that does not depend on the answer's, so that unchanged servers compare equal.
fn addresses(by_network: BTreeMap<String, Vec<WireAddress>>) -> Vec<Address> {
    let mut all: Vec<Address> = by_network
        .into_iter()
        .flat_map(|(network, addresses)| addresses.into_iter().map(move |address| (network.clone(), address)))
        .filter_map(|(network, address)| {
            let floating = address.kind.as_deref() == Some("floating");
            Some(Address { ip: address.addr.parse().ok()?, floating, network })
        })
        .collect();
    all.sort_by(|a, b| (&a.network, a.floating, a.ip).cmp(&(&b.network, b.floating, b.ip)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{ErrorClass, OWNER_KEY, PROVIDER_KEY, RECORD_KEY};
    use serde_json::{Value, json};

    fn read(value: Value) -> Server {
        let identity = Identity { owner: "me".into(), provider: "ns/one".into() };
        serde_json::from_value::<WireServer>(value).unwrap().keep(&identity, &[])
    }

    #[test]
    fn a_full_record() {
        let server = read(json!({
            "id": "1", "name": "n", "status": "ACTIVE", "OS-EXT-STS:task_state": null,
            "metadata": {OWNER_KEY: "me", RECORD_KEY: "r", PROVIDER_KEY: "ns/one"}, "tags": [],
            "addresses": {"net": [
                {"addr": "10.0.0.2", "version": 4, "OS-EXT-IPS:type": "floating"},
                {"addr": "127.20.0.9", "version": 4, "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "m"}]},
            "OS-EXT-AZ:availability_zone": "nova", "created": "2026-11-22T10:00:00Z",
            "flavor": {"vcpus": 2, "ram": 4096, "original_name": "m"}, "adminPass": "x", "hostId": "",
        }));
        assert_eq!(server.status, ServerStatus::Active);
        assert_eq!(server.ownership.unwrap().record, "r");
        assert_eq!(server.resources, Some(Resources { instances: 1, cores: 2, ram_mib: 4096 }));
        assert_eq!(server.addresses[0].ip.to_string(), "127.20.0.9");
        assert!(server.addresses[1].floating);
    }

    #[test]
    fn a_server_on_its_way_out_is_never_active() {
        for status in ["ACTIVE", "BUILD", "ERROR"] {
            let server = read(json!({"id": "1", "status": status, "OS-EXT-STS:task_state": "deleting"}));
            assert_eq!(server.status, ServerStatus::Deleting);
        }
        let gone = read(json!({"id": "1", "status": "DELETED", "OS-EXT-STS:task_state": "deleting", "addresses": {}}));
        assert_eq!(gone.status, ServerStatus::Deleted);
    }

    #[test]
    fn a_cell_that_is_down() {
        let server = read(json!({"id": "1", "tenant_id": "t", "created": "2026-11-22T10:00:00Z", "status": "UNKNOWN"}));
        assert_eq!((server.status, server.ownership, server.resources), (ServerStatus::Unknown, None, None));
    }

    #[test]
    fn ownership_from_tags_when_metadata_is_gone() {
        let tags = ["nodepool_owner=me", "nodepool_record=r", "nodepool_provider=ns:one"];
        let server = read(json!({"id": "1", "metadata": {}, "tags": tags}));
        let expected = Ownership { owner: "me".into(), record: "r".into(), provider: "ns/one".into() };
        assert_eq!(server.ownership, Some(expected));
    }

    #[test]
    fn a_fault_is_classed_and_cut() {
        let message = "No valid host was found. ";
        let server = read(json!({"id": "1", "status": "ERROR", "fault": {"code": 500, "message": message}}));
        let fault = server.fault.unwrap();
        assert_eq!((fault.class, fault.message.as_str()), (ErrorClass::NoCapacity, "No valid host was found."));
    }

    #[test]
    fn an_ignored_filter_shows() {
        let server =
            |updated: &str| serde_json::from_value::<WireServer>(json!({"id": "1", "updated": updated})).unwrap();
        let since = "2026-11-22T10:00:00.9Z".parse().unwrap();
        assert!(server("2026-11-22T10:00:00Z").changed_since(since));
        assert!(!server("2026-11-22T09:00:00Z").changed_since(since));
    }
}
