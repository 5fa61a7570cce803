//! Each service of the cloud away for a while, in the middle of work: nothing is doubled, leaked, or believed gone because a
//! list failed, and the condition names the cause.

use nodepool_operator::api::{Pool, PoolNode, Provider};
use serde_json::{Value, json};

use super::stage::{PATIENCE, PROVIDER, Stage};
use super::support::eventually;
use super::support::openstack::OpenStack;
use super::support::world::{condition, server_ids};

/// Two nodes ready and one in use; while the services are away, the used one is given back and a third ready one is asked
/// for; then the services come back.
async fn outage(services: &[&str], names_cause: impl Fn(&Value) -> bool) {
    let stage = Stage::alone(json!({"launchTimeout": "60s", "bootTimeout": "30s"})).await;
    let world = &stage.world;
    stage.pool("small", 3).await;
    world.pool_ready("small", 3).await;
    world.patch::<Pool>("small", json!({"spec": {"minReady": 2}})).await;
    world.request("work", &[("small", 1)], json!({})).await;
    world.fulfilled("work").await;
    let idle = server_ids(&world.pool_ready("small", 2).await);

    let outage = OpenStack::outage(services);
    world.release("work").await;
    world.patch::<Pool>("small", json!({"spec": {"minReady": 3}})).await;
    eventually(PATIENCE, || async {
        let provider = world.get::<Provider>(PROVIDER).await;
        let pool = world.get::<Pool>("small").await;
        let told = json!({
            "ready": condition(&provider, "Ready"), "quota": condition(&provider, "QuotaAvailable"),
            "throttled": condition(&provider, "Throttled"), "pool": condition(&pool, "Available"),
            "launches": condition(&pool, "LaunchHealthy"),
        });
        if names_cause(&told) { Ok(()) } else { Err(format!("no condition names the cause: {told:#}")) }
    })
    .await;
    let kept: Vec<PoolNode> = world.ready_nodes("small").await;
    assert!(server_ids(&kept).is_superset(&idle), "believed gone: {idle:?}, left {kept:?}");
    drop(outage);

    let ready = world.pool_ready("small", 3).await;
    assert!(server_ids(&ready).is_superset(&idle), "ready nodes outlive the outage");
    assert_eq!(stage.agrees().await.len(), 3);
    world.condition::<Provider>(PROVIDER, "Ready", "True").await;
    stage.ends_empty().await;
}

fn says(told: &Value, what: &str, words: &str) -> bool {
    told[what]["status"] == "False" && told[what]["message"].as_str().is_some_and(|message| message.contains(words))
}

#[tokio::test]
async fn neutron() {
    outage(&["neutron"], |told| says(told, "ready", "the network service does not answer")).await;
}

#[tokio::test]
async fn glance() {
    outage(&["glance"], |told| says(told, "ready", "the image service does not answer")).await;
}

#[tokio::test]
async fn placement() {
    outage(&["placement"], |told| says(told, "quota", "the placement service does not answer")).await;
}

#[tokio::test]
async fn keystone() {
    outage(&["keystone"], |told| says(told, "ready", "the identity service does not answer")).await;
}

#[tokio::test]
async fn the_message_bus() {
    outage(&["rabbit"], |told| says(told, "pool", "answered no boot request")).await;
}

#[tokio::test]
async fn the_database() {
    outage(&["mysql"], |told| says(told, "ready", "DBConnectionError")).await;
}

#[tokio::test]
async fn the_compute_host() {
    outage(&["nova-compute"], |told| says(told, "pool", "did not become ACTIVE")).await;
}
