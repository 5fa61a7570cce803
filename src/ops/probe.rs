//! Asks a probe of another process once, for `helm test`: the image has no other program that could.

use std::time::Duration;

use reqwest::StatusCode;
use thiserror::Error;

/// Longest wait for the whole answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a probe did not say that all is well.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It could not be asked, or did not answer.
    #[error("no answer: {0}")]
    Silent(#[from] reqwest::Error),
    /// It answered something else.
    #[error("answered {0}")]
    Refused(StatusCode),
}

/// GETs `url`; any answer but a success is an error, a redirect included.
pub async fn ask(url: &str) -> Result<(), ProbeError> {
    let no_redirects = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().timeout(DEADLINE).redirect(no_redirects).no_proxy().build()?;
    let status = client.get(url).send().await?.status();
    if status.is_success() { Ok(()) } else { Err(ProbeError::Refused(status)) }
}
