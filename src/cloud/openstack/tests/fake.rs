//! A small scripted cloud on a loopback port: answers by script, misbehaves on demand, and records every request.
//!
//! It speaks HTTP by hand, so that it can cut a connection, stall or lie about a length, which a web framework prevents.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

/// Every answer has one, unless the script says another.
pub(super) const REQUEST_ID: &str = "X-Openstack-Request-Id";

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) head: String,
    pub(super) body: Value,
    /// A body that came in chunks, and whether it came to its end.
    pub(super) chunks: Vec<u8>,
    pub(super) whole: bool,
    pub(super) at: Instant,
    /// How many requests of the same method and path came before.
    pub(super) before: usize,
}

impl Seen {
    pub(super) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// JSON.
    Json(u16, Value),
    /// JSON with further headers.
    With(u16, Value, Vec<(&'static str, String)>),
    /// Anything.
    Text(u16, String),
    /// The request is read and the connection closed.
    Cut,
    /// Half of the body, then the connection is closed.
    Truncated(Value),
    /// The request is read and never answered.
    Stall,
    /// A status without a body, while the request's own body is still coming.
    Early(u16),
}

pub(super) type Script = dyn Fn(&Seen) -> Option<Reply> + Send + Sync;

/// The cloud; it ends with the test process.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Wraps a connection, for TLS.
pub(super) type Wrap = dyn Fn(TcpStream) -> Box<dyn Stream> + Send + Sync;

pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Fake {
    /// Answers by `script`; what it leaves out is answered as a cloud without servers would.
    pub(super) fn start(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::start_with("http", Arc::new(|tcp| Box::new(tcp)), script)
    }

    pub(super) fn start_with(
        scheme: &'static str,
        wrap: Arc<Wrap>,
        script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let base = format!("{scheme}://{address}");
        let log = seen.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (wrap, script, log, base) = (wrap.clone(), script.clone(), log.clone(), base.clone());
                std::thread::spawn(move || serve(wrap(tcp), &*script, &log, &base));
            }
        });
        Self { address, seen }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, path)).count()
    }
}

fn serve(stream: Box<dyn Stream>, script: &Script, log: &Mutex<Vec<Seen>>, base: &str) {
    let mut stream = BufReader::new(stream);
    // A connection that ends is no fault of the test's.
    while let Some(mut seen) = read(&mut stream) {
        if seen.is_chunked() {
            if let Some(reply @ Reply::Early(_)) = script(&seen) {
                let _ = write(stream.get_mut(), reply);
            }
            seen.whole = read_chunks(&mut stream, &mut seen.chunks).is_some();
        }
        {
            let mut log = log.lock().unwrap();
            seen.before = log.iter().filter(|other| other.is(&seen.method, &seen.path)).count();
            log.push(seen.clone());
        }
        let reply = script(&seen).unwrap_or_else(|| standard(&seen, base));
        // Whoever has its answer already, or is gone, gets no other.
        if !seen.whole || matches!(reply, Reply::Early(_)) || write(stream.get_mut(), reply).is_none() {
            return;
        }
    }
}

/// `None` when the body does not come to its end.
fn read_chunks(stream: &mut BufReader<Box<dyn Stream>>, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return Some(());
        }
    }
}

fn read(stream: &mut BufReader<Box<dyn Stream>>) -> Option<Seen> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut first = head.lines().next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut seen = Seen {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        head: head.clone(),
        body: Value::Null,
        chunks: Vec::new(),
        whole: true,
        at: Instant::now(),
        before: 0,
    };
    if let Some(length) = seen.header("content-length") {
        let mut body = vec![0; length.parse().ok()?];
        stream.read_exact(&mut body).ok()?;
        seen.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    }
    Some(seen)
}

/// `None` ends the connection.
fn write(stream: &mut Box<dyn Stream>, reply: Reply) -> Option<()> {
    let (status, body, headers, length) = match reply {
        Reply::Json(status, body) => (status, body.to_string(), vec![], None),
        Reply::With(status, body, headers) => (status, body.to_string(), headers, None),
        Reply::Text(status, body) => (status, body, vec![], None),
        Reply::Truncated(body) => {
            let body = body.to_string();
            let length = Some(body.len() * 2);
            (202, body, vec![], length)
        }
        Reply::Cut => return None,
        Reply::Early(status) => (status, String::new(), vec![], None),
        Reply::Stall => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0]);
            return None;
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\n");
    if !headers.iter().any(|(key, _)| *key == REQUEST_ID) {
        head.push_str(&format!("{REQUEST_ID}: req-1\r\n"));
    }
    for (key, value) in headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    let promised = length.unwrap_or(body.len());
    head.push_str(&format!("Content-Length: {promised}\r\n\r\n"));
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    stream.flush().ok()?;
    length.is_none().then_some(())
}

/// A healthy, empty cloud.
fn standard(seen: &Seen, base: &str) -> Reply {
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/identity/v3/auth/tokens") => token(base, seen.before, 3600),
        ("GET", "/compute/v2.1/") => {
            Reply::Json(200, json!({"version": {"id": "v2.1", "version": "2.104", "min_version": "2.1"}}))
        }
        ("GET", "/compute/v2.1/servers/detail") => Reply::Json(200, json!({"servers": []})),
        ("POST", "/compute/v2.1/servers") => Reply::Json(202, json!({"server": {"id": "new-1"}})),
        ("DELETE", _) => Reply::Text(204, String::new()),
        ("GET", "/compute/v2.1/limits") => Reply::Json(
            200,
            json!({"limits": {"absolute": {"maxTotalInstances": 10, "totalInstancesUsed": 3, "maxTotalCores": -1,
                   "totalCoresUsed": 5, "maxTotalRAMSize": 1024, "totalRAMUsed": 512}}}),
        ),
        _ => Reply::Text(404, "<html>nothing here</html>".to_owned()),
    }
}

/// A token named by its number, which lives for so many seconds.
pub(super) fn token(base: &str, number: usize, seconds: i64) -> Reply {
    let issued: jiff::Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let expires = issued + jiff::SignedDuration::from_secs(seconds);
    let service = |kind: &str, path: &str| {
        json!({"type": kind, "name": kind, "endpoints": [
            {"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": format!("{base}{path}")}]})
    };
    let catalog =
        json!([service("compute", "/compute/v2.1/"), service("image", "/image"), service("network", "/network/")]);
    let body = json!({"token": {"issued_at": issued.to_string(), "expires_at": expires.to_string(),
                      "project": {"id": "project-1", "name": "ci"}, "catalog": catalog}});
    Reply::With(201, body, vec![("X-Subject-Token", format!("token-{number}"))])
}
