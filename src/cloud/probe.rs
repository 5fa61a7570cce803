//! Finds out whether a machine answers, and by which SSH host keys it will be known.
//!
//! A probe is one bounded attempt: it reads what the machine tells everybody and leaves. It never logs in, never
//! retries, never decides what an answer means. sshd counts connections that leave without a login against their
//! source, so no more are made than there are keys to read: one for each key type the server offers.

mod transcript;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::client::{self, Handler};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKeyOrCertificate};
use russh::{Preferred, kex};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use transcript::{HostKey, Recorder, Transcript};

/// Longest time for one connection: to be made, and then to tell its host key.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a machine did not pass.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProbeError {
    /// The machine is there, but nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// No connection within the time: not up yet, or a firewall drops what we send.
    #[error("no connection in time")]
    TimedOut,
    /// The network says there is no way to the machine.
    #[error("no route to the address")]
    Unreachable,
    /// Connecting failed in another way.
    #[error("cannot connect: {0}")]
    Connect(io::ErrorKind),
    /// Something listens, but does not greet as an SSH server.
    #[error("the port is open, but no SSH server greets")]
    NoBanner,
    /// An SSH server greets, but the key exchange does not succeed.
    #[error("SSH handshake failed: {0}")]
    Handshake(HandshakeFault),
    /// The machine answers with another host key than the recorded ones.
    #[error("the SSH host key changed")]
    KeyChanged,
}

impl ProbeError {
    /// A short, stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            ProbeError::Refused => "refused",
            ProbeError::TimedOut => "timed_out",
            ProbeError::Unreachable => "unreachable",
            ProbeError::Connect(_) => "connect",
            ProbeError::NoBanner => "no_banner",
            ProbeError::Handshake(_) => "handshake",
            ProbeError::KeyChanged => "key_changed",
        }
    }

    pub(crate) fn of_connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ProbeError::Refused,
            io::ErrorKind::TimedOut => ProbeError::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ProbeError::Unreachable,
            kind => ProbeError::Connect(kind),
        }
    }
}

/// Where a key exchange ended too early. What the server sent is not repeated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HandshakeFault {
    /// It offers nothing that we know.
    #[error("no algorithm in common")]
    NothingInCommon,
    /// It has a key but cannot prove it.
    #[error("the server's signature is wrong")]
    Signature,
    /// It hung up.
    #[error("the server closed the connection")]
    Closed,
    /// It stopped answering.
    #[error("no answer in time")]
    TimedOut,
    /// It does not follow the protocol.
    #[error("the server does not follow the protocol")]
    Protocol,
}

/// A type of host key: the server is asked for one of each it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    Ed25519,
    NistP256,
    NistP384,
    NistP521,
    Rsa,
}

impl KeyType {
    /// In the order in which clients prefer them.
    const ALL: [KeyType; 5] = [KeyType::Ed25519, KeyType::NistP256, KeyType::NistP384, KeyType::NistP521, KeyType::Rsa];

    /// The name at the start of a key of this type.
    fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ssh-ed25519",
            KeyType::NistP256 => "ecdsa-sha2-nistp256",
            KeyType::NistP384 => "ecdsa-sha2-nistp384",
            KeyType::NistP521 => "ecdsa-sha2-nistp521",
            KeyType::Rsa => "ssh-rsa",
        }
    }

    /// The algorithms by which a server proves a key of this type. SHA-1 is not among them.
    fn algorithms(self) -> Vec<Algorithm> {
        let ecdsa = |curve| vec![Algorithm::Ecdsa { curve }];
        match self {
            KeyType::Ed25519 => vec![Algorithm::Ed25519],
            KeyType::NistP256 => ecdsa(EcdsaCurve::NistP256),
            KeyType::NistP384 => ecdsa(EcdsaCurve::NistP384),
            KeyType::NistP521 => ecdsa(EcdsaCurve::NistP521),
            KeyType::Rsa => [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }).to_vec(),
        }
    }

    fn is_among(self, offered: &[String]) -> bool {
        self.algorithms().iter().any(|algorithm| offered.iter().any(|name| name == algorithm.as_str()))
    }
}

/// Whether the port takes a connection.
pub async fn probe_tcp(address: SocketAddr, deadline: Instant) -> Result<(), ProbeError> {
    connect(address, deadline).await.map(drop)
}

/// Reads all host keys the SSH server offers, each as `type base64`, the most preferred first. Key exchanges cost
/// processor time, so each takes one of the `exchanges`, once the server has begun to speak; waiting for it moves the
/// deadline.
pub async fn probe_ssh(
    address: SocketAddr,
    deadline: Instant,
    exchanges: &Semaphore,
) -> Result<Vec<String>, ProbeError> {
    let mut wanted = KeyType::ALL.to_vec();
    let mut keys = Vec::new();
    while !wanted.is_empty() {
        let met = meet(address, &wanted, deadline, exchanges).await?;
        let known = wanted.len();
        wanted.retain(|key_type| key_type.name() != met.key.name && key_type.is_among(&met.offered));
        if wanted.len() == known {
            return Err(ProbeError::Handshake(HandshakeFault::Protocol));
        }
        keys.push(met.key.to_string());
    }
    Ok(keys)
}

/// Whether the machine still answers with one of the recorded host keys; one connection.
pub async fn recheck_ssh(
    address: SocketAddr,
    recorded: &[String],
    deadline: Instant,
    exchanges: &Semaphore,
) -> Result<(), ProbeError> {
    let wanted: Vec<KeyType> = KeyType::ALL
        .into_iter()
        .filter(|key_type| recorded.iter().any(|line| line.split_whitespace().next() == Some(key_type.name())))
        .collect();
    if wanted.is_empty() {
        return Err(ProbeError::KeyChanged);
    }
    match meet(address, &wanted, deadline, exchanges).await {
        Ok(met) if recorded.iter().any(|line| met.key.is_written(line)) => Ok(()),
        Ok(_) | Err(ProbeError::Handshake(HandshakeFault::NothingInCommon)) => Err(ProbeError::KeyChanged),
        Err(error) => Err(error),
    }
}

async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, ProbeError> {
    let limit = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    match timeout_at(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ProbeError::of_connecting(&error)),
        Err(_) => Err(ProbeError::TimedOut),
    }
}

/// An SSH server greets first.
async fn begins_to_speak(stream: &TcpStream, deadline: Instant) -> Result<(), ProbeError> {
    let limit = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    match timeout_at(limit, stream.readable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(ProbeError::NoBanner),
    }
}

/// What one connection taught.
struct Met {
    key: HostKey,
    offered: Vec<String>,
}

/// One connection: the greeting and one key exchange, left before any login.
async fn meet(
    address: SocketAddr,
    wanted: &[KeyType],
    deadline: Instant,
    exchanges: &Semaphore,
) -> Result<Met, ProbeError> {
    let stream = connect(address, deadline).await?;
    begins_to_speak(&stream, deadline).await?;
    let asked = Instant::now();
    // Nobody closes it, so there is always a turn.
    let _turn = exchanges.acquire().await;
    let limit = (deadline + asked.elapsed()).min(Instant::now() + CONNECT_TIMEOUT);
    let (stream, record) = Recorder::new(stream, limit);
    let proven = Arc::new(AtomicBool::new(false));
    let witness = Witness { proven: Arc::clone(&proven) };
    let outcome = timeout_at(limit, client::connect_stream(Arc::new(config(wanted)), stream, witness)).await;
    let Transcript { greeted, offered, key } = record.read();
    match key {
        // An RSA proof is not checked, as ssh-keyscan checks none: the one RSA implementation for this has an open
        // advisory. A liar gains nothing: a key that it cannot prove fails in every client.
        Some(key) if proven.load(Ordering::Acquire) || key.name == KeyType::Rsa.name() => Ok(Met { key, offered }),
        _ if !greeted => Err(ProbeError::NoBanner),
        _ => Err(ProbeError::Handshake(match outcome {
            Ok(Err(error)) => fault(&error),
            Ok(Ok(_)) => HandshakeFault::Protocol,
            Err(_) => HandshakeFault::TimedOut,
        })),
    }
}

pub(crate) fn fault(error: &russh::Error) -> HandshakeFault {
    match error {
        russh::Error::NoCommonAlgo { .. } => HandshakeFault::NothingInCommon,
        russh::Error::WrongServerSig => HandshakeFault::Signature,
        russh::Error::IO(error) if error.kind() == io::ErrorKind::TimedOut => HandshakeFault::TimedOut,
        russh::Error::IO(_) | russh::Error::Disconnect | russh::Error::HUP => HandshakeFault::Closed,
        _ => HandshakeFault::Protocol,
    }
}

/// The exchanges are the cheap ones that every server of the last ten years has, hardened ones included; nothing
/// secret will be said.
const EXCHANGES: &[kex::Name] = &[
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::DH_G14_SHA256,
    kex::DH_G16_SHA512,
];

fn config(wanted: &[KeyType]) -> client::Config {
    let key = Cow::Owned(wanted.iter().flat_map(|key_type| key_type.algorithms()).collect());
    client::Config {
        preferred: Preferred { kex: Cow::Borrowed(EXCHANGES), key, ..Preferred::DEFAULT },
        inactivity_timeout: Some(CONNECT_TIMEOUT),
        nodelay: true,
        ..client::Config::default()
    }
}

/// Sees the server's proof of its key, and then ends the session.
struct Witness {
    proven: Arc<AtomicBool>,
}

impl Handler for Witness {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        self.proven.store(true, Ordering::Release);
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
