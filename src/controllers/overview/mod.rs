//! What a person wants to see at a glance: providers, images with their ages, pools and waiting requests.
//!
//! [`gather`] takes it from the records that the engine holds, as the figures do; [`Board`] hands it to whoever is asked
//! for the page, which `page` writes. It shows nothing that the figures or `kubectl get` of our kinds do not show, apart from when a
//! cloud was last listed, and asks nobody: neither the API server nor a cloud, and never for a Secret. Each list is cut, so that
//! neither ten thousand records nor a hostile text make the page large or slow.

mod ages;
mod gather;
mod page;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;

use super::index::Key;
use crate::api::ImageState;
use crate::api::provider::LeakKind;

pub use self::gather::gather;
pub use self::page::{STYLE, render};

/// How many rows of each kind are shown, the most urgent first.
const ROWS: usize = 100;
/// How many characters of a message are shown; `kubectl describe` has the rest.
const MESSAGE: usize = 200;

/// What a replica has to show.
#[derive(Clone, Debug)]
pub enum View {
    /// Another replica acts, and this one reads no records.
    Standby {
        /// Who acts, if that is known.
        leader: Option<String>,
    },
    /// This replica acts, and has not read all records once.
    Starting,
    /// What the records say.
    Facts {
        /// As of some seconds ago.
        overview: Arc<Overview>,
        /// What has made no progress for so long that the facts may be old, in words.
        silent: Vec<String>,
    },
}

/// The newest overview. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<RwLock<Option<Arc<Overview>>>>);

impl Board {
    /// From now on this is the newest.
    pub fn show(&self, overview: Overview) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(overview));
    }

    /// The newest; none before all records were read.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Overview>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything the page shows, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// The moment.
    pub at: Timestamp,
    /// Whether names need their namespace: more than one is served.
    pub qualified: bool,
    /// All Providers together.
    pub servers: Servers,
    /// How many ready and unclaimed nodes all Pools should have.
    pub min_ready: i64,
    /// When the oldest of all current versions was made.
    pub oldest_image: Option<Timestamp>,
    /// When the oldest request that waits was made.
    pub oldest_request: Option<Timestamp>,
    /// The Providers.
    pub providers: Rows<ProviderRow>,
    /// Each image on each Provider.
    pub images: Rows<ImageRow>,
    /// The Pools.
    pub pools: Rows<PoolRow>,
    /// The requests that wait.
    pub requests: Rows<RequestRow>,
    /// Records whose newest form cannot be read, such as `Pool ci/small`.
    pub unreadable: Rows<String>,
}

/// Some of many.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    /// The first of them.
    pub shown: Vec<T>,
    /// How many there are.
    pub total: usize,
    /// How many of all need a person.
    pub bad: usize,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { shown: Vec::new(), total: 0, bad: 0 }
    }
}

impl<T> Rows<T> {
    /// The first of `rows`, which are in order.
    fn first(mut rows: Vec<T>) -> Self {
        let total = rows.len();
        rows.truncate(ROWS);
        Self { shown: rows, total, bad: 0 }
    }
}

impl<T: Row> Rows<T> {
    /// The most urgent of `rows`, then by name: what needs a person must not be among those that are cut off.
    fn most_urgent(mut rows: Vec<T>) -> Self {
        rows.sort_by(|a, b| (Reverse(a.health()), a.name()).cmp(&(Reverse(b.health()), b.name())));
        let bad = rows.iter().filter(|row| row.health() == Health::Bad).count();
        Self { bad, ..Self::first(rows) }
    }
}

/// Something with a name that is well or not.
pub trait Row {
    /// By what rows of one health are ordered.
    fn name(&self) -> (&Key, &str);
    /// What is said of it, the main thing first.
    fn verdicts(&self) -> &[Verdict];
    /// The worst that is said of it.
    fn health(&self) -> Health {
        self.verdicts().iter().map(|verdict| verdict.health).max().unwrap_or(Health::Good)
    }
}

/// How urgent something is; the most urgent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Good,
    /// Stopped by a person.
    Off,
    /// On its way, or not known yet.
    Busy,
    /// It needs a person.
    Bad,
}

/// One thing that is said of a record: mostly a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How urgent it is.
    pub health: Health,
    /// One word.
    pub word: String,
    /// A sentence; empty when there is nothing to say.
    pub message: String,
    /// Since when it has been so.
    pub since: Option<Timestamp>,
}

/// Servers, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// The most that may exist, or that are wanted.
    pub max: i64,
    /// All of them, whatever the state.
    pub used: i64,
    /// Reachable and unused.
    pub ready: i64,
    /// Requested or booting.
    pub building: i64,
    /// Given to a request.
    pub in_use: i64,
    /// Kept for a person to look at.
    pub held: i64,
    /// Not yet proven gone.
    pub deleting: i64,
}

/// One Provider.
#[derive(Clone, Debug)]
pub struct ProviderRow {
    /// Its name.
    pub key: Key,
    /// `Ready`, and what else is not as it should be.
    pub verdicts: Vec<Verdict>,
    /// Its slots.
    pub servers: Servers,
    /// When its cloud was listed last.
    pub listed: Option<Timestamp>,
    /// What carries our mark there and has no record.
    pub leaks: Vec<(LeakKind, usize)>,
}

/// One image on one Provider.
#[derive(Clone, Debug)]
pub struct ImageRow {
    /// The DiskImage.
    pub key: Key,
    /// The Provider.
    pub provider: String,
    /// How fresh it is.
    pub verdicts: Vec<Verdict>,
    /// The version that new nodes boot from.
    pub current: Option<String>,
    /// When that was made.
    pub built: Option<Timestamp>,
    /// When the next one is made.
    pub next: Option<Timestamp>,
    /// The version that is being made, and percent of it that are done.
    pub making: Option<(ImageState, Option<i32>)>,
    /// How many attempts failed in a row.
    pub failures: i32,
}

/// One Pool.
#[derive(Clone, Debug)]
pub struct PoolRow {
    /// Its name.
    pub key: Key,
    /// `Available`, and what else is not as it should be.
    pub verdicts: Vec<Verdict>,
    /// Its nodes; `max` is what may be of it.
    pub servers: Servers,
    /// How many ready and unclaimed nodes it should have.
    pub min_ready: i32,
    /// Whether `maxNodes` limits it.
    pub limited: bool,
    /// The DiskImage its nodes boot from.
    pub image: String,
}

/// One request that waits.
#[derive(Clone, Debug)]
pub struct RequestRow {
    /// Its name.
    pub key: Key,
    /// When it was made.
    pub since: Option<Timestamp>,
    /// Its place in the queue.
    pub position: Option<i32>,
    /// How many nodes of which Pool it wants.
    pub wants: Vec<(String, i32)>,
    /// How many more Pools it names.
    pub wants_more: usize,
    /// What it waits for.
    pub why: Option<Verdict>,
}

impl Row for ProviderRow {
    fn name(&self) -> (&Key, &str) {
        (&self.key, "")
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}

impl Row for ImageRow {
    fn name(&self) -> (&Key, &str) {
        (&self.key, &self.provider)
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}

impl Row for PoolRow {
    fn name(&self) -> (&Key, &str) {
        (&self.key, "")
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}
