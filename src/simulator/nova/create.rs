//! POST of a server: what is refused at once, and what will become of what is taken.
//!
//! Checks in the order of the real service (form, references, quota), so that a request with two faults in it gets the
//! same answer here and there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Ask, account, attributes, flavors::Flavor, view};
use crate::simulator::{
    faults::{Behaviour, Kind, SshFault},
    servers::{BootEnd, BootPlan, Nic, Server, SshMode, State},
    wire::{Answer, Reply, nova_error},
    world::World,
};

/// Attributes that a boot may have, with the microversion that brought them.
const ATTRIBUTES: &[(&str, u16)] = &[
    ("name", 1),
    ("flavorRef", 1),
    ("imageRef", 1),
    ("networks", 1),
    ("key_name", 1),
    ("metadata", 1),
    ("user_data", 1),
    ("config_drive", 1),
    ("availability_zone", 1),
    ("security_groups", 1),
    ("block_device_mapping", 1),
    ("block_device_mapping_v2", 1),
    ("min_count", 1),
    ("max_count", 1),
    ("return_reservation_id", 1),
    ("adminPass", 1),
    ("accessIPv4", 1),
    ("accessIPv6", 1),
    ("OS-DCF:diskConfig", 1),
    ("personality", 1),
    ("description", 19),
    ("tags", 52),
    ("trusted_image_certificates", 63),
    ("host", 74),
    ("hypervisor_hostname", 74),
    ("hostname", 90),
];

/// What a boot asks for, checked.
struct Wanted {
    name: String,
    flavor: Arc<Flavor>,
    image: Option<String>,
    nics: Vec<Nic>,
    metadata: BTreeMap<String, String>,
    tags: BTreeSet<String>,
    key_name: Option<String>,
    zone: Option<String>,
    config_drive: bool,
    user_data: Option<String>,
    description: Option<String>,
    security_groups: Vec<String>,
}

pub(super) fn create(world: &mut World, ask: &Ask<'_>) -> Answer {
    let body = ask.request.json().ok_or_else(|| bad("Malformed request body"))?;
    let server = body["server"].as_object().ok_or_else(|| invalid("", &body, "'server' is a required property"))?;
    check_form(server, ask.version)?;
    let wanted = check_references(world, server)?;
    let min = server.get("min_count").and_then(count_of).unwrap_or(1);
    let count = server.get("max_count").and_then(count_of).unwrap_or(min).max(min);
    let ports = wanted.nics.iter().filter(|nic| nic.port.is_none()).count();
    account::check_quota(world, &wanted.flavor, count, ports)?;
    let reservation = format!("r-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let mut first = None;
    let doubled = ask.behaviours.iter().any(|behaviour| matches!(behaviour.kind, Kind::Duplicate {}));
    for index in 0..count {
        let name = if count > 1 { format!("{}-{}", wanted.name, index + 1) } else { wanted.name.clone() };
        for _ in 0..if doubled { 2 } else { 1 } {
            let plan = plan(world, ask.behaviours, &wanted.flavor);
            let record = record(world, &wanted, name.clone(), plan, ask.now);
            let id = record.id.clone();
            for port in record.nics.iter().filter_map(|nic| nic.port.as_deref()) {
                world.network.claim_port(port, &id, &record.zone);
            }
            first.get_or_insert(id);
            world.launch(record, ask.now);
        }
    }
    if server.get("return_reservation_id").is_some_and(|value| value == true || value == "True") {
        return Ok(Reply::json(202, &json!({"reservation_id": reservation})));
    }
    let id = first.unwrap_or_default();
    let groups: Vec<Value> = wanted.security_groups.iter().map(|name| json!({"name": name})).collect();
    let password = &Uuid::new_v4().simple().to_string()[..12];
    let shown = json!({"server": {
        "id": id, "links": view::links(world, &id), "OS-DCF:diskConfig": "MANUAL", "security_groups": groups,
        "adminPass": password,
    }});
    Ok(Reply::json(202, &shown).with("location", world.url("/compute/v2.1/servers/") + &id))
}

fn bad(message: &str) -> Reply {
    nova_error(400, message)
}

fn invalid(attribute: &str, value: &Value, what: &str) -> Reply {
    let path = if attribute.is_empty() { String::new() } else { format!("{attribute}.") };
    bad(&format!("Invalid input for field/attribute {}. Value: {value}. {what}", path.trim_end_matches('.')))
}

/// Nova takes a number, or a string of digits.
fn count_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|count| *count >= 1)
}

fn check_form(server: &Map<String, Value>, version: u16) -> Result<(), Reply> {
    let whole = Value::Object(server.clone());
    for required in ["name", "flavorRef"] {
        if !server.contains_key(required) {
            return Err(invalid("server", &whole, &format!("'{required}' is a required property")));
        }
    }
    if version >= 37 && !server.contains_key("networks") {
        return Err(invalid("server", &whole, "'networks' is a required property"));
    }
    for key in server.keys() {
        let known = ATTRIBUTES.iter().any(|(name, since)| name == key && version >= *since);
        let removed = version >= 57 && key == "personality";
        if !known || removed {
            let what = format!("Additional properties are not allowed ('{key}' was unexpected)");
            return Err(invalid("server", &whole, &what));
        }
    }
    attributes::check_name(&server["name"])?;
    attributes::check_description(server.get("description"))?;
    if let Some(tags) = server.get("tags") {
        attributes::check_tags(tags)?;
    }
    if let Some(metadata) = server.get("metadata") {
        attributes::check_metadata(metadata)?;
    }
    check_user_data(server.get("user_data"))?;
    check_counts(server)
}

fn check_user_data(data: Option<&Value>) -> Result<(), Reply> {
    let text = match data {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(text)) => text,
        Some(other) => return Err(invalid("user_data", other, &format!("{other} is not of type 'string', 'null'"))),
    };
    let refuse = |what: &str| Err(invalid("user_data", &json!(text), &format!("'{text}' {what}")));
    if text.len() > 65_535 {
        return refuse("is too long");
    }
    // As Python reads base64: what is not of its alphabet is passed over.
    let digits: String = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')).collect();
    match base64::engine::general_purpose::STANDARD.decode(digits) {
        Ok(_) => Ok(()),
        Err(_) => refuse("is not a 'base64'"),
    }
}

fn check_counts(server: &Map<String, Value>) -> Result<(), Reply> {
    for field in ["min_count", "max_count"] {
        if let Some(value) = server.get(field)
            && count_of(value).is_none()
        {
            return Err(invalid(field, value, &format!("{value} is less than the minimum of 1")));
        }
    }
    let count = |field: &str| server.get(field).and_then(count_of);
    if count("max_count").is_some_and(|most| count("min_count").unwrap_or(1) > most) {
        return Err(bad("min_count must be <= max_count"));
    }
    Ok(())
}

fn check_references(world: &World, server: &Map<String, Value>) -> Result<Wanted, Reply> {
    let text = |key: &str| server.get(key).and_then(Value::as_str).map(str::to_owned);
    let flavor_ref = reference(server.get("flavorRef"));
    let zone = text("availability_zone");
    if let Some(zone) = &zone
        && !world.fixed.zones.contains(zone)
    {
        return Err(bad("The requested availability zone is not available"));
    }
    let flavor = world.compute.flavors.find(&flavor_ref);
    let flavor = flavor.cloned().ok_or_else(|| bad(&format!("Flavor {flavor_ref} could not be found.")))?;
    let image = check_image(world, server, &flavor)?;
    let key_name = text("key_name");
    if let Some(key) = &key_name
        && !world.compute.key_pairs.contains_key(key)
    {
        return Err(bad("Invalid key_name provided."));
    }
    let security_groups = check_groups(world, server.get("security_groups"))?;
    let nics = check_networks(world, server.get("networks"))?;
    let metadata: BTreeMap<String, String> =
        server.get("metadata").and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default();
    attributes::check_metadata_quota(metadata.len())?;
    let tags = server.get("tags").and_then(|tags| serde_json::from_value(tags.clone()).ok()).unwrap_or_default();
    let config_drive = server.get("config_drive").is_some_and(|value| {
        value == true || value.as_str().is_some_and(|text| matches!(text.to_lowercase().as_str(), "true" | "1" | "yes"))
    });
    let name = text("name").unwrap_or_default().trim().to_owned();
    let (description, user_data) = (text("description"), text("user_data"));
    Ok(Wanted {
        name,
        flavor,
        image,
        nics,
        metadata,
        tags,
        key_name,
        zone,
        config_drive,
        user_data,
        description,
        security_groups,
    })
}

/// References are ids, or (from before) URLs that end with one.
fn reference(value: Option<&Value>) -> String {
    let text = match value {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    text.rsplit('/').next().unwrap_or_default().to_owned()
}

fn check_image(world: &World, server: &Map<String, Value>, flavor: &Flavor) -> Result<Option<String>, Reply> {
    let devices = server.get("block_device_mapping_v2").and_then(Value::as_array);
    let root = devices.and_then(|devices| devices.iter().find(|device| reference(device.get("boot_index")) == "0"));
    let from_root = root.filter(|root| root["source_type"] == "image").map(|root| reference(root.get("uuid")));
    let id = match (reference(server.get("imageRef")), from_root, root) {
        (id, _, _) if !id.is_empty() => id,
        (_, Some(id), _) => id,
        (_, None, Some(_)) => return Ok(None),
        _ => {
            return Err(bad(
                "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.",
            ));
        }
    };
    let image = world.images.get(&id).ok_or_else(|| bad("Can not find requested image"))?;
    if !image.is_active() {
        return Err(bad(&format!("Image {id} is not active.")));
    }
    if image.min_ram > flavor.ram {
        return Err(bad("Flavor's memory is too small for requested image."));
    }
    if image.min_disk > flavor.disk && root.is_none() {
        let message = format!(
            "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {} bytes, \
             minimum size is {} bytes.",
            flavor.disk << 30,
            image.min_disk << 30
        );
        return Err(bad(&message));
    }
    Ok(Some(id))
}

fn check_groups(world: &World, wanted: Option<&Value>) -> Result<Vec<String>, Reply> {
    let Some(wanted) = wanted.and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        return Ok(vec!["default".to_owned()]);
    };
    let find = |group: &Value| {
        let name = group["name"].as_str().unwrap_or_default();
        world
            .network
            .security_group(name)
            .ok_or_else(|| bad(&format!("Unable to find security_group with name or id '{name}'")))
    };
    wanted.iter().map(find).collect()
}

fn check_networks(world: &World, wanted: Option<&Value>) -> Result<Vec<Nic>, Reply> {
    let one = |network: &Value| -> Result<Nic, Reply> {
        if let Some(port) = network["port"].as_str() {
            let found = world.network.find("ports", port);
            let held = found.ok_or_else(|| bad(&format!("Port id {port} could not be found.")))?;
            if held["device_id"].as_str().is_some_and(|device| !device.is_empty()) {
                return Err(nova_error(409, &format!("Port {port} is still in use.")));
            }
            let network = held["network_id"].as_str().unwrap_or_default().to_owned();
            return Ok(Nic { network, port: Some(port.to_owned()), fixed_ip: None });
        }
        let id = network["uuid"].as_str().unwrap_or_default();
        if world.network.find("networks", id).is_none() {
            return Err(bad(&format!("Network {id} could not be found.")));
        }
        let fixed_ip: Option<Ipv4Addr> = network["fixed_ip"].as_str().and_then(|text| text.parse().ok());
        Ok(Nic { network: id.to_owned(), port: None, fixed_ip })
    };
    match wanted {
        Some(Value::String(word)) if word == "none" => Ok(Vec::new()),
        Some(Value::Array(list)) if !list.is_empty() => list.iter().map(one).collect(),
        _ => Ok(vec![Nic { network: world.network.private.clone(), port: None, fixed_ip: None }]),
    }
}

/// What a boot will do: the settings, changed by the faults that apply to its POST.
pub(crate) fn plan(world: &World, behaviours: &[Behaviour], flavor: &Flavor) -> BootPlan {
    let tunable = &world.tunable;
    let mut plan = BootPlan {
        after: tunable.boot_time.0,
        end: if flavor.fits_nowhere() {
            BootEnd::Error { code: 500, message: "No valid host was found. ".to_owned() }
        } else {
            BootEnd::Active
        },
        ssh: SshMode::Answer,
        ssh_delay: tunable.ssh_delay.0,
        leaves_port: false,
    };
    for behaviour in behaviours {
        match &behaviour.kind {
            Kind::BuildError { message, code, after, leaves_port } => {
                plan.end = BootEnd::Error { code: *code, message: message.clone() };
                plan.after = after.map_or(plan.after, |after| after.0);
                plan.leaves_port = *leaves_port;
            }
            Kind::BuildForever {} => plan.end = BootEnd::Never,
            Kind::Vanish { after } => {
                plan.end = BootEnd::Vanish;
                // Gone before the answer would be a 202 for nothing at all; the id must have been there once.
                plan.after = after.map_or(plan.after, |after| after.0).max(Duration::from_millis(1));
            }
            Kind::BootTime { after } => plan.after = after.0,
            Kind::Ssh { mode: SshFault::Never, .. } => plan.ssh = SshMode::Never,
            Kind::Ssh { mode: SshFault::Silent, .. } => plan.ssh = SshMode::Silent,
            Kind::Ssh { mode: SshFault::Late, after } => {
                plan.ssh_delay = after.map_or(Duration::from_secs(10), |after| after.0);
            }
            _ => {}
        }
    }
    plan
}

fn record(world: &World, wanted: &Wanted, name: String, plan: BootPlan, now: Timestamp) -> Server {
    let zone = wanted.zone.clone().or_else(|| world.fixed.zones.first().cloned()).unwrap_or_default();
    Server {
        id: Uuid::new_v4().to_string(),
        seq: 0,
        name,
        state: State::Building,
        task: Some(if plan.end == BootEnd::Never { "scheduling" } else { "spawning" }),
        created: now,
        updated: now,
        launched: None,
        terminated: None,
        flavor: wanted.flavor.clone(),
        image: wanted.image.clone(),
        metadata: wanted.metadata.clone(),
        tags: wanted.tags.clone(),
        key_name: wanted.key_name.clone(),
        public_key: wanted.key_name.as_deref().and_then(|name| world.compute.public_key(name)),
        zone,
        pinned_zone: wanted.zone.clone(),
        config_drive: wanted.config_drive,
        user_data: wanted.user_data.clone(),
        description: wanted.description.clone(),
        locked: false,
        security_groups: wanted.security_groups.clone(),
        nics: wanted.nics.clone(),
        addresses: Vec::new(),
        failure: None,
        plan,
        foreign: false,
        keeps_ports: false,
        ssh_up: false,
        rendered: None,
    }
}
