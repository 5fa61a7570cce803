//! The cloud of one test, and the programs that are pointed at it.
//!
//! Never decides what an answer should be.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::support::Simulator;

/// Longer than any program here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An SSH key that was made for these tests, and its MD5 as `ssh-keygen -E md5 -l` tells it.
pub const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIELYZfL8cvbmiQL5VZLDP11LLlviXHTh6KnoU+NmNAbM ci@example";
pub const FINGERPRINT: &str = "56:bb:5f:35:54:ea:35:7b:b1:74:82:d6:52:42:56:3d";

/// The servers of a cloud that has others, all the time.
pub const OTHERS: [&str; 5] = ["other-1", "other-2", "other-3", "other-4", "other-5"];

/// A simulated cloud of the test's own, and a folder.
pub struct Cloud {
    simulator: Simulator,
    folder: PathBuf,
}

impl Cloud {
    /// Boots and deletions take a moment, so that who waits must wait; a page has two servers.
    pub async fn start() -> Self {
        let simulator = Simulator::start(&["--boot-time=500ms", "--delete-time=500ms"]).await;
        simulator.settings(json!({"pageLimit": 2})).await;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { simulator, folder }
    }

    /// With the client's own, they fill three pages.
    pub async fn with_other_servers() -> Self {
        let cloud = Self::start().await;
        cloud
            .simulator
            .send(reqwest::Method::POST, "servers", Some(json!({"name": "other", "count": OTHERS.len()})))
            .await;
        cloud
    }

    /// Two ports beside the one that the client makes, and no room for a fourth.
    pub async fn with_other_ports() -> Self {
        let cloud = Self::start().await;
        for name in ["other-1", "other-2"] {
            cloud.simulator.send(reqwest::Method::POST, "ports", Some(json!({"name": name}))).await;
        }
        cloud.simulator.settings(json!({"maxPorts": 3})).await;
        cloud
    }

    /// A program that sees this cloud and nothing of the configuration of whoever runs the test.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &self.folder);
        command.env("OS_CLIENT_CONFIG_FILE", self.simulator.clouds_yaml_path());
        command.env("LANG", "C.UTF-8").env("PYTHONUNBUFFERED", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub fn name(&self) -> &'static str {
        self.simulator.cloud_name()
    }

    /// A file that can be uploaded: larger than one piece of any client's, and of no format that Glance knows.
    pub fn image_file(&self) -> (PathBuf, Vec<u8>) {
        let data: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
        (self.file("golden.raw", &data), data)
    }

    /// A file in the folder of this test.
    pub fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, data).unwrap();
        path
    }

    /// Servers of this name, as the cloud itself knows them.
    pub async fn servers(&self, name: &str) -> Vec<Value> {
        self.simulator.get(&format!("servers?name={name}")).await["servers"].as_array().unwrap().clone()
    }

    /// The client asked for nothing that this cloud has never heard of, and broke nothing.
    pub async fn end(self) {
        let calls = self.simulator.calls().await;
        for call in calls["calls"].as_array().unwrap() {
            assert!(call["name"] != "unknown" && call["status"].as_u64().unwrap() < 500, "{call}");
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Left behind when it cannot be removed: it is below target/.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a script has made ready, which its output names. Its progress is shown.
fn ready(script: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = std::process::Command::new(path).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/{script} failed: its words are above");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

/// A program of the virtual environment that has OpenStack's clients at pinned versions.
pub fn in_venv(program: &str) -> PathBuf {
    static VENV: OnceLock<PathBuf> = OnceLock::new();
    VENV.get_or_init(|| ready("openstack/venv")).join("bin").join(program)
}

/// The Go program.
pub fn gophercloud() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| ready("clients/gophercloud/build")).clone()
}
