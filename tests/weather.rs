//! Bad weather in the cloud: each way in which OpenStack fails, refuses, forgets, lies or hangs, against the real
//! operator. Whatever happens: no record has two boot requests, no slot is freed while its server exists, nothing of
//! others is touched, and the pool is full again when the weather is good.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "weather/boots.rs"]
mod boots;
#[path = "weather/creates.rs"]
mod creates;
#[path = "weather/credentials.rs"]
mod credentials;
#[path = "weather/deletes.rs"]
mod deletes;
#[path = "weather/fence.rs"]
mod fence;
#[path = "weather/leftovers.rs"]
mod leftovers;
#[path = "weather/lists.rs"]
mod lists;
#[path = "weather/neighbours.rs"]
mod neighbours;
#[path = "weather/refusals.rs"]
mod refusals;
#[path = "weather/sky.rs"]
mod sky;
