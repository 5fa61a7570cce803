//! What a test puts into the cloud: servers, images, ports, floating addresses, credentials, of any age and state.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use super::refuse;
use crate::simulator::{
    faults::SshFault,
    glance::{
        checksum::Measured,
        images::{Image, ImageStatus},
    },
    keystone::identity::ApplicationCredential,
    nova::create::plan,
    servers::{BootEnd, Nic, Server, SshMode, State},
    wait::Wait,
    wire::{Answer, Reply, Request},
    world::{Event, World},
};

pub(super) fn dispatch(world: &mut World, request: &Request, path: &[&str], now: Timestamp) -> Answer {
    match (request.method.as_str(), path) {
        ("GET", ["servers"]) => Ok(list_servers(world, request)),
        ("POST", ["servers"]) => add_servers(world, &read(request)?, now),
        ("POST", ["servers", id]) => change_server(world, id, &read(request)?, now),
        ("DELETE", ["servers", ..]) => remove_servers(world, path.get(1).copied(), now),
        ("POST", ["purge"]) => {
            let gone: Vec<u64> = deleted(world).map(|server| server.seq).collect();
            gone.iter().for_each(|seq| world.compute.servers.purge(*seq));
            Ok(Reply::json(200, &json!({"purged": gone.len()})))
        }
        ("GET", ["images"]) => Ok(list_images(world)),
        ("POST", ["images"]) => add_image(world, read(request)?, now),
        ("POST", ["images", id]) => change_image(world, id, read(request)?, now),
        ("DELETE", ["images", id]) => {
            world.remove_image(id).map(|_| Reply::empty(204)).ok_or_else(|| refuse(404, "no such image"))
        }
        ("POST", ["ports"]) => add_port(world, &read(request)?, now),
        ("POST", ["floating-ips"]) => add_floating(world, &read(request)?, now),
        ("GET", ["application-credentials"]) => {
            let all: Vec<Value> = world.identity.credentials.values().map(show_credential).collect();
            Ok(Reply::json(200, &json!({"applicationCredentials": all})))
        }
        ("POST", ["application-credentials"]) => add_credential(world, None, read(request)?),
        ("POST", ["application-credentials", id]) => add_credential(world, Some(*id), read(request)?),
        ("DELETE", ["application-credentials", id]) => match world.identity.credentials.remove(*id) {
            Some(_) => Ok(Reply::empty(204)),
            None => Err(refuse(404, "no such application credential")),
        },
        _ => Err(refuse(404, "no such call; openstack-simulator --help lists them")),
    }
}

/// The body, empty meaning nothing in particular.
fn read<T: DeserializeOwned>(request: &Request) -> Result<T, Reply> {
    let body: &[u8] = if request.body.is_empty() { b"{}" } else { &request.body };
    serde_json::from_slice(body).map_err(|error| refuse(400, error))
}

fn ago(now: Timestamp, age: Wait) -> Timestamp {
    now.checked_sub(age.signed()).unwrap_or(now)
}

fn deleted(world: &World) -> impl Iterator<Item = &Server> {
    world.compute.servers.all().filter(|server| server.state == State::Deleted)
}

fn list_images(world: &World) -> Reply {
    let shown: Vec<Value> = world
        .images
        .newest_first()
        .map(|image| {
            json!({
                "id": image.id, "name": image.name, "status": image.status.word(), "protected": image.protected,
                "size": image.data.as_ref().map(|data| data.size), "properties": image.properties, "tags": image.tags,
            })
        })
        .collect();
    Reply::json(200, &json!({"images": shown}))
}

fn list_servers(world: &World, request: &Request) -> Reply {
    let with_deleted = request.param("deleted") == Some("true");
    let name = request.param("name");
    let shown: Vec<Value> = world
        .compute
        .servers
        .all()
        .filter(|server| with_deleted || server.state != State::Deleted)
        .filter(|server| name.is_none_or(|name| name == server.name))
        .map(|server| show_server(world, server))
        .collect();
    Reply::json(200, &json!({"servers": shown}))
}

fn show_server(world: &World, server: &Server) -> Value {
    let addresses: Vec<String> = server.addresses.iter().map(|address| address.address.to_string()).collect();
    json!({
        "id": server.id, "name": server.name, "status": server.state.status(), "taskState": server.task,
        "tags": server.tags, "metadata": server.metadata, "foreign": server.foreign, "addresses": addresses,
        "sshUp": server.ssh_up, "sshPort": world.fixed.ssh_port, "flavor": server.flavor.name, "image": server.image,
        "zone": server.zone, "keyName": server.key_name, "configDrive": server.config_drive,
        "userData": server.user_data, "securityGroups": server.security_groups,
        "created": server.created.to_string(),
        "terminated": server.terminated.map(|at| at.to_string()),
        "fault": server.failure.as_ref().map(|failure| &failure.message),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewServer {
    name: String,
    #[serde(default)]
    tags: BTreeSet<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    age: Wait,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    flavor: Option<String>,
    #[serde(default)]
    image: Option<String>,
    /// Counted as somebody else's in the state; true unless told.
    #[serde(default)]
    foreign: Option<bool>,
    #[serde(default)]
    ssh: Option<SshFault>,
    /// Boots as long as any server; else it is ACTIVE at once.
    #[serde(default)]
    boots: bool,
}

fn add_servers(world: &mut World, wanted: &NewServer, now: Timestamp) -> Answer {
    let count = wanted.count.unwrap_or(1);
    let mut ids = Vec::new();
    for index in 0..count {
        let name = if count > 1 { format!("{}-{}", wanted.name, index + 1) } else { wanted.name.clone() };
        let server = new_server(world, wanted, name, now)?;
        ids.push(server.id.clone());
        // What is old became what it is back then, and has not changed since.
        world.launch(server, ago(now, wanted.age));
    }
    Ok(match ids.as_slice() {
        [id] => Reply::json(201, &json!({"id": id})),
        _ => Reply::json(201, &json!({"ids": ids})),
    })
}

fn new_server(world: &World, wanted: &NewServer, name: String, now: Timestamp) -> Result<Server, Reply> {
    let flavor = wanted.flavor.as_deref().unwrap_or("small");
    let flavor = world.compute.flavors.pick(flavor).ok_or_else(|| refuse(400, "no such flavor"))?.clone();
    let first = || world.images.newest_first().last().map(|image| image.id.clone());
    let image = wanted.image.clone().or_else(first);
    let mut plan = plan(world, &[], &flavor);
    plan.end = BootEnd::Active;
    if !wanted.boots {
        plan.after = std::time::Duration::ZERO;
    }
    match wanted.ssh {
        Some(SshFault::Never) => plan.ssh = SshMode::Never,
        Some(SshFault::Silent) => plan.ssh = SshMode::Silent,
        Some(SshFault::Late) | None => {}
    }
    Ok(Server {
        id: Uuid::new_v4().to_string(),
        seq: 0,
        name,
        state: State::Building,
        task: Some("spawning"),
        created: ago(now, wanted.age),
        updated: ago(now, wanted.age),
        launched: None,
        terminated: None,
        flavor,
        image,
        metadata: wanted.metadata.clone(),
        tags: wanted.tags.clone(),
        key_name: None,
        public_key: None,
        zone: world.fixed.zones.first().cloned().unwrap_or_default(),
        pinned_zone: None,
        config_drive: false,
        user_data: None,
        description: None,
        locked: false,
        security_groups: vec!["default".to_owned()],
        nics: vec![Nic { network: world.network.private.clone(), ..Nic::default() }],
        addresses: Vec::new(),
        failure: None,
        plan,
        foreign: wanted.foreign.unwrap_or(true),
        keeps_ports: false,
        ssh_up: false,
        rendered: None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServerChange {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    ssh: Option<SshChange>,
    #[serde(default)]
    tags: Option<BTreeSet<String>>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    locked: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SshChange {
    Answer,
    Never,
    Silent,
}

fn change_server(world: &mut World, id: &str, wanted: &ServerChange, now: Timestamp) -> Answer {
    let server = world.compute.servers.existing(id).ok_or_else(|| refuse(404, "no such server"))?;
    let (seq, active) = (server.seq, server.state == State::Active);
    world.compute.servers.change(seq, now, |server| {
        server.tags = wanted.tags.clone().unwrap_or_else(|| server.tags.clone());
        server.metadata = wanted.metadata.clone().unwrap_or_else(|| server.metadata.clone());
        server.locked = wanted.locked.unwrap_or(server.locked);
    });
    if let Some(ssh) = wanted.ssh {
        let mode = match ssh {
            SshChange::Answer => SshMode::Answer,
            SshChange::Never => SshMode::Never,
            SshChange::Silent => SshMode::Silent,
        };
        world.compute.servers.retouch(seq, |server| server.plan.ssh = mode);
        if active {
            world.restart_ssh(seq);
        }
    }
    match wanted.status.as_deref() {
        None => {}
        Some("ACTIVE") if world.is_building(seq) => {
            world.compute.servers.retouch(seq, |server| server.plan.end = BootEnd::Active);
            world.after(std::time::Duration::ZERO, now, Event::BootEnds(seq));
        }
        Some("ACTIVE") => world.start(seq, now),
        Some("SHUTOFF") => world.stop(seq, now),
        Some("SOFT_DELETED") => world.soft_delete(seq, now),
        Some("ERROR") => {
            let message = wanted.message.clone().unwrap_or_else(|| "The simulator was told to.".to_owned());
            world.stop(seq, now);
            world.fail(seq, 500, message, now);
        }
        Some(_) => return Err(refuse(400, "status is one of ACTIVE, SHUTOFF, ERROR, SOFT_DELETED")),
    }
    let server = world.compute.servers.get(seq);
    Ok(Reply::json(200, &server.map(|server| show_server(world, server))))
}

fn remove_servers(world: &mut World, id: Option<&str>, now: Timestamp) -> Answer {
    let servers = &world.compute.servers;
    let seqs: Vec<u64> = match id {
        Some(id) => vec![servers.existing(id).ok_or_else(|| refuse(404, "no such server"))?.seq],
        None => servers.newest_first(None).map(|server| server.seq).collect(),
    };
    seqs.into_iter().for_each(|seq| world.begin_delete(seq, std::time::Duration::ZERO, now));
    Ok(Reply::empty(204))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImageChange {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    status: Option<ImageStatus>,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    protected: Option<bool>,
    #[serde(default)]
    hidden: Option<bool>,
    #[serde(default)]
    min_disk: Option<i64>,
    #[serde(default)]
    min_ram: Option<i64>,
    #[serde(default)]
    tags: Option<BTreeSet<String>>,
    #[serde(default)]
    properties: Option<BTreeMap<String, String>>,
    #[serde(default)]
    age: Option<Wait>,
}

fn add_image(world: &mut World, wanted: ImageChange, now: Timestamp) -> Answer {
    let mut image = Image::blank(Uuid::new_v4().to_string(), now);
    let id = image.id.clone();
    image.owner = Some(world.identity.project.clone());
    image.disk_format = Some("qcow2".to_owned());
    image.container_format = Some("bare".to_owned());
    image.fill(&Measured::imagined(&id, 400 << 20), now);
    world.images.insert(image);
    change_image(world, &id, wanted, now).map(|_| Reply::json(201, &json!({"id": id})))
}

fn change_image(world: &mut World, id: &str, wanted: ImageChange, now: Timestamp) -> Answer {
    let image = world.images.get_mut(id).ok_or_else(|| refuse(404, "no such image"))?;
    if let Some(age) = wanted.age {
        (image.created, image.updated) = (ago(now, age), ago(now, age));
    }
    image.name = wanted.name.or(image.name.take());
    image.status = wanted.status.unwrap_or(image.status);
    image.visibility = wanted.visibility.unwrap_or_else(|| image.visibility.clone());
    image.protected = wanted.protected.unwrap_or(image.protected);
    image.hidden = wanted.hidden.unwrap_or(image.hidden);
    image.min_disk = wanted.min_disk.unwrap_or(image.min_disk);
    image.min_ram = wanted.min_ram.unwrap_or(image.min_ram);
    image.tags = wanted.tags.unwrap_or_else(|| image.tags.clone());
    image.properties.extend(wanted.properties.unwrap_or_default());
    Ok(Reply::json(200, &json!({"id": id, "status": image.status})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewAddress {
    #[serde(default)]
    name: String,
    #[serde(default)]
    network: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    device_id: String,
    #[serde(default)]
    age: Wait,
}

fn dress(world: &World, item: &mut Value, wanted: &NewAddress, now: Timestamp) -> Value {
    let stamp = world.stamp(ago(now, wanted.age));
    (item["created_at"], item["updated_at"]) = (stamp.clone().into(), stamp.into());
    (item["tags"], item["description"]) = (json!(wanted.tags), wanted.description.as_str().into());
    item["id"].clone()
}

fn add_port(world: &mut World, wanted: &NewAddress, now: Timestamp) -> Answer {
    let network = wanted.network.clone().unwrap_or_else(|| world.network.private.clone());
    let mut port = world.network.new_port(&network, None).map_err(|message| refuse(400, message))?;
    let id = dress(world, &mut port, wanted, now);
    port["name"] = wanted.name.as_str().into();
    if !wanted.device_id.is_empty() {
        port["device_id"] = wanted.device_id.as_str().into();
        port["device_owner"] = "compute:nova".into();
        port["status"] = "ACTIVE".into();
    }
    world.network.put("ports", port);
    Ok(Reply::json(201, &json!({"id": id})))
}

fn add_floating(world: &mut World, wanted: &NewAddress, now: Timestamp) -> Answer {
    let network = wanted.network.clone().unwrap_or_else(|| world.network.public.clone());
    let mut address = world.network.new_floating(&network).map_err(|message| refuse(400, message))?;
    let id = dress(world, &mut address, wanted, now);
    world.network.put("floatingips", address);
    Ok(Reply::json(201, &json!({"id": id})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewCredential {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    /// The same, counted from now; negative is in the past.
    #[serde(default)]
    expires_in_seconds: Option<i64>,
}

fn add_credential(world: &mut World, id: Option<&str>, wanted: NewCredential) -> Answer {
    let mut credential = match id {
        Some(id) => world.identity.credentials.get(id).cloned().ok_or_else(|| refuse(404, "no such credential"))?,
        None => ApplicationCredential {
            id: Uuid::new_v4().simple().to_string(),
            name: format!("credential-{}", world.identity.credentials.len() + 1),
            secret: Uuid::new_v4().simple().to_string(),
            expires: None,
        },
    };
    credential.name = wanted.name.unwrap_or(credential.name);
    credential.secret = wanted.secret.unwrap_or(credential.secret);
    let from_now = |seconds| Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).ok();
    credential.expires =
        wanted.expires_at.or_else(|| wanted.expires_in_seconds.and_then(from_now)).or(credential.expires);
    let shown = show_credential(&credential);
    world.identity.credentials.insert(credential.id.clone(), credential);
    Ok(Reply::json(if id.is_some() { 200 } else { 201 }, &shown))
}

fn show_credential(credential: &ApplicationCredential) -> Value {
    json!({
        "id": credential.id, "name": credential.name, "secret": credential.secret,
        "expiresAt": credential.expires.map(|at| at.to_string()),
    })
}
