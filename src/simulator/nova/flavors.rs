//! The sizes that servers come in. Read only, as for any user who is not an administrator.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::Ask;
use crate::simulator::{
    keystone::identity::seeded_id,
    wire::{Answer, Reply, nova_error},
    world::World,
};

/// One size.
#[derive(Clone, Debug)]
pub(crate) struct Flavor {
    pub id: String,
    pub name: String,
    pub ram: i64,
    pub vcpus: i64,
    pub disk: i64,
    pub extra_specs: BTreeMap<String, String>,
}

/// All sizes, smallest first.
#[derive(Debug)]
pub(crate) struct Flavors(Vec<Arc<Flavor>>);

/// Disk of the largest host, in GB.
const LARGEST_DISK: i64 = 1_000_000;

impl Flavor {
    /// Whether no host can hold a server of this size, whatever its owner's quota says.
    pub(crate) fn fits_nowhere(&self) -> bool {
        self.disk > LARGEST_DISK
    }
}

impl Flavors {
    pub(crate) fn seeded() -> Self {
        let flavor = |name: &str, ram, vcpus, disk| {
            let id = seeded_id(&format!("flavor/{name}")).to_string();
            Arc::new(Flavor { id, name: name.to_owned(), ram, vcpus, disk, extra_specs: BTreeMap::new() })
        };
        Self(vec![
            flavor("nano", 128, 1, 1),
            flavor("tiny", 512, 1, 5),
            flavor("small", 2048, 1, 20),
            flavor("medium", 4096, 2, 40),
            flavor("large", 8192, 4, 80),
            flavor("huge", 64, 1, 10_000_000),
        ])
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Arc<Flavor>> {
        self.0.iter().find(|flavor| flavor.id == id)
    }

    /// By id or by name, for the admin API.
    pub(crate) fn pick(&self, which: &str) -> Option<&Arc<Flavor>> {
        self.0.iter().find(|flavor| flavor.id == which || flavor.name == which)
    }
}

fn links(world: &World, id: &str) -> Value {
    json!([
        {"rel": "self", "href": world.url("/compute/v2.1/flavors/") + id},
        {"rel": "bookmark", "href": world.url("/compute/flavors/") + id},
    ])
}

fn view(world: &World, flavor: &Flavor, version: u16) -> Value {
    let mut shown = json!({
        "id": flavor.id, "name": flavor.name, "ram": flavor.ram, "vcpus": flavor.vcpus, "disk": flavor.disk,
        "swap": if version >= 75 { json!(0) } else { json!("") }, "OS-FLV-EXT-DATA:ephemeral": 0,
        "OS-FLV-DISABLED:disabled": false, "os-flavor-access:is_public": true, "rxtx_factor": 1.0,
        "links": links(world, &flavor.id),
    });
    if version >= 55 {
        shown["description"] = Value::Null;
    }
    if version >= 61 {
        shown["extra_specs"] = json!(flavor.extra_specs);
    }
    shown
}

fn found<'a>(world: &'a World, id: &str) -> Result<&'a Arc<Flavor>, Reply> {
    world.compute.flavors.find(id).ok_or_else(|| nova_error(404, &format!("Flavor {id} could not be found.")))
}

pub(super) fn list(world: &World, ask: &Ask<'_>) -> Answer {
    let detail = ask.call.segment(1) == "detail";
    let least = |name: &str| ask.request.param(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(0);
    let (ram, disk) = (least("minRam"), least("minDisk"));
    let all = &world.compute.flavors.0;
    let start = match ask.request.param("marker") {
        None => 0,
        Some(marker) => {
            let at = all.iter().position(|flavor| flavor.id == marker);
            at.ok_or_else(|| nova_error(400, &format!("marker [{marker}] not found")))? + 1
        }
    };
    let limit = ask.request.param("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let fitting = all.iter().skip(start).filter(|flavor| flavor.ram >= ram && flavor.disk >= disk);
    let page: Vec<Value> = fitting
        .take(limit)
        .map(|flavor| match detail {
            true => view(world, flavor, ask.version),
            false => json!({"id": flavor.id, "name": flavor.name, "links": links(world, &flavor.id)}),
        })
        .collect();
    let mut body = json!({"flavors": page});
    if let Some(last) = page.last().filter(|_| page.len() == limit) {
        let rest = if detail { "/compute/v2.1/flavors/detail" } else { "/compute/v2.1/flavors" };
        let marker = last["id"].as_str().unwrap_or_default();
        let href = format!("{}?limit={limit}&marker={marker}", world.url(rest));
        body["flavors_links"] = json!([{"rel": "next", "href": href}]);
    }
    Ok(Reply::json(200, &body))
}

pub(super) fn show(world: &World, ask: &Ask<'_>) -> Answer {
    let flavor = found(world, ask.call.segment(1))?;
    Ok(Reply::json(200, &json!({"flavor": view(world, flavor, ask.version)})))
}

pub(super) fn extra_specs(world: &World, ask: &Ask<'_>) -> Answer {
    let flavor = found(world, ask.call.segment(1))?;
    Ok(Reply::json(200, &json!({"extra_specs": flavor.extra_specs})))
}
