//! Logs in to Keystone and keeps one token for all calls of a Provider.
//!
//! However many calls need a token, one login is under way at a time and all of them share its outcome. A token is
//! renewed before it ends, and once when a service refuses it. Credentials that were refused three times are tried at
//! most once a minute. Tokens and passwords never leave this module but in request headers and bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::call::Call;
use super::catalog::Catalog;
use super::config::{CloudConfig, Credentials, Named};
use super::transport::{Answer, Failure, Garbage, Request, Transport};
use crate::cloud::{CloudError, ErrorClass};

/// A token is renewed this long before it ends, or after four fifths of a short life.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// After this many refusals in a row, credentials are tried at most once per [`REFUSED_PAUSE`].
const REFUSALS: u32 = 3;
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// While Keystone is away and the token still lives, renewal is tried this often.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// One token and what came with it.
pub(crate) struct Login {
    pub(crate) token: SecretString,
    pub(crate) project_id: String,
    pub(crate) catalog: Catalog,
    /// Counts logins, so that only the first of many refused calls makes the next one.
    pub(crate) generation: u64,
    ends: Instant,
    renew_at: Instant,
}

/// The session of one Provider.
pub(crate) struct Session {
    /// Finished logins, good or bad: who waited through one takes its outcome.
    finished: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    login: Option<Arc<Login>>,
    generation: u64,
    refusals: u32,
    refused_at: Option<Instant>,
    failure: Option<CloudError>,
    renew_not_before: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
    project: Option<Project>,
    #[serde(default)]
    catalog: Catalog,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self { finished: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A token that is good for a while.
    pub(crate) async fn login(&self, config: &CloudConfig, transport: &Transport) -> Result<Arc<Login>, CloudError> {
        let seen = self.finished.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(login) = state.login.clone() {
            let waits = state.renew_not_before.is_some_and(|at| now < at);
            if now < login.renew_at || (waits && now < login.ends) {
                return Ok(login);
            }
        }
        if let Some(outcome) = self.shared(seen, &state) {
            return outcome;
        }
        match self.log_in(&mut state, config, transport).await {
            // The old token still works: a Keystone that is away for a while stops nobody.
            Err(error) if !matches!(error.class, ErrorClass::Auth | ErrorClass::Invalid) => {
                state.renew_not_before = Some(Instant::now() + RENEWAL_PAUSE);
                state.login.clone().filter(|login| Instant::now() < login.ends).ok_or(error)
            }
            outcome => outcome,
        }
    }

    /// A service refused the token of this generation: another one, unless somebody got it already.
    pub(crate) async fn renew(
        &self,
        refused: u64,
        config: &CloudConfig,
        transport: &Transport,
    ) -> Result<Arc<Login>, CloudError> {
        let seen = self.finished.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        if let Some(login) = state.login.as_ref().filter(|login| login.generation != refused) {
            return Ok(login.clone());
        }
        if let Some(outcome) = self.shared(seen, &state) {
            return outcome;
        }
        // Glance answers 401 to any token while Keystone is away: until there is a better one, the others keep theirs.
        self.log_in(&mut state, config, transport).await
    }

    /// The outcome of a login that ended while this caller waited for its turn.
    fn shared(&self, seen: u64, state: &State) -> Option<Result<Arc<Login>, CloudError>> {
        if self.finished.load(Ordering::Acquire) == seen {
            return None;
        }
        match (&state.login, &state.failure) {
            (Some(login), None) => Some(Ok(login.clone())),
            (_, Some(failure)) => Some(Err(failure.clone())),
            (None, None) => None,
        }
    }

    async fn log_in(
        &self,
        state: &mut State,
        config: &CloudConfig,
        transport: &Transport,
    ) -> Result<Arc<Login>, CloudError> {
        if let Some(wait) = state.pause() {
            return Err(refused_before(wait, state.failure.as_ref()));
        }
        let outcome = post(config, transport, state.generation + 1).await;
        match &outcome {
            Ok(login) => {
                *state = State { login: Some(login.clone()), generation: login.generation, ..State::default() };
            }
            Err(error) => {
                if error.class == ErrorClass::Auth {
                    state.login = None;
                    state.refusals += 1;
                    state.refused_at = Some(Instant::now());
                }
                state.failure = Some(error.clone());
            }
        }
        self.finished.fetch_add(1, Ordering::Release);
        outcome
    }
}

impl State {
    /// How long refused credentials rest.
    fn pause(&self) -> Option<Duration> {
        let until = self.refused_at? + REFUSED_PAUSE;
        let wait = until.saturating_duration_since(Instant::now());
        (self.refusals >= REFUSALS && !wait.is_zero()).then_some(wait)
    }
}

fn refused_before(wait: Duration, failure: Option<&CloudError>) -> CloudError {
    CloudError {
        class: ErrorClass::Auth,
        call: Call::Login.name(),
        message:
            "the credentials were refused several times and are tried once a minute: correct the Secret's clouds.yaml"
                .into(),
        retry_after: Some(wait),
        request_id: failure.and_then(|failure| failure.request_id.clone()),
    }
}

async fn post(config: &CloudConfig, transport: &Transport, generation: u64) -> Result<Arc<Login>, CloudError> {
    let request = Request {
        call: Call::Login,
        method: Method::POST,
        url: tokens_url(&config.auth_url),
        headers: HeaderMap::new(),
        body: Some(login_body(&config.credentials).to_string().into_bytes()),
        may_still: None,
    };
    let read = transport.exchange(&request, &read_token).await.map_err(explained)?;
    let (token, answer) = read;
    let project = answer
        .token
        .project
        .ok_or_else(|| incomplete("the token has no project: set `project_name` or `project_id` in clouds.yaml"))?;
    if answer.token.catalog.is_empty() {
        return Err(incomplete("the token has no catalog: the user needs a role in the project"));
    }
    let issued = answer.token.issued_at.unwrap_or_else(Timestamp::now);
    let life = u64::try_from(answer.token.expires_at.as_second() - issued.as_second()).unwrap_or(0);
    let life = Duration::from_secs(life);
    let now = Instant::now();
    Ok(Arc::new(Login {
        token,
        project_id: project.id,
        catalog: answer.token.catalog,
        generation,
        ends: now + life,
        renew_at: now + life.saturating_sub(RENEW_BEFORE.min(life / 5)),
    }))
}

fn read_token(answer: &Answer) -> Result<(SecretString, TokenAnswer), Garbage> {
    let token = answer.headers.get("x-subject-token").and_then(|value| value.to_str().ok()).ok_or(Garbage)?;
    Ok((SecretString::from(token), answer.json()?))
}

/// What a refusal of a login means to the person who wrote the Secret.
fn explained(failure: Failure) -> CloudError {
    let mut error = failure.error;
    match failure.status {
        Some(401 | 404) if error.class == ErrorClass::Auth => {
            let told = error.message;
            error.message = format!("Keystone refuses the credentials; correct them in clouds.yaml: {told}")
                .chars()
                .take(256)
                .collect();
        }
        Some(404) => error.message = "no Keystone v3 answers at `auth_url`: correct it in clouds.yaml".to_owned(),
        _ => {}
    }
    error
}

fn incomplete(message: &str) -> CloudError {
    CloudError {
        class: ErrorClass::Invalid,
        call: Call::Login.name(),
        message: message.to_owned(),
        retry_after: None,
        request_id: None,
    }
}

fn tokens_url(auth_url: &Url) -> Url {
    let mut url = auth_url.clone();
    url.set_path(&format!("{}/auth/tokens", auth_url.path().trim_end_matches('/')));
    url
}

fn login_body(credentials: &Credentials) -> Value {
    match credentials {
        Credentials::Password { user, password, project } => {
            let mut who = named(user);
            who["password"] = json!(password.expose_secret());
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": who}},
                "scope": {"project": named(project)},
            }})
        }
        // An application credential brings its scope, and refuses to be given one.
        Credentials::ApplicationCredential { id, name, user, secret } => {
            let mut what = json!({"secret": secret.expose_secret()});
            if let Some(id) = id {
                what["id"] = json!(id);
            } else {
                what["name"] = json!(name);
                what["user"] = user.as_ref().map_or(Value::Null, named);
            }
            json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": what}}})
        }
    }
}

fn named(who: &Named) -> Value {
    if let Some(id) = &who.id {
        return json!({"id": id});
    }
    let domain = match (&who.domain_id, &who.domain_name) {
        (Some(id), _) => json!({"id": id}),
        (None, name) => json!({"name": name}),
    };
    json!({"name": who.name, "domain": domain})
}
