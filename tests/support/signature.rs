//! A name for what a request does, the same in every run: no object names, ids or versions in it.
//!
//! Crash tests record the signatures of an undisturbed run and then break each of them in a run of its own.

use axum::http::{Method, Uri};

/// Names a request to a Kubernetes API server: `CREATE poolnodes`, `UPDATE poolnodes/status`, `WATCH pools`.
pub fn kubernetes(method: &Method, uri: &Uri) -> String {
    let segments: Vec<_> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let after_group = match segments.as_slice() {
        ["api", _version, rest @ ..] | ["apis", _, _version, rest @ ..] => rest,
        _ => return format!("{method} {}", uri.path()),
    };
    let in_namespace = match after_group {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match in_namespace {
        [] => return format!("{method} {}", uri.path()),
        [resource] => ((*resource).to_owned(), false),
        [resource, _name] => ((*resource).to_owned(), true),
        [resource, _name, subresource @ ..] => (format!("{resource}/{}", subresource.join("/")), true),
    };
    let watched =
        uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
    let verb = match (method.as_str(), named) {
        ("GET", _) if watched => "WATCH",
        ("GET", false) => "LIST",
        ("GET", true) => "GET",
        ("POST", _) => "CREATE",
        ("PUT", _) => "UPDATE",
        ("PATCH", _) => "PATCH",
        ("DELETE", false) => "DELETECOLLECTION",
        ("DELETE", true) => "DELETE",
        (other, _) => other,
    };
    format!("{verb} {resource}")
}

/// Names a request to a cloud: `POST /compute/v2.1/servers`, `DELETE /compute/v2.1/servers/{id}`.
pub fn cloud(method: &Method, uri: &Uri) -> String {
    let path: Vec<_> = uri.path().split('/').map(|segment| if is_id(segment) { "{id}" } else { segment }).collect();
    format!("{method} {}", path.join("/"))
}

/// UUIDs with or without hyphens, and numbers.
fn is_id(segment: &str) -> bool {
    let hex = segment.chars().filter(char::is_ascii_hexdigit).count();
    let hyphens = segment.chars().filter(|c| *c == '-').count();
    let number = !segment.is_empty() && segment.chars().all(|c| c.is_ascii_digit());
    number || (hex == 32 && (hyphens == 0 || hyphens == 4) && hex + hyphens == segment.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_requests_are_named_by_verb_and_resource() {
        let base = "/apis/nodepool.dev/v1alpha1";
        for (method, path, name) in [
            (Method::POST, format!("{base}/namespaces/t/poolnodes"), "CREATE poolnodes"),
            (Method::PUT, format!("{base}/namespaces/t/poolnodes/a-0/status"), "UPDATE poolnodes/status"),
            (Method::GET, format!("{base}/pools?limit=500"), "LIST pools"),
            (Method::GET, format!("{base}/pools?watch=true&timeoutSeconds=290"), "WATCH pools"),
            (Method::GET, "/api/v1/namespaces/t/secrets/cloud".to_owned(), "GET secrets"),
            (Method::GET, "/api/v1/namespaces/t".to_owned(), "GET namespaces"),
            (Method::DELETE, format!("{base}/namespaces/t/poolnodes/a-0"), "DELETE poolnodes"),
            (Method::GET, "/version".to_owned(), "GET /version"),
        ] {
            assert_eq!(kubernetes(&method, &path.parse().unwrap()), name, "{path}");
        }
    }

    #[test]
    fn cloud_requests_are_named_without_ids() {
        for (path, name) in [
            ("/compute/v2.1/servers", "DELETE /compute/v2.1/servers"),
            (
                "/compute/v2.1/servers/3b7c1f80-95a1-4ae0-9aa5-8a6d8e6f5f10/action",
                "DELETE /compute/v2.1/servers/{id}/action",
            ),
            ("/volume/v3/3b7c1f8095a14ae09aa58a6d8e6f5f10/limits", "DELETE /volume/v3/{id}/limits"),
        ] {
            assert_eq!(cloud(&Method::DELETE, &path.parse().unwrap()), name);
        }
    }
}
