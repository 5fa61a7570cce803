//! A simulated OpenStack: the real `openstack-simulator` binary, and a client of its admin API.
//!
//! What it can do is told by its own `--help` and `docs/simulator.md`; nothing is decided here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::control_plane::install_crypto_provider;
use super::{Namespace, Program, Proxy};

/// The cloud in its clouds.yaml that logs in by password.
const CLOUD: &str = "simulator";

/// A running simulator; gone when dropped.
pub struct Simulator {
    program: Program,
    keystone: String,
    base: String,
    clouds_yaml: PathBuf,
    inside: PathBuf,
    client: reqwest::Client,
}

/// How to start a simulator.
#[derive(Default)]
pub struct SimulatorOptions {
    args: Vec<String>,
}

impl SimulatorOptions {
    /// One more argument of the program.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Its catalog names `proxy`, which is connected to it once it runs.
    pub async fn start_behind(self, proxy: &Proxy) -> Simulator {
        let simulator = self.arg(format!("--advertise-url={}", proxy.url())).start().await;
        proxy.connect(&simulator.base);
        simulator
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Simulator {
        // Networks of its own, so that two clouds never have a server on the same address.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed) % 90;
        let clouds_yaml = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clouds-{}.yaml", uuid::Uuid::new_v4()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_openstack-simulator"));
        // What it keeps for its servers goes with it, even when it is killed.
        let inside = clouds_yaml.with_extension("servers");
        command.env("TMPDIR", &inside);
        command.args(["--listen", "127.0.0.1:0"]).arg("--clouds-yaml").arg(&clouds_yaml).args(&self.args);
        for (flag, first) in [("--server-network", 21), ("--floating-network", 121)] {
            if !self.args.iter().any(|arg| arg.starts_with(flag)) {
                command.arg(format!("{flag}=127.{}.0.0/16", first + number));
            }
        }
        // The first line names what clients use, which may be a proxy; the second where it listens itself.
        let (program, [keystone, base]) = Program::start_and_read_lines("openstack-simulator", command);
        install_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Simulator { program, keystone, base, clouds_yaml, inside, client }
    }
}

impl Simulator {
    /// A simulator with these arguments.
    pub async fn start(args: &[&str]) -> Self {
        args.iter().fold(SimulatorOptions::default(), |options, arg| options.arg(*arg)).start().await
    }

    /// Its Keystone URL, the first line it printed.
    pub fn url(&self) -> &str {
        &self.keystone
    }

    /// Scheme, host and port of the simulator itself, whatever its catalog says.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The cloud's name in its clouds.yaml.
    pub fn cloud_name(&self) -> &'static str {
        CLOUD
    }

    /// The clouds.yaml it wrote.
    pub fn clouds_yaml(&self) -> String {
        std::fs::read_to_string(&self.clouds_yaml).unwrap()
    }

    /// The file of its clouds.yaml, for `OS_CLIENT_CONFIG_FILE`.
    pub fn clouds_yaml_path(&self) -> &Path {
        &self.clouds_yaml
    }

    /// Puts its clouds.yaml into a Secret, for a `Provider` to refer to.
    pub async fn secret(&self, namespace: &Namespace, name: &str) {
        namespace.secret(name, &[("clouds.yaml", &self.clouds_yaml())]).await;
    }

    /// Its program: log, signals, end.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What is in the cloud, and the highest number of servers that ever existed at once.
    pub async fn state(&self) -> Value {
        self.get("state").await
    }

    /// The calls it has answered.
    pub async fn calls(&self) -> Value {
        self.get("calls").await
    }

    /// Switches a fault on.
    pub async fn fault(&self, fault: Value) -> Value {
        self.send(reqwest::Method::POST, "faults", Some(fault)).await
    }

    /// Switches all faults off.
    pub async fn clear_faults(&self) {
        self.send(reqwest::Method::DELETE, "faults", None).await;
    }

    /// Changes settings; those not named keep their value.
    pub async fn settings(&self, settings: Value) -> Value {
        self.send(reqwest::Method::POST, "settings", Some(settings)).await
    }

    /// GETs `/simulator/PATH`.
    pub async fn get(&self, path: &str) -> Value {
        self.send(reqwest::Method::GET, path, None).await
    }

    /// Calls `/simulator/PATH`, which must succeed.
    pub async fn send(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/simulator/{path}", self.base);
        let request = self.client.request(method.clone(), &url);
        let request = if let Some(body) = &body { request.json(body) } else { request };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {url} {body:?}: {status}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.program.kill9();
        // Left behind when it cannot be removed: it is below target/ and holds no secret.
        let _ = std::fs::remove_file(&self.clouds_yaml);
        let _ = std::fs::remove_dir_all(&self.inside);
    }
}
