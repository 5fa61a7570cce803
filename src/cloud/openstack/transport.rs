//! Sends one request and turns whatever happens into an answer or a classed error.
//!
//! Every request of a Provider, logins included, goes through here: under one rate limiter, with a deadline and a limit
//! on the answer's size. Only calls that are the same done twice are sent again after a fault. Redirects are never
//! followed, certificates always verified, and no body ever reaches an error or a log (rule 16).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::call::Call;
use super::config::ConfigError;
use super::fault;
use super::limiter::{Limiter, TooLong};
use crate::cloud::{CloudError, ErrorClass, MayStill};
use crate::egress::{self, Closed, Egress};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Shorter than the keep-alive of common proxies (5 s and more): a boot request on a connection that the other side
/// is just closing would end in an unclear answer.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
/// How often a repeatable call is sent again, and after how long at first.
const RETRIES: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Silence after a refusal for going too fast that does not say how long to wait.
const SILENCE_BY_DEFAULT: Duration = Duration::from_secs(1);

/// Is told of every exchange with a cloud, for metrics.
pub trait CallObserver: Send + Sync {
    /// One exchange is over: `result` is `ok` or an error class's label.
    fn called(&self, service: &'static str, call: &'static str, result: &'static str, took: Duration);
}

/// One client per Provider.
pub(crate) struct Transport {
    http: reqwest::Client,
    limiter: Limiter,
    observer: Option<Arc<dyn CallObserver>>,
    /// Never shown, even when a service quotes them.
    secrets: Vec<SecretString>,
    egress: Egress,
    /// Shortens deadlines, for tests of what happens when they pass.
    shortest: Option<Duration>,
}

/// What to send. Not `Debug`: it carries tokens and user data.
pub(crate) struct Request {
    pub(crate) call: Call,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) may_still: Option<MayStill>,
}

/// A successful answer, read to its end.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// The answer is not what the service's API promises.
pub(crate) struct Garbage;

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Garbage> {
        serde_json::from_slice(&self.body).map_err(|_| Garbage)
    }

    /// The cloud's own clock.
    pub(crate) fn date(&self) -> Timestamp {
        fault::cloud_clock(&self.headers)
    }
}

/// A failed exchange.
pub(crate) struct Failure {
    pub(crate) error: CloudError,
    pub(crate) status: Option<u16>,
    /// The refusal was written by the service itself, not by something before it.
    pub(crate) written: bool,
    /// Worth another try soon, if the call is repeatable.
    passing: bool,
}

impl Failure {
    /// Something failed before any exchange was tried.
    pub(crate) fn without_exchange(error: CloudError) -> Self {
        Self { error, status: None, written: false, passing: false }
    }
}

impl Transport {
    pub(crate) fn new(
        ca_pem: Option<&[u8]>,
        requests_per_second: f64,
        observer: Option<Arc<dyn CallObserver>>,
        secrets: Vec<SecretString>,
        egress: Egress,
    ) -> Result<Self, ConfigError> {
        if !requests_per_second.is_finite() || !(0.001..=1_000_000.0).contains(&requests_per_second) {
            return Err(ConfigError::new("`requestsPerSecond` must be a number above 0"));
        }
        Ok(Self {
            http: http_client(ca_pem, &egress)?,
            limiter: Limiter::new(requests_per_second),
            observer,
            secrets,
            egress,
            shortest: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn shorten_deadlines(&mut self, to: Duration) {
        self.shortest = Some(to);
    }

    /// Sends a request and decodes its answer; a repeatable call is sent up to twice more after a passing fault.
    pub(crate) async fn exchange<T>(
        &self,
        request: &Request,
        decode: &(dyn Fn(&Answer) -> Result<T, Garbage> + Sync),
    ) -> Result<T, Failure> {
        let mut delay = FIRST_RETRY;
        let mut left = if request.call.repeatable() { RETRIES } else { 0 };
        loop {
            match self.once(request, decode).await {
                Err(failure) if failure.passing && left > 0 => {
                    left -= 1;
                    sleep(jittered(delay)).await;
                    delay *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    async fn once<T>(
        &self,
        request: &Request,
        decode: &(dyn Fn(&Answer) -> Result<T, Garbage> + Sync),
    ) -> Result<T, Failure> {
        self.turn(request).await?;
        let start = Instant::now();
        let outcome = match self.send(request).await {
            Ok((answer, request_id)) => decode(&answer).map_err(|Garbage| garbage(request.call, request_id)),
            Err(failure) => Err(failure),
        };
        self.report(request, &outcome, start.elapsed());
        outcome
    }

    /// Waits until a request may leave.
    pub(super) async fn turn(&self, request: &Request) -> Result<(), Failure> {
        let call = request.call;
        // A name is judged when it is resolved; an address is never resolved.
        self.egress.url(&request.url).map_err(|closed| Failure::without_exchange(refused_address(call, closed)))?;
        self.limiter.turn(call.urgent(), call.patience()).await.map_err(|TooLong { wait }| not_sent(call, wait))?;
        if request.may_still.as_ref().is_some_and(|may_still| !may_still()) {
            return Err(too_late(call));
        }
        Ok(())
    }

    pub(super) fn report<T>(&self, request: &Request, outcome: &Result<T, Failure>, took: Duration) {
        let (service, call) = request.call.labels();
        let result = outcome.as_ref().err().map_or("ok", |failure| failure.error.class.label());
        if let Some(observer) = &self.observer {
            observer.called(service, call, result, took);
        }
        let failure = outcome.as_ref().err();
        tracing::debug!(
            service,
            call,
            result,
            path = request.url.path(),
            status = failure.and_then(|failure| failure.status),
            request_id = failure.and_then(|failure| failure.error.request_id.as_deref()),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "cloud call"
        );
    }

    async fn send(&self, request: &Request) -> Result<(Answer, Option<String>), Failure> {
        let mut builder = self.builder(request).timeout(self.deadline(request.call.deadline()));
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body.clone());
        }
        self.answered(request, builder).await
    }

    /// A request without a body and without a deadline.
    pub(super) fn builder(&self, request: &Request) -> reqwest::RequestBuilder {
        self.http.request(request.method.clone(), request.url.clone()).headers(request.headers.clone())
    }

    pub(super) fn deadline(&self, of: Duration) -> Duration {
        self.shortest.unwrap_or(of)
    }

    /// Sends what was built and reads its answer to the end.
    pub(super) async fn answered(
        &self,
        request: &Request,
        builder: reqwest::RequestBuilder,
    ) -> Result<(Answer, Option<String>), Failure> {
        let call = request.call;
        let mut response = builder.send().await.map_err(|error| broken(call, &error, None))?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let request_id = request_id(&headers);
        let body = read(call, &mut response).await.map_err(|reason| match reason {
            Unread::Broken(error) => broken(call, &error, request_id.clone()),
            Unread::TooLarge => lost(call, "the answer is too large", request_id.clone()),
        })?;
        if status.is_success() || (status.as_u16() == 300 && call == Call::Versions) {
            return Ok((Answer { headers, body }, request_id));
        }
        Err(self.refused(request, status.as_u16(), &headers, &body))
    }

    fn refused(&self, request: &Request, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        let call = request.call;
        let written = fault::written_to(call, status, body);
        let retry_after = fault::retry_after(headers, written.as_ref());
        let class = fault::class(call, status, written.as_ref(), retry_after.is_some());
        // Who is only asked whether it is there may be another service, and speaks for none of the others.
        if matches!(status, 413 | 429 | 503) && !matches!(call, Call::Probe(_)) {
            match retry_after {
                Some(wait) => self.limiter.be_silent(wait),
                None if class == ErrorClass::Throttled => self.limiter.be_silent(SILENCE_BY_DEFAULT),
                None => {}
            }
        }
        let secrets: Vec<&SecretString> = self.secrets.iter().collect();
        // Every service of OpenStack marks its answers so. What does not may be anything that an address led to, and
        // nobody is to read it through us.
        let speaker = written.as_ref().filter(|_| request_id(headers).is_some());
        let message = match speaker.map(|fault| fault::scrub(&fault.message, &secrets)) {
            Some(message) if !message.is_empty() => message,
            _ => plain_sentence(status, request.url.host_str()),
        };
        Failure {
            error: CloudError { class, call: call.name(), message, retry_after, request_id: request_id(headers) },
            status: Some(status),
            written: written.is_some(),
            passing: matches!(status, 500 | 502 | 503 | 504) && retry_after.is_none(),
        }
    }
}

fn http_client(ca_pem: Option<&[u8]>, egress: &Egress) -> Result<reqwest::Client, ConfigError> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("nodepool-operator/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_DEADLINE)
            .dns_resolver(egress.resolver())
            .pool_idle_timeout(IDLE_CONNECTION)
            .tcp_nodelay(true)
    };
    let refuse = |_| ConfigError::new("`cacert` cannot be used: it must hold PEM certificates of authorities");
    if let Some(pem) = ca_pem {
        // As with every OpenStack client, a cloud's own bundle replaces the system's authorities.
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(refuse)?;
        return builder().tls_certs_only(authorities).build().map_err(refuse);
    }
    // A machine without any authorities (an image from scratch) still reaches clouds over plain HTTP; over TLS it
    // then trusts nobody, and says so.
    builder().build().or_else(|_| builder().tls_certs_only([]).build()).map_err(refuse)
}

enum Unread {
    Broken(reqwest::Error),
    TooLarge,
}

async fn read(call: Call, response: &mut reqwest::Response) -> Result<Vec<u8>, Unread> {
    let cap = call.body_cap();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + chunk.len() > cap {
            return Err(Unread::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `X-OpenStack-Request-Id`, or Nova's older name for it; nothing that is not an id.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-openstack-request-id").or_else(|| headers.get("x-compute-request-id"))?;
    let id = value.to_str().ok()?.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!id.is_empty() && id.len() <= 64 && id.chars().all(plain)).then(|| id.to_owned())
}

fn plain_sentence(status: u16, host: Option<&str>) -> String {
    let host = host.unwrap_or("the cloud");
    match status {
        300..=399 => format!("{host} answers with a redirect (HTTP {status}), which is never followed"),
        _ => format!("{host} answers HTTP {status} without a readable fault"),
    }
}

fn not_sent(call: Call, wait: Duration) -> Failure {
    Failure::without_exchange(CloudError {
        class: ErrorClass::Throttled,
        call: call.name(),
        message: "not sent: the rate limit or the cloud's Retry-After asks for a longer wait".to_owned(),
        retry_after: Some(wait),
        request_id: None,
    })
}

fn too_late(call: Call) -> Failure {
    let message = "not sent: it waited for its turn until this process had no right to send it any more".to_owned();
    let class = ErrorClass::Unavailable;
    Failure::without_exchange(CloudError { class, call: call.name(), message, retry_after: None, request_id: None })
}

/// An answer that says nothing of what was done.
pub(super) fn garbage(call: Call, request_id: Option<String>) -> Failure {
    Failure { passing: true, ..lost(call, "the answer is not what the API promises", request_id) }
}

pub(super) fn lost(call: Call, message: &str, request_id: Option<String>) -> Failure {
    let class = fault::lost(call);
    let message = message.to_owned();
    Failure::without_exchange(CloudError { class, call: call.name(), message, retry_after: None, request_id })
}

/// An exchange that broke. Before anything was sent the service did certainly not act; later nobody can tell.
fn broken(call: Call, error: &reqwest::Error, request_id: Option<String>) -> Failure {
    if let Some(closed) = egress::closed(error) {
        return Failure::without_exchange(refused_address(call, closed));
    }
    let host = error.url().and_then(Url::host_str).unwrap_or("the cloud").to_owned();
    let mut failure = lost(call, "", request_id);
    (failure.error.message, failure.passing) = if error.is_connect() {
        failure.error.class = ErrorClass::Unavailable;
        match certificate_sentence(error) {
            Some(sentence) => {
                failure.error.class = ErrorClass::Invalid;
                (format!("{host}: {sentence}"), false)
            }
            None if error.is_dns() => (format!("the name {host} cannot be resolved"), true),
            None if error.is_timeout() => (format!("{host} does not answer (connect)"), false),
            None => (format!("{host} refuses the connection"), true),
        }
    } else if error.is_builder() {
        failure.error.class = ErrorClass::Invalid;
        ("the request cannot be written".to_owned(), false)
    } else if error.is_timeout() {
        (format!("{host} did not answer within {} s", call.deadline().as_secs()), false)
    } else {
        (format!("{host} cut the connection before the answer was complete"), true)
    };
    failure
}

/// Nothing was sent, since it would have gone where nothing of ours may go.
fn refused_address(call: Call, closed: Closed) -> CloudError {
    let message = format!("not sent: {closed}");
    CloudError { class: ErrorClass::Invalid, call: call.name(), message, retry_after: None, request_id: None }
}

/// What to do about a certificate that is not trusted.
fn certificate_sentence(error: &reqwest::Error) -> Option<&'static str> {
    use rustls::CertificateError as Bad;
    match tls_error(error)? {
        // An authority made anew under its old name is as unknown as any other.
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => Some(
            "its certificate is signed by an unknown authority: put the authority's PEM under the key `cacert` of the \
             Secret",
        ),
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            Some("its certificate has expired")
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            Some("its certificate is for another name: use the name the certificate is made for")
        }
        rustls::Error::InvalidCertificate(_) => Some("its certificate is not valid"),
        rustls::Error::InvalidMessage(_) => Some("it does not speak TLS: should the address begin with http://?"),
        _ => None,
    }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut source = error.source();
    while let Some(inner) = source {
        // An I/O error's `source` skips the error it wraps.
        let wrapped = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref()) {
            return Some(found);
        }
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        source = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    None
}

/// Between half and all of a delay, so that many callers do not come back at once.
fn jittered(delay: Duration) -> Duration {
    let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    delay / 2 + delay / 2 * chance / 255
}
