//! Clients that others wrote, unmodified, against the simulator: the `openstack` command, openstacksdk's cloud layer and
//! gophercloud list, make, show and delete servers, images, key pairs, ports and floating addresses, and tag them.
//!
//! What they need is made ready by `make integration`, or by the first test that wants it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "clients/cloud.rs"]
mod cloud;
#[macro_use]
#[path = "clients/story.rs"]
mod story;
#[path = "clients/prompt.rs"]
mod prompt;
#[path = "clients/told.rs"]
mod told;

#[path = "clients/cli.rs"]
mod cli;
#[path = "clients/gophercloud.rs"]
mod gophercloud;
#[path = "clients/sdk.rs"]
mod sdk;
#[path = "clients/versions.rs"]
mod versions;
