//! Who gets which slot, node or provider: the one place where that is decided (rules 1, 4 and 6).
//!
//! It answers one [`World`] with one [`Plan`], and looks at nothing else: no client, no clock, no chance. It never
//! touches a claimed, held or leaving node, never plans above a limit, and what it cannot know (a missing template, a
//! closed gate, an index that points nowhere) makes it launch and delete less, never more.
//!
//! The order is the order of importance: requests, then the standby of pools, then what is too much, then what is
//! too old, and last, for requests only, the eviction of idle nodes that stand in the way.

mod distribute;
mod eviction;
mod offers;
mod pass;
pub mod reasons;
mod replacement;
mod requests;
mod room;
mod spread;
mod standby;
mod stock;
mod surplus;
mod together;
mod world;

#[cfg(test)]
mod tests;

pub use distribute::{Grant, Label, Place, distribute};
pub use world::*;

use pass::Pass;

/// Answers one world. Total: inconsistent input is left alone, not trusted.
#[must_use]
pub fn allocate(world: &World, fairness: &Fairness) -> Plan {
    let mut pass = Pass::new(world);
    let (verdicts, waiting) = requests::serve(&mut pass);
    let (blocked, fairness) = standby::replenish(&mut pass, fairness);
    surplus::trim(&mut pass);
    let wake = replacement::replace(&mut pass);
    eviction::evict(&mut pass, &waiting);
    Plan { steps: pass.steps, verdicts, blocked, wake, fairness }
}
