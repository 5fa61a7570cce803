//! Rules 1, 2 and 14 under fire: the operator is killed at every call it makes, led twice, paused, cut off and lied to.
//!
//! Every test plays the same story (fill five nodes, serve a request for two, take them back) and requires the same
//! end as if nothing had happened: no server twice, none left behind, `maxServers` never passed. Each is played with
//! and without a fence before every boot (`launchFence`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

#[macro_use]
#[path = "crash/story.rs"]
mod story;

#[path = "crash/chaos.rs"]
mod chaos;
#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/leaders.rs"]
mod leaders;
#[path = "crash/outages.rs"]
mod outages;
mod support;
