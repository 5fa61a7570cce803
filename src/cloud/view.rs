//! The shared view of one cloud's servers: one list serves all nodes (rule 12).
