//! Who gets which slot, node or provider: the one place where that is decided (rules 1, 4 and 6).
//!
//! It never looks at anything but the [`World`] it is given, and never touches a claimed node.

mod world;

pub use world::*;

/// Answers one world.
#[must_use]
pub fn allocate(_world: &World, fairness: &Fairness) -> Plan {
    Plan { fairness: fairness.clone(), ..Plan::default() }
}
