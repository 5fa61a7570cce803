//! Readiness probes of machines.
