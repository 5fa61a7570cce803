//! What is rendered of which values.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::helm::{object, render, render_as};

const NAME: &str = "nodepool-operator";
/// The operator's container in the Deployment.
const CONTAINER: &str = "/spec/template/spec/containers/0";

/// Values, and of one object: kind, name, where, what is there.
type Case = (&'static str, &'static str, &'static str, &'static str, Value);

fn deployment_cases() -> Vec<Case> {
    let of = |values, at, wanted| (values, "Deployment", NAME, at, wanted);
    vec![
        of("", "/metadata/namespace", json!("ci")),
        of("namespaceOverride: there", "/metadata/namespace", json!("there")),
        of("", "/spec/replicas", json!(2)),
        of("replicaCount: 3", "/spec/replicas", json!(3)),
        of("", "/spec/strategy/rollingUpdate/maxUnavailable", json!(0)),
        of("commonLabels: {team: ci}", "/metadata/labels/team", json!("ci")),
        of("commonAnnotations: {team: ci}", "/metadata/annotations/team", json!("ci")),
        of("podLabels: {a: b}", "/spec/template/metadata/labels/a", json!("b")),
        of("podAnnotations: {a: b}", "/spec/template/metadata/annotations/a", json!("b")),
        of("priorityClassName: high", "/spec/template/spec/priorityClassName", json!("high")),
        of("", "/spec/template/spec/priorityClassName", Value::Null),
        of("hostNetwork: true", "/spec/template/spec/hostNetwork", json!(true)),
        of("dnsPolicy: Default", "/spec/template/spec/dnsPolicy", json!("Default")),
        of("nodeSelector: {a: b}", "/spec/template/spec/nodeSelector/a", json!("b")),
        of("tolerations: [{operator: Exists}]", "/spec/template/spec/tolerations/0/operator", json!("Exists")),
        of("affinity: {nodeAffinity: {}}", "/spec/template/spec/affinity/nodeAffinity", json!({})),
        of(
            "",
            "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels/app.kubernetes.io~1name",
            json!(NAME),
        ),
        of("topologySpreadConstraints: []", "/spec/template/spec/topologySpreadConstraints", Value::Null),
        of(
            "imagePullSecrets: [a]\nglobal: {imagePullSecrets: [b, a]}",
            "/spec/template/spec/imagePullSecrets",
            json!([{"name": "b"}, {"name": "a"}]),
        ),
        of("initContainers: [{name: i, image: x}]", "/spec/template/spec/initContainers/0/name", json!("i")),
        of("extraContainers: [{name: e, image: x}]", "/spec/template/spec/containers/1/name", json!("e")),
        of("extraVolumes: [{name: v, emptyDir: {}}]", "/spec/template/spec/volumes/0/name", json!("v")),
        of("serviceAccount: {create: false, name: mine}", "/spec/template/spec/serviceAccountName", json!("mine")),
        of("serviceAccount: {create: false}", "/spec/template/spec/serviceAccountName", json!("default")),
        of("", "/spec/template/spec/serviceAccountName", json!(NAME)),
        of("terminationGracePeriodSeconds: 3", "/spec/template/spec/terminationGracePeriodSeconds", json!(3)),
        of(
            "hostAliases: [{ip: 192.0.2.1, hostnames: [a]}]",
            "/spec/template/spec/hostAliases/0/ip",
            json!("192.0.2.1"),
        ),
        of("trustedCA: {secretName: s}", "/spec/template/spec/volumes/0/secret/secretName", json!("s")),
        of("trustedCA: {configMapName: c, key: k}", "/spec/template/spec/volumes/0/configMap/items/0/key", json!("k")),
        of("", "/spec/template/spec/volumes", Value::Null),
    ]
}

fn container_cases() -> Vec<(&'static str, &'static str, Value)> {
    let version = env!("CARGO_PKG_VERSION");
    vec![
        ("", "/image", json!(format!("nodepool-operator:{version}"))),
        ("image: {registry: r.example, repository: a/b, tag: t}", "/image", json!("r.example/a/b:t")),
        (
            "global: {imageRegistry: m.example/}\nimage: {registry: r.example}",
            "/image",
            json!(format!("m.example/nodepool-operator:{version}")),
        ),
        (
            "image: {tag: t, digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}",
            "/image",
            json!("nodepool-operator@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ),
        ("image: {pullPolicy: Always}", "/imagePullPolicy", json!("Always")),
        ("", "/securityContext/readOnlyRootFilesystem", json!(true)),
        ("", "/securityContext/allowPrivilegeEscalation", json!(false)),
        ("", "/securityContext/capabilities/drop", json!(["ALL"])),
        ("", "/resources/limits/cpu", Value::Null),
        ("resources: {limits: {cpu: 1}}", "/resources/limits/cpu", json!(1)),
        ("metrics: {port: 9090}", "/ports/0/containerPort", json!(9090)),
        ("livenessProbe: {periodSeconds: 33}", "/livenessProbe/periodSeconds", json!(33)),
        ("livenessProbe: {periodSeconds: 33}", "/livenessProbe/httpGet/path", json!("/livez")),
        ("", "/readinessProbe/httpGet/path", json!("/readyz")),
        ("extraEnvFrom: [{secretRef: {name: s}}]", "/envFrom/0/secretRef/name", json!("s")),
        ("extraVolumeMounts: [{name: v, mountPath: /v}]", "/volumeMounts/0/mountPath", json!("/v")),
        ("trustedCA: {secretName: s}", "/volumeMounts/0/mountPath", json!("/etc/nodepool/trusted-ca")),
    ]
}

fn other_cases() -> Vec<Case> {
    let budget = |values, at, wanted| (values, "PodDisruptionBudget", NAME, at, wanted);
    vec![
        budget("", "/spec/maxUnavailable", json!(1)),
        budget("podDisruptionBudget: {minAvailable: 50%}", "/spec/minAvailable", json!("50%")),
        budget("podDisruptionBudget: {minAvailable: 0}", "/spec/minAvailable", json!(0)),
        budget("podDisruptionBudget: {minAvailable: 1}", "/spec/maxUnavailable", Value::Null),
        ("serviceAccount: {annotations: {a: b}}", "ServiceAccount", NAME, "/metadata/annotations/a", json!("b")),
        ("", "Service", "nodepool-operator-metrics", "/spec/ports/0/port", json!(8080)),
        (
            "metrics: {service: {labels: {a: b}}}",
            "Service",
            "nodepool-operator-metrics",
            "/metadata/labels/a",
            json!("b"),
        ),
        (
            "metrics: {serviceMonitor: {enabled: true, interval: 5s}}",
            "ServiceMonitor",
            NAME,
            "/spec/endpoints/0/interval",
            json!("5s"),
        ),
        (
            "metrics: {serviceMonitor: {enabled: true, labels: {release: p}}}",
            "ServiceMonitor",
            NAME,
            "/metadata/labels/release",
            json!("p"),
        ),
        (
            "metrics: {podMonitor: {enabled: true}}",
            "PodMonitor",
            NAME,
            "/spec/podMetricsEndpoints/0/port",
            json!("metrics"),
        ),
        (
            "metrics: {podMonitor: {enabled: true}}",
            "PodMonitor",
            NAME,
            "/spec/podMetricsEndpoints/0/honorLabels",
            json!(true),
        ),
        ("networkPolicy: {enabled: true}", "NetworkPolicy", NAME, "/spec/egress", json!([{}])),
        ("networkPolicy: {enabled: true}", "NetworkPolicy", NAME, "/spec/ingress/0/from", Value::Null),
        (
            "networkPolicy: {enabled: true, metricsFrom: [{podSelector: {}}]}",
            "NetworkPolicy",
            NAME,
            "/spec/ingress/0/from/0/podSelector",
            json!({}),
        ),
        (
            "networkPolicy: {enabled: true, egress: [{ports: [{port: 443}]}]}",
            "NetworkPolicy",
            NAME,
            "/spec/egress/0/ports/0/port",
            json!(443),
        ),
        (
            "metrics: {dashboard: {enabled: true}}",
            "ConfigMap",
            "nodepool-operator-dashboard",
            "/metadata/labels/grafana_dashboard",
            json!("1"),
        ),
        (
            "extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-x'}}]",
            "ConfigMap",
            "nodepool-operator-x",
            "/apiVersion",
            json!("v1"),
        ),
        (
            "extraObjects: ['{apiVersion: v1, kind: ConfigMap, metadata: {name: text, namespace: {{ .Release.Namespace }}}}']",
            "ConfigMap",
            "text",
            "/metadata/namespace",
            json!("ci"),
        ),
        ("", "Pod", "nodepool-operator-test", "/metadata/annotations/helm.sh~1hook", json!("test")),
        ("metrics: {port: 9}", "Pod", "nodepool-operator-test", "/spec/containers/0/args/2", json!("--port=9")),
        (
            "rbac: {extraRules: [{apiGroups: [x], resources: [y], verbs: [get]}]}",
            "ClusterRole",
            "ci-nodepool-operator",
            "/rules/8/apiGroups/0",
            json!("x"),
        ),
    ]
}

#[test]
fn each_value_does_what_it_says() {
    let containers =
        container_cases().into_iter().map(|(values, at, wanted)| (values, "Deployment", NAME, at, wanted, CONTAINER));
    let cases = deployment_cases().into_iter().chain(other_cases());
    let cases = cases.map(|(values, kind, name, at, wanted)| (values, kind, name, at, wanted, "")).chain(containers);
    for (values, kind, name, at, wanted, below) in cases {
        let objects = render(values).unwrap_or_else(|error| panic!("{values}: {error}"));
        let found = object(&objects, kind, name).unwrap_or_else(|| panic!("{values}: no {kind} {name}"));
        let found = found.pointer(&format!("{below}{at}")).unwrap_or(&Value::Null);
        assert_eq!(found, &wanted, "{values}: {kind} {name} {below}{at}");
    }
}

fn arguments(values: &str) -> Vec<String> {
    let objects = render(values).unwrap();
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    serde_json::from_value(deployment.pointer(&format!("{CONTAINER}/args")).unwrap().clone()).unwrap()
}

#[test]
fn values_of_the_operator_become_its_arguments() {
    let version = env!("CARGO_PKG_VERSION");
    let usual = arguments("");
    let wanted = [
        "run",
        "--lease-name=nodepool-operator",
        "--metrics-address=0.0.0.0:8080",
        "--full-list-interval=10m",
        "--settle-time=10m",
        "--builds=16",
        "--builds-per-provider=4",
        &format!("--uploader-image=nodepool-operator:{version}"),
        "--image-redirects=same-host",
        "--log-format=json",
        "--log-filter=info",
    ];
    assert_eq!(usual, wanted);
    for (values, argument) in [
        ("leaseName: other", "--lease-name=other"),
        ("fullnameOverride: other", "--lease-name=other"),
        ("metrics: {port: 9}", "--metrics-address=0.0.0.0:9"),
        ("watchNamespaces: [a, b]", "--watch-namespace=a,b"),
        ("fullListInterval: 1h", "--full-list-interval=1h"),
        ("settleTime: 1m", "--settle-time=1m"),
        ("builds: 3", "--builds=3"),
        ("buildsPerProvider: 2", "--builds-per-provider=2"),
        ("uploaderImage: x:1", "--uploader-image=x:1"),
        ("image: {repository: x, tag: '2'}", "--uploader-image=x:2"),
        ("allowedNetworks: [10.0.0.0/8, 'fd00::/8']", "--allow-network=10.0.0.0/8,fd00::/8"),
        ("clusterNetworks: [10.96.0.0/12]", "--cluster-network=10.96.0.0/12"),
        ("imageRedirects: any-host", "--image-redirects=any-host"),
        ("logFormat: text", "--log-format=text"),
        ("logFilter: debug", "--log-filter=debug"),
        ("extraArgs: [--leader-elect=false]", "--leader-elect=false"),
    ] {
        assert!(arguments(values).iter().any(|found| found == argument), "{values}: {:?}", arguments(values));
    }
}

#[test]
fn the_environment_has_what_was_asked_for_and_nothing_empty() {
    let environment = |values: &str| -> BTreeSet<(String, String)> {
        let objects = render(values).unwrap();
        let deployment = object(&objects, "Deployment", NAME).unwrap();
        let list = deployment.pointer(&format!("{CONTAINER}/env")).unwrap().as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        list.iter().map(|entry| (text(&entry["name"]), text(&entry["value"]))).collect()
    };
    let usual = environment("");
    assert_eq!(usual.len(), 1, "{usual:?}");
    for (values, name, value) in [
        ("proxy: {httpProxy: 'http://p:1'}", "HTTP_PROXY", "http://p:1"),
        ("proxy: {httpsProxy: 'http://p:2'}", "HTTPS_PROXY", "http://p:2"),
        ("proxy: {noProxy: '10.0.0.0/8,.svc'}", "NO_PROXY", "10.0.0.0/8,.svc"),
        ("trustedCA: {secretName: s}", "SSL_CERT_DIR", "/etc/nodepool/trusted-ca"),
        ("extraEnv: [{name: TZ, value: UTC}]", "TZ", "UTC"),
    ] {
        assert!(environment(values).contains(&(name.to_owned(), value.to_owned())), "{values}");
    }
}

#[test]
fn names_follow_the_release() {
    for (release, values, deployment, role) in [
        ("nodepool-operator", "", "nodepool-operator", "ci-nodepool-operator"),
        ("ci", "", "ci-nodepool-operator", "ci-ci-nodepool-operator"),
        ("my-nodepool-operator", "", "my-nodepool-operator", "ci-my-nodepool-operator"),
        ("x", "fullnameOverride: why", "why", "ci-why"),
        ("x", "nameOverride: z", "x-z", "ci-x-z"),
        ("x", "fullnameOverride: ci", "ci", "ci"),
    ] {
        let objects = render_as(release, "ci", values).unwrap();
        assert!(object(&objects, "Deployment", deployment).is_some(), "{release} {values}");
        assert!(object(&objects, "ClusterRole", role).is_some(), "{release} {values}");
    }
    let long = render_as(&"n".repeat(50), "ci", "").unwrap();
    let longest = long.iter().map(|object| object["metadata"]["name"].as_str().unwrap().len()).max().unwrap();
    assert!(longest <= 63, "{longest}");
}

#[test]
fn what_is_switched_off_is_not_there() {
    for (values, kind) in [
        ("replicaCount: 1", "PodDisruptionBudget"),
        ("podDisruptionBudget: {enabled: false}", "PodDisruptionBudget"),
        ("", "NetworkPolicy"),
        ("", "ServiceMonitor"),
        ("", "PodMonitor"),
        ("", "PrometheusRule"),
        ("", "ConfigMap"),
        ("metrics: {service: {enabled: false}}", "Service"),
        ("metrics: {service: {enabled: false}}", "Pod"),
        ("serviceAccount: {create: false}", "ServiceAccount"),
        ("rbac: {create: false, userRoles: false}", "ClusterRole"),
        ("rbac: {create: false}", "ClusterRoleBinding"),
        ("rbac: {create: false}", "Role"),
        ("watchNamespaces: [a]\nrbac: {userRoles: false}", "ClusterRole"),
        ("watchNamespaces: [a]", "ClusterRoleBinding"),
        ("crds: {install: false}", "CustomResourceDefinition"),
    ] {
        let objects = render(values).unwrap();
        assert!(objects.iter().all(|object| object["kind"] != kind), "{values}: there is a {kind}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for (values, said) in [
        ("replicas: 3", "replicas"),
        ("image: {tagg: x}", "tagg"),
        ("metrics: {prometheusRules: {}}", "prometheusRules"),
        ("metrics: {serviceMonitor: {enable: true}}", "enable"),
        ("crds: {enabled: true}", "enabled"),
        ("rbac: {aggregates: true}", "aggregates"),
        ("networkPolicy: {enable: true}", "enable"),
        ("podDisruptionBudget: {minReady: 1}", "minReady"),
        ("replicaCount: two", "replicaCount"),
        ("replicaCount: -1", "replicaCount"),
        ("image: {pullPolicy: Sometimes}", "pullPolicy"),
        ("image: {digest: abc}", "digest"),
        ("image: {repository: ''}", "repository"),
        ("logFormat: xml", "logFormat"),
        ("settleTime: 10 minutes", "settleTime"),
        ("watchNamespaces: a", "watchNamespaces"),
        ("watchNamespaces: ['']", "watchNamespaces"),
        ("builds: 0", "builds"),
        ("metrics: {port: 0}", "port"),
        ("metrics: {port: '8080'}", "port"),
        ("dnsPolicy: Cluster", "dnsPolicy"),
        ("allowedNetworks: [10.0.0.1]", "allowedNetworks"),
        ("clusterNetworks: all", "clusterNetworks"),
        ("imageRedirects: none", "imageRedirects"),
        ("extraArgs: --x", "extraArgs"),
        ("podLabels: {a: 1}", "podLabels"),
        ("trustedCA: {configMapName: a, secretName: b}", "not both"),
        ("metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}", "not both"),
        ("metrics: {serviceMonitor: {enabled: true}, service: {enabled: false}}", "metrics.service.enabled"),
    ] {
        let error = render(values).err().unwrap_or_else(|| panic!("{values} is accepted"));
        assert!(error.contains(said), "{values}: {error}");
    }
}
