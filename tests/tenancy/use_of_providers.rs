//! Pools on Providers of other namespaces.

use nodepool_operator::api::{NodeRequest, Pool, PoolNode, Provider};
use serde_json::{Value, json};

use crate::support::world::{given, is_idle, server_ids};
use crate::support::{Namespace, World};
use crate::tenant::{counts, open, person, pool_on, serving, told};

#[tokio::test]
async fn a_pool_lives_on_a_provider_that_is_open_and_goes_when_it_closes() {
    let tenant = Namespace::new().await;
    let world = serving(World::builder().cloud("a", 6), &tenant).await;
    let shared = world.namespace.name();
    let author = person("author", &tenant).await;
    author.apply("Pool", "small", pool_on("a", shared, 1)).await;
    author.apply("Pool", "lost", pool_on("b", shared, 1)).await;
    let closed = told::<Pool>(&tenant, "small", "Available", "ProviderNotFound").await;
    let absent = told::<Pool>(&tenant, "lost", "Available", "ProviderNotFound").await;
    assert_eq!(closed, absent.replace("/b ", "/a "));
    assert!(closed.contains("ask for its spec.allowedNamespaces"), "{closed}");
    assert!(world.nodes().await.is_empty());

    open::<Provider>(&world, "a", json!({"from": "All"})).await;
    counts(&tenant, "small", (1, 0, 1)).await;
    // The record is where the Provider is; a Pool of the same name there counts its own.
    world.pool("small", 2, json!({})).await;
    counts(&world.namespace, "small", (2, 0, 2)).await;
    counts(&tenant, "small", (1, 0, 1)).await;
    let theirs = |node: &PoolNode| node.spec.pool_namespace.as_deref() == Some(tenant.name());
    let node = world.nodes().await.into_iter().find(theirs).unwrap();
    let labels = node.metadata.labels.clone().unwrap();
    assert_eq!(labels["nodepool.dev/pool-namespace"], tenant.name());
    let ours = world.get::<Pool>("small").await.status.unwrap();
    let selected = world.namespace.kubectl().json(&["get", "poolnodes", "--selector", &ours.selector]).await.unwrap();
    assert_eq!(selected["items"].as_array().unwrap().len(), 2, "{}", ours.selector);
    let pool = [&*format!("pool=\"{}/small\"", tenant.name()), "state=\"Ready\""];
    let own = [&*format!("namespace=\"{}\"", tenant.name()), "name=\"small\""];
    for (metric, labels) in [("nodepool_nodes", pool), ("nodepool_pool_ready", own)] {
        crate::support::eventually(crate::support::world::SOON, || async {
            let ready = world.operator.metric(metric, &labels).await;
            if (ready - 1.0).abs() < f64::EPSILON { Ok(()) } else { Err(format!("{metric}: {ready}")) }
        })
        .await;
    }

    author.apply("NodeRequest", "job", json!({"nodes": [{"name": "builder", "pool": "small"}]})).await;
    told::<NodeRequest>(&tenant, "job", "Fulfilled", "NodesAssigned").await;
    let request = tenant.api::<NodeRequest>().get("job").await.unwrap();
    assert_eq!(given(&request), server_ids(&[node]));
    counts(&tenant, "small", (1, 1, 2)).await;

    // What is idle goes, what is used stays, and the neighbours notice nothing.
    let before = server_ids(&world.nodes().await.into_iter().filter(|node| !theirs(node)).collect::<Vec<_>>());
    open::<Provider>(&world, "a", Value::Null).await;
    counts(&tenant, "small", (0, 1, 1)).await;
    told::<Pool>(&tenant, "small", "Available", "ProviderNotFound").await;
    told::<NodeRequest>(&tenant, "job", "Fulfilled", "NodesAssigned").await;
    author.says(&["delete", "noderequest", "job"], "").await.ok().unwrap();
    world.destroyed(&given(&request)).await;
    counts(&tenant, "small", (0, 0, 0)).await;
    assert_eq!(server_ids(&world.nodes().await), before);
}

#[tokio::test]
async fn a_secret_beside_the_provider_is_not_for_pools_of_others() {
    let tenant = Namespace::new().await;
    let world = serving(World::builder().cloud("a", 4), &tenant).await;
    let shared = world.namespace.name();
    open::<Provider>(&world, "a", json!({"from": "All"})).await;
    // The Secret `a` is the Provider's own: whoever can name it as user data would read it on their machine.
    tenant.secret("a", &[("userData", "#!/bin/true")]).await;
    let author = person("author", &tenant).await;
    let mut spec = pool_on("a", shared, 1);
    spec["userDataSecretRef"] = json!({"name": "a", "key": "clouds.yaml"});
    author.apply("Pool", "small", spec.clone()).await;
    let message = told::<Pool>(&tenant, "small", "Available", "InvalidConfiguration").await;
    assert!(message.contains("remove userDataSecretRef"), "{message}");
    author.apply("NodeRequest", "job", json!({"nodes": [{"name": "builder", "pool": "small"}]})).await;
    world.pool("ours", 1, json!({})).await;
    world.pool_ready("ours", 1).await;
    assert!(world.nodes().await.iter().all(|node| node.spec.pool.as_deref() == Some("ours")));
    assert_eq!(world.servers_ever().await.len(), 1);

    // Without it the same Pool is filled.
    spec.as_object_mut().unwrap().remove("userDataSecretRef");
    author.apply("Pool", "small", spec).await;
    told::<NodeRequest>(&tenant, "job", "Fulfilled", "NodesAssigned").await;
    counts(&tenant, "small", (1, 1, 2)).await;
    assert_eq!(world.nodes().await.iter().filter(|node| is_idle(node)).count(), 2);
}
