//! A small OpenStack over HTTP: Keystone v3, Nova, Glance and Neutron in their real wire format, with faults on demand.
//!
//! For the demo, tests and benchmarks; the operator itself never uses it. A simulated cloud is one project in one
//! region. Its servers boot by the clock and answer real SSH handshakes on loopback addresses of their own; whatever can
//! go wrong in a real cloud can be made to, call by call, over the admin API under `/simulator/`.
//!
//! How it is built: `front` reads a request, names it (`calls`) and finds the faults that apply (`faults`); a
//! service (`keystone`, `nova`, `glance`, `neutron`) answers it from the one `world`, in which time passes
//! only when told to (`lifecycle`); `mangle` and `link` damage answers and connections; `ssh` opens the servers'
//! ports, `exec` runs a command behind one, `guests` has what is inside the servers. It must never be the bottleneck of a measurement: no call costs more than what it shows or changes.

mod admin;
mod calls;
mod clouds_yaml;
mod exec;
mod faults;
mod front;
mod glance;
mod guests;
mod incoming;
mod keystone;
mod lifecycle;
mod link;
mod mangle;
mod neutron;
mod nova;
mod pattern;
mod servers;
mod settings;
mod ssh;
mod subnet;
mod tls;
mod wait;
mod wire;
mod world;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::Router;
use jiff::Timestamp;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use uuid::Uuid;

pub use self::{
    admin::HELP,
    settings::Settings,
    subnet::{Cidr, NotANetwork},
    tls::TlsError,
    wait::{NotAWait, Wait},
};
use self::{
    front::Simulator,
    guests::Guests,
    link::{Link, Links},
    ssh::Listeners,
    world::World,
};

/// Why a cloud did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program has the address, or it is none of this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// HTTPS was asked for and cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No port for SSH could be had.
    #[error("cannot reserve an SSH port: {0}")]
    SshPort(io::Error),
    /// The clouds.yaml could not be written.
    #[error("cannot write {}: {source}", path.display())]
    CloudsYaml {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A cloud that runs until it is dropped.
pub struct Running {
    /// What clients log in to, as it is advertised: `http://ADDRESS/identity/v3`.
    pub keystone_url: String,
    /// The root of all services, and of the admin API, where they listen whatever is advertised.
    pub url: String,
    /// The port on which every server answers SSH.
    pub ssh_port: u16,
    /// A clouds.yaml that names this cloud.
    pub clouds_yaml: String,
    server: JoinHandle<()>,
    clock: JoinHandle<()>,
    guests: Guests,
    /// Keeps the kernel from giving the SSH port to somebody else.
    _reserved: Option<TcpSocket>,
}

impl Running {
    /// Returns when the server ends, which it does only when something broke.
    pub async fn wait(&mut self) {
        if let Err(error) = (&mut self.server).await {
            tracing::error!("the server ended: {error}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
        self.clock.abort();
        self.guests.end();
    }
}

/// Starts a cloud.
pub async fn serve(settings: &Settings) -> Result<Running, StartError> {
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
    let tls = match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(tls::config(certificate, key)?),
        _ => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{bound}");
    let advertised = settings.advertise_url.as_deref().unwrap_or(&url).trim_end_matches('/').to_owned();
    let (ssh_port, reserved) = ssh_port(settings.ssh_port).map_err(StartError::SshPort)?;
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    let world = World::new(settings, advertised.clone(), ssh_port, secret, Timestamp::now());
    let clouds_yaml = clouds_yaml::write(&world);
    if let Some(path) = &settings.clouds_yaml {
        let write = std::fs::write(path, &clouds_yaml);
        write.map_err(|source| StartError::CloudsYaml { path: path.clone(), source })?;
    }
    let guests = Guests::new(settings.run_commands);
    let simulator = Arc::new(Simulator::new(world, Listeners::new(ssh_port, secret, guests.clone())));
    let clock = tokio::spawn(simulator.clone().run_clock());
    let app = Router::new().fallback(front::answer).with_state(simulator);
    let service = app.into_make_service_with_connect_info::<Link>();
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(Links { listener, tls }, service).await {
            tracing::error!("cannot serve: {error}");
        }
    });
    let keystone_url = format!("{advertised}/identity/v3");
    Ok(Running { keystone_url, url, ssh_port, clouds_yaml, server, clock, guests, _reserved: reserved })
}

/// The port asked for, or a free one, kept by a socket that never listens.
fn ssh_port(wanted: u16) -> io::Result<(u16, Option<TcpSocket>)> {
    if wanted != 0 {
        return Ok((wanted, None));
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok((socket.local_addr()?.port(), Some(socket)))
}
