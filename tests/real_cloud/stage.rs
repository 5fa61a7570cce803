//! One operator on the real cloud: a namespace with a Provider, an image and small servers.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt};
use nodepool_operator::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider, ProviderImage};
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::support::openstack::{OpenStack, Project};
use super::support::world::{IMAGE, server_id, text};
use super::support::{Namespace, Operator, World, eventually};

/// Longer than the slowest boot on a machine whose two cores build and test meanwhile.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// The one Provider's name, unless a test needs its own.
pub const PROVIDER: &str = "lab";

/// An outage is everybody's: whoever makes one is alone.
static SKY: RwLock<()> = RwLock::const_new(());

enum Weather {
    Shared(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
    Own(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
}

pub struct Stage {
    pub world: World,
    /// The Provider's own project.
    pub project: Project,
    provider: &'static str,
    _weather: Weather,
}

impl Stage {
    /// An operator on one cloud of the clouds.yaml, beside others.
    pub async fn on(cloud: &str, provider: Value) -> Self {
        let weather = Weather::Shared(SKY.read().await);
        Self::with(cloud, OpenStack::shared().cloud(cloud), (PROVIDER, provider), weather).await
    }

    /// An operator whose Provider has this name.
    pub async fn named(name: &'static str) -> Self {
        let weather = Weather::Shared(SKY.read().await);
        Self::with("lab", OpenStack::shared().cloud("lab"), (name, json!({})), weather).await
    }

    /// An operator that may end services.
    pub async fn alone(provider: Value) -> Self {
        let weather = Weather::Own(SKY.write().await);
        Self::with("lab", OpenStack::shared().cloud("lab"), (PROVIDER, provider), weather).await
    }

    /// An operator whose Secret says this of the cloud.
    pub async fn of(cloud: &str, said: Value, provider: Value) -> Self {
        let weather = Weather::Shared(SKY.read().await);
        Self::with(cloud, said, (PROVIDER, provider), weather).await
    }

    async fn with(cloud: &str, said: Value, (name, provider): (&'static str, Value), weather: Weather) -> Self {
        let project = Project::log_in(if cloud == "lab2" { "lab2" } else { "lab" }).await;
        let namespace = Namespace::new().await;
        secret(&namespace, &said).await;
        let operator = start(&namespace);
        operator.ready(PATIENCE).await;
        let world = World::of(namespace, operator, name, PATIENCE);
        let mut spec = json!({
            "cloud": {"secretRef": {"name": PROVIDER}, "cloudName": "cloud"}, "networks": ["private"],
            "maxServers": 20, "requestsPerSecond": 50, "launchTimeout": "2m", "bootTimeout": "1m",
        });
        spec.as_object_mut().unwrap().extend(provider.as_object().unwrap().clone());
        world.apply("Provider", name, spec).await;
        let image = json!({"providers": [name], "source": {"existing": {"name": IMAGE}}, "login": login()});
        world.apply("DiskImage", IMAGE, image).await;
        world.condition::<Provider>(name, "Ready", "True").await;
        Self { world, project, provider: name, _weather: weather }
    }

    /// A Pool of the smallest servers.
    pub async fn pool(&self, name: &str, min_ready: u32) {
        self.world.pool(name, min_ready, json!({"flavor": {"name": "nano"}})).await;
    }

    /// Writes the Secret anew.
    pub async fn rewrite_secret(&self, said: &Value) {
        secret(&self.world.namespace, said).await;
    }

    /// Kills the operator outright and starts another.
    pub async fn restart(&mut self) {
        self.world.operator.kill9();
        self.world.operator = start(&self.world.namespace);
        self.world.operator.ready(PATIENCE).await;
    }

    /// What the things that the Provider made say of it.
    pub fn mark(&self) -> String {
        format!("{}/{}", self.world.namespace.name(), self.provider)
    }

    /// The images that carry our mark, by the cloud's word.
    pub async fn images(&self) -> Vec<Value> {
        self.project.images_of(&self.mark()).await
    }

    /// The key pairs that carry our mark, by the cloud's word.
    pub async fn key_pairs(&self) -> Vec<String> {
        let namespaces: Api<v1::Namespace> = Api::all(self.world.namespace.client());
        let namespace = namespaces.get(self.world.namespace.name()).await.unwrap();
        self.project.key_pairs_of(&namespace.uid().unwrap()).await
    }

    /// The ids of the servers that carry our mark, by the cloud's word.
    pub async fn servers(&self) -> BTreeSet<String> {
        self.project.servers_of(&self.mark()).await.iter().map(|server| text(&server["id"])).collect()
    }

    /// Waits until the cloud has exactly the servers of the records.
    pub async fn agrees(&self) -> BTreeSet<String> {
        eventually(PATIENCE, || async {
            let recorded: BTreeSet<String> = self.world.nodes().await.iter().filter_map(server_id).collect();
            let servers = self.servers().await;
            if servers == recorded { Ok(servers) } else { Err(format!("servers {servers:?}, records of {recorded:?}")) }
        })
        .await
    }

    /// Takes everything away, and proves that the cloud holds nothing of it.
    pub async fn ends_empty(self) {
        let servers: Vec<String> = self.servers().await.into_iter().collect();
        for request in self.world.namespace.list::<NodeRequest>().await {
            self.world.release(request.metadata.name.as_deref().unwrap()).await;
        }
        for pool in self.world.namespace.list::<Pool>().await {
            self.world.delete::<Pool>(pool.metadata.name.as_deref().unwrap()).await;
        }
        for image in self.world.namespace.list::<DiskImage>().await {
            self.world.delete::<DiskImage>(image.metadata.name.as_deref().unwrap()).await;
        }
        eventually(PATIENCE, || async {
            let records = self.world.namespace.list::<PoolNode>().await.len();
            let versions = self.world.namespace.list::<ProviderImage>().await.len();
            let left = (self.servers().await, self.project.ports_of(&servers).await, self.floating_ips().await);
            let of_images = (self.images().await, self.key_pairs().await);
            let empty = records + versions == 0 && left.0.is_empty() && left.1.is_empty() && left.2.is_empty();
            if empty && of_images.0.is_empty() && of_images.1.is_empty() {
                return Ok(());
            }
            Err(format!("left: {records} nodes, {versions} versions, {left:?}, {of_images:?}"))
        })
        .await;
    }

    /// The floating IPs that carry our mark.
    pub async fn floating_ips(&self) -> Vec<Value> {
        let mut all = self.project.get("network", "/floatingips").await["floatingips"].take();
        let mark = format!("provider={}", self.mark());
        let all = all.as_array_mut().unwrap();
        all.retain(|one| one["description"].as_str().unwrap_or_default().contains(&mark));
        std::mem::take(all)
    }
}

/// User and port of the cloud's servers.
pub fn login() -> Value {
    json!({"username": "root", "port": OpenStack::shared().ssh_port()})
}

async fn secret(namespace: &Namespace, said: &Value) {
    let clouds = json!({"clouds": {"cloud": said}}).to_string();
    namespace.secret(PROVIDER, &[("clouds.yaml", &clouds)]).await;
}

/// Starts an operator as every stage has one.
pub fn start(namespace: &Namespace) -> Operator {
    Operator::for_namespace(namespace).arg("--settle-time=20s").arg("--full-list-interval=5s").start()
}
