//! Nova: servers and snapshots of them, flavors, limits.
//!
//! A boot request is sent exactly once (rule 2), and so is a request for a snapshot: their calls are not repeatable, and
//! everything that can fail before they are sent fails with a class that says so.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::header::LOCATION;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked, nothing, refused};
use super::ownership;
use super::paging::{Link, Page, next};
use super::server::{ServersPage, WireServer};
use super::transport::{Answer, Garbage};
use crate::cloud::{
    BootRequest, CloudError, ErrorClass, Flavor, Limits, NewImage, Resources, SERVER_KEY, Server, ServerList,
    ServerQuery, Usage,
};

/// 2.69 shows servers of a cell that is down, 2.47 the flavor's sizes; 2.26 and later the tags.
const SHOW: &[u32] = &[69, 47];
/// 2.52 takes tags in a boot.
const BOOT: &[u32] = &[52];
/// 2.45 answers a snapshot with the image's id; before, it is the end of an address.
const SNAPSHOT: &[u32] = &[45];
/// From here on a boot must say something about networks.
const NETWORKS_REQUIRED: u32 = 37;

#[derive(Deserialize)]
struct OneServer {
    server: WireServer,
}

#[derive(Deserialize)]
struct Booted {
    server: BootedId,
}

#[derive(Deserialize)]
struct BootedId {
    id: String,
}

#[derive(Deserialize)]
struct Snapshot {
    image_id: String,
}

#[derive(Deserialize)]
struct Console {
    output: Option<String>,
}

#[derive(Deserialize)]
struct FlavorsPage {
    flavors: Vec<WireFlavor>,
    flavors_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
struct WireFlavor {
    id: String,
    name: String,
    vcpus: i64,
    ram: i64,
}

impl Page for FlavorsPage {
    type Item = WireFlavor;

    fn split(self) -> (Vec<WireFlavor>, Option<String>) {
        (self.flavors, next(self.flavors_links))
    }
}

#[derive(Deserialize)]
struct LimitsAnswer {
    limits: AllLimits,
}

#[derive(Deserialize)]
struct AllLimits {
    absolute: WireLimits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLimits {
    max_total_instances: Option<i64>,
    total_instances_used: Option<i64>,
    max_total_cores: Option<i64>,
    total_cores_used: Option<i64>,
    #[serde(rename = "maxTotalRAMSize")]
    max_total_ram: Option<i64>,
    #[serde(rename = "totalRAMUsed")]
    total_ram_used: Option<i64>,
}

impl OpenStack {
    pub(super) async fn servers(&self, query: ServerQuery) -> Result<ServerList, CloudError> {
        let minor = self.client.compute_api().await?.pick(SHOW);
        let since = match query {
            ServerQuery::Full => None,
            ServerQuery::ChangedSince(since) => Some(since),
        };
        let asked = since.map(|since| ("changes-since", whole_second(since))).into_iter().collect();
        let ask =
            Ask::get(Call::ListServers, Service::Compute, &["servers", "detail"]).query(asked).microversion(minor);
        let listed = self
            .client
            .list::<ServersPage, _>(ask, |wire| {
                let expected = since.is_none_or(|since| wire.changed_since(since));
                (expected, wire.keep(&self.identity, &self.secrets()))
            })
            .await?;
        if listed.items.iter().any(|(expected, _)| !expected) {
            let message = "the cloud ignores changes-since";
            return Err(refused(Call::ListServers, ErrorClass::Invalid, message));
        }
        // A server that moved while the pages were read is on two of them; the later one is newer.
        let each: BTreeMap<String, Server> =
            listed.items.into_iter().map(|(_, server)| (server.id.clone(), server)).collect();
        Ok(ServerList { servers: each.into_values().collect(), taken_at: listed.taken_at })
    }

    pub(super) async fn server(&self, id: &str) -> Result<Server, CloudError> {
        let path = ["servers", checked(Call::GetServer, id)?];
        let minor = self.client.compute_api().await?.pick(SHOW);
        let ask = Ask::get(Call::GetServer, Service::Compute, &path).microversion(minor);
        let wire = self.client.ask(ask, |answer| answer.json::<OneServer>()).await?.server;
        Ok(wire.keep(&self.identity, &self.secrets()))
    }

    /// The one boot request. Names of networks are resolved before, so that nothing is sent when they cannot be.
    pub(super) async fn boot(&self, request: &BootRequest) -> Result<String, CloudError> {
        let minor = self.client.compute_api().await?.pick(BOOT);
        let networks = self.network_ids(&request.networks).await?;
        let body = boot_body(request, &networks, minor);
        let ask = Ask::post(Call::CreateServer, Service::Compute, &["servers"], &body).microversion(minor);
        let ask = ask.only_if(request.may_still.clone());
        let outcome = self.client.ask(ask, booted_id).await;
        if outcome.as_ref().is_err_and(|error| error.class == ErrorClass::Invalid) {
            self.forget_names();
        }
        outcome
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), CloudError> {
        let path = ["servers", checked(Call::DeleteServer, id)?];
        self.client.ask(Ask::delete(Call::DeleteServer, Service::Compute, &path), nothing).await
    }

    pub(super) async fn force_delete(&self, id: &str) -> Result<(), CloudError> {
        let path = ["servers", checked(Call::ForceDeleteServer, id)?, "action"];
        let body = json!({"forceDelete": null});
        self.client.ask(Ask::post(Call::ForceDeleteServer, Service::Compute, &path, &body), nothing).await
    }

    pub(super) async fn snapshot(&self, server_id: &str, image: &NewImage) -> Result<String, CloudError> {
        let path = ["servers", checked(Call::SnapshotServer, server_id)?, "action"];
        let minor = self.client.compute_api().await?.pick(SNAPSHOT);
        let mut metadata = ownership::metadata(&image.properties, &image.ownership);
        metadata.insert(SERVER_KEY.to_owned(), server_id.to_owned());
        let body = json!({"createImage": {"name": image.name, "metadata": metadata}});
        let ask = Ask::post(Call::SnapshotServer, Service::Compute, &path, &body).microversion(minor);
        self.client.ask(ask, snapshot_id).await
    }

    pub(super) async fn stop(&self, id: &str) -> Result<(), CloudError> {
        let path = ["servers", checked(Call::StopServer, id)?, "action"];
        let ask = Ask::post(Call::StopServer, Service::Compute, &path, &json!({"os-stop": null}));
        match self.client.ask(ask, nothing).await {
            Err(error) if error.class == ErrorClass::Conflict && is_stopping(&error.message) => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) async fn console(&self, id: &str, lines: u32) -> Result<String, CloudError> {
        let path = ["servers", checked(Call::Console, id)?, "action"];
        let body = json!({"os-getConsoleOutput": {"length": lines}});
        let ask = Ask::post(Call::Console, Service::Compute, &path, &body);
        let output = self.client.ask(ask, |answer| answer.json::<Console>()).await?.output.unwrap_or_default();
        Ok(last_lines(&output, lines))
    }

    pub(super) async fn all_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let ask = Ask::get(Call::ListFlavors, Service::Compute, &["flavors", "detail"]);
        let listed = self
            .client
            .list::<FlavorsPage, _>(ask, |wire| Flavor {
                id: wire.id,
                name: wire.name,
                resources: Resources { instances: 1, cores: wire.vcpus, ram_mib: wire.ram },
            })
            .await?;
        Ok(listed.items)
    }

    pub(super) async fn project_limits(&self) -> Result<Limits, CloudError> {
        let ask = Ask::get(Call::GetLimits, Service::Compute, &["limits"]);
        let told = self.client.ask(ask, |answer| answer.json::<LimitsAnswer>()).await?.limits.absolute;
        Ok(Limits {
            instances: usage(told.max_total_instances, told.total_instances_used),
            cores: usage(told.max_total_cores, told.total_cores_used),
            ram_mib: usage(told.max_total_ram, told.total_ram_used),
        })
    }
}

/// Nova keeps whole seconds, and old ones read nothing else.
fn whole_second(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Nova writes -1 for unlimited.
fn usage(max: Option<i64>, used: Option<i64>) -> Usage {
    Usage { max: max.filter(|max| *max >= 0), used: used.unwrap_or(0).max(0) }
}

/// Nova honours `length`, but a cloud that does not may send all of the console.
fn last_lines(output: &str, lines: u32) -> String {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let all: Vec<&str> = output.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// An answer without an id is no answer: the server may exist all the same.
fn booted_id(answer: &Answer) -> Result<String, Garbage> {
    let id = answer.json::<Booted>()?.server.id;
    if checked(Call::CreateServer, &id).is_ok() { Ok(id) } else { Err(Garbage) }
}

/// In the body, or at the end of the address where it is: an answer with neither is no answer.
fn snapshot_id(answer: &Answer) -> Result<String, Garbage> {
    let told = answer.json::<Snapshot>().ok().map(|snapshot| snapshot.image_id);
    let address = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let id = told.or_else(|| address?.rsplit('/').next().map(str::to_owned)).ok_or(Garbage)?;
    if checked(Call::SnapshotServer, &id).is_ok() { Ok(id) } else { Err(Garbage) }
}

/// "Cannot 'stop' instance … while it is in vm_state stopped", or on its way there.
fn is_stopping(message: &str) -> bool {
    message.ends_with("vm_state stopped") || message.ends_with("task_state powering-off")
}

fn boot_body(request: &BootRequest, networks: &[String], minor: Option<u32>) -> Value {
    let minor = minor.unwrap_or(1);
    let mut server = json!({
        "name": request.name,
        "imageRef": request.image_id,
        "flavorRef": request.flavor_id,
        "metadata": ownership::metadata(&request.metadata, &request.ownership),
        // At most one server for one request, whatever the cloud's defaults are.
        "min_count": 1,
        "max_count": 1,
    });
    if !networks.is_empty() {
        server["networks"] = networks.iter().map(|id| json!({"uuid": id})).collect();
        if let Some(port) = &request.port {
            server["networks"][0] = json!({"port": port});
        }
    } else if minor >= NETWORKS_REQUIRED {
        server["networks"] = json!("auto");
    }
    if minor >= 52 {
        server["tags"] = json!(ownership::tags(&request.ownership));
    }
    if !request.security_groups.is_empty() {
        server["security_groups"] = request.security_groups.iter().map(|name| json!({"name": name})).collect();
    }
    if let Some(zone) = &request.availability_zone {
        server["availability_zone"] = json!(zone);
    }
    if let Some(key) = &request.key_name {
        server["key_name"] = json!(key);
    }
    if let Some(drive) = request.config_drive {
        server["config_drive"] = json!(drive);
    }
    if let Some(data) = &request.user_data {
        server["user_data"] = json!(STANDARD.encode(data.expose_secret()));
    }
    json!({ "server": server })
}
