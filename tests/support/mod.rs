//! The harness of every integration test: a real Kubernetes API, simulated clouds, the real operator binary, and a
//! proxy that counts calls and breaks them on demand.
//!
//! A test file starts with `mod support;` and takes what it needs:
//!
//! - [`ControlPlane::shared`]: one kube-apiserver for all tests of the run;
//! - [`Namespace::new`]: a namespace of the test's own, with `kubectl` and a client;
//! - [`Simulator::start`]: an OpenStack that listens on loopback, with an admin client;
//! - [`openstack::OpenStack::shared`]: the real services, for all tests of the run; `machines`: with machines to boot;
//! - [`Operator::for_namespace`]: the operator, watching that namespace only;
//! - [`Proxy`]: stands before the API server or a cloud, for tests that crash or cut at an exact call;
//! - [`canary`]: what nobody may read, looked for at the end of each test;
//! - [`helm`]: the chart, rendered and installed;
//! - [`World`]: all of these as most tests want them, with the waits that tests share;
//! - [`eventually`]: waits for a condition, up to a deadline.
//!
//! Whatever a test starts ends with it, failed or killed included. It must never sleep for a fixed time, touch
//! another test's namespace, or end a process that it did not start.

#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of the harness, and a test that cannot go on panics"
)]

pub mod canary;
mod control_plane;
mod cut;
pub mod helm;
mod kubectl;
mod namespace;
pub mod openstack;
mod operator;
mod program;
mod proxy;
pub mod signature;
mod simulator;
pub mod versions;
mod wait;
pub mod world;

pub use control_plane::{ControlPlane, line_of};
pub use kubectl::{Kubectl, Said};
pub use namespace::Namespace;
pub use operator::{Operator, OperatorOptions};
pub use program::{Killer, Program};
pub use proxy::{Call, CrashPoint, Hook, Moment, Proxy, Verdict, crash_at};
pub use simulator::{Simulator, SimulatorOptions};
pub use wait::{eventually, within};
pub use world::World;
