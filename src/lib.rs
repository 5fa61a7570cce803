//! Keeps pools of fresh OpenStack servers ready for a CI system.
//!
//! The rooms, each with one job:
//!
//! - [`api`]: the custom resources, one file a kind. Never does I/O.
//! - [`plan`]: decisions as pure, total functions. Never sees a client, HTTP or a clock.
//! - [`cloud`]: the port to a cloud and its OpenStack implementation. Never sees Kubernetes.
//! - [`builder`]: turns what an image is made of into bytes in a cloud. Never sees Kubernetes, holds no policy.
//! - [`controllers`]: observe, plan, act, report; one file a kind. Never holds policy.
//! - [`ops`]: lease, metrics, probes, telemetry, shutdown. Never says a domain word.
//! - [`simulator`]: a small OpenStack over HTTP, for the demo, tests and benchmarks. Never used by the operator.

// Only `plan` is held to the lists of clippy.toml; it denies both lints itself.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod api;
pub mod builder;
pub mod cloud;
pub mod controllers;
pub mod egress;
pub mod ops;
pub mod plan;
pub mod simulator;
