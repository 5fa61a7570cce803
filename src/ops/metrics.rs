//! The register of all figures the process shows, and their text in the OpenMetrics format.
//!
//! Every family's name starts with the prefix of the program. Families are added by the rooms that know their meaning;
//! this file knows none but the process's own.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::heartbeats::Heartbeats;
use super::lease::LeaderGuard;
use super::process;

/// The content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A gauge of fractions: seconds, ratios.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// The register. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
    prefix: &'static str,
}

impl Metrics {
    /// An empty register whose families all start with `prefix_`, besides the process's own figures.
    pub fn new(prefix: &'static str) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessFigures));
        Self { registry: Arc::new(RwLock::new(registry)), prefix }
    }

    /// Adds families; they appear from now on.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        add(registry.sub_registry_with_prefix(self.prefix));
    }

    /// Adds the gauge that is one while this process may act.
    pub fn register_leader(&self, guard: LeaderGuard) {
        self.register(|registry| registry.register_collector(Box::new(LeaderFigure(guard))));
    }

    /// Adds, for each loop and watch, how long nothing good was heard from it.
    pub fn register_heartbeats(&self, heartbeats: Heartbeats) {
        self.register(|registry| registry.register_collector(Box::new(Silences(heartbeats))));
    }

    /// All figures as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.read().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

/// A gauge family that always shows one whole observation: what a newer snapshot does not name disappears, and no
/// reader sees a moment without values.
#[derive(Clone)]
pub struct Snapshot<L> {
    family: Family<L, FloatGauge>,
    shown: Arc<Mutex<HashSet<L>>>,
}

impl<L> Snapshot<L>
where
    L: Clone + Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static,
{
    /// A family to be shown under `name`.
    pub fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
        let family = Family::<L, FloatGauge>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        Self { family, shown: Arc::default() }
    }

    /// Shows exactly these values.
    pub fn set(&self, values: impl IntoIterator<Item = (L, f64)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashSet::new();
        for (labels, value) in values {
            self.family.get_or_create(&labels).set(value);
            fresh.insert(labels);
        }
        for labels in shown.difference(&fresh) {
            self.family.remove(labels);
        }
        *shown = fresh;
    }
}

#[derive(Debug)]
struct LeaderFigure(LeaderGuard);

impl Collector for LeaderFigure {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(i64::from(self.0.is_current()));
        let help = "One while this process may act, zero while it stands by";
        gauge.encode(encoder.encode_descriptor("leader", help, None, MetricType::Gauge)?)
    }
}

struct Silences(Heartbeats);

impl Debug for Silences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Silences")
    }
}

impl Collector for Silences {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let silences = self.0.silences();
        if silences.is_empty() {
            return Ok(());
        }
        let help = "How long nothing good was heard from a loop or watch; past its bound the liveness probe fails";
        let mut family = encoder.encode_descriptor("heartbeat_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (name, silence) in silences {
            ConstGauge::new(silence.as_secs_f64()).encode(family.encode_family(&[("part", name.as_str())])?)?;
        }
        Ok(())
    }
}

/// The figures every Prometheus client shows under these names, so that common dashboards work.
#[derive(Debug)]
struct ProcessFigures;

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(usage) = process::usage() else { return Ok(()) };
        let cpu = ConstCounter::new(usage.cpu.as_secs_f64());
        let help = "Processor time spent, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?)?;
        let memory = ConstGauge::new(usage.resident_bytes);
        let help = "Resident memory";
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory",
            help,
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        let files = ConstGauge::new(usage.open_files);
        files.encode(encoder.encode_descriptor("process_open_fds", "Open file descriptors", None, MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_prefixed_and_the_process_shows_itself() {
        let metrics = Metrics::new("nodepool");
        metrics.register_leader(LeaderGuard::always());
        let text = metrics.encode().unwrap();
        assert!(text.contains("\nnodepool_leader 1\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn heartbeats_show_their_age() {
        let (metrics, heartbeats) = (Metrics::new("nodepool"), Heartbeats::new());
        metrics.register_heartbeats(heartbeats.clone());
        assert!(!metrics.encode().unwrap().contains("heartbeat"));
        let _watch = heartbeats.watch_stream("pools", std::time::Duration::from_secs(1));
        let text = metrics.encode().unwrap();
        assert!(text.contains("nodepool_heartbeat_age_seconds{part=\"pools\"} 0.0"), "{text}");
    }

    #[test]
    fn a_snapshot_replaces_the_one_before() {
        let metrics = Metrics::new("nodepool");
        let mut made = None;
        metrics.register(|registry| made = Some(Snapshot::register(registry, "things", "Things", None)));
        let things: Snapshot<[(&'static str, String); 1]> = made.unwrap();
        let labels = |name: &str| [("name", name.to_owned())];
        things.set([(labels("a"), 1.0), (labels("b"), 2.0)]);
        things.set([(labels("b"), 3.0)]);
        let text = metrics.encode().unwrap();
        assert!(text.contains("nodepool_things{name=\"b\"} 3.0"), "{text}");
        assert!(!text.contains("name=\"a\""), "{text}");
    }
}
