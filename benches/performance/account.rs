//! What was asked of the two APIs: the writes that kube-apiserver counted, the calls that the cloud logged.

use std::collections::BTreeMap;

use kube::Client;
use serde_json::Value;

use crate::support::Simulator;

/// Writes by resource and subresource, such as `poolnodes/status`, or `poolnodes refused 409`.
pub type Writes = BTreeMap<String, f64>;
/// Calls by name, such as `create-server`.
pub type Calls = BTreeMap<String, f64>;

/// All writes that the API server has answered, whoever sent them and whatever the answer was.
pub async fn writes(client: &Client) -> Writes {
    let request = axum::http::Request::get("/metrics").body(Vec::new()).unwrap();
    let page = client.request_text(request).await.unwrap();
    let mut writes = Writes::new();
    for line in page.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap_or_default();
            rest.split_once('"').unwrap_or_default().0
        };
        if !matches!(label("verb"), "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE") {
            continue;
        }
        let mut resource = match (label("resource"), label(",subresource")) {
            (resource, "") => resource.to_owned(),
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        // Of a collection: the namespace controller's, and what the measurement itself sends; the operator never does.
        if label("verb") == "DELETE" && label("scope") != "resource" {
            "collections (of a deleted namespace)".clone_into(&mut resource);
        }
        if !label("code").starts_with('2') {
            resource = format!("{resource} refused {}", label("code"));
        }
        let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        *writes.entry(resource).or_default() += count;
    }
    writes
}

/// All calls that the cloud has answered.
pub async fn calls(simulator: &Simulator) -> Calls {
    // Beyond the last call: the counts without the records.
    let log = simulator.get(&format!("calls?since={}", u64::MAX / 2)).await;
    let counts = log["counts"].as_object().unwrap();
    counts.iter().map(|(name, count)| (name.clone(), count["calls"].as_f64().unwrap())).collect()
}

/// The calls of one name since the one with this number, oldest first.
pub async fn log(simulator: &Simulator, since: u64, name: &str) -> Vec<Value> {
    let mut log = simulator.get(&format!("calls?since={since}&name={name}")).await;
    match log["calls"].take() {
        Value::Array(calls) => calls,
        other => panic!("calls: {other}"),
    }
}

/// What was added between two readings.
pub fn added(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let more = after.iter().map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0.0)));
    more.filter(|(_, count)| *count != 0.0).collect()
}

/// The sum of all whose name passes.
pub fn sum(counts: &BTreeMap<String, f64>, passes: impl Fn(&str) -> bool) -> f64 {
    counts.iter().filter(|(name, _)| passes(name)).map(|(_, count)| count).sum()
}

/// All of them, for people.
pub fn listed(counts: &BTreeMap<String, f64>, divisor: f64) -> String {
    let all: Vec<String> = counts
        .iter()
        .map(|(name, count)| match count / divisor {
            whole if whole.fract() == 0.0 => format!("{name} {whole}"),
            broken => format!("{name} {broken:.2}"),
        })
        .collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
