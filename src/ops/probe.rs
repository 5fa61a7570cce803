//! Asks a probe of another process once, for `helm test`: the image has no other program that could.

use std::net::Ipv6Addr;
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

/// The address of a probe. `host` is a name or an address, as Kubernetes gives that of a Service to each Pod.
pub fn url(host: &str, port: u16, path: &str) -> String {
    let brackets = if host.parse::<Ipv6Addr>().is_ok() { ("[", "]") } else { ("", "") };
    format!("http://{}{host}{}:{port}{path}", brackets.0, brackets.1)
}

/// GETs `url`; any answer but a success is an error, a redirect included.
pub async fn ask(url: &str) -> Result<(), ProbeError> {
    let no_redirects = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().timeout(DEADLINE).redirect(no_redirects).no_proxy().build()?;
    let status = client.get(url).send().await?.status();
    if status.is_success() { Ok(()) } else { Err(ProbeError::Refused(status)) }
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn a_host_is_a_name_or_an_address_of_either_kind() {
        assert_eq!(url("metrics", 8080, "/readyz"), "http://metrics:8080/readyz");
        assert_eq!(url("10.96.0.7", 80, "/livez"), "http://10.96.0.7:80/livez");
        assert_eq!(url("fd00::7", 80, "/livez"), "http://[fd00::7]:80/livez");
    }
}
