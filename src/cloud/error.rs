//! How a call to a cloud fails: the class decides what is done, the rest is for people.
//!
//! Never holds a body, a header, a URL with a query, or anything else that could carry a secret (rule 16).

use std::time::Duration;

/// What a failure means for the next decision. Exhaustive on purpose: a new class must be answered everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// 404 from the service itself: the thing is not there.
    NotFound,
    /// 429, 413 or a full rate limit: wait, then go on (rule 3).
    Throttled,
    /// A quota refused it (rule 3).
    Quota,
    /// No host can take it (rule 3).
    NoCapacity,
    /// The credentials are refused.
    Auth,
    /// 409 that is not a quota: try again when the other thing is over.
    Conflict,
    /// The request itself is wrong and stays wrong until somebody changes something.
    Invalid,
    /// The service did certainly not act, and may later (refused connection, 503 before sending…).
    Unavailable,
    /// Nobody can tell whether the service acted: a timeout, a cut connection, a 5xx, an answer that is no answer.
    Unclear,
}

impl ErrorClass {
    /// Whether the service may be away: it said nothing of the matter itself.
    #[must_use]
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Self::Unavailable | Self::Unclear)
    }

    /// A stable word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Throttled => "throttled",
            Self::Quota => "quota",
            Self::NoCapacity => "no_capacity",
            Self::Auth => "auth",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Unclear => "unclear",
        }
    }
}

/// One failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}{}", .request_id.as_deref().map(|id| format!(" (request {id})")).unwrap_or_default())]
pub struct CloudError {
    /// What it means.
    pub class: ErrorClass,
    /// The call, as `service verb`, e.g. `compute create-server`.
    pub call: &'static str,
    /// One sentence, from a closed set or from known fault keys, at most 256 characters.
    pub message: String,
    /// How long the cloud asked us to wait.
    pub retry_after: Option<Duration>,
    /// The cloud's request id.
    pub request_id: Option<String>,
}
