//! How a server is shown, for each microversion.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use crate::simulator::{
    keystone::identity::seeded_id,
    servers::{Server, State},
    world::World,
};

/// The details of a server, from the last rendering when nothing changed since. Keeps what it renders.
pub(crate) fn details(world: &mut World, seq: u64, version: u16) -> Bytes {
    let Some(server) = world.compute.servers.get(seq) else { return Bytes::new() };
    if let Some((rendered_for, body)) = &server.rendered
        && *rendered_for == version
    {
        return body.clone();
    }
    let body = Bytes::from(serde_json::to_vec(&render(world, server, version)).unwrap_or_default());
    world.compute.servers.keep_rendering(seq, version, body.clone());
    body
}

/// What a list without details shows.
pub(crate) fn brief(world: &World, server: &Server) -> Bytes {
    let shown = json!({"id": server.id, "name": server.name, "links": links(world, &server.id)});
    Bytes::from(serde_json::to_vec(&shown).unwrap_or_default())
}

/// What is known of a server whose cell is down.
pub(crate) fn minimal(world: &World, server: &Server) -> Bytes {
    let shown = json!({
        "id": server.id, "status": "UNKNOWN", "tenant_id": world.identity.project,
        "created": world.stamp(server.created), "links": links(world, &server.id),
    });
    Bytes::from(serde_json::to_vec(&shown).unwrap_or_default())
}

pub(crate) fn links(world: &World, id: &str) -> Value {
    json!([
        {"rel": "self", "href": world.url("/compute/v2.1/servers/") + id},
        {"rel": "bookmark", "href": world.url("/compute/servers/") + id},
    ])
}

/// Addresses by the name of their network.
pub(crate) fn addresses(server: &Server) -> Value {
    let mut networks = Map::new();
    for address in &server.addresses {
        let shown = json!({
            "version": 4, "addr": address.address.to_string(), "OS-EXT-IPS-MAC:mac_addr": address.mac,
            "OS-EXT-IPS:type": if address.floating { "floating" } else { "fixed" },
        });
        let entry = networks.entry(address.network.clone()).or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(shown);
        }
    }
    Value::Object(networks)
}

fn flavor(world: &World, server: &Server, version: u16) -> Value {
    let flavor = &server.flavor;
    if version < 47 {
        let href = world.url("/compute/flavors/") + &flavor.id;
        return json!({"id": flavor.id, "links": [{"rel": "bookmark", "href": href}]});
    }
    json!({
        "vcpus": flavor.vcpus, "ram": flavor.ram, "disk": flavor.disk, "ephemeral": 0, "swap": 0,
        "original_name": flavor.name, "extra_specs": flavor.extra_specs,
    })
}

fn image(world: &World, server: &Server) -> Value {
    match &server.image {
        None => json!(""),
        Some(id) => {
            json!({"id": id, "links": [{"rel": "bookmark", "href": world.url("/compute/images/") + id}]})
        }
    }
}

/// The host is the same for all servers of a project on one machine; this cloud has one machine.
fn host(world: &World, server: &Server) -> String {
    if server.launched.is_none() {
        return String::new();
    }
    let half = |part: &str| seeded_id(&format!("host/{}/{part}", world.identity.project)).simple().to_string();
    format!("{}{}", half("a"), &half("b")[..24])
}

fn render(world: &World, server: &Server, version: u16) -> Value {
    // What was written on a server goes with it, though its record stays.
    let is_gone = server.state == State::Deleted;
    let mut shown = json!({
        "id": server.id,
        "name": server.name,
        "status": server.state.status(),
        "tenant_id": world.identity.project,
        "user_id": world.identity.user,
        "metadata": if is_gone { json!({}) } else { json!(server.metadata) },
        "hostId": host(world, server),
        "image": image(world, server),
        "flavor": flavor(world, server, version),
        "created": world.stamp(server.created),
        "updated": world.stamp(server.updated),
        "addresses": addresses(server),
        "accessIPv4": "",
        "accessIPv6": "",
        "links": links(world, &server.id),
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": if server.launched.is_some() { server.zone.as_str() } else { "" },
        "config_drive": if server.config_drive { "True" } else { "" },
        "key_name": server.key_name,
        "OS-SRV-USG:launched_at": server.launched.map(|at| world.long_stamp(at)),
        "OS-SRV-USG:terminated_at": server.terminated.map(|at| world.long_stamp(at)),
        "OS-EXT-STS:task_state": server.task,
        "OS-EXT-STS:vm_state": server.state.vm_state(),
        "OS-EXT-STS:power_state": server.state.power(),
        "os-extended-volumes:volumes_attached": [],
    });
    if matches!(server.state, State::Active | State::Building) {
        shown["progress"] = 0.into();
    }
    if !server.security_groups.is_empty() && server.state != State::Deleted {
        let groups: Vec<Value> = server.security_groups.iter().map(|name| json!({"name": name})).collect();
        shown["security_groups"] = groups.into();
    }
    if let Some(failure) = &server.failure
        && matches!(server.state, State::Error | State::Deleted)
    {
        shown["fault"] =
            json!({"code": failure.code, "created": world.stamp(failure.created), "message": failure.message});
    }
    add_later_fields(&mut shown, server, version);
    shown
}

fn add_later_fields(shown: &mut Value, server: &Server, version: u16) {
    let mut from = |since: u16, name: &str, value: Value| {
        if version >= since {
            shown[name] = value;
        }
    };
    from(9, "locked", server.locked.into());
    from(19, "description", json!(server.description));
    from(26, "tags", if server.state == State::Deleted { json!([]) } else { json!(server.tags) });
    from(63, "trusted_image_certificates", Value::Null);
    from(73, "locked_reason", Value::Null);
    from(90, "OS-EXT-SRV-ATTR:hostname", server.name.to_lowercase().into());
    from(96, "pinned_availability_zone", json!(server.pinned_zone));
}
