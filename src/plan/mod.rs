//! Decisions, one file a question, each a pure and total function over one owned value.
//!
//! Nothing here does I/O, reads a clock, draws a random number or panics; what a function does not know can only make
//! it more cautious: it neither launches nor deletes on ignorance. Time is a parameter.

pub mod allocation;
pub mod node;
pub mod pressure;
pub mod schedule;
