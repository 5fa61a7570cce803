//! An SSH server in this process, for tests: lets one key in, and runs real commands in a folder that goes with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelMsg, Sig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;

pub(super) const P256: Algorithm = Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 };

/// How it treats its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Serves,
    /// Lets them in and runs nothing.
    Refuses,
    /// Leaves while it thinks about the key.
    Leaves,
}

/// A running server.
pub(super) struct Sshd {
    pub address: SocketAddr,
    pub host_keys: Vec<String>,
    /// Where commands start.
    pub root: PathBuf,
    /// What `HOME` is.
    pub home: PathBuf,
    pub seen: Arc<Mutex<Seen>>,
}

/// What a server saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Names of the users that tried to log in.
    pub logins: Vec<String>,
    pub commands: Vec<String>,
    pub signals: Vec<Sig>,
    /// Connections that are over.
    pub ended: usize,
}

impl Sshd {
    pub(super) async fn start(authorized: &str) -> Self {
        Self::with(authorized, Manner::Serves).await
    }

    pub(super) async fn with(authorized: &str, manner: Manner) -> Self {
        let root = std::env::temp_dir().join(format!("sshd-{}", uuid::Uuid::new_v4()));
        let home = root.join("home");
        std::fs::create_dir_all(&home).unwrap();
        let keys = [Algorithm::Ed25519, P256].map(|kind| PrivateKey::random(&mut safe_rng(), kind).unwrap());
        let host_keys = keys.iter().map(|key| key.public_key().to_openssh().unwrap()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let rest = Duration::ZERO;
        let config = server::Config { keys: keys.to_vec(), auth_rejection_time: rest, ..server::Config::default() };
        let (config, seen) = (Arc::new(config), Arc::new(Mutex::new(Seen::default())));
        let visitor = Visitor { authorized: authorized.to_owned(), manner, root: root.clone(), seen: seen.clone() };
        let ended = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (config, visitor, ended) = (config.clone(), visitor.clone(), ended.clone());
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, visitor).await {
                        // How a client leaves is its own affair.
                        let _left = session.await;
                    }
                    ended.lock().unwrap().ended += 1;
                });
            }
        });
        Self { address, host_keys, root, home, seen }
    }

    /// Waits until the server has seen what is wanted.
    pub(super) async fn sees(&self, wanted: impl Fn(&Seen) -> bool) {
        eventually(|| wanted(&self.seen.lock().unwrap())).await;
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // A command that still runs may be writing there; it is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Waits until something is so.
pub(super) async fn eventually(holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap();
}

#[derive(Clone)]
struct Visitor {
    authorized: String,
    manner: Manner,
    root: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

impl server::Handler for Visitor {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.seen.lock().unwrap().logins.push(user.to_owned());
        if self.manner == Manner::Leaves {
            return Err(russh::Error::HUP);
        }
        let authorized = offer.public_key.to_openssh().unwrap().starts_with(&self.authorized);
        Ok(if authorized { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, _user: &str, _key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        tokio::spawn(serve(channel, session.handle(), self.clone()));
        Ok(())
    }
}

async fn serve(channel: Channel<Msg>, session: server::Handle, visitor: Visitor) {
    let id = channel.id();
    let (mut reader, writer) = channel.split();
    let Some(ChannelMsg::Exec { command, .. }) = reader.wait().await else { return };
    let command = String::from_utf8(command).unwrap();
    visitor.seen.lock().unwrap().commands.push(command.clone());
    if visitor.manner == Manner::Refuses {
        session.channel_failure(id).await.unwrap();
        return;
    }
    session.channel_success(id).await.unwrap();
    let mut child = start(&command, &visitor.root);
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let group = child.id().unwrap();
    let output = async {
        let out = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
                if writer.data_bytes(buffer[..read].to_vec()).await.is_err() {
                    break;
                }
            }
        };
        let err = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
                if writer.extended_data_bytes(1, buffer[..read].to_vec()).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(out, err)
    };
    let orders = async {
        loop {
            match reader.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    if let Some(stdin) = &mut stdin {
                        // A command need not read.
                        let _read = stdin.write_all(&data).await;
                    }
                }
                Some(ChannelMsg::Eof) => stdin = None,
                Some(ChannelMsg::Signal { signal }) => {
                    visitor.seen.lock().unwrap().signals.push(signal);
                    kill("TERM", group);
                }
                Some(ChannelMsg::Close) | None => return,
                Some(_) => {}
            }
        }
    };
    let (mut output, mut orders) = (std::pin::pin!(output), std::pin::pin!(orders));
    let (mut told, mut status) = (false, None);
    while !(told && status.is_some()) {
        tokio::select! {
            ended = child.wait(), if status.is_none() => {
                let ended = ended.unwrap();
                status = Some(ended);
                tell(&session, id, ended).await;
            }
            _ = &mut output, if !told => told = true,
            () = &mut orders => break,
        }
    }
    kill("KILL", group);
    let _closed = writer.close().await;
}

async fn tell(session: &server::Handle, id: russh::ChannelId, status: std::process::ExitStatus) {
    use std::os::unix::process::ExitStatusExt as _;
    let told = match (status.code(), status.signal()) {
        (Some(code), _) => session.exit_status_request(id, u32::try_from(code).unwrap()).await,
        (None, Some(9)) => session.exit_signal_request(id, Sig::KILL, false, String::new(), String::new()).await,
        (None, Some(15)) => session.exit_signal_request(id, Sig::TERM, false, String::new(), String::new()).await,
        (None, _) => session.exit_signal_request(id, Sig::SEGV, false, String::new(), String::new()).await,
    };
    // The client may have left.
    let _heard = told;
}

fn start(command: &str, root: &Path) -> tokio::process::Child {
    Command::new("sh")
        .args(["-c", command])
        .current_dir(root)
        .env("HOME", root.join("home"))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whoever of the group is still there.
fn kill(signal: &str, group: u32) {
    let script = "kill -s \"$0\" -- \"-$1\" 2>/dev/null";
    let mut kill = std::process::Command::new("sh");
    kill.args(["-c", script, signal, &group.to_string()]).status().unwrap();
}

/// What happens to the bytes between a client and a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fair,
    /// Nothing passes, and nobody is told.
    Frozen,
    Cut,
}

/// A line between a client and a server.
pub(super) struct Wire {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Wire {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, mut seen) = watch::channel(Weather::Fair);
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = seen.wait_for(|weather| *weather != Weather::Fair) => {}
            }
            // Both ends are held, and dropped when it is cut.
            let _cut = seen.wait_for(|weather| *weather == Weather::Cut).await;
        });
        Self { address, weather }
    }

    pub(super) fn turns(&self, weather: Weather) {
        self.weather.send(weather).unwrap();
    }
}
