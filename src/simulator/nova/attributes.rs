//! What can be changed about a server that is there: name, tags, metadata, interfaces.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Ask, list::existing, no_server, view};
use crate::simulator::{
    lifecycle::Float,
    servers::Nic,
    wire::{Answer, Reply, nova_error},
    world::World,
};

/// Tags of a server at most, and metadata items.
const MOST_TAGS: usize = 50;
const MOST_METADATA: usize = 128;

/// Where the form of a body is wrong, in the words of Nova's schema check.
pub(super) fn invalid(field: &str, value: &Value, what: &str) -> Reply {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    nova_error(400, &format!("Invalid input for field/attribute {field}. Value: {shown}. {what}"))
}

/// Names have a form, a length and a type, and each is refused in its own words.
pub(super) fn check_name(name: &Value) -> Result<(), Reply> {
    let Some(text) = name.as_str() else {
        return Err(invalid("name", name, &format!("{name} is not of type 'string'")));
    };
    let refuse = |what: &str| Err(invalid("name", name, &format!("'{text}' {what}")));
    if text.chars().count() > 255 {
        return refuse("is too long");
    }
    if text.is_empty() {
        return refuse("is too short");
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        let message = "An invalid 'name' value was provided. The name must be: printable characters. Can not start or \
                       end with whitespace.";
        return Err(nova_error(400, message));
    }
    Ok(())
}

pub(super) fn check_description(description: Option<&Value>) -> Result<(), Reply> {
    match description.and_then(Value::as_str) {
        Some(text) if text.chars().count() > 255 => {
            Err(invalid("description", &json!(text), &format!("'{text}' is too long")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_tags(tags: &Value) -> Result<(), Reply> {
    let Some(list) = tags.as_array() else {
        return Err(invalid("tags", tags, &format!("{tags} is not of type 'array'")));
    };
    if list.len() > MOST_TAGS {
        return Err(invalid("tags", tags, &format!("{tags} is too long")));
    }
    for (index, tag) in list.iter().enumerate() {
        let refuse = |what: String| Err(invalid(&index.to_string(), tag, &what));
        match tag.as_str() {
            None => return refuse(format!("{tag} is not of type 'string'")),
            Some("") => return refuse("'' is too short".to_owned()),
            Some(text) if text.chars().count() > 60 => return refuse(format!("'{text}' is too long")),
            Some(text) if text.contains([',', '/']) => return refuse(format!("'{text}' does not match '^[^,/]*$'")),
            Some(_) => {}
        }
    }
    Ok(())
}

pub(super) fn check_metadata(metadata: &Value) -> Result<(), Reply> {
    let Some(items) = metadata.as_object() else {
        return Err(invalid("metadata", metadata, &format!("{metadata} is not of type 'object'")));
    };
    for (key, value) in items {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.' | ' ');
        if key.is_empty() || key.len() > 255 || !key.chars().all(plain) {
            let what = format!("'{key}' does not match any of the regexes: '^[a-zA-Z0-9-_:. ]{{1,255}}$'");
            return Err(invalid("metadata", metadata, &what));
        }
        match value.as_str() {
            None => {
                let shown = if value.is_null() { "None".to_owned() } else { value.to_string() };
                return Err(invalid(key, value, &format!("{shown} is not of type 'string'")));
            }
            Some(text) if text.chars().count() > 255 => {
                return Err(invalid(key, value, &format!("'{text}' is too long")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

pub(super) fn check_metadata_quota(items: usize) -> Result<(), Reply> {
    if items > MOST_METADATA {
        return Err(nova_error(403, &format!("Maximum number of metadata items exceeds {MOST_METADATA}")));
    }
    Ok(())
}

pub(super) fn update(world: &mut World, ask: &Ask<'_>) -> Answer {
    let seq = existing(world, ask)?.seq;
    let body = ask.request.json().ok_or_else(|| nova_error(400, "Malformed request body"))?;
    let wanted = &body["server"];
    if let Some(name) = wanted.get("name") {
        check_name(name)?;
    }
    check_description(wanted.get("description"))?;
    world.compute.servers.change(seq, ask.now, |server| {
        if let Some(name) = wanted["name"].as_str() {
            server.name = name.to_owned();
        }
        if ask.version >= 19 && wanted.get("description").is_some() {
            server.description = wanted["description"].as_str().map(str::to_owned);
        }
    });
    let server = view::details(world, seq, ask.version);
    let shown: Value = serde_json::from_slice(&server).unwrap_or_default();
    Ok(Reply::json(200, &json!({"server": shown})))
}

/// Nova refuses tag changes of a server that is being deleted no differently than of any other.
pub(super) fn tags(world: &mut World, ask: &Ask<'_>) -> Answer {
    let server = existing(world, ask)?;
    let (seq, held, id) = (server.seq, server.tags.clone(), server.id.clone());
    let tag = ask.call.segment(3).to_owned();
    // The two come from different layers of Nova.
    let word = if ask.request.method == "DELETE" { "Instance" } else { "Server" };
    let absent = || nova_error(404, &format!("{word} {id} has no tag '{tag}'"));
    match (ask.request.method.as_str(), tag.as_str()) {
        ("GET", "") => Ok(Reply::json(200, &json!({"tags": held}))),
        ("GET", tag) if held.contains(tag) => Ok(Reply::empty(204)),
        ("GET", _) => Err(absent()),
        ("PUT", "") => {
            let body = ask.request.json().unwrap_or_default();
            check_tags(&body["tags"])?;
            let tags = serde_json::from_value(body["tags"].clone()).unwrap_or_default();
            world.compute.servers.change(seq, ask.now, |server| server.tags = tags);
            Ok(Reply::json(200, &json!({"tags": body["tags"]})))
        }
        ("PUT", _) => {
            check_tags(&json!([tag]))?;
            let status = if held.contains(&tag) { 204 } else { 201 };
            if held.len() >= MOST_TAGS && status == 201 {
                return Err(nova_error(400, &format!("The number of tags exceeded the per-server limit {MOST_TAGS}")));
            }
            let location = world.url(&format!("/compute/v2.1/servers/{id}/tags/{tag}"));
            world.compute.servers.change(seq, ask.now, |server| server.tags.insert(tag));
            Ok(Reply::empty(status).with("location", location))
        }
        (_, "") => {
            world.compute.servers.change(seq, ask.now, |server| server.tags.clear());
            Ok(Reply::empty(204))
        }
        (_, tag) if held.contains(tag) => {
            world.compute.servers.change(seq, ask.now, |server| server.tags.remove(tag));
            Ok(Reply::empty(204))
        }
        _ => Err(absent()),
    }
}

pub(super) fn metadata(world: &mut World, ask: &Ask<'_>) -> Answer {
    let server = existing(world, ask)?;
    let (seq, mut held) = (server.seq, server.metadata.clone());
    let key = ask.call.segment(3).to_owned();
    let absent = || nova_error(404, "Metadata item was not found");
    let method = ask.request.method.as_str();
    if method == "GET" {
        return match key.as_str() {
            "" => Ok(Reply::json(200, &json!({"metadata": held}))),
            key => held.get(key).map(|value| Reply::json(200, &json!({"meta": {key: value}}))).ok_or_else(absent),
        };
    }
    if method == "DELETE" {
        held.remove(&key).ok_or_else(absent)?;
        world.compute.servers.change(seq, ask.now, |server| server.metadata = held);
        return Ok(Reply::empty(204));
    }
    let body = ask.request.json().unwrap_or_default();
    let part = if key.is_empty() { "metadata" } else { "meta" };
    check_metadata(&body[part])?;
    let given: BTreeMap<String, String> = serde_json::from_value(body[part].clone()).unwrap_or_default();
    if method == "PUT" && key.is_empty() {
        held = given.clone();
    } else {
        held.extend(given.clone());
    }
    check_metadata_quota(held.len())?;
    let shown = if key.is_empty() { json!({"metadata": held}) } else { json!({"meta": given}) };
    world.compute.servers.change(seq, ask.now, |server| server.metadata = held);
    Ok(Reply::json(200, &shown))
}

pub(super) fn interfaces(world: &mut World, ask: &Ask<'_>) -> Answer {
    let id = existing(world, ask)?.id.clone();
    let port = ask.call.segment(3).to_owned();
    match (ask.request.method.as_str(), port.as_str()) {
        ("GET", "") => {
            let all: Vec<Value> = world.network.ports_of(&id).into_iter().map(show_interface).collect();
            Ok(Reply::json(200, &json!({"interfaceAttachments": all})))
        }
        ("GET", port) => {
            let held = world.network.find("ports", port).filter(|held| held["device_id"] == id.as_str());
            let held = held.ok_or_else(|| nova_error(404, &format!("Port {port} not found")))?;
            Ok(Reply::json(200, &json!({"interfaceAttachment": show_interface(held)})))
        }
        ("POST", _) => attach(world, ask, &id),
        _ => {
            let held = world.network.find("ports", &port).filter(|held| held["device_id"] == id.as_str());
            let address = held.and_then(|held| held["fixed_ips"][0]["ip_address"].as_str()?.parse().ok());
            let address = address.ok_or_else(|| nova_error(404, &format!("Port {port} not found")))?;
            world.refloat(&id, Float::Leaves(address));
            world.network.remove_port(&port);
            Ok(Reply::empty(202))
        }
    }
}

fn attach(world: &mut World, ask: &Ask<'_>, id: &str) -> Answer {
    let body = ask.request.json().unwrap_or_default();
    let wanted = &body["interfaceAttachment"];
    let server = world.compute.servers.existing(id).ok_or_else(|| no_server(id))?;
    let (zone, groups) = (server.zone.clone(), server.security_groups.clone());
    let nic = Nic {
        network: wanted["net_id"].as_str().unwrap_or(&world.network.private).to_owned(),
        port: wanted["port_id"].as_str().map(str::to_owned),
        fixed_ip: wanted["fixed_ips"][0]["ip_address"].as_str().and_then(|text| text.parse().ok()),
    };
    let address = world.network.plug(id, &zone, &groups, &nic).map_err(|message| nova_error(400, &message))?;
    world.refloat(id, Float::Comes(address));
    let newest = world.network.ports_of(id).into_iter().last().map(show_interface);
    Ok(Reply::json(200, &json!({"interfaceAttachment": newest})))
}

fn show_interface(port: &Value) -> Value {
    json!({
        "port_id": port["id"], "net_id": port["network_id"], "mac_addr": port["mac_address"],
        "port_state": port["status"], "fixed_ips": port["fixed_ips"], "tag": null,
    })
}
