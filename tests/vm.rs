//! Images made of real machines: `tests/openstack/up --virt=libvirt` boots a Debian in QEMU. `make test-vm` runs this, and
//! nothing else does: the test's name begins as the Makefile's `ON_MACHINES` does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "vm/on_machines.rs"]
mod on_machines;
