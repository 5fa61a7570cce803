//! The real OpenStack of `tests/openstack`, and a client that asks it over plain HTTP what is really there.
//!
//! `make test` starts it and passes its clouds.yaml in `OPENSTACK_FOR_TESTS`. Without it (a plain `cargo test`) the first
//! test starts it, and it stays up: it takes half a minute to start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use nodepool_operator::egress::{self, Egress};

use super::control_plane::install_crypto_provider;

/// What tests let the operator's own client connect to: the clouds here.
pub fn loopback() -> Egress {
    Egress::new(egress::networks("127.0.0.0/8").unwrap(), Vec::new())
}

/// Names the clouds.yaml of a cloud that is up.
const GIVEN: &str = "OPENSTACK_FOR_TESTS";

/// Servers are addresses of this machine.
const FAKE: &str = "--virt=fake";

/// Servers are machines in emulation.
const MACHINES: &str = "--virt=libvirt";

/// The cloud as the machine that it runs on sees it.
pub struct OpenStack {
    clouds_yaml: PathBuf,
}

impl OpenStack {
    /// The cloud of this run, started if there is none yet. Blocks until it answers.
    pub fn shared() -> &'static Self {
        Self::of(FAKE)
    }

    /// The cloud of this run, whose servers are machines; for a test program that asks for it before all else. What is
    /// run on a server of the other kind runs on this machine.
    pub fn machines() -> &'static Self {
        let cloud = Self::of(MACHINES);
        assert!(cloud.folder().join("data/libvirt").is_dir(), "{GIVEN} names a cloud without machines");
        cloud
    }

    fn of(virt: &str) -> &'static Self {
        static SHARED: OnceLock<OpenStack> = OnceLock::new();
        SHARED.get_or_init(|| {
            install_crypto_provider();
            let clouds_yaml = std::env::var_os(GIVEN).map_or_else(|| Self::up(virt), PathBuf::from);
            Self { clouds_yaml }
        })
    }

    /// Starts whatever does not run; returns the path of its clouds.yaml.
    fn up(virt: &str) -> PathBuf {
        let output = script("up").arg(virt).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/openstack/up: {}", output.status);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    }

    /// The cloud until what this returns is dropped; one that was up already stays up.
    pub fn lent() -> Lent {
        let kept =
            std::env::var_os(GIVEN).is_some() || script("status").stdout(Stdio::null()).status().unwrap().success();
        Self::shared();
        Lent { kept }
    }

    /// The folder of its PyPI packages, the clients' among them.
    pub fn packages() -> PathBuf {
        let output = script("venv").stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/openstack/venv: {}", output.status);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    }

    /// Ends these services, until what this returns is dropped.
    pub fn outage(names: &[&str]) -> Outage {
        let outage = Outage(());
        assert!(script("down").args(names).status().unwrap().success());
        outage
    }

    /// Changes what its hosts do wrong, as tests/openstack/README.md lists it.
    pub fn hosts(change: impl FnOnce(&mut Vec<Value>)) {
        static RULES: Mutex<Vec<Value>> = Mutex::new(Vec::new());
        let mut rules = RULES.lock().unwrap();
        change(&mut rules);
        let file = Self::shared().folder().join("faults.json");
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&*rules).unwrap()).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// What its clouds.yaml says of one cloud.
    pub fn cloud(&self, name: &str) -> Value {
        let file: Value = serde_yaml::from_str(&self.text()).unwrap();
        file["clouds"][name].clone()
    }

    /// Its clouds.yaml.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.clouds_yaml).unwrap()
    }

    /// Where all that it keeps is.
    pub fn folder(&self) -> &Path {
        self.clouds_yaml.parent().unwrap()
    }

    /// The port on which its servers answer SSH.
    pub fn ssh_port(&self) -> u16 {
        let ports = std::fs::read_to_string(self.folder().join("ports")).unwrap();
        let port = ports.lines().find_map(|line| line.strip_prefix("export LAB_NODE_SSH_PORT="));
        port.unwrap().parse().unwrap()
    }
}

/// Services are away; a test that fails meanwhile must not leave them so to the others.
pub struct Outage(());

impl Drop for Outage {
    fn drop(&mut self) {
        OpenStack::up(FAKE);
    }
}

/// Who measures something else afterwards wants the machine back.
pub struct Lent {
    kept: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.kept {
            // One that does not end is still there to be seen.
            let _ = script("down").stdout(Stdio::null()).status();
        }
    }
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openstack").join(name));
    command.stdin(Stdio::null());
    command
}

/// Keystone's address and the log-in that one cloud of a clouds.yaml says.
pub fn credentials(clouds_yaml: &str, cloud: &str) -> (String, Value) {
    let file: Value = serde_yaml::from_str(clouds_yaml).unwrap();
    let auth = &file["clouds"][cloud]["auth"];
    let url = auth["auth_url"].as_str().unwrap_or_else(|| panic!("no cloud {cloud}")).trim_end_matches('/').to_owned();
    if auth["application_credential_id"].is_string() {
        let (id, secret) = (&auth["application_credential_id"], &auth["application_credential_secret"]);
        let given = json!({"id": id, "secret": secret});
        let identity = json!({"methods": ["application_credential"], "application_credential": given});
        return (url, json!({"auth": {"identity": identity}}));
    }
    let domain = json!({"name": "Default"});
    let user = json!({"name": auth["username"], "password": auth["password"], "domain": domain});
    let scope = json!({"project": {"name": auth["project_name"], "domain": domain}});
    (url, json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}))
}

/// A token and what came with it.
pub struct Login {
    pub token: String,
    pub body: Value,
    /// Addresses by type, as the catalogue has them.
    pub catalog: BTreeMap<String, String>,
}

impl Login {
    pub fn read(token: &str, body: &Value) -> Self {
        let body = body["token"].clone();
        let mut catalog = BTreeMap::new();
        for service in body["catalog"].as_array().into_iter().flatten() {
            let public = service["endpoints"].as_array().unwrap().iter().find(|one| one["interface"] == "public");
            let url = public.unwrap_or_else(|| panic!("no public endpoint: {service}"))["url"].as_str().unwrap();
            catalog.insert(service["type"].as_str().unwrap().to_owned(), url.trim_end_matches('/').to_owned());
        }
        Self { token: token.to_owned(), body, catalog }
    }

    pub fn project(&self) -> String {
        self.body["project"]["id"].as_str().unwrap().to_owned()
    }

    pub fn user(&self) -> String {
        self.body["user"]["id"].as_str().unwrap().to_owned()
    }

    /// The address of a service, with the version that clients add where the catalogue has none.
    pub fn url(&self, service: &str) -> String {
        let version = match service {
            "image" => "/v2",
            "network" => "/v2.0",
            _ => "",
        };
        self.catalog[service].clone() + version
    }
}

/// One user of the real cloud.
pub struct Project {
    pub login: Login,
    client: reqwest::Client,
}

impl Project {
    /// Logs in as one cloud of its clouds.yaml.
    pub async fn log_in(cloud: &str) -> Self {
        Self::of(&OpenStack::shared().text(), cloud).await
    }

    /// Logs in as one cloud of any clouds.yaml, a simulator's too.
    pub async fn of(clouds_yaml: &str, cloud: &str) -> Self {
        install_crypto_provider();
        let (url, auth) = credentials(clouds_yaml, cloud);
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let answer = client.post(format!("{url}/auth/tokens")).json(&auth).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let token = answer.headers()["x-subject-token"].to_str().unwrap().to_owned();
        Self { login: Login::read(&token, &answer.json().await.unwrap()), client }
    }

    /// Status and body of one call.
    pub async fn call(&self, method: Method, service: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = self.login.url(service) + path;
        let request = self.client.request(method, url).header("x-auth-token", &self.login.token);
        let request = request.header("openstack-api-version", "compute 2.96");
        let request = if let Some(body) = &body { request.json(body) } else { request };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// The body of a GET that must succeed.
    pub async fn get(&self, service: &str, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, service, path, None).await;
        assert_eq!(status, 200, "GET {service} {path}: {body}");
        body
    }

    /// The servers that a Provider made, by what they themselves say.
    pub async fn servers_of(&self, provider: &str) -> Vec<Value> {
        let mut servers = self.get("compute", "/servers/detail").await["servers"].take();
        let servers = servers.as_array_mut().unwrap();
        servers.retain(|server| server["metadata"]["nodepool_provider"] == provider);
        std::mem::take(servers)
    }

    /// The ports that are of one of these servers.
    pub async fn ports_of(&self, servers: &[String]) -> Vec<Value> {
        let mut ports = self.get("network", "/ports").await["ports"].take();
        let ports = ports.as_array_mut().unwrap();
        ports.retain(|port| servers.iter().any(|id| port["device_id"] == id.as_str()));
        std::mem::take(ports)
    }

    /// The images that a Provider made, by what they themselves say.
    pub async fn images_of(&self, provider: &str) -> Vec<Value> {
        let mut images = self.get("image", "/images?limit=1000").await["images"].take();
        let images = images.as_array_mut().unwrap();
        images.retain(|image| image["nodepool_provider"] == provider);
        std::mem::take(images)
    }

    /// Makes an image of these bytes; returns its id.
    pub async fn make_image(&self, wanted: Value, bytes: Vec<u8>) -> String {
        let (status, body) = self.call(Method::POST, "image", "/images", Some(wanted)).await;
        assert_eq!(status, 201, "{body}");
        let id = body["id"].as_str().unwrap().to_owned();
        let request = self.client.put(format!("{}/images/{id}/file", self.login.url("image")));
        let request = request.header("x-auth-token", &self.login.token);
        let answer = request.header("content-type", "application/octet-stream").body(bytes).send().await.unwrap();
        assert_eq!(answer.status(), 204, "PUT image {id}");
        id
    }

    /// Status and body of a question for an image's bytes.
    pub async fn bytes(&self, image: &str) -> (u16, Vec<u8>) {
        let request = self.client.get(format!("{}/images/{image}/file", self.login.url("image")));
        let answer = request.header("x-auth-token", &self.login.token).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    /// Says whether an image may be deleted.
    pub async fn protect(&self, image: &str, protected: bool) {
        let steps = json!([{"op": "replace", "path": "/protected", "value": protected}]);
        let request = self.client.patch(format!("{}/images/{image}", self.login.url("image")));
        let request = request.header("content-type", "application/openstack-images-v2.1-json-patch");
        let request = request.header("x-auth-token", &self.login.token);
        let answer = request.body(steps.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "PATCH image {image}");
    }

    /// The names of the key pairs that an installation made.
    pub async fn key_pairs_of(&self, owner: &str) -> Vec<String> {
        let pairs = self.get("compute", "/os-keypairs").await["keypairs"].take();
        let names = pairs.as_array().unwrap().iter().map(|pair| pair["keypair"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.contains(owner)).collect()
    }

    /// What a server's console says.
    pub async fn console(&self, id: &str) -> String {
        let body = json!({"os-getConsoleOutput": {}});
        let (status, body) = self.call(Method::POST, "compute", &format!("/servers/{id}/action"), Some(body)).await;
        assert_eq!(status, 200, "{body}");
        body["output"].as_str().unwrap().to_owned()
    }

    /// Changes a project's limits; for an administrator.
    pub async fn limit(&self, project: &Self, quota: Value) {
        let path = format!("/os-quota-sets/{}", project.login.project());
        let (status, body) = self.call(Method::PUT, "compute", &path, Some(json!({"quota_set": quota}))).await;
        assert_eq!(status, 200, "{body}");
    }
}
