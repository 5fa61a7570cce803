//! The reasons that allocation itself gives for what it does not do. It passes on the reasons of gates and templates
//! as it finds them.

/// Nothing more fits now: slots, cores, memory or a cap of nodes are used up. It changes as nodes are given back.
pub const AT_CAPACITY: &str = "AtCapacity";
/// All nodes that are wanted exist or are being made; some are not ready yet.
pub const NODES_BUILDING: &str = "NodesBuilding";
/// More is asked for than there could ever be as things are configured.
pub const EXCEEDS_CAPACITY: &str = "ExceedsCapacity";
/// Something that is referred to does not exist.
pub const NOT_FOUND: &str = "NotFound";
/// The pools of a request share no provider, and the request does not allow a spread.
pub const NO_COMMON_PROVIDER: &str = "NoCommonProvider";
/// Somebody paused it.
pub const PAUSED: &str = "Paused";
/// It is being deleted.
pub const DELETING: &str = "Deleting";

/// Refusals of a cloud that pass with time (rule 3). A request that meets one keeps its place and the nodes it has
/// gathered, as it would on a full provider. One that waits for a person lets others pass.
const BACK_PRESSURE: [&str; 4] = ["QuotaExceeded", "NoValidHost", "RateLimited", "TransientError"];

/// Whether the reason goes away without anybody's doing.
pub(super) fn passes_with_time(reason: &str) -> bool {
    BACK_PRESSURE.contains(&reason)
}
