//! What each role may do to each kind, in its namespace and in the one beside it: every cell is asked of the API server.

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use crate::support::Namespace;
use crate::tenant::{Person, ROLES, object, person};

/// One object of each kind, by the number in its name.
fn kinds(number: u32) -> Vec<(&'static str, Value)> {
    let name = format!("a-{number}");
    let here = json!({"provider": "a", "diskImage": "debian-13", "version": 1_700_000_000, "managed": true});
    let node = json!({
        "provider": "a", "pool": "small", "slot": number, "imageID": "i", "flavor": "small", "flavorID": "f",
        "templateHash": "h", "username": "debian", "port": 22, "probe": "ssh",
    });
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let specs = [
        ("providers", "Provider", json!({"cloud": {"secretRef": {"name": "a"}}, "maxServers": 1, "networks": ["n"]})),
        (
            "diskimages",
            "DiskImage",
            json!({"providers": ["a"], "source": {"existing": {"name": "debian-13"}}, "login": {"username": "debian"}}),
        ),
        ("providerimages", "ProviderImage", here),
        ("pools", "Pool", json!({"image": "debian-13", "flavor": {"name": "small"}, "providers": [{"name": "a"}]})),
        ("poolnodes", "PoolNode", node),
        ("noderequests", "NodeRequest", json!({"nodes": [{"name": "builder", "pool": "small"}]})),
    ];
    let ours = specs.map(|(plural, kind, spec)| (plural, object(kind, &name, spec)));
    ours.into_iter().chain([("secrets", secret)]).collect()
}

const VERBS: [&str; 6] = ["get", "list", "create", "patch", "delete", "patch-status"];

/// What the chart's README promises.
fn may(role: &str, verb: &str, plural: &str) -> bool {
    let reads = ["get", "list"].contains(&verb);
    let writes = verb != "patch-status";
    match (role, plural) {
        (_, "secrets") => false,
        ("admin", _) => writes,
        ("author", "diskimages" | "pools" | "noderequests") => writes,
        ("author", "providerimages" | "poolnodes") => writes && verb != "create",
        ("author", "providers") | ("viewer", _) => reads,
        ("claimer", "noderequests") => writes,
        _ => false,
    }
}

/// Whether the API server lets them: every request is a good one, so there is no other answer than yes and Forbidden.
async fn is_let(person: &Person, verb: &str, plural: &str, namespace: &str) -> bool {
    let one = ["--dry-run=server", "--type=merge", "--patch={}", plural, "a-0"];
    let args: &[&str] = match verb {
        "get" => &["get", plural, "a-0"],
        "list" => &["get", plural],
        "create" => &["create", "--dry-run=server", "-f", "-"],
        "patch" => &[&["patch"], &one[..]].concat(),
        "delete" => &["delete", plural, "a-0", "--dry-run=server"],
        _ => &[&["patch", "--subresource=status"], &one[..]].concat(),
    };
    let new = kinds(1).into_iter().find(|(name, _)| *name == plural).map(|(_, object)| object.to_string());
    let input = if verb == "create" { new.unwrap_or_default() } else { String::new() };
    let said = person.says(&[args, &["--namespace", namespace]].concat(), &input).await;
    assert!(said.success != said.stderr.contains("(Forbidden)"), "{verb} {plural}: {said:?}");
    said.success
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_in_its_namespace_and_nothing_elsewhere() {
    let (tenant, other) = (Namespace::new().await, Namespace::new().await);
    for (namespace, (_, object)) in
        [&tenant, &other].into_iter().flat_map(|one| kinds(0).into_iter().map(move |kind| (one, kind)))
    {
        namespace.kubectl().apply_json(&object).await;
    }
    let mut people = Vec::new();
    for role in ROLES {
        people.push((role, person(role, &tenant).await));
    }
    let mut cells = Vec::new();
    for (role, person) in &people {
        for (plural, _) in kinds(0) {
            for verb in VERBS.into_iter().filter(|verb| plural != "secrets" || *verb != "patch-status") {
                cells.extend([
                    (*role, person, plural, verb, &tenant, may(role, verb, plural)),
                    (*role, person, plural, verb, &other, false),
                ]);
            }
        }
    }
    let asked = cells.len();
    let wrong: Vec<String> = stream::iter(cells)
        .map(|(role, person, plural, verb, namespace, expected)| async move {
            let is = is_let(person, verb, plural, namespace.name()).await;
            (is != expected).then(|| format!("{role} {verb} {plural} in {}: {is}", namespace.name()))
        })
        .buffer_unordered(4)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(asked, 4 * 2 * (6 * 6 + 5), "roles, namespaces, verbs of our kinds and of Secrets");
}
