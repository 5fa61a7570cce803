//! The versions of one image on one provider: when the next is made, which is booted from, which go, and which was a
//! mistake (rules 7, 8, 9, 14).
//!
//! Each answer follows from the records, from what the status remembers of attempts and from the time that the caller
//! says it is. Nothing here ever lets go of the two newest good versions, asks for a second build beside one that
//! runs, or brings back what was rejected; what it does not know makes it wait or keep.
//!
//! The order of a caller, in which a death at any instant loses nothing: it keeps [`settled`] in the status; it acts on
//! [`due`], within [`admit`], by creating a record numbered [`next_number`], and then writes what [`begun`] answered
//! before that; an attempt that has ended, or whose process has died, is shown in its record's state first and then
//! remembered with [`History::failed`] or [`History::succeeded`].

mod bounds;
mod due;
mod health;
mod retention;
pub mod version;

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

pub use bounds::{Bounds, Candidate, Kind, Pair, Start, admit};
pub use due::{Due, Why, begun, due, due_since, is_insisted, joinable, next_number, settled};
pub use health::{Launches, turned_bad};
pub use retention::{current, good, previous, retire, stays_for};

use super::schedule::Schedule;

/// One recorded version of one image on one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was started, in seconds since 1970; higher is newer.
    pub number: i64,
    /// Where it is in its life.
    pub state: State,
    /// A person, or the automatic rollback, wants it used no more (`spec.rejected`).
    pub rejected: bool,
    /// Its record is being deleted, whatever its state says.
    pub deleting: bool,
    /// The image in the cloud is the operator's to delete.
    pub managed: bool,
    /// A node boots from it now and is not ready yet, or its trial runs.
    pub booting: bool,
}

/// The recorded state of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being made.
    Building,
    /// On its way into the cloud.
    Uploading,
    /// Its trial boots run.
    Validating,
    /// May be used.
    Ready,
    /// Found bad, by its trial boots or by a person.
    Rejected,
    /// Could not be made.
    Failed,
    /// Being deleted.
    Deleting,
}

impl Version {
    /// Whether nodes may be booted from it (rule 8).
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self.state, State::Ready) && !self.rejected && !self.is_leaving()
    }

    /// Whether somebody works on it (rule 9). One that is being deleted is cleared away, not made.
    #[must_use]
    pub const fn is_in_flight(&self) -> bool {
        matches!(self.state, State::Building | State::Uploading | State::Validating) && !self.is_leaving()
    }

    const fn is_leaving(&self) -> bool {
        self.deleting || matches!(self.state, State::Deleting)
    }

    /// Whether the attempt to make it failed. One that a person rejected did not: it was made.
    const fn came_to_nothing(&self) -> bool {
        match self.state {
            State::Failed => true,
            State::Rejected => !self.rejected,
            _ => false,
        }
    }
}

/// What is remembered of the attempts at one place. It is kept in the status, so that a restart forgets none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When the last attempt started.
    pub started: Option<Timestamp>,
    /// The hash of the source that the last attempt was made from.
    pub source: Option<String>,
    /// The generation of the spec that the last attempt was made by.
    pub generation: Option<i64>,
    /// How many attempts have failed in a row.
    pub failures: u32,
    /// When the last attempt failed; from before `started`, it speaks of an earlier one.
    pub failed_at: Option<Timestamp>,
    /// The scheduled run for which the last attempt, or one shortly before it, was too early, because it joined others.
    pub anticipated: Option<Timestamp>,
    /// The value of the annotation that asks for a new version, as it was when the last attempt started.
    pub rebuild: Option<String>,
    /// The annotation asked for a version, and no attempt since left a good one: its record may be gone before the next attempt.
    pub rebuild_pending: bool,
}

impl History {
    /// The last attempt failed or was interrupted. Once for each attempt, however often it is said.
    #[must_use]
    pub fn failed(&self, now: Timestamp) -> Self {
        if self.is_failed() {
            return self.clone();
        }
        // Not before its start, even when the clock was set back since.
        let at = self.started.map_or(now, |started| started.max(now));
        Self { failures: self.failures.saturating_add(1), failed_at: Some(at), ..self.clone() }
    }

    /// The last attempt left a good version. One that found nothing new to make has succeeded only if a good version
    /// is there; otherwise it failed, or it would be repeated at once and for ever.
    #[must_use]
    pub fn succeeded(&self) -> Self {
        Self { failures: 0, failed_at: None, rebuild_pending: false, ..self.clone() }
    }

    /// A person rejected what was made: nobody asks for it any more.
    #[must_use]
    pub fn unwanted(&self) -> Self {
        Self { rebuild_pending: false, ..self.clone() }
    }

    /// Whether the last attempt is known to have failed.
    fn is_failed(&self) -> bool {
        self.failures > 0 && self.failed_at.is_some_and(|at| self.started.is_none_or(|started| at >= started))
    }
}

/// One image on one provider, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Our own time.
    pub now: Timestamp,
    /// All recorded versions of the image on the provider, in any order.
    pub versions: &'a [Version],
    /// How many good versions are kept; fewer than two mean two (rule 7).
    pub retain: usize,
    /// No new version is to be made.
    pub suspended: bool,
    /// The DiskImage is there and wants it on this provider.
    pub listed: bool,
    /// The hash of the source as it is written now.
    pub source: &'a str,
    /// The generation of the spec as it is written now.
    pub generation: i64,
    /// When new versions are made.
    pub schedule: &'a Schedule,
    /// Over how long the runs of an image are spread: as much earlier than its run a place may join others.
    pub jitter: Duration,
    /// How much later than the schedule says they are made here, at most the jitter.
    pub offset: Duration,
    /// What is remembered of attempts here.
    pub history: &'a History,
    /// The annotation that asks for a new version: each new value asks once.
    pub rebuild: Option<&'a str>,
    /// The value that it had when the newest recorded version was begun: the record knows it before the status does.
    pub answered: Option<&'a str>,
}
