//! The connections of clients, plain or TLS, which a fault may cut at any moment.
//!
//! Wraps a stream so that whoever answers a request can reset its connection, without a byte more being sent.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use super::tls::TlsStream;

/// Lets go of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link(Arc<AtomicBool>);

impl Link {
    /// The connection is reset with the next byte that would be sent.
    pub(crate) fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_cut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Accepts connections that can be cut.
#[derive(Debug)]
pub(crate) struct Links {
    pub listener: TcpListener,
    pub tls: Option<Arc<ServerConfig>>,
}

impl Links {
    async fn next(&self) -> io::Result<(Cuttable, std::net::SocketAddr)> {
        let (stream, address) = self.listener.accept().await?;
        // Without it a small answer after a small answer waits for an acknowledgement.
        stream.set_nodelay(true)?;
        let transport = match &self.tls {
            None => Transport::Plain(stream),
            Some(config) => Transport::Tls(Box::new(TlsStream::new(stream, config.clone()).map_err(io::Error::other)?)),
        };
        Ok((Cuttable { transport, link: Link::default() }, address))
    }
}

impl Listener for Links {
    type Io = Cuttable;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.next().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}; is ulimit -n high enough?");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Links>> for Link {
    fn connect_info(stream: IncomingStream<'_, Links>) -> Self {
        stream.io().link.clone()
    }
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// A connection that can be cut.
#[derive(Debug)]
pub(crate) struct Cuttable {
    transport: Transport,
    link: Link,
}

/// Calls a method of whichever stream it is.
macro_rules! on {
    ($connection:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $connection.transport {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl Cuttable {
    fn check(&self) -> io::Result<()> {
        if !self.link.is_cut() {
            return Ok(());
        }
        // No time to linger: the peer sees a reset, not an orderly end.
        match &self.transport {
            Transport::Plain(stream) => stream.set_zero_linger()?,
            Transport::Tls(tls) => tls.stream.set_zero_linger()?,
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        on!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        on!(self, poll_write, cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        on!(self, poll_flush, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        on!(self, poll_shutdown, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        on!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }
}
