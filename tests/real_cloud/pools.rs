//! Pools on real services: filled, used, refilled, resumed.

use std::collections::BTreeSet;

use nodepool_operator::api::PoolNode;
use serde_json::json;

use super::stage::{PATIENCE, Stage};
use super::support::eventually;
use super::support::world::{given, server_id, server_ids, text};

#[tokio::test]
async fn a_pool_fills_a_request_takes_two_and_used_servers_are_replaced() {
    let stage = Stage::on("lab", json!({})).await;
    stage.pool("small", 5).await;
    let nodes = stage.world.pool_ready("small", 5).await;
    for node in &nodes {
        // The console is the machine's own word: what was recorded is what the right machine said.
        let console = stage.project.console(&server_id(node).unwrap()).await;
        let keys = &node.status.as_ref().unwrap().host_keys;
        assert!(!keys.is_empty() && keys.iter().all(|key| console.contains(key)), "{keys:?} in {console}");
    }
    stage.world.request("two", &[("small", 2)], json!({})).await;
    let used = given(&stage.world.fulfilled("two").await);
    assert_eq!(used.len(), 2);
    assert!(used.is_subset(&server_ids(&nodes)));
    stage.world.release("two").await;
    eventually(PATIENCE, || async {
        let left: Vec<String> = stage.servers().await.intersection(&used).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) }
    })
    .await;
    let refilled = stage.world.pool_ready("small", 5).await;
    assert!(server_ids(&refilled).is_disjoint(&used), "a used server is ready again");
    stage.agrees().await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_floating_address_comes_and_goes_with_its_server() {
    let stage = Stage::on("lab-appcred", json!({"floatingIP": {"network": "public"}})).await;
    stage.pool("small", 1).await;
    let node = stage.world.pool_ready("small", 1).await.remove(0);
    let address = node.status.unwrap().address.unwrap();
    let floating = stage.floating_ips().await;
    assert_eq!(floating.len(), 1);
    assert_eq!(text(&floating[0]["floating_ip_address"]), address);
    stage.ends_empty().await;
}

/// 2014's nodepool, restarted once with `min-ready: 10`, had 20.
#[tokio::test]
async fn min_ready_is_exact_though_the_operator_is_killed_while_it_fills() {
    let mut stage = Stage::on("lab", json!({})).await;
    let before = jiff::Timestamp::now();
    stage.pool("small", 10).await;
    eventually(PATIENCE, || async {
        let count = stage.servers().await.len();
        if count >= 3 { Ok(()) } else { Err(format!("{count} servers")) }
    })
    .await;
    stage.restart().await;
    stage.world.pool_ready("small", 10).await;
    assert_eq!(stage.agrees().await.len(), 10);
    let since = jiff::Timestamp::from_second(before.as_second() - 5).unwrap();
    let all = stage.project.get("compute", &format!("/servers/detail?changes-since={since}")).await;
    let records: BTreeSet<String> =
        stage.world.namespace.list::<PoolNode>().await.iter().map(|node| node.metadata.uid.clone().unwrap()).collect();
    let made: Vec<String> = all["servers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|server| server["metadata"]["nodepool_record"].as_str().is_some_and(|uid| records.contains(uid)))
        .map(|server| text(&server["id"]))
        .collect();
    assert_eq!(made.len(), 10, "one boot for each record, the killed operator's included");
    stage.ends_empty().await;
}
