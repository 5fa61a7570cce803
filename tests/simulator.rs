//! The simulated cloud, from outside: the real binary over HTTP and SSH, as a client meets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

#[path = "simulator/cloud.rs"]
mod cloud;
#[path = "simulator/faults.rs"]
mod faults;
#[path = "simulator/guests.rs"]
mod guests;
#[path = "simulator/images.rs"]
mod images;
#[path = "simulator/lists.rs"]
mod lists;
#[path = "simulator/login.rs"]
mod login;
#[path = "simulator/networks.rs"]
mod networks;
#[path = "simulator/servers.rs"]
mod servers;
