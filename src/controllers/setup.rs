//! What the process hands to the controllers when it may act. Handles only: nothing here runs or decides.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::{DeserializeGuard, NamespaceResourceScope, Resource};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::index::{Key, Scope};
use super::metrics::Metrics;
use super::overview::Board;
use crate::builder::fetch::Fetcher;
use crate::cloud::openstack::CallObserver;
use crate::cloud::poller::PollSettings;
use crate::egress::Egress;
use crate::ops::events::Events;
use crate::ops::heartbeats::{Heartbeats, Readiness};
use crate::ops::lease::LeaderGuard;

/// All that the controllers need from the process they live in.
#[derive(Clone)]
pub struct Setup {
    /// The API server: never retries by itself, and every call needs its own deadline.
    pub client: Client,
    /// Where the operator itself lives: its lease, and the records that are about the installation.
    pub namespace: String,
    /// This replica's unique name.
    pub identity: String,
    /// Namespaces to serve; all when empty.
    pub watch_namespaces: Vec<String>,
    /// Asked before each effect that leaves the cluster.
    pub guard: LeaderGuard,
    /// The domain's figures.
    pub metrics: Metrics,
    /// Where the newest overview is put, for whoever asks for it.
    pub overview: Board,
    /// Where each loop and watch shows that it is alive.
    pub heartbeats: Heartbeats,
    /// Where each start-up step says that it is done.
    pub readiness: Readiness,
    /// Where events are handed in.
    pub events: Events,
    /// How long a boot request that was not answered is searched for at least.
    pub settle_time: Duration,
    /// How many versions of images may be in flight on one Provider, and in all.
    pub builds_per_provider: u32,
    /// See above.
    pub builds: u32,
    /// The container image that uploads what a build's pod leaves: the operator's own.
    pub uploader_image: String,
    /// Where clouds may be.
    pub egress: Egress,
    /// Who asks servers for images.
    pub fetcher: Fetcher,
    /// How clouds are listed.
    pub polling: PollSettings,
    /// Cancelled when the process must end; the controllers then return within a second.
    pub shutdown: CancellationToken,
}

/// The deadline of the one call that asks who we are.
const OWNER_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before that call is made again.
const OWNER_AGAIN: Duration = Duration::from_secs(1);

impl Setup {
    /// One handle for each watched namespace, or one for all.
    #[must_use]
    pub fn apis<K>(&self) -> Vec<(Scope, Api<DeserializeGuard<K>>)>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
    {
        if self.watch_namespaces.is_empty() {
            return vec![(None, Api::all(self.client.clone()))];
        }
        let scoped =
            |namespace: &String| (Some(namespace.as_str().into()), Api::namespaced(self.client.clone(), namespace));
        self.watch_namespaces.iter().map(scoped).collect()
    }

    /// The installation's unique name: the uid of the namespace it lives in, which no other installation shares, and
    /// which a cluster restored from a backup keeps.
    ///
    /// # Errors
    /// The API server refuses to tell; one that cannot tell now is asked again.
    pub async fn owner(&self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = loop {
            match tokio::time::timeout(OWNER_DEADLINE, namespaces.get(&self.namespace)).await {
                Ok(Ok(namespace)) => break namespace,
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                    return Err(kube::Error::Api(status).into());
                }
                Ok(Err(error)) => tracing::warn!(%error, "the operator's own namespace cannot be read; asking again"),
                Err(_) => tracing::warn!("no answer to a question for the operator's own namespace; asking again"),
            }
            tokio::time::sleep(OWNER_AGAIN).await;
        };
        namespace.uid().ok_or_else(|| format!("the namespace {} has no uid", self.namespace).into())
    }

    /// Counts the calls to one cloud.
    #[must_use]
    pub fn observer(&self, provider: &Key) -> Arc<dyn CallObserver> {
        Arc::new(Observer { metrics: self.metrics.clone(), provider: provider.to_string() })
    }
}

struct Observer {
    metrics: Metrics,
    provider: String,
}

impl CallObserver for Observer {
    fn called(&self, service: &'static str, call: &'static str, result: &'static str, took: Duration) {
        self.metrics.cloud_call(&self.provider, service, call, result, took);
    }
}
