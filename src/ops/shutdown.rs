//! Turns the signals that ask a process to end into one token that every part can await.
//!
//! It only announces the end; it never ends the process itself, except when a second signal says that the first was
//! not enough.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code of a process that was told twice to stop: what a shell reports for an interrupted program.
const INTERRUPTED: i32 = 130;

/// Starts listening for SIGTERM and SIGINT; the token is cancelled at the first one.
pub fn install() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let announced = token.clone();
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        info!(signal = name, "stopping");
        announced.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        warn!(signal = name, "told again to stop, leaving at once");
        process::exit(INTERRUPTED);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
