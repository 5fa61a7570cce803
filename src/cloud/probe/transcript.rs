//! Keeps what a server says in clear at the start of SSH, and reads from it which host keys it offers and the one it
//! showed.
//!
//! The SSH library tells the key it negotiated, but not what else there was to choose from. It only listens: what is
//! written passes through untouched.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// More than any server says before its host key. A connection that says more is cut.
const LIMIT: usize = 64 * 1024;
/// The message with the lists of algorithms.
const KEXINIT: u8 = 20;
/// The message with the host key, in all exchanges we offer.
const KEX_REPLY: u8 = 31;

/// A host key as the server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// Its type, such as `ssh-ed25519`.
    pub name: String,
    blob: Vec<u8>,
}

impl HostKey {
    /// Whether `line` is this key in the format of `known_hosts` without hosts, whatever comment follows.
    pub fn is_written(&self, line: &str) -> bool {
        line.split_whitespace().take(2).eq([self.name.as_str(), STANDARD.encode(&self.blob).as_str()])
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, STANDARD.encode(&self.blob))
    }
}

/// What the server said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// It greeted as an SSH server.
    pub greeted: bool,
    /// The host key algorithms it offers.
    pub offered: Vec<String>,
    /// The host key it showed.
    pub key: Option<HostKey>,
}

impl Transcript {
    fn of(said: &[u8]) -> Self {
        let mut transcript = Self::default();
        let Some(packets) = after_greeting(said) else { return transcript };
        transcript.greeted = true;
        for payload in Packets(packets) {
            match payload.split_first() {
                Some((&KEXINIT, rest)) => transcript.offered = host_key_algorithms(rest).unwrap_or_default(),
                Some((&KEX_REPLY, rest)) => {
                    transcript.key = host_key(rest);
                    break;
                }
                _ => {}
            }
        }
        transcript
    }
}

/// What follows the line that starts with `SSH-`; other lines may come before it.
fn after_greeting(said: &[u8]) -> Option<&[u8]> {
    let mut rest = said;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = rest.split_at(end + 1);
        if line.starts_with(b"SSH-") {
            return Some(after);
        }
        rest = after;
    }
}

/// The payloads of the whole packets before encryption starts.
struct Packets<'a>(&'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut rest = self.0;
        let (padding, payload) = string(&mut rest)?.split_first()?;
        self.0 = rest;
        payload.get(..payload.len().checked_sub(usize::from(*padding))?)
    }
}

/// The second list of names, after sixteen random bytes.
fn host_key_algorithms(kexinit: &[u8]) -> Option<Vec<String>> {
    let mut rest = kexinit.get(16..)?;
    string(&mut rest)?;
    let names = std::str::from_utf8(string(&mut rest)?).ok()?;
    Some(names.split(',').map(str::to_owned).collect())
}

fn host_key(reply: &[u8]) -> Option<HostKey> {
    let mut rest = reply;
    let blob = string(&mut rest)?;
    let name = std::str::from_utf8(string(&mut &*blob)?).ok()?;
    Some(HostKey { name: name.to_owned(), blob: blob.to_owned() })
}

/// The next length-prefixed bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(bytes)
}

/// A connection that remembers what it read, and ends at its time limit even when nobody waits for it any more.
pub struct Recorder {
    stream: TcpStream,
    limit: Pin<Box<Sleep>>,
    record: Record,
}

/// What a [`Recorder`] read.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    /// What the server said up to now.
    pub fn read(&self) -> Transcript {
        Transcript::of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() + bytes.len() > LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        said.extend_from_slice(bytes);
        Ok(())
    }
}

impl Recorder {
    /// Records what comes from `stream`, until `limit`.
    pub fn new(stream: TcpStream, limit: Instant) -> (Self, Record) {
        let record = Record::default();
        (Self { stream, limit: Box::pin(sleep_until(limit)), record: record.clone() }, record)
    }
}

impl AsyncRead for Recorder {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.record.append(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        text(&[&[4], payload, &[0; 4]].concat())
    }

    fn said() -> Vec<u8> {
        let kexinit = [&[KEXINIT][..], &[7; 16], &text(b"curve25519-sha256"), &text(b"ssh-ed25519,rsa-sha2-512")];
        let reply = [&[KEX_REPLY][..], &text(&text(b"ssh-ed25519")), &text(b"point"), &text(b"signature")];
        [b"welcome\r\nSSH-2.0-x\r\n".to_vec(), packet(&kexinit.concat()), packet(&[2]), packet(&reply.concat())]
            .concat()
    }

    #[test]
    fn a_whole_conversation_is_understood() {
        let transcript = Transcript::of(&said());
        assert!(transcript.greeted);
        assert_eq!(transcript.offered, ["ssh-ed25519", "rsa-sha2-512"]);
        let key = transcript.key.unwrap();
        assert_eq!(key.to_string(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5");
        assert!(key.is_written("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 a comment"));
        assert!(!key.is_written("ssh-ed25519 AAAA"));
        assert!(!key.is_written(""));
    }

    proptest! {
        #[test]
        fn a_cut_or_damaged_conversation_never_panics(end in 0..200usize, at in 0..200usize, byte: u8) {
            let mut said = said();
            let at = at.min(said.len() - 1);
            said[at] = byte;
            said.truncate(end);
            Transcript::of(&said);
        }
    }
}
