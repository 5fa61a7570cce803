//! What a build prints: its last lines, however much it prints.
//!
//! A build may print faster than anybody reads (rule 13): its lines are kept beside the engine, in bounded memory, and
//! the engine takes what is there when it comes to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::super::index::Key;
use super::super::{Arrival, Engine};
use super::work::{News, tell};

/// The longest output that is kept; the schema's bound.
const BYTES: usize = 8192;
/// How many lines of one build are logged in a second.
const LOGGED: u32 = 50;

/// The output of one build.
pub(super) struct Output {
    key: Key,
    uid: String,
    report: Box<dyn Fn(Arrival) + Send + Sync>,
    kept: Arc<Mutex<Kept>>,
    /// The engine was told, and did not come to it yet.
    told: Arc<AtomicBool>,
}

struct Kept {
    tail: String,
    since: Instant,
    logged: u32,
}

impl Output {
    pub(super) fn new(key: Key, uid: String, report: impl Fn(Arrival) + Send + Sync + 'static) -> Self {
        let kept = Kept { tail: String::new(), since: Instant::now(), logged: 0 };
        Self { key, uid, report: Box::new(report), kept: Arc::new(Mutex::new(kept)), told: Arc::default() }
    }

    /// It printed a line.
    pub(super) fn line(&self, line: &str) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).line(&self.key, line);
        if self.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let (key, uid) = (self.key.clone(), self.uid.clone());
        let (kept, told) = (Arc::clone(&self.kept), Arc::clone(&self.told));
        (self.report)(Box::new(move |engine: &mut Engine| {
            told.store(false, Ordering::SeqCst);
            let tail = kept.lock().unwrap_or_else(PoisonError::into_inner).tail.clone();
            tell(engine, &key, &uid, News::Printed(tail));
        }));
    }
}

impl Kept {
    fn line(&mut self, key: &Key, line: &str) {
        self.tail.push_str(line);
        self.tail.push('\n');
        let start = self.tail.ceil_char_boundary(self.tail.len().saturating_sub(BYTES));
        self.tail.drain(..start);
        if self.since.elapsed() >= Duration::from_secs(1) {
            if self.logged > LOGGED {
                tracing::info!(version = %key, lines = self.logged - LOGGED, "more of the build's lines were not logged");
            }
            (self.since, self.logged) = (Instant::now(), 0);
        }
        self.logged = self.logged.saturating_add(1);
        if self.logged <= LOGGED {
            tracing::info!(version = %key, line, "build");
        }
    }
}
