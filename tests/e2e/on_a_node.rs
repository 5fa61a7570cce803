//! One story: installed with no values, a leader killed, upgraded while nodes are in use, uninstalled, installed again.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, ListParams};
use nodepool_operator::api::{NodeRequest, Pool};
use serde_json::{Value, json};

use super::stage::{HOME, PATIENCE, RELEASE, Stage, sample};
use super::support::eventually;
use super::support::helm::{chart, scratch};

/// How long after the death of its leader the operator may do nothing.
const FAILOVER: Duration = Duration::from_secs(20);
/// The largest container image.
const IMAGE_LIMIT: u64 = 25_000_000;

#[tokio::test]
async fn the_life_of_an_installation() {
    let stage = Stage::set().await;
    let image = stage.load_image();
    assert!(image <= IMAGE_LIMIT, "{image}");
    stage.told("the image is loaded");
    let kubectl = stage.home();
    assert!(kubectl.run(&["create", "namespace", HOME]).await.success);
    let restricted = ["label", "namespace", HOME, "pod-security.kubernetes.io/enforce=restricted"];
    assert!(kubectl.run(&restricted).await.success);
    stage.install();
    stage.told("installed: two Pods are Ready under the restricted profile");
    stage.helm(&["test", RELEASE], None);
    stage.told("helm test passed");
    let memory = stage.leader().await.memory();

    stage.apply_samples().await;
    let nodes = stage.pools_ready().await;
    stage.reachable(&nodes);
    stage.told(&format!("the samples' {} nodes are ready and answer with the keys of their records", nodes.len()));
    stage.apply_request().await;
    let held = stage.fulfilled().await;
    assert_eq!(held.len(), 3);
    stage.pools_ready().await;
    stage.told("the request has its three nodes, and the pools are full again");

    let failover = kill_the_leader(&stage).await;
    upgrade(&stage).await;
    assert_eq!(stage.fulfilled().await, held, "the same nodes after the upgrade");
    reinstall(&stage).await;
    assert_eq!(stage.fulfilled().await, held, "the same nodes after the reinstallation");

    serve_a_tenant(&stage).await;

    stage.namespace.api::<NodeRequest>().delete("build-1", &DeleteParams::default()).await.unwrap();
    eventually(PATIENCE, || async {
        let left = stage.servers().await;
        if left.is_disjoint(&held) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    stage.pools_ready().await;
    stage.one_server_per_record().await;
    stage.told("given back: its servers are destroyed, the pools are full");
    stage.clear().await;
    stage.told("the samples are deleted, and nothing is left in the cloud");
    stage.helm(&["uninstall", RELEASE, "--wait"], None);

    let mb = |bytes: u64| Duration::from_micros(bytes).as_secs_f64();
    println!("container image               {:6.2} MB", mb(image));
    println!("Pod at rest, working set      {:6.2} MB", mb(memory.0));
    println!("Pod at rest, VmRSS            {:6.2} MB", mb(memory.1));
    println!("failover after kill -9        {:6.2} s", failover.as_secs_f64());
}

/// Kills the leader's process outright; returns how long it took until another one had made what was missing.
async fn kill_the_leader(stage: &Stage) -> Duration {
    let leader = stage.leader().await;
    let before = stage.one_server_per_record().await;
    let first = stage.holder().await;
    // A node goes in the same moment: the next leader has something to do.
    let kubectl = stage.namespace.kubectl();
    let killed = Instant::now();
    let process = leader.process().to_string();
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    let idle = stage.pools_ready().await.remove(0);
    let said = kubectl.run(&["delete", "poolnode", idle.metadata.name.as_deref().unwrap(), "--wait=false"]).await;
    assert!(said.success, "{}", said.stderr);
    eventually(FAILOVER, || async {
        let holder = stage.holder().await;
        if holder != first && !holder.is_empty() { Ok(()) } else { Err(format!("{holder} holds the lease")) }
    })
    .await;
    let failover = killed.elapsed();
    assert!(failover < FAILOVER, "{failover:?}");
    stage.told(&format!("the leader was killed: another replica leads after {:.1} s", failover.as_secs_f64()));
    let gone = idle.status.as_ref().and_then(|status| status.server_id.clone()).unwrap();
    eventually(PATIENCE, || async {
        let left = stage.servers().await;
        if left.contains(&gone) { Err(format!("{gone} is still there")) } else { Ok(()) }
    })
    .await;
    stage.pools_ready().await;
    let after = stage.one_server_per_record().await;
    assert_eq!(after.len(), before.len(), "nothing doubled");
    stage.told("the node that went meanwhile is replaced, and nothing doubled");
    failover
}

/// The chart as a later version would be: one definition has a field more, and the Pods are replaced.
fn later() -> PathBuf {
    let target = scratch("later");
    std::fs::create_dir_all(&target).unwrap();
    assert!(Command::new("cp").arg("-a").arg(chart()).arg(&target).status().unwrap().success());
    let later = target.join("nodepool-operator");
    let file = later.join("files/crds/noderequests.yaml");
    let mut definition: Value = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    definition.pointer_mut(spec).unwrap()["later"] = json!({"type": "string"});
    std::fs::write(&file, definition.to_string()).unwrap();
    later
}

/// Upgrades while the request holds its nodes.
async fn upgrade(stage: &Stage) {
    let before = stage.pods().await;
    stage.helm(&["upgrade", RELEASE, "--wait", "--timeout=3m", "--set=podAnnotations.upgraded=yes"], Some(&later()));
    let after = eventually(PATIENCE, || async {
        let pods = stage.pods().await;
        let new = pods.iter().all(|pod| !before.contains(pod)) && pods.len() == before.len();
        if new { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await;
    assert!(after.contains(&stage.leader().await), "one of the new Pods leads");
    let later = json!({"spec": {"later": "known"}}).to_string();
    let said =
        stage.namespace.kubectl().run(&["patch", "noderequest", "build-1", "--type=merge", "--patch", &later]).await;
    assert!(said.success, "{}", said.stderr);
    let request = stage.namespace.kubectl().json(&["get", "noderequest", "build-1"]).await.unwrap();
    assert_eq!(request["spec"]["later"], "known", "the new field is stored");
    stage.pools_ready().await;
    stage.one_server_per_record().await;
    stage.told("upgraded with a changed definition while the request held its nodes");
}

/// Somebody of another namespace, with the chart's role for claimers there and no other rights, is served by the samples.
async fn serve_a_tenant(stage: &Stage) {
    let tenant = stage.another_namespace().await;
    let kubectl = tenant.kubectl();
    let role = format!("--clusterrole={HOME}-{RELEASE}-claimer");
    for args in [
        &["label", "namespace", tenant.name(), "team=web"][..],
        &["create", "rolebinding", "ci", &role, "--user=ci@web"],
    ] {
        let said = kubectl.run(args).await;
        assert!(said.success, "{}", said.stderr);
    }
    stage.namespace.kubectl().apply(&sample("tenants/shared-pool.yaml")).await;
    let request = sample("tenants/request.yaml")
        .replace("poolNamespace: nodepool-system", &format!("poolNamespace: {}", stage.namespace.name()));
    let said = kubectl.run_with_input(&["--as=ci@web", "apply", "-f", "-"], &request).await;
    assert!(said.success, "{}", said.stderr);
    let waited =
        kubectl.run(&["--as=ci@web", "wait", "--for=condition=Fulfilled", "noderequest/build-1", "--timeout=3m"]).await;
    assert!(waited.success, "{}", waited.stderr);
    let said = kubectl.run(&["--as=ci@web", "delete", "noderequest", "build-1"]).await;
    assert!(said.success, "{}", said.stderr);
    stage.namespace.api::<Pool>().delete("small-web", &DeleteParams::default()).await.unwrap();
    stage.pools_ready().await;
    stage.one_server_per_record().await;
    stage.told("a claimer of another namespace was served from the shared Pool, and gave back");
}

/// Uninstalls, sees what stays, and installs again.
async fn reinstall(stage: &Stage) {
    let before = stage.one_server_per_record().await;
    stage.helm(&["uninstall", RELEASE, "--wait", "--timeout=3m"], None);
    let definitions =
        stage.home().json(&["get", "crd", "--selector", "app.kubernetes.io/part-of=nodepool"]).await.unwrap();
    assert_eq!(definitions["items"].as_array().map(Vec::len), Some(6));
    assert_eq!(stage.servers().await, before, "servers stay");
    let requests = stage.namespace.api::<NodeRequest>().list(&ListParams::default()).await.unwrap();
    assert_eq!(requests.items.len(), 1);
    stage.told("uninstalled: definitions, requests and servers are still there");
    stage.install();
    stage.leader().await;
    stage.pools_ready().await;
    assert_eq!(stage.one_server_per_record().await, before, "adopted, none made anew");
    let said: Value = stage.home().json(&["get", "lease", RELEASE]).await.unwrap();
    assert!(said["spec"]["holderIdentity"].is_string());
    stage.told("installed again: the same servers, and no others");
}
