//! How the process lives: who may act (lease), what it shows (metrics, probes, events, logs), how it ends (shutdown).
//!
//! This room serves any controller and says no domain word: it knows neither pools nor nodes nor clouds. It decides
//! nothing about them and never touches their objects.

pub mod events;
pub mod heartbeats;
pub mod http;
pub mod kubernetes;
pub mod lease;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod shutdown;
pub mod telemetry;
pub mod turns;
