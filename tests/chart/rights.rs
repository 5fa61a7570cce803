//! The rights that the chart gives: enough for all that the operator does, and none that are not needed.

use std::path::PathBuf;

use kube::config::{AuthInfo, Kubeconfig};
use nodepool_operator::api::{DiskImage, ImageState};
use serde_json::{Value, json};

use crate::support::helm::{render, render_as, scratch};
use crate::support::versions::states;
use crate::support::world::SOON;
use crate::support::{ControlPlane, Operator, World, eventually};

/// A kubeconfig of a service account, with a token that lasts for the test.
pub async fn kubeconfig_of(plane: &ControlPlane, namespace: &str, account: &str) -> PathBuf {
    let said = plane.kubectl(namespace).run(&["create", "token", account, "--duration=1h"]).await;
    let token = said.ok().unwrap();
    let mut kubeconfig: Kubeconfig = plane.parsed_kubeconfig();
    let user: AuthInfo = serde_json::from_value(json!({"token": token.trim()})).unwrap();
    kubeconfig.auth_infos[0].auth_info = Some(user);
    let path = scratch(&format!("{namespace}-{account}.kubeconfig"));
    std::fs::write(&path, json!(kubeconfig).to_string()).unwrap();
    path
}

/// What of a rendered chart concerns rights.
fn rights(objects: &[Value]) -> Vec<&Value> {
    let kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    objects.iter().filter(|object| kinds.iter().any(|kind| object["kind"] == *kind)).collect()
}

/// Drives the operator through most of what it does: pools, requests, a version made by a snapshot and tried, leaks.
pub async fn works(world: &World) {
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    world.request("job", &[("small", 1)], json!({})).await;
    world.fulfilled("job").await;
    world.release("job").await;
    let source = json!({"snapshot": {
        "baseImage": {"name": "debian-13"}, "flavor": {"name": "small"},
        "login": {"username": "debian"}, "setup": "echo built", "scriptsConfigMapRef": {"name": "scripts"},
    }});
    let port = world.clouds[0].state().await["sshPort"].clone();
    world
        .namespace
        .kubectl()
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: scripts}, data: {a.sh: 'true'}}")
        .await;
    let spec = json!({"providers": ["a"], "source": source, "login": {"username": "debian", "port": port}});
    world.apply("DiskImage", "made", spec).await;
    states(world, "made", &[ImageState::Ready]).await;
    let job = json!({"job": {
        "output": "/output/disk.raw", "format": "raw",
        "template": {"spec": {"containers": [{"name": "build", "image": "builder:1", "command": ["build"]}]}},
    }});
    world
        .apply(
            "DiskImage",
            "by-job",
            json!({"providers": ["a"], "source": job, "login": {"username": "debian", "port": port}}),
        )
        .await;
    let jobs = || async { world.namespace.kubectl().json(&["get", "jobs"]).await.unwrap()["items"].clone() };
    eventually(SOON, || async {
        let found = jobs().await;
        if found.as_array().unwrap().is_empty() { Err("no Job".to_owned()) } else { Ok(()) }
    })
    .await;
    world.delete::<DiskImage>("by-job").await;
    world.gone::<DiskImage>("by-job").await;
    nothing_was_forbidden(world).await;
}

/// No request of the operator was answered 403, and its events arrived.
async fn nothing_was_forbidden(world: &World) {
    eventually(SOON, || async {
        let events = world.namespace.kubectl().json(&["get", "events"]).await.unwrap();
        if events["items"].as_array().unwrap().is_empty() { Err("no events".to_owned()) } else { Ok(()) }
    })
    .await;
    let log = world.operator.log();
    let refused: Vec<&str> =
        log.lines().filter(|line| line.contains("orbidden") || line.contains("cannot list resource")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn a_role_in_each_served_namespace_is_enough() {
    let builder = World::builder().cloud("a", 6).simulator_arg("--run-commands");
    let (clouds, namespace) = builder.prepare().await;
    let name = namespace.name().to_owned();
    let objects =
        render_as("nodepool-operator", &name, &format!("watchNamespaces: [{name}]\nrbac: {{userRoles: false}}"))
            .unwrap();
    for object in rights(&objects) {
        assert_eq!(object["metadata"]["namespace"], json!(name), "nothing outside the namespace: {object}");
        namespace.kubectl().apply_json(object).await;
    }
    let kubeconfig = kubeconfig_of(namespace.plane(), &name, "nodepool-operator").await;
    let options = Operator::for_namespace(&namespace).kubeconfig(kubeconfig).leader_election();
    let world = builder.run(clouds, namespace, options).await;
    works(&world).await;
}

#[test]
fn secrets_are_read_by_name_only_and_nothing_is_a_wildcard() {
    for values in ["", "watchNamespaces: [a, b]"] {
        let objects = render(values).unwrap();
        let roles: Vec<&Value> =
            objects.iter().filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole").collect();
        assert!(roles.len() >= 6, "{values}");
        for role in roles {
            for rule in role["rules"].as_array().unwrap() {
                let has = |key: &str, word: &str| rule[key].as_array().is_some_and(|all| all.contains(&json!(word)));
                assert!(!["apiGroups", "resources", "verbs"].iter().any(|key| has(key, "*")), "{rule}");
                assert!(!["escalate", "bind", "impersonate"].iter().any(|verb| has("verbs", verb)), "{rule}");
                let of_operator = role["metadata"]["name"].as_str().unwrap().ends_with("nodepool-operator");
                if of_operator && ["pools", "diskimages", "noderequests"].iter().any(|kind| has("resources", kind)) {
                    assert_eq!(rule["verbs"], json!(["get", "list", "watch"]), "what people write is theirs: {rule}");
                }
                if has("resources", "secrets") || has("resources", "configmaps") {
                    assert_eq!(rule["verbs"], json!(["get"]), "{rule}");
                    assert!(of_operator, "{role}");
                }
            }
        }
    }
}

#[test]
fn served_namespaces_get_a_role_each_and_nobody_a_cluster_role() {
    let objects = render("watchNamespaces: [a, b]").unwrap();
    for kind in ["Role", "RoleBinding"] {
        let namespaces: Vec<&str> = objects
            .iter()
            .filter(|object| object["kind"] == kind && object["metadata"]["name"] == "ci-nodepool-operator")
            .map(|object| object["metadata"]["namespace"].as_str().unwrap())
            .collect();
        assert_eq!(namespaces, ["a", "b"], "{kind}");
    }
    let bound = objects.iter().filter(|object| object["kind"] == "ClusterRoleBinding").count();
    assert_eq!(bound, 0);
}
