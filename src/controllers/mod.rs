//! The engine that keeps the records and the clouds in step: observe, plan, act, report; one file a kind.
//!
//! One task owns everything that is known ([`Engine`]): the records, the clouds' servers, and what is under way. It
//! takes what arrived, marks what that touches, and reconciles what is marked. All waiting happens in spawned work
//! whose result comes back as one more arrival, so nothing that is slow delays anything else (rule 13), and every
//! decision sees one consistent state. Policy lives in [`crate::plan`], never here.

pub mod allocation;
pub mod disk_image;
mod figures;
pub mod index;
pub mod leaks;
mod marks;
pub mod metrics;
pub mod node_request;
pub mod overview;
pub mod pool;
pub mod pool_node;
pub mod provider;
pub mod provider_image;
pub mod records;
pub mod runtime;
pub mod setup;
pub mod tenancy;
pub mod watch;

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use jiff::{SignedDuration, Timestamp};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{PROGRESSING, THROTTLED};
use crate::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider, ProviderImage};
use crate::ops::events::Severity;
use crate::ops::turns;
use crate::plan::allocation::Fairness;

use self::index::{Change, Event, Key, Scope, Store};
pub use self::marks::Mark;
use self::provider::Connection;
use self::runtime::{Creating, NodeRuntime};
pub use self::setup::Setup;

/// What reaches the engine: a watch's event, or the result of spawned work, as the change it makes.
type Arrival = Box<dyn FnOnce(&mut Engine) + Send>;

/// How many arrivals are taken before the plan is made anew: one pass serves whatever came since the last.
const BATCH: usize = 2048;

/// A clock that never jumps: the wall clock at start, moved by the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    at: Timestamp,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), at: Timestamp::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// The time of an instant.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Timestamp {
        let ahead = SignedDuration::try_from(instant.saturating_duration_since(self.started));
        ahead.ok().and_then(|ahead| self.at.checked_add(ahead).ok()).unwrap_or(self.at)
    }

    /// The instant at which it will be `at`.
    fn instant(&self, at: Timestamp) -> Instant {
        let ahead = at.duration_since(self.at);
        self.started + Duration::try_from(ahead).unwrap_or_default().min(Duration::from_secs(86_400))
    }
}

/// Everything that is known, and everything that is under way.
pub struct Engine {
    /// The handles the process gave us.
    pub setup: Setup,
    /// The installation's unique name on everything made in a cloud (rule 10).
    pub owner: String,
    /// Now: read once for each pass.
    pub now: Timestamp,
    /// All Providers.
    pub providers: Store<Provider>,
    /// All DiskImages.
    pub disk_images: Store<DiskImage>,
    /// All ProviderImages.
    pub provider_images: Store<ProviderImage>,
    /// All Pools.
    pub pools: Store<Pool>,
    /// All PoolNodes.
    pub nodes: Store<PoolNode>,
    /// All NodeRequests.
    pub requests: Store<NodeRequest>,
    /// All namespaces, for their labels, as last read; none until they were, or when the operator serves certain ones only.
    pub namespaces: Store<Namespace>,
    /// What the process itself knows of each node, by uid.
    pub runtime: HashMap<String, NodeRuntime>,
    /// Records whose create is not answered yet, by key.
    pub creating: HashMap<Key, Creating>,
    /// The connection to each cloud, by Provider.
    pub connections: HashMap<Key, Connection>,
    /// The nodes that carry a request's claim, by the request's uid.
    pub claims: HashMap<String, BTreeSet<Key>>,
    /// The uids that claims give for requests of one name.
    pub claimed_names: HashMap<Key, BTreeSet<String>>,
    /// Records for which this process ever held the permit.
    pub permitted: HashSet<String>,
    /// Versions that no boot may use any more.
    pub rejected: provider_image::Rejected,
    /// What each kind remembers between passes.
    pub memory: Memory,
    /// Who may probe now.
    pub probes: pool_node::Places,
    marks: BTreeSet<Mark>,
    timers: BTreeSet<(Timestamp, Mark)>,
    /// The clock that every decision goes by.
    pub clock: Clock,
    arrivals: mpsc::UnboundedSender<Arrival>,
}

/// What the controllers remember between passes; lost with the process, so nothing rests on it.
#[derive(Default)]
pub struct Memory {
    /// Fairness between pools.
    pub fairness: Fairness,
    /// What the allocation said last.
    pub allocation: allocation::Outcome,
    /// Providers.
    pub providers: HashMap<Key, provider::Memory>,
    /// Sweeps for leaks, by Provider.
    pub leaks: HashMap<Key, leaks::Memory>,
    /// Requests.
    pub requests: node_request::Memory,
    /// Pools.
    pub pools: pool::Memory,
    /// Images.
    pub images: disk_image::Memory,
    /// Versions of images that are made.
    pub works: provider_image::work::Memory,
    /// Boots that wait to be told whether their image version may be used.
    pub versions: pool_node::Reads,
    /// Status writes under way, so that none is sent twice.
    pub writing: HashSet<Mark>,
    /// When the allocation looks again by itself.
    alarm: Option<Timestamp>,
    /// When marks that are held back were last let through, and which wait.
    paced: HashMap<Mark, Timestamp>,
    waiting: HashMap<Mark, Timestamp>,
    /// The allocation is not made again before.
    rested: Option<Timestamp>,
}

/// How long a watch or the engine may be silent before the process counts as stuck.
const SILENCE: Duration = Duration::from_secs(90);
/// How often the figures are made anew.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// Pause before a write that was not answered is decided anew.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    /// Something was written and may have changed meanwhile. What counts nodes would else be written without end while
    /// nodes come and go.
    fn mark_again(&mut self, mark: Mark) {
        match mark {
            Mark::Provider(_) | Mark::Pool(_) => self.mark_within(provider::REPORT_EVERY, mark),
            mark => self.mark(mark),
        }
    }

    /// Writes one record, unless a write of it is under way already; the answer is applied, or the mark comes again.
    pub fn write_once<T: Send + 'static>(
        &mut self,
        mark: Mark,
        call: impl Future<Output = Result<T, records::WriteError>> + Send + 'static,
        apply: impl FnOnce(&mut Engine, T) + Send + 'static,
    ) {
        if !self.memory.writing.insert(mark.clone()) {
            return;
        }
        self.spawn(async move {
            let answer = call.await;
            move |engine: &mut Engine| {
                engine.memory.writing.remove(&mark);
                match answer {
                    Ok(written) => {
                        apply(engine, written);
                        engine.mark_again(mark);
                    }
                    Err(records::WriteError::NotFound) => {}
                    Err(records::WriteError::Conflict) => engine.wake_in(WRITE_AGAIN / 10, mark),
                    Err(error) => {
                        tracing::warn!(?mark, %error, "not written; deciding anew");
                        engine.wake_in(WRITE_AGAIN, mark);
                    }
                }
            }
        });
    }

    /// Writes a status if it says something else than before, and tells people of conditions that turned.
    pub fn report<K, S>(
        &mut self,
        mark: Mark,
        seen: &Arc<K>,
        old: &S,
        new: &S,
        apply: impl FnOnce(&mut Engine, K) + Send + 'static,
    ) where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
        S: serde::Serialize,
    {
        if self.memory.writing.contains(&mark) {
            return;
        }
        let Some(change) = records::difference(old, new) else { return };
        turned(&self.setup, &**seen, old, new);
        let (client, seen) = (self.setup.client.clone(), Arc::clone(seen));
        let waited_for = matches!(mark, Mark::Request(_));
        let call = async move {
            let write = || records::patch_status(&client, &*seen, change);
            if waited_for { turns::urgent(write).await } else { turns::usual(write).await }
        };
        self.write_once(mark, call, apply);
    }

    /// The records of a provider's nodes that have one of these servers.
    #[must_use]
    pub fn records_with(&self, provider: &Key, gone: &[String], changed: &[String]) -> Vec<String> {
        if gone.is_empty() && changed.is_empty() {
            return Vec::new();
        }
        let ids: HashSet<&str> = gone.iter().chain(changed).map(String::as_str).collect();
        let has = |runtime: &NodeRuntime| runtime.server_id.as_deref().is_some_and(|id| ids.contains(id));
        self.runtime
            .iter()
            .filter(|(_, runtime)| runtime.key.namespace == provider.namespace && has(runtime))
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// The records of a provider's nodes whose next step depends on when the cloud was listed.
    #[must_use]
    pub fn searching(&self, provider: &Key) -> Vec<String> {
        self.runtime
            .iter()
            .filter(|(_, runtime)| {
                runtime.server_id.is_none() && runtime.permit.is_none() && runtime.key.namespace == provider.namespace
            })
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// Does slow work beside the engine; what it returns is applied to the engine when it is done.
    pub fn spawn<F, A>(&self, work: F)
    where
        F: Future<Output = A> + Send + 'static,
        A: FnOnce(&mut Engine) + Send + 'static,
    {
        let arrivals = self.arrivals.clone();
        let shutdown = self.setup.shutdown.clone();
        // On the heap once, not twice in the task: thousands may wait.
        let work = Box::pin(work);
        tokio::spawn(async move {
            let result = tokio::select! {
                result = work => result,
                () = shutdown.cancelled() => return,
            };
            deliver(&arrivals, Box::new(result));
        });
    }

    /// A sender for work that reports more than once.
    pub fn sender(&self) -> impl Fn(Arrival) + Send + Clone + 'static {
        let arrivals = self.arrivals.clone();
        move |arrival| deliver(&arrivals, arrival)
    }

    /// Takes the answer to one of our own writes of a node, as if a watch had told it.
    pub fn wrote_node(&mut self, node: PoolNode) {
        let gone = node.metadata.deletion_timestamp.is_some() && node.finalizers().is_empty();
        let change = if gone { self.nodes.remove(&node) } else { self.nodes.wrote(node) };
        change.into_iter().for_each(|change| pool_node::changed(self, &change));
    }

    /// The connection of a node's provider.
    #[must_use]
    pub fn connection_of(&self, node: &PoolNode) -> Option<&Connection> {
        self.connections.get(&Key::of(node).sibling(&node.spec.provider))
    }

    fn synced(&self) -> bool {
        let watches = self.setup.watch_namespaces.len().max(1);
        self.providers.synced(watches)
            && self.disk_images.synced(watches)
            && self.provider_images.synced(watches)
            && self.pools.synced(watches)
            && self.nodes.synced(watches)
            && self.requests.synced(watches)
    }

    /// Reconciles everything that is marked, and what that marks, in the order in which facts depend on each other.
    fn pass(&mut self) {
        self.now = self.clock.now();
        self.fire_timers();
        if !self.synced() {
            return;
        }
        // Each reconcile may mark more; what it marks of an earlier kind waits for the next round.
        while let Some(mark) = self.marks.pop_first() {
            self.disarm(&mark);
            self.keep_pace(&mark);
            match self.memory.rested {
                Some(at) if mark == Mark::Allocation && at > self.now => self.wake(at, mark),
                _ => self.reconcile(mark),
            }
        }
    }

    /// Reconciles one thing, in a span of its own, and counts how long it took.
    fn reconcile(&mut self, mark: Mark) {
        let kind = mark.kind();
        let _span = tracing::info_span!("reconcile", kind, of = mark.of()).entered();
        let started = std::time::Instant::now();
        match mark {
            Mark::Provider(key) => provider::reconcile(self, &key),
            Mark::DiskImage(key) => disk_image::reconcile(self, &key),
            Mark::ProviderImage(key) => provider_image::reconcile(self, &key),
            Mark::Builds => disk_image::pass(self),
            Mark::Node(uid) => pool_node::reconcile(self, &uid),
            Mark::Allocation => {
                allocation::reconcile(self);
                self.rest(started.elapsed());
            }
            Mark::Request(key) => node_request::reconcile(self, &key),
            Mark::Pool(key) => pool::reconcile(self, &key),
            Mark::Figures => self.figures(),
        }
        self.setup.metrics.reconcile(kind, started.elapsed());
    }

    /// Shows the figures, and that the engine lives, also in a world where nothing happens.
    fn figures(&mut self) {
        pool::figures(self);
        disk_image::figures(self);
        self.setup.metrics.observed(figures::observe(self));
        self.setup.overview.show(overview::gather(self));
        self.wake_in(FIGURES_EVERY, Mark::Figures);
    }

    async fn next(&mut self, arrivals: &mut mpsc::UnboundedReceiver<Arrival>) -> bool {
        let until = self.timers.first().map(|(at, _)| self.clock.instant(*at));
        let due = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let first = tokio::select! {
            () = self.setup.shutdown.cancelled() => return false,
            first = arrivals.recv() => first,
            () = due => None,
        };
        self.now = self.clock.now();
        if let Some(first) = first {
            first(self);
            for _ in 0..BATCH {
                let Ok(arrival) = arrivals.try_recv() else { break };
                arrival(self);
            }
        }
        true
    }
}

fn deliver(arrivals: &mpsc::UnboundedSender<Arrival>, arrival: Arrival) {
    if arrivals.send(arrival).is_err() {
        tracing::debug!("the engine has stopped; a late result is dropped");
    }
}

/// Tells people, in an event, of every condition that turned.
fn turned<K, S>(setup: &Setup, seen: &K, old: &S, new: &S)
where
    K: kube::Resource<DynamicType = ()>,
    S: serde::Serialize,
{
    let conditions = |status: &S| -> Vec<Condition> {
        let value = serde_json::to_value(status).ok();
        value.and_then(|mut value| serde_json::from_value(value["conditions"].take()).ok()).unwrap_or_default()
    };
    let before = conditions(old);
    for condition in conditions(new) {
        let same =
            before.iter().find(|old| old.type_ == condition.type_).is_some_and(|old| old.status == condition.status);
        // What is as it should be from the start is no news.
        let calm = condition.message.is_empty() && !before.iter().any(|old| old.type_ == condition.type_);
        if same || calm || condition.status == "Unknown" {
            continue;
        }
        let good = condition.type_ == PROGRESSING || (condition.status == "True") != (condition.type_ == THROTTLED);
        let severity = if good { Severity::Normal } else { Severity::Warning };
        let note = format!("{} is {} {}", condition.type_, condition.status, condition.message);
        setup.events.publish(&seen.object_ref(&()), severity, &condition.reason, note);
    }
}

/// The gate of readiness that opens once all records have been read.
pub const RECORDS_LISTED: &str = "records listed";

/// Runs until told to stop.
pub async fn run(setup: Setup) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let owner = tokio::select! {
        owner = setup.owner() => owner?,
        () = setup.shutdown.cancelled() => return Ok(()),
    };
    let synced = setup.readiness.gate(RECORDS_LISTED);
    let beat = setup.heartbeats.watch_loop("engine", SILENCE);
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let clock = Clock::start();
    let mut engine = Engine {
        now: clock.now(),
        clock,
        providers: Store::default(),
        disk_images: Store::default(),
        provider_images: Store::default(),
        pools: Store::default(),
        namespaces: Store::default(),
        nodes: Store::default(),
        requests: Store::default(),
        runtime: HashMap::default(),
        creating: HashMap::default(),
        connections: HashMap::default(),
        permitted: HashSet::new(),
        rejected: provider_image::Rejected::default(),
        claims: HashMap::default(),
        claimed_names: HashMap::default(),
        probes: pool_node::Places::default(),
        owner,
        memory: Memory::default(),
        marks: BTreeSet::from([Mark::Allocation, Mark::Figures]),
        timers: BTreeSet::new(),
        arrivals: sender,
        setup,
    };
    engine.watch(|engine| &mut engine.providers, provider::changed);
    engine.watch(|engine| &mut engine.disk_images, disk_image::changed);
    engine.watch(|engine| &mut engine.provider_images, provider_image::changed);
    engine.watch(|engine| &mut engine.pools, pool::changed);
    engine.watch(|engine| &mut engine.nodes, pool_node::changed);
    engine.watch(|engine| &mut engine.requests, node_request::changed);
    if engine.setup.watch_namespaces.is_empty() {
        // Without them everything goes on that no selector is asked for, so their silence is no reason to end.
        let namespaces = Api::all(engine.setup.client.clone());
        engine.follow(None, namespaces, || {}, |engine| &mut engine.namespaces, tenancy::changed);
    }
    while engine.next(&mut arrivals).await {
        engine.pass();
        beat.beat();
        if engine.synced() {
            synced.open();
        }
    }
    Ok(())
}

impl Engine {
    /// Follows one kind in every watched namespace, and applies what it tells.
    fn watch<K>(&self, store: fn(&mut Engine) -> &mut Store<K>, changed: fn(&mut Engine, &Change<K>))
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        for (scope, api) in self.setup.apis() {
            let beat =
                self.setup.heartbeats.watch_loop(format!("watch {} {}", K::plural(&()), api.resource_url()), SILENCE);
            self.follow(scope, api, move || beat.beat(), store, changed);
        }
    }

    /// Follows one kind in one scope.
    fn follow<K>(
        &self,
        scope: Scope,
        api: Api<DeserializeGuard<K>>,
        alive: impl Fn() + Send + Sync + 'static,
        store: fn(&mut Engine) -> &mut Store<K>,
        changed: fn(&mut Engine, &Change<K>),
    ) where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let arrivals = self.arrivals.clone();
        let shutdown = self.setup.shutdown.clone();
        let tell = move |event: Event<K>| {
            let scope = scope.clone();
            let apply: Arrival = Box::new(move |engine: &mut Engine| {
                let listed = matches!(event, Event::Listed);
                let changes = store(engine).observe(&scope, event);
                changes.iter().for_each(|change| changed(engine, change));
                if listed {
                    engine.mark(Mark::Allocation);
                }
            });
            deliver(&arrivals, apply);
        };
        tokio::spawn(async move {
            tokio::select! {
                () = watch::follow(api, tell, alive) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}
