//! Keystone's catalog: decides at which address a service is asked, by type, region and interface.
//!
//! Never sends anything and never leaves an address that the catalog, or an override in clouds.yaml, names.

use std::collections::BTreeSet;

use reqwest::Url;
use serde::Deserialize;

use super::config::{CloudConfig, Interface};

/// A service the operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    Identity,
    Compute,
    Image,
    Network,
    /// Asked only whether it answers: Nova needs it.
    Placement,
}

impl Service {
    /// The type, as clouds.yaml's overrides name it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Image => "image",
            Self::Network => "network",
            Self::Placement => "placement",
        }
    }

    /// The types under which catalogs list it, best first.
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Identity => &["identity", "identityv3", "identity_v3"],
            Self::Compute => &["compute", "computev21", "compute_v21"],
            Self::Image => &["image", "imagev2", "image_v2"],
            Self::Network => &["network", "networking", "networkv2"],
            Self::Placement => &["placement"],
        }
    }
}

/// The catalog of one token.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Catalog(Vec<Entry>);

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(default)]
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    #[serde(default)]
    url: String,
}

impl Endpoint {
    fn region(&self) -> Option<&str> {
        self.region_id.as_deref().or(self.region.as_deref())
    }

    fn is_in(&self, region: Option<&str>) -> bool {
        region.is_none() || self.region.as_deref() == region || self.region_id.as_deref() == region
    }

    fn is_for(&self, interface: Interface) -> bool {
        self.interface.trim_end_matches("URL") == interface.word()
    }
}

impl Catalog {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The base address of a service; the error is a sentence that says what to write.
    pub(crate) fn endpoint(&self, service: Service, config: &CloudConfig) -> Result<Url, String> {
        if let Some(url) = config.overrides.get(service.word()) {
            return Ok(url.clone());
        }
        let word = service.word();
        let all = self.of(service).ok_or_else(|| format!("the catalog has no {word} service"))?;
        let region = config.region.as_deref();
        let here: Vec<&Endpoint> = all.iter().copied().filter(|endpoint| endpoint.is_in(region)).collect();
        if here.is_empty() {
            let region = region.unwrap_or_default();
            return Err(format!("no {word} service in region {region}; set region to one of: {}", regions(&all)));
        }
        let fit: Vec<&Endpoint> = here.iter().copied().filter(|endpoint| endpoint.is_for(config.interface)).collect();
        let Some(first) = fit.first() else {
            return Err(format!(
                "the {word} service has no {} endpoint; set interface to one of: {}",
                config.interface.word(),
                interfaces(&here)
            ));
        };
        if fit.iter().any(|endpoint| endpoint.region() != first.region()) {
            return Err(format!("the {word} service is in several regions: set region to one of: {}", regions(&fit)));
        }
        match Url::parse(&first.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => Ok(url),
            _ => Err(format!("the catalog's address of the {word} service is no http address")),
        }
    }

    fn of(&self, service: Service) -> Option<Vec<&Endpoint>> {
        let listed = |kind: &&str| self.0.iter().any(|entry| entry.kind == **kind && !entry.endpoints.is_empty());
        let kind = service.types().iter().find(|kind| listed(kind))?;
        Some(self.0.iter().filter(|entry| entry.kind == *kind).flat_map(|entry| &entry.endpoints).collect())
    }
}

fn interfaces(endpoints: &[&Endpoint]) -> String {
    let names: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.interface.trim_end_matches("URL")).collect();
    names.into_iter().take(8).collect::<Vec<_>>().join(", ")
}

fn regions(endpoints: &[&Endpoint]) -> String {
    let names: BTreeSet<&str> = endpoints.iter().filter_map(|endpoint| endpoint.region()).collect();
    names.into_iter().take(8).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        serde_json::from_value(serde_json::json!([
            {"type": "computev21", "endpoints": [
                {"interface": "publicURL", "region": "one", "region_id": "one", "url": "https://one/compute/v2.1"},
                {"interface": "internal", "region": "one", "url": "http://one.local/compute/v2.1"},
                {"interface": "public", "region_id": "two", "url": "https://two/v2.1"}]},
            {"type": "image", "endpoints": []},
            {"type": "imagev2", "endpoints": [{"interface": "public", "region": "one", "url": "ftp://x"}]},
        ]))
        .unwrap()
    }

    fn config(rest: &str) -> CloudConfig {
        let yaml = format!(
            "clouds: {{c: {{auth: {{auth_url: 'https://k', username: u, password: p, project_name: p}}{rest}}}}}"
        );
        CloudConfig::from_yaml(yaml.as_bytes(), "c", None).unwrap()
    }

    #[test]
    fn chooses_by_region_and_interface() {
        let find = |service, rest: &str| catalog().endpoint(service, &config(rest)).map(String::from);
        assert_eq!(find(Service::Compute, ", region_name: one").unwrap(), "https://one/compute/v2.1");
        assert_eq!(find(Service::Compute, ", interface: internal").unwrap(), "http://one.local/compute/v2.1");
        assert_eq!(find(Service::Compute, ", region_name: two").unwrap(), "https://two/v2.1");
        let replaced = ", compute_endpoint_override: 'http://here/nova'";
        assert_eq!(find(Service::Compute, replaced).unwrap(), "http://here/nova");
    }

    #[test]
    fn says_what_to_write() {
        let refuse = |service, rest: &str| catalog().endpoint(service, &config(rest)).unwrap_err();
        assert!(refuse(Service::Compute, "").contains("set region to one of: one, two"));
        assert!(
            refuse(Service::Compute, ", region_name: three")
                .contains("in region three; set region to one of: one, two")
        );
        assert!(
            refuse(Service::Compute, ", interface: admin")
                .contains("no admin endpoint; set interface to one of: internal, public")
        );
        assert!(refuse(Service::Network, "").contains("no network service"));
        assert!(refuse(Service::Image, "").contains("no http address"));
    }
}
