//! The world most tests want: a namespace, simulated clouds with a Provider each, one image on all of them, the
//! operator; and the waits that tests share.
//!
//! Every value is small and quick, so that a test takes seconds: servers boot and go at once unless a test says
//! otherwise. Nothing is decided here about what is right: a wait names what it waits for, the test asserts the rest.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use nodepool_operator::api::{NodeRequest, NodeState, Pool, PoolNode, Provider, RequestState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    ControlPlane, Namespace, Operator, OperatorOptions, Proxy, Simulator, SimulatorOptions, canary, eventually,
};

/// Long enough for a busy machine; a condition that holds is seen within milliseconds.
pub const SOON: Duration = Duration::from_secs(20);

/// The image that each cloud has.
pub const IMAGE: &str = "debian-13";

/// A running world. What is declared first is dropped first: the operator, the clouds, the namespace.
pub struct World {
    pub operator: Operator,
    pub clouds: Vec<Simulator>,
    pub namespace: Namespace,
    /// Between the operator and the API server, when the builder was asked for it.
    pub api: Option<Proxy>,
    names: Vec<String>,
    patience: Duration,
}

/// How to make a world.
#[derive(Default)]
pub struct WorldBuilder {
    clouds: Vec<(String, Value)>,
    simulator_args: Vec<String>,
    operator_args: Vec<String>,
    api_proxied: bool,
    plane: Option<&'static ControlPlane>,
}

impl WorldBuilder {
    /// One more cloud, with a Provider of this name and `maxServers`.
    pub fn cloud(self, name: &str, max_servers: u32) -> Self {
        self.cloud_with(name, max_servers, json!({}))
    }

    /// One more cloud, whose Provider's spec differs from the usual one in this.
    pub fn cloud_with(mut self, name: &str, max_servers: u32, spec: Value) -> Self {
        let mut all =
            json!({"maxServers": max_servers, "requestsPerSecond": 1000, "launchTimeout": "10s", "bootTimeout": "5s"});
        merge(&mut all, spec);
        self.clouds.push((name.to_owned(), all));
        self
    }

    /// One more argument of every simulator, such as `--boot-time=1s`.
    pub fn simulator_arg(mut self, arg: &str) -> Self {
        self.simulator_args.push(arg.to_owned());
        self
    }

    /// One more argument of the operator.
    pub fn operator_arg(mut self, arg: &str) -> Self {
        self.operator_args.push(arg.to_owned());
        self
    }

    /// The operator reaches the API server through [`World::api`].
    pub fn api_proxied(mut self) -> Self {
        self.api_proxied = true;
        self
    }

    /// On another control plane than the shared one.
    pub fn on(mut self, plane: &'static ControlPlane) -> Self {
        self.plane = Some(plane);
        self
    }

    /// Starts everything; returns when the operator works and every Provider is Ready.
    pub async fn start(self) -> World {
        let (clouds, namespace) = self.prepare().await;
        let options = Operator::for_namespace(&namespace);
        self.run(clouds, namespace, options).await
    }

    /// The same with an operator of these options, once the clouds and the namespace are [prepared](Self::prepare).
    pub async fn run(self, clouds: Vec<Simulator>, namespace: Namespace, options: OperatorOptions) -> World {
        let mut options = options;
        let mut api = None;
        if self.api_proxied {
            let proxy = Proxy::before_api_server(namespace.plane()).await;
            options = options.kubeconfig(proxy.kubeconfig());
            api = Some(proxy);
        }
        let operator = self.operator_args.iter().fold(options, |options, arg| options.arg(arg)).start();
        operator.ready(SOON).await;
        let names = self.clouds.into_iter().map(|(name, _)| name).collect();
        let world = World { operator, clouds, namespace, api, names, patience: SOON };
        for name in &world.names {
            world.condition::<Provider>(name, "Ready", "True").await;
        }
        world
    }

    /// The clouds, and the namespace with Secrets, Providers and the DiskImage in it, for a test that starts its own
    /// operators.
    pub async fn prepare(&self) -> (Vec<Simulator>, Namespace) {
        let namespace = Namespace::on(self.plane.unwrap_or_else(ControlPlane::shared)).await;
        let mut clouds: Vec<Simulator> = Vec::new();
        let mut port = 0;
        for (name, spec) in &self.clouds {
            // One DiskImage has one login port, so all clouds share it; their addresses differ.
            let mut options = SimulatorOptions::default().arg(format!("--ssh-port={port}"));
            options = options.arg(format!("--canary={}", canary::planted("reply")));
            if !self.simulator_args.iter().any(|arg| arg.starts_with("--password")) {
                options = options.arg(format!("--password={}", canary::planted("password")));
            }
            for (flag, default) in [("--boot-time", "0s"), ("--delete-time", "0s")] {
                if !self.simulator_args.iter().any(|arg| arg.starts_with(flag)) {
                    options = options.arg(format!("{flag}={default}"));
                }
            }
            let simulator = self.simulator_args.iter().fold(options, |options, arg| options.arg(arg)).start().await;
            port = simulator.state().await["sshPort"].as_u64().unwrap();
            simulator.secret(&namespace, name).await;
            let mut all = json!({"cloud": {"secretRef": {"name": name}, "cloudName": simulator.cloud_name()}});
            merge(&mut all, spec.clone());
            apply(&namespace, "Provider", name, all).await;
            clouds.push(simulator);
        }
        let providers: Vec<&String> = self.clouds.iter().map(|(name, _)| name).collect();
        let image = json!({
            "providers": providers, "source": {"existing": {"name": IMAGE}},
            "login": {"username": "debian", "port": port},
        });
        apply(&namespace, "DiskImage", IMAGE, image).await;
        (clouds, namespace)
    }
}

impl World {
    /// A world to describe.
    pub fn builder() -> WorldBuilder {
        WorldBuilder::default()
    }

    /// A world whose cloud somebody else made: one Provider of this name, and waits that last as long as it needs.
    pub fn of(namespace: Namespace, operator: Operator, provider: &str, patience: Duration) -> Self {
        Self { operator, clouds: Vec::new(), namespace, api: None, names: vec![provider.to_owned()], patience }
    }

    /// How long a wait lasts before it fails.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A world with one cloud, `a`.
    pub async fn one_cloud(max_servers: u32) -> Self {
        Self::builder().cloud("a", max_servers).start().await
    }

    /// Applies one object of ours.
    pub async fn apply(&self, kind: &str, name: &str, spec: Value) {
        apply(&self.namespace, kind, name, spec).await;
    }

    /// A Pool of small servers on every cloud; `spec` is what differs.
    pub async fn pool(&self, name: &str, min_ready: u32, spec: Value) {
        let providers: Vec<Value> = self.names.iter().map(|name| json!({"name": name})).collect();
        let mut all =
            json!({"image": IMAGE, "flavor": {"name": "small"}, "providers": providers, "minReady": min_ready});
        merge(&mut all, spec);
        self.apply("Pool", name, all).await;
    }

    /// A NodeRequest for counts of pools; `spec` is what differs.
    pub async fn request(&self, name: &str, nodes: &[(&str, u32)], spec: Value) {
        let nodes = nodes
            .iter()
            .enumerate()
            .map(|(at, (pool, count))| json!({"name": format!("n{at}"), "pool": pool, "count": count}));
        let mut all = json!({"nodes": nodes.collect::<Vec<_>>()});
        merge(&mut all, spec);
        self.apply("NodeRequest", name, all).await;
    }

    /// Deletes one request, which gives its nodes back.
    pub async fn release(&self, name: &str) {
        self.delete::<NodeRequest>(name).await;
    }

    /// Changes one object by a merge patch.
    pub async fn patch<K: Object>(&self, name: &str, patch: Value) {
        self.namespace.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Deletes one object without waiting for its end.
    pub async fn delete<K: Object>(&self, name: &str) {
        self.namespace.api::<K>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// One object, which must exist.
    pub async fn get<K: Object>(&self, name: &str) -> K {
        self.namespace.api::<K>().get(name).await.unwrap()
    }

    /// Waits until one object has a condition of this status, and returns the condition.
    #[track_caller]
    pub fn condition<K: Object>(&self, name: &str, type_: &str, status: &str) -> impl Future<Output = Value> {
        eventually(self.patience, move || async move {
            let condition = condition(&self.get::<K>(name).await, type_);
            if condition["status"] == status { Ok(condition) } else { Err(format!("{name}: {type_} is {condition}")) }
        })
    }

    /// Waits until one object has a condition of this reason, and returns the condition.
    #[track_caller]
    pub fn reason<K: Object>(&self, name: &str, type_: &str, reason: &str) -> impl Future<Output = Value> {
        eventually(self.patience, move || async move {
            let condition = condition(&self.get::<K>(name).await, type_);
            if condition["reason"] == reason { Ok(condition) } else { Err(format!("{name}: {type_} is {condition}")) }
        })
    }

    /// Waits until one object is gone.
    #[track_caller]
    pub fn gone<K: Object>(&self, name: &str) -> impl Future<Output = ()> {
        eventually(self.patience, move || async move {
            let found = self.namespace.api::<K>().get_opt(name).await.unwrap();
            found.map_or(Ok(()), |found| Err(format!("{name} is still there: {}", json!(found)["status"])))
        })
    }

    /// All nodes, from etcd.
    pub async fn nodes(&self) -> Vec<PoolNode> {
        self.namespace.list::<PoolNode>().await
    }

    /// A pool's ready and unclaimed nodes, none of them on the way out.
    pub async fn ready_nodes(&self, pool: &str) -> Vec<PoolNode> {
        let mut nodes = self.nodes().await;
        nodes.retain(|node| node.spec.pool.as_deref() == Some(pool) && is_idle(node));
        nodes
    }

    /// Waits until a pool has exactly this many ready and unclaimed nodes and no others but claimed ones, and its
    /// status says so.
    #[track_caller]
    pub fn pool_ready<'a>(&'a self, pool: &'a str, count: usize) -> impl Future<Output = Vec<PoolNode>> + 'a {
        eventually(self.patience, move || async move {
            let mut nodes = self.nodes().await;
            nodes.retain(|node| node.spec.pool.as_deref() == Some(pool));
            // The status follows within a second: whether something is on its way only the records tell.
            let settled = nodes.iter().all(|node| {
                let stays = is_idle(node) || matches!(node.state(), NodeState::InUse | NodeState::Held);
                stays && node.metadata.deletion_timestamp.is_none()
            });
            nodes.retain(is_idle);
            let status = self.get::<Pool>(pool).await.status.unwrap_or_default();
            let shown = (usize::try_from(status.ready), status.building + status.deleting) == (Ok(count), 0);
            if nodes.len() == count && settled && shown {
                return Ok(nodes);
            }
            Err(format!("{pool}: {} nodes ready, {count} wanted; status {}", nodes.len(), json!(status)))
        })
    }

    /// Waits until a request is fulfilled.
    #[track_caller]
    pub fn fulfilled<'a>(&'a self, name: &'a str) -> impl Future<Output = NodeRequest> + 'a {
        self.request_state(name, RequestState::Fulfilled)
    }

    /// Waits until a request has failed.
    #[track_caller]
    pub fn failed<'a>(&'a self, name: &'a str) -> impl Future<Output = NodeRequest> + 'a {
        self.request_state(name, RequestState::Failed)
    }

    #[track_caller]
    fn request_state<'a>(&'a self, name: &'a str, state: RequestState) -> impl Future<Output = NodeRequest> + 'a {
        eventually(self.patience, move || async move {
            let request = self.get::<NodeRequest>(name).await;
            let status = request.status.clone().unwrap_or_default();
            if status.state == state { Ok(request) } else { Err(format!("{name}: not {state}: {}", json!(status))) }
        })
    }

    /// Waits until a pending request has this place in the queue.
    #[track_caller]
    pub fn position<'a>(&'a self, name: &'a str, position: i32) -> impl Future<Output = NodeRequest> + 'a {
        eventually(self.patience, move || async move {
            let request = self.get::<NodeRequest>(name).await;
            let status = request.status.clone().unwrap_or_default();
            let there = status.state == RequestState::Pending && status.position == Some(position);
            if there { Ok(request) } else { Err(format!("{name}: not at {position}: {}", json!(status))) }
        })
    }

    /// The servers of one cloud as it knows them.
    pub async fn servers(&self, cloud: usize) -> Vec<Value> {
        self.clouds[cloud].get("servers").await["servers"].as_array().unwrap().clone()
    }

    /// The ids of all servers that any cloud ever had.
    pub async fn servers_ever(&self) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for cloud in &self.clouds {
            let servers = cloud.get("servers?deleted=true").await;
            ids.extend(servers["servers"].as_array().unwrap().iter().map(|server| text(&server["id"])));
        }
        ids
    }

    /// How many servers one cloud had at once at most.
    pub async fn highest(&self, cloud: usize) -> u64 {
        self.clouds[cloud].state().await["servers"]["highest"].as_u64().unwrap()
    }

    /// How many calls of this name one cloud has answered.
    pub async fn calls(&self, cloud: usize, name: &str) -> usize {
        self.clouds[cloud].get(&format!("calls?name={name}")).await["calls"].as_array().unwrap().len()
    }

    /// Waits until these servers are gone from every cloud.
    #[track_caller]
    pub fn destroyed<'a>(&'a self, ids: &'a BTreeSet<String>) -> impl Future<Output = ()> + 'a {
        eventually(self.patience, move || async move {
            let mut left = Vec::new();
            for cloud in 0..self.clouds.len() {
                left.extend(self.servers(cloud).await.into_iter().filter(|server| ids.contains(&text(&server["id"]))));
            }
            if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) }
        })
    }

    /// Waits for an event about one object; they are written beside everything else.
    #[track_caller]
    pub fn event<'a>(&'a self, name: &'a str, reason: &'a str) -> impl Future<Output = ()> + 'a {
        eventually(self.patience, move || async move {
            let events = self.namespace.list::<k8s_openapi::api::core::v1::Event>().await;
            let about = events.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(name));
            let reasons: BTreeSet<String> = about.filter_map(|event| event.reason).collect();
            if reasons.contains(reason) { Ok(()) } else { Err(format!("{name}: no {reason}: {reasons:?}")) }
        })
    }

    /// Waits until no cloud has a server, and no record of one is left.
    #[track_caller]
    pub fn empty(&self) -> impl Future<Output = ()> {
        eventually(self.patience, move || async move {
            let records: Vec<String> = self.nodes().await.iter().map(ResourceExt::name_any).collect();
            let mut servers = Vec::new();
            for cloud in 0..self.clouds.len() {
                servers.extend(self.servers(cloud).await);
            }
            if records.is_empty() && servers.is_empty() {
                return Ok(());
            }
            Err(format!("left: records {records:?}, servers {servers:?}"))
        })
    }

    /// Waits until every server has exactly one record, and every record a server that exists: what is on its way out
    /// lags behind by one list.
    #[track_caller]
    pub fn one_server_per_record(&self) -> impl Future<Output = ()> {
        eventually(self.patience, move || async move {
            let mut servers = Vec::new();
            for cloud in 0..self.clouds.len() {
                servers.extend(self.servers(cloud).await.iter().map(|server| text(&server["id"])));
            }
            let nodes = self.nodes().await;
            let mut recorded: Vec<String> = nodes.iter().filter_map(server_id).collect();
            servers.sort_unstable();
            recorded.sort_unstable();
            if servers == recorded { Ok(()) } else { Err(format!("servers {servers:?}, records of {recorded:?}")) }
        })
    }
}

/// A kind of ours, or of Kubernetes.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Send
    + Serialize
    + DeserializeOwned
    + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Send
        + Serialize
        + DeserializeOwned
        + 'static
{
}

/// Whether a node is ready, unclaimed, not held and not on its way out.
pub fn is_idle(node: &PoolNode) -> bool {
    let free = node.spec.claim_ref.is_none() && node.spec.hold.is_none();
    free && node.state() == NodeState::Ready && node.metadata.deletion_timestamp.is_none()
}

/// The id of a node's server.
pub fn server_id(node: &PoolNode) -> Option<String> {
    node.status.as_ref()?.server_id.clone()
}

/// The ids of the servers of some nodes.
pub fn server_ids(nodes: &[PoolNode]) -> BTreeSet<String> {
    nodes.iter().filter_map(server_id).collect()
}

/// The ids of the servers that a request was given.
pub fn given(request: &NodeRequest) -> BTreeSet<String> {
    let status = request.status.clone().unwrap_or_default();
    status.nodes.into_iter().map(|node| node.server_id).collect()
}

/// One condition of an object, null when it has none of this type.
pub fn condition<K: Serialize>(object: &K, type_: &str) -> Value {
    let object = json!(object);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
}

/// A JSON string.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}

async fn apply(namespace: &Namespace, kind: &str, name: &str, spec: Value) {
    let object = json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    namespace.kubectl().apply_json(&object).await;
}

/// Puts what differs over what is usual, as a merge patch does.
fn merge(usual: &mut Value, different: Value) {
    match different {
        Value::Object(different) if usual.is_object() => {
            for (key, value) in different {
                if value.is_null() {
                    usual.as_object_mut().unwrap().remove(&key);
                } else {
                    merge(&mut usual[key.as_str()], value);
                }
            }
        }
        other => *usual = other,
    }
}
