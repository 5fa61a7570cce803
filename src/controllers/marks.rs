//! What the engine looks at again, and when: at once, at a time, or not more often than a pace allows.
//!
//! A mark is a reminder, not an order: whatever it names is decided anew from what is known then, so one too many costs
//! time and nothing else, and several of one thing are one. Never decides anything about a record.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::plan::pressure::later;

use super::Engine;
use super::index::Key;

/// How many times as long as it took the allocation rests.
const REST: u32 = 4;

/// What must be reconciled again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// A Provider: its credentials, its connection, its status.
    Provider(Key),
    /// A DiskImage.
    DiskImage(Key),
    /// A ProviderImage.
    ProviderImage(Key),
    /// Which versions of images begin now.
    Builds,
    /// A node, by its uid.
    Node(String),
    /// Who gets what.
    Allocation,
    /// A request's status.
    Request(Key),
    /// A Pool's status.
    Pool(Key),
    /// The figures that are shown, not counted.
    Figures,
}

impl Mark {
    /// The word for logs and metrics.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Provider(_) => "Provider",
            Self::DiskImage(_) => "DiskImage",
            Self::ProviderImage(_) => "ProviderImage",
            Self::Builds => "Builds",
            Self::Node(_) => "PoolNode",
            Self::Allocation => "Allocation",
            Self::Request(_) => "NodeRequest",
            Self::Pool(_) => "Pool",
            Self::Figures => "Figures",
        }
    }

    /// What is reconciled, for logs.
    pub(super) fn of(&self) -> Option<String> {
        match self {
            Self::Provider(key)
            | Self::DiskImage(key)
            | Self::ProviderImage(key)
            | Self::Request(key)
            | Self::Pool(key) => Some(key.to_string()),
            Self::Node(uid) => Some(uid.clone()),
            Self::Builds | Self::Allocation | Self::Figures => None,
        }
    }
}

impl Engine {
    /// Something must be reconciled in this pass.
    pub fn mark(&mut self, mark: Mark) {
        self.marks.insert(mark);
    }

    /// Something must be reconciled then, if nothing marks it earlier.
    pub fn wake(&mut self, at: Timestamp, mark: Mark) {
        let before = self.alarm(&mark).and_then(|alarm| match *alarm {
            Some(earlier) if earlier <= at => Some(earlier),
            _ => alarm.replace(at),
        });
        match before {
            Some(earlier) if earlier <= at => return,
            Some(later) => _ = self.timers.remove(&(later, mark.clone())),
            None => {}
        }
        self.timers.insert((at, mark));
    }

    /// The one alarm of what decides anew, each time that it is reconciled, when to look again. Others may have several.
    fn alarm(&mut self, mark: &Mark) -> Option<&mut Option<Timestamp>> {
        match mark {
            Mark::Node(uid) => self.runtime.get_mut(uid).map(|runtime| &mut runtime.alarm),
            Mark::Allocation => Some(&mut self.memory.alarm),
            _ => None,
        }
    }

    /// Forgets the alarm of what is reconciled now, or is gone.
    pub fn disarm(&mut self, mark: &Mark) {
        if let Some(at) = self.alarm(mark).and_then(Option::take) {
            self.timers.remove(&(at, mark.clone()));
        }
    }

    /// Something must be reconciled after that long.
    pub fn wake_in(&mut self, after: Duration, mark: Mark) {
        self.wake(self.after(after), mark);
    }

    /// The time after that long.
    #[must_use]
    pub fn after(&self, after: Duration) -> Timestamp {
        later(self.now, after)
    }

    /// Something must be reconciled, but not more often than that: now if the last time is long enough ago.
    pub fn mark_within(&mut self, every: Duration, mark: Mark) {
        if self.memory.waiting.contains_key(&mark) {
            return;
        }
        let last = self.memory.paced.get(&mark).copied();
        let at = last.and_then(|last| last.checked_add(SignedDuration::try_from(every).ok()?).ok());
        let at = at.map_or(self.now, |at| at.max(self.now));
        self.memory.waiting.insert(mark.clone(), at);
        self.wake(at, mark);
    }

    /// Marks what was to be looked at by now.
    pub(super) fn fire_timers(&mut self) {
        while self.timers.first().is_some_and(|(at, _)| *at <= self.now) {
            self.marks.extend(self.timers.pop_first().map(|(_, mark)| mark));
        }
    }

    /// What is held back is done now, whoever asked for it: its own alarm must not do it again.
    pub(super) fn keep_pace(&mut self, mark: &Mark) {
        if let Some(at) = self.memory.waiting.remove(mark) {
            self.timers.remove(&(at, mark.clone()));
            self.memory.paced.insert(mark.clone(), self.now);
        } else if let Some(last) = self.memory.paced.get_mut(mark) {
            *last = self.now;
        }
    }

    /// The allocation looks at every node, however little changed: it takes no more than a share of a processor, and
    /// serves together what came meanwhile.
    pub(super) fn rest(&mut self, took: Duration) {
        self.memory.rested = Some(self.after(took * REST));
    }
}
