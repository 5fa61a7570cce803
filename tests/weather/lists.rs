//! Lists that fail, lie or stop in the middle: absence proves nothing, and nothing is doubled.

use std::time::Duration;

use nodepool_operator::api::PoolNode;
use serde_json::{Value, json};

use crate::sky::{PROVIDER, SOON, Settings, Sky, uids};
use crate::support::eventually;

/// Ready nodes live through some lists in this weather: nothing is deleted, nothing is booted, nobody is replaced.
async fn nobody_minds(sky: &Sky, faults: Value, nodes: &[String]) {
    let (deletes, creates) = (sky.count("delete-server").await, sky.count("create-server").await);
    let lists = sky.count("list-servers").await;
    sky.simulator.fault(faults.clone()).await;
    sky.called("list-servers", lists + 3).await;
    sky.simulator.clear_faults().await;
    sky.provider_says(PROVIDER, "Ready", "True", SOON).await;
    assert_eq!(uids(&sky.ready(nodes.len()).await), nodes, "{faults}");
    assert_eq!((sky.count("delete-server").await, sky.count("create-server").await), (deletes, creates), "{faults}");
}

async fn three_nodes(sky: &Sky) -> Vec<String> {
    sky.want(3).await;
    uids(&sky.ready(3).await)
}

#[tokio::test]
async fn broken_and_empty_lists_touch_nothing() {
    let sky = Settings::default().full_list("1s").start().await;
    let nodes = three_nodes(&sky).await;
    let list = |fault: Value| json!({"call": "list-servers", "fault": fault});
    for fault in [
        list(json!({"type": "answer", "status": 200, "body": "html"})),
        list(json!({"type": "answer", "status": 200, "body": "empty"})),
        list(json!({"type": "answer", "status": 200, "body": "truncated"})),
        list(json!({"type": "answer", "status": 404, "body": "html"})),
        list(json!({"type": "mangle", "how": "cut-body"})),
        list(json!({"type": "cut"})),
        // A complete list without any of ours: cells that are down are left out.
        json!({"call": "list-servers", "name": "*", "fault": {"type": "down-cell", "mode": "skip"}}),
    ] {
        nobody_minds(&sky, fault, &nodes).await;
    }
    sky.end().await;
}

#[tokio::test]
async fn a_cell_that_is_down_makes_nobody_believed_gone() {
    let sky = Settings::default().full_list("1s").start().await;
    let nodes = three_nodes(&sky).await;
    for mode in ["unknown", "error"] {
        nobody_minds(&sky, json!({"name": "*", "fault": {"type": "down-cell", "mode": mode}}), &nodes).await;
    }
    sky.end().await;
}

#[tokio::test]
async fn a_cloud_that_cannot_be_listed_is_told_and_left_in_peace() {
    let sky = Settings::default().full_list("1s").start().await;
    let nodes = three_nodes(&sky).await;
    let logins = sky.count("auth").await;
    sky.simulator.fault(json!({"call": "list-servers", "fault": {"type": "answer", "status": 503}})).await;
    let told = sky.provider_says(PROVIDER, "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "CloudUnreachable", "{}", told.message);
    sky.want(4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(sky.count("create-server").await, 3, "nothing is launched blindly");
    assert_eq!(sky.count("auth").await, logins, "the token still works: nobody logs in again and again");
    sky.simulator.clear_faults().await;
    let now = uids(&sky.ready(4).await);
    assert!(nodes.iter().all(|uid| now.contains(uid)), "{nodes:?}, then {now:?}");
    sky.end().await;
}

#[tokio::test]
async fn a_list_that_asks_for_silence_gets_it() {
    let sky = Settings::default().full_list("1s").start().await;
    three_nodes(&sky).await;
    let fault = json!({"type": "answer", "status": 429, "retryAfter": {"seconds": 6}});
    sky.simulator.fault(json!({"call": "list-servers", "times": 1, "fault": fault})).await;
    let told = sky.provider_says(PROVIDER, "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "RateLimited");
    sky.want(4).await;
    sky.ready(4).await;
    let calls = sky.simulator.calls().await["calls"].as_array().unwrap().clone();
    let refused = calls.iter().position(|call| call["status"] == 429).unwrap();
    let next = &calls[refused + 1];
    assert!(crate::sky::seconds(&calls[refused], next) >= 5.9, "a call in the time of silence: {next}");
    sky.end().await;
}

#[tokio::test]
async fn filters_and_pages_that_do_not_work_double_nothing() {
    let sky = Settings::default().full_list("2s").start().await;
    sky.simulator.settings(json!({"pageLimit": 2})).await;
    let mangled = |how: &str| json!({"type": "mangle", "how": how});
    for (number, fault) in [
        json!({"type": "changes-since-ignored"}),
        json!({"type": "filters-ignored"}),
        mangled("link-relative"),
        mangled("link-repeated"),
        mangled("link-foreign"),
        mangled("link-missing"),
    ]
    .into_iter()
    .enumerate()
    {
        let count = number + 1;
        sky.simulator.fault(json!({"call": "list-servers", "fault": fault})).await;
        sky.want(u32::try_from(count).unwrap()).await;
        if count <= 3 {
            // What the client can see through does not stop it.
            sky.ready(count).await;
        } else {
            sky.called("list-servers", sky.count("list-servers").await + 2).await;
        }
        sky.simulator.clear_faults().await;
        sky.ready(count).await;
        assert_eq!(sky.count("create-server").await, count, "{fault}");
        assert_eq!(sky.servers().await.len(), count, "{fault}");
    }
    assert_eq!(sky.count("delete-server").await, 0);
    sky.end().await;
}

#[tokio::test]
async fn a_second_page_that_fails_is_no_short_list() {
    let sky = Settings::default().full_list("1s").start().await;
    sky.simulator.settings(json!({"pageLimit": 1})).await;
    let nodes = three_nodes(&sky).await;
    for fault in [json!({"type": "answer", "status": 500}), json!({"type": "mangle", "how": "truncate"})] {
        let faults = json!({"call": "list-servers", "query": "marker=", "fault": fault});
        nobody_minds(&sky, faults, &nodes).await;
    }
    sky.end().await;
}

#[tokio::test]
async fn a_ready_server_deleted_behind_our_back_is_replaced() {
    let sky = Settings::default().full_list("1s").start().await;
    let nodes = three_nodes(&sky).await;
    let server = sky.servers().await[0]["id"].as_str().unwrap().to_owned();
    sky.simulator.send(reqwest::Method::DELETE, &format!("servers/{server}"), None).await;
    let lost = eventually(SOON, || async {
        let now: Vec<PoolNode> = sky.ready(3).await;
        let gone: Vec<&String> = nodes.iter().filter(|uid| !uids(&now).contains(uid)).collect();
        if gone.len() == 1 { Ok(gone.len()) } else { Err(format!("{} were replaced", gone.len())) }
    })
    .await;
    assert_eq!(lost, 1);
    sky.event("ServerLost", "disappeared").await;
    assert_eq!(sky.count("create-server").await, 4);
    sky.end().await;
}

#[tokio::test]
async fn a_used_server_deleted_behind_our_back_is_told_on_its_request() {
    let sky = Settings::default().full_list("1s").start().await;
    sky.want(1).await;
    sky.ready(1).await;
    sky.request("r", 1).await;
    sky.request_says("r", "True").await;
    let request: nodepool_operator::api::NodeRequest = sky.get("r").await;
    let assigned = request.status.unwrap().nodes.remove(0);
    sky.simulator.send(reqwest::Method::DELETE, &format!("servers/{}", assigned.server_id), None).await;
    let told = sky.request_says("r", "False").await;
    assert_eq!(told.reason, "NodeLost");
    assert!(told.message.contains(&assigned.pool_node), "{}", told.message);
    let request: nodepool_operator::api::NodeRequest = sky.get("r").await;
    assert_eq!(request.status.unwrap().nodes, [assigned], "no other node was put in its place");
    let claimed = sky.nodes().await.iter().filter(|node| node.spec.claim_ref.is_some()).count();
    assert_eq!(claimed, 0);
    sky.end().await;
}
