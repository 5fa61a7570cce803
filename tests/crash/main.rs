//! Rules 1, 2 and 14 under fire: the operator is killed at every call it makes, led twice, paused, cut off and lied to.
//!
//! Every test plays the same story (fill five nodes, serve a request for two, take them back) and requires the same
//! end as if nothing had happened: no server twice, none left behind, `maxServers` never passed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod chaos;
mod kills;
mod leaders;
mod outages;
mod story;
#[path = "../support/mod.rs"]
mod support;
