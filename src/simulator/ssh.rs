//! The SSH ports of the simulated servers: a real listener on each address, a real handshake with the server's own keys.
//!
//! Lets in who proves the key pair that the server was booted with, as whatever user, and nobody else. A server's port is closed to the kernel until its guest is up, so that a client meets what it meets
//! with a real cloud: refused, then answered. Keys follow from the server's id and a secret of this cloud, and are made
//! when first asked for: ten thousand servers that nobody connects to cost no key.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use russh::{
    Channel, ChannelId, MethodKind, MethodSet, Pty,
    keys::{Algorithm, EcdsaCurve, PrivateKey, PublicKey, ssh_key::rand_core},
    server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::{
    exec::{self, Login},
    guests::Guests,
    servers::SshMode,
};

/// A client that says nothing more is let go after this.
const IDLE: Duration = Duration::from_secs(60);

/// A client that waits for a command is asked so often whether it is still there.
const ASK: Duration = Duration::from_secs(20);

/// The open ports.
pub(crate) struct Listeners {
    port: u16,
    secret: [u8; 32],
    /// What is behind them.
    pub guests: Guests,
    open: HashMap<Ipv4Addr, (JoinHandle<()>, Arc<Port>)>,
    /// Addresses whose port could not be opened, and why; shown in the state.
    pub failures: Vec<String>,
}

impl Listeners {
    pub(crate) fn new(port: u16, secret: [u8; 32], guests: Guests) -> Self {
        Self { port, secret, guests, open: HashMap::new(), failures: Vec::new() }
    }

    /// Opens the port of a server before returning. The key is in OpenSSH's form.
    pub(crate) fn listen(&mut self, address: Ipv4Addr, server: &str, mode: SshMode, key: Option<Arc<str>>) {
        self.unlisten(address);
        match bind(SocketAddrV4::new(address, self.port)) {
            Ok(listener) => {
                let keys = HostKeys::new(server, self.secret);
                let listener = Mutex::new(Some(listener));
                let port = Arc::new(Port { server: server.into(), keys, authorized: key, listener });
                let task = tokio::spawn(answer(port.clone(), self.guests.clone(), mode));
                self.open.insert(address, (task, port));
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

    /// Closes the port before returning, and the connections that came through it soon after.
    pub(crate) fn unlisten(&mut self, address: Ipv4Addr) {
        if let Some((task, port)) = self.open.remove(&address) {
            port.shut();
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

/// What one port leads to.
pub(super) struct Port {
    /// Id of the server.
    pub server: Box<str>,
    keys: HostKeys,
    authorized: Option<Arc<str>>,
    /// Not the task's own: to be closed at once, so that the address is free for whoever listens there next.
    listener: Mutex<Option<TcpListener>>,
}

impl Port {
    /// Whether it was closed: who came in before has nothing to do there any more.
    pub(super) fn is_shut(&self) -> bool {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn shut(&self) {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        let accepted = poll_fn(|cx| match &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(listener) => listener.poll_accept(cx),
            // Whoever shut it ends the task that waits here.
            None => Poll::Pending,
        });
        accepted.await.map(|(stream, _)| stream)
    }

    fn lets_in(&self, key: &PublicKey) -> bool {
        let authorized = self.authorized.as_deref().and_then(|text| PublicKey::from_openssh(text).ok());
        authorized.is_some_and(|authorized| authorized.key_data() == key.key_data())
    }
}

async fn answer(port: Arc<Port>, guests: Guests, mode: SshMode) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok(stream) = port.accept().await else {
            // Out of files, most likely; the next client may be luckier.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while sessions.try_join_next().is_some() {}
        match mode {
            SshMode::Silent => sessions.spawn(hold(stream)),
            SshMode::Answer | SshMode::Never => sessions.spawn(session(stream, port.clone(), guests.clone())),
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

async fn session(stream: TcpStream, port: Arc<Port>, guests: Guests) {
    let Some(config) = port.keys.config() else { return };
    let over = CancellationToken::new();
    // The port closes: the connection, and what runs over it, is at an end too.
    let _shut = over.clone().drop_guard();
    let line = Line { stream, cut: Box::pin(over.clone().cancelled_owned()) };
    let login = Login { guests, port, user: String::new(), over: over.clone() };
    let visitor = Visitor { login, _gone: over.drop_guard() };
    if let Ok(session) = russh::server::run_stream(config, line, visitor).await {
        // How a client leaves (key scanners cut the connection) is its own affair.
        let _ended = session.await;
    }
}

/// A connection that ends when it is told to.
struct Line {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Who comes to a port.
struct Visitor {
    login: Login,
    _gone: DropGuard,
}

impl Visitor {
    fn judge(&self, key: &PublicKey) -> Auth {
        if self.login.port.lets_in(key) { Auth::Accept } else { Auth::reject() }
    }
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(self.judge(offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.login.user = user.to_owned();
        Ok(self.judge(key.public_key))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        tokio::spawn(exec::serve(channel, session.handle(), self.login.clone()));
        Ok(())
    }

    // Each question is answered before the next is read: an answer names no question.

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
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
                keepalive_interval: Some(ASK),
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
