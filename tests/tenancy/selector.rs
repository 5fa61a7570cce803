//! Namespaces that are let in by their labels.

use nodepool_operator::api::{NodeRequest, Pool, PoolNode, Provider};
use serde_json::json;

use crate::support::world::{SOON, given, is_idle, server_ids};
use crate::support::{ControlPlane, Namespace, Operator, World, eventually};
use crate::tenant::{counts, object, open, pool_on, told};

async fn label(namespace: &Namespace, label: &str) {
    let said = namespace.kubectl().run(&["label", "--overwrite", "namespace", namespace.name(), label]).await;
    assert!(said.success, "{}", said.stderr);
}

#[tokio::test]
async fn labels_let_in_and_put_out_and_what_cannot_be_told_takes_nothing() {
    // The operator serves all namespaces here: other tests' must not be among them.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::alone()));
    let tenant = Namespace::on(plane).await;
    let builder = World::builder().cloud("a", 6).on(plane);
    let (clouds, namespace) = builder.prepare().await;
    let home = namespace.name().to_owned();
    let options = Operator::for_namespace(&namespace).everywhere(&home);
    let mut world = builder.run(clouds, namespace, options).await;
    let ci = json!({"from": "Selector", "selector": {"matchLabels": {"team": "ci"}}});
    open::<Provider>(&world, "a", ci.clone()).await;
    world.pool("shared", 1, json!({"allowedNamespaces": ci})).await;
    let apply = async |kind: &str, name: &str, spec| tenant.kubectl().apply_json(&object(kind, name, spec)).await;
    let wanted = json!({"nodes": [{"name": "builder", "pool": "shared", "poolNamespace": home}]});
    apply("Pool", "own", pool_on("a", &home, 1)).await;
    apply("NodeRequest", "first", wanted.clone()).await;
    told::<Pool>(&tenant, "own", "Available", "ProviderNotFound").await;
    told::<NodeRequest>(&tenant, "first", "Fulfilled", "PoolNotFound").await;

    label(&tenant, "team=ci").await;
    counts(&tenant, "own", (1, 0, 1)).await;
    told::<NodeRequest>(&tenant, "first", "Fulfilled", "NodesAssigned").await;
    apply("Pool", "ending", pool_on("a", &home, 1)).await;
    counts(&tenant, "ending", (1, 0, 1)).await;
    let first = tenant.api::<NodeRequest>().get("first").await.unwrap();

    // An operator that serves these two namespaces alone reads no labels: it begins nothing, and destroys nothing.
    world.operator.kill9();
    world.operator =
        Operator::for_namespace(&world.namespace).arg(format!("--watch-namespace={}", tenant.name())).start();
    world.operator.ready(SOON).await;
    apply("NodeRequest", "second", wanted.clone()).await;
    told::<NodeRequest>(&tenant, "second", "Fulfilled", "PoolNotFound").await;
    // Nor is what is idle on that Provider handed out, though the Pool is the request's own.
    apply("NodeRequest", "of-own", json!({"nodes": [{"name": "builder", "pool": "own"}]})).await;
    told::<NodeRequest>(&tenant, "of-own", "Fulfilled", "NoCommonProvider").await;
    told::<Pool>(&tenant, "own", "Available", "AsExpected").await;
    // It acts on what it may: one more of the shared Pool, and that shows that it has looked at all.
    world.patch::<Pool>("shared", json!({"spec": {"minReady": 2}})).await;
    world.pool_ready("shared", 2).await;
    counts(&tenant, "own", (1, 0, 1)).await;
    let idle = |node: &PoolNode| node.spec.pool_namespace.is_some() && is_idle(node);
    // A Pool that is gone is gone, whoever may use the Provider.
    let ending = |node: &PoolNode| node.spec.pool.as_deref() == Some("ending");
    let its: Vec<PoolNode> = world.nodes().await.into_iter().filter(ending).collect();
    assert_eq!(its.len(), 1, "it was kept until then");
    tenant.api::<Pool>().delete("ending", &kube::api::DeleteParams::default()).await.unwrap();
    world.destroyed(&server_ids(&its)).await;
    let kept: Vec<PoolNode> = world.nodes().await.into_iter().filter(idle).collect();
    assert_eq!(kept.len(), 1);

    // The one that reads them goes on, and puts out who has lost the label; what is in use stays.
    world.operator.kill9();
    world.operator = Operator::for_namespace(&world.namespace).everywhere(&home).start();
    world.operator.ready(SOON).await;
    told::<NodeRequest>(&tenant, "second", "Fulfilled", "NodesAssigned").await;
    told::<NodeRequest>(&tenant, "of-own", "Fulfilled", "NodesAssigned").await;
    let of_own = tenant.api::<NodeRequest>().get("of-own").await.unwrap();
    assert_eq!(given(&of_own), server_ids(&kept), "what was kept is there to be used");
    counts(&tenant, "own", (1, 1, 2)).await;
    let left: Vec<PoolNode> = world.nodes().await.into_iter().filter(idle).collect();
    label(&tenant, "team=web").await;
    counts(&tenant, "own", (0, 1, 1)).await;
    world.destroyed(&server_ids(&left)).await;
    apply("NodeRequest", "third", wanted).await;
    told::<NodeRequest>(&tenant, "third", "Fulfilled", "PoolNotFound").await;
    eventually(SOON, || async {
        let nodes = world.nodes().await;
        let held = nodes.iter().filter(|node| node.spec.claim_ref.is_some()).count();
        let servers = server_ids(&nodes);
        let kept = given(&first).is_subset(&servers) && given(&of_own).is_subset(&servers);
        if held == 3 && kept { Ok(()) } else { Err(format!("{held} claimed, {servers:?}")) }
    })
    .await;
}
