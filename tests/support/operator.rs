//! The real operator binary, run as it is in a cluster, watching one test's namespace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::control_plane::install_crypto_provider;
use super::{Killer, Namespace, Program, canary, eventually};

/// Enough to see why a test failed: our own steps, and warnings of the libraries.
const LOG_FILTER: &str = "warn,nodepool_operator=debug";

/// Which networks are open: tests of the others name another list.
pub const ALLOWED: &str = "NODEPOOL_ALLOW_NETWORK";

/// A running operator; killed when dropped.
pub struct Operator {
    program: Program,
    client: reqwest::Client,
}

/// How to start an operator.
pub struct OperatorOptions {
    namespace: String,
    watched: Option<String>,
    kubeconfig: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    killer: Killer,
    leader_election: bool,
    log_filter: String,
}

impl OperatorOptions {
    /// Reaches Kubernetes by this kubeconfig; a [`Proxy`](super::Proxy) writes one.
    pub fn kubeconfig(mut self, path: impl AsRef<Path>) -> Self {
        self.kubeconfig = path.as_ref().to_owned();
        self
    }

    /// One more argument after `run`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What it logs.
    pub fn log_filter(mut self, filter: impl Into<String>) -> Self {
        self.log_filter = filter.into();
        self
    }

    /// A killer that others hold already.
    pub fn killer(mut self, killer: Killer) -> Self {
        self.killer = killer;
        self
    }

    /// Takes the Lease first, as in production. Off in most tests: after `kill -9` the next one waits for its expiry,
    /// and safety must not rest on it.
    pub fn leader_election(mut self) -> Self {
        self.leader_election = true;
        self
    }

    /// Lives in this namespace and serves all, as an installation does that names none.
    pub fn everywhere(mut self, home: &str) -> Self {
        self.namespace = home.to_owned();
        self.watched = None;
        self
    }

    /// Starts it; [`Operator::ready`] waits until it works.
    pub fn start(self) -> Operator {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodepool-operator"));
        command.env_clear().env("KUBECONFIG", &self.kubeconfig).env("RUST_BACKTRACE", "1").arg("run");
        command.args(["--namespace", &self.namespace]);
        if let Some(watched) = &self.watched {
            command.args(["--watch-namespace", watched]);
        }
        command.args(["--metrics-address", "127.0.0.1:0", "--log-filter", &self.log_filter]);
        command.arg(format!("--leader-elect={}", self.leader_election));
        // Clouds and servers of images are on this machine.
        if !self.env.iter().any(|(name, _)| name == ALLOWED) {
            command.env(ALLOWED, "127.0.0.0/8,::1/128");
        }
        // Simulated clouds keep no request on its way: launchTimeout alone is how long a boot is searched for.
        if !self.args.iter().any(|arg| arg.starts_with("--settle-time")) {
            command.args(["--settle-time", "1s"]);
        }
        command.args(&self.args).envs(self.env);
        let program = Program::start("nodepool-operator", command, self.killer);
        install_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        Operator { program, client }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        canary::look_for("the log", &self.log());
        // Before it is killed; one that has ended already shows nothing.
        canary::look_for("/metrics", &self.last_metrics().unwrap_or_default());
    }
}

impl Operator {
    /// Its metrics page, asked for by hand: what drops an operator cannot wait as other code does.
    fn last_metrics(&self) -> Option<String> {
        let log = self.log();
        let address = log.lines().find_map(|line| line.strip_prefix("http://"))?;
        let address = address.parse().ok()?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = Vec::new();
        // What came before a deadline is looked at all the same.
        let _ = stream.read_to_end(&mut page);
        Some(String::from_utf8_lossy(&page).into_owned())
    }

    /// An operator for one namespace; change what differs, then [`start`](OperatorOptions::start) it.
    pub fn for_namespace(namespace: &Namespace) -> OperatorOptions {
        OperatorOptions {
            namespace: namespace.name().to_owned(),
            watched: Some(namespace.name().to_owned()),
            kubeconfig: namespace.plane().kubeconfig().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            killer: Killer::default(),
            leader_election: false,
            log_filter: LOG_FILTER.to_owned(),
        }
    }

    /// An operator for one namespace as tests usually want it, ready.
    pub async fn start(namespace: &Namespace) -> Self {
        let operator = Self::for_namespace(namespace).start();
        operator.ready(Duration::from_secs(10)).await;
        operator
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self, deadline: Duration) {
        eventually(deadline, || async {
            if let Some(status) = self.program.exit_status() {
                return Err(format!("the operator ended: {status}"));
            }
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("/readyz: {other:?}")),
            }
        })
        .await;
    }

    /// Where it serves its own pages, such as `http://127.0.0.1:40123`; none before it listens.
    pub fn url(&self) -> Option<String> {
        // It prints its address once it listens, so that no two programs ever want the same port.
        self.log().lines().find(|line| line.starts_with("http://")).map(str::to_owned)
    }

    /// GETs one of its own pages: status and body, or why there was no answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let base = self.url().ok_or("it does not listen yet")?;
        let response = self.client.get(format!("{base}{path}")).send().await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(|error| error.to_string())?))
    }

    /// Its metrics page.
    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.unwrap().1
    }

    /// The sum of all samples of one metric whose line contains each of `labels`, such as `pool="small"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.metrics().await;
        let samples = page.lines().filter(|line| {
            let named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '));
            named && labels.iter().all(|label| line.contains(label))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Its program: log, signals, process id.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// A handle that kills it, for use in a hook.
    pub fn killer(&self) -> Killer {
        self.program.killer()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Kills it outright and waits until it is gone.
    pub fn kill9(&self) {
        self.program.kill9();
    }

    /// Asks it to end, as the kubelet does.
    pub fn sigterm(&self) {
        self.program.sigterm();
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        self.program.wait_exit(deadline).await
    }
}
