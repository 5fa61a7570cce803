//! The simulator's program: arguments and start-up only.

fn main() {}
