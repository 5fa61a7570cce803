//! Reads all pages of a list, or fails: never a part of a list (rule 11).
//!
//! From a link to the next page only its marker is taken: the address stays our own, so that a link to another host, of
//! another scheme or without a proxy's prefix leads nowhere else. A marker that comes twice ends the list with an error;
//! one whose object is gone meanwhile begins the list anew.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Ask, Client, refused};
use super::transport::{Answer, Failure};
use crate::cloud::{CloudError, ErrorClass};

/// For all pages of one list.
const LIST_DEADLINE: Duration = Duration::from_secs(300);
const MOST_PAGES: usize = 2000;
/// How often a list is begun anew because its marker's object went away.
const RESTARTS: u32 = 2;

/// One page as a service writes it. A page without its list is no page: the list has no default.
pub(crate) trait Page: DeserializeOwned + Send {
    /// What it lists.
    type Item: Send;
    /// The items, and the link to the next page.
    fn split(self) -> (Vec<Self::Item>, Option<String>);
}

/// A page that is one list and its links.
macro_rules! page {
    ($page:ty, $item:ty, $list:ident, $links:ident) => {
        impl $crate::cloud::openstack::paging::Page for $page {
            type Item = $item;

            fn split(self) -> (Vec<$item>, Option<String>) {
                (self.$list, $crate::cloud::openstack::paging::next(self.$links))
            }
        }
    };
}
pub(crate) use page;

/// Nova's and Neutron's way to say where the next page is.
#[derive(Deserialize)]
pub(crate) struct Link {
    #[serde(default)]
    rel: String,
    #[serde(default)]
    href: String,
}

/// The link named `next`.
pub(crate) fn next(links: Option<Vec<Link>>) -> Option<String> {
    links?.into_iter().find(|link| link.rel == "next").map(|link| link.href)
}

/// All items of a list, and the cloud's clock when the first page was answered.
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    pub(crate) taken_at: Timestamp,
}

enum Stop {
    /// The object that marks the page is gone.
    MarkerGone(CloudError),
    Failed(CloudError),
}

impl Client {
    /// All pages, each item mapped at once so that the wire's form is not kept.
    pub(crate) async fn list<P: Page, T: Send>(
        &self,
        ask: Ask<'_>,
        map: impl Fn(P::Item) -> T + Send + Sync,
    ) -> Result<Listed<T>, CloudError> {
        let call = ask.call;
        let read = async {
            let mut left = RESTARTS;
            loop {
                match self.pages::<P, T>(&ask, &map).await {
                    Err(Stop::MarkerGone(_)) if left > 0 => left -= 1,
                    Err(Stop::MarkerGone(error) | Stop::Failed(error)) => return Err(error),
                    Ok(listed) => return Ok(listed),
                }
            }
        };
        let late = || refused(call, ErrorClass::Unavailable, "the list was not complete within 300 s");
        tokio::time::timeout(LIST_DEADLINE, read).await.unwrap_or_else(|_| Err(late()))
    }

    async fn pages<P: Page, T: Send>(
        &self,
        ask: &Ask<'_>,
        map: &(impl Fn(P::Item) -> T + Send + Sync),
    ) -> Result<Listed<T>, Stop> {
        let stop = |message| Stop::Failed(refused(ask.call, ErrorClass::Unavailable, message));
        let mut seen = HashSet::new();
        let mut query = ask.query.clone();
        let mut listed: Option<Listed<T>> = None;
        for _ in 0..MOST_PAGES {
            let page = Ask { body: None, may_still: None, query: query.clone(), method: ask.method.clone(), ..*ask };
            let read = |answer: &Answer| Ok((answer.json::<P>()?, answer.date()));
            let (page, date) =
                self.try_ask(&page, &read).await.map_err(|failure| stopped(failure, !seen.is_empty()))?;
            let (items, link) = page.split();
            let was_empty = items.is_empty();
            let all = listed.get_or_insert_with(|| Listed { items: Vec::new(), taken_at: date });
            all.items.extend(items.into_iter().map(map));
            let Some(link) = link else { return listed.ok_or_else(|| stop("no page")) };
            let next = marker(&link).ok_or_else(|| stop("the link to the next page has no marker"))?;
            if was_empty || !seen.insert(next.marker.clone()) {
                return Err(stop("the next page is one that was read before"));
            }
            query = next.query(&ask.query);
        }
        Err(stop("the list has too many pages"))
    }
}

fn stopped(failure: Failure, had_marker: bool) -> Stop {
    match failure.status {
        Some(400 | 404) if had_marker => Stop::MarkerGone(failure.error),
        _ => Stop::Failed(failure.error),
    }
}

struct Next {
    marker: String,
    limit: Option<String>,
}

impl Next {
    /// Our own question, from the marker on.
    fn query(self, own: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
        let own = own.iter().filter(|(key, _)| *key != "marker" && *key != "limit").cloned();
        own.chain(self.limit.map(|limit| ("limit", limit))).chain([("marker", self.marker)]).collect()
    }
}

fn marker(link: &str) -> Option<Next> {
    // Relative links need some base; it is not used further.
    let url = Url::parse("http://cloud.invalid/").ok()?.join(link).ok()?;
    let value = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let marker = value("marker").filter(|marker| !marker.is_empty())?;
    Some(Next { marker, limit: value("limit") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_is_taken() {
        for link in [
            "http://other.host/v2.1/servers/detail?changes-since=x&marker=m1&limit=5",
            "/v2/images?marker=m1&limit=5",
            "?limit=5&marker=m1",
        ] {
            let next = marker(link).unwrap();
            let own = [("changes-since", "mine".to_owned()), ("limit", "9".to_owned())];
            let expected: Vec<(&str, String)> =
                vec![("changes-since", "mine".into()), ("limit", "5".into()), ("marker", "m1".into())];
            assert_eq!(next.query(&own), expected);
        }
        assert!(marker("http://h/servers?limit=5").is_none());
        assert!(marker("").is_none());
    }
}
