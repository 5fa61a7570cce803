//! Neutron v2.0: the calls. Lists are filtered on any attribute, as the real service does.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{COLLECTIONS, LONG_AGO, revise};
use crate::simulator::{
    calls::Call,
    faults::{Behaviour, Kind},
    lifecycle::Float,
    servers::Address,
    wire::{Answer, Reply, Request, encode_query, neutron_error},
    world::World,
};

/// Answers one call to Neutron.
pub(crate) fn handle(
    world: &mut World,
    call: &Call,
    request: &Request,
    behaviours: &[Behaviour],
    now: Timestamp,
) -> Answer {
    if call.name == "versions" {
        return Ok(versions(world, call));
    }
    match call.segment(0) {
        "extensions" => return extensions(call),
        "quotas" => return Ok(quotas(world, call)),
        "availability_zones" => return Ok(zones(world)),
        _ => {}
    }
    let found = COLLECTIONS.iter().find(|(collection, _)| *collection == call.segment(0));
    let Some((collection, one)) = found.copied() else {
        return Err(neutron_error(404, "HTTPNotFound", "The resource could not be found."));
    };
    let ask = Ask { collection, one, id: call.segment(1), request, now };
    if call.path.len() > 2 {
        return ask.tags(world, call);
    }
    match (request.method.as_str(), ask.id.is_empty()) {
        ("GET", true) => ask.list(world, behaviours),
        ("GET", false) => ask.show(world, 200),
        ("POST", true) => ask.create(world),
        ("PUT", false) => ask.update(world),
        ("DELETE", false) => ask.delete(world),
        _ => Err(neutron_error(405, "HTTPMethodNotAllowed", "The method is not allowed for this resource.")),
    }
}

fn versions(world: &World, call: &Call) -> Reply {
    if call.versioned {
        let link = |name: &(&str, &str)| {
            let href = world.url("/network/v2.0/") + name.0;
            json!({"name": name.1, "collection": name.0, "links": [{"rel": "self", "href": href}]})
        };
        return Reply::json(200, &json!({"resources": COLLECTIONS.iter().map(link).collect::<Vec<_>>()}));
    }
    let href = world.url("/network/v2.0/");
    Reply::json(
        200,
        &json!({"versions": [{
            "id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": href}],
        }]}),
    )
}

/// The extensions that clients look for before they use tags, quotas or floating addresses.
const EXTENSIONS: &[&str] = &[
    "router",
    "external-net",
    "security-group",
    "standard-attr-tag",
    "tag-creation",
    "revision-if-match",
    "filter-validation",
    "quotas",
    "quota_details",
    "pagination",
    "sorting",
    "project-id",
    "standard-attr-description",
    "standard-attr-timestamp",
    "standard-attr-revisions",
    "binding",
    "provider",
    "net-mtu",
    "port-security",
    "availability_zone",
    "fip-port-details",
    "allowed-address-pairs",
];

fn extensions(call: &Call) -> Answer {
    let show =
        |alias: &&str| json!({"alias": alias, "name": alias, "description": "", "updated": LONG_AGO, "links": []});
    if call.segment(1).is_empty() {
        let all: Vec<Value> = EXTENSIONS.iter().map(show).collect();
        return Ok(Reply::json(200, &json!({"extensions": all})));
    }
    let found = EXTENSIONS.iter().find(|alias| **alias == call.segment(1));
    let absent = || neutron_error(404, "ExtensionsNotFound", &format!("Extensions not found: {}", call.segment(1)));
    found.map(|alias| Reply::json(200, &json!({"extension": show(alias)}))).ok_or_else(absent)
}

fn quotas(world: &World, call: &Call) -> Reply {
    let tunable = &world.tunable;
    let all = [
        ("network", "networks", 100),
        ("subnet", "subnets", 100),
        ("port", "ports", tunable.max_ports),
        ("floatingip", "floatingips", tunable.max_floating_ips),
        ("router", "routers", 10),
        ("security_group", "security-groups", 10),
        ("security_group_rule", "security-group-rules", 100),
    ];
    let detail = call.path.last().is_some_and(|last| last.starts_with("details"));
    let show = |(name, collection, limit): (&str, &str, i64)| {
        let used = world.network.count(collection);
        let shown = if detail { json!({"limit": limit, "used": used, "reserved": 0}) } else { json!(limit) };
        (name.to_owned(), shown)
    };
    let quota: serde_json::Map<String, Value> = all.into_iter().map(show).collect();
    Reply::json(200, &json!({"quota": quota}))
}

fn zones(world: &World) -> Reply {
    let zone = |name: &String| json!({"name": name, "resource": "network", "state": "available"});
    let zones: Vec<Value> = world.fixed.zones.iter().map(zone).collect();
    Reply::json(200, &json!({"availability_zones": zones}))
}

/// What lists can be asked by; Neutron has such a list for each collection.
const FILTERS: &[&str] = &[
    "admin_state_up",
    "binding:host_id",
    "binding:vnic_type",
    "cidr",
    "description",
    "device_id",
    "device_owner",
    "direction",
    "enable_dhcp",
    "ethertype",
    "fields",
    "fixed_ip_address",
    "fixed_ips",
    "floating_ip_address",
    "floating_network_id",
    "gateway_ip",
    "id",
    "ip_version",
    "is_default",
    "limit",
    "mac_address",
    "marker",
    "mtu",
    "name",
    "network_id",
    "not-tags",
    "not-tags-any",
    "page_reverse",
    "port_id",
    "port_security_enabled",
    "project_id",
    "protocol",
    "remote_group_id",
    "remote_ip_prefix",
    "revision_number",
    "router:external",
    "router_id",
    "security_group_id",
    "security_groups",
    "shared",
    "sort_dir",
    "sort_key",
    "stateful",
    "status",
    "tags",
    "tags-any",
    "tenant_id",
];

/// One call about a collection or one of its resources.
struct Ask<'a> {
    collection: &'static str,
    one: &'static str,
    id: &'a str,
    request: &'a Request,
    now: Timestamp,
}

/// Attributes that are ours and no client's.
fn public(mut item: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.remove("made_by_nova");
    }
    item
}

impl Ask<'_> {
    fn absent(&self, id: &str) -> Reply {
        let (kind, word) = match self.collection {
            "networks" => ("NetworkNotFound", "Network"),
            "subnets" => ("SubnetNotFound", "Subnet"),
            "ports" => ("PortNotFound", "Port"),
            "floatingips" => ("FloatingIPNotFound", "Floating IP"),
            "security-groups" => ("SecurityGroupNotFound", "Security group"),
            "security-group-rules" => ("SecurityGroupRuleNotFound", "Security group rule"),
            _ => ("RouterNotFound", "Router"),
        };
        let verb = if self.collection.starts_with("security") { "does not exist" } else { "could not be found" };
        // Neutron ends this one sentence without a stop.
        let stop = if kind == "FloatingIPNotFound" { "" } else { "." };
        neutron_error(404, kind, &format!("{word} {id} {verb}{stop}"))
    }

    fn held(&self, world: &World) -> Result<Value, Reply> {
        world.network.find(self.collection, self.id).cloned().ok_or_else(|| self.absent(self.id))
    }

    fn show(&self, world: &World, status: u16) -> Answer {
        let item = public(self.held(world)?);
        let item = if self.collection == "security-groups" { with_rules(world, item) } else { item };
        Ok(Reply::json(status, &json!({self.one: item})))
    }

    fn limit(&self) -> Result<usize, Reply> {
        let Some(text) = self.request.param("limit") else { return Ok(usize::MAX) };
        text.parse().map_err(|_| {
            let message = format!("Bad limit request: Limit must be an integer 0 or greater and not '{text}'.");
            neutron_error(400, "BadRequest", &message)
        })
    }

    fn list(&self, world: &World, behaviours: &[Behaviour]) -> Answer {
        if let Some((unknown, _)) = self.request.query.iter().find(|(key, _)| !FILTERS.contains(&key.as_str())) {
            let message = format!("['{unknown}'] is invalid attribute for filtering");
            return Err(neutron_error(400, "HTTPBadRequest", &message));
        }
        let unfiltered = behaviours.iter().any(|behaviour| matches!(behaviour.kind, Kind::FiltersIgnored {}));
        let devices: BTreeSet<&str> = self.request.params("device_id").collect();
        let items: Box<dyn Iterator<Item = &Value>> =
            if self.collection == "ports" && !unfiltered && !devices.is_empty() {
                Box::new(devices.into_iter().flat_map(|device| world.network.ports_of(device)))
            } else {
                Box::new(world.network.all(self.collection))
            };
        let mut found: Vec<&Value> = items.filter(|item| unfiltered || self.fits(item)).collect();
        if let Some(marker) = self.request.param("marker") {
            let at = found.iter().position(|item| item["id"] == marker);
            found.drain(..=at.ok_or_else(|| self.absent(marker))?);
        }
        let limit = self.limit()?;
        let more = found.len() > limit;
        found.truncate(limit);
        let plural = self.collection.replace('-', "_");
        let last = found.last().filter(|_| more).and_then(|item| item["id"].as_str()).map(str::to_owned);
        let shown: Vec<Value> = found.into_iter().map(|item| self.fields(world, item)).collect();
        let mut body = json!({plural.as_str(): shown});
        if let Some(last) = last {
            let kept = self.request.query.iter().filter(|(key, _)| key != "marker");
            let pairs = kept.map(|(key, value)| (key.as_str(), value.as_str())).chain([("marker", last.as_str())]);
            let href = format!("{}?{}", world.url("/network/v2.0/") + self.collection, encode_query(pairs));
            body[plural + "_links"] = json!([{"rel": "next", "href": href}]);
        }
        Ok(Reply::json(200, &body))
    }

    fn fields(&self, world: &World, item: &Value) -> Value {
        let mut item = public(item.clone());
        if self.collection == "security-groups" {
            item = with_rules(world, item);
        }
        let wanted: Vec<&str> = self.request.params("fields").collect();
        if !wanted.is_empty()
            && let Some(fields) = item.as_object_mut()
        {
            fields.retain(|field, _| wanted.contains(&field.as_str()));
        }
        item
    }

    /// Values of one parameter are alternatives, different parameters must all fit.
    fn fits(&self, item: &Value) -> bool {
        let tags: Vec<&str> = item["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        self.request.query.iter().all(|(key, value)| match key.as_str() {
            "limit" | "marker" | "sort_key" | "sort_dir" | "fields" | "page_reverse" => true,
            "tags" => value.split(',').all(|tag| tags.contains(&tag)),
            "tags-any" => value.split(',').any(|tag| tags.contains(&tag)),
            "not-tags" => !value.split(',').all(|tag| tags.contains(&tag)),
            "not-tags-any" => !value.split(',').any(|tag| tags.contains(&tag)),
            "fixed_ips" => value.split_once('=').is_none_or(|(part, wanted)| {
                item["fixed_ips"].as_array().into_iter().flatten().any(|ip| ip[part] == wanted)
            }),
            key => self.request.params(key).any(|value| equals(&item[key], value)),
        })
    }

    fn wanted(&self) -> Result<Value, Reply> {
        let body = self.request.json().unwrap_or_default();
        let missing = format!("Unable to find '{}' in request body", self.one);
        let wanted = body.get(self.one).filter(|wanted| wanted.is_object()).cloned();
        wanted.ok_or_else(|| neutron_error(400, "HTTPBadRequest", &missing))
    }

    fn create(&self, world: &mut World) -> Answer {
        let wanted = self.wanted()?;
        check_lengths(&wanted)?;
        let mut item = match self.collection {
            "ports" => new_port(world, &wanted)?,
            "floatingips" => return self.create_floating(world, &wanted),
            "security-groups" | "security-group-rules" => new_group(self.collection, &wanted),
            _ => return Err(forbidden()),
        };
        // Neutron takes tags here, and forgets them.
        merge(&mut item, &wanted, &["fixed_ips", "tags"]);
        self.store(world, item)
    }

    fn store(&self, world: &mut World, mut item: Value) -> Answer {
        let stamp = world.stamp(self.now);
        (item["created_at"], item["updated_at"]) = (stamp.clone().into(), stamp.into());
        let shown = public(item.clone());
        world.network.put(self.collection, item);
        Ok(Reply::json(201, &json!({self.one: shown})))
    }

    fn create_floating(&self, world: &mut World, wanted: &Value) -> Answer {
        let network = wanted["floating_network_id"].as_str().unwrap_or_default();
        match world.network.find("networks", network) {
            None => {
                let message = format!("Network {network} could not be found.");
                return Err(neutron_error(404, "NetworkNotFound", &message));
            }
            Some(held) if held["router:external"] != true => {
                let message = format!("Bad floatingip request: Network {network} is not a valid external network.");
                return Err(neutron_error(400, "BadRequest", &message));
            }
            Some(_) => {}
        }
        over_quota(world, "floatingips", "floatingip", world.tunable.max_floating_ips)?;
        if let Some(port) = wanted["port_id"].as_str() {
            check_port(world, port, "", &json!({"floating_ip_address": "", "floating_network_id": network}))?;
        }
        let made = world.network.new_floating(network);
        let mut item = made.map_err(|message| neutron_error(409, "IpAddressGenerationFailure", &message))?;
        merge(&mut item, wanted, &["port_id", "floating_ip_address", "tags"]);
        if let Some(port) = wanted["port_id"].as_str() {
            associate(world, &mut item, port);
        }
        self.store(world, item)
    }

    fn update(&self, world: &mut World) -> Answer {
        let mut item = self.held(world)?;
        let wanted = self.wanted()?;
        check_lengths(&wanted)?;
        self.check_revision(&item)?;
        if self.collection == "floatingips" && wanted.get("port_id").is_some() {
            match wanted["port_id"].as_str() {
                Some(port) => {
                    check_port(world, port, self.id, &item)?;
                    disassociate(world, &mut item);
                    associate(world, &mut item, port);
                }
                None => disassociate(world, &mut item),
            }
        }
        merge(&mut item, &wanted, &["port_id", "fixed_ips", "id"]);
        revise(&mut item);
        item["updated_at"] = world.stamp(self.now).into();
        world.network.put(self.collection, item);
        self.show(world, 200)
    }

    /// A change may hold for one revision only; a condition of another form is none.
    fn check_revision(&self, item: &Value) -> Result<(), Reply> {
        let condition =
            self.request.header("if-match").and_then(|condition| condition.strip_prefix("revision_number="));
        match condition {
            Some(wanted) if wanted.parse::<i64>().ok() != item["revision_number"].as_i64() => {
                let message = format!("Constrained to {wanted}, but current revision is {}", item["revision_number"]);
                Err(neutron_error(412, "RevisionNumberConstraintFailed", &message))
            }
            _ => Ok(()),
        }
    }

    fn delete(&self, world: &mut World) -> Answer {
        let mut item = self.held(world)?;
        self.check_revision(&item)?;
        match self.collection {
            "ports" => {
                // Only Nova and administrators take the port of a server away.
                if item["device_owner"].as_str().is_some_and(|owner| owner.starts_with("compute:")) {
                    let message = "rule:delete_port is disallowed by policy";
                    return Err(neutron_error(403, "PolicyNotAuthorized", message));
                }
                if let Some(server) = item["device_id"].as_str()
                    && let Some(address) = item["fixed_ips"][0]["ip_address"].as_str().and_then(|ip| ip.parse().ok())
                {
                    world.refloat(server, Float::Leaves(address));
                }
                world.network.remove_port(self.id);
            }
            "floatingips" => {
                disassociate(world, &mut item);
                world.network.remove_floating(self.id);
            }
            "security-groups" | "security-group-rules" => {
                let name = item["name"].as_str().unwrap_or_default();
                let used = world
                    .network
                    .all("ports")
                    .any(|port| port["security_groups"].as_array().into_iter().flatten().any(|group| group == self.id));
                if used || name == "default" {
                    let message = format!("Security Group {} in use.", self.id);
                    return Err(neutron_error(409, "SecurityGroupInUse", &message));
                }
                world.network.remove(self.collection, self.id);
            }
            _ => return Err(forbidden()),
        }
        Ok(Reply::empty(204))
    }

    fn tags(&self, world: &mut World, call: &Call) -> Answer {
        let mut item = self.held(world)?;
        let mut tags: Vec<Value> = item["tags"].as_array().cloned().unwrap_or_default();
        let tag = Value::from(call.segment(3));
        let absent = || {
            let message = format!("Tag {} could not be found.", call.segment(3));
            neutron_error(404, "TagNotFound", &message)
        };
        let status = match (self.request.method.as_str(), call.segment(3)) {
            ("GET", "") => return Ok(Reply::json(200, &json!({"tags": tags}))),
            ("GET", _) => return if tags.contains(&tag) { Ok(Reply::empty(204)) } else { Err(absent()) },
            ("PUT", "") => {
                let body = self.request.json().unwrap_or_default();
                tags = body["tags"].as_array().cloned().unwrap_or_default();
                if let Some(long) = tags.iter().find(|tag| tag.as_str().is_none_or(|tag| tag.chars().count() > 255)) {
                    let message = format!("Invalid input for tags. Reason: {long} exceeds maximum length of 255.");
                    return Err(neutron_error(400, "HTTPBadRequest", &message));
                }
                200
            }
            ("PUT", _) => {
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
                201
            }
            (_, "") => {
                tags.clear();
                204
            }
            _ => {
                if !tags.contains(&tag) {
                    return Err(absent());
                }
                tags.retain(|held| *held != tag);
                204
            }
        };
        item["tags"] = tags.clone().into();
        revise(&mut item);
        world.network.put(self.collection, item);
        Ok(if status == 200 { Reply::json(200, &json!({"tags": tags})) } else { Reply::empty(status) })
    }
}

fn forbidden() -> Reply {
    neutron_error(403, "PolicyNotAuthorized", "rule:create is disallowed by policy")
}

fn with_rules(world: &World, mut group: Value) -> Value {
    let rules = world.network.all("security-group-rules").filter(|rule| rule["security_group_id"] == group["id"]);
    group["security_group_rules"] = rules.cloned().collect();
    group
}

fn equals(held: &Value, wanted: &str) -> bool {
    match held {
        Value::String(held) => held == wanted,
        Value::Bool(held) => matches!(wanted.to_lowercase().as_str(), "true" | "1") == *held,
        Value::Null => wanted.is_empty() || wanted == "null",
        Value::Array(list) => list.iter().any(|one| one == wanted),
        held => {
            let text = held.to_string();
            text == wanted
        }
    }
}

/// Takes over what was given, except what has to be worked out.
fn merge(item: &mut Value, wanted: &Value, except: &[&str]) {
    for (key, value) in wanted.as_object().into_iter().flatten() {
        if !except.contains(&key.as_str()) {
            item[key.as_str()] = value.clone();
        }
    }
}

fn check_lengths(wanted: &Value) -> Result<(), Reply> {
    for field in ["name", "description"] {
        if let Some(text) = wanted[field].as_str().filter(|text| text.chars().count() > 255) {
            let message = format!("Invalid input for {field}. Reason: '{text}' exceeds maximum length of 255.");
            return Err(neutron_error(400, "HTTPBadRequest", &message));
        }
    }
    Ok(())
}

fn over_quota(world: &World, collection: &str, resource: &str, limit: i64) -> Result<(), Reply> {
    if limit >= 0 && world.network.count(collection) >= limit {
        let message = format!("Quota exceeded for resources: ['{resource}'].");
        return Err(neutron_error(409, "OverQuota", &message));
    }
    Ok(())
}

pub(crate) fn new_port(world: &mut World, wanted: &Value) -> Result<Value, Reply> {
    let network = wanted["network_id"].as_str().unwrap_or_default();
    if world.network.find("networks", network).is_none() {
        return Err(neutron_error(404, "NetworkNotFound", &format!("Network {network} could not be found.")));
    }
    over_quota(world, "ports", "port", world.tunable.max_ports)?;
    let address = wanted["fixed_ips"][0]["ip_address"].as_str().and_then(|text| text.parse().ok());
    let made = world.network.new_port(network, address);
    made.map_err(|message| neutron_error(409, "IpAddressGenerationFailure", &message))
}

fn new_group(collection: &str, wanted: &Value) -> Value {
    let project = super::project();
    let mut item = match collection {
        "security-groups" => json!({"name": "", "stateful": true, "shared": false}),
        _ => json!({
            "direction": wanted["direction"], "ethertype": "IPv4", "protocol": null, "port_range_min": null,
            "port_range_max": null, "remote_ip_prefix": null, "remote_group_id": null,
        }),
    };
    item["id"] = Uuid::new_v4().to_string().into();
    (item["project_id"], item["tenant_id"]) = (project.clone().into(), project.into());
    (item["tags"], item["revision_number"], item["description"]) = (json!([]), 1.into(), "".into());
    item
}

/// Refuses a port that is not there, or that has another floating address of this network.
fn check_port(world: &World, port: &str, floating: &str, item: &Value) -> Result<(), Reply> {
    if world.network.find("ports", port).is_none() {
        return Err(neutron_error(404, "PortNotFound", &format!("Port {port} could not be found.")));
    }
    let taken = world.network.all("floatingips").any(|ip| ip["port_id"] == port && ip["id"] != floating);
    if taken {
        let fixed = world.network.find("ports", port).map(|port| port["fixed_ips"][0]["ip_address"].clone());
        let message = format!(
            "Cannot associate floating IP {} ({floating}) with port {port} using fixed IP {}, as that fixed IP already \
             has a floating IP on external network {}.",
            item["floating_ip_address"].as_str().unwrap_or_default(),
            fixed.as_ref().and_then(Value::as_str).unwrap_or_default(),
            item["floating_network_id"].as_str().unwrap_or_default()
        );
        return Err(neutron_error(409, "FloatingIPPortAlreadyAssociated", &message));
    }
    Ok(())
}

fn associate(world: &mut World, item: &mut Value, port: &str) {
    let Some(held) = world.network.find("ports", port) else { return };
    let (server, mac) = (held["device_id"].as_str().unwrap_or_default().to_owned(), held["mac_address"].clone());
    let network = world.network.find("networks", held["network_id"].as_str().unwrap_or_default());
    let network = network.and_then(|network| network["name"].as_str()).unwrap_or_default().to_owned();
    item["port_id"] = port.into();
    item["fixed_ip_address"] = held["fixed_ips"][0]["ip_address"].clone();
    item["router_id"] = world.network.all("routers").next().map(|router| router["id"].clone()).into();
    item["port_details"] = json!({
        "name": held["name"], "network_id": held["network_id"], "mac_address": mac, "status": held["status"],
        "admin_state_up": true, "device_id": server, "device_owner": held["device_owner"],
    });
    if let Some(address) = item["floating_ip_address"].as_str().and_then(|text| text.parse().ok()) {
        let mac = mac.as_str().unwrap_or_default().to_owned();
        world.refloat(&server, Float::Comes(Address { network, address, mac, floating: true }));
    }
}

fn disassociate(world: &mut World, item: &mut Value) {
    let server = item["port_details"]["device_id"].as_str().unwrap_or_default().to_owned();
    if let Some(address) = item["floating_ip_address"].as_str().and_then(|text| text.parse().ok()) {
        world.refloat(&server, Float::Leaves(address));
    }
    for field in ["port_id", "fixed_ip_address", "router_id", "port_details"] {
        item[field] = Value::Null;
    }
    item["status"] = "DOWN".into();
}
