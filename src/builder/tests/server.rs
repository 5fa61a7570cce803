//! A file server on a loopback port that misbehaves on demand and records what it was asked.
//!
//! It speaks HTTP by hand, so that it can cut a connection, stall or contradict itself, which a web framework prevents.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) target: String,
    head: String,
    /// How many requests came before.
    pub(super) before: usize,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim_end())
    }

    /// Where a Range begins.
    pub(super) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |from| from.parse().unwrap())
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// After this many bytes the connection is cut…
    cut: Option<usize>,
    /// …or goes silent.
    stall: Option<usize>,
    /// Whether a length is promised at all.
    chunked: bool,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// The whole file, or the rest that was asked for.
    pub(super) fn file(file: &[u8], asked: &Asked) -> Self {
        match asked.from() {
            0 => Self::new(200, file),
            from => Self::new(206, &file[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", file.len() - 1, file.len())),
        }
    }

    pub(super) fn to(location: impl Into<String>) -> Self {
        Self::new(302, "<html>hunter2</html>").with("Location", location)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }

    pub(super) fn stall(self, after: usize) -> Self {
        Self { stall: Some(after), ..self }
    }

    pub(super) fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }
}

/// The server; it ends with the test process.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

type Wrap = dyn Fn(TcpStream) -> Box<dyn Stream> + Send + Sync;

impl Server {
    pub(super) fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::wrapped("http", Arc::new(|tcp| Box::new(tcp)), script)
    }

    /// Over TLS, with the authority's PEM.
    pub(super) fn start_tls(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Self, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let config = Arc::new(config);
        let wrap = move |tcp| -> Box<dyn Stream> {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(session, tcp))
        };
        (Self::wrapped("https", Arc::new(wrap), script), issuer.pem())
    }

    fn wrapped(
        scheme: &'static str,
        wrap: Arc<Wrap>,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (script, log) = (Arc::new(script), Arc::clone(&asked));
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (wrap, script, log) = (wrap.clone(), script.clone(), log.clone());
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(wrap(tcp));
                    let Some(asked) = read(&mut stream, &log) else { return };
                    // A client that goes away is no fault of the test's.
                    let _ = write(stream.get_mut(), &script(&asked));
                });
            }
        });
        Self { address, scheme, asked }
    }

    pub(super) fn url(&self, rest: &str) -> reqwest::Url {
        super::url(format!("{}://{}{rest}", self.scheme, self.address))
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &mut BufReader<Box<dyn Stream>>, log: &Mutex<Vec<Asked>>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let target = head.split(' ').nth(1)?.to_owned();
    let mut log = log.lock().unwrap();
    let asked = Asked { target, head, before: log.len() };
    log.push(asked.clone());
    Some(asked)
}

/// One answer a connection.
fn write(stream: &mut Box<dyn Stream>, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&match reply.chunked {
        true => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n\r\n", reply.body.len()),
    });
    let sent = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(head.as_bytes())?;
    match reply.chunked {
        false => stream.write_all(&reply.body[..sent])?,
        true => {
            for chunk in reply.body[..sent].chunks(1000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            if reply.cut.is_none() && reply.stall.is_none() {
                stream.write_all(b"0\r\n\r\n")?;
            }
        }
    }
    stream.flush()?;
    if reply.stall.is_some() {
        // Until the other side gives up.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}
