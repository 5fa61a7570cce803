//! Fetches a file over HTTP or HTTPS as a stream, and goes on where a broken connection left off.
//!
//! It decides what an answer means for the source and when a download is given up, never what the bytes are worth. They
//! are passed on as the server has them: nothing is uncompressed here. A redirect never leads from https to http, nor to
//! another host unless the installation allows that, and no connection leads where [`Egress`] says no. Errors name the host and the status, never a body, a path, a query or user-info (rule 16).

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use futures::{StreamExt, stream};
use reqwest::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION,
    RANGE,
};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url};
use tokio::time::{sleep, timeout};

use super::{Chunks, SourceClass, SourceError};
use crate::egress::{self, Closed, Egress};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A large file may take hours, but not a minute without a byte.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 5;
/// How often in a row a download is taken up again, and after how long at first; the pause doubles.
const RESUMES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that brought this much before it broke was worth taking up: the row begins anew.
const PROGRESS: u64 = 1 << 20;

/// Which redirects of servers of images are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Redirects {
    /// Those that stay with the host that was asked.
    #[default]
    SameHost,
    /// All; what a mirror's front door needs.
    AnyHost,
}

/// Asks servers for files.
#[derive(Clone, Debug)]
pub struct Fetcher {
    http: Client,
    egress: Egress,
    redirects: Redirects,
    silence: Duration,
    first_pause: Duration,
}

/// A file that is on its way.
pub struct Fetched {
    /// How many bytes it has, if the server says.
    pub length: Option<u64>,
    /// The bytes. After an error there are no more.
    pub bytes: Chunks,
}

/// The part of a file that is still missing.
struct Rest {
    from: u64,
    /// Proof that it is still the same file, for the server to compare.
    of: HeaderValue,
}

impl Fetcher {
    /// Prepares a client and sends nothing.
    ///
    /// # Errors
    /// [`SourceClass::Unavailable`] when this machine lacks what a client needs.
    pub fn new(egress: Egress, redirects: Redirects) -> Result<Self, SourceError> {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A machine without any authorities still fetches over plain HTTP; over TLS it then trusts nobody, and says so.
        let http = client(builder(&egress)).or_else(|_| client(builder(&egress).tls_certs_only([])))?;
        Ok(Self { http, egress, redirects, silence: SILENCE, first_pause: FIRST_PAUSE })
    }

    /// Asks for a file, and returns once the server begins to send it.
    ///
    /// # Errors
    /// What keeps the server from sending it. What breaks later is in the stream.
    pub async fn open(&self, url: &Url) -> Result<Fetched, SourceError> {
        host(url)?;
        let (at, response) = self.ask(url, None).await?;
        let length = response.content_length();
        let download = Download {
            fetcher: self.clone(),
            origin: url.clone(),
            at,
            validator: validator(response.headers()),
            response,
            offset: 0,
            length,
            resumes: 0,
            fresh: 0,
        };
        let step = |mut download: Download| async move { Ok(download.next().await?.map(|chunk| (chunk, download))) };
        Ok(Fetched { length, bytes: stream::try_unfold(download, step).boxed() })
    }

    /// The answer that has the file, or the rest of it, and where redirects led to.
    async fn ask(&self, url: &Url, rest: Option<&Rest>) -> Result<(Url, Response), SourceError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.get(&at, rest).await?;
            match response.status() {
                StatusCode::OK => return Ok((at, response)),
                StatusCode::PARTIAL_CONTENT if rest.is_some() => return Ok((at, response)),
                status => {
                    let to = redirected(&at, response.headers(), status)?.ok_or_else(|| refused(&at, status))?;
                    at = self.followed(&at, to)?;
                }
            }
        }
        Err(SourceError::invalid(format!("{} redirects more than {REDIRECTS} times", shown(url))))
    }

    /// Where a redirect leads to, if it is followed.
    fn followed(&self, from: &Url, to: Url) -> Result<Url, SourceError> {
        if self.redirects == Redirects::AnyHost || from.host_str() == to.host_str() {
            return Ok(to);
        }
        Err(SourceError::invalid(format!(
            "{} redirects to another host, {}: write the address there, or run the operator with --image-redirects any-host",
            shown(from),
            shown(&to)
        )))
    }

    async fn get(&self, url: &Url, rest: Option<&Rest>) -> Result<Response, SourceError> {
        // A name is judged when it is resolved; an address is never resolved.
        self.egress.url(url).map_err(refused_address)?;
        let mut request = self.http.get(url.clone()).header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(rest) = rest {
            request = request.header(RANGE, format!("bytes={}-", rest.from)).header(IF_RANGE, rest.of.clone());
        }
        match timeout(self.silence, request.send()).await {
            Ok(answer) => answer.map_err(|error| broken(url, &error)),
            Err(_) => Err(SourceError::unavailable(format!(
                "{} did not answer within {} s",
                shown(url),
                self.silence.as_secs()
            ))),
        }
    }
}

/// Nothing was asked, since it would have gone where nothing of ours may go.
fn refused_address(closed: Closed) -> SourceError {
    SourceError::invalid(closed.to_string())
}

fn client(builder: ClientBuilder) -> Result<Client, SourceError> {
    builder.build().map_err(|_| SourceError::unavailable("no HTTP client can be made"))
}

fn builder(egress: &Egress) -> ClientBuilder {
    Client::builder()
        .dns_resolver(egress.resolver())
        .user_agent(concat!("nodepool-operator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // One file a connection: what the receivers do not take stays in the server, not in a window of ours.
        .http1_only()
        .pool_max_idle_per_host(0)
        // The digest is that of the file as it lies there.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .connect_timeout(CONNECT_DEADLINE)
}

/// A download under way.
struct Download {
    fetcher: Fetcher,
    /// What was asked for.
    origin: Url,
    /// What redirects led to: another mirror may have another file.
    at: Url,
    validator: Option<HeaderValue>,
    response: Response,
    offset: u64,
    length: Option<u64>,
    /// How often it was taken up in a row.
    resumes: u32,
    /// Bytes of this connection.
    fresh: u64,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            match timeout(self.fetcher.silence, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    let count = chunk.len() as u64;
                    self.offset += count;
                    self.fresh += count;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) if self.length.is_none_or(|length| length == self.offset) => return Ok(None),
                Ok(Ok(None) | Err(_)) => self.resume("broke off").await?,
                Err(_) => self.resume("fell silent").await?,
            }
        }
    }

    /// Asks for the rest until the server sends it, or it has been tried often enough.
    async fn resume(&mut self, how: &str) -> Result<(), SourceError> {
        let host = shown(&self.origin);
        let given_up = |why: &str| SourceError::unavailable(format!("{host} {how} after {} bytes{why}", self.offset));
        let Some(of) = self.validator.clone() else {
            return Err(given_up(", and does not say how the rest could be asked for"));
        };
        if self.fresh >= PROGRESS {
            self.resumes = 0;
        }
        let rest = Rest { from: self.offset, of };
        while self.resumes < RESUMES {
            sleep(self.fetcher.first_pause * 2_u32.pow(self.resumes)).await;
            self.resumes += 1;
            let (at, response) = match self.fetcher.ask(&self.at, Some(&rest)).await {
                Ok(answer) => answer,
                Err(error) if error.class == SourceClass::Unavailable => continue,
                // What a redirect led to may be good for a few minutes only.
                Err(_) if self.at != self.origin => {
                    self.at = self.origin.clone();
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !continues(&response, rest.from, self.length) {
                return Err(given_up(", and does not send the rest of that file"));
            }
            (self.at, self.response, self.fresh) = (at, response, 0);
            return Ok(());
        }
        Err(given_up(&format!(", and did not go on within {RESUMES} attempts")))
    }
}

/// What proves that a file is still the same: a strong ETag, or the time of its last change. Should the latter deceive,
/// the digest tells.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    if headers.get(ACCEPT_RANGES).is_some_and(|ranges| ranges == "none") {
        return None;
    }
    let strong = |tag: &&HeaderValue| tag.as_bytes().starts_with(b"\"");
    headers.get(ETAG).filter(strong).or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

/// Whether an answer begins at this byte of a file that is as long as before.
fn continues(response: &Response, from: u64, length: Option<u64>) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let Some((first, total)) = range.and_then(content_range) else { return false };
    response.status() == StatusCode::PARTIAL_CONTENT
        && first == from
        && (total.is_none() || length.is_none() || total == length)
}

/// The first byte and the whole length of `bytes 100-199/200` or `bytes 100-199/*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    Some((first, total.trim().parse().ok()))
}

/// Where an answer leads to; `None` when it does not.
fn redirected(from: &Url, headers: &HeaderMap, status: StatusCode) -> Result<Option<Url>, SourceError> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok()) else { return Ok(None) };
    let to = from.join(location).ok().filter(|to| host(to).is_ok());
    let to = to.ok_or_else(|| {
        SourceError::invalid(format!("{} redirects to something that is no address of a file", shown(from)))
    })?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(SourceError::invalid(format!(
            "{} redirects from https to http, to {}, where anybody on the way could change the file: write an address \
             that stays with https",
            shown(from),
            shown(&to)
        )));
    }
    Ok(Some(to))
}

/// That an address is one of HTTP at all.
fn host(url: &Url) -> Result<&str, SourceError> {
    url.host_str()
        .filter(|_| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| SourceError::invalid("write an address that begins with https:// or http://"))
}

/// As much of an address as may be seen.
pub(crate) fn shown(url: &Url) -> &str {
    url.host_str().unwrap_or("the server")
}

/// What a status that brings no file means.
fn refused(url: &Url, status: StatusCode) -> SourceError {
    let (host, status) = (shown(url), status.as_u16());
    let (class, message) = match status {
        404 | 410 => (SourceClass::NotFound, format!("{host} has no such file (HTTP {status}): correct the address")),
        401 | 403 | 407 | 451 => (
            SourceClass::Denied,
            format!("{host} does not give the file (HTTP {status}): use an address that needs no login"),
        ),
        408 | 425 | 429 | 500..=599 => (SourceClass::Unavailable, format!("{host} answers HTTP {status}")),
        _ => (SourceClass::Invalid, format!("{host} answers HTTP {status}, which is no file: correct the address")),
    };
    SourceError::new(class, message)
}

/// An exchange that brought no answer.
fn broken(url: &Url, error: &reqwest::Error) -> SourceError {
    if let Some(closed) = egress::closed(error) {
        return refused_address(closed);
    }
    let host = shown(url);
    if error.is_builder() {
        return SourceError::invalid(format!("an address at {host} cannot be asked for: correct it"));
    }
    if !error.is_connect() {
        return SourceError::unavailable(format!("{host} cut the connection before it answered"));
    }
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            SourceError::invalid(format!("{host} shows a certificate that no known authority vouches for"))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            SourceError::invalid(format!("{host} does not speak TLS: should the address begin with http://?"))
        }
        _ if error.is_dns() => SourceError::unavailable(format!("the name {host} cannot be resolved")),
        _ if error.is_timeout() => SourceError::unavailable(format!("{host} does not answer (connect)")),
        _ => SourceError::unavailable(format!("{host} refuses the connection")),
    }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        // An I/O error's `source` skips the error it wraps.
        let wrapped = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        source = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    None
}

#[cfg(test)]
impl Fetcher {
    /// As [`Fetcher::new`], but without long pauses.
    pub(crate) fn brisk() -> Self {
        Self { first_pause: Duration::from_millis(5), ..Self::new(Egress::loopback(), Redirects::SameHost).unwrap() }
    }

    /// As [`Fetcher::brisk`], but quick to take silence for the end.
    pub(crate) fn impatient() -> Self {
        Self { silence: Duration::from_millis(300), ..Self::brisk() }
    }

    /// As [`Fetcher::brisk`], with this authority and no other.
    pub(crate) fn trusting(pem: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
        let http = builder(&Egress::loopback()).tls_certs_only([authority]).build().unwrap();
        Self { http, ..Self::brisk() }
    }
}
