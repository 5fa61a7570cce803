//! How this process speaks to the API server: where it finds it, how long it waits, and that it never repeats a call
//! behind the caller's back.
//!
//! Nothing here knows any kind. A write is repeated only by who knows whether it may be.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{InvalidHeaderValue, USER_AGENT};
use kube::config::InferConfigError;
use kube::{Client, Config};
use thiserror::Error;

/// Reaching the API server takes milliseconds; what takes longer is better tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence on a connection before it counts as dead. The API server sends a bookmark on every watch about once
/// a minute, and [`WATCH_TIMEOUT_SECONDS`] ends each before that, so only a dead one is silent for longer.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// What watches should ask as their own time-out: ends a half-open one within seconds after it, where the default
/// would take five minutes.
pub const WATCH_TIMEOUT_SECONDS: u32 = 55;
/// Longest time one request may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account was found.
    #[error("found no cluster: set KUBECONFIG, or run in a pod with a service account: {0}")]
    Infer(#[from] InferConfigError),
    /// The client cannot be built from what was found, for example from a bad certificate.
    #[error("cannot use the cluster's configuration: {0}")]
    Client(#[from] kube::Error),
    /// The user agent has characters that HTTP forbids.
    #[error("the user agent is not a valid HTTP header: {0}")]
    UserAgent(#[from] InvalidHeaderValue),
}

/// A client from `KUBECONFIG`, the home directory or the pod's service account, and the namespace these name.
pub async fn connect(user_agent: &str) -> Result<(Client, String), ConnectError> {
    let config = configured(Config::infer().await?, user_agent)?;
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}

/// kube's own retry repeats any verb, a POST included, up to fifteen times and for minutes: off. Without a read
/// time-out one hung call would freeze its caller for ever.
fn configured(mut config: Config, user_agent: &str) -> Result<Config, InvalidHeaderValue> {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(WRITE_TIMEOUT);
    config.headers.push((USER_AGENT, HeaderValue::from_str(user_agent)?));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_and_never_repeated() {
        let config = configured(Config::new("https://example.test".parse().unwrap()), "nodepool/1").unwrap();
        assert!(!config.default_retry);
        assert_eq!(config.read_timeout, Some(READ_TIMEOUT));
        assert!(READ_TIMEOUT > Duration::from_secs(u64::from(WATCH_TIMEOUT_SECONDS)));
        assert_eq!(config.headers, [(USER_AGENT, HeaderValue::from_static("nodepool/1"))]);
    }

    #[test]
    fn an_impossible_user_agent_is_refused() {
        let config = Config::new("https://example.test".parse().unwrap());
        assert!(configured(config, "a\nb").is_err());
    }
}
