//! The two clouds that every case is run against, and a client that says nothing but HTTP.
//!
//! What a case makes over it is deleted when the case ends, however it ends. Never decides what an answer should be.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, OnceCell, OwnedMutexGuard};

use super::reply::Reply;
use super::support::openstack::{Login, OpenStack, credentials};
use super::support::{Simulator, eventually};

/// The microversion of every call to Nova that names no other.
pub const MICROVERSION: &str = "compute 2.96";

/// Longer than any boot takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An id that nothing has.
pub const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// Which cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Simulator,
    OpenStack,
}

/// A service, as the catalogue names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Identity,
    Compute,
    Image,
    Network,
}
pub use Service::{Compute, Identity, Image, Network};

/// Makes two tests of each case: `subject::simulator::case` and `subject::openstack::case`. `alone` cases have a
/// project to themselves.
macro_rules! conformance {
    ($start:ident: $($case:ident),+ $(,)?) => {
        mod simulator {
            use crate::side::{Kind, Side};
            $(#[tokio::test]
            async fn $case() {
                Side::$start(Kind::Simulator).await.run(super::$case).await;
            })+
        }
        mod openstack {
            use crate::side::{Kind, Side};
            $(#[tokio::test]
            async fn $case() {
                Side::$start(Kind::OpenStack).await.run(super::$case).await;
            })+
        }
    };
}

/// One of the clouds, for one case.
pub struct Side {
    pub kind: Kind,
    /// The clouds.yaml that names it, and its name there.
    pub clouds_yaml: String,
    pub cloud: &'static str,
    pub login: Login,
    pub http: reqwest::Client,
    /// The root of the simulator's admin API.
    admin: String,
    made: Mutex<Vec<(Service, String)>>,
    /// A simulator of the case's own.
    _own: Option<Simulator>,
    turn: Option<OwnedMutexGuard<()>>,
    /// Quotas to put back.
    pub quotas: Mutex<Option<Value>>,
}

static SHARED: OnceCell<Simulator> = OnceCell::const_new();

fn http() -> reqwest::Client {
    // Only the first test of this process can install it, which is as good for the others.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn start_simulator() -> Simulator {
    Simulator::start(&["--boot-time=1s", "--delete-time=1s", "--max-servers=2000"]).await
}

impl Side {
    /// The cloud that most cases share.
    pub async fn shared(kind: Kind) -> Self {
        match kind {
            Kind::Simulator => {
                let simulator = SHARED.get_or_init(start_simulator).await;
                Self::open(kind, simulator.clouds_yaml(), "simulator", simulator.base()).await
            }
            Kind::OpenStack => {
                let yaml = OpenStack::shared().text();
                Self::open(kind, yaml, "lab", "").await
            }
        }
    }

    /// A project that no other case uses meanwhile, for cases that change what a whole project may do.
    pub async fn alone(kind: Kind) -> Self {
        static TURN: OnceLock<Arc<Turn<()>>> = OnceLock::new();
        match kind {
            Kind::Simulator => {
                let own = start_simulator().await;
                let side = Self::open(kind, own.clouds_yaml(), "simulator", own.base()).await;
                Self { _own: Some(own), ..side }
            }
            Kind::OpenStack => {
                let turn = TURN.get_or_init(Arc::default).clone().lock_owned().await;
                let yaml = OpenStack::shared().text();
                let side = Self::open(kind, yaml, "lab2", "").await;
                Self { turn: Some(turn), ..side }
            }
        }
    }

    async fn open(kind: Kind, clouds_yaml: String, cloud: &'static str, admin: &str) -> Self {
        let http = http();
        let (url, auth) = credentials(&clouds_yaml, cloud);
        let reply = answer(http.post(format!("{url}/auth/tokens")).json(&auth), "log in".into()).await.expect(201);
        Self {
            kind,
            clouds_yaml,
            cloud,
            login: reply.login(),
            http,
            admin: admin.to_owned(),
            made: Mutex::default(),
            _own: None,
            turn: None,
            quotas: Mutex::default(),
        }
    }

    /// Runs a case, and deletes what it made.
    pub async fn run(self, case: impl AsyncFn(&Self)) {
        let outcome = AssertUnwindSafe(case(&self)).catch_unwind().await;
        let tidied = AssertUnwindSafe(self.tidy()).catch_unwind().await;
        for outcome in [outcome, tidied] {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        }
    }

    async fn tidy(&self) {
        self.restore_quotas().await;
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let is_server = |made: &&(Service, String)| made.0 == Compute && made.1.starts_with("/servers/");
        for (service, path) in made.iter().rev().filter(is_server) {
            self.delete(*service, path).await;
        }
        // The next case must find the project's usage as this one did, and a bound port cannot be deleted.
        if self.turn.is_some() || made.iter().any(|(_, path)| path.starts_with("/ports/")) {
            for (_, path) in made.iter().filter(is_server) {
                self.gone(path.trim_start_matches("/servers/")).await;
            }
        }
        for (service, path) in made.iter().rev().filter(|made| !is_server(made)) {
            self.delete(*service, path).await;
        }
    }

    /// Deletes this when the case ends.
    pub fn later(&self, service: Service, path: impl Into<String>) {
        self.made.lock().unwrap().push((service, path.into()));
    }

    /// A name that nothing has.
    pub fn name(&self, word: &str) -> String {
        format!("case-{word}-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
    }

    /// The address of a service, with the version that clients add where the catalogue has none.
    pub fn url(&self, service: Service) -> String {
        self.login.url(match service {
            Identity => "identity",
            Compute => "compute",
            Image => "image",
            Network => "network",
        })
    }

    pub fn ask(&self, method: Method, service: Service, path: &str) -> Ask<'_> {
        let url = if path.starts_with("http") { path.to_owned() } else { self.url(service) + path };
        let version = (service == Compute).then(|| MICROVERSION.to_owned());
        let token = Some(self.login.token.clone());
        Ask { side: self, method, url, version, token, headers: Vec::new(), body: None }
    }

    pub async fn get(&self, service: Service, path: &str) -> Reply {
        self.ask(Method::GET, service, path).send().await
    }

    pub async fn post(&self, service: Service, path: &str, body: Value) -> Reply {
        self.ask(Method::POST, service, path).json(&body).send().await
    }

    pub async fn put(&self, service: Service, path: &str, body: Value) -> Reply {
        self.ask(Method::PUT, service, path).json(&body).send().await
    }

    pub async fn delete(&self, service: Service, path: &str) -> Reply {
        self.ask(Method::DELETE, service, path).send().await
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, service: Service, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        eventually(PATIENCE, || async {
            let reply = self.get(service, path).await;
            if wanted(&reply) {
                return Ok(reply);
            }
            // A question costs a real cloud a tenth of a second of the machine that it builds servers on.
            if self.kind == Kind::OpenStack {
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            Err(reply.to_string())
        })
        .await
    }

    /// Calls the simulator's admin API, which must succeed.
    pub async fn simulator(&self, path: &str, body: &Value) -> Reply {
        let request = self.http.post(format!("{}/simulator/{path}", self.admin)).json(body);
        let reply = answer(request, format!("POST /simulator/{path}")).await;
        assert!(reply.status < 300, "{reply}");
        reply
    }

    /// A log-in with what a cloud of the clouds.yaml says.
    pub fn credentials(&self, cloud: &str) -> Value {
        credentials(&self.clouds_yaml, cloud).1
    }

    /// The name of the cloud that logs in by application credential.
    pub fn by_application_credential(&self) -> &'static str {
        match self.kind {
            Kind::Simulator => "simulator-application-credential",
            Kind::OpenStack => "lab-appcred",
        }
    }

    pub async fn log_in(&self, auth: &Value) -> Reply {
        self.ask(Method::POST, Identity, "/auth/tokens").no_token().json(auth).send().await
    }

    /// A token that only this case has.
    pub async fn own_login(&self) -> Login {
        self.log_in(&self.credentials(self.cloud)).await.expect(201).login()
    }

    /// An administrator's token; the simulator has none.
    async fn administrator(&self) -> Login {
        self.log_in(&self.credentials("lab-admin")).await.expect(201).login()
    }

    /// Sets quotas of the project by Nova's and Neutron's names: instances, cores, ram, key_pairs, port, floatingip.
    pub async fn quota(&self, wanted: Value) {
        if self.kind == Kind::Simulator {
            let words = [
                ("instances", "maxServers"),
                ("cores", "maxCores"),
                ("ram", "maxRam"),
                ("key_pairs", "maxKeyPairs"),
                ("port", "maxPorts"),
                ("floatingip", "maxFloatingIps"),
            ];
            let set =
                words.iter().filter_map(|(name, setting)| Some(((*setting).to_owned(), wanted.get(name)?.clone())));
            self.simulator("settings", &Value::Object(set.collect())).await;
            return;
        }
        assert!(self.turn.is_some(), "other cases use this project");
        let path = format!("/os-quota-sets/{}", self.login.project());
        let held = self.get(Compute, &path).await.expect(200).json()["quota_set"].clone();
        self.quotas.lock().unwrap().get_or_insert(held);
        self.put_quota(&wanted).await;
    }

    async fn put_quota(&self, wanted: &Value) {
        let (admin, project) = (self.administrator().await, self.login.project());
        let part = |names: &[&str]| -> Value {
            let given = names.iter().filter_map(|name| Some(((*name).to_owned(), wanted.get(name)?.clone())));
            Value::Object(given.chain([("force".to_owned(), true.into())]).collect())
        };
        let of_nova = part(&["instances", "cores", "ram", "key_pairs"]);
        let of_neutron = part(&["port", "floatingip"]);
        for (service, path, body, given) in [
            (
                Compute,
                format!("/os-quota-sets/{project}"),
                json!({"quota_set": of_nova}),
                of_nova.as_object().unwrap().len(),
            ),
            (
                Network,
                format!("/quotas/{project}"),
                json!({"quota": of_neutron}),
                of_neutron.as_object().unwrap().len(),
            ),
        ] {
            if given > 1 {
                self.ask(Method::PUT, service, &path).token(&admin.token).json(&body).send().await.expect(200);
            }
        }
    }

    async fn restore_quotas(&self) {
        let held = self.quotas.lock().unwrap().take();
        if let Some(held) = held {
            self.put_quota(&held).await;
            let (admin, path) = (self.administrator().await, format!("/quotas/{}", self.login.project()));
            self.ask(Method::DELETE, Network, &path).token(&admin.token).send().await;
        }
    }

    /// Lets a host delay or fail what it does for servers of this name: `boot`, `delete`, `snapshot`.
    pub async fn trouble(&self, verb: &str, name: &str, seconds: f64, fail: Option<&str>) {
        if self.kind == Kind::OpenStack {
            let rule = match fail {
                None => json!({"verb": verb, "name": name, "delay": seconds}),
                Some(fail) => json!({"verb": verb, "name": name, "delay": seconds, "fail": fail}),
            };
            return OpenStack::hosts(|rules| rules.push(rule));
        }
        let after = format!("{}ms", (seconds * 1000.0).round());
        let fault = match (verb, fail) {
            ("boot", None) => json!({"type": "boot-time", "after": after}),
            // Nova tries other hosts, and does not show its owner what the last of them said.
            ("boot", Some(_)) => json!({"type": "build-error", "after": after, "message": "Exceeded maximum number of \
                retries. Exhausted all hosts available for retrying build failures for instance {id}."}),
            ("delete", None) => json!({"type": "delete-time", "after": after}),
            ("delete", Some(fail)) => json!({"type": "delete-error", "after": after, "message": fail}),
            _ => json!({"type": "snapshot-fails", "after": after}),
        };
        self.simulator("faults", &json!({"name": name, "fault": fault})).await;
    }

    /// Ends it.
    pub async fn no_trouble(&self, name: &str) {
        if self.kind == Kind::OpenStack {
            return OpenStack::hosts(|rules| rules.retain(|rule| rule["name"] != name));
        }
        let faults = answer(self.http.get(format!("{}/simulator/faults", self.admin)), "faults".into()).await.json();
        for fault in faults["faults"].as_array().unwrap().iter().filter(|fault| fault["name"] == name) {
            let url = format!("{}/simulator/faults/{}", self.admin, fault["id"]);
            answer(self.http.delete(url), "end a fault".into()).await;
        }
    }
}

/// One request, not yet sent.
pub struct Ask<'a> {
    side: &'a Side,
    method: Method,
    url: String,
    version: Option<String>,
    token: Option<String>,
    headers: Vec<(&'static str, String)>,
    body: Option<reqwest::Body>,
}

impl Ask<'_> {
    /// Another microversion, such as `compute 2.44`.
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    pub fn no_version(mut self) -> Self {
        self.version = None;
        self
    }

    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub fn no_token(mut self) -> Self {
        self.token = None;
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn body(mut self, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", content_type)
    }

    pub async fn send(self) -> Reply {
        let asked = format!("{} {}", self.method, self.url);
        let mut request = self.side.http.request(self.method, self.url);
        let version = self.version.map(|version| ("openstack-api-version", version));
        let token = self.token.map(|token| ("x-auth-token", token));
        for (name, value) in self.headers.into_iter().chain(version).chain(token) {
            request = request.header(name, value);
        }
        if let Some(body) = self.body {
            request = request.body(body);
        }
        answer(request, asked).await
    }
}

async fn answer(request: reqwest::RequestBuilder, asked: String) -> Reply {
    let response = request.send().await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
    Reply { status, headers, text: String::from_utf8_lossy(&bytes).into_owned(), asked }
}
