//! Decides what a service's address is made of and which microversions Nova speaks.
//!
//! Addresses are built from the catalog's own, by adding a version where it has none: links in a version document are
//! not followed, since behind proxies they lose the scheme, the path's beginning or the host. A cloud whose version
//! document cannot be read is taken to speak the oldest API, for a while.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use tokio::time::Instant;

use super::catalog::Service;
use super::transport::{Answer, Garbage};

/// How long an assumption about an unreadable version document stands before the document is asked for again.
const ASSUMED_FOR: Duration = Duration::from_secs(300);

/// What is known of Nova.
#[derive(Clone, Debug)]
pub(crate) struct ComputeApi {
    /// The catalog's address this was found for.
    found_for: Url,
    range: Option<Range>,
    good_until: Option<Instant>,
}

/// Microversions 2.`min` to 2.`max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    min: u32,
    max: u32,
}

impl ComputeApi {
    /// The first wanted microversion that the cloud speaks; `None` is the API without microversions.
    pub(crate) fn pick(&self, wanted: &[u32]) -> Option<u32> {
        let range = self.range?;
        let minor = wanted.iter().copied().find(|minor| *minor <= range.max).unwrap_or(1).max(range.min);
        (minor > 1).then_some(minor)
    }

    /// From an answered version document.
    pub(crate) fn found(endpoint: &Url, documents: &[Document]) -> Self {
        let range = documents.iter().filter(|document| document.is_2_1()).find_map(Document::range);
        Self { found_for: endpoint.clone(), range, good_until: None }
    }

    /// Without one.
    pub(crate) fn assumed(endpoint: &Url, now: Instant) -> Self {
        let good_until = Some(now + ASSUMED_FOR);
        Self { found_for: endpoint.clone(), range: None, good_until }
    }

    pub(crate) fn is_good_for(&self, endpoint: &Url, now: Instant) -> bool {
        self.found_for == *endpoint && self.good_until.is_none_or(|until| now < until)
    }
}

/// One API version of a service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Document {
    id: String,
    min_version: String,
    version: String,
}

impl Document {
    fn is_2_1(&self) -> bool {
        self.id == "v2.1"
    }

    fn range(&self) -> Option<Range> {
        let minor = |text: &str| text.strip_prefix("2.")?.parse().ok();
        let max = minor(&self.version)?;
        Some(Range { min: minor(&self.min_version).unwrap_or(1), max })
    }
}

#[derive(Deserialize)]
struct Documents {
    version: Option<Document>,
    versions: Option<Versions>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Versions {
    List(Vec<Document>),
    /// Keystone's way, which some proxies copy.
    Values {
        values: Vec<Document>,
    },
}

/// Both forms of a version document: one version, or a list of them.
pub(crate) fn read_documents(answer: &Answer) -> Result<Vec<Document>, Garbage> {
    let documents: Documents = answer.json()?;
    let list = match documents.versions {
        Some(Versions::List(list) | Versions::Values { values: list }) => list,
        None => Vec::new(),
    };
    let all: Vec<Document> = documents.version.into_iter().chain(list).collect();
    if all.is_empty() { Err(Garbage) } else { Ok(all) }
}

/// Where Nova's version document is: the path up to and including its version.
pub(crate) fn document_url(endpoint: &Url) -> Url {
    let mut url = endpoint.clone();
    let kept: Vec<&str> = segments(endpoint);
    let end = kept.iter().position(|segment| is_version(segment)).map_or(kept.len(), |at| at + 1);
    url.set_path(&format!("/{}", kept[..end].join("/")));
    // Without the slash services answer with a redirect.
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// A service's base, the version added where the catalog leaves it out.
pub(crate) fn base(service: Service, endpoint: &Url) -> Url {
    match service {
        Service::Compute => versioned(endpoint, "v2.1"),
        Service::Image => versioned(endpoint, "v2"),
        Service::Network => versioned(endpoint, "v2.0"),
        Service::Identity => versioned(endpoint, "v3"),
        Service::Placement => endpoint.clone(),
    }
}

fn versioned(endpoint: &Url, version: &str) -> Url {
    let mut url = endpoint.clone();
    let mut kept = segments(endpoint);
    if !kept.iter().any(|segment| is_version(segment)) {
        kept.push(version);
    }
    url.set_path(&format!("/{}", kept.join("/")));
    url
}

fn segments(url: &Url) -> Vec<&str> {
    url.path().split('/').filter(|segment| !segment.is_empty()).collect()
}

/// `v2`, `v2.1`, but not a word that begins with a v.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn documents(json: &str) -> Result<Vec<Document>, ()> {
        let answer = Answer { headers: reqwest::header::HeaderMap::new(), body: json.as_bytes().to_vec() };
        read_documents(&answer).map_err(|Garbage| ())
    }

    #[test]
    fn addresses_come_from_the_catalog() {
        let compute = |text| (base(Service::Compute, &url(text)).to_string(), document_url(&url(text)).to_string());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(compute("https://h/compute/v2.1/"), pair("https://h/compute/v2.1", "https://h/compute/v2.1/"));
        assert_eq!(compute("http://h:8774/v2.1/0a1b"), pair("http://h:8774/v2.1/0a1b", "http://h:8774/v2.1/"));
        assert_eq!(compute("http://h:8774"), pair("http://h:8774/v2.1", "http://h:8774/"));
        assert_eq!(compute("https://h/p/volatile"), pair("https://h/p/volatile/v2.1", "https://h/p/volatile/"));
        assert_eq!(base(Service::Image, &url("http://h:9292")).as_str(), "http://h:9292/v2");
        assert_eq!(base(Service::Image, &url("http://h/image/v2/")).as_str(), "http://h/image/v2");
        assert_eq!(base(Service::Network, &url("http://h:9696/")).as_str(), "http://h:9696/v2.0");
    }

    #[test]
    fn picks_the_lowest_that_serves() {
        let endpoint = url("http://h/v2.1");
        let one = r#"{"version": {"id": "v2.1", "version": "2.60", "min_version": "2.1", "links": []}}"#;
        let api = ComputeApi::found(&endpoint, &documents(one).unwrap());
        assert_eq!(api.pick(&[69, 47]), Some(47));
        assert_eq!(api.pick(&[52]), Some(52));
        assert_eq!(api.pick(&[90]), None);
        let list = r#"{"versions": [{"id": "v2.0", "version": "", "min_version": ""},
                                    {"id": "v2.1", "version": "2.104", "min_version": "2.53"}]}"#;
        let api = ComputeApi::found(&endpoint, &documents(list).unwrap());
        assert_eq!(api.pick(&[52]), Some(53));
        let old = r#"{"version": {"id": "v2.0", "version": "", "min_version": ""}}"#;
        assert_eq!(ComputeApi::found(&endpoint, &documents(old).unwrap()).pick(&[52]), None);
        for garbage in ["<html>", "{}", "[]", r#"{"versions": []}"#] {
            assert!(documents(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn an_assumption_does_not_last() {
        let (endpoint, now) = (url("http://h/v2.1"), Instant::now());
        let api = ComputeApi::assumed(&endpoint, now);
        assert!(api.is_good_for(&endpoint, now) && !api.is_good_for(&url("http://h/other"), now));
        assert_eq!(api.pick(&[52]), None);
        assert!(!api.is_good_for(&endpoint, now + ASSUMED_FOR));
    }
}
