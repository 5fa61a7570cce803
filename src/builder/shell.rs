//! One login to a server over SSH, and the commands that are run over it.
//!
//! Talks only to a server that proves one of the host keys recorded for it, and says nothing before it has. Every step
//! has a deadline, and a server that vanishes is noticed within a minute. Never tries again, and never decides what a
//! failure means: after one that ended the connection, a new login is the caller's to make.

mod key;
mod lines;
mod rsa;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::client::{self, AuthResult, DisconnectReason, Handle, Handler, Msg};
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Preferred, Sig};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cloud::probe::{self, HandshakeFault, ProbeError};
use key::Kind;
use lines::Lines;

pub use key::{Key, KeyError, PrivateKey, make_key, parse_private_key};

/// Why a login or a command came to nothing. What the server said is not repeated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShellError {
    /// No SSH session could be had; it may pass.
    #[error("cannot reach the server over SSH: {0}")]
    Unreachable(ProbeError),
    /// The server does not take this key from this user. Soon after a boot it may pass: keys are written after sshd starts.
    #[error(
        "the server does not let {username} in with this key: check that the image has a user of this name, and that \
         cloud-init puts the key pair of the server into its authorized_keys"
    )]
    Denied {
        /// Who was to be let in.
        username: String,
    },
    /// The server lets the user in and runs nothing for it.
    #[error("the server lets {username} in but runs no command: check its shell, and for a forced command or command=")]
    Refused {
        /// Who was let in.
        username: String,
    },
    /// The server proves none of the recorded keys.
    #[error("the SSH host key changed: this is not the server whose keys were recorded, or it was set up anew")]
    HostKeyChanged,
    /// None of the recorded keys is of a kind whose proof can be checked.
    #[error("no recorded SSH host key is ed25519 or ECDSA: the server must have one of these, RSA alone is not enough")]
    HostKeyUnusable,
    /// The deadline passed.
    #[error("{0} in time")]
    TimedOut(Late),
    /// The connection ended in the middle.
    #[error("the connection was lost: {0}")]
    Lost(Loss),
}

impl ShellError {
    /// Whether the same may succeed a while later, with nothing changed by anybody.
    pub fn is_transient(&self) -> bool {
        matches!(self, ShellError::Unreachable(_) | ShellError::Lost(_))
    }

    /// A short, stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            ShellError::Unreachable(_) => "unreachable",
            ShellError::Denied { .. } => "denied",
            ShellError::Refused { .. } => "refused",
            ShellError::HostKeyChanged => "host_key_changed",
            ShellError::HostKeyUnusable => "host_key_unusable",
            ShellError::TimedOut(_) => "timed_out",
            ShellError::Lost(_) => "lost",
        }
    }
}

/// What was not done at the deadline.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Late {
    /// Nobody was let in or turned away.
    #[error("the server did not answer the login")]
    Login,
    /// The command still ran; it was told to end, and the connection is closed.
    #[error("the command did not end")]
    Command,
}

/// How a connection ended too early.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Loss {
    /// The server, or something on the way, closed it.
    #[error("it was closed from the other side")]
    Closed,
    /// Nothing was heard for most of a minute.
    #[error("the server no longer answers")]
    Silent,
    /// What came was not SSH.
    #[error("the server does not follow the protocol")]
    Broken,
    /// It was closed here, after a command that did not end in time or a loss.
    #[error("it is closed")]
    Over,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(u32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

impl Exit {
    /// Whether it ended well.
    pub fn is_success(&self) -> bool {
        *self == Exit::Code(0)
    }
}

/// How long the parts of a session may be silent. Three questions unanswered are a server that is gone.
#[derive(Clone, Copy)]
struct Patience {
    /// To a greeting, and from there to the proof of a host key.
    connect: Duration,
    /// Between two questions whether the server is still there.
    ask: Duration,
    /// From a command's end to the end of its output, which processes that it left behind may hold open.
    output: Duration,
    /// From the signal to the end of the connection, for a command that did not end in time.
    end: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(20),
    ask: Duration::from_secs(15),
    output: Duration::from_secs(5),
    end: Duration::from_secs(2),
};

/// Questions that may stay unanswered.
const UNANSWERED: u32 = 2;

/// A user logged in to a server.
pub struct Shell {
    username: String,
    session: Option<Handle<Guard>>,
    ending: Ending,
    patience: Patience,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Shell {
    /// Logs in, once. `host_keys` are as recorded on the node, `type base64`; RSA keys among them are passed over.
    pub async fn login(
        address: SocketAddr,
        username: &str,
        key: &PrivateKey,
        host_keys: &[String],
        deadline: Instant,
    ) -> Result<Self, ShellError> {
        Self::login_with(PATIENCE, address, username, key, host_keys, deadline).await
    }

    async fn login_with(
        patience: Patience,
        address: SocketAddr,
        username: &str,
        key: &PrivateKey,
        host_keys: &[String],
        deadline: Instant,
    ) -> Result<Self, ShellError> {
        let recorded = provable(host_keys);
        if recorded.is_empty() {
            return Err(if host_keys.is_empty() { ShellError::HostKeyChanged } else { ShellError::HostKeyUnusable });
        }
        let ending = Ending::default();
        let config = Arc::new(config(&recorded, patience));
        let stream = connect(address, deadline.min(Instant::now() + patience.connect)).await?;
        let guard = Guard { recorded, ending: ending.clone() };
        let limit = deadline.min(Instant::now() + patience.connect);
        let session = match timeout_at(limit, client::connect_stream(config, stream, guard)).await {
            Ok(met) => met.map_err(|error| unmet(&error))?,
            Err(_) => return Err(ShellError::Unreachable(ProbeError::Handshake(HandshakeFault::TimedOut))),
        };
        let mut shell = Self { username: username.to_owned(), session: None, ending, patience };
        let session = match timeout_at(deadline, shell.prove(session, key)).await {
            Ok(proven) => proven?,
            Err(_) => return Err(ShellError::TimedOut(Late::Login)),
        };
        shell.session = Some(session);
        Ok(shell)
    }

    /// Who is logged in.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Runs a command in the user's shell, with `stdin` as its input (nothing when it is `None`), and gives each line
    /// of its output, errors included, to `on_line` as it comes: without control characters, at most 8 KiB of it.
    /// After [`ShellError::TimedOut`] and [`ShellError::Lost`] the connection is gone.
    pub async fn run(
        &mut self,
        command: &str,
        stdin: Option<Bytes>,
        deadline: Instant,
        mut on_line: impl FnMut(&str) + Send,
    ) -> Result<Exit, ShellError> {
        let result = self.converse(command, stdin, deadline, &mut on_line).await;
        if matches!(result, Err(ShellError::TimedOut(_) | ShellError::Lost(_))) {
            self.hang_up().await;
        }
        result
    }

    /// Says good-bye. A `Shell` that is dropped hangs up too, without it.
    pub async fn close(mut self) {
        self.hang_up().await;
    }

    /// The second half of a login: that the user has the key.
    async fn prove(&self, mut session: Handle<Guard>, key: &PrivateKey) -> Result<Handle<Guard>, ShellError> {
        let username = &self.username;
        let broken = |_| ShellError::Lost(self.ending.loss());
        let result = match &key.0 {
            Kind::Plain(key) => {
                let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
                session.authenticate_publickey(username, key).await.map_err(broken)?
            }
            Kind::Rsa(key) => {
                // SHA-1 is never an answer, whatever the server prefers.
                let known = session.best_supported_rsa_hash().await.map_err(broken)?.flatten();
                let hash = known.unwrap_or(HashAlg::Sha512);
                let (public, mut signer) = (key.public().clone(), key.clone());
                let proven = session.authenticate_publickey_with(username, public, Some(hash), &mut signer).await;
                proven.map_err(|_| ShellError::Lost(self.ending.loss()))?
            }
        };
        match result {
            AuthResult::Success => Ok(session),
            AuthResult::Failure { .. } => Err(match self.ending.cut_short() {
                Some(loss) => ShellError::Lost(loss),
                None => ShellError::Denied { username: username.clone() },
            }),
        }
    }

    async fn converse(
        &self,
        command: &str,
        stdin: Option<Bytes>,
        deadline: Instant,
        on_line: &mut (impl FnMut(&str) + Send),
    ) -> Result<Exit, ShellError> {
        let late = |_| ShellError::TimedOut(Late::Command);
        let channel = timeout_at(deadline, self.begin(command)).await.map_err(late)??;
        let (mut reader, writer) = channel.split();
        let mut talk = Talk { out: Lines::default(), err: Lines::default(), exit: None, begun: false };
        let listened = timeout_at(deadline, self.listen(&mut talk, &mut reader, &writer, stdin, on_line)).await;
        if listened.is_err() {
            self.end_command(&mut talk, &mut reader, &writer, on_line).await;
        }
        talk.out.finish(on_line);
        talk.err.finish(on_line);
        match listened {
            Ok(Ok(())) => talk.exit.ok_or_else(|| ShellError::Lost(self.ending.loss())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ShellError::TimedOut(Late::Command)),
        }
    }

    async fn begin(&self, command: &str) -> Result<Channel<Msg>, ShellError> {
        let session = self.session.as_ref().ok_or(ShellError::Lost(Loss::Over))?;
        let refused = |error: russh::Error| match error {
            russh::Error::ChannelOpenFailure(_) => ShellError::Refused { username: self.username.clone() },
            _ => ShellError::Lost(self.ending.loss()),
        };
        let channel = session.channel_open_session().await.map_err(refused)?;
        channel.exec(true, command).await.map_err(refused)?;
        Ok(channel)
    }

    /// Listens to a command until it has ended, and feeds it meanwhile: one that does not read must not keep us from
    /// listening, nor the other way round.
    async fn listen(
        &self,
        talk: &mut Talk,
        reader: &mut ChannelReadHalf,
        writer: &ChannelWriteHalf<Msg>,
        stdin: Option<Bytes>,
        on_line: &mut (impl FnMut(&str) + Send),
    ) -> Result<(), ShellError> {
        let mut feed = pin!(feed(writer, stdin));
        let (mut fed, mut output) = (false, pin!(tokio::time::sleep(Duration::MAX)));
        loop {
            tokio::select! {
                message = reader.wait() => {
                    let had_ended = talk.exit.is_some();
                    match talk.hear(message, on_line) {
                        Heard::More => {}
                        Heard::End => break,
                        Heard::Refusal => return Err(ShellError::Refused { username: self.username.clone() }),
                    }
                    if talk.exit.is_some() && !had_ended {
                        output.as_mut().reset(Instant::now() + self.patience.output);
                    }
                }
                () = &mut feed, if !fed => fed = true,
                () = &mut output, if talk.exit.is_some() => break,
            }
        }
        // Nobody is left to say good-bye to when the connection is gone.
        let _closed = writer.close().await;
        Ok(())
    }

    /// Ends a command that did not end in time: by a signal first, for what it still has to say.
    async fn end_command(
        &self,
        talk: &mut Talk,
        reader: &mut ChannelReadHalf,
        writer: &ChannelWriteHalf<Msg>,
        on_line: &mut (impl FnMut(&str) + Send),
    ) {
        let ended = timeout(self.patience.end, async {
            writer.signal(Sig::TERM).await.ok()?;
            while matches!(talk.hear(reader.wait().await, on_line), Heard::More) {}
            writer.close().await.ok()
        });
        // The connection is closed next, which ends what a signal did not.
        let _ended = ended.await;
    }

    async fn hang_up(&mut self) {
        if let Some(session) = self.session.take() {
            let farewell = session.disconnect(Disconnect::ByApplication, "", "");
            // Dropping the session closes the connection, heard or not.
            let _heard = timeout(self.patience.end, farewell).await;
        }
    }
}

/// Sends a command its input, and that there is no more. A command that does not want it is no failure.
async fn feed(writer: &ChannelWriteHalf<Msg>, stdin: Option<Bytes>) {
    let sent = match stdin {
        Some(bytes) => writer.data_bytes(bytes).await,
        None => Ok(()),
    };
    if sent.is_ok() {
        // Whoever listens hears of a lost connection.
        let _sent = writer.eof().await;
    }
}

/// What is known of a running command.
struct Talk {
    out: Lines,
    err: Lines,
    exit: Option<Exit>,
    /// The server took the command.
    begun: bool,
}

enum Heard {
    More,
    End,
    Refusal,
}

impl Talk {
    fn hear(&mut self, message: Option<ChannelMsg>, on_line: &mut impl FnMut(&str)) -> Heard {
        match message {
            None | Some(ChannelMsg::Close) => return Heard::End,
            Some(ChannelMsg::Failure) if !self.begun => return Heard::Refusal,
            Some(ChannelMsg::Success) => self.begun = true,
            Some(ChannelMsg::Data { data }) => self.out.take(&data, on_line),
            Some(ChannelMsg::ExtendedData { data, .. }) => self.err.take(&data, on_line),
            Some(ChannelMsg::ExitStatus { exit_status }) => self.exit = Some(Exit::Code(exit_status)),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => self.exit = Some(Exit::Signal(name(&signal_name))),
            Some(_) => {}
        }
        Heard::More
    }
}

/// The name of a signal; one of the server's own making is not repeated.
fn name(signal: &Sig) -> String {
    match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(_) => "unknown",
    }
    .to_owned()
}

async fn connect(address: SocketAddr, limit: Instant) -> Result<TcpStream, ShellError> {
    match timeout_at(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // A small question after a small answer would wait for an acknowledgement. Without it we are only slower.
            let _faster = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(ShellError::Unreachable(ProbeError::of_connecting(&error))),
        Err(_) => Err(ShellError::Unreachable(ProbeError::TimedOut)),
    }
}

/// The recorded keys whose proof can be checked: for RSA the one implementation has an open advisory.
fn provable(host_keys: &[String]) -> Vec<PublicKey> {
    let keys = host_keys.iter().filter_map(|line| PublicKey::from_openssh(line).ok());
    keys.filter(|key| matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. })).collect()
}

fn config(recorded: &[PublicKey], patience: Patience) -> client::Config {
    let mut kinds: Vec<Algorithm> = Vec::new();
    for kind in recorded.iter().map(PublicKey::algorithm) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    client::Config {
        preferred: Preferred { key: Cow::Owned(kinds), ..Preferred::DEFAULT },
        keepalive_interval: Some(patience.ask),
        keepalive_max: UNANSWERED as usize,
        // Questions can only be asked while we can write; this ends what hangs in writing.
        inactivity_timeout: Some(patience.ask * (UNANSWERED + 1) + patience.ask / 2),
        nodelay: true,
        ..client::Config::default()
    }
}

/// Why there is no session.
fn unmet(error: &russh::Error) -> ShellError {
    match error {
        russh::Error::UnknownKey
        | russh::Error::WrongServerSig
        | russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, .. } => ShellError::HostKeyChanged,
        error => ShellError::Unreachable(ProbeError::Handshake(probe::fault(error))),
    }
}

/// How a session ended, told by the one who saw it.
#[derive(Clone, Default)]
struct Ending(Arc<Mutex<Option<End>>>);

#[derive(Clone, Copy)]
enum End {
    Lost(Loss),
    /// The server said why, or would not hear of another way in.
    Farewell,
}

impl Ending {
    fn set(&self, end: End) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    fn get(&self) -> Option<End> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loss(&self) -> Loss {
        self.cut_short().unwrap_or(Loss::Closed)
    }

    /// How it was lost, when it was.
    fn cut_short(&self) -> Option<Loss> {
        match self.get() {
            Some(End::Lost(loss)) => Some(loss),
            Some(End::Farewell) | None => None,
        }
    }
}

/// Lets only a recorded host key pass, and remembers how the session ended.
struct Guard {
    recorded: Vec<PublicKey>,
    ending: Ending,
}

impl Handler for Guard {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        // A certificate proves what an authority says; none was asked.
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(self.recorded.iter().any(|recorded| recorded.key_data() == key.key_data()))
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        self.ending.set(match reason {
            DisconnectReason::ReceivedDisconnect(_) | DisconnectReason::Error(russh::Error::NoAuthMethod) => {
                End::Farewell
            }
            DisconnectReason::Error(error) => End::Lost(loss(&error)),
        });
        Ok(())
    }
}

fn loss(error: &russh::Error) -> Loss {
    match error {
        russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => Loss::Silent,
        russh::Error::IO(error) if error.kind() == io::ErrorKind::TimedOut => Loss::Silent,
        russh::Error::IO(_) | russh::Error::Disconnect | russh::Error::HUP => Loss::Closed,
        _ => Loss::Broken,
    }
}

#[cfg(test)]
mod tests;
