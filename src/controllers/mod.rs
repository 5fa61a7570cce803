//! The controllers room.

pub mod metrics;
pub mod setup;

pub use setup::Setup;

/// Runs all controllers until they are told to end.
pub async fn run(setup: Setup) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    setup.shutdown.cancelled().await;
    Ok(())
}
