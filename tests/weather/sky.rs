//! One pool on one cloud whose weather the test makes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams, PostParams};
use nodepool_operator::api::{DiskImage, NodeRequest, NodeState, Pool, PoolNode, Provider};
use serde_json::{Value, json};

use crate::support::{Namespace, Operator, Simulator, SimulatorOptions, eventually};

/// Longer than anything here takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(45);
/// The Provider's name.
pub const PROVIDER: &str = "cloud";
/// The Pool's name.
pub const POOL: &str = "pool";

/// A Provider `cloud` and a Pool `pool` of it, empty at first. What is declared first is dropped first.
pub struct Sky {
    _operator: Operator,
    pub simulator: Simulator,
    pub namespace: Namespace,
}

/// How a sky differs from the usual one.
pub struct Settings {
    simulator: Vec<&'static str>,
    provider: Value,
    operator: Vec<&'static str>,
    full_list: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            simulator: vec!["--boot-time=0s", "--delete-time=0s"],
            provider: json!({"maxServers": 6, "launchTimeout": "20s", "bootTimeout": "20s", "requestsPerSecond": 1000}),
            operator: Vec::new(),
            full_list: "10m",
        }
    }
}

impl Settings {
    /// One more argument of the cloud; the last one of a kind counts.
    pub fn cloud(mut self, arg: &'static str) -> Self {
        let flag = arg.split('=').next().unwrap();
        self.simulator.retain(|other| !other.starts_with(flag));
        self.simulator.push(arg);
        self
    }

    /// Changes the Provider's spec.
    pub fn provider(mut self, spec: Value) -> Self {
        merge(&mut self.provider, spec);
        self
    }

    /// One more argument of the operator.
    pub fn operator(mut self, arg: &'static str) -> Self {
        self.operator.push(arg);
        self
    }

    /// How often the cloud is listed completely.
    pub fn full_list(mut self, every: &'static str) -> Self {
        self.full_list = every;
        self
    }

    /// Starts everything and waits until the cloud is known.
    pub async fn start(self) -> Sky {
        let namespace = Namespace::new().await;
        let options = self.simulator.iter().fold(SimulatorOptions::default(), |options, arg| options.arg(*arg));
        let simulator = options.start().await;
        let operator = Operator::for_namespace(&namespace).arg(format!("--full-list-interval={}", self.full_list));
        let operator = self.operator.into_iter().fold(operator, |operator, arg| operator.arg(arg)).start();
        operator.ready(SOON).await;
        simulator.secret(&namespace, PROVIDER).await;
        let sky = Sky { _operator: operator, simulator, namespace };
        sky.make_provider(PROVIDER, &sky.simulator, self.provider).await;
        sky.make_image("image", &[PROVIDER], &sky.simulator).await;
        sky.make_pool(POOL, PROVIDER, json!({})).await;
        sky.provider_says(PROVIDER, "Ready", "True", SOON).await;
        eventually(SOON, || async {
            let pool: Pool = sky.get(POOL).await;
            let calm = pool.status.is_some_and(|status| says(&status.conditions, "Available", "True"));
            if calm { Ok(()) } else { Err("the empty pool is not Available yet".to_owned()) }
        })
        .await;
        sky
    }
}

impl Sky {
    pub async fn clear() -> Self {
        Settings::default().start().await
    }

    pub async fn make_provider(&self, name: &str, simulator: &Simulator, spec: Value) {
        let cloud = json!({"secretRef": {"name": name}, "cloudName": simulator.cloud_name()});
        let mut object = json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": "Provider", "metadata": {"name": name},
            "spec": {"cloud": cloud}});
        merge(&mut object["spec"], spec);
        self.create::<Provider>(object).await;
    }

    pub async fn make_image(&self, name: &str, providers: &[&str], simulator: &Simulator) {
        let port = simulator.state().await["sshPort"].clone();
        let object = json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": "DiskImage", "metadata": {"name": name},
            "spec": {"providers": providers, "source": {"existing": {"name": "debian-13"}},
                "login": {"username": "debian", "port": port}}});
        self.create::<DiskImage>(object).await;
    }

    pub async fn make_pool(&self, name: &str, provider: &str, spec: Value) {
        let mut object = json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": "Pool", "metadata": {"name": name},
            "spec": {"image": "image", "flavor": {"name": "small"}, "providers": [{"name": provider}], "minReady": 0}});
        merge(&mut object["spec"], spec);
        self.create::<Pool>(object).await;
    }

    pub async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.namespace.api::<K>().create(&PostParams::default(), &object).await.unwrap();
    }

    pub async fn get<K>(&self, name: &str) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        self.namespace.api::<K>().get(name).await.unwrap()
    }

    /// How many ready nodes the pool wants from now on.
    pub async fn want(&self, min_ready: u32) {
        self.want_of(POOL, min_ready).await;
    }

    pub async fn want_of(&self, pool: &str, min_ready: u32) {
        let patch = Patch::Merge(json!({"spec": {"minReady": min_ready}}));
        self.namespace.api::<Pool>().patch(pool, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn nodes(&self) -> Vec<PoolNode> {
        self.namespace.list::<PoolNode>().await
    }

    /// Waits until exactly so many nodes of the pool are ready and there are no others.
    pub async fn ready(&self, count: usize) -> Vec<PoolNode> {
        self.ready_within(POOL, count, SOON).await
    }

    pub async fn ready_within(&self, pool: &str, count: usize, deadline: Duration) -> Vec<PoolNode> {
        eventually(deadline, || async {
            let nodes: Vec<PoolNode> =
                self.nodes().await.into_iter().filter(|node| node.spec.pool.as_deref() == Some(pool)).collect();
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            if ready == count && nodes.len() == count {
                return Ok(nodes);
            }
            let states: Vec<_> = nodes.iter().map(PoolNode::state).collect();
            Err(format!("{ready} of {count} nodes ready: {states:?}"))
        })
        .await
    }

    /// Waits until so many nodes are booted, whoever has them, all these old ones among them.
    pub async fn ready_nodes_of(&self, old: &[String], count: usize) {
        eventually(SOON, || async {
            let nodes = self.nodes().await;
            let kept = old.iter().all(|uid| uids(&nodes).contains(uid));
            assert!(kept, "an old node is gone: {nodes:?}");
            let done = nodes.iter().filter(|node| node.state() != NodeState::Building).count();
            if done == count { Ok(()) } else { Err(format!("{done} of {count} nodes")) }
        })
        .await;
    }

    /// Waits for a condition of a Provider and returns it.
    pub async fn provider_says(&self, name: &str, type_: &str, status: &str, deadline: Duration) -> Condition {
        eventually(deadline, || async {
            let provider: Provider = self.get(name).await;
            let conditions = provider.status.unwrap_or_default().conditions;
            found(&conditions, type_, status)
        })
        .await
    }

    /// Waits for a condition of the Pool and returns it.
    pub async fn pool_says(&self, type_: &str, status: &str, deadline: Duration) -> Condition {
        eventually(deadline, || async {
            let pool: Pool = self.get(POOL).await;
            found(&pool.status.unwrap_or_default().conditions, type_, status)
        })
        .await
    }

    /// Waits until the pool's last failed launch has this reason, and returns it: message and console.
    pub async fn failure(&self, reason: &str) -> (String, Option<String>) {
        eventually(SOON, || async {
            let pool: Pool = self.get(POOL).await;
            let last = pool.status.and_then(|status| status.last_launch_failure);
            match last {
                Some(last) if last.reason == reason => Ok((last.message, last.console)),
                other => Err(format!("the last failure is {other:?}")),
            }
        })
        .await
    }

    /// Waits for an event with this reason whose note contains `text`.
    pub async fn event(&self, reason: &str, text: &str) {
        eventually(SOON, || async {
            let events: Vec<k8s_openapi::api::events::v1::Event> = self.namespace.list().await;
            let notes: Vec<_> = events.into_iter().map(|event| (event.reason, event.note)).collect();
            let told = notes.iter().any(|(r, note)| {
                r.as_deref() == Some(reason) && note.as_deref().is_some_and(|note| note.contains(text))
            });
            if told { Ok(()) } else { Err(format!("no event {reason} with {text:?}: {notes:?}")) }
        })
        .await;
    }

    /// A request for nodes of the pool.
    pub async fn request(&self, name: &str, count: u32) {
        let object = json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": "NodeRequest", "metadata": {"name": name},
            "spec": {"nodes": [{"name": "n", "pool": POOL, "count": count}]}});
        self.create::<NodeRequest>(object).await;
    }

    /// Waits for the request's condition.
    pub async fn request_says(&self, name: &str, status: &str) -> Condition {
        eventually(SOON, || async {
            let request: NodeRequest = self.get(name).await;
            found(&request.status.unwrap_or_default().conditions, "Fulfilled", status)
        })
        .await
    }

    /// The cloud's servers.
    pub async fn servers(&self) -> Vec<Value> {
        self.simulator.get("servers").await["servers"].as_array().unwrap().clone()
    }

    /// The calls of this name so far.
    pub async fn calls(&self, name: &str) -> Vec<Value> {
        self.simulator.get(&format!("calls?name={name}")).await["calls"].as_array().unwrap().clone()
    }

    /// How many calls of this name there were.
    pub async fn count(&self, name: &str) -> usize {
        self.calls(name).await.len()
    }

    /// Waits until there were so many calls of this name.
    pub async fn called(&self, name: &str, times: usize) {
        eventually(SOON, || async {
            let count = self.count(name).await;
            if count >= times { Ok(()) } else { Err(format!("{count} of {times} calls {name}")) }
        })
        .await;
    }

    /// What must hold in any weather: one boot request for each record, never more servers than allowed.
    pub async fn check(&self) {
        let mut requests: BTreeMap<String, u32> = BTreeMap::new();
        for call in self.calls("create-server").await {
            *requests.entry(call["subjectName"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        assert!(requests.values().all(|times| *times == 1), "a record has two boot requests: {requests:?}");
        let provider: Provider = self.get(PROVIDER).await;
        let state = self.simulator.state().await;
        let highest = state["servers"]["highestOwn"].as_i64().unwrap();
        assert!(highest <= i64::from(provider.spec.max_servers), "{state}");
    }

    /// Good weather again: the pool goes, and with it everything of ours in the cloud.
    pub async fn end(self) {
        self.simulator.clear_faults().await;
        self.check().await;
        let gone = self.namespace.kubectl().run(&["delete", "noderequests", "--all", "--wait=false"]).await;
        assert!(gone.success, "{gone:?}");
        self.namespace.kubectl().delete(&format!("pool/{POOL}")).await;
        eventually(SOON, || async {
            let nodes = self.nodes().await.len();
            let own = self.simulator.state().await["servers"]["own"].as_i64().unwrap();
            if nodes == 0 && own == 0 { Ok(()) } else { Err(format!("{nodes} records and {own} servers are left")) }
        })
        .await;
    }
}

pub fn is_ready(node: &PoolNode) -> bool {
    node.metadata.deletion_timestamp.is_none() && node.state() == NodeState::Ready && node.spec.claim_ref.is_none()
}

pub fn uids(nodes: &[PoolNode]) -> Vec<String> {
    let mut uids: Vec<String> = nodes.iter().filter_map(|node| node.metadata.uid.clone()).collect();
    uids.sort_unstable();
    uids
}

pub fn time(call: &Value) -> Timestamp {
    call["time"].as_str().unwrap().parse().unwrap()
}

/// Seconds between two calls.
pub fn seconds(from: &Value, to: &Value) -> f64 {
    time(to).duration_since(time(from)).as_secs_f64()
}

fn says(conditions: &[Condition], type_: &str, status: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == status)
}

fn found(conditions: &[Condition], type_: &str, status: &str) -> Result<Condition, String> {
    let condition = conditions.iter().find(|condition| condition.type_ == type_);
    condition.filter(|condition| condition.status == status).cloned().ok_or_else(|| format!("{type_}: {condition:?}"))
}

/// A merge patch.
pub fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            for (key, value) in patch {
                merge(&mut target[key.as_str()], value);
            }
        }
        other => *target = other,
    }
}
