//! Nova: which call goes where, microversions, and what the project has of flavors and key pairs.
//!
//! The parts: [`create`], [`list`], [`view`] (how a server is shown), [`actions`], [`account`] (quota, limits, key
//! pairs), [`flavors`].

pub(crate) mod account;
pub(crate) mod actions;
pub(crate) mod attributes;
pub(crate) mod create;
pub(crate) mod flavors;
pub(crate) mod list;
pub(crate) mod view;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

use self::flavors::Flavors;
use super::{
    calls::Call,
    faults::Behaviour,
    servers::Servers,
    wire::{Answer, Reply, Request, nova_error},
    world::World,
};

/// What Nova holds.
pub(crate) struct Compute {
    pub servers: Servers,
    pub flavors: Flavors,
    pub key_pairs: BTreeMap<String, Value>,
}

impl Compute {
    pub(crate) fn new() -> Self {
        Self { servers: Servers::default(), flavors: Flavors::seeded(), key_pairs: BTreeMap::new() }
    }

    /// The public half of a key pair, in OpenSSH's form.
    pub(crate) fn public_key(&self, name: &str) -> Option<Arc<str>> {
        self.key_pairs.get(name)?["public_key"].as_str().map(Arc::from)
    }
}

/// One call to Nova, with what its handlers need.
pub(crate) struct Ask<'a> {
    pub call: &'a Call,
    pub request: &'a Request,
    pub behaviours: &'a [Behaviour],
    /// The minor version of 2.x that the client speaks.
    pub version: u16,
    pub now: Timestamp,
}

impl Ask<'_> {
    /// The id of the server that the path names.
    pub(crate) fn server_id(&self) -> &str {
        self.call.segment(1)
    }
}

/// Answers one call to Nova.
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
    let version = microversion(world, request)?;
    let ask = Ask { call, request, behaviours, version, now };
    let answer = dispatch(world, &ask);
    let dress = |reply: Reply| if world.tunable.max_microversion == 0 { reply } else { dress(reply, version) };
    answer.map(dress).map_err(dress)
}

fn dress(reply: Reply, version: u16) -> Reply {
    reply
        .with("openstack-api-version", format!("compute 2.{version}"))
        .with("x-openstack-nova-api-version", format!("2.{version}"))
        .with("vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
}

fn dispatch(world: &mut World, ask: &Ask<'_>) -> Answer {
    match ask.call.name.as_str() {
        "create-server" => create::create(world, ask),
        "list-servers" => list::list(world, ask),
        "show-server" => list::show(world, ask),
        "update-server" => attributes::update(world, ask),
        "delete-server" => actions::delete(world, ask),
        "list-server-tags" | "update-server-tags" => attributes::tags(world, ask),
        "list-server-metadata" | "update-server-metadata" => attributes::metadata(world, ask),
        "list-addresses" => list::addresses(world, ask),
        "list-interfaces" | "attach-interface" | "detach-interface" => attributes::interfaces(world, ask),
        "list-server-security-groups" => list::security_groups(world, ask),
        "list-volume-attachments" => list::volume_attachments(world, ask),
        "list-instance-actions" => list::instance_actions(world, ask),
        "list-flavors" => flavors::list(world, ask),
        "show-flavor" => flavors::show(world, ask),
        "list-flavor-extra-specs" => flavors::extra_specs(world, ask),
        "list-key-pairs" | "create-key-pair" | "show-key-pair" | "delete-key-pair" => account::key_pairs(world, ask),
        "show-limits" => Ok(account::limits(world, ask)),
        "show-compute-quota" => Ok(account::quota_set(world, ask)),
        "list-availability-zones" => Ok(account::zones(world)),
        "list-server-groups" => Ok(Reply::json(200, &json!({"server_groups": []}))),
        "list-compute-extensions" => Ok(Reply::json(200, &json!({"extensions": []}))),
        "unknown" => {
            Err(Reply::raw(404, "text/plain; charset=UTF-8", "404 Not Found\n\nThe resource could not be found."))
        }
        _ => actions::act(world, ask),
    }
}

/// The version that the client asks for; 2.1 when it does not ask.
fn microversion(world: &World, request: &Request) -> Result<u16, Reply> {
    let tunable = &world.tunable;
    if tunable.max_microversion == 0 {
        return Ok(1);
    }
    let new = request.header("openstack-api-version").and_then(|value| {
        value.split(',').filter_map(|part| part.trim().split_once(' ')).find(|(service, _)| *service == "compute")
    });
    let wanted = match (new, request.header("x-openstack-nova-api-version")) {
        (Some((_, wanted)), _) | (None, Some(wanted)) => wanted.trim(),
        (None, None) => return Ok(1),
    };
    if wanted == "latest" {
        return Ok(tunable.max_microversion);
    }
    let parsed = wanted.split_once('.').and_then(|(major, minor)| {
        let major: u16 = major.parse().ok()?;
        let minor: u16 = minor.parse().ok()?;
        Some((major, minor))
    });
    let Some((major, minor)) = parsed else {
        let message = format!("API Version String {wanted} is of invalid format. Must be of format MajorNum.MinorNum.");
        return Err(nova_error(400, &message));
    };
    if major != 2 || minor < tunable.min_microversion || minor > tunable.max_microversion {
        let message = format!(
            "Version {wanted} is not supported by the API. Minimum is 2.{} and maximum is 2.{}.",
            tunable.min_microversion, tunable.max_microversion
        );
        return Err(nova_error(406, &message));
    }
    Ok(minor)
}

fn versions(world: &World, call: &Call) -> Reply {
    let tunable = &world.tunable;
    let (min, max) = match tunable.max_microversion {
        0 => (String::new(), String::new()),
        max => (format!("2.{}", tunable.min_microversion), format!("2.{max}")),
    };
    let current = json!({
        "id": "v2.1", "status": "CURRENT", "version": max, "min_version": min, "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": world.url("/compute/v2.1/")}],
    });
    if call.versioned {
        let mut version = current;
        version["media-types"] =
            json!([{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}]);
        return Reply::json(200, &json!({"version": version}));
    }
    let legacy = json!({
        "id": "v2.0", "status": "DEPRECATED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": world.url("/compute/v2/")}],
    });
    Reply::json(200, &json!({"versions": [legacy, current]}))
}

/// 404 for a server that is not, or no more.
pub(crate) fn no_server(id: &str) -> Reply {
    nova_error(404, &format!("Instance {id} could not be found."))
}
