//! One namespace, one cloud whose servers boot and go at once, one pool, the operator as it is deployed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use nodepool_operator::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::board::Board;
use crate::support::{Namespace, Operator, Simulator, eventually};

const POOL: &str = "small";
const PROVIDER: &str = "cloud";
/// Long enough for what is measured to be far too slow, and still be measured.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What is declared first is dropped first: the operator, the cloud, the namespace.
pub struct World {
    pub operator: Operator,
    pub cloud: Simulator,
    pub board: Board,
    pub namespace: Namespace,
    requests: Api<NodeRequest>,
}

/// One request that was made.
pub struct Made {
    pub name: String,
    /// When it was due and sent.
    pub sent: Timestamp,
    /// When its creation was answered.
    pub returned: Timestamp,
}

impl World {
    /// Everything but nodes: the pool is there, with `minReady: 0`.
    pub async fn start(max_servers: u32) -> Self {
        let namespace = Namespace::new().await;
        let cloud = Simulator::start(&["--boot-time=0s", "--delete-time=0s", "--max-servers=-1"]).await;
        let secret = json!({"metadata": {"name": PROVIDER}, "stringData": {"clouds.yaml": cloud.clouds_yaml()}});
        create::<Secret>(&namespace, secret).await;
        let provider = json!({
            "metadata": {"name": PROVIDER},
            "spec": {
                "cloud": {"secretRef": {"name": PROVIDER}, "cloudName": cloud.cloud_name()},
                "maxServers": max_servers, "requestsPerSecond": 1000,
            },
        });
        create::<Provider>(&namespace, provider).await;
        let port = cloud.state().await["sshPort"].clone();
        let image = json!({
            "metadata": {"name": "debian-13"},
            "spec": {
                "providers": [PROVIDER], "source": {"existing": {"name": "debian-13"}},
                "login": {"username": "debian", "port": port},
            },
        });
        create::<DiskImage>(&namespace, image).await;
        let pool = json!({
            "metadata": {"name": POOL},
            "spec": {"image": "debian-13", "flavor": {"name": "small"}, "providers": [{"name": PROVIDER}], "minReady": 0},
        });
        create::<Pool>(&namespace, pool).await;
        let board = Board::watching(&namespace.client(), namespace.name()).await;
        let operator = start_operator(&namespace);
        let requests = namespace.api();
        let world = Self { operator, cloud, board, namespace, requests };
        world.operator.ready(PATIENCE).await;
        let pools: Api<Pool> = world.namespace.api();
        eventually(PATIENCE, || async {
            let pool = pools.get(POOL).await.map_err(|error| error.to_string())?;
            let conditions = pool.status.map(|status| status.conditions).unwrap_or_default();
            let available =
                conditions.iter().any(|condition| condition.type_ == "Available" && condition.status == "True");
            available.then_some(()).ok_or_else(|| "the pool is not available".to_owned())
        })
        .await;
        world
    }

    /// Changes the pool's spec.
    pub async fn pool(&self, change: Value) {
        let pools: Api<Pool> = self.namespace.api();
        pools.patch(POOL, &PatchParams::default(), &Patch::Merge(json!({"spec": change}))).await.unwrap();
    }

    /// Scales the pool and waits until it has that many ready nodes and no others; how long that took.
    pub async fn scale(&self, nodes: u32) -> Duration {
        let started = Instant::now();
        self.pool(json!({"minReady": nodes})).await;
        self.settled(nodes, nodes).await;
        started.elapsed()
    }

    /// Makes requests for one node each, evenly, whether the ones before are served or not.
    pub async fn request(&self, prefix: &str, rate: f64, count: u32) -> Vec<Made> {
        let started = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..count {
            tokio::time::sleep_until(started + Duration::from_secs_f64(f64::from(number) / rate)).await;
            let (requests, name) = (self.requests.clone(), format!("{prefix}-{number:05}"));
            calls.spawn(async move {
                let request = json!({
                    "metadata": {"name": name},
                    "spec": {"nodes": [{"name": "node", "pool": POOL, "count": 1}]},
                });
                let request: NodeRequest = serde_json::from_value(request).unwrap();
                let sent = Timestamp::now();
                requests.create(&PostParams::default(), &request).await.unwrap();
                Made { name, sent, returned: Timestamp::now() }
            });
        }
        let mut made = calls.join_all().await;
        made.sort_by_key(|made| made.returned);
        made
    }

    /// Waits until each of these is fulfilled; when each was seen to be.
    pub async fn fulfilled(&self, made: &[Made]) -> Vec<Timestamp> {
        eventually(PATIENCE, || async {
            let seen = self.board.seen();
            let times: Vec<Timestamp> =
                made.iter().filter_map(|made| seen.fulfilled_at.get(&made.name).copied()).collect();
            if times.len() == made.len() { Ok(times) } else { Err(format!("{} of {}", times.len(), made.len())) }
        })
        .await
    }

    /// Deletes all requests and waits until only that many ready nodes are left.
    pub async fn release(&self, ready: u32) {
        self.requests.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        self.settled(ready, ready).await;
    }

    /// Waits until exactly that many nodes are ready and unclaimed, and exactly that many exist.
    pub async fn settled(&self, ready: u32, existing: u32) {
        tokio::select! {
            () = self.board.settled(ready, existing, PATIENCE) => {}
            status = self.operator.wait_exit(PATIENCE * 2) => panic!("the operator ended: {status}"),
        }
    }

    /// The number of the cloud's last call.
    pub async fn last_call(&self) -> u64 {
        self.cloud.state().await["lastCall"].as_u64().unwrap()
    }

    /// Ends the operator as the kubelet does, and waits until it is gone.
    pub async fn stop_operator(&self) {
        self.operator.sigterm();
        self.operator.wait_exit(Duration::from_secs(10)).await;
    }

    /// Another operator, from now on.
    pub fn start_operator(&mut self) {
        self.operator = start_operator(&self.namespace);
    }

    /// Removes everything quickly, so that the next world does not share the machine with the garbage of this one.
    pub async fn clear(self) {
        self.requests.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        self.pool(json!({"minReady": 0})).await;
        let nodes: Api<PoolNode> = self.namespace.api();
        eventually(PATIENCE, || async {
            let left = nodes.list_metadata(&ListParams::default().limit(1)).await.map_err(|error| error.to_string())?;
            if left.items.is_empty() { Ok(()) } else { Err(format!("{:?} nodes are left", self.board.counts())) }
        })
        .await;
    }
}

/// As it is deployed: it takes the lease, and logs what it logs by default.
fn start_operator(namespace: &Namespace) -> Operator {
    Operator::for_namespace(namespace).leader_election().log_filter("info").start()
}

async fn create<K>(namespace: &Namespace, object: Value)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
    K::DynamicType: Default,
{
    let object: K = serde_json::from_value(object).unwrap();
    namespace.api::<K>().create(&PostParams::default(), &object).await.unwrap();
}
