//! Probes against SSH servers in this process, and against ports that are none.

use std::net::Ipv4Addr;

use russh::keys::PrivateKey;
use russh::keys::key::safe_rng;
use russh::server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const P256: Algorithm = Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 };
const P384: Algorithm = Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 };

static EXCHANGES: Semaphore = Semaphore::const_new(1);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn make(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::random(&mut safe_rng(), algorithm).unwrap()
}

fn line(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

struct Nobody;

impl server::Handler for Nobody {
    type Error = russh::Error;
}

/// An SSH server with these host keys; tells how many connections it took.
async fn ssh_server(keys: &[PrivateKey]) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let (listener, address) = listener().await;
    let config = Arc::new(server::Config { keys: keys.to_vec(), ..server::Config::default() });
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, stream, Nobody).await {
                    // The client leaves before any login: an error here is what we expect.
                    let _left = session.await;
                }
            });
        }
    });
    (address, connections)
}

/// A port that says `greeting` to everybody and then hangs up, or stays silent for ever.
async fn plain_server(greeting: &'static [u8], hang_up: bool) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting).await.unwrap();
            if !hang_up {
                held.push(stream);
            }
        }
    });
    address
}

#[tokio::test]
async fn all_offered_host_keys_are_read_one_connection_each() {
    let keys = [make(P256), make(Algorithm::Ed25519), make(P384)];
    let (address, connections) = ssh_server(&keys).await;
    let found = probe_ssh(address, soon(), &EXCHANGES).await.unwrap();
    assert_eq!(found, [line(&keys[1]), line(&keys[0]), line(&keys[2])]);
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_with_one_key_is_asked_once() {
    let keys = [make(P256)];
    let (address, connections) = ssh_server(&keys).await;
    assert_eq!(probe_ssh(address, soon(), &EXCHANGES).await.unwrap(), [line(&keys[0])]);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_recheck_compares_the_key_in_one_connection() {
    let keys = [make(P256), make(Algorithm::Ed25519)];
    let (address, connections) = ssh_server(&keys).await;
    let recorded = probe_ssh(address, soon(), &EXCHANGES).await.unwrap();
    recheck_ssh(address, &recorded, soon(), &EXCHANGES).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 3);
    let other = vec![line(&make(Algorithm::Ed25519))];
    assert_eq!(recheck_ssh(address, &other, soon(), &EXCHANGES).await, Err(ProbeError::KeyChanged));
    let not_offered = vec![line(&make(P384))];
    assert_eq!(recheck_ssh(address, &not_offered, soon(), &EXCHANGES).await, Err(ProbeError::KeyChanged));
    assert_eq!(recheck_ssh(address, &[], soon(), &EXCHANGES).await, Err(ProbeError::KeyChanged));
}

#[tokio::test]
async fn an_rsa_key_is_read_without_its_proof() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        rsa_server(&mut stream).await;
    });
    let found = probe_ssh(address, soon(), &EXCHANGES).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB"), "{found:?}");
}

/// The server's side of an exchange that ends with a key nobody proved.
async fn rsa_server(stream: &mut TcpStream) {
    let names = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let bytes = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let packet = |payload: Vec<u8>| {
        let padding = 8 - (payload.len() + 5) % 8 + 8;
        bytes(&[&[u8::try_from(padding).unwrap()][..], &payload, &vec![0; padding]].concat())
    };
    let mut kexinit = [&[20][..], &[1; 16], &names("curve25519-sha256"), &names("rsa-sha2-512,rsa-sha2-256")].concat();
    for list in ["aes256-ctr", "aes256-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""] {
        kexinit.extend(names(list));
    }
    kexinit.extend([0; 5]);
    let modulus = [&[0, 0x80][..], &[1; 255]].concat();
    let key = [names("ssh-rsa"), bytes(&[1, 0, 1]), bytes(&modulus)].concat();
    let mut point = [0; 32];
    point[0] = 9;
    let signature = [names("rsa-sha2-512"), bytes(&[1; 256])].concat();
    let reply = [vec![31], bytes(&key), bytes(&point), bytes(&signature)].concat();
    stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    stream.write_all(&packet(kexinit)).await.unwrap();
    stream.write_all(&packet(reply)).await.unwrap();
    let mut rest = Vec::new();
    // The client hangs up, cleanly or not.
    let _ended = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (listener, address) = listener().await;
    drop(listener);
    assert_eq!(probe_ssh(address, soon(), &EXCHANGES).await, Err(ProbeError::Refused));
    assert_eq!(probe_tcp(address, soon()).await, Err(ProbeError::Refused));
}

#[tokio::test]
async fn a_port_that_is_no_ssh_server_has_no_banner() {
    let address = plain_server(b"220 mail\r\n", true).await;
    assert_eq!(probe_ssh(address, soon(), &EXCHANGES).await, Err(ProbeError::NoBanner));
    probe_tcp(address, soon()).await.unwrap();
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let address = plain_server(b"", false).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    assert_eq!(probe_ssh(address, deadline, &EXCHANGES).await, Err(ProbeError::NoBanner));
    let address = plain_server(b"SSH-2.0-slow\r\n", false).await;
    let deadline = Instant::now() + Duration::from_millis(200);
    assert_eq!(probe_ssh(address, deadline, &EXCHANGES).await, Err(ProbeError::Handshake(HandshakeFault::TimedOut)));
    assert!(Instant::now() < deadline + Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_that_greets_and_leaves_failed_the_handshake() {
    let address = plain_server(b"SSH-2.0-busy\r\n", true).await;
    let error = probe_ssh(address, soon(), &EXCHANGES).await.unwrap_err();
    assert_eq!(error, ProbeError::Handshake(HandshakeFault::Closed));
    assert_eq!(error.label(), "handshake");
}

#[tokio::test]
async fn a_server_that_waits_for_its_exchange_is_not_late() {
    let (address, _) = ssh_server(&[make(P256)]).await;
    let exchanges = Semaphore::new(1);
    let other = exchanges.acquire().await.unwrap();
    let patience = Duration::from_millis(500);
    let probe = probe_ssh(address, Instant::now() + patience, &exchanges);
    tokio::pin!(probe);
    let waiting = tokio::time::timeout(patience * 2, &mut probe).await;
    assert!(waiting.is_err(), "it had no place: {waiting:?}");
    drop(other);
    assert_eq!(probe.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_port_that_says_nothing_takes_no_place() {
    let (listener, silent) = listener().await;
    let exchanges = Semaphore::new(1);
    let probe = probe_ssh(silent, soon(), &exchanges);
    tokio::pin!(probe);
    let _open = tokio::select! {
        connection = listener.accept() => connection.unwrap(),
        answer = &mut probe => panic!("{answer:?}"),
    };
    let (address, _) = ssh_server(&[make(P256)]).await;
    tokio::select! {
        found = probe_ssh(address, soon(), &exchanges) => assert_eq!(found.unwrap().len(), 1),
        answer = probe => panic!("{answer:?}"),
    }
}
