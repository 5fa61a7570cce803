//! The story that every test of this file plays, what its world must look like at the end of each scene, and the
//! checks of the cloud that hold at any moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use nodepool_operator::api::provider::LaunchFence;
use nodepool_operator::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider, ProviderImage};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Killer, Namespace, Operator, OperatorOptions, Proxy, Simulator, SimulatorOptions};

/// No slot to spare: a server too many is seen at once.
pub const MAX_SERVERS: usize = 7;
pub const MIN_READY: usize = 5;
const ASKED: usize = 2;
/// Every decision, not every list of the cloud.
const LOG_FILTER: &str = "warn,nodepool_operator=debug,nodepool_operator::cloud=info";
const REQUEST: &str = "work";
/// Between two looks at the world; many stories run at once, and the operators need the processor.
const PAUSE: Duration = Duration::from_millis(150);

/// Where one story plays: its own namespace, its own cloud, and a proxy before each of both sides.
pub struct Stage {
    pub api: Proxy,
    pub cloud: Proxy,
    pub simulator: Simulator,
    pub namespace: Arc<Namespace>,
    fence: LaunchFence,
}

/// Plays each of these both ways, one after the other: each of them fills the machine.
macro_rules! with_and_without_a_fence {
    ($($story:ident),+ $(,)?) => {$(
        mod $story {
            use nodepool_operator::api::provider::LaunchFence;

            static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_a_fence() {
                let _turn = TURN.lock().await;
                super::$story(LaunchFence::Port).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn without_a_fence() {
                let _turn = TURN.lock().await;
                super::$story(LaunchFence::None).await;
            }
        }
    )+};
}

/// One act: what is done, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    Filled,
    Served,
    Released,
}

impl Scene {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Filled, Self::Served, Self::Released];
}

impl Stage {
    /// `launch_timeout` is how long the server of a lost boot request is searched for.
    pub async fn set(launch_timeout: &str, fence: LaunchFence) -> Self {
        Self::set_in(Arc::new(Namespace::new().await), launch_timeout, fence).await
    }

    /// On a namespace that an earlier story has left, since each one costs the API server much: [`Self::clear`]ed.
    pub async fn set_in(namespace: Arc<Namespace>, launch_timeout: &str, fence: LaunchFence) -> Self {
        let api = Proxy::before_api_server(namespace.plane()).await;
        let cloud = Proxy::before_cloud().await;
        let options = SimulatorOptions::default().arg("--boot-time=0s").arg("--delete-time=0s");
        let simulator = options.start_behind(&cloud).await;
        let stage = Self { api, cloud, simulator, namespace, fence };
        stage.furnish(launch_timeout).await;
        stage
    }

    async fn furnish(&self, launch_timeout: &str) {
        let port = self.simulator.state().await["sshPort"].clone();
        let secret =
            json!({"metadata": {"name": "cloud"}, "stringData": {"clouds.yaml": self.simulator.clouds_yaml()}});
        self.create::<Secret>(secret).await;
        let spec = json!({
            "cloud": {"secretRef": {"name": "cloud"}, "cloudName": self.simulator.cloud_name()},
            "maxServers": MAX_SERVERS, "requestsPerSecond": 1000, "launchTimeout": launch_timeout, "bootTimeout": "20s",
            "networks": ["private"], "launchFence": self.fence,
        });
        self.create::<Provider>(json!({"metadata": {"name": "cloud"}, "spec": spec})).await;
        let spec = json!({
            "providers": ["cloud"], "source": {"existing": {"name": "debian-13"}},
            "login": {"username": "debian", "port": port},
        });
        self.create::<DiskImage>(json!({"metadata": {"name": "debian"}, "spec": spec})).await;
        let spec = json!({
            "image": "debian", "flavor": {"minRam": "2Gi"}, "providers": [{"name": "cloud"}], "minReady": MIN_READY,
        });
        self.create::<Pool>(json!({"metadata": {"name": "small"}, "spec": spec})).await;
    }

    async fn create<K>(&self, mut object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        let object: K = serde_json::from_value(object).unwrap();
        self.namespace.api::<K>().create(&PostParams::default(), &object).await.unwrap();
    }

    /// An operator whose calls all go through the proxies.
    pub fn operator(&self) -> OperatorOptions {
        let options = Operator::for_namespace(&self.namespace).kubeconfig(self.api.kubeconfig());
        options.arg("--full-list-interval=2s").log_filter(LOG_FILTER)
    }

    /// Takes away everything that the story made. Its operators must be gone; the cloud goes with its simulator.
    pub async fn clear(self) {
        self.remove::<NodeRequest>().await;
        self.remove::<Pool>().await;
        self.remove::<PoolNode>().await;
        self.remove::<ProviderImage>().await;
        self.remove::<DiskImage>().await;
        self.remove::<Provider>().await;
        self.namespace.api::<Secret>().delete("cloud", &DeleteParams::default()).await.unwrap();
    }

    async fn remove<K>(&self)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = self.namespace.api::<K>();
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        for object in self.namespace.list::<K>().await {
            api.delete(&object.name_any(), &DeleteParams::default()).await.unwrap();
            if !object.finalizers().is_empty() {
                api.patch(&object.name_any(), &PatchParams::default(), &free).await.unwrap();
            }
        }
    }

    /// Begins a scene; calls are counted anew.
    pub async fn begin(&self, scene: Scene) {
        self.api.reset();
        self.cloud.reset();
        match scene {
            Scene::Filled => {}
            Scene::Served => {
                let nodes = json!([{"name": "node", "pool": "small", "count": ASKED}]);
                self.create::<NodeRequest>(json!({"metadata": {"name": REQUEST}, "spec": {"nodes": nodes}})).await;
            }
            Scene::Released => {
                let api = self.namespace.api::<NodeRequest>();
                api.delete(REQUEST, &DeleteParams::default()).await.unwrap();
            }
        }
    }

    /// Everything that a person or a client can see, without names, ids and times.
    pub async fn picture(&self) -> Value {
        let nodes = self.nodes().await;
        let states = counts(nodes.iter().map(|node| match node.metadata.deletion_timestamp {
            Some(_) => "condemned",
            None => node.state().as_str(),
        }));
        let pool = self.namespace.api::<Pool>().get("small").await.unwrap().status.unwrap_or_default();
        let provider = self.namespace.api::<Provider>().get("cloud").await.unwrap().status.unwrap_or_default();
        let request = self.namespace.api::<NodeRequest>().get_opt(REQUEST).await.unwrap();
        let versions = self.namespace.list::<ProviderImage>().await;
        let cloud = self.simulator.state().await;
        json!({
            "nodes": states,
            "pool": [pool.ready, pool.building, pool.in_use, pool.held, pool.deleting, pool.updated, pool.total],
            "pool conditions": truths(&pool.conditions),
            "provider": provider.servers,
            "provider conditions": truths(&provider.conditions),
            "request": request.and_then(|request| request.status).map(|status| {
                json!([status.state, status.nodes.len(), status.nodes.iter().all(|node| !node.host_keys.is_empty())])
            }),
            "versions": counts(versions.iter().map(|version| version.state().as_str())),
            "servers": cloud["servers"]["byStatus"],
            "ports": cloud["ports"],
            "floating IPs": cloud["floatingIps"],
        })
    }

    pub async fn nodes(&self) -> Vec<PoolNode> {
        let newest = ListParams::default();
        self.namespace.api::<PoolNode>().list(&newest).await.unwrap().items
    }

    /// What must hold at any moment of any story.
    pub async fn never(&self) -> Result<(), String> {
        let highest = self.simulator.state().await["servers"]["highest"].as_u64().unwrap();
        if highest > MAX_SERVERS as u64 {
            return Err(format!("maxServers was passed: {highest} servers at once"));
        }
        let mut made = HashMap::<String, Vec<String>>::new();
        for server in self.servers("servers?deleted=true").await {
            made.entry(server.record).or_default().push(server.name);
        }
        match made.into_iter().find(|(_, servers)| servers.len() > 1) {
            Some((record, servers)) => Err(format!("the record {record} was booted twice: {servers:?}")),
            None => Ok(()),
        }
    }

    /// At the end of a scene every server has its record and every record its server.
    async fn nothing_left(&self) -> Result<(), String> {
        let records: BTreeSet<String> = self.nodes().await.iter().filter_map(ResourceExt::uid).collect();
        let servers: BTreeSet<String> = self.servers("servers").await.into_iter().map(|server| server.record).collect();
        if records == servers { Ok(()) } else { Err(format!("records {records:?} but servers of {servers:?}")) }
    }

    pub async fn servers(&self, path: &str) -> Vec<Booted> {
        let answer = self.simulator.get(path).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        answer["servers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|server| Booted {
                id: text(&server["id"]),
                name: text(&server["name"]),
                record: text(&server["metadata"]["nodepool_record"]),
            })
            .collect()
    }
}

/// A server of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Booted {
    pub id: String,
    pub name: String,
    pub record: String,
}

/// What the end of a scene looks like when nothing went wrong.
pub fn expected(scene: Scene) -> Value {
    let in_use = if matches!(scene, Scene::Served) { ASKED } else { 0 };
    let all = MIN_READY + in_use;
    let states = match in_use {
        0 => json!({"Ready": MIN_READY}),
        _ => json!({"Ready": MIN_READY, "InUse": in_use}),
    };
    json!({
        "nodes": states,
        "pool": [MIN_READY, 0, in_use, 0, 0, all, all],
        "pool conditions": {"Available": "True", "LaunchHealthy": "True", "Progressing": "False"},
        "provider": {
            "max": MAX_SERVERS, "used": all, "building": 0, "ready": MIN_READY, "inUse": in_use, "held": 0, "deleting": 0,
        },
        "provider conditions": {"QuotaAvailable": "True", "Ready": "True", "Throttled": "False"},
        "request": if in_use == 0 { Value::Null } else { json!(["Fulfilled", ASKED, true]) },
        "versions": {"Ready": 1},
        "servers": {"ACTIVE": all},
        "ports": all,
        "floating IPs": 0,
    })
}

fn counts<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    words.fold(BTreeMap::new(), |mut counts, word| {
        *counts.entry(word).or_default() += 1;
        counts
    })
}

fn truths(conditions: &[Condition]) -> BTreeMap<&str, &str> {
    conditions.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect()
}

/// The operators of a story. One that was killed is started again, as the kubelet does; one that ends by itself fails it.
pub struct Cast<'a> {
    pub stage: &'a Stage,
    pub operators: Vec<Operator>,
    /// How often one was started again.
    pub restarts: u32,
    /// Kills the one that was started last.
    pub latest: Arc<Mutex<Killer>>,
}

impl<'a> Cast<'a> {
    pub fn new(stage: &'a Stage, operators: Vec<Operator>) -> Self {
        let killer = operators.first().map(Operator::killer).unwrap_or_default();
        Self { stage, operators, restarts: 0, latest: Arc::new(Mutex::new(killer)) }
    }

    /// Starts one more, which `latest` kills.
    pub fn start(&mut self) {
        let killer = self.latest.lock().unwrap().clone();
        self.operators.push(self.stage.operator().killer(killer).start());
    }

    /// Kills the one that was started last, or that will be started next.
    pub fn next_killer(&self) -> Killer {
        self.latest.lock().unwrap().clone()
    }

    fn revive(&mut self) -> Result<(), String> {
        for operator in &mut self.operators {
            match operator.program().exit_status() {
                None => {}
                Some(status) if status.signal() == Some(9) => {
                    let killer = Killer::default();
                    *self.latest.lock().unwrap() = killer.clone();
                    *operator = self.stage.operator().killer(killer).start();
                    self.restarts += 1;
                }
                Some(status) => return Err(format!("an operator ended by itself: {status}")),
            }
        }
        Ok(())
    }

    /// Waits until the world looks as it must at the end of a scene; what must never be is checked on the way.
    pub async fn reach(&mut self, scene: Scene, deadline: Duration) -> Result<(), String> {
        let end = Instant::now() + deadline;
        let wanted = expected(scene);
        let nodes = wanted["provider"]["used"].as_u64().unwrap();
        loop {
            self.revive()?;
            let late = Instant::now() >= end;
            // The rest is asked for only when it can be right: many stories share one API server.
            if late || self.stage.nodes().await.len() as u64 == nodes {
                let picture = self.stage.picture().await;
                if picture == wanted {
                    break;
                }
                if late {
                    return Err(format!("{scene:?} not reached in {deadline:?}:{}", differences(&wanted, &picture)));
                }
            }
            sleep(PAUSE).await;
        }
        self.stage.never().await?;
        self.stage.nothing_left().await
    }

    /// Plays the whole story.
    pub async fn play(&mut self, deadline: Duration) -> Result<(), String> {
        for scene in Scene::ALL {
            self.stage.begin(scene).await;
            self.reach(scene, deadline).await?;
        }
        Ok(())
    }

    /// The last lines of each operator's log.
    pub fn logs(&self, lines: usize) -> String {
        let tail = |operator: &Operator| {
            let log = operator.log();
            let all: Vec<&str> = log.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        self.operators.iter().map(tail).collect::<Vec<_>>().join("\n---\n")
    }
}

fn differences(wanted: &Value, found: &Value) -> String {
    let wanted = wanted.as_object().unwrap();
    let differs = wanted.iter().filter(|(key, value)| found[key.as_str()] != **value);
    differs.map(|(key, value)| format!("\n  {key}: wanted {value}, found {}", found[key.as_str()])).collect()
}
