//! Images: made by each kind of source, tried, promoted, kept, undone.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod support;

#[path = "images/job.rs"]
mod job;
#[path = "images/precise.rs"]
mod precise;
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
