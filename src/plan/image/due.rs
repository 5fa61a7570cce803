//! When the next version of an image is made on a provider, and why.
//!
//! One attempt at a time (rule 9). A failed one is repeated after a pause that grows, and no schedule makes it sooner;
//! missed runs are made up once. A version that a person deleted or rejected is followed by the next scheduled one and
//! not before, unless it was the last good one. It never builds for a place that is suspended or no longer wanted.

use std::time::Duration;

use jiff::Timestamp;

use super::retention::current;
use super::{History, Place, Version};
use crate::plan::pressure::{grown, later};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause: what was mended elsewhere is noticed within the hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// When the next version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now(Why),
    /// Not before then, if nothing changes.
    At(Timestamp),
    /// One is being made.
    InFlight,
    /// None until that ends; what is asked for until then is not forgotten.
    Suspended,
    /// Never: the image is no longer wanted here, or its schedule does not come again.
    Never,
}

/// Why a version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none yet, and no attempt at one.
    FirstTime,
    /// It is made of something else now.
    SourceChanged,
    /// The annotation asks for it.
    Requested,
    /// Every good version was deleted or rejected.
    NoneLeft,
    /// The last attempt failed.
    Retry,
    /// The schedule says so.
    Scheduled,
}

/// Answers for one place.
#[must_use]
pub fn due(place: &Place<'_>) -> Due {
    match next(place) {
        Ok((why, at)) if at <= place.now => Due::Now(why),
        Ok((_, at)) => Due::At(at),
        Err(none) => none,
    }
}

/// Since when the version that is due now has been wanted, for [`super::admit`] to order by; `None` when none is due.
///
/// It stays the same until an attempt starts, so that waiting is never for nothing. A place that has nothing yet has
/// waited longest of all; where nobody wrote down when a version began to be wanted, the last attempt's start stands.
#[must_use]
pub fn due_since(place: &Place<'_>) -> Option<Timestamp> {
    next(place).ok().map(|(_, since)| since).filter(|since| *since <= place.now)
}

/// When the next scheduled run of a place comes, if that is after now but no more than the jitter away: the place may
/// then join another of its image that starts now, when one file serves both.
#[must_use]
pub fn joinable(place: &Place<'_>) -> Option<Timestamp> {
    match next(place) {
        Ok((Why::Scheduled, run)) if run > place.now && run <= later(place.now, place.jitter) => Some(run),
        _ => None,
    }
}

/// Why the next version will be made, and from when on; or why none will.
fn next(place: &Place<'_>) -> Result<(Why, Timestamp), Due> {
    if !place.listed {
        return Err(Due::Never);
    }
    if place.versions.iter().any(Version::is_in_flight) {
        return Err(Due::InFlight);
    }
    if place.suspended {
        return Err(Due::Suspended);
    }
    wanted(place).ok_or(Due::Never)
}

/// What a place that is free to have one wants next; `None` when its schedule does not come again.
fn wanted(place: &Place<'_>) -> Option<(Why, Timestamp)> {
    let history = settled(place);
    let Some(started) = history.started else { return Some((Why::FirstTime, Timestamp::MIN)) };
    if history.source.as_deref().is_some_and(|source| source != place.source) {
        return Some((Why::SourceChanged, started));
    }
    if is_asked(place, &history) {
        return Some((Why::Requested, started));
    }
    if let Some(failed_at) = history.failed_at {
        let corrected = history.generation.is_some_and(|generation| generation != place.generation);
        let pause = if corrected { Duration::ZERO } else { grown(FIRST_PAUSE, history.failures, LONGEST_PAUSE) };
        return Some((Why::Retry, later(failed_at, pause)));
    }
    if current(place.versions).is_none() {
        return Some((Why::NoneLeft, started));
    }
    let last_run = history.anticipated.map_or(started, |run| run.max(started));
    place.schedule.next_after(last_run, place.offset).map(|at| (Why::Scheduled, at))
}

/// Whether the annotation asks for a version that no attempt was made at yet.
fn is_asked(place: &Place<'_>, history: &History) -> bool {
    place.rebuild.is_some() && place.rebuild != history.rebuild.as_deref()
}

/// Whether a version is made even of a source that has not changed: somebody asks for it, or asked and got none.
#[must_use]
pub fn is_insisted(place: &Place<'_>) -> bool {
    place.history.rebuild_pending || is_asked(place, place.history)
}

/// What is remembered, put right by what the records and the clock say. The caller keeps it in the status: a time that
/// lies ahead is taken as now, and that must happen once, or the next run would recede for as long as it lies ahead.
///
/// The record of an attempt is written before the status: a process that died in between started an attempt, or saw it
/// fail, that only the record tells of. A record whose number lies ahead tells no time, only the order.
#[must_use]
pub fn settled(place: &Place<'_>) -> History {
    let history = place.history;
    let started = last_start(place);
    let failed_at = history.failed_at.filter(|_| history.is_failed()).map(|at| at.min(place.now));
    // A record of a later attempt: the failure that is remembered was an earlier one's.
    let failed_at = failed_at.filter(|at| started.is_none_or(|started| *at >= started));
    // A run that was anticipated from a start that lies ahead is nowhere near.
    let anticipated = history.anticipated.filter(|_| history.started.is_some_and(|at| at <= place.now));
    let mut settled = History { started, failed_at, anticipated, ..history.clone() };
    let newest = started.and_then(|started| newest(place, started));
    let answered = place.answered.filter(|_| newest.is_some_and(|newest| newest.number <= place.now.as_second()));
    if answered.is_some() && answered != history.rebuild.as_deref() {
        (settled.rebuild, settled.rebuild_pending) = (answered.map(str::to_owned), true);
    }
    match started {
        Some(started) if is_failure_unwritten(place, started) => settled.failed(started),
        _ => settled,
    }
}

fn last_start(place: &Place<'_>) -> Option<Timestamp> {
    let numbers = place.versions.iter().filter_map(|version| Timestamp::from_second(version.number).ok());
    let recorded = numbers.filter(|at| *at <= place.now).max();
    let remembered = place.history.started.map(|at| at.min(place.now));
    // Records without any time to go by: something was made here, and the schedule goes on from now.
    remembered.max(recorded).or_else(|| (!place.versions.is_empty()).then_some(place.now))
}

/// The newest record, if it is of the last attempt.
fn newest<'a>(place: &Place<'a>, started: Timestamp) -> Option<&'a Version> {
    let newest = place.versions.iter().max_by_key(|version| version.number);
    newest.filter(|newest| newest.number >= started.as_second())
}

/// Whether the last attempt's record tells that it failed.
fn is_failure_unwritten(place: &Place<'_>, started: Timestamp) -> bool {
    // One that a person rejected while it was made is no failure: the next one comes when the schedule says so.
    newest(place, started).is_some_and(|newest| newest.came_to_nothing() && !newest.rejected)
}

/// What is remembered once an attempt starts at a place, asked before its record is there. All that was asked for until
/// now is thereby handled; one that joins others before its own run needs that run no more. The pauses begin anew when
/// the spec was changed.
#[must_use]
pub fn begun(place: &Place<'_>) -> History {
    let before = settled(place);
    let same = before.generation.is_none_or(|generation| generation == place.generation);
    History {
        started: Some(place.now),
        source: Some(place.source.to_owned()),
        generation: Some(place.generation),
        failures: if same { before.failures } else { 0 },
        failed_at: None,
        anticipated: joinable(place).max(before.anticipated).filter(|run| *run > place.now),
        rebuild_pending: is_insisted(place),
        rebuild: place.rebuild.map(str::to_owned).or(before.rebuild),
    }
}

/// The number of the version that is started now: the time in seconds, but always higher than every recorded one, for
/// the newest would not be the newest if the clock was set back.
#[must_use]
pub fn next_number(place: &Place<'_>) -> i64 {
    let after = place.versions.iter().map(|version| version.number.saturating_add(1)).max();
    after.unwrap_or(1).max(place.now.as_second()).max(1)
}
