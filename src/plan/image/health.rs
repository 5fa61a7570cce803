//! Whether the version in use turned out bad, so that nodes boot from the one before again.
//!
//! It asks for evidence, because going back is not free: the newest image carries the newest security fixes, and the
//! schedule, not the rollback, makes the next one. It never goes back to nothing, and never to what failed as well.

/// The fewest judged launches of a version: one bad host, or two, is no bad image.
const FEWEST: u64 = 4;

/// How the recent launches from one version on one provider ended.
///
/// Only what the image can be blamed for is judged: servers that became active and then answered, or did not. Refused
/// quotas, full clouds and lost answers are no launches of it (rule 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Launches {
    /// Ended in a ready node.
    pub good: u32,
    /// Did not.
    pub bad: u32,
}

impl Launches {
    fn judged(self) -> u64 {
        u64::from(self.good) + u64::from(self.bad)
    }

    fn mostly_bad(self) -> bool {
        u64::from(self.bad) * 2 > self.judged()
    }
}

/// Whether the current version is to be rejected. `previous` are the launches of the good version before it, `None`
/// when there is no such version.
///
/// At least four judged launches, more than half of them bad. When the last launches of the version before mostly
/// failed too, the fault is more likely the provider's (its network, its metadata service) than the image's, and going
/// back would change nothing; when none of them is remembered, it was good enough to be kept and is trusted.
///
/// The answer is acted on by setting `rejected`, as a person would: then it holds after a restart, the next version
/// comes at the scheduled time and not as a retry, and the version before, which must then turn bad on its own and have
/// another before it, stops a chain of rollbacks at the last good version.
#[must_use]
pub fn turned_bad(current: Launches, previous: Option<Launches>, enabled: bool) -> bool {
    let Some(previous) = previous else { return false };
    enabled && current.judged() >= FEWEST && current.mostly_bad() && !previous.mostly_bad()
}
