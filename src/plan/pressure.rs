//! When to launch less: a cloud that refuses, and an image whose launches mostly fail (rule 3).
//!
//! Refusals are back-pressure on the provider, not failures of a pool: one probe per growing step. Launch health
//! remembers the last results of one image on one provider. Neither ever says to launch more.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The first back-off step; each further refusal doubles it.
const FIRST_STEP: Duration = Duration::from_secs(5);
/// The longest step: a cloud that has room again is noticed within five minutes.
const LONGEST_STEP: Duration = Duration::from_secs(300);
/// How many launches are remembered.
const WINDOW: usize = 10;
/// How many failures are needed before anything is called unhealthy: one bad host is no bad image.
const FEWEST_FAILURES: usize = 3;

/// Whether a launch is allowed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As many as wanted.
    Open,
    /// One at a time.
    Probe,
    /// None before then.
    ClosedUntil(Timestamp),
}

/// Back-pressure of one provider, or of one flavor on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    refusals: u32,
    until: Option<Timestamp>,
}

impl Pressure {
    /// A launch was refused. Refusals inside a step that is already running are answers to launches that were sent
    /// before it began: they do not make it longer.
    pub fn refused(&mut self, now: Timestamp, retry_after: Option<Duration>) {
        let running = self.until.is_some_and(|until| now < until);
        let mut wait = retry_after.unwrap_or_default();
        if !running {
            self.refusals = self.refusals.saturating_add(1);
            wait = wait.max(grown(FIRST_STEP, self.refusals, LONGEST_STEP));
        }
        self.until = self.until.max(Some(later(now, wait)));
    }

    /// A launch was accepted: everything is as it was.
    pub fn accepted(&mut self) {
        *self = Self::default();
    }

    /// Whether there is back-pressure at all.
    #[must_use]
    pub const fn active(&self) -> bool {
        self.until.is_some()
    }

    /// Whether a launch is allowed now.
    #[must_use]
    pub fn answer(&self, now: Timestamp) -> Answer {
        match self.until {
            None => Answer::Open,
            Some(until) if now < until => Answer::ClosedUntil(until),
            Some(_) => Answer::Probe,
        }
    }
}

/// The last launches of one template on one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    results: VecDeque<bool>,
    steps: u32,
    until: Option<Timestamp>,
}

impl Health {
    /// A launch ended in a ready node, or did not.
    pub fn record(&mut self, good: bool, now: Timestamp) {
        self.results.push_back(good);
        if self.results.len() > WINDOW {
            self.results.pop_front();
        }
        if good {
            self.steps = 0;
            self.until = None;
            return;
        }
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        if self.unhealthy() {
            self.steps = self.steps.saturating_add(1);
            self.until = Some(later(now, grown(FIRST_STEP, self.steps, LONGEST_STEP)));
        }
    }

    /// How many of the remembered launches failed, and how many are remembered.
    #[must_use]
    pub fn failed(&self) -> (usize, usize) {
        (self.results.iter().filter(|good| !**good).count(), self.results.len())
    }

    /// Whether the recent launches mostly failed.
    #[must_use]
    pub fn unhealthy(&self) -> bool {
        let (failed, of) = self.failed();
        failed >= FEWEST_FAILURES && failed * 2 > of
    }

    /// Whether the newest launch ended in a ready node.
    #[must_use]
    pub fn last_was_good(&self) -> bool {
        self.results.back().is_some_and(|good| *good)
    }

    /// Whether the newest launch did not.
    #[must_use]
    pub fn last_was_bad(&self) -> bool {
        self.results.back().is_some_and(|good| !*good)
    }

    /// Whether a launch is allowed now.
    #[must_use]
    pub fn answer(&self, now: Timestamp) -> Answer {
        match self.until {
            Some(until) if now < until => Answer::ClosedUntil(until),
            _ if self.unhealthy() => Answer::Probe,
            _ => Answer::Open,
        }
    }
}

/// `first` doubled for every repetition after the first, at most `longest`.
#[must_use]
pub fn grown(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1u32.checked_shl(times.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

/// The time after that long; the end of time, when there is none.
#[must_use]
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_394_417_686 + seconds).unwrap()
    }

    #[test]
    fn probes_grow_and_one_success_ends_them() {
        let mut pressure = Pressure::default();
        assert_eq!(pressure.answer(at(0)), Answer::Open);
        pressure.refused(at(0), None);
        assert_eq!(pressure.answer(at(4)), Answer::ClosedUntil(at(5)));
        assert_eq!(pressure.answer(at(5)), Answer::Probe);
        pressure.refused(at(5), None);
        assert_eq!(pressure.answer(at(14)), Answer::ClosedUntil(at(15)));
        pressure.accepted();
        assert_eq!(pressure.answer(at(14)), Answer::Open);
    }

    #[test]
    fn a_burst_of_refusals_is_one_step() {
        let mut pressure = Pressure::default();
        for _ in 0..50 {
            pressure.refused(at(0), None);
        }
        assert_eq!(pressure.answer(at(5)), Answer::Probe);
    }

    #[test]
    fn retry_after_is_obeyed_when_it_is_longer() {
        let mut pressure = Pressure::default();
        pressure.refused(at(0), Some(Duration::from_secs(60)));
        assert_eq!(pressure.answer(at(59)), Answer::ClosedUntil(at(60)));
        assert_eq!(pressure.answer(at(60)), Answer::Probe);
    }

    #[test]
    fn a_burst_of_requests_for_silence_is_one_step() {
        let mut pressure = Pressure::default();
        for _ in 0..50 {
            pressure.refused(at(0), Some(Duration::from_secs(1)));
        }
        assert_eq!(pressure.answer(at(5)), Answer::Probe);
        pressure.refused(at(5), Some(Duration::from_secs(30)));
        pressure.refused(at(6), Some(Duration::from_secs(60)));
        assert_eq!(pressure.answer(at(65)), Answer::ClosedUntil(at(66)));
    }

    #[test]
    fn steps_never_pass_five_minutes() {
        let mut pressure = Pressure::default();
        let mut now = at(0);
        for _ in 0..40 {
            pressure.refused(now, None);
            let Answer::ClosedUntil(until) = pressure.answer(now) else { panic!("open after a refusal") };
            assert!(until.duration_since(now) <= SignedDuration::from_secs(300));
            now = until;
        }
    }

    #[test]
    fn one_bad_host_is_no_bad_image() {
        let mut health = Health::default();
        health.record(false, at(0));
        health.record(false, at(1));
        assert_eq!(health.answer(at(1)), Answer::Open);
        health.record(false, at(2));
        assert!(health.unhealthy());
        assert_eq!(health.answer(at(2)), Answer::ClosedUntil(at(7)));
        assert!(health.last_was_bad() && !health.last_was_good());
    }

    #[test]
    fn mostly_failing_is_probed_and_heals() {
        let mut health = Health::default();
        for second in 0..3 {
            health.record(false, at(second));
        }
        assert_eq!(health.answer(at(300)), Answer::Probe);
        for second in 300..304 {
            health.record(true, at(second));
        }
        assert_eq!(health.answer(at(305)), Answer::Open);
        assert_eq!(health.failed(), (3, 7));
    }
}
