//! Which of the versions that are due start now: a few on each provider, a few in all, the longest overdue first.
//!
//! At most one on each image × provider (rule 9). A provider that is full holds up no other: what is due there is
//! passed over (rule 13), so keep the bound of one provider well below the bound of all. Nobody starves: what has
//! waited longest is next, and an attempt, good or bad, sends its place back to the end of the queue.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// How a version is made, as far as it can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A snapshot of a server of the provider itself: each for its own.
    Snapshot,
    /// A file that is fetched: once for all that start together.
    Url,
    /// A file that a pod leaves: once for all that start together.
    Job,
}

/// A version that is due on one image × provider, or that will be soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the image.
    pub image: usize,
    /// Index of the provider.
    pub provider: usize,
    /// Since when it has been due ([`super::due_since`]); of a `joinable` one, when it will be ([`super::joinable`]).
    pub due_since: Timestamp,
    /// How it is made.
    pub kind: Kind,
    /// Not due yet, but its next scheduled run lies so near that it may join another of its image that starts now, for
    /// the same file serves both. It never starts by itself.
    pub joinable: bool,
}

/// One image on one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Index of the image.
    pub image: usize,
    /// Index of the provider.
    pub provider: usize,
}

/// How many may be in flight. Each image × provider counts as one, shared or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// On each provider.
    pub per_provider: u32,
    /// In all.
    pub in_all: u32,
}

/// Versions that start now, made from one snapshot, one download or one run of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Index of the image.
    pub image: usize,
    /// How they are made.
    pub kind: Kind,
    /// Indexes of the providers, the longest overdue first; exactly one of a snapshot.
    pub providers: Vec<usize>,
}

/// Answers which start now, beside those in flight, in the order in which they became due.
#[must_use]
pub fn admit(candidates: &[Candidate], in_flight: &[Pair], bounds: Bounds) -> Vec<Start> {
    let mut room = Room::new(in_flight, bounds);
    let mut starts = Vec::new();
    // Those that are due come first: who joins takes only what they leave.
    for candidate in queue(candidates, false) {
        if room.take(candidate) {
            add(&mut starts, candidate);
        }
    }
    for candidate in queue(candidates, true) {
        let joins = starts.iter().any(|start| is_shared_by(start, candidate));
        if joins && room.take(candidate) {
            add(&mut starts, candidate);
        }
    }
    starts
}

fn queue(candidates: &[Candidate], joinable: bool) -> Vec<Candidate> {
    let mut queue: Vec<Candidate> =
        candidates.iter().filter(|candidate| candidate.joinable == joinable).copied().collect();
    queue.sort_by_key(|candidate| (candidate.due_since, candidate.image, candidate.provider));
    queue
}

fn is_shared_by(start: &Start, candidate: Candidate) -> bool {
    candidate.kind != Kind::Snapshot && start.kind == candidate.kind && start.image == candidate.image
}

fn add(starts: &mut Vec<Start>, candidate: Candidate) {
    match starts.iter_mut().find(|start| is_shared_by(start, candidate)) {
        Some(start) => start.providers.push(candidate.provider),
        None => {
            starts.push(Start { image: candidate.image, kind: candidate.kind, providers: vec![candidate.provider] })
        }
    }
}

/// What the bounds leave.
struct Room {
    bounds: Bounds,
    taken: BTreeSet<Pair>,
    on: BTreeMap<usize, u32>,
}

impl Room {
    fn new(in_flight: &[Pair], bounds: Bounds) -> Self {
        let mut room = Self { bounds, taken: BTreeSet::new(), on: BTreeMap::new() };
        in_flight.iter().for_each(|&pair| room.enter(pair));
        room
    }

    fn enter(&mut self, pair: Pair) {
        if self.taken.insert(pair) {
            *self.on.entry(pair.provider).or_default() += 1;
        }
    }

    fn take(&mut self, candidate: Candidate) -> bool {
        let pair = Pair { image: candidate.image, provider: candidate.provider };
        let in_all = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        let there = self.on.get(&pair.provider).copied().unwrap_or(0);
        let fits = in_all < self.bounds.in_all && there < self.bounds.per_provider;
        if fits && !self.taken.contains(&pair) {
            self.enter(pair);
            return true;
        }
        false
    }
}
