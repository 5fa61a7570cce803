//! Images: made by each kind of source when they are due, tried, promoted, kept, undone; and killed on the way.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod support;

#[path = "images/crash.rs"]
mod crash;
#[path = "images/flights.rs"]
mod flights;
#[path = "images/job.rs"]
mod job;
#[path = "images/keeping.rs"]
mod keeping;
#[path = "images/precise.rs"]
mod precise;
#[path = "images/schedule.rs"]
mod schedule;
#[path = "images/snapshot.rs"]
mod snapshot;
#[path = "images/stage.rs"]
mod stage;
#[path = "images/story.rs"]
mod story;
#[path = "images/undo.rs"]
mod undo;
#[path = "images/url.rs"]
mod url;
