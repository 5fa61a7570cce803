//! The SSH ports of the simulated servers: a real listener on each address, a real handshake with the server's own keys.
//!
//! Lets nobody in. A server's port is closed to the kernel until its guest is up, so that a client meets what it meets
//! with a real cloud: refused, then answered. Keys follow from the server's id and a secret of this cloud, and are made
//! when first asked for: ten thousand servers that nobody connects to cost no key.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, OnceLock},
    time::Duration,
};

use russh::{
    MethodKind, MethodSet,
    keys::{Algorithm, EcdsaCurve, PrivateKey, ssh_key::rand_core},
    server::{Auth, Config, Handler},
};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::servers::SshMode;

/// A client that says nothing more is let go after this.
const IDLE: Duration = Duration::from_secs(60);

/// The open ports.
pub(crate) struct Listeners {
    port: u16,
    secret: [u8; 32],
    open: HashMap<Ipv4Addr, JoinHandle<()>>,
    /// Addresses whose port could not be opened, and why; shown in the state.
    pub failures: Vec<String>,
}

impl Listeners {
    pub(crate) fn new(port: u16, secret: [u8; 32]) -> Self {
        Self { port, secret, open: HashMap::new(), failures: Vec::new() }
    }

    /// Opens the port of a server before returning.
    pub(crate) fn listen(&mut self, address: Ipv4Addr, server: &str, mode: SshMode) {
        self.unlisten(address);
        let keys = Arc::new(HostKeys::new(server, self.secret));
        match bind(SocketAddrV4::new(address, self.port)) {
            Ok(listener) => {
                self.open.insert(address, tokio::spawn(answer(listener, keys, mode)));
            }
            Err(error) => {
                let advice = "is the limit of open files high enough (ulimit -n: servers + 1000), and the port free?";
                let message = format!("cannot listen on {address}:{}: {error}; {advice}", self.port);
                if self.failures.is_empty() {
                    tracing::error!("{message}");
                }
                self.failures.push(message);
            }
        }
    }

    pub(crate) fn unlisten(&mut self, address: Ipv4Addr) {
        if let Some(task) = self.open.remove(&address) {
            task.abort();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }
}

/// The public host keys of a server, as its console shows them.
pub(crate) fn host_keys(server: &str, secret: [u8; 32]) -> Vec<String> {
    HostKeys::new(server, secret).make().iter().filter_map(|key| key.public_key().to_openssh().ok()).collect()
}

fn bind(address: SocketAddrV4) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(SocketAddr::V4(address))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn answer(listener: TcpListener, keys: Arc<HostKeys>, mode: SshMode) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files, most likely; the next client may be luckier.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while sessions.try_join_next().is_some() {}
        match mode {
            SshMode::Silent => sessions.spawn(hold(stream)),
            SshMode::Answer | SshMode::Never => sessions.spawn(session(stream, keys.clone())),
        };
    }
}

async fn hold(stream: TcpStream) {
    // The peer closing is the only thing that ever becomes readable for us to act on.
    let mut buffer = [0; 256];
    loop {
        if stream.readable().await.is_err() || matches!(stream.try_read(&mut buffer), Ok(0)) {
            return;
        }
    }
}

async fn session(stream: TcpStream, keys: Arc<HostKeys>) {
    let Some(config) = keys.config() else { return };
    if let Ok(session) = russh::server::run_stream(config, stream, Nobody).await {
        // How a client leaves (key scanners cut the connection) is its own affair.
        let _ended = session.await;
    }
}

/// Lets nobody in.
struct Nobody;

impl Handler for Nobody {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        _offer: russh::server::PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::reject())
    }
}

/// The host keys of one server, made when first needed.
struct HostKeys {
    seed: [u8; 32],
    config: OnceLock<Option<Arc<Config>>>,
}

impl HostKeys {
    fn new(server: &str, secret: [u8; 32]) -> Self {
        let seed = Sha256::new().chain_update(secret).chain_update(server.as_bytes()).finalize().into();
        Self { seed, config: OnceLock::new() }
    }

    fn make(&self) -> Vec<PrivateKey> {
        let mut stream = Stream { seed: self.seed, block: 0 };
        let algorithms = [Algorithm::Ed25519, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }];
        algorithms.into_iter().filter_map(|algorithm| PrivateKey::random(&mut stream, algorithm).ok()).collect()
    }

    fn config(&self) -> Option<Arc<Config>> {
        let make = || {
            let keys = self.make();
            if keys.len() != 2 {
                tracing::error!("cannot make host keys");
                return None;
            }
            Some(Arc::new(Config {
                server_id: russh::SshId::Standard("SSH-2.0-OpenSSH_9.2p1 Simulated".into()),
                methods: MethodSet::from(&[MethodKind::PublicKey][..]),
                keys,
                inactivity_timeout: Some(IDLE),
                auth_rejection_time: Duration::ZERO,
                nodelay: true,
                ..Config::default()
            }))
        };
        self.config.get_or_init(make).clone()
    }
}

/// Bytes that follow from a seed: SHA-256 in counter mode.
struct Stream {
    seed: [u8; 32],
    block: u64,
}

impl rand_core::TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        for chunk in target.chunks_mut(32) {
            let block: [u8; 32] =
                Sha256::new().chain_update(self.seed).chain_update(self.block.to_le_bytes()).finalize().into();
            self.block += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Stream {}
