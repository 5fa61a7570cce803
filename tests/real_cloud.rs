//! The operator on the real services of OpenStack (`tests/openstack`): pools with real SSH handshakes, refusals that the
//! services word themselves, images made, undone and protected, and outages of each service. What really is in the cloud is asked over plain HTTP.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "real_cloud/cut_off.rs"]
mod cut_off;
#[path = "real_cloud/fence.rs"]
mod fence;
#[path = "real_cloud/images.rs"]
mod images;
#[path = "real_cloud/outages.rs"]
mod outages;
#[path = "real_cloud/pools.rs"]
mod pools;
#[path = "images/precise.rs"]
mod precise;
#[path = "real_cloud/refusals.rs"]
mod refusals;
#[path = "real_cloud/stage.rs"]
mod stage;
