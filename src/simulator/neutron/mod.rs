//! Neutron: what it holds, and what Nova asks of it when a server comes or goes.
//!
//! Resources are kept as the JSON that is shown, since all Neutron does with most of them is to store and filter them.

pub(crate) mod api;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    keystone::identity::seeded_id,
    servers::{Address, Nic},
    subnet::{Addresses, Cidr},
};

/// Collections by the name in their path.
pub(crate) const COLLECTIONS: &[(&str, &str)] = &[
    ("networks", "network"),
    ("subnets", "subnet"),
    ("ports", "port"),
    ("floatingips", "floatingip"),
    ("security-groups", "security_group"),
    ("security-group-rules", "security_group_rule"),
    ("routers", "router"),
];

/// All that Neutron holds.
#[derive(Debug)]
pub(crate) struct Network {
    items: HashMap<&'static str, BTreeMap<String, Value>>,
    by_device: HashMap<String, BTreeSet<String>>,
    fixed: Addresses,
    floating: Addresses,
    pub private: String,
    pub public: String,
    made: u64,
}

fn project() -> String {
    seeded_id("project").simple().to_string()
}

/// The time of everything that was there from the beginning.
pub(crate) const LONG_AGO: &str = "2026-01-01T00:00:00Z";

fn owned(mut fields: Value) -> Value {
    for (key, value) in [
        ("project_id", json!(project())),
        ("tenant_id", json!(project())),
        ("tags", json!([])),
        ("description", json!("")),
        ("created_at", json!(LONG_AGO)),
        ("updated_at", json!(LONG_AGO)),
        ("revision_number", json!(1)),
    ] {
        if fields.get(key).is_none() {
            fields[key] = value;
        }
    }
    fields
}

impl Network {
    pub(crate) fn new(servers: Cidr, floating: Cidr) -> Self {
        let id = |what: &str| seeded_id(what).to_string();
        let mut network = Self {
            items: COLLECTIONS.iter().map(|(name, _)| (*name, BTreeMap::new())).collect(),
            by_device: HashMap::new(),
            fixed: Addresses::new(servers),
            floating: Addresses::new(floating),
            private: id("network/private"),
            public: id("network/public"),
            made: 0,
        };
        for (name, cidr, external) in [("private", servers, false), ("public", floating, true)] {
            network.seed_network(name, cidr, external);
        }
        network.seed_group();
        network.put(
            "routers",
            owned(json!({
                "id": id("router"), "name": "router", "status": "ACTIVE", "admin_state_up": true, "routes": [],
                "external_gateway_info": {"network_id": id("network/public")},
            })),
        );
        network
    }

    fn seed_network(&mut self, name: &str, cidr: Cidr, external: bool) {
        let (id, subnet) = (seeded_id(&format!("network/{name}")), seeded_id(&format!("subnet/{name}")));
        let (first, last) = cidr.pool();
        self.put(
            "networks",
            owned(json!({
                "id": id, "name": name, "admin_state_up": true, "status": "ACTIVE", "subnets": [subnet], "mtu": 1500,
                "shared": external, "router:external": external, "port_security_enabled": true, "is_default": external,
                "availability_zone_hints": [], "availability_zones": ["nova"], "ipv4_address_scope": null,
                "ipv6_address_scope": null, "qos_policy_id": null, "l2_adjacency": true,
            })),
        );
        self.put(
            "subnets",
            owned(json!({
                "id": subnet, "name": name, "network_id": id, "ip_version": 4, "cidr": cidr.to_string(),
                "gateway_ip": cidr.gateway().to_string(), "enable_dhcp": !external, "dns_nameservers": [],
                "allocation_pools": [{"start": first.to_string(), "end": last.to_string()}], "host_routes": [],
                "service_types": [], "subnetpool_id": null, "ipv6_address_mode": null, "ipv6_ra_mode": null,
            })),
        );
    }

    fn seed_group(&mut self) {
        let group = seeded_id("security-group/default");
        let rule = |direction: &str, ethertype: &str| {
            owned(json!({
                "id": seeded_id(&format!("rule/{direction}/{ethertype}")), "security_group_id": group,
                "direction": direction, "ethertype": ethertype, "protocol": null, "port_range_min": null,
                "port_range_max": null, "remote_ip_prefix": null, "remote_group_id": null,
                "remote_address_group_id": null, "normalized_cidr": null,
            }))
        };
        for (direction, ethertype) in [("egress", "IPv4"), ("egress", "IPv6"), ("ingress", "IPv4"), ("ingress", "IPv6")]
        {
            self.put("security-group-rules", rule(direction, ethertype));
        }
        let mut shown = json!({"id": group, "name": "default", "stateful": true, "shared": false});
        shown["description"] = "Default security group".into();
        self.put("security-groups", owned(shown));
    }

    pub(crate) fn find(&self, collection: &str, id: &str) -> Option<&Value> {
        self.items.get(collection).and_then(|items| items.get(id))
    }

    pub(crate) fn all(&self, collection: &str) -> impl Iterator<Item = &Value> {
        self.items.get(collection).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn count(&self, collection: &str) -> i64 {
        self.items.get(collection).map_or(0, |items| i64::try_from(items.len()).unwrap_or(i64::MAX))
    }

    /// Stores a resource by its id, over the one that was there.
    pub(crate) fn put(&mut self, collection: &'static str, item: Value) {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        if collection == "ports" {
            self.forget_device(&id);
            if let Some(device) = item["device_id"].as_str().filter(|device| !device.is_empty()) {
                self.by_device.entry(device.to_owned()).or_default().insert(id.clone());
            }
        }
        self.items.entry(collection).or_default().insert(id, item);
    }

    pub(crate) fn remove(&mut self, collection: &str, id: &str) -> Option<Value> {
        if collection == "ports" {
            self.forget_device(id);
        }
        self.items.get_mut(collection).and_then(|items| items.remove(id))
    }

    fn forget_device(&mut self, port: &str) {
        let device = self.find("ports", port).and_then(|port| port["device_id"].as_str()).map(str::to_owned);
        if let Some(device) = device
            && let Some(ports) = self.by_device.get_mut(&device)
        {
            ports.remove(port);
            if ports.is_empty() {
                self.by_device.remove(&device);
            }
        }
    }

    pub(crate) fn ports_of(&self, device: &str) -> Vec<&Value> {
        let ids = self.by_device.get(device).into_iter().flatten();
        ids.filter_map(|id| self.find("ports", id)).collect()
    }

    /// The name of a security group, given by name or id.
    pub(crate) fn security_group(&self, which: &str) -> Option<String> {
        let found = self.all("security-groups").find(|group| group["id"] == which || group["name"] == which)?;
        found["name"].as_str().map(str::to_owned)
    }

    fn group_id(&self, name: &str) -> Option<Value> {
        self.all("security-groups").find(|group| group["name"] == name).map(|group| group["id"].clone())
    }

    /// A security group as Nova shows it.
    pub(crate) fn show_group(&self, name: &str) -> Value {
        json!({
            "id": self.group_id(name), "name": name, "description": "", "rules": [], "tenant_id": project(),
        })
    }

    /// A free address of a network.
    fn take_address(&mut self, network: &str, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, String> {
        let pool = if network == self.public { &mut self.floating } else { &mut self.fixed };
        match wanted {
            Some(address) if pool.take_exactly(address) => Ok(address),
            Some(address) => Err(format!("Fixed IP address {address} is already in use on instance.")),
            None => pool.take().ok_or_else(|| format!("No fixed IP addresses available for network: {network}")),
        }
    }

    fn free_address(&mut self, address: Ipv4Addr) {
        self.fixed.give_back(address);
        self.floating.give_back(address);
    }

    /// A port with an address, not yet stored.
    pub(crate) fn new_port(&mut self, network: &str, wanted: Option<Ipv4Addr>) -> Result<Value, String> {
        let held = self.find("networks", network).ok_or_else(|| format!("Network {network} could not be found."))?;
        let subnet = held["subnets"][0].clone();
        let address = self.take_address(network, wanted)?;
        self.made += 1;
        let mac = mac(self.made);
        let group = self.group_id("default");
        Ok(owned(json!({
            "id": Uuid::new_v4(), "name": "", "network_id": network, "mac_address": mac, "admin_state_up": true,
            "status": "DOWN", "device_id": "", "device_owner": "", "allowed_address_pairs": [],
            "fixed_ips": [{"subnet_id": subnet, "ip_address": address.to_string()}], "security_groups": [group],
            "binding:vnic_type": "normal", "extra_dhcp_opts": [], "port_security_enabled": true,
            "dns_name": "", "dns_assignment": [],
        })))
    }

    /// Binds a port that was there before to a server.
    pub(crate) fn claim_port(&mut self, port: &str, server: &str, zone: &str) {
        if let Some(mut held) = self.find("ports", port).cloned() {
            held["device_id"] = server.into();
            held["device_owner"] = format!("compute:{zone}").into();
            revise(&mut held);
            self.put("ports", held);
        }
    }

    /// Gives a server its port on a network, made or claimed before.
    pub(crate) fn plug(&mut self, server: &str, zone: &str, groups: &[String], nic: &Nic) -> Result<Address, String> {
        let mut port = match &nic.port {
            Some(port) => {
                self.find("ports", port).cloned().ok_or_else(|| format!("Port {port} could not be found."))?
            }
            None => {
                let mut port = self.new_port(&nic.network, nic.fixed_ip)?;
                let ids: Vec<Value> = groups.iter().filter_map(|name| self.group_id(name)).collect();
                port["security_groups"] = ids.into();
                port["made_by_nova"] = true.into();
                port
            }
        };
        port["device_id"] = server.into();
        port["device_owner"] = format!("compute:{zone}").into();
        port["status"] = "ACTIVE".into();
        revise(&mut port);
        let address = port["fixed_ips"][0]["ip_address"].as_str().and_then(|text| text.parse().ok());
        let address = address.ok_or_else(|| "Port requires a FixedIP in order to be used.".to_owned())?;
        let mac = port["mac_address"].as_str().unwrap_or_default().to_owned();
        let network = self.find("networks", port["network_id"].as_str().unwrap_or_default());
        let network = network.and_then(|network| network["name"].as_str()).unwrap_or_default().to_owned();
        self.put("ports", port);
        Ok(Address { network, address, mac, floating: false })
    }

    /// A server is gone: the ports that Nova made go, the others are free again.
    pub(crate) fn unplug(&mut self, server: &str) {
        let ids: Vec<String> = self.by_device.get(server).into_iter().flatten().cloned().collect();
        for id in ids {
            let Some(mut port) = self.find("ports", &id).cloned() else { continue };
            if port["made_by_nova"] == true {
                self.remove_port(&id);
                continue;
            }
            port["device_id"] = "".into();
            port["device_owner"] = "".into();
            port["status"] = "DOWN".into();
            revise(&mut port);
            self.put("ports", port);
        }
    }

    /// Removes a port, gives its address back, and lets go of its floating addresses.
    pub(crate) fn remove_port(&mut self, id: &str) {
        let Some(port) = self.remove("ports", id) else { return };
        for fixed in port["fixed_ips"].as_array().into_iter().flatten() {
            if let Some(address) = fixed["ip_address"].as_str().and_then(|text| text.parse().ok()) {
                self.free_address(address);
            }
        }
        let floating: Vec<Value> = self.all("floatingips").filter(|ip| ip["port_id"] == id).cloned().collect();
        for mut ip in floating {
            for field in ["port_id", "fixed_ip_address", "router_id", "port_details"] {
                ip[field] = Value::Null;
            }
            ip["status"] = "DOWN".into();
            self.put("floatingips", ip);
        }
    }

    /// A floating address, not yet stored.
    pub(crate) fn new_floating(&mut self, network: &str) -> Result<Value, String> {
        let address = self.floating.take();
        let address = address.ok_or_else(|| format!("No more IP addresses available on network {network}."))?;
        Ok(owned(json!({
            "id": Uuid::new_v4(), "floating_network_id": network, "floating_ip_address": address.to_string(),
            "port_id": null, "fixed_ip_address": null, "router_id": null, "status": "DOWN", "port_details": null,
            "dns_domain": "", "dns_name": "", "qos_policy_id": null, "port_forwardings": [],
        })))
    }

    pub(crate) fn remove_floating(&mut self, id: &str) -> Option<Value> {
        let ip = self.remove("floatingips", id)?;
        if let Some(address) = ip["floating_ip_address"].as_str().and_then(|text| text.parse().ok()) {
            self.free_address(address);
        }
        Some(ip)
    }
}

/// Every change of a resource has a number.
pub(crate) fn revise(item: &mut Value) {
    item["revision_number"] = (item["revision_number"].as_i64().unwrap_or(0) + 1).into();
}

/// Neutron's own prefix, and a number.
fn mac(number: u64) -> String {
    let bytes = number.to_be_bytes();
    format!("fa:16:3e:{:02x}:{:02x}:{:02x}", bytes[5], bytes[6], bytes[7])
}
