//! The engine that keeps the records and the clouds in step: observe, plan, act, report; one file a kind.
//!
//! One task owns everything that is known ([`Engine`]): the records, the clouds' servers, and what is under way. It
//! takes what arrived, marks what that touches, and reconciles what is marked. All waiting happens in spawned work
//! whose result comes back as one more arrival, so nothing that is slow delays anything else (rule 13), and every
//! decision sees one consistent state. Policy lives in [`crate::plan`], never here.

pub mod allocation;
pub mod disk_image;
pub mod index;
pub mod leaks;
pub mod metrics;
pub mod node_request;
pub mod pool;
pub mod pool_node;
pub mod provider;
pub mod provider_image;
pub mod records;
pub mod runtime;
pub mod setup;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider, ProviderImage};
use crate::plan::allocation::Fairness;

use self::index::{Change, Event, Key, Store};
use self::provider::Connection;
use self::runtime::{Creating, NodeRuntime};
pub use self::setup::Setup;

/// What reaches the engine: a watch's event, or the result of spawned work, as the change it makes.
type Arrival = Box<dyn FnOnce(&mut Engine) + Send>;

/// How many arrivals are taken before the plan is made anew: one pass serves whatever came since the last.
const BATCH: usize = 2048;

/// What must be reconciled again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A Provider: its credentials, its connection, its status.
    Provider(Key),
    /// A DiskImage.
    DiskImage(Key),
    /// A ProviderImage.
    ProviderImage(Key),
    /// A node, by its uid.
    Node(String),
    /// Who gets what.
    Allocation,
    /// A request's status.
    Request(Key),
    /// A Pool's status.
    Pool(Key),
}

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
        SignedDuration::try_from(self.started.elapsed())
            .ok()
            .and_then(|elapsed| self.at.checked_add(elapsed).ok())
            .unwrap_or(self.at)
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
    /// What the process itself knows of each node, by uid.
    pub runtime: HashMap<String, NodeRuntime>,
    /// Records whose create is not answered yet, by key.
    pub creating: HashMap<Key, Creating>,
    /// The connection to each cloud, by Provider.
    pub connections: HashMap<Key, Connection>,
    /// What each kind remembers between passes.
    pub memory: Memory,
    marks: BTreeSet<Mark>,
    timers: BTreeMap<Timestamp, BTreeSet<Mark>>,
    clock: Clock,
    arrivals: mpsc::UnboundedSender<Arrival>,
}

/// What the controllers remember between passes; lost with the process, so nothing rests on it.
#[derive(Default)]
pub struct Memory {
    /// Fairness between pools.
    pub fairness: Fairness,
    /// What the allocation said last.
    pub allocation: allocation::Outcome,
    /// Requests.
    pub requests: node_request::Memory,
    /// Pools.
    pub pools: pool::Memory,
    /// Images.
    pub images: disk_image::Memory,
    /// Status writes under way, so that none is sent twice.
    pub writing: HashSet<Mark>,
}

impl Engine {
    /// Something must be reconciled in this pass.
    pub fn mark(&mut self, mark: Mark) {
        self.marks.insert(mark);
    }

    /// Something must be reconciled then, if nothing marks it earlier.
    pub fn wake(&mut self, at: Timestamp, mark: Mark) {
        self.timers.entry(at).or_default().insert(mark);
    }

    /// Something must be reconciled after that long.
    pub fn wake_in(&mut self, after: Duration, mark: Mark) {
        let at = SignedDuration::try_from(after).ok().and_then(|after| self.now.checked_add(after).ok());
        self.wake(at.unwrap_or(Timestamp::MAX), mark);
    }

    /// Does slow work beside the engine; what it returns is applied to the engine when it is done.
    pub fn spawn<F, A>(&self, work: F)
    where
        F: Future<Output = A> + Send + 'static,
        A: FnOnce(&mut Engine) + Send + 'static,
    {
        let arrivals = self.arrivals.clone();
        let shutdown = self.setup.shutdown.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                result = work => result,
                () = shutdown.cancelled() => return,
            };
            deliver(&arrivals, Box::new(result));
        });
    }

    /// A sender for work that reports more than once.
    #[must_use]
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
        self.providers.synced()
            && self.disk_images.synced()
            && self.provider_images.synced()
            && self.pools.synced()
            && self.nodes.synced()
            && self.requests.synced()
    }

    fn fire_timers(&mut self) {
        let later = self.timers.split_off(&self.now);
        let due = std::mem::replace(&mut self.timers, later);
        let mut due: Vec<BTreeSet<Mark>> = due.into_values().collect();
        due.extend(self.timers.remove(&self.now));
        due.into_iter().for_each(|marks| self.marks.extend(marks));
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
            match mark {
                Mark::Provider(key) => provider::reconcile(self, &key),
                Mark::DiskImage(key) => disk_image::reconcile(self, &key),
                Mark::ProviderImage(key) => provider_image::reconcile(self, &key),
                Mark::Node(uid) => pool_node::reconcile(self, &uid),
                Mark::Allocation => allocation::reconcile(self),
                Mark::Request(key) => node_request::reconcile(self, &key),
                Mark::Pool(key) => pool::reconcile(self, &key),
            }
        }
    }

    async fn next(&mut self, arrivals: &mut mpsc::UnboundedReceiver<Arrival>) -> bool {
        let until = self.timers.keys().next().map(|at| self.clock.instant(*at));
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

/// Runs until told to stop.
pub async fn run(setup: Setup) {
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let clock = Clock::start();
    let mut engine = Engine {
        now: clock.now(),
        clock,
        providers: Store::default(),
        disk_images: Store::default(),
        provider_images: Store::default(),
        pools: Store::default(),
        nodes: Store::default(),
        requests: Store::default(),
        runtime: HashMap::new(),
        creating: HashMap::new(),
        connections: HashMap::new(),
        memory: Memory::default(),
        marks: BTreeSet::from([Mark::Allocation]),
        timers: BTreeMap::new(),
        arrivals: sender,
        setup,
    };
    engine.watch(|engine| &mut engine.providers, |engine, change| provider::changed(engine, change));
    engine.watch(|engine| &mut engine.disk_images, |engine, change| disk_image::changed(engine, change));
    engine.watch(|engine| &mut engine.provider_images, |engine, change| provider_image::changed(engine, change));
    engine.watch(|engine| &mut engine.pools, |engine, change| pool::changed(engine, change));
    engine.watch(|engine| &mut engine.nodes, |engine, change| pool_node::changed(engine, change));
    engine.watch(|engine| &mut engine.requests, |engine, change| node_request::changed(engine, change));
    while engine.next(&mut arrivals).await {
        engine.pass();
        engine.setup.alive("engine");
    }
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
        for api in self.setup.apis::<K>() {
            let arrivals = self.arrivals.clone();
            let alive = self.setup.heartbeat(&format!("watch {}", K::plural(&())));
            let shutdown = self.setup.shutdown.clone();
            let tell = move |event: Event<K>| {
                let apply: Arrival = Box::new(move |engine: &mut Engine| {
                    let listed = matches!(event, Event::Listed);
                    let changes = store(engine).observe(event);
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
}
