//! Every condition type and reason, and how conditions are merged.
//!
//! Decides the words users see, and when a transition time moves. It must never read a clock, and never change a
//! condition that says the same as before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Provider: the cloud answers and takes our credentials. ProviderImage, PoolNode: it can be used.
pub const READY: &str = "Ready";
/// Provider: the project's quota has room for another server.
pub const QUOTA_AVAILABLE: &str = "QuotaAvailable";
/// Provider: the cloud asked for fewer requests, and gets them.
pub const THROTTLED: &str = "Throttled";
/// Pool: `minReady` nodes are ready. DiskImage: every Provider has a usable version.
pub const AVAILABLE: &str = "Available";
/// DiskImage: no version is overdue.
pub const UP_TO_DATE: &str = "UpToDate";
/// Something is being done about it; False is a promise that nothing is until the spec or the world changes.
pub const PROGRESSING: &str = "Progressing";
/// Pool: recent launches mostly succeed.
pub const LAUNCH_HEALTHY: &str = "LaunchHealthy";
/// NodeRequest: it has all its nodes.
pub const FULFILLED: &str = "Fulfilled";

/// The reasons: one word that says what to do.
pub mod reason {
    /// Nothing to do.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// Nothing to do yet: the operator has not looked.
    pub const NOT_YET_KNOWN: &str = "NotYetKnown";
    /// Raise the project's quota, or lower what is asked; launches are tried again with growing pauses.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The cloud has no host with room for the flavor; it is tried again with growing pauses.
    pub const NO_VALID_HOST: &str = "NoValidHost";
    /// `maxServers` or `limits` is reached; raise it if more servers should exist.
    pub const LIMIT_REACHED: &str = "LimitReached";
    /// Correct the spec as the message says; nothing happens before.
    pub const INVALID_CONFIGURATION: &str = "InvalidConfiguration";
    /// Create the Secret that the spec names.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// Correct the Secret's content as the message says.
    pub const SECRET_INVALID: &str = "SecretInvalid";
    /// The cloud refuses the credentials; correct the Secret.
    pub const AUTHENTICATION_FAILED: &str = "AuthenticationFailed";
    /// The cloud forbids what was tried; give the credentials the role it needs.
    pub const FORBIDDEN: &str = "Forbidden";
    /// The cloud does not answer; it is tried again.
    pub const CLOUD_UNREACHABLE: &str = "CloudUnreachable";
    /// The catalog has no such service in this region and interface; correct `region` or `interface`.
    pub const ENDPOINT_NOT_FOUND: &str = "EndpointNotFound";
    /// The cloud has no such flavor; correct the Pool's `flavor`.
    pub const FLAVOR_NOT_FOUND: &str = "FlavorNotFound";
    /// The cloud has no such network; correct the Provider's `networks` or `floatingIP`.
    pub const NETWORK_NOT_FOUND: &str = "NetworkNotFound";
    /// The cloud has no such image; correct the DiskImage's `source`.
    pub const IMAGE_NOT_FOUND: &str = "ImageNotFound";
    /// No version of the image can be used yet.
    pub const IMAGE_NOT_READY: &str = "ImageNotReady";
    /// Create the DiskImage that the Pool names, or correct the name.
    pub const DISK_IMAGE_NOT_FOUND: &str = "DiskImageNotFound";
    /// Create the Provider that the spec names, or correct the name.
    pub const PROVIDER_NOT_FOUND: &str = "ProviderNotFound";
    /// A Provider that is named cannot be used now; its own conditions say why.
    pub const PROVIDER_NOT_READY: &str = "ProviderNotReady";
    /// Create the Pool that the request names, or correct the name.
    pub const POOL_NOT_FOUND: &str = "PoolNotFound";
    /// The cloud asked for fewer requests; nothing to do, unless it stays.
    pub const RATE_LIMITED: &str = "RateLimited";
    /// It will be tried again by itself.
    pub const TRANSIENT_ERROR: &str = "TransientError";
    /// Set `paused: false` or `suspend: false` to go on.
    pub const PAUSED: &str = "Paused";
    /// The object is being deleted; its nodes go first.
    pub const DRAINING: &str = "Draining";

    /// `minReady` is 0.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// Nodes are being launched.
    pub const LAUNCHING: &str = "Launching";
    /// Nodes of an old image or template are being replaced.
    pub const UPDATING: &str = "Updating";
    /// There is no room for another node now; it goes on when there is.
    pub const WAITING_FOR_CAPACITY: &str = "WaitingForCapacity";
    /// The last launch failed, or recent ones mostly did, so fewer are tried; the message tells the last failure.
    pub const LAUNCHES_FAILING: &str = "LaunchesFailing";

    /// The server ended in ERROR; the message tells the cloud's fault.
    pub const SERVER_ERROR: &str = "ServerError";
    /// The server did not become ACTIVE in time.
    pub const LAUNCH_TIMEOUT: &str = "LaunchTimeout";
    /// The server did not answer in time; look at the image and the security groups.
    pub const BOOT_TIMEOUT: &str = "BootTimeout";
    /// The server is no longer there, and the operator did not delete it.
    pub const SERVER_LOST: &str = "ServerLost";
    /// The boot request may or may not have arrived, and no server of it was found.
    pub const LAUNCH_LOST: &str = "LaunchLost";

    /// A version is being made.
    pub const BUILDING: &str = "Building";
    /// The last version could not be made; the message tells why.
    pub const BUILD_FAILED: &str = "BuildFailed";
    /// A new version is overdue.
    pub const OVERDUE: &str = "Overdue";
    /// Its trial boots did not become reachable.
    pub const VALIDATION_FAILED: &str = "ValidationFailed";
    /// Trial boots run.
    pub const VALIDATING: &str = "Validating";
    /// Its recent launches mostly failed, and those of the version before did not: that one is used again.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// The operator was restarted while the version was made; a new one is made by itself.
    pub const INTERRUPTED: &str = "Interrupted";
    /// It was not made within `buildTimeout`; raise it, or look at what takes so long.
    pub const BUILD_TIMEOUT: &str = "BuildTimeout";
    /// The server on which it is made lets nobody in; correct `login`, or the base image.
    pub const LOGIN_FAILED: &str = "LoginFailed";
    /// The `setup` command failed; the message ends with what it printed.
    pub const SETUP_FAILED: &str = "SetupFailed";
    /// The file could not be fetched; correct its address if the message says so.
    pub const DOWNLOAD_FAILED: &str = "DownloadFailed";
    /// The file has another digest than it must have, or cannot be unpacked.
    pub const CHECKSUM_MISMATCH: &str = "ChecksumMismatch";
    /// The cloud did not take the image; the message tells why.
    pub const UPLOAD_FAILED: &str = "UploadFailed";
    /// The cloud gave the image up.
    pub const IMAGE_LOST: &str = "ImageLost";
    /// The cloud does not delete an image that is in use; it goes later by itself.
    pub const IMAGE_IN_USE: &str = "ImageInUse";
    /// The cloud does not let us delete the image; take its protection away.
    pub const IMAGE_PROTECTED: &str = "ImageProtected";
    /// A person or a rollback rejected it.
    pub const REJECTED: &str = "Rejected";

    /// Every node was given.
    pub const NODES_ASSIGNED: &str = "NodesAssigned";
    /// It waits its turn.
    pub const QUEUED: &str = "Queued";
    /// No Provider could ever hold it; ask for less, raise the limits, or set `spread: true`.
    pub const EXCEEDS_CAPACITY: &str = "ExceedsCapacity";
    /// `waitTimeout` passed.
    pub const WAIT_TIMEOUT: &str = "WaitTimeout";
    /// `activeDeadline` passed.
    pub const ACTIVE_DEADLINE_EXCEEDED: &str = "ActiveDeadlineExceeded";
    /// The pools of the request share no Provider; set `spread: true`, or offer the pools on one.
    pub const NO_COMMON_PROVIDER: &str = "NoCommonProvider";
    /// Something of ours in the cloud had no record any more; it was deleted.
    pub const LEAK_FOUND: &str = "LeakFound";
    /// Nothing is collected; the message says why and what to do.
    pub const LEAKS_FROZEN: &str = "LeaksFrozen";
    /// An idle node no longer answers; it is replaced.
    pub const UNREACHABLE: &str = "Unreachable";
    /// A node it had is gone.
    pub const NODE_LOST: &str = "NodeLost";
}

/// What a condition should say; how long it has said so is worked out by [`set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The condition's type, a constant of this module.
    pub type_: &'static str,
    /// True, False, or unknown when nobody could look.
    pub status: Option<bool>,
    /// A constant of [`reason`].
    pub reason: &'static str,
    /// A sentence for a person.
    pub message: String,
}

impl Desired {
    /// The condition holds.
    #[must_use]
    pub fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Some(true), reason, message: message.into() }
    }

    /// The condition does not hold.
    #[must_use]
    pub fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Some(false), reason, message: message.into() }
    }

    /// Nobody could look.
    #[must_use]
    pub fn unknown(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: None, reason, message: message.into() }
    }

    const fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The longest message the API accepts in a condition.
const MESSAGE_LIMIT: usize = 4096;

/// Makes one condition say what is desired; the transition time moves only when the status does.
///
/// Returns whether anything changed, so that an unchanged world is not written again.
pub fn set(conditions: &mut Vec<Condition>, desired: &Desired, generation: Option<i64>, now: &Time) -> bool {
    let old = conditions.iter_mut().find(|condition| condition.type_ == desired.type_);
    let since = match &old {
        Some(old) if old.status == desired.status_text() => old.last_transition_time.clone(),
        _ => now.clone(),
    };
    let new = Condition {
        type_: desired.type_.into(),
        status: desired.status_text().into(),
        reason: desired.reason.into(),
        message: cut(&desired.message, MESSAGE_LIMIT).into(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match old {
        Some(old) if *old == new => false,
        Some(old) => {
            *old = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// [`set`] for several; returns whether any changed. Conditions not named stay as they are.
pub fn set_all(conditions: &mut Vec<Condition>, desired: &[Desired], generation: Option<i64>, now: &Time) -> bool {
    desired.iter().fold(false, |changed, desired| set(conditions, desired, generation, now) | changed)
}

/// Takes a condition away; returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

/// The condition of this type, if there is one.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type is there and True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// At most `limit` bytes, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, &Desired::no(READY, reason::SECRET_NOT_FOUND, "a"), Some(1), &at(10)));
        assert!(set(&mut conditions, &Desired::no(READY, reason::SECRET_INVALID, "b"), Some(2), &at(20)));
        assert_eq!((conditions[0].last_transition_time.clone(), conditions[0].message.as_str()), (at(10), "b"));
        assert!(set(&mut conditions, &Desired::yes(READY, reason::AS_EXPECTED, ""), Some(2), &at(30)));
        assert_eq!(conditions[0].last_transition_time, at(30));
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let mut conditions = Vec::new();
        let desired =
            [Desired::yes(READY, reason::AS_EXPECTED, "x"), Desired::unknown(THROTTLED, reason::NOT_YET_KNOWN, "")];
        assert!(set_all(&mut conditions, &desired, Some(1), &at(1)));
        let before = conditions.clone();
        assert!(!set_all(&mut conditions, &desired, Some(1), &at(2)));
        assert_eq!(conditions, before);
        assert!(set_all(&mut conditions, &desired, Some(2), &at(3)), "a newer generation is news");
    }

    #[test]
    fn others_conditions_stay() {
        let mut conditions = Vec::new();
        set(&mut conditions, &Desired::yes("Theirs", "Reason", ""), None, &at(1));
        set(&mut conditions, &Desired::yes(READY, reason::AS_EXPECTED, ""), None, &at(1));
        assert!(is_true(&conditions, "Theirs") && is_true(&conditions, READY));
        assert!(remove(&mut conditions, READY) && !remove(&mut conditions, READY));
        assert!(find(&conditions, READY).is_none() && is_true(&conditions, "Theirs"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut conditions = Vec::new();
        set(&mut conditions, &Desired::no(READY, reason::TRANSIENT_ERROR, "ä".repeat(3000)), None, &at(1));
        assert_eq!(conditions[0].message.len(), 4096);
        set(
            &mut conditions,
            &Desired::no(READY, reason::TRANSIENT_ERROR, format!("a{}", "ä".repeat(3000))),
            None,
            &at(1),
        );
        assert_eq!(conditions[0].message.len(), 4095);
    }
}
