//! One command over SSH: what the client sends is its input, what it writes is sent, how it ends is told.
//!
//! Without a terminal, and no shell to type into. The command ends with the connection, as with the server.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    pin::pin,
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use russh::{
    Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig,
    server::{Handle, Msg},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{guests::Guests, ssh::Port};

/// From a command's end to that of its output; what it left behind was killed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Number of the stream for errors.
const STDERR: u32 = 1;

/// Somebody logged in.
#[derive(Clone)]
pub(super) struct Login {
    pub guests: Guests,
    pub port: Arc<Port>,
    pub user: String,
    /// The connection is at an end.
    pub over: CancellationToken,
}

/// Serves one channel: waits for a command, and runs it.
pub(super) async fn serve(mut channel: Channel<Msg>, session: Handle, login: Login) {
    let id = channel.id();
    let Some(command) = order(&mut channel).await else { return };
    let (reader, writer) = channel.split();
    let started = if login.guests.run_commands() {
        let is_off = || login.port.is_shut() || login.over.is_cancelled();
        login
            .guests
            .start(&login.port.server, &login.user, OsStr::from_bytes(&command), is_off)
            .map_err(|error| (126, format!("the simulator cannot run this: {error}\n")))
    } else {
        let advice = "start it with --run-commands, and they run on this machine";
        Err((127, format!("openstack-simulator runs no commands: {advice}\n")))
    };
    match started {
        Ok(child) => run(child, reader, &writer, &session, &login).await,
        Err((code, message)) => {
            // Whether a client that left hears any of this is its own affair, here and below.
            let _heard = writer.extended_data_bytes(STDERR, message.into_bytes()).await;
            let _heard = session.exit_status_request(id, code).await;
        }
    }
    let _heard = writer.eof().await;
    let _heard = writer.close().await;
}

/// The command that the client asks for; whatever else it asked for was refused.
async fn order(channel: &mut Channel<Msg>) -> Option<Vec<u8>> {
    loop {
        match channel.wait().await? {
            ChannelMsg::Exec { command, .. } => return Some(command),
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

async fn run(
    mut child: Child,
    reader: ChannelReadHalf,
    writer: &ChannelWriteHalf<Msg>,
    session: &Handle,
    login: &Login,
) {
    // It has one until it was waited for.
    let Some(group) = child.id() else { return };
    let (sender, input) = unbounded_channel();
    let mut fed = pin!(feed(child.stdin.take(), input));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut told = pin!(async { tokio::join!(pass(out, writer, None), pass(err, writer, Some(STDERR))) });
    let mut left = pin!(obey(reader, sender, login, group));
    let (mut is_fed, mut is_told) = (false, false);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            () = &mut left => break None,
            () = login.over.cancelled() => break None,
            () = &mut fed, if !is_fed => is_fed = true,
            _ = &mut told, if !is_told => is_told = true,
        }
    };
    login.guests.finish(&login.port.server, group);
    let Some(status) = status else {
        // Killed just now: it must not stay behind as a dead process.
        let _reaped = timeout(LAST_WORDS, child.wait()).await;
        return;
    };
    if !is_told {
        let _all = timeout(LAST_WORDS, told).await;
    }
    tell(session, writer.id(), status).await;
}

/// Gives the command its input. Not held back: a client that sends without end fills the memory of a test, not more.
async fn feed(stdin: Option<ChildStdin>, mut input: UnboundedReceiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = input.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Passes output on as it comes.
async fn pass(output: Option<impl AsyncRead + Unpin>, writer: &ChannelWriteHalf<Msg>, stream: Option<u32>) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; 32 << 10];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let bytes = buffer[..length].to_vec();
        let sent = match stream {
            None => writer.data_bytes(bytes).await,
            Some(stream) => writer.extended_data_bytes(stream, bytes).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Does what the client says while the command runs, until it leaves.
async fn obey(mut reader: ChannelReadHalf, sender: UnboundedSender<Bytes>, login: &Login, group: u32) {
    let mut input = Some(sender);
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                // A command need not read.
                let _read = input.as_ref().map(|input| input.send(data));
            }
            ChannelMsg::Eof => input = None,
            ChannelMsg::Signal { signal } => {
                if let Some(name) = name(&signal) {
                    login.guests.signal(&login.port.server, group, name);
                }
            }
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

/// Signals with the numbers they have everywhere.
const SIGNALS: [(i32, Sig, &str); 11] = [
    (1, Sig::HUP, "HUP"),
    (2, Sig::INT, "INT"),
    (3, Sig::QUIT, "QUIT"),
    (4, Sig::ILL, "ILL"),
    (6, Sig::ABRT, "ABRT"),
    (8, Sig::FPE, "FPE"),
    (9, Sig::KILL, "KILL"),
    (11, Sig::SEGV, "SEGV"),
    (13, Sig::PIPE, "PIPE"),
    (14, Sig::ALRM, "ALRM"),
    (15, Sig::TERM, "TERM"),
];

fn name(signal: &Sig) -> Option<&'static str> {
    let same = |known: &Sig| std::mem::discriminant(known) == std::mem::discriminant(signal);
    SIGNALS.iter().find(|(_, known, _)| same(known)).map(|(.., name)| *name)
}

async fn tell(session: &Handle, id: ChannelId, status: ExitStatus) {
    let _heard = match status.signal() {
        None => session.exit_status_request(id, status.code().unwrap_or_default().unsigned_abs()).await,
        Some(number) => {
            let known = SIGNALS.into_iter().find(|(known, ..)| *known == number);
            let signal = known.map_or_else(|| Sig::Custom(number.to_string()), |(_, signal, _)| signal);
            session.exit_signal_request(id, signal, false, String::new(), String::new()).await
        }
    };
}
