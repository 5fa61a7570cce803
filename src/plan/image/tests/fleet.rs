//! Many places at once, as a controller serves them: what is due is admitted, attempts take their time and some fail,
//! providers go down, the process dies. It checks the promises after every event.

use std::collections::BTreeSet;

use super::*;
use crate::plan::pressure::grown;

/// How long attempts take, in steps of ten minutes: two to nine.
const LONGEST: Duration = Duration::from_secs(9 * 600);
/// When an attempt that hangs is given up.
const BUILD_TIMEOUT: Duration = Duration::from_secs(4 * 3_600);

/// What a provider that is down does to attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// The operator knows, and starts none.
    NotConnected,
    /// Each start fails within a minute.
    Failing,
}

/// When a provider is down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) provider: usize,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) down: Down,
}

/// One image on one provider.
pub(super) struct Spot {
    pub(super) image: usize,
    pub(super) provider: usize,
    pub(super) kind: Kind,
    pub(super) lab: Lab,
    /// How many good versions there were from the start.
    given: usize,
    /// The longest that the schedule leaves between two runs.
    pub(super) period: Duration,
    /// The attempt that runs: its number, when it ends, and how.
    work: Option<(i64, Timestamp, bool)>,
    /// Every start so far.
    pub(super) starts: Vec<Begin>,
}

/// A start of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub(super) at: Timestamp,
    /// Why, unless it joined another that started.
    pub(super) why: Option<Why>,
    /// The scheduled run that comes next once it has ended well.
    pub(super) next: Timestamp,
    /// Whether it ended well, once it has ended.
    pub(super) good: Option<bool>,
}

/// All places, and what happens to them.
pub(super) struct Fleet {
    pub(super) now: Timestamp,
    pub(super) spots: Vec<Spot>,
    pub(super) bounds: Bounds,
    pub(super) outage: Option<Outage>,
    /// How many of a hundred attempts fail.
    pub(super) failing: u64,
    /// When the process dies.
    pub(super) restarts: Vec<Timestamp>,
    dice: u64,
    began: Timestamp,
    /// The most that were ever in flight.
    pub(super) busiest: usize,
    /// How many downloads, runs of a pod and snapshots there were.
    pub(super) efforts: usize,
}

pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(SignedDuration::try_from(by).unwrap()).unwrap()
}

impl Fleet {
    pub(super) fn new(now: Timestamp, bounds: Bounds) -> Self {
        Self {
            now,
            spots: Vec::new(),
            bounds,
            outage: None,
            failing: 0,
            restarts: Vec::new(),
            dice: 54,
            began: now,
            busiest: 0,
            efforts: 0,
        }
    }

    pub(super) fn add(&mut self, image: usize, provider: usize, kind: Kind, lab: Lab, period: Duration) {
        let given = lab.good().len();
        self.spots.push(Spot { image, provider, kind, lab, given, period, work: None, starts: Vec::new() });
    }

    /// A number that looks like chance and is the same in every run.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn down(&self, provider: usize) -> Option<Down> {
        let outage = self.outage.filter(|outage| outage.provider == provider)?;
        (outage.from <= self.now && self.now < outage.until).then_some(outage.down)
    }

    /// Lives until then, one event after another.
    pub(super) fn run_until(&mut self, end: Timestamp) {
        while self.now < end {
            self.end_work();
            self.die();
            self.look();
            self.check();
            self.now = self.next_event().min(end);
            for spot in &mut self.spots {
                spot.lab.now = self.now;
            }
        }
    }

    fn next_event(&self) -> Timestamp {
        let mut events: Vec<Timestamp> = self.restarts.clone();
        events.extend(self.outage.iter().flat_map(|outage| [outage.from, outage.until]));
        for spot in &self.spots {
            events.extend(spot.work.map(|(_, end, _)| end));
            if let Due::At(at) = spot.lab.due() {
                events.push(at);
            }
        }
        events.into_iter().filter(|at| *at > self.now).min().unwrap_or(Timestamp::MAX)
    }

    /// Ends attempts whose time has come; on a provider that is down they hang until they are given up.
    fn end_work(&mut self) {
        for index in 0..self.spots.len() {
            let down = self.down(self.spots[index].provider);
            let spot = &mut self.spots[index];
            let Some((number, end, good)) = spot.work.filter(|(_, end, _)| *end <= self.now) else { continue };
            if down.is_some() && good {
                spot.work = Some((number, after(end, BUILD_TIMEOUT), false));
                continue;
            }
            spot.work = None;
            spot.starts.last_mut().unwrap().good = Some(good);
            if good {
                spot.lab.finish(number);
            } else {
                spot.lab.fail(number);
            }
        }
    }

    /// The process dies and starts again: what it worked on was interrupted.
    fn die(&mut self) {
        if !self.restarts.contains(&self.now) {
            return;
        }
        for spot in &mut self.spots {
            if let Some((number, ..)) = spot.work.take() {
                spot.starts.last_mut().unwrap().good = Some(false);
                spot.lab.fail(number);
            }
        }
    }

    fn look(&mut self) {
        for index in 0..self.spots.len() {
            let up = self.down(self.spots[index].provider).is_none();
            let lab = &mut self.spots[index].lab;
            let good = lab.good();
            lab.history = settled(&lab.place());
            for index in lab.retire() {
                lab.versions[index].deleting = true;
            }
            if up {
                lab.versions.retain(|version| !version.deleting);
            }
            assert_eq!(lab.good(), good.into_iter().take(2).collect::<Vec<_>>(), "the two-version promise");
        }
        let candidates: Vec<Candidate> = self.spots.iter().filter_map(|spot| self.candidate(spot)).collect();
        for start in admit(&candidates, &self.in_flight(), self.bounds) {
            self.efforts += 1;
            let (time, fails) = (2 + self.roll(8), self.roll(100) < self.failing);
            for provider in start.providers {
                self.start(start.image, provider, time * 600, !fails);
            }
        }
    }

    fn in_flight(&self) -> Vec<Pair> {
        let busy = self.spots.iter().filter(|spot| spot.work.is_some());
        busy.map(|spot| Pair { image: spot.image, provider: spot.provider }).collect()
    }

    fn candidate(&self, spot: &Spot) -> Option<Candidate> {
        if self.down(spot.provider) == Some(Down::NotConnected) {
            return None;
        }
        let place = spot.lab.place();
        let (due_since, joinable) = match due_since(&place) {
            Some(since) => (since, false),
            None => (joinable(&place)?, true),
        };
        Some(Candidate { image: spot.image, provider: spot.provider, due_since, kind: spot.kind, joinable })
    }

    fn start(&mut self, image: usize, provider: usize, seconds: u64, good: bool) {
        let down = self.down(provider).is_some();
        let found = self.spots.iter_mut().find(|spot| (spot.image, spot.provider) == (image, provider));
        let spot = found.unwrap();
        let why = match spot.lab.due() {
            Due::Now(why) => Some(why),
            Due::At(run) if spot.kind != Kind::Snapshot && run <= after(self.now, spot.lab.jitter) => None,
            other => panic!("started, but {other:?}"),
        };
        let number = spot.lab.start();
        let (seconds, good) = if down { (60, false) } else { (seconds, good) };
        spot.work = Some((number, after(self.now, Duration::from_secs(seconds)), good));
        let last = spot.lab.history.anticipated.unwrap_or(self.now);
        let next = spot.lab.schedule.next_after(last, spot.lab.offset).unwrap();
        spot.starts.push(Begin { at: self.now, why, next, good: None });
    }

    /// What holds after every event.
    fn check(&mut self) {
        let in_flight = self.in_flight();
        self.busiest = self.busiest.max(in_flight.len());
        assert!(in_flight.len() <= self.bounds.in_all as usize);
        for provider in in_flight.iter().map(|pair| pair.provider).collect::<BTreeSet<_>>() {
            let there = in_flight.iter().filter(|pair| pair.provider == provider).count();
            assert!(there <= self.bounds.per_provider as usize);
        }
        for spot in &self.spots {
            assert!(spot.lab.in_flight() <= 1, "rule 9");
            let staying = spot.lab.versions.iter().filter(|version| !version.is_leaving()).count();
            assert!(staying <= 2 + 1 + 1, "two good ones, one that failed, one that is made");
            let succeeded = spot.starts.iter().filter(|begin| begin.good == Some(true)).count();
            assert_eq!(spot.lab.good().len(), (spot.given + succeeded).min(2), "the two-version promise");
        }
    }

    /// Asserts that a place is as fresh as it can be: no older than the schedule allows, and the attempts and pauses
    /// since.
    pub(super) fn check_freshness(&self, provider: usize) {
        for spot in self.spots.iter().filter(|spot| spot.provider == provider) {
            let failures = spot.lab.history.failures;
            let pauses: Duration =
                (1..=failures).map(|times| grown(Duration::from_secs(10), times, Duration::from_secs(3_600))).sum();
            let newest = spot.lab.good().first().map(|number| second(*number));
            // Who joined others early has the next run at its own time.
            let early = if spot.kind == Kind::Snapshot { Duration::ZERO } else { spot.lab.jitter };
            let period = newest.map_or(Duration::ZERO, |_| spot.period + early);
            let allowed = period + pauses + LONGEST * (failures + 1);
            let age = self.now.duration_since(newest.unwrap_or(self.began));
            assert!(age <= SignedDuration::try_from(allowed).unwrap(), "{} on {}: {age}", spot.image, provider);
        }
    }
}
