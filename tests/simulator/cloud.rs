//! One simulated cloud in a process of its own, and a client for it that knows nothing of its insides.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

/// Long enough for a loaded machine; nothing waits this long that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The newest microversion that is asked for here.
pub const MICROVERSION: &str = "compute 2.96";

/// A running simulator, killed when dropped.
pub struct Cloud {
    process: Child,
    /// The first line of its output.
    pub keystone: String,
    /// Where it listens.
    pub url: String,
    pub client: reqwest::Client,
    pub token: Mutex<String>,
    pub folder: std::path::PathBuf,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn client() -> reqwest::ClientBuilder {
    // Only the first of the tests of this process can install it, which is as good for the others.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE)
}

impl Cloud {
    /// Starts a cloud in which nothing takes any time, unless the arguments say otherwise, and logs in.
    pub async fn start(arguments: &[&str]) -> Self {
        let cloud = Self::launch(arguments, client().build().unwrap());
        let answer = cloud.log_in(&password("simulator")).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        *cloud.token.lock().unwrap() = answer.header("x-subject-token").to_owned();
        cloud
    }

    pub fn launch(arguments: &[&str], client: reqwest::Client) -> Self {
        let folder = std::env::temp_dir().join(format!("simulator-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_openstack-simulator"))
            .env("OPENSTACK_SIMULATOR_BOOT_TIME", "0s")
            .env("OPENSTACK_SIMULATOR_DELETE_TIME", "0s")
            // What it keeps for its servers goes with the rest, even when it is killed.
            .env("TMPDIR", &folder)
            .arg("--clouds-yaml")
            .arg(folder.join("clouds.yaml"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let keystone = lines.next().unwrap().unwrap();
        let url = lines.next().unwrap().unwrap();
        Self { process, keystone, url, client, token: Mutex::default(), folder }
    }

    /// Sends it a signal, and waits until it is gone.
    pub fn end(&mut self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        self.process.wait().unwrap();
    }

    pub async fn log_in(&self, auth: &Value) -> Answer {
        self.send(Method::POST, "/identity/v3/auth/tokens", Some(auth), &[]).await.unwrap()
    }

    /// Sends a request with the token; an error is a connection that gave no answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, reqwest::Error> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let token = self.token.lock().unwrap().clone();
        let mut request = self.client.request(method, url).header("x-auth-token", token);
        if !headers.iter().any(|(name, _)| *name == "openstack-api-version") {
            request = request.header("openstack-api-version", MICROVERSION);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: String::from_utf8_lossy(&response.bytes().await?).into_owned() })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(&body), &[]).await.unwrap()
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(&body), &[]).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await.unwrap()
    }

    pub async fn state(&self) -> Value {
        self.get("/simulator/state").await.json()
    }

    pub async fn set(&self, settings: Value) {
        let answer = self.post("/simulator/settings", settings).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    /// Switches a fault on; its number.
    pub async fn fault(&self, fault: Value) -> u64 {
        let answer = self.post("/simulator/faults", fault).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["id"].as_u64().unwrap()
    }

    pub async fn no_faults(&self) {
        assert_eq!(self.delete("/simulator/faults").await.status, 204);
    }

    /// What a boot of this name asks for.
    pub async fn boot_body(&self, name: &str) -> Value {
        let flavors = self.get("/compute/v2.1/flavors").await.json();
        let flavor = flavors["flavors"].as_array().unwrap().iter().find(|flavor| flavor["name"] == "small").unwrap();
        let images = self.get("/image/v2/images?name=debian-13").await.json();
        json!({"server": {
            "name": name, "flavorRef": flavor["id"], "imageRef": images["images"][0]["id"], "networks": "auto",
        }})
    }

    pub async fn boot(&self, name: &str) -> Answer {
        let body = self.boot_body(name).await;
        self.post("/compute/v2.1/servers", body).await
    }

    /// Boots a server; its id.
    pub async fn server(&self, name: &str) -> String {
        let answer = self.boot(name).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.json()["server"]["id"].as_str().unwrap().to_owned()
    }

    pub async fn show(&self, id: &str) -> Answer {
        self.get(&format!("/compute/v2.1/servers/{id}")).await
    }

    /// The server, once its status is this.
    pub async fn wait_for(&self, id: &str, status: &str) -> Value {
        let path = format!("/compute/v2.1/servers/{id}");
        self.poll(&path, |answer| answer.status == 200 && answer.json()["server"]["status"] == status).await.json()
            ["server"]
            .clone()
    }

    pub async fn wait_gone(&self, id: &str) {
        self.poll(&format!("/compute/v2.1/servers/{id}"), |answer| answer.status == 404).await;
    }

    /// Asks until the answer is as wanted.
    pub async fn poll(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let start = Instant::now();
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{path} stays {} {}", answer.status, answer.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Names of the servers that a list shows.
    pub async fn names(&self, query: &str) -> Vec<String> {
        let answer = self.get(&format!("/compute/v2.1/servers/detail{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        let names = page["servers"].as_array().unwrap().iter();
        names.map(|server| server["name"].as_str().unwrap_or("(unknown)").to_owned()).collect()
    }

    /// How often a call was made.
    pub async fn count(&self, name: &str) -> u64 {
        self.get("/simulator/calls").await.json()["counts"][name]["calls"].as_u64().unwrap_or(0)
    }

    /// Where a server answers SSH.
    pub async fn ssh_address(&self, id: &str) -> SocketAddr {
        let server = self.show(id).await.json();
        let port = self.state().await["sshPort"].as_u64().unwrap();
        let address = server["server"]["addresses"]["private"][0]["addr"].as_str().unwrap().to_owned();
        format!("{address}:{port}").parse().unwrap()
    }
}

/// A log-in by password, for the project.
pub fn password(password: &str) -> Value {
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "simulator", "domain": {"name": "Default"}, "password": password,
        }}},
        "scope": {"project": {"name": "simulator", "domain": {"id": "default"}}},
    }})
}

/// A log-in by application credential.
pub fn application_credential(id: &str, secret: &str) -> Value {
    json!({"auth": {"identity": {
        "methods": ["application_credential"], "application_credential": {"id": id, "secret": secret},
    }}})
}

/// Takes any host key, and remembers it.
struct Key(Arc<Mutex<Option<String>>>);

impl russh::client::Handler for Key {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &russh::keys::PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        if let russh::keys::PublicKeyOrCertificate::PublicKey { key, .. } = key {
            *self.0.lock().unwrap() = key.to_openssh().ok();
        }
        Ok(true)
    }
}

/// The host key that a server shows in an SSH handshake.
pub async fn handshake(address: SocketAddr) -> Result<String, russh::Error> {
    let key = Arc::new(Mutex::new(None));
    let config = Arc::new(russh::client::Config::default());
    russh::client::connect(config, address, Key(key.clone())).await?;
    let key = key.lock().unwrap().take();
    Ok(key.expect("a handshake shows a key"))
}

/// Waits until nothing listens at an address: a closed port refuses.
pub async fn wait_refused(address: SocketAddr) {
    let start = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "{address} still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
