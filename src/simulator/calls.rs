//! What a request is called, and the record of each call that was made.
//!
//! The names given here (`create-server`, `list-ports`, …) are the one vocabulary of handlers, faults and counters.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

/// Which of the simulated services a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    Identity,
    Compute,
    Image,
    Network,
    /// `/simulator/`, which no fault touches and no record counts.
    Admin,
    None,
}

impl Service {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Image => "image",
            Self::Network => "network",
            Self::Admin => "admin",
            Self::None => "none",
        }
    }
}

/// One request, named.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub service: Service,
    pub name: String,
    /// The path below the service's version, in its segments.
    pub path: Vec<String>,
    /// The path names a version, so a body and a token are expected.
    pub versioned: bool,
}

impl Call {
    /// The n-th segment of the path below the version, empty when there is none.
    pub(crate) fn segment(&self, index: usize) -> &str {
        self.path.get(index).map_or("", String::as_str)
    }

    /// Names a request. `body` is looked at only for Nova's actions, whose path does not tell what they do.
    pub(crate) fn of(method: &str, path: &str, project: &str, body: &[u8]) -> Self {
        let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let service = match segments.first().copied() {
            Some("identity") => Service::Identity,
            Some("compute") => Service::Compute,
            Some("image") => Service::Image,
            Some("network") => Service::Network,
            Some("simulator") => Service::Admin,
            _ => Service::None,
        };
        segments.drain(..segments.len().min(1));
        let versioned = service != Service::Admin
            && segments
                .first()
                .is_some_and(|first| first.len() > 1 && first.starts_with('v') && first.as_bytes()[1].is_ascii_digit());
        if versioned {
            segments.remove(0);
        }
        if service == Service::Compute && segments.first() == Some(&project) {
            segments.remove(0);
        }
        let name = match service {
            _ if segments.is_empty() && service != Service::Admin => "versions".to_owned(),
            Service::Identity => identity(method, &segments).to_owned(),
            Service::Compute => compute(method, &segments, body).to_owned(),
            Service::Image => image(method, &segments).to_owned(),
            Service::Network => network(method, &segments),
            Service::Admin | Service::None => "unknown".to_owned(),
        };
        Self { service, name, path: segments.into_iter().map(decoded).collect(), versioned }
    }
}

/// A name in a path as its owner wrote it: tags have spaces and worse.
fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

fn identity(method: &str, path: &[&str]) -> &'static str {
    match (method, path) {
        ("POST", ["auth", "tokens"]) => "auth",
        ("GET" | "HEAD", ["auth", "tokens"]) => "show-token",
        ("DELETE", ["auth", "tokens"]) => "revoke-token",
        ("GET", ["auth", "catalog"]) => "show-catalog",
        ("GET", ["auth", "projects"] | ["projects"] | ["users", _, "projects"]) => "list-projects",
        ("GET", ["projects", _]) => "show-project",
        ("GET", ["users", _]) => "show-user",
        ("GET", ["domains", _]) => "show-domain",
        ("GET", ["users", _, "application_credentials"]) => "list-application-credentials",
        ("POST", ["users", _, "application_credentials"]) => "create-application-credential",
        ("GET", ["users", _, "application_credentials", _]) => "show-application-credential",
        ("DELETE", ["users", _, "application_credentials", _]) => "delete-application-credential",
        _ => "unknown",
    }
}

fn compute(method: &str, path: &[&str], body: &[u8]) -> &'static str {
    match (method, path) {
        ("POST", ["servers"]) => "create-server",
        ("GET", ["servers"] | ["servers", "detail"]) => "list-servers",
        ("GET", ["servers", _]) => "show-server",
        ("PUT", ["servers", _]) => "update-server",
        ("DELETE", ["servers", _]) => "delete-server",
        ("POST", ["servers", _, "action"]) => action(body),
        ("GET", ["servers", _, "ips"] | ["servers", _, "ips", _]) => "list-addresses",
        ("GET", ["servers", _, "tags"] | ["servers", _, "tags", _]) => "list-server-tags",
        ("PUT" | "DELETE", ["servers", _, "tags"] | ["servers", _, "tags", _]) => "update-server-tags",
        ("GET", ["servers", _, "metadata"] | ["servers", _, "metadata", _]) => "list-server-metadata",
        ("POST" | "PUT" | "DELETE", ["servers", _, "metadata"] | ["servers", _, "metadata", _]) => {
            "update-server-metadata"
        }
        ("GET", ["servers", _, "os-interface"] | ["servers", _, "os-interface", _]) => "list-interfaces",
        ("POST", ["servers", _, "os-interface"]) => "attach-interface",
        ("DELETE", ["servers", _, "os-interface", _]) => "detach-interface",
        ("GET", ["servers", _, "os-security-groups"]) => "list-server-security-groups",
        ("GET", ["servers", _, "os-volume_attachments"]) => "list-volume-attachments",
        ("GET", ["servers", _, "os-instance-actions"]) => "list-instance-actions",
        ("GET", ["flavors"] | ["flavors", "detail"]) => "list-flavors",
        ("GET", ["flavors", _]) => "show-flavor",
        ("GET", ["flavors", _, "os-extra_specs"]) => "list-flavor-extra-specs",
        ("GET", ["os-keypairs"]) => "list-key-pairs",
        ("POST", ["os-keypairs"]) => "create-key-pair",
        ("GET", ["os-keypairs", _]) => "show-key-pair",
        ("DELETE", ["os-keypairs", _]) => "delete-key-pair",
        ("GET", ["limits"]) => "show-limits",
        ("GET", ["os-quota-sets", ..]) => "show-compute-quota",
        ("GET", ["os-availability-zone", ..]) => "list-availability-zones",
        ("GET", ["os-server-groups"]) => "list-server-groups",
        ("GET", ["extensions"]) => "list-compute-extensions",
        _ => "unknown",
    }
}

fn action(body: &[u8]) -> &'static str {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let action = body.as_object().and_then(|object| object.keys().next());
    match action.map_or("", String::as_str) {
        "createImage" => "create-snapshot",
        "os-getConsoleOutput" => "show-console-log",
        "forceDelete" => "force-delete-server",
        "restore" => "restore-server",
        "os-stop" => "stop-server",
        "os-start" => "start-server",
        "reboot" => "reboot-server",
        "lock" => "lock-server",
        "unlock" => "unlock-server",
        "addSecurityGroup" | "removeSecurityGroup" => "update-server-security-groups",
        _ => "server-action",
    }
}

fn image(method: &str, path: &[&str]) -> &'static str {
    match (method, path) {
        ("GET", ["versions"]) => "versions",
        ("GET", ["images"]) => "list-images",
        ("POST", ["images"]) => "create-image",
        ("GET", ["images", _]) => "show-image",
        ("PATCH", ["images", _]) => "update-image",
        ("DELETE", ["images", _]) => "delete-image",
        ("PUT", ["images", _, "file"]) => "upload-image",
        ("GET", ["images", _, "file"]) => "download-image",
        ("PUT", ["images", _, "stage"]) => "stage-image",
        ("POST", ["images", _, "import"]) => "import-image",
        ("POST", ["images", _, "actions", "deactivate"]) => "deactivate-image",
        ("POST", ["images", _, "actions", "reactivate"]) => "reactivate-image",
        ("PUT" | "DELETE", ["images", _, "tags", _]) => "update-image-tags",
        ("GET", ["images", _, "members"]) => "list-image-members",
        ("GET", ["schemas", _]) => "show-image-schema",
        ("GET", ["info", _]) => "show-image-info",
        _ => "unknown",
    }
}

fn network(method: &str, path: &[&str]) -> String {
    let (one, many) = match path.first().copied().unwrap_or_default() {
        "networks" => ("network", "networks"),
        "subnets" => ("subnet", "subnets"),
        "ports" => ("port", "ports"),
        "floatingips" => ("floating-ip", "floating-ips"),
        "security-groups" => ("security-group", "security-groups"),
        "security-group-rules" => ("security-group-rule", "security-group-rules"),
        "routers" => ("router", "routers"),
        "extensions" => ("network-extension", "network-extensions"),
        "quotas" => return "show-network-quota".to_owned(),
        "availability_zones" => return "list-network-availability-zones".to_owned(),
        _ => return "unknown".to_owned(),
    };
    match (method, path.len()) {
        ("GET", 1) => format!("list-{many}"),
        ("POST", 1) => format!("create-{one}"),
        ("GET", 2) => format!("show-{one}"),
        ("PUT", 2) => format!("update-{one}"),
        ("DELETE", 2) => format!("delete-{one}"),
        (_, 3 | 4) if path.get(2) == Some(&"tags") => format!("update-{one}-tags"),
        _ => "unknown".to_owned(),
    }
}

/// One call that was made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub seq: u64,
    pub time: Timestamp,
    pub service: Service,
    pub name: String,
    pub method: String,
    /// Path and query, as they were asked.
    pub path: String,
    /// The status that was sent; 0 when the client got no answer.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_name: Option<String>,
    /// Faults that applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<u64>,
    pub took_micros: u64,
}

/// How often a call was made, and how it ended.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Count {
    pub calls: u64,
    pub statuses: BTreeMap<u16, u64>,
}

/// Every call since the start or the last reset. Counters are exact; the records are the newest ones.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    pub seq: u64,
    pub records: VecDeque<Record>,
    pub counts: BTreeMap<String, Count>,
}

/// Records that are kept: what a run with 10,000 nodes makes, in some tens of megabytes.
const KEPT_RECORDS: usize = 200_000;

impl CallLog {
    pub(crate) fn add(&mut self, mut record: Record) {
        self.seq += 1;
        record.seq = self.seq;
        let count = self.counts.entry(record.name.clone()).or_default();
        count.calls += 1;
        *count.statuses.entry(record.status).or_default() += 1;
        if self.records.len() == KEPT_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// Forgets the calls; the sequence goes on, so that a reader's `since` stays right.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.counts.clear();
    }

    pub(crate) fn since(&self, seq: u64) -> impl Iterator<Item = &Record> {
        let oldest = self.records.front().map_or(0, |record| record.seq);
        let skip = (seq + 1).saturating_sub(oldest);
        self.records.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_calls_by_method_and_path() {
        let name = |method: &str, path: &str| Call::of(method, path, "p1", b"{\"createImage\":{}}").name;
        assert_eq!(name("POST", "/compute/v2.1/servers"), "create-server");
        assert_eq!(name("POST", "/compute/v2.1/p1/servers"), "create-server");
        assert_eq!(name("GET", "/compute/v2.1/servers/detail"), "list-servers");
        assert_eq!(name("POST", "/compute/v2.1/servers/x/action"), "create-snapshot");
        assert_eq!(name("GET", "/compute/"), "versions");
        assert_eq!(name("GET", "/image/v2/images"), "list-images");
        assert_eq!(name("PUT", "/network/v2.0/ports/x/tags/y"), "update-port-tags");
        assert_eq!(name("DELETE", "/network/v2.0/floatingips/x"), "delete-floating-ip");
    }
}
