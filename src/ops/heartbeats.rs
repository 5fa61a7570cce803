//! Knows whether each loop, watch and start-up step of the process is alive, for the liveness and readiness probes.
//!
//! It only remembers what others tell it; it never restarts or stops anything. A part that was registered and then
//! forgot to beat is dead, so whoever ends on purpose must retire.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;

/// A watch that fails comes back with another error within this time (its time-outs and back-off are shorter); one
/// that stays silent for longer has recovered, since a quiet world sends no events.
const WATCH_RECOVERED_AFTER: Duration = Duration::from_secs(150);

/// The register of all that must stay alive.
#[derive(Clone, Default)]
pub struct Heartbeats {
    parts: Arc<Mutex<BTreeMap<String, Part>>>,
}

#[derive(Clone, Copy)]
enum Part {
    Loop { bound: Duration, last: Instant },
    Watch { bound: Duration, failing: Option<Failing> },
}

#[derive(Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
}

/// A part that is not alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The name it registered under.
    pub name: String,
    /// For how long nothing good was heard from it.
    pub silent: Duration,
    /// For how long it may be silent.
    pub bound: Duration,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no progress for {}s, allowed {}s", self.name, self.silent.as_secs(), self.bound.as_secs())
    }
}

impl Heartbeats {
    /// An empty register: all is well.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a loop that promises to beat at least every `bound`.
    pub fn watch_loop(&self, name: impl Into<String>, bound: Duration) -> Heartbeat {
        self.add(name.into(), Part::Loop { bound, last: Instant::now() })
    }

    /// Registers a watch, which is dead when its failures, with nothing good between them, span `bound`. A quiet watch
    /// is alive: its own time-outs turn a dead connection into an error.
    pub fn watch_stream(&self, name: impl Into<String>, bound: Duration) -> WatchHeartbeat {
        WatchHeartbeat(self.add(name.into(), Part::Watch { bound, failing: None }))
    }

    /// All parts that are not alive now.
    pub fn stale(&self) -> Vec<Stale> {
        let now = Instant::now();
        self.lock()
            .iter()
            .filter_map(|(name, part)| {
                let (bound, silent) = (part.bound(), part.silent(now));
                (silent > bound).then(|| Stale { name: name.clone(), silent, bound })
            })
            .collect()
    }

    /// For how long nothing good was heard from each part.
    pub fn silences(&self) -> Vec<(String, Duration)> {
        let now = Instant::now();
        self.lock().iter().map(|(name, part)| (name.clone(), part.silent(now))).collect()
    }

    fn add(&self, name: String, part: Part) -> Heartbeat {
        self.lock().insert(name.clone(), part);
        Heartbeat { register: self.clone(), name }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn bound(&self) -> Duration {
        match self {
            Part::Loop { bound, .. } | Part::Watch { bound, .. } => *bound,
        }
    }

    fn silent(&self, now: Instant) -> Duration {
        match self {
            Part::Loop { last, .. } => now.saturating_duration_since(*last),
            Part::Watch { failing: Some(failing), .. }
                if now.saturating_duration_since(failing.last) < WATCH_RECOVERED_AFTER =>
            {
                failing.last.saturating_duration_since(failing.since)
            }
            Part::Watch { .. } => Duration::ZERO,
        }
    }
}

/// The handle with which a loop shows that it is alive. Dropping it is not a goodbye: a loop that died stays stale.
pub struct Heartbeat {
    register: Heartbeats,
    name: String,
}

impl Heartbeat {
    /// Shows that the loop came round once more.
    pub fn beat(&self) {
        if let Some(Part::Loop { last, .. }) = self.register.lock().get_mut(&self.name) {
            *last = Instant::now();
        }
    }

    /// Ends the promise: the loop ended on purpose.
    pub fn retire(self) {
        self.register.lock().remove(&self.name);
    }
}

/// The handle with which a watch shows that it is alive.
pub struct WatchHeartbeat(Heartbeat);

impl WatchHeartbeat {
    /// Notes that something arrived (`true`) or that the watch failed (`false`).
    pub fn observe(&self, arrived: bool) {
        let now = Instant::now();
        if let Some(Part::Watch { failing, .. }) = self.0.register.lock().get_mut(&self.0.name) {
            *failing = match *failing {
                _ if arrived => None,
                Some(run) if now.saturating_duration_since(run.last) < WATCH_RECOVERED_AFTER => {
                    Some(Failing { last: now, ..run })
                }
                _ => Some(Failing { since: now, last: now }),
            };
        }
    }

    /// The same stream, its items noted as they pass.
    pub fn follow<T, E>(self, stream: impl Stream<Item = Result<T, E>>) -> impl Stream<Item = Result<T, E>> {
        stream.inspect(move |item| self.observe(item.is_ok()))
    }

    /// Ends the promise: the watch ended on purpose.
    pub fn retire(self) {
        self.0.retire();
    }
}

/// What must have happened before the process calls itself ready.
#[derive(Clone, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Readiness {
    /// No gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate: not ready until it is opened.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let name = name.into();
        self.lock().insert(name.clone(), false);
        Gate { readiness: self.clone(), name }
    }

    /// The gates still closed; ready when there are none.
    pub fn closed(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, open)| !**open).map(|(name, _)| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing that readiness waits for. Dropping it does not open it.
pub struct Gate {
    readiness: Readiness,
    name: String,
}

impl Gate {
    /// The thing happened.
    pub fn open(&self) {
        self.readiness.lock().insert(self.name.clone(), true);
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const BOUND: Duration = Duration::from_secs(90);

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stops_beating_is_named() {
        let register = Heartbeats::new();
        let planner = register.watch_loop("planner", BOUND);
        let poller = register.watch_loop("poller", BOUND);
        pass(89).await;
        poller.beat();
        pass(2).await;
        let stale = register.stale();
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].to_string(), "planner: no progress for 91s, allowed 90s");
        planner.beat();
        assert!(register.stale().is_empty());
        drop(planner);
        pass(91).await;
        assert_eq!(register.stale().len(), 2, "a dropped handle keeps its promise");
        poller.retire();
        assert_eq!(register.stale().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_watch_is_alive_and_one_that_only_fails_is_not() {
        let register = Heartbeats::new();
        let watch = register.watch_stream("pools", BOUND);
        pass(100_000).await;
        assert!(register.stale().is_empty(), "quiet is healthy");
        for _ in 0..10 {
            watch.observe(false);
            assert!(register.stale().is_empty());
            pass(10).await;
        }
        watch.observe(false);
        assert_eq!(register.stale()[0].silent, Duration::from_secs(100));
        watch.observe(true);
        assert!(register.stale().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_blip_before_a_long_quiet_is_no_failure() {
        let register = Heartbeats::new();
        let watch = register.watch_stream("pools", BOUND);
        watch.observe(false);
        for _ in 0..100 {
            pass(10).await;
            assert!(register.stale().is_empty());
        }
        watch.observe(false);
        assert!(register.stale().is_empty(), "a new run of failures starts anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_followed_stream_notes_what_passes() {
        let register = Heartbeats::new();
        let watch = register.watch_stream("pools", BOUND);
        let mut stream = Box::pin(watch.follow(stream::iter([Err(()), Err(()), Ok(1)])));
        stream.next().await;
        pass(91).await;
        stream.next().await;
        assert_eq!(register.stale()[0].name, "pools");
        stream.next().await;
        assert!(register.stale().is_empty());
    }

    #[test]
    fn ready_when_every_gate_was_opened() {
        let readiness = Readiness::new();
        assert!(readiness.closed().is_empty());
        let (caches, clouds) = (readiness.gate("caches"), readiness.gate("clouds"));
        caches.open();
        assert_eq!(readiness.closed(), ["clouds"]);
        drop(clouds);
        assert_eq!(readiness.closed(), ["clouds"]);
    }
}
