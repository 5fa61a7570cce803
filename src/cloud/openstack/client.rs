//! Asks a service of the cloud: token, address and microversion, then one exchange.
//!
//! A call that a service refuses for its token is sent once more with a new one. For a call that changes the cloud this
//! happens only when the service's own layer wrote the refusal: it checks the token before any of the service's code
//! runs, so the call had certainly no effect and there is still at most one that could have had (rule 2).

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::call::Call;
use super::catalog::Service;
use super::config::CloudConfig;
use super::discovery::{self, ComputeApi, Document};
use super::session::{Login, Session};
use super::transport::{Answer, Failure, Garbage, Request, Transport};
use crate::cloud::{CloudError, ErrorClass, MayStill};

/// Everything below the calls themselves.
pub(crate) struct Client {
    config: CloudConfig,
    pub(crate) transport: Transport,
    session: Session,
    compute: Mutex<Option<ComputeApi>>,
}

/// One question or order to a service.
pub(crate) struct Ask<'a> {
    pub(crate) call: Call,
    pub(crate) service: Service,
    pub(crate) method: Method,
    /// Below the service's base.
    pub(crate) path: &'a [&'a str],
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// Nova's microversion 2.x; none is the oldest API.
    pub(crate) microversion: Option<u32>,
    /// Asked once its turn has come.
    pub(crate) may_still: Option<MayStill>,
    /// The revision of the thing that a change holds for; Neutron refuses it for any other.
    pub(crate) revision: Option<u64>,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(call: Call, service: Service, path: &'a [&'a str]) -> Self {
        Self {
            call,
            service,
            method: Method::GET,
            path,
            query: Vec::new(),
            body: None,
            microversion: None,
            may_still: None,
            revision: None,
        }
    }

    pub(crate) fn put(call: Call, service: Service, path: &'a [&'a str], body: &serde_json::Value) -> Self {
        Self { method: Method::PUT, ..Self::post(call, service, path, body) }
    }

    pub(crate) fn delete(call: Call, service: Service, path: &'a [&'a str]) -> Self {
        Self { method: Method::DELETE, ..Self::get(call, service, path) }
    }

    pub(crate) fn post(call: Call, service: Service, path: &'a [&'a str], body: &serde_json::Value) -> Self {
        Self { method: Method::POST, body: Some(body.to_string().into_bytes()), ..Self::get(call, service, path) }
    }

    pub(crate) fn query(mut self, query: Vec<(&'static str, String)>) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn microversion(mut self, minor: Option<u32>) -> Self {
        self.microversion = minor;
        self
    }

    pub(crate) fn of_revision(mut self, revision: u64) -> Self {
        self.revision = Some(revision);
        self
    }

    pub(crate) fn only_if(mut self, may_still: MayStill) -> Self {
        self.may_still = Some(may_still);
        self
    }
}

/// An answer whose body says nothing.
pub(crate) fn nothing(_: &Answer) -> Result<(), Garbage> {
    Ok(())
}

/// What should be gone and is gone is no error.
pub(crate) fn gone(outcome: Result<(), CloudError>) -> Result<(), CloudError> {
    match outcome {
        Err(error) if error.class == ErrorClass::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// A failure that no exchange caused.
pub(crate) fn refused(call: Call, class: ErrorClass, message: impl Into<String>) -> CloudError {
    CloudError { class, call: call.name(), message: message.into(), retry_after: None, request_id: None }
}

/// An id goes into a path only when it is one: letters, digits, `-`, `_` and inner dots.
pub(crate) fn checked(call: Call, id: &str) -> Result<&str, CloudError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(refused(call, ErrorClass::Invalid, "not an id of this cloud"));
    }
    Ok(id)
}

impl Client {
    pub(crate) fn new(config: CloudConfig, transport: Transport) -> Self {
        Self { config, transport, session: Session::new(), compute: Mutex::default() }
    }

    pub(crate) fn config(&self) -> &CloudConfig {
        &self.config
    }

    /// One call.
    pub(crate) async fn ask<T>(
        &self,
        ask: Ask<'_>,
        decode: impl Fn(&Answer) -> Result<T, Garbage> + Send + Sync,
    ) -> Result<T, CloudError> {
        self.try_ask(&ask, &decode).await.map_err(|failure| failure.error)
    }

    /// One call, with the status of its refusal.
    pub(crate) async fn try_ask<T>(
        &self,
        ask: &Ask<'_>,
        decode: &(dyn Fn(&Answer) -> Result<T, Garbage> + Sync),
    ) -> Result<T, Failure> {
        let login = self.login().await?;
        let failure = match self.exchange(&login, ask, decode).await {
            Err(failure) if failure.status == Some(401) => failure,
            outcome => return self.noted(outcome).await,
        };
        if !ask.call.repeatable() && !failure.written {
            return Err(failure);
        }
        let login = self.session.renew(login.generation, &self.config, &self.transport).await?;
        let outcome = self.exchange(&login, ask, decode).await;
        self.noted(outcome).await
    }

    async fn exchange<T>(
        &self,
        login: &Login,
        ask: &Ask<'_>,
        decode: &(dyn Fn(&Answer) -> Result<T, Garbage> + Sync),
    ) -> Result<T, Failure> {
        let request = self.request(login, ask)?;
        self.transport.exchange(&request, decode).await
    }

    /// A refused microversion means that Nova has changed since its versions were read.
    async fn noted<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.as_ref().err().is_some_and(|failure| failure.status == Some(406)) {
            *self.compute.lock().await = None;
        }
        outcome
    }

    pub(super) fn request(&self, login: &Login, ask: &Ask<'_>) -> Result<Request, CloudError> {
        let endpoint = self.endpoint(login, ask.service, ask.call)?;
        let mut url = discovery::base(ask.service, &endpoint);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(ask.path);
        }
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let headers = headers(login, ask)
            .ok_or_else(|| refused(ask.call, ErrorClass::Invalid, "Keystone's token is no header value"))?;
        let (method, body, may_still) = (ask.method.clone(), ask.body.clone(), ask.may_still.clone());
        Ok(Request { call: ask.call, method, url, headers, body, may_still })
    }

    fn endpoint(&self, login: &Login, service: Service, call: Call) -> Result<Url, CloudError> {
        login.catalog.endpoint(service, &self.config).map_err(|sentence| refused(call, ErrorClass::Invalid, sentence))
    }

    /// A token, from a login if need be.
    pub(crate) async fn login(&self) -> Result<std::sync::Arc<Login>, CloudError> {
        self.session.login(&self.config, &self.transport).await
    }

    /// That every service the operator needs is in the catalog.
    pub(crate) async fn check_catalog(&self) -> Result<(), CloudError> {
        let login = self.login().await?;
        for service in [Service::Compute, Service::Image, Service::Network] {
            // Only here: nowhere else may a hole in the catalog look like the proof that a thing is gone.
            self.endpoint(&login, service, Call::Login)
                .map_err(|error| CloudError { class: ErrorClass::NotFound, ..error })?;
        }
        Ok(())
    }

    /// What Nova speaks; asked once and remembered.
    pub(crate) async fn compute_api(&self) -> Result<ComputeApi, CloudError> {
        let login = self.login().await?;
        let endpoint = self.endpoint(&login, Service::Compute, Call::Versions)?;
        let mut known = self.compute.lock().await;
        if let Some(api) = known.as_ref().filter(|api| api.is_good_for(&endpoint, Instant::now())) {
            return Ok(api.clone());
        }
        let api = match self.versions(&login, &endpoint).await? {
            Some(documents) => ComputeApi::found(&endpoint, &documents),
            None => ComputeApi::assumed(&endpoint, Instant::now()),
        };
        *known = Some(api.clone());
        Ok(api)
    }

    /// `None` when what answers there is no version document: some proxies have only the API itself behind them.
    async fn versions(&self, login: &Login, endpoint: &Url) -> Result<Option<Vec<Document>>, CloudError> {
        let ask = Ask::get(Call::Versions, Service::Compute, &[]);
        let headers = headers(login, &ask).unwrap_or_default();
        let url = discovery::document_url(endpoint);
        let request = Request { call: Call::Versions, method: Method::GET, url, headers, body: None, may_still: None };
        let read = |answer: &Answer| Ok(discovery::read_documents(answer).ok());
        match self.transport.exchange(&request, &read).await {
            Ok(documents) => Ok(documents),
            Err(failure) if failure.status.is_some_and(|status| matches!(status, 300..=410)) => Ok(None),
            Err(failure) => Err(failure.error),
        }
    }
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        Self::without_exchange(error)
    }
}

fn headers(login: &Login, ask: &Ask<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut token = HeaderValue::from_str(login.token.expose_secret()).ok()?;
    token.set_sensitive(true);
    headers.insert(HeaderName::from_static("x-auth-token"), token);
    headers.insert(reqwest::header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(revision) = ask.revision {
        let condition = HeaderValue::from_str(&format!("revision_number={revision}")).ok()?;
        headers.insert(reqwest::header::IF_MATCH, condition);
    }
    if let Some(minor) = ask.microversion {
        let version = HeaderValue::from_str(&format!("compute 2.{minor}")).ok()?;
        headers.insert(HeaderName::from_static("openstack-api-version"), version);
        // The name of this header before 2.27.
        let version = HeaderValue::from_str(&format!("2.{minor}")).ok()?;
        headers.insert(HeaderName::from_static("x-openstack-nova-api-version"), version);
    }
    Some(headers)
}
