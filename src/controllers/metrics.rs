//! The figures of the domain: nodes, launches, requests, clouds, images, reconciles.
//!
//! Recording a figure never waits and never fails. Labels come from closed sets and from the names of objects; never
//! from errors, users' text or ids.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::ops;
use crate::ops::metrics::Snapshot;

/// Seconds from a boot's request to its end: clouds take from seconds to many minutes.
const LAUNCH_BUCKETS: [f64; 12] = [1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 300.0, 600.0, 1200.0];
/// Seconds a request waits: a ready node is taken in milliseconds, a full cloud makes it wait for hours.
const WAIT_BUCKETS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 7200.0];
/// Seconds one call to a service over the network takes.
const CALL_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];
/// Seconds of our own work: it should not be seen on a clock.
const WORK_BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Where and as what nodes are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NodeLabels {
    /// The namespace of the pool and the provider.
    pub namespace: String,
    /// The provider.
    pub provider: String,
    /// The pool.
    pub pool: String,
    /// The state, as users see it.
    pub state: &'static str,
}

/// Which image's age is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ImageLabels {
    /// The namespace of the image and the provider.
    pub namespace: String,
    /// The image.
    pub diskimage: String,
    /// The provider.
    pub provider: String,
}

/// Which Provider, Pool or other object a figure is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ObjectLabels {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What of a Provider's cloud has our mark and no record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeakLabels {
    /// The Provider's namespace.
    pub namespace: String,
    /// The Provider.
    pub name: String,
    /// What it is.
    pub kind: &'static str,
}

/// Where requests wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NamespaceLabels {
    /// The requests' namespace.
    pub namespace: String,
}

/// A condition of an object, as its status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The condition's type.
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Its reason.
    pub reason: String,
}

/// What the statuses of all objects say, at one moment.
#[derive(Default)]
pub struct Observed {
    /// How many servers each Provider may have.
    pub slots: Vec<(ObjectLabels, f64)>,
    /// How many it has.
    pub slots_used: Vec<(ObjectLabels, f64)>,
    /// What has our mark and no record.
    pub leaks: Vec<(LeakLabels, f64)>,
    /// How many ready and unclaimed nodes each Pool should have.
    pub min_ready: Vec<(ObjectLabels, f64)>,
    /// How many it has, on the Providers of whatever namespace.
    pub ready: Vec<(ObjectLabels, f64)>,
    /// How many attempts at a version failed in a row.
    pub build_failures: Vec<(ImageLabels, f64)>,
    /// How many requests wait.
    pub pending: Vec<(NamespaceLabels, f64)>,
    /// For how many seconds the oldest of them has waited.
    pub oldest_pending: Vec<(NamespaceLabels, f64)>,
    /// All conditions of Providers, DiskImages and Pools: one for each that is shown.
    pub conditions: Vec<(ConditionLabels, f64)>,
}

/// The gauges of [`Observed`].
#[derive(Clone)]
struct Gauges {
    slots: Snapshot<ObjectLabels>,
    slots_used: Snapshot<ObjectLabels>,
    leaks: Snapshot<LeakLabels>,
    min_ready: Snapshot<ObjectLabels>,
    ready: Snapshot<ObjectLabels>,
    build_failures: Snapshot<ImageLabels>,
    pending: Snapshot<NamespaceLabels>,
    oldest_pending: Snapshot<NamespaceLabels>,
    conditions: Snapshot<ConditionLabels>,
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        Self {
            slots: Snapshot::register(registry, "provider_slots", "How many servers a Provider may have", None),
            slots_used: Snapshot::register(
                registry,
                "provider_slots_used",
                "Slots taken, those of servers that are built or deleted included",
                None,
            ),
            leaks: Snapshot::register(
                registry,
                "leaks",
                "Things in a Provider's cloud that carry the installation's mark and have no record",
                None,
            ),
            min_ready: Snapshot::register(
                registry,
                "pool_min_ready",
                "Ready and unclaimed nodes that a Pool should have",
                None,
            ),
            ready: Snapshot::register(registry, "pool_ready", "Ready and unclaimed nodes that a Pool has", None),
            build_failures: Snapshot::register(
                registry,
                "image_build_failures",
                "Attempts at a version of an image that failed in a row",
                None,
            ),
            pending: Snapshot::register(registry, "pending_requests", "Requests that wait for nodes", None),
            oldest_pending: Snapshot::register(
                registry,
                "oldest_pending_request",
                "How long the oldest waiting request has waited",
                Some(Unit::Seconds),
            ),
            conditions: Snapshot::register(
                registry,
                "condition",
                "One for each condition that a Provider, DiskImage or Pool shows, with its status and reason",
                None,
            ),
        }
    }

    fn set(&self, observed: Observed) {
        self.slots.set(observed.slots);
        self.slots_used.set(observed.slots_used);
        self.leaks.set(observed.leaks);
        self.min_ready.set(observed.min_ready);
        self.ready.set(observed.ready);
        self.build_failures.set(observed.build_failures);
        self.pending.set(observed.pending);
        self.oldest_pending.set(observed.oldest_pending);
        self.conditions.set(observed.conditions);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaunchLabels {
    namespace: String,
    provider: String,
    pool: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloudCallLabels {
    provider: String,
    service: &'static str,
    call: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloudTimeLabels {
    provider: String,
    service: &'static str,
    call: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    result: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// The handle by which the domain records its figures. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    nodes: Snapshot<NodeLabels>,
    image_age: Snapshot<ImageLabels>,
    gauges: Gauges,
    launches: Family<LaunchLabels, Counter>,
    launch_seconds: Durations<LaunchLabels>,
    requests: Family<RequestLabels, Counter>,
    request_wait: Histogram,
    cloud_calls: Family<CloudCallLabels, Counter>,
    cloud_seconds: Durations<CloudTimeLabels>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_seconds: Durations<ReconcileLabels>,
    plan_seconds: Histogram,
}

impl Metrics {
    /// Adds all families of the domain to the register.
    pub fn register(register: &ops::metrics::Metrics) -> Self {
        let mut families = None;
        register.register(|registry| families = Some(Self::new(registry)));
        // The closure above runs exactly once; an unregistered set would count just as well, unseen.
        families.unwrap_or_else(|| Self::new(&mut Registry::default()))
    }

    fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            nodes: Snapshot::register(registry, "nodes", "Nodes by state, pool and provider", None),
            image_age: Snapshot::register(
                registry,
                "current_image_age",
                "Age of the image version that new nodes boot from; alert when it passes the schedule by a day",
                Some(Unit::Seconds),
            ),
            gauges: Gauges::new(registry),
            launches: Family::default(),
            launch_seconds: Family::new_with_constructor(|| Histogram::new(LAUNCH_BUCKETS)),
            requests: Family::default(),
            request_wait: Histogram::new(WAIT_BUCKETS),
            cloud_calls: Family::default(),
            cloud_seconds: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new(WORK_BUCKETS)),
            plan_seconds: Histogram::new(WORK_BUCKETS),
        };
        metrics.expose_nodes(registry);
        metrics.expose_work(registry);
        metrics
    }

    fn expose_nodes(&self, registry: &mut Registry) {
        registry.register("launches", "Launches that ended, by result", self.launches.clone());
        registry.register_with_unit(
            "launch_duration",
            "Time from the record of a node to its end as ready or failed",
            Unit::Seconds,
            self.launch_seconds.clone(),
        );
        registry.register("requests", "Requests that ended their wait, by result", self.requests.clone());
        registry.register_with_unit(
            "request_wait",
            "Time from the creation of a request to its fulfilment",
            Unit::Seconds,
            self.request_wait.clone(),
        );
    }

    fn expose_work(&self, registry: &mut Registry) {
        registry.register("cloud_calls", "Calls to clouds, by result", self.cloud_calls.clone());
        registry.register_with_unit(
            "cloud_call_duration",
            "Time a call to a cloud took, waiting for its turn excluded",
            Unit::Seconds,
            self.cloud_seconds.clone(),
        );
        registry.register("reconciles", "Reconciles, by kind", self.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time a reconcile took",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        registry.register_with_unit(
            "plan_duration",
            "Time one pass of the allocation took",
            Unit::Seconds,
            self.plan_seconds.clone(),
        );
    }

    /// Shows exactly these numbers of nodes. Name a pool's empty states with zero, so that graphs show them as zero.
    pub fn node_states(&self, counts: impl IntoIterator<Item = (NodeLabels, usize)>) {
        // Far below the 2^53 up to which whole numbers stay exact.
        #[allow(clippy::cast_precision_loss)]
        self.nodes.set(counts.into_iter().map(|(labels, count)| (labels, count as f64)));
    }

    /// Shows exactly these ages of current images.
    pub fn image_ages(&self, ages: impl IntoIterator<Item = (ImageLabels, Duration)>) {
        self.image_age.set(ages.into_iter().map(|(labels, age)| (labels, age.as_secs_f64())));
    }

    /// Shows what the statuses say, and nothing of before.
    pub fn observed(&self, observed: Observed) {
        self.gauges.set(observed);
    }

    /// A launch ended.
    pub fn launch(&self, namespace: &str, provider: &str, pool: &str, result: &'static str, took: Duration) {
        let labels = LaunchLabels {
            namespace: namespace.to_owned(),
            provider: provider.to_owned(),
            pool: pool.to_owned(),
            result,
        };
        self.launches.get_or_create(&labels).inc();
        self.launch_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A request was fulfilled after this wait.
    pub fn request_fulfilled(&self, waited: Duration) {
        self.requests.get_or_create(&RequestLabels { result: "fulfilled" }).inc();
        self.request_wait.observe(waited.as_secs_f64());
    }

    /// A request ended its wait in another way, such as `timed_out` or `impossible`.
    pub fn request_failed(&self, result: &'static str) {
        self.requests.get_or_create(&RequestLabels { result }).inc();
    }

    /// A call to a cloud ended; `provider` is `namespace/name`, `result` is `ok` or an error's class.
    pub fn cloud_call(
        &self,
        provider: &str,
        service: &'static str,
        call: &'static str,
        result: &'static str,
        took: Duration,
    ) {
        let provider = provider.to_owned();
        self.cloud_calls.get_or_create(&CloudCallLabels { provider: provider.clone(), service, call, result }).inc();
        self.cloud_seconds.get_or_create(&CloudTimeLabels { provider, service, call }).observe(took.as_secs_f64());
    }

    /// A reconcile ended.
    pub fn reconcile(&self, kind: &'static str, took: Duration) {
        let labels = ReconcileLabels { kind };
        self.reconciles.get_or_create(&labels).inc();
        self.reconcile_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A pass of the allocation ended.
    pub fn plan_pass(&self, took: Duration) {
        self.plan_seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_appear_under_their_names() {
        let register = ops::metrics::Metrics::new("nodepool");
        let metrics = Metrics::register(&register);
        let labels = |state| NodeLabels {
            namespace: "ci".to_owned(),
            provider: "rdo".to_owned(),
            pool: "small".to_owned(),
            state,
        };
        metrics.node_states([(labels("Ready"), 3), (labels("Building"), 0)]);
        metrics.launch("ci", "rdo", "small", "ready", Duration::from_secs(30));
        metrics.request_fulfilled(Duration::from_millis(20));
        metrics.request_failed("timed_out");
        metrics.cloud_call("ci/rdo", "compute", "create_server", "ok", Duration::from_millis(200));
        metrics.reconcile("Pool", Duration::from_millis(1));
        metrics.plan_pass(Duration::from_millis(2));
        let image =
            ImageLabels { namespace: "ci".to_owned(), diskimage: "debian".to_owned(), provider: "rdo".to_owned() };
        metrics.image_ages([(image, Duration::from_secs(60))]);
        let object = ObjectLabels { namespace: "ci".to_owned(), name: "rdo".to_owned() };
        let condition = ConditionLabels {
            kind: "Provider",
            namespace: "ci".to_owned(),
            name: "rdo".to_owned(),
            condition: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: "AuthenticationFailed".to_owned(),
        };
        let leak = LeakLabels { namespace: "ci".to_owned(), name: "rdo".to_owned(), kind: "Server" };
        metrics.observed(Observed {
            slots: vec![(object.clone(), 20.0)],
            leaks: vec![(leak, 1.0)],
            pending: vec![(NamespaceLabels { namespace: "ci".to_owned() }, 2.0)],
            oldest_pending: vec![(NamespaceLabels { namespace: "ci".to_owned() }, 30.0)],
            conditions: vec![(condition, 1.0)],
            ..Observed::default()
        });
        let text = register.encode().unwrap();
        for line in [
            r#"nodepool_nodes{namespace="ci",provider="rdo",pool="small",state="Ready"} 3.0"#,
            r#"nodepool_nodes{namespace="ci",provider="rdo",pool="small",state="Building"} 0.0"#,
            r#"nodepool_launches_total{namespace="ci",provider="rdo",pool="small",result="ready"} 1"#,
            r#"nodepool_launch_duration_seconds_count{namespace="ci",provider="rdo",pool="small",result="ready"} 1"#,
            r#"nodepool_requests_total{result="timed_out"} 1"#,
            "nodepool_request_wait_seconds_count 1",
            r#"nodepool_cloud_calls_total{provider="ci/rdo",service="compute",call="create_server",result="ok"} 1"#,
            r#"nodepool_reconciles_total{kind="Pool"} 1"#,
            "nodepool_plan_duration_seconds_count 1",
            r#"nodepool_current_image_age_seconds{namespace="ci",diskimage="debian",provider="rdo"} 60.0"#,
            r#"nodepool_provider_slots{namespace="ci",name="rdo"} 20.0"#,
            r#"nodepool_leaks{namespace="ci",name="rdo",kind="Server"} 1.0"#,
            r#"nodepool_pending_requests{namespace="ci"} 2.0"#,
            r#"nodepool_oldest_pending_request_seconds{namespace="ci"} 30.0"#,
            concat!(
                r#"nodepool_condition{kind="Provider",namespace="ci",name="rdo",condition="Ready","#,
                r#"status="False",reason="AuthenticationFailed"} 1.0"#
            ),
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
