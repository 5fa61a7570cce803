//! The simulator's program: arguments and start-up only.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser;
use nodepool_operator::simulator::{self, Settings};

/// A small OpenStack (Keystone, Nova, Glance, Neutron) over HTTP, with faults on demand.
///
/// Prints its Keystone URL as its first line and where it listens as its second, then serves until it is stopped. Log in as user `simulator` of project
/// `simulator`, both of domain `Default`, or with the application credential of the clouds.yaml.
#[derive(Parser)]
#[command(name = "openstack-simulator", version, after_long_help = simulator::HELP, after_help = simulator::HELP)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
        .from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match run(&Arguments::parse().settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    let mut running = simulator::serve(settings).await?;
    let mut out = std::io::stdout();
    // Both lines at once: whoever waits for the first may read no further.
    out.write_all(format!("{}\n{}\n", running.keystone_url, running.url).as_bytes())?;
    out.flush()?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = running.wait() => {}
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}
