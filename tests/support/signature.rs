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

/// Names a request to a cloud: `POST /compute/v2.1/servers`, `DELETE /compute/v2.1/servers/{id}`,
/// `DELETE /compute/v2.1/os-keypairs/{name}`.
pub fn cloud(method: &Method, uri: &Uri) -> String {
    let segments: Vec<_> = uri.path().split('/').collect();
    let before = std::iter::once("").chain(segments.iter().copied());
    let path: Vec<_> = before
        .zip(&segments)
        .map(|(before, segment)| match before {
            // What a key pair is called by is its name.
            "os-keypairs" => "{name}",
            _ if is_id(segment) => "{id}",
            _ => segment,
        })
        .collect();
    format!("{method} {}", path.join("/"))
}

/// UUIDs with or without hyphens, and numbers.
fn is_id(segment: &str) -> bool {
    let hex = segment.chars().filter(char::is_ascii_hexdigit).count();
    let hyphens = segment.chars().filter(|c| *c == '-').count();
    let number = !segment.is_empty() && segment.chars().all(|c| c.is_ascii_digit());
    number || (hex == 32 && (hyphens == 0 || hyphens == 4) && hex + hyphens == segment.len())
}
