//! Asks which services of a cloud answer at all: the cause behind what one of them says of another.
//!
//! Nova answers 500 when Neutron, Glance or its database is away, and "no valid host" when Placement or Keystone is; only
//! asking each of them tells which. Their version documents are asked for: that needs no token and changes nothing.

use std::time::Duration;

use futures::future::join_all;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};

use super::call::Call;
use super::catalog::Service;
use super::client::Client;
use super::discovery;
use super::transport::Request;
use crate::cloud::{ErrorClass, Silence};

/// How long one service may take to answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Those that do not answer, worst first: without Keystone the others cannot answer either.
const ASKED: [Service; 5] = [Service::Identity, Service::Network, Service::Image, Service::Placement, Service::Compute];

impl Client {
    pub(super) async fn silent_services(&self) -> Vec<Silence> {
        let addresses = self.addresses().await;
        let asked = addresses.into_iter().map(|(service, url)| self.silence(service, url));
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Where each service is; only Keystone's address is known without a token.
    async fn addresses(&self) -> Vec<(Service, Url)> {
        let login = self.login().await;
        let address = |service| match (service, &login) {
            (Service::Identity, _) => Some((service, self.config().auth_url.clone())),
            (_, Ok(login)) => {
                let endpoint = login.catalog.endpoint(service, self.config()).ok()?;
                Some((service, discovery::document_url(&endpoint)))
            }
            (_, Err(_)) => None,
        };
        ASKED.into_iter().filter_map(address).collect()
    }

    async fn silence(&self, service: Service, url: Url) -> Option<Silence> {
        let call = Call::Probe(service);
        let request =
            Request { call, method: Method::GET, url, headers: HeaderMap::new(), body: None, may_still: None };
        let failure = self.transport.exchange(&request, &super::client::nothing).await.err()?;
        // Whatever it says, it is there; and our own rate limit says nothing of it.
        let unasked = failure.error.class == ErrorClass::Throttled;
        if unasked || failure.status.is_some_and(|status| status < 500) {
            return None;
        }
        Some(Silence { service: service.word(), message: failure.error.message })
    }
}
