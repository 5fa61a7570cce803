//! The chart on a real API server: all of it is accepted, and an installation's life keeps what it must.
//!
//! A control plane of its own, since definitions are what all other tests share. No Node is there: the operator runs as a process
//! with the rights of the chart's service account; as Pods it is shown by `make test-e2e`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use kube::ResourceExt;
use nodepool_operator::api::{Pool, Provider};
use serde_json::{Value, json};

use crate::rights::{kubeconfig_of, works};
use crate::support::helm::{chart, program, render_as, scratch, told};
use crate::support::world::{SOON, given, server_ids};
use crate::support::{ControlPlane, Kubectl, Namespace, Operator, World, eventually, line_of};

const RELEASE: &str = "nodepool-operator";
const HOME: &str = "nodepool-system";

fn plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(ControlPlane::alone)
}

fn helm(args: &[&str], chart: Option<&Path>) -> Result<String, String> {
    let mut helm = program("helm");
    helm.args(args).args(chart).args(["--namespace", HOME, "--kubeconfig"]).arg(plane().kubeconfig());
    let output: Output = helm.output().unwrap();
    told(&output)
}

/// This chart as if it were of an earlier version, whose Pools had no `minReady` column and a shorter description.
///
/// No earlier version is published: this is how an upgrade from one is shown until there is.
fn earlier() -> PathBuf {
    let target = scratch("earlier");
    std::fs::create_dir_all(&target).unwrap();
    let copied = Command::new("cp").arg("-a").arg(chart()).arg(&target).status().unwrap();
    assert!(copied.success());
    let earlier = target.join("nodepool-operator");
    let edit = |file: &str, from: &str, to: &str| {
        let path = earlier.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    let version = env!("CARGO_PKG_VERSION");
    edit("Chart.yaml", &format!("version: {version}"), "version: 0.0.9");
    edit("files/crds/pools.yaml", "description: Ready nodes wanted", "description: Wanted");
    earlier
}

/// The first column of Pools, as the API server has it.
async fn column(kubectl: &Kubectl) -> Value {
    let crd = kubectl.json(&["get", "crd", "pools.nodepool.dev"]).await.unwrap();
    crd["spec"]["versions"][0]["additionalPrinterColumns"][0]["description"].clone()
}

async fn operator(namespace: &Namespace) -> crate::support::OperatorOptions {
    let kubeconfig = kubeconfig_of(plane(), HOME, RELEASE).await;
    Operator::for_namespace(namespace).everywhere(HOME).kubeconfig(kubeconfig).leader_election()
}

#[tokio::test]
async fn upgrade_and_uninstall_keep_kinds_and_nodes_and_a_new_installation_goes_on() {
    let kubectl = plane().kubectl(HOME);
    let earlier = earlier();
    // The control plane comes with the definitions of today.
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let said = kubectl.run(&["delete", "--wait", "--filename", crds.to_str().unwrap()]).await;
    assert!(said.success, "{}", said.stderr);
    helm(&["install", RELEASE, "--create-namespace"], Some(&earlier)).unwrap();
    let said = kubectl
        .run(&["wait", "--for=condition=Established", "crd", "--selector=app.kubernetes.io/part-of=nodepool"])
        .await;
    assert!(said.success, "{}", said.stderr);
    assert_eq!(column(&kubectl).await, "Wanted");

    let builder = World::builder().cloud("a", 6).simulator_arg("--run-commands").on(plane());
    let (clouds, namespace) = builder.prepare().await;
    let options = operator(&namespace).await;
    let mut world = builder.run(clouds, namespace, options).await;
    works(&world).await;
    world.request("held", &[("small", 1)], json!({})).await;
    let held = given(&world.fulfilled("held").await);
    let uids = |provider: Provider, pool: Pool| (provider.uid().unwrap(), pool.uid().unwrap());
    let first = uids(world.get("a").await, world.get("small").await);

    helm(&["upgrade", RELEASE], Some(&chart())).unwrap();
    eventually(SOON, || async {
        let column = column(&kubectl).await;
        if column == "Ready nodes wanted" { Ok(()) } else { Err(column.to_string()) }
    })
    .await;
    assert_eq!(uids(world.get("a").await, world.get("small").await), first);
    world.patch::<Pool>("small", json!({"spec": {"minReady": 2}})).await;
    world.pool_ready("small", 2).await;

    let said = helm(&["uninstall", RELEASE, "--wait"], None).unwrap();
    assert!(said.contains("kept") && said.contains("pools.nodepool.dev"), "{said}");
    world.operator.kill9();
    let left =
        kubectl.run(&["get", "deployment,serviceaccount,role", "-l", "app.kubernetes.io/part-of=nodepool"]).await;
    assert!(left.stderr.contains("No resources"), "{left:?}");
    let after = server_ids(&world.nodes().await);
    assert!(after.is_superset(&held), "nodes in use stay: {held:?}, {after:?}");

    helm(&["install", RELEASE], Some(&chart())).unwrap();
    world.operator = operator(&world.namespace).await.start();
    world.operator.ready(SOON).await;
    world.pool_ready("small", 2).await;
    assert_eq!(server_ids(&world.nodes().await), after, "the same servers");
    assert_eq!(world.servers(0).await.len(), after.len(), "and no others");
    assert_eq!(given(&world.fulfilled("held").await), held);
}

/// Values under which everything that the chart can make is made.
const EVERYTHING: &str = "
metrics:
  serviceMonitor: {enabled: true, relabelings: [{action: labeldrop, regex: pod}]}
  prometheusRule: {enabled: true, runbookUrl: https://example.org/runbooks}
  dashboard: {enabled: true}
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}]}
proxy: {httpProxy: 'http://p.example:1', httpsProxy: 'http://p.example:1', noProxy: .svc}
trustedCA: {configMapName: ca}
priorityClassName: high
hostAliases: [{ip: 192.0.2.1, hostnames: [cloud.example]}]
dnsConfig: {options: [{name: ndots, value: '1'}]}
tolerations: [{key: a, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
extraEnv: [{name: A, value: b}]
extraEnvFrom: [{configMapRef: {name: a, optional: true}}]
extraVolumes: [{name: v, emptyDir: {}}]
extraVolumeMounts: [{name: v, mountPath: /v}]
extraContainers: [{name: beside, image: x, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
initContainers: [{name: before, image: x, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
imagePullSecrets: [s]
commonLabels: {a: b}
commonAnnotations: {c: d}
podDisruptionBudget: {minAvailable: 1}
extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: extra}}]
";

#[tokio::test]
async fn the_api_server_accepts_all_that_can_be_rendered() {
    let plane = ControlPlane::shared();
    let definitions =
        PathBuf::from(line_of(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm/build"))))
            .join("prometheus-operator");
    let namespace = Namespace::on(plane).await;
    let kubectl = namespace.kubectl();
    let definitions = definitions.to_str().unwrap();
    let said = kubectl.run(&["apply", "--server-side", "--filename", definitions]).await;
    assert!(said.success, "{}", said.stderr);
    let said = kubectl.run(&["wait", "--for=condition=Established", "--filename", definitions]).await;
    assert!(said.success, "{}", said.stderr);
    let restricted = ["label", "namespace", namespace.name(), "pod-security.kubernetes.io/enforce=restricted"];
    assert!(kubectl.run(&restricted).await.success);

    let pods = EVERYTHING.replace("serviceMonitor", "podMonitor");
    let several = format!("{EVERYTHING}\nwatchNamespaces: [{}]", namespace.name());
    for values in ["", EVERYTHING, &pods, &several, "trustedCA: {secretName: s}", "replicaCount: 1"] {
        for object in render_as(RELEASE, namespace.name(), values).unwrap() {
            // As strict as `kubectl apply --validate=strict`: a field that no schema knows is an error, not dropped.
            let file = scratch(&format!("{}.json", uuid::Uuid::new_v4()));
            std::fs::write(&file, object.to_string()).unwrap();
            let name = file.to_str().unwrap();
            let args =
                ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", name];
            let said = kubectl.run(&args).await;
            std::fs::remove_file(&file).unwrap();
            assert!(said.success, "{values}\n{object:#}\n{}", said.stderr);
            assert!(!said.stderr.contains("would violate PodSecurity"), "{values}\n{}", said.stderr);
        }
    }
    let unknown = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "x"},
        "spec": {"selector": {}, "endpoints": [{"intervall": "5s"}]},
    });
    let said = kubectl
        .run_with_input(
            &["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"],
            &unknown.to_string(),
        )
        .await;
    assert!(!said.success && said.stderr.contains("intervall"), "the check itself refuses nothing: {said:?}");
}
