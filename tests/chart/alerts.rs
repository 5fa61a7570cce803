//! Alerts and dashboard beside the operator's real `/metrics`: they name what is there, alerts fire when they should and
//! not otherwise, and each has its page.

use std::collections::BTreeSet;
use std::path::Path;

use nodepool_operator::api::ImageState;
use serde_json::{Value, json};

use crate::support::helm::{object, program, render, scratch};
use crate::support::versions::states;
use crate::support::world::SOON;
use crate::support::{World, eventually};

const NAME: &str = "nodepool-operator";

fn groups(values: &str) -> Value {
    let objects = render(&format!("metrics: {{prometheusRule: {{enabled: true, {values}}}}}")).unwrap();
    json!({"groups": object(&objects, "PrometheusRule", NAME).unwrap()["spec"]["groups"]})
}

fn rules(values: &str) -> Vec<Value> {
    groups(values)["groups"][0]["rules"].as_array().unwrap().clone()
}

/// The expressions of all panels, and of the variables, of the dashboard.
fn dashboard() -> Vec<String> {
    let objects = render("metrics: {dashboard: {enabled: true}}").unwrap();
    let text = object(&objects, "ConfigMap", "nodepool-operator-dashboard").unwrap()["data"]["nodepool.json"].clone();
    let dashboard: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut all: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(all.len() > 20, "{}", all.len());
    all.push(dashboard["templating"]["list"][1]["query"]["query"].as_str().unwrap().to_owned());
    all
}

/// The metrics that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("nodepool_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn alerts_and_dashboard_name_metrics_that_the_operator_serves() {
    let world = World::builder().cloud("a", 4).simulator_arg("--run-commands").start().await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    world.request("job", &[("small", 1)], json!({})).await;
    world.fulfilled("job").await;
    world.request("waits", &[("small", 9)], json!({"nodes": [{"name": "n0", "pool": "missing", "count": 1}]})).await;
    states(&world, "debian-13", &[ImageState::Ready]).await;
    let mut wanted: BTreeSet<String> = dashboard().iter().flat_map(|expression| named(expression)).collect();
    for rule in rules("") {
        wanted.extend(named(rule["expr"].as_str().unwrap()));
    }
    assert!(wanted.len() > 15, "{wanted:?}");
    // Metrics with no sample yet are known by their type.
    eventually(SOON, || async {
        let page = world.operator.metrics().await;
        let served = |name: &String| {
            let type_of = ["", "_total", "_bucket"].iter().any(|suffix| {
                name.strip_suffix(suffix).is_some_and(|family| page.contains(&format!("# TYPE {family} ")))
            });
            type_of
                || page
                    .lines()
                    .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")))
        };
        let missing: Vec<&String> = wanted.iter().filter(|name| !served(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not served: {missing:?}")) }
    })
    .await;
    let page = world.operator.metrics().await;
    for label in ["state=\"Ready\"", "condition=\"Ready\"", "result=\"ready\"", "kind=\"Provider\""] {
        assert!(page.contains(label), "{label} is what alerts select by");
    }
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    let rules_file = scratch("alerts.yaml");
    std::fs::write(&rules_file, groups("").to_string()).unwrap();
    let said =
        program("promtool").args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(&rules_file).output().unwrap();
    assert!(said.status.success(), "{said:?}");

    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/alerts.yaml");
    let text = std::fs::read_to_string(cases).unwrap().replace("ALERTS", rules_file.to_str().unwrap());
    for rule in rules("") {
        let alert = rule["alert"].as_str().unwrap();
        let tested = |fires: bool| text.matches(&format!("alertname: {alert}, exp_alerts: []")).count() > 0 || fires;
        assert!(tested(false), "{alert} has no case in which it does not fire");
        assert!(text.contains(&format!("alertname: {alert}\n")), "{alert} has no case in which it fires");
    }
    let test_file = scratch("alerts-test.yaml");
    std::fs::write(&test_file, text).unwrap();
    let said = program("promtool").args(["test", "rules"]).arg(&test_file).output().unwrap();
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{}{}", words(&said.stdout), words(&said.stderr));
}

#[test]
fn expressions_of_the_dashboard_are_valid() {
    let expressions = dashboard();
    // The last one is a variable's, in Grafana's own words.
    let rules: Vec<Value> = expressions[..expressions.len() - 1]
        .iter()
        .enumerate()
        .map(|(at, expression)| {
            let expression = expression.replace("$__rate_interval", "5m").replace("$namespace", ".*");
            json!({"record": format!("panel:{at}"), "expr": expression})
        })
        .collect();
    let file = scratch("dashboard.yaml");
    std::fs::write(&file, json!({"groups": [{"name": "panels", "rules": rules}]}).to_string()).unwrap();
    let said = program("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(said.status.success(), "{said:?}");
}

#[test]
fn each_alert_has_its_page_and_each_page_its_alert() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let pages: BTreeSet<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let alerts: BTreeSet<String> = rules("").iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(pages, alerts);
    let url = &rules("runbookUrl: 'https://example.org/runbooks/'")[0]["annotations"]["runbook_url"];
    assert_eq!(url, &json!("https://example.org/runbooks/NodepoolNoLeader.md"));
}

#[test]
fn alerts_follow_their_values() {
    let named = |values: &str, name: &str| rules(values).into_iter().find(|rule| rule["alert"] == name);
    let expr = |values: &str, name: &str| named(values, name).unwrap()["expr"].as_str().unwrap().to_owned();
    assert!(expr("", "NodepoolImageStale").ends_with("> 172800"));
    assert!(expr("staleImageSeconds: 1209600", "NodepoolImageStale").ends_with("> 1209600"));
    assert!(expr("requestWaitSeconds: 60", "NodepoolRequestsWait").ends_with("> 60"));
    assert!(named("disabled: {NodepoolLeaks: true}", "NodepoolLeaks").is_none());
    assert!(named("disabled: {NodepoolLeaks: false}", "NodepoolLeaks").is_some());
    let labels = &named("alertLabels: {team: ci, severity: page}", "NodepoolStuck").unwrap()["labels"];
    assert_eq!(labels, &json!({"team": "ci", "severity": "page"}));
    assert!(rules("")[0]["annotations"]["runbook_url"].is_null());
    let more = groups("additionalGroups: [{name: mine, rules: []}]");
    assert_eq!(more["groups"][1]["name"], "mine");
}
