//! Requests for Pools of other namespaces.

use k8s_openapi::api::core::v1::ConfigMap;
use nodepool_operator::api::{NodeRequest, NodeState, Pool, PoolNode};
use serde_json::{Value, json};

use crate::support::world::{SOON, given, server_ids};
use crate::support::{Namespace, World, eventually};
use crate::tenant::{Person, open, person, serving, told};

fn wanting(pool: &str, namespace: &str) -> Value {
    json!({"nodes": [{"name": "builder", "pool": pool, "poolNamespace": namespace}]})
}

async fn served(tenant: &Namespace, claimer: &Person, name: &str) -> NodeRequest {
    told::<NodeRequest>(tenant, name, "Fulfilled", "NodesAssigned").await;
    let said = claimer.says(&["get", "noderequest", name, "--output", "json"], "").await;
    serde_json::from_str(&said.ok().unwrap()).unwrap()
}

async fn state_of(world: &World, node: &str, wanted: NodeState) {
    eventually(SOON, || async {
        let state = world.get::<PoolNode>(node).await.state();
        if state == wanted { Ok(()) } else { Err(format!("{node} is {state}")) }
    })
    .await;
}

#[tokio::test]
async fn a_claimer_is_served_from_a_pool_that_is_open_and_keeps_what_it_got() {
    let tenant = Namespace::new().await;
    let world = serving(World::builder().cloud("a", 4), &tenant).await;
    let shared = world.namespace.name();
    let claimer = person("claimer", &tenant).await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;

    // Closed, which is the default, and not there at all: who asks cannot tell one from the other.
    claimer.apply("NodeRequest", "closed", wanting("small", shared)).await;
    claimer.apply("NodeRequest", "absent", wanting("large", shared)).await;
    let closed = told::<NodeRequest>(&tenant, "closed", "Fulfilled", "PoolNotFound").await;
    let absent = told::<NodeRequest>(&tenant, "absent", "Fulfilled", "PoolNotFound").await;
    assert_eq!(closed, absent.replace("/large", "/small"));
    assert!(closed.contains("ask for its spec.allowedNamespaces"), "{closed}");
    open::<Pool>(&world, "small", json!({"from": "Same"})).await;
    let own = told::<NodeRequest>(&tenant, "closed", "Fulfilled", "PoolNotFound").await;
    assert_eq!(own, closed);

    // A pool of the tenant's own is meant where no namespace is written.
    claimer.apply("NodeRequest", "own", json!({"nodes": [{"name": "builder", "pool": "small"}]})).await;
    let own = told::<NodeRequest>(&tenant, "own", "Fulfilled", "PoolNotFound").await;
    assert!(own.starts_with("create the Pool small"), "{own}");

    open::<Pool>(&world, "small", json!({"from": "All"})).await;
    let request = served(&tenant, &claimer, "closed").await;
    let node = request.status.as_ref().unwrap().nodes[0].clone();
    assert_eq!(node.namespace.as_deref(), Some(shared));
    assert!(!node.address.is_empty() && !node.host_keys.is_empty() && node.port > 0, "{node:?}");
    let record = world.get::<PoolNode>(&node.pool_node).await;
    let claim = record.spec.claim_ref.unwrap();
    assert_eq!((claim.namespace.as_str(), claim.name.as_str()), (tenant.name(), "closed"));
    assert_eq!((record.spec.pool_namespace, tenant.list::<PoolNode>().await.len()), (None, 0));

    // They see their requests and nothing else, and read no Secret.
    for (kind, place) in
        [("poolnodes", shared), ("noderequests", shared), ("pools", shared), ("secrets", tenant.name())]
    {
        let said = claimer.says(&["get", kind, "--namespace", place], "").await;
        assert!(!said.success && said.stderr.contains("Forbidden"), "{kind} in {place}: {said:?}");
    }
    assert!(
        tenant.list::<ConfigMap>().await.iter().all(|map| map.metadata.name.as_deref() == Some("kube-root-ca.crt"))
    );

    // Closing takes nothing from who has it, and gives nothing more.
    open::<Pool>(&world, "small", Value::Null).await;
    claimer.apply("NodeRequest", "late", wanting("small", shared)).await;
    told::<NodeRequest>(&tenant, "late", "Fulfilled", "PoolNotFound").await;
    world.request("ours", &[("small", 1)], json!({})).await;
    let ours = world.fulfilled("ours").await;
    assert!(given(&ours).is_disjoint(&given(&request)));
    state_of(&world, &node.pool_node, NodeState::InUse).await;
    told::<NodeRequest>(&tenant, "closed", "Fulfilled", "NodesAssigned").await;

    // Giving back destroys it, though the pool is closed by now.
    let said = claimer.says(&["delete", "noderequest", "closed"], "").await;
    assert!(said.success, "{}", said.stderr);
    world.destroyed(&given(&request)).await;
    let left = server_ids(&world.pool_ready("small", 1).await);
    assert!(left.is_disjoint(&given(&request)));
}

#[tokio::test]
async fn one_request_mixes_pools_of_its_own_and_of_others() {
    let tenant = Namespace::new().await;
    let world = serving(World::builder().cloud("a", 4), &tenant).await;
    let shared = world.namespace.name();
    open::<nodepool_operator::api::Provider>(&world, "a", json!({"from": "All"})).await;
    // Two Pools of one name, on one Provider.
    world.pool("small", 0, json!({"allowedNamespaces": {"from": "All"}})).await;
    let author = person("author", &tenant).await;
    author.apply("Pool", "small", crate::tenant::pool_on("a", shared, 0)).await;
    let nodes = json!([
        {"name": "theirs", "pool": "small", "poolNamespace": shared}, {"name": "own", "pool": "small", "count": 2},
    ]);
    author.apply("NodeRequest", "mixed", json!({"nodes": nodes})).await;
    told::<NodeRequest>(&tenant, "mixed", "Fulfilled", "NodesAssigned").await;
    let request = tenant.api::<NodeRequest>().get("mixed").await.unwrap();
    for node in request.status.unwrap().nodes {
        let record = world.get::<PoolNode>(&node.pool_node).await;
        let expected = if node.name == "theirs" { None } else { Some(tenant.name()) };
        assert_eq!(record.spec.pool_namespace.as_deref(), expected, "{}", node.name);
    }
    crate::tenant::counts(&tenant, "small", (0, 2, 2)).await;
    crate::tenant::counts(&world.namespace, "small", (0, 1, 1)).await;
}
