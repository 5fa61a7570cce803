//! The operator as its users run it: the container image, installed by Helm, in Pods of a real Kubernetes Node, on the real
//! OpenStack. `make test-e2e` runs this, and nothing else does: the test's name begins as the Makefile's `ON_A_NODE` does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "e2e/on_a_node.rs"]
mod on_a_node;
#[path = "e2e/pods.rs"]
mod pods;
#[path = "e2e/stage.rs"]
mod stage;
