//! The reasons that allocation itself gives for what it does not do, in the words of [`crate::api::conditions`]. It
//! passes on the reasons of gates and templates as it finds them.

use crate::api::conditions::reason;

/// Nothing more fits now: slots, cores, memory or a cap of nodes are used up. It changes as nodes are given back.
pub const AT_CAPACITY: &str = reason::WAITING_FOR_CAPACITY;
/// All nodes that are wanted exist or are being made; some are not ready yet.
pub const NODES_BUILDING: &str = reason::LAUNCHING;
/// More is asked for than there could ever be as things are configured.
pub const EXCEEDS_CAPACITY: &str = reason::EXCEEDS_CAPACITY;
/// A pool has no provider, or names one that does not exist.
pub const NO_PROVIDER: &str = reason::PROVIDER_NOT_FOUND;
/// A request names a pool that does not exist.
pub const NO_POOL: &str = reason::POOL_NOT_FOUND;
/// The pools of a request share no provider, and the request does not allow a spread.
pub const NO_COMMON_PROVIDER: &str = reason::NO_COMMON_PROVIDER;
/// Somebody paused it.
pub const PAUSED: &str = reason::PAUSED;
/// It is being deleted.
pub const DRAINING: &str = reason::DRAINING;

/// Refusals of a cloud that pass with time (rule 3). A request that meets one keeps its place and the nodes it has
/// gathered, as it would on a full provider. One that waits for a person lets others pass.
const BACK_PRESSURE: [&str; 5] = [
    reason::QUOTA_EXCEEDED,
    reason::NO_VALID_HOST,
    reason::RATE_LIMITED,
    reason::TRANSIENT_ERROR,
    reason::CLOUD_UNREACHABLE,
];

/// Whether the reason goes away without anybody's doing.
pub(super) fn passes_with_time(reason: &str) -> bool {
    BACK_PRESSURE.contains(&reason)
}
