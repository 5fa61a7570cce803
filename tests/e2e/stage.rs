//! Where the story is told: a Node, a cloud with two projects, a release, and what can be asked of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nodepool_operator::api::{NodeRequest, Pool, PoolNode};
use serde_json::{Value, json};

use crate::support::helm::{chart, program, told};
use crate::support::openstack::{OpenStack, Project};
use crate::support::world::{given, is_idle, server_id, server_ids};
use crate::support::{ControlPlane, Namespace, eventually};

/// The release, and its namespace.
pub const RELEASE: &str = "nodepool-operator";
pub const HOME: &str = "nodepool-system";
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(3);
/// The Providers of the samples, the clouds that their Secrets name, and those of the clouds.yaml that stand for them.
const PROVIDERS: [(&str, &str, &str); 2] = [("cloud-a", "openstack-a", "lab"), ("cloud-b", "openstack-b", "lab2")];

/// The text of one of the samples.
pub fn sample(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/samples").join(name)).unwrap()
}

/// Everything that the story has.
pub struct Stage {
    began: Instant,
    plane: &'static ControlPlane,
    /// The Node's state directory.
    pub node: PathBuf,
    /// Where the samples are.
    pub namespace: Namespace,
    projects: Vec<(&'static str, Project)>,
}

impl Stage {
    /// The Node and the cloud that are there, and a namespace for the samples.
    pub async fn set() -> Self {
        let node = std::env::var_os("NODE_FOR_TESTS").unwrap_or_else(|| panic!("run this by `make test-e2e`"));
        let plane: &ControlPlane = Box::leak(Box::new(ControlPlane::given()));
        let text = OpenStack::shared().text();
        let mut projects = Vec::new();
        for (provider, _, cloud) in PROVIDERS {
            projects.push((provider, Project::of(&text, cloud).await));
        }
        let namespace = Namespace::on(plane).await;
        Self { began: Instant::now(), plane, node: node.into(), namespace, projects }
    }

    /// A namespace beside that of the samples.
    pub async fn another_namespace(&self) -> Namespace {
        Namespace::on(self.plane).await
    }

    /// Says what has come to pass, and when.
    pub fn told(&self, what: &str) {
        println!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// `kubectl` in the operator's namespace.
    pub fn home(&self) -> crate::support::Kubectl {
        self.plane.kubectl(HOME)
    }

    /// `helm` with these arguments, and the chart where one is needed.
    pub fn helm(&self, args: &[&str], chart: Option<&Path>) -> String {
        let mut helm = program("helm");
        helm.args(args).args(chart).args(["--namespace", HOME, "--kubeconfig"]).arg(self.plane.kubeconfig());
        told(&helm.output().unwrap()).unwrap_or_else(|error| panic!("helm {args:?}: {error}"))
    }

    /// `helm install` as the README has it; returns when all Pods are Ready.
    pub fn install(&self) {
        self.helm(&["install", RELEASE, "--wait", "--timeout=3m"], Some(&chart()));
    }

    /// Gives the Node the image that `make image` built; returns its size in bytes.
    pub fn load_image(&self) -> u64 {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let archive = root.join(format!("target/image/nodepool-operator-{}.tar", env!("CARGO_PKG_VERSION")));
        let mut load = Command::new(root.join("tests/kubernetes/node/load"));
        assert!(load.arg(&self.node).arg(&archive).status().unwrap().success());
        archive.metadata().unwrap().len()
    }

    /// Applies the samples as they are, but for what only this cloud knows: credentials, the network, the SSH port.
    pub async fn apply_samples(&self) {
        let cloud = OpenStack::shared();
        for (_, secret, name) in PROVIDERS {
            let text = json!({"clouds": {"openstack": cloud.cloud(name)}}).to_string();
            self.namespace.secret(secret, &[("clouds.yaml", &text)]).await;
        }
        for name in ["00-providers.yaml", "10-image.yaml", "20-pools.yaml"] {
            for mut object in serde_yaml::from_multiple::<Value>(&sample(name)).unwrap() {
                match object["kind"].as_str().unwrap() {
                    "Provider" => object["spec"]["networks"] = json!(["private"]),
                    "DiskImage" => object["spec"]["login"]["port"] = json!(cloud.ssh_port()),
                    _ => {}
                }
                self.namespace.kubectl().apply_json(&object).await;
            }
        }
    }

    /// Applies the sample of a request.
    pub async fn apply_request(&self) {
        self.namespace.kubectl().apply(&sample("request/request.yaml")).await;
    }

    /// Waits until both pools of the samples have exactly the ready nodes that they should, and returns these.
    pub async fn pools_ready(&self) -> Vec<PoolNode> {
        eventually(PATIENCE, || async {
            let nodes = self.namespace.list::<PoolNode>().await;
            let mut ready = Vec::new();
            for pool in self.namespace.list::<Pool>().await {
                let name = pool.metadata.name.unwrap();
                let of: Vec<&PoolNode> =
                    nodes.iter().filter(|node| node.spec.pool.as_ref() == Some(&name) && is_idle(node)).collect();
                if of.len() != usize::try_from(pool.spec.min_ready).unwrap() {
                    return Err(format!("{name}: {} nodes ready", of.len()));
                }
                ready.extend(of.into_iter().cloned());
            }
            if ready.is_empty() { Err("no pools".to_owned()) } else { Ok(ready) }
        })
        .await
    }

    /// Waits until the sample's request is fulfilled, and returns the ids of its servers.
    pub async fn fulfilled(&self) -> BTreeSet<String> {
        let fulfilled = self
            .namespace
            .wait_for::<NodeRequest>("build-1", PATIENCE, |found| {
                found.is_some_and(|request| !given(request).is_empty())
            })
            .await;
        given(&fulfilled.unwrap())
    }

    /// Servers that the cloud has and servers that records have.
    async fn both(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut servers = BTreeSet::new();
        for (provider, project) in &self.projects {
            let of = project.servers_of(&format!("{}/{provider}", self.namespace.name())).await;
            servers.extend(of.iter().map(|server| server["id"].as_str().unwrap().to_owned()));
        }
        (servers, server_ids(&self.namespace.list::<PoolNode>().await))
    }

    /// Waits until the cloud has exactly the servers that records have, and returns them: nothing doubled, nothing leaked.
    pub async fn one_server_per_record(&self) -> BTreeSet<String> {
        eventually(PATIENCE, || async {
            let (servers, records) = self.both().await;
            if servers == records { Ok(servers) } else { Err(format!("servers {servers:?}, records {records:?}")) }
        })
        .await
    }

    /// The servers that the cloud has now.
    pub async fn servers(&self) -> BTreeSet<String> {
        self.both().await.0
    }

    /// Asks each node for its host keys, as a job that is about to log in would.
    pub fn reachable(&self, nodes: &[PoolNode]) {
        for node in nodes {
            let status = node.status.as_ref().unwrap();
            let (address, port) = (status.address.clone().unwrap(), status.port.unwrap());
            let said = Command::new("ssh-keyscan").args(["-p", &port.to_string(), &address]).output().unwrap();
            let keys = String::from_utf8(said.stdout).unwrap();
            let known = status.host_keys.iter().any(|key| keys.contains(key.as_str()));
            assert!(known, "{:?} at {address}: {keys}, not {:?}", server_id(node), status.host_keys);
        }
    }

    /// Takes down what the samples made, while an operator runs.
    pub async fn clear(&self) {
        let kubectl = self.namespace.kubectl();
        for kinds in ["noderequests,pools", "diskimages,providers"] {
            let said = kubectl.run(&["delete", kinds, "--all", "--timeout=3m"]).await;
            assert!(said.success, "{}", said.stderr);
        }
        assert_eq!(self.servers().await, BTreeSet::new(), "nothing is left in the cloud");
    }
}
