//! What the process hands to the controllers when it may act. Handles only: nothing here runs or decides.

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
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
    /// Where each loop and watch shows that it is alive.
    pub heartbeats: Heartbeats,
    /// Where each start-up step says that it is done.
    pub readiness: Readiness,
    /// Where events are handed in.
    pub events: Events,
    /// Cancelled when the process must end; the controllers then return within a second.
    pub shutdown: CancellationToken,
}
