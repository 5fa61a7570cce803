//! A plain HTTP proxy that numbers the operator's calls and lets a test act at exactly one of them.
//!
//! It stands before the API server (adding the administrator's certificate) or before a simulated cloud (whose
//! catalog then names the proxy: `--advertise-url`). For each call the hook is asked twice: *before* the call is
//! forwarded, and *after* its effect, when the upstream has answered and the caller does not know it yet.
//! It must never change, repeat or reorder what it forwards.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::control_plane::install_crypto_provider;
use super::cut::{CuttableListener, Scissors};
use super::{ControlPlane, Killer, signature};

/// More than any request of ours carries.
const MAX_BODY_BYTES: usize = 64 << 20;

/// One call seen by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counts all calls, from 1.
    pub number: u64,
    /// What it does, such as `CREATE poolnodes` or `POST /compute/v2.1/servers`.
    pub signature: String,
    /// Counts the calls of this signature, from 1.
    pub ordinal: u32,
    /// Its path and query.
    pub path: String,
}

/// When the hook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The upstream has not heard of the call.
    Before,
    /// The upstream has answered with this status; the caller has not heard of it.
    After(u16),
}

/// What the hook wants done with the call.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// Cut the caller's connection: the call's answer is lost, and before forwarding the call itself.
    Cut,
    /// Answer this instead.
    Answer(u16, serde_json::Value),
}

/// Asked at both moments of each call.
pub type Hook = Arc<dyn Fn(&Call, Moment) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// A running proxy; gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    client: reqwest::Client,
    name: fn(&Method, &Uri) -> String,
    upstream: Mutex<Option<String>>,
    hook: Mutex<Option<Hook>>,
    seen: Mutex<Seen>,
    lines: Mutex<Vec<Scissors>>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    ordinals: HashMap<String, u32>,
}

impl Proxy {
    /// A proxy before the API server.
    pub async fn before_api_server(plane: &ControlPlane) -> Self {
        install_crypto_provider();
        let config = plane.parsed_kubeconfig();
        let cluster = config.clusters[0].cluster.clone().unwrap();
        let user = config.auth_infos[0].auth_info.clone().unwrap();
        let authority = decode(&cluster.certificate_authority_data.unwrap());
        let mut identity = decode(&user.client_certificate_data.unwrap());
        identity.extend(decode(std::str::from_utf8(&secret_bytes(&user.client_key_data.unwrap())).unwrap()));
        let client = client()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&authority).unwrap())
            .identity(reqwest::Identity::from_pem(&identity).unwrap())
            .build()
            .unwrap();
        Self::start(client, signature::kubernetes, cluster.server).await
    }

    /// A proxy before a cloud that is not there yet: start the simulator with this proxy's [`url`](Self::url) as its
    /// `--advertise-url`, then [`connect`](Self::connect) it.
    pub async fn before_cloud() -> Self {
        install_crypto_provider();
        Self::start(client().build().unwrap(), signature::cloud, None).await
    }

    async fn start(client: reqwest::Client, name: fn(&Method, &Uri) -> String, upstream: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (upstream, hook, seen, lines) =
            (Mutex::new(upstream), Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { client, name, upstream, hook, seen, lines });
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let app = app.into_make_service_with_connect_info::<Scissors>();
        let server = tokio::spawn(async move { axum::serve(CuttableListener(listener), app).await.unwrap() });
        Self { address, shared, server }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forwards to this address from now on: scheme, host and port.
    pub fn connect(&self, upstream: &str) {
        *self.shared.upstream.lock().unwrap() = Some(upstream.trim_end_matches('/').to_owned());
    }

    /// Asks `hook` from now on.
    pub fn set_hook(&self, hook: Hook) {
        *self.shared.hook.lock().unwrap() = Some(hook);
    }

    /// Forwards everything from now on.
    pub fn clear_hook(&self) {
        *self.shared.hook.lock().unwrap() = None;
    }

    /// Cuts every connection that is open now, watches in mid-stream included.
    pub fn cut_all(&self) {
        std::mem::take(&mut *self.shared.lines.lock().unwrap()).iter().for_each(Scissors::cut);
    }

    /// All calls so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.seen.lock().unwrap().calls.clone()
    }

    /// How often a call of this signature came.
    pub fn count(&self, signature: &str) -> u32 {
        self.shared.seen.lock().unwrap().ordinals.get(signature).copied().unwrap_or_default()
    }

    /// Forgets the calls so far; numbers start again.
    pub fn reset(&self) {
        *self.shared.seen.lock().unwrap() = Seen::default();
    }

    /// Writes a kubeconfig that goes through this proxy.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.kubeconfig_path();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url()}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        // In one step: an operator that was started with it may be reading it right now.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, config.to_string()).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        path
    }

    fn kubeconfig_path(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}.kubeconfig", self.address.port()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // There is none when nobody asked for it. Before the port is free: the next proxy's file has its number.
        let _ = std::fs::remove_file(self.kubeconfig_path());
        self.server.abort();
    }
}

/// Where to crash the operator: at one call, before it or after its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashPoint {
    /// The call's signature.
    pub signature: String,
    /// Which of the calls of that signature, from 1.
    pub ordinal: u32,
    /// After the call's effect instead of before the call.
    pub after: bool,
}

/// A hook that kills the operator at `point`, once, and loses that call's answer.
pub fn crash_at(point: CrashPoint, killer: Killer) -> Hook {
    let done = Arc::new(AtomicBool::new(false));
    Arc::new(move |call, moment| {
        let there = call.signature == point.signature
            && call.ordinal == point.ordinal
            && point.after == matches!(moment, Moment::After(_))
            && !done.swap(true, Ordering::SeqCst);
        let killer = killer.clone();
        Box::pin(async move {
            if !there {
                return Verdict::Pass;
            }
            tokio::task::spawn_blocking(move || killer.kill9()).await.unwrap();
            Verdict::Cut
        })
    })
}

impl Shared {
    fn remember(&self, line: &Scissors) {
        let mut lines = self.lines.lock().unwrap();
        if !lines.contains(line) {
            lines.push(line.clone());
        }
    }

    fn record(&self, method: &Method, uri: &Uri) -> Call {
        let signature = (self.name)(method, uri);
        let mut seen = self.seen.lock().unwrap();
        let ordinal = seen.ordinals.entry(signature.clone()).or_default();
        *ordinal += 1;
        let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let call = Call { ordinal: *ordinal, number: seen.calls.len() as u64 + 1, signature, path };
        seen.calls.push(call.clone());
        call
    }

    async fn ask(&self, call: &Call, moment: Moment) -> Verdict {
        let hook = self.hook.lock().unwrap().clone();
        match hook {
            Some(hook) => hook(call, moment).await,
            None => Verdict::Pass,
        }
    }

    async fn forward(&self, request: Request) -> Result<reqwest::Response, String> {
        let upstream = self.upstream.lock().unwrap().clone().ok_or("the proxy is not connected to anything yet")?;
        let (head, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| error.to_string())?;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = head.headers;
        drop_hop_by_hop(&mut headers);
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let request = self.client.request(head.method, format!("{upstream}{path}")).headers(headers);
        let request = if body.is_empty() { request } else { request.body(body) };
        request.send().await.map_err(|error| error.to_string())
    }

    /// The answer for the caller, or `None` to cut its connection.
    async fn serve(&self, request: Request) -> Option<Response> {
        let call = self.record(request.method(), request.uri());
        match self.ask(&call, Moment::Before).await {
            Verdict::Pass => {}
            Verdict::Cut => return None,
            Verdict::Answer(status, body) => return Some(answer(status, body)),
        }
        let upstream = match self.forward(request).await {
            Ok(upstream) => upstream,
            Err(error) => return Some((StatusCode::BAD_GATEWAY, error).into_response()),
        };
        match self.ask(&call, Moment::After(upstream.status().as_u16())).await {
            Verdict::Pass => {}
            Verdict::Cut => return None,
            Verdict::Answer(status, body) => return Some(answer(status, body)),
        }
        let mut headers = upstream.headers().clone();
        drop_hop_by_hop(&mut headers);
        let status = upstream.status();
        // Streamed, not collected: a watch has no end.
        let mut response = Response::new(Body::from_stream(upstream.bytes_stream()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Some(response)
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    shared.remember(&line);
    // In a task of its own: when the hook kills the caller, the server drops this handler, and the rest must go on.
    let served = tokio::spawn(async move { shared.serve(request).await });
    match served.await.unwrap() {
        Some(response) => response,
        None => {
            line.cut();
            std::future::pending().await
        }
    }
}

fn answer(status: u16, body: serde_json::Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// Headers that speak of one connection only (RFC 9110, 7.6.1).
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::TE, header::TRAILER, header::UPGRADE] {
        headers.remove(name);
    }
}

fn client() -> reqwest::ClientBuilder {
    // One connection a call in flight, as its own caller would have; nothing followed, retried or decoded.
    let builder = reqwest::Client::builder().no_proxy().http1_only().tcp_nodelay(true);
    builder.redirect(reqwest::redirect::Policy::none()).retry(reqwest::retry::never())
}

fn decode(text: &str) -> Vec<u8> {
    STANDARD.decode(text.trim()).unwrap()
}

fn secret_bytes(secret: &secrecy::SecretString) -> Vec<u8> {
    use secrecy::ExposeSecret;
    secret.expose_secret().as_bytes().to_vec()
}
