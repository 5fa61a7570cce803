//! Places made by hand, and what becomes of them.

mod bounds;
mod due;
mod fleet;
mod health;
mod lives;
mod month;
mod retention;
mod story;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;

/// When the schedule of a place says, unless a test says otherwise: nodepool's own default.
const NIGHTLY: &str = "14 2 * * *";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A good version.
fn version(number: i64) -> Version {
    Version { number, state: State::Ready, rejected: false, deleting: false, managed: true, booting: false }
}

fn in_state(number: i64, state: State) -> Version {
    Version { state, ..version(number) }
}

/// One that a person rejected, once its record shows it.
fn rejected(number: i64) -> Version {
    Version { rejected: true, ..in_state(number, State::Rejected) }
}

/// A place that owns what it is made of.
#[derive(Clone, Debug)]
struct Lab {
    now: Timestamp,
    versions: Vec<Version>,
    retain: usize,
    suspended: bool,
    listed: bool,
    source: String,
    generation: i64,
    schedule: Schedule,
    jitter: Duration,
    offset: Duration,
    history: History,
    rebuild: Option<String>,
    /// What each attempt was begun for.
    answered: Vec<(i64, Option<String>)>,
}

impl Lab {
    /// A place where nothing was ever made.
    fn new(now: Timestamp) -> Self {
        Self {
            now,
            versions: Vec::new(),
            retain: 2,
            suspended: false,
            listed: true,
            source: "v1".to_owned(),
            generation: 1,
            schedule: Schedule::parse(NIGHTLY, None).unwrap(),
            jitter: Duration::ZERO,
            offset: Duration::ZERO,
            history: History::default(),
            rebuild: None,
            answered: Vec::new(),
        }
    }

    /// A place at noon whose two versions were made in the last two nights.
    fn satisfied() -> Self {
        let (older, newer) = (time("2014-03-09T02:14:00Z"), time("2014-03-10T02:14:00Z"));
        let mut lab = Self::new(time("2014-03-10T12:00:00Z"));
        lab.versions = vec![version(older.as_second()), version(newer.as_second())];
        lab.history = History {
            started: Some(newer),
            source: Some(lab.source.clone()),
            generation: Some(lab.generation),
            ..History::default()
        };
        lab
    }

    /// A place at noon whose last attempts, so many, failed, the last one at 02:30.
    fn failing(failures: u32) -> Self {
        let mut lab = Self::satisfied();
        lab.history.failures = failures;
        lab.history.failed_at = Some(time("2014-03-10T02:30:00Z"));
        lab.versions[1].state = State::Failed;
        lab
    }

    fn place(&self) -> Place<'_> {
        Place {
            now: self.now,
            versions: &self.versions,
            retain: self.retain,
            suspended: self.suspended,
            listed: self.listed,
            source: &self.source,
            generation: self.generation,
            schedule: &self.schedule,
            jitter: self.jitter,
            offset: self.offset,
            history: &self.history,
            rebuild: self.rebuild.as_deref(),
            answered: self.answered(),
        }
    }

    fn answered(&self) -> Option<&str> {
        let newest = self.versions.iter().map(|version| version.number).max()?;
        self.answered.iter().find(|(number, _)| *number == newest)?.1.as_deref()
    }

    fn due(&self) -> Due {
        due(&self.place())
    }

    fn retire(&self) -> Vec<usize> {
        retire(&self.place())
    }

    /// The numbers of the versions that nodes may be booted from, the newest first.
    fn good(&self) -> Vec<i64> {
        good(&self.versions).into_iter().map(|index| self.versions[index].number).collect()
    }

    fn in_flight(&self) -> usize {
        self.versions.iter().filter(|version| version.is_in_flight()).count()
    }

    fn find(&mut self, number: i64) -> Option<&mut Version> {
        self.versions.iter_mut().find(|version| version.number == number)
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.checked_add(SignedDuration::try_from(by).unwrap()).unwrap();
    }

    /// An attempt starts as a caller starts it: the record, then the status.
    fn start(&mut self) -> i64 {
        let (number, history) = (next_number(&self.place()), begun(&self.place()));
        self.versions.push(in_state(number, State::Building));
        self.answered.push((number, self.rebuild.clone()));
        self.history = history;
        number
    }

    /// The attempt at a version ends well.
    fn finish(&mut self, number: i64) {
        self.find(number).unwrap().state = State::Ready;
        self.history = settled(&self.place()).succeeded();
    }

    /// It does not.
    fn fail(&mut self, number: i64) {
        self.find(number).unwrap().state = State::Failed;
        self.history = settled(&self.place()).failed(self.now);
    }
}
