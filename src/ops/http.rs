//! Serves the figures, the probes and a page for people: `/metrics`, `/livez`, `/readyz`, `/`.
//!
//! It answers from memory alone: no answer ever waits for the API server or a cloud, and none changes anything. What the page
//! shows is another room's; here it is kept from doing anything in a browser but being shown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::heartbeats::{Heartbeats, Readiness};
use super::metrics::{self, Metrics};

/// What the server shows.
#[derive(Clone)]
pub struct Shown {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/livez`.
    pub heartbeats: Heartbeats,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/`.
    pub page: Page,
}

/// A page for people.
#[derive(Clone)]
pub struct Page {
    policy: String,
    render: Arc<dyn Fn(bool) -> String + Send + Sync>,
}

impl Page {
    /// A page whose documents have `style` as their only style sheet. `render` makes one from memory, at once; it is told whether
    /// the reader wants it anew by itself (`/?refresh`).
    pub fn new(style: &str, render: impl Fn(bool) -> String + Send + Sync + 'static) -> Self {
        let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
        // No script, no request, no form, no frame: should a hostile text ever get through as HTML, it can do nothing.
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        Self { policy, render: Arc::new(render) }
    }
}

/// A server that has its address but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Server {
    /// Takes the address; port 0 lets the system choose.
    pub async fn bind(address: SocketAddr, shown: Shown) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, router: router(shown) })
    }

    /// The address it really has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/metrics", get(show_metrics))
        .route("/livez", get(show_liveness))
        .route("/readyz", get(show_readiness))
        .with_state(shown)
}

async fn show_page(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let Page { policy, render } = shown.page;
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, render(query.as_deref() == Some("refresh"))).into_response()
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    match shown.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn show_liveness(State(shown): State<Shown>) -> (StatusCode, String) {
    verdict(shown.heartbeats.stale().iter().map(ToString::to_string).collect())
}

async fn show_readiness(State(shown): State<Shown>) -> (StatusCode, String) {
    verdict(shown.readiness.closed().into_iter().map(|gate| format!("{gate}: not yet")).collect())
}

/// "ok", or one line for each reason why not.
fn verdict(reasons: Vec<String>) -> (StatusCode, String) {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_name_what_is_wrong_and_recover() {
        let shown = Shown {
            metrics: Metrics::new("nodepool"),
            heartbeats: Heartbeats::new(),
            readiness: Readiness::new(),
            page: Page::new("p { color: red }", |refreshing| format!("<p>refreshing: {refreshing}</p>")),
        };
        let gate = shown.readiness.gate("caches");
        let planner = shown.heartbeats.watch_loop("planner", Duration::ZERO);
        let server = Server::bind(([127, 0, 0, 1], 0).into(), shown).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        assert_ne!(address.port(), 0);
        let running = tokio::spawn(server.run(stop.clone()));

        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("caches: not yet"), "{answer}");
        gate.open();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        let answer = ask(address, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("planner: no progress"), "{answer}");
        planner.retire();
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));

        let answer = ask(address, "/metrics").await;
        assert!(answer.contains(metrics::CONTENT_TYPE) && answer.contains("process_cpu_seconds_total"), "{answer}");
        let answer = ask(address, "/").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("<p>refreshing: false</p>"), "{answer}");
        for header in [
            "content-type: text/html; charset=utf-8",
            // printf 'p { color: red }' | openssl dgst -sha256 -binary | base64
            "content-security-policy: default-src 'none'; style-src 'sha256-ngewhhP73WDIbgwseeu52VAAJgKdGUsu1IUQQsAm8m4='; img-src data:; ",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{header} not in {answer}");
        }
        assert!(ask(address, "/?refresh").await.ends_with("<p>refreshing: true</p>"));
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
