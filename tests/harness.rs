//! The harness itself: what the other integration tests rest on must work, and fail in the way they count on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::Method;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use support::{
    CrashPoint, Killer, Kubectl, Moment, Namespace, Operator, Proxy, SimulatorOptions, Verdict, crash_at, eventually,
    signature, within,
};

const SOON: Duration = Duration::from_secs(10);

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn through(proxy: &Proxy) -> Client {
    let kubeconfig = Kubeconfig::read_from(proxy.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn kubectl_works_in_a_namespace_of_its_own() {
    let namespace = Namespace::new().await;
    let kubectl: Kubectl = namespace.kubectl();
    kubectl.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {key: value}}").await;
    assert_eq!(kubectl.json(&["get", "configmap", "a"]).await.unwrap()["data"]["key"], "value");
    let refused = kubectl.try_apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: A}}").await;
    assert!(!refused.success && refused.stderr.contains("lowercase"), "{refused:?}");
    namespace.secret("login", &[("password", "x")]).await;
    assert_eq!(namespace.list::<Secret>().await.len(), 1);
    kubectl.delete("configmap/a").await;
    namespace.wait_for::<ConfigMap>("a", SOON, |found| found.is_none()).await;
}

#[tokio::test]
async fn a_deleted_owner_takes_its_dependents_along() {
    let namespace = Namespace::new().await;
    let api: Api<ConfigMap> = namespace.api();
    let owner = api.create(&PostParams::default(), &config_map("owner")).await.unwrap();
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid});
    let mut dependent = config_map("dependent");
    dependent.metadata.owner_references = Some(vec![serde_json::from_value(reference).unwrap()]);
    api.create(&PostParams::default(), &dependent).await.unwrap();
    namespace.kubectl().delete("configmap/owner").await;
    namespace.wait_for::<ConfigMap>("dependent", SOON, |found| found.is_none()).await;
}

#[tokio::test]
async fn the_proxy_names_calls_and_streams_watches() {
    let namespace = Namespace::new().await;
    let proxy = Proxy::before_api_server(namespace.plane()).await;
    let api: Api<ConfigMap> = Api::namespaced(through(&proxy).await, namespace.name());
    let first = api.create(&PostParams::default(), &config_map("first")).await.unwrap();
    let version = first.metadata.resource_version.unwrap();
    let mut watch = Box::pin(api.watch(&WatchParams::default(), &version).await.unwrap());
    for name in ["second", "third"] {
        namespace.api().create(&PostParams::default(), &config_map(name)).await.unwrap();
        match within(SOON, "the event of an open watch", watch.next()).await {
            Some(Ok(WatchEvent::Added(seen))) => assert_eq!(seen.metadata.name.as_deref(), Some(name)),
            other => panic!("{other:?}"),
        }
    }
    let names: Vec<_> = proxy.calls().into_iter().map(|call| (call.number, call.signature, call.ordinal)).collect();
    assert_eq!(names, [(1, "CREATE configmaps".to_owned(), 1), (2, "WATCH configmaps".to_owned(), 1)]);
}

#[tokio::test]
async fn a_cut_before_a_call_prevents_it_and_a_cut_after_loses_only_its_answer() {
    let namespace = Namespace::new().await;
    let proxy = Proxy::before_api_server(namespace.plane()).await;
    let api: Api<ConfigMap> = Api::namespaced(through(&proxy).await, namespace.name());
    for (name, after, exists) in [("before", false, false), ("after", true, true)] {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        proxy.set_hook(Arc::new(move |call, moment| {
            let there = call.signature == "CREATE configmaps" && after == matches!(moment, Moment::After(201));
            count.fetch_add(u32::from(there), Ordering::SeqCst);
            Box::pin(async move { if there { Verdict::Cut } else { Verdict::Pass } })
        }));
        let answer = within(SOON, "a cut", api.create(&PostParams::default(), &config_map(name))).await;
        assert!(matches!(answer, Err(kube::Error::HyperError(_) | kube::Error::Service(_))), "{answer:?}");
        proxy.clear_hook();
        assert_eq!(api.get_opt(name).await.unwrap().is_some(), exists, "{name}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "nobody repeated the call");
    }
    let answered = proxy.count("CREATE configmaps");
    proxy.set_hook(Arc::new(|_, _| {
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict"});
        Box::pin(async move { Verdict::Answer(409, status) })
    }));
    let conflict = api.create(&PostParams::default(), &config_map("conflict")).await;
    assert!(matches!(conflict, Err(kube::Error::Api(status)) if status.is_conflict()));
    assert_eq!(proxy.count("CREATE configmaps"), answered + 1);
}

#[tokio::test]
async fn a_simulator_behind_a_proxy_names_the_proxy_everywhere() {
    let namespace = Namespace::new().await;
    let proxy = Proxy::before_cloud().await;
    let simulator = SimulatorOptions::default().arg("--boot-time=0s").start_behind(&proxy).await;
    assert!(simulator.url().starts_with(&proxy.url()), "{}", simulator.url());
    assert!(simulator.clouds_yaml().contains(&proxy.url()));
    assert!(simulator.clouds_yaml().contains(&format!("{}:", simulator.cloud_name())));
    simulator.secret(&namespace, "cloud").await;
    assert_eq!(namespace.list::<Secret>().await.len(), 1);
    assert_eq!(simulator.settings(json!({"maxServers": 3})).await["maxServers"], 3);
    assert_eq!(simulator.state().await["servers"]["existing"], 0);
    let fault = json!({"call": "versions", "times": 1, "fault": {"type": "answer", "status": 503}});
    simulator.fault(fault).await;
    for status in [503, 200] {
        assert_eq!(reqwest::get(format!("{}/identity/v3", proxy.url())).await.unwrap().status(), status);
    }
    assert_eq!(proxy.count("GET /identity/v3"), 2);
    assert_eq!(simulator.calls().await["last"], 2);
    simulator.clear_faults().await;
}

#[tokio::test]
async fn an_operator_is_ready_counts_and_ends_when_asked() {
    let namespace = Namespace::new().await;
    let operator = Operator::start(&namespace).await;
    assert_eq!(operator.get("/livez").await.unwrap().0, 200);
    assert!(operator.metrics().await.contains("nodepool_"));
    operator.sigterm();
    let status = operator.wait_exit(Duration::from_secs(2)).await;
    assert!(status.success(), "{status}: {}", operator.log());
}

#[tokio::test]
async fn a_probe_is_asked_and_only_a_good_answer_is_success() {
    let namespace = Namespace::new().await;
    let operator = Operator::start(&namespace).await;
    let base = operator.log().lines().find(|line| line.starts_with("http://")).unwrap().to_owned();
    let port = base.rsplit(':').next().unwrap().to_owned();
    let probe = |path: &'static str| async {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_nodepool-operator"));
        program.args(["probe", "--host", "127.0.0.1", "--path", path, "--port"]).arg(&port);
        let output = program.output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    assert_eq!(probe("/readyz").await, (Some(0), format!("{base}/readyz: ok\n")));
    let (code, said) = probe("/missing").await;
    assert!(code == Some(1) && said.contains("answered 404"), "{code:?} {said}");
    operator.kill9();
    let (code, said) = probe("/readyz").await;
    assert!(code == Some(1) && said.contains("no answer"), "{code:?} {said}");
}

#[tokio::test]
async fn an_operator_is_killed_before_or_after_exactly_one_call() {
    let namespace = Namespace::new().await;
    for after in [false, true] {
        let proxy = Proxy::before_api_server(namespace.plane()).await;
        let killer = Killer::default();
        let point = CrashPoint { signature: "LIST providers".to_owned(), ordinal: 1, after };
        proxy.set_hook(crash_at(point, killer.clone()));
        let operator = Operator::for_namespace(&namespace).kubeconfig(proxy.kubeconfig()).killer(killer).start();
        let status = operator.wait_exit(SOON).await;
        assert_eq!(status.signal(), Some(9), "{}", operator.log());
        assert_eq!(proxy.count("LIST providers"), 1);
    }
}

#[tokio::test]
#[should_panic(expected = "tests/harness.rs")]
async fn a_missed_deadline_names_the_waiting_line() {
    eventually(Duration::from_millis(80), || async { Err::<(), _>("never".to_owned()) }).await;
}

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
        assert_eq!(signature::kubernetes(&method, &path.parse().unwrap()), name, "{path}");
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
        assert_eq!(signature::cloud(&Method::DELETE, &path.parse().unwrap()), name);
    }
}
