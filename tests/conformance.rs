//! One conformance suite for two clouds: the simulator and a real OpenStack (`tests/openstack`).
//!
//! Each case states one answer that `src/cloud/openstack` depends on and asserts the same thing on both. Where the
//! two differ, the simulator is wrong; the few differences that stay are listed in `docs/simulator.md`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[macro_use]
#[path = "conformance/side.rs"]
mod side;
#[path = "conformance/reply.rs"]
mod reply;
#[path = "conformance/things.rs"]
mod things;

#[path = "conformance/boots.rs"]
mod boots;
#[path = "conformance/builds.rs"]
mod builds;
#[path = "conformance/client.rs"]
mod client;
#[path = "conformance/fence.rs"]
mod fence;
#[path = "conformance/identity.rs"]
mod identity;
#[path = "conformance/images.rs"]
mod images;
#[path = "conformance/lists.rs"]
mod lists;
#[path = "conformance/names.rs"]
mod names;
#[path = "conformance/networks.rs"]
mod networks;
#[path = "conformance/quotas.rs"]
mod quotas;
#[path = "conformance/servers.rs"]
mod servers;
#[path = "conformance/snapshots.rs"]
mod snapshots;
#[path = "conformance/tokens.rs"]
mod tokens;
#[path = "conformance/versions.rs"]
mod versions;
