//! Waiting for a condition, up to a deadline, with a message that says what was missing.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks. Short, since every test waits for many conditions; long enough to leave a core to the operator.
const PAUSE: Duration = Duration::from_millis(25);

/// Repeats `attempt` until it answers `Ok`, and returns its value. At the deadline the test fails with the message of
/// the last attempt. An attempt that hangs is ended at the deadline too.
#[track_caller]
pub fn eventually<T, F>(deadline: Duration, mut attempt: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut last = "not one attempt ended".to_owned();
        loop {
            match tokio::time::timeout_at(end, attempt()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(message)) => last = message,
                Err(_) => panic!("{caller}: not within {deadline:?}: {last} (the last attempt hung)"),
            }
            if Instant::now() + PAUSE >= end {
                panic!("{caller}: not within {deadline:?}: {last}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The value of `future`, which must come before the deadline.
#[track_caller]
pub fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(deadline, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: not within {deadline:?}: {what}"),
        }
    }
}
