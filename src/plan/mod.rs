//! Decisions, one file a question, each a pure and total function over one owned value.
//!
//! Nothing here does I/O, reads a clock, draws a random number or panics; what a function does not know can only make
//! it more cautious: it neither launches nor deletes on ignorance. Time is a parameter. `clippy.toml` lists what is
//! disallowed; it is enforced in this room alone.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod allocation;
pub mod image;
pub mod leaks;
pub mod node;
pub mod pressure;
pub mod schedule;
pub mod tenancy;
