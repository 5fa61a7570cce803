//! What must not be reached through the operator, read out of it, or fed to it. SECURITY.md says why; each of its sentences about
//! what the operator does not do is shown here or named there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "security/builders.rs"]
mod builders;
#[path = "security/egress.rs"]
mod egress;
#[path = "security/secrets.rs"]
mod secrets;
