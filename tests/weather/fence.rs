//! `launchFence: Port`: a port is made before each boot request, and closed when nobody can tell what became of the
//! request. What was not let through by then never makes a server, so that its slot need not be held for it (rule 1).

use std::collections::BTreeMap;

use nodepool_operator::api::PoolNode;
use nodepool_operator::controllers::pool_node::server_name;
use serde_json::{Value, json};

use crate::creates::unanswered;
use crate::sky::{PROVIDER, SOON, Settings, Sky};
use crate::support::eventually;

/// A Provider of one slot, which is given up to another node in time only if the fence is what frees it.
fn fenced() -> Settings {
    Settings::default().provider(json!({
        "launchFence": "Port", "networks": ["private"], "maxServers": 1, "launchTimeout": "10m", "bootTimeout": "20s",
    }))
}

async fn ports(sky: &Sky) -> u64 {
    sky.simulator.state().await["ports"].as_u64().unwrap()
}

/// The cloud has a port for each of its servers, and no other.
async fn no_port_is_left(sky: &Sky) {
    eventually(SOON, || async {
        let (ports, servers) = (ports(sky).await, sky.servers().await.len() as u64);
        if ports == servers { Ok(()) } else { Err(format!("{ports} ports of {servers} servers")) }
    })
    .await;
}

/// The one record that there is by now.
async fn first_record(sky: &Sky) -> PoolNode {
    eventually(SOON, || async { sky.nodes().await.pop().ok_or_else(|| "no record yet".to_owned()) }).await
}

/// How often each call was made that is no question.
async fn changes(sky: &Sky) -> BTreeMap<String, u64> {
    let calls = sky.simulator.calls().await;
    let counts = calls["counts"].as_object().unwrap();
    let changes = ["create-", "update-", "delete-"];
    let counted = counts.iter().filter(|(name, _)| changes.iter().any(|change| name.starts_with(change)));
    counted.map(|(name, count)| (name.clone(), count["calls"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn a_life_behind_a_fence_costs_two_more_calls_and_leaves_no_port() {
    let sky = fenced().provider(json!({"maxServers": 4})).start().await;
    sky.want(3).await;
    assert!(sky.ready(3).await.iter().all(PoolNode::is_fenced));
    assert_eq!(ports(&sky).await, 3);
    sky.request("work", 2).await;
    sky.request_says("work", "True").await;
    sky.want(0).await;
    sky.namespace.kubectl().delete("noderequest/work").await;
    eventually(SOON, || async {
        let (nodes, ports) = (sky.nodes().await.len(), ports(&sky).await);
        if nodes == 0 && ports == 0 { Ok(()) } else { Err(format!("{nodes} records, {ports} ports")) }
    })
    .await;
    let made = changes(&sky).await;
    let lives = made["create-server"];
    let each = ["create-port", "create-server", "delete-port", "delete-server"];
    assert_eq!(made, each.map(|name| (name.to_owned(), lives)).into());
    sky.end().await;
}

#[tokio::test]
async fn a_server_made_without_an_answer_is_adopted() {
    let sky = fenced().provider(json!({"maxServers": 6})).start().await;
    for (number, fault) in unanswered(true).into_iter().enumerate() {
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        sky.want(u32::try_from(number).unwrap() + 1).await;
        sky.ready(number + 1).await;
        assert_eq!(sky.count("create-server").await, number + 1, "{fault}");
    }
    no_port_is_left(&sky).await;
    sky.end().await;
}

/// `launchTimeout` and a long settle time would hold the only slot for ten minutes.
#[tokio::test]
async fn a_boot_request_without_effect_is_settled_by_its_fence() {
    let sky = fenced().start().await;
    for fault in unanswered(false) {
        let before = sky.count("create-server").await;
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        sky.want(1).await;
        sky.ready(1).await;
        assert_eq!(sky.count("create-server").await, before + 2, "one without effect, one of a new record: {fault}");
        no_port_is_left(&sky).await;
        sky.want(0).await;
        sky.ready(0).await;
    }
    sky.event("LaunchLost", "its port was closed").await;
    sky.end().await;
}

/// It waits in a proxy until its record, and the port that it names, are long gone.
#[tokio::test]
async fn a_boot_request_that_arrives_after_the_fence_was_closed_makes_no_server() {
    let sky = fenced().start().await;
    for (reply, after) in [("gateway-timeout", "10s"), ("cut", "15s")] {
        let late = json!({"type": "late", "after": after, "reply": reply});
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": late})).await;
        let arrived = sky.count("late-create-server").await;
        sky.want(1).await;
        let first = first_record(&sky).await;
        let node = sky.ready(1).await.remove(0);
        assert_ne!(node.metadata.uid, first.metadata.uid, "{reply}");
        sky.called("late-create-server", arrived + 1).await;
        let refused = sky.calls("late-create-server").await.pop().unwrap()["status"].as_u64().unwrap();
        assert!([400, 409].contains(&refused), "a late boot request was answered {refused}");
        let names: Vec<Value> = sky.servers().await.iter().map(|server| server["name"].clone()).collect();
        assert_eq!(names, [json!(server_name(&node))]);
        no_port_is_left(&sky).await;
        sky.want(0).await;
        sky.ready(0).await;
    }
    assert_eq!(sky.simulator.state().await["servers"]["highestOwn"], 1);
    sky.end().await;
}

/// A list that does not show the server, and a port that does.
#[tokio::test]
async fn a_server_that_only_its_port_tells_of_is_adopted() {
    let sky = fenced().start().await;
    let hidden = json!({"call": "list-servers", "name": "*", "fault": {"type": "down-cell", "mode": "skip"}});
    let unanswered = json!({"call": "create-server", "times": 1, "fault": {"type": "cut", "effect": true}});
    sky.simulator.fault(json!([hidden, unanswered])).await;
    sky.want(1).await;
    let first = first_record(&sky).await;
    sky.called("show-server", 1).await;
    assert_eq!(sky.count("update-port").await, 0, "the port of a server is not closed");
    sky.simulator.clear_faults().await;
    assert_eq!(sky.ready(1).await[0].metadata.uid, first.metadata.uid);
    assert_eq!(sky.count("create-server").await, 1);
    sky.end().await;
}

/// Its cell is down: the cloud names it, and nothing else of it. Rule 1: that is no proof that it is gone.
#[tokio::test]
async fn nothing_is_given_up_while_a_server_that_cannot_be_told_has_the_port() {
    let sky = fenced().start().await;
    let down = |call: &str| json!({"call": call, "name": "*", "fault": {"type": "down-cell", "mode": "unknown"}});
    let unanswered = json!({"call": "create-server", "times": 1, "fault": {"type": "cut", "effect": true}});
    sky.simulator.fault(json!([down("list-servers"), down("show-server"), unanswered])).await;
    sky.want(1).await;
    let first = first_record(&sky).await;
    // The second look comes after a time in which a closed fence would have been proof.
    sky.called("show-server", 2).await;
    assert_eq!((sky.nodes().await[0].metadata.uid.clone(), ports(&sky).await), (first.metadata.uid.clone(), 1));
    sky.simulator.clear_faults().await;
    assert_eq!(sky.ready(1).await[0].metadata.uid, first.metadata.uid);
    assert_eq!((sky.count("create-server").await, sky.count("update-port").await), (1, 0));
    sky.end().await;
}

#[tokio::test]
async fn a_fence_that_cannot_be_closed_is_tried_again() {
    let sky = fenced().start().await;
    let lost = json!({"call": "create-server", "times": 1, "fault": {"type": "cut"}});
    let unread = json!({"call": "list-ports", "query": "name=", "times": 1, "fault": {"type": "answer", "status": 403,
        "message": "Policy doesn't allow it"}});
    let unanswered = json!({"call": "update-port", "times": 1, "fault": {"type": "cut", "effect": true}});
    sky.simulator.fault(json!([lost, unread, unanswered])).await;
    sky.want(1).await;
    let first = first_record(&sky).await;
    assert_ne!(sky.ready(1).await[0].metadata.uid, first.metadata.uid);
    no_port_is_left(&sky).await;
    sky.end().await;
}

/// However a port could not be made: no boot request was sent, so that nothing is searched for and no slot is held.
#[tokio::test]
async fn without_a_port_nothing_is_booted() {
    let sky = fenced().full_list("1s").provider(json!({"launchTimeout": "8s"})).start().await;
    for fault in [
        json!({"type": "cut", "effect": true}),
        json!({"type": "answer", "status": 502, "body": "html"}),
        json!({"type": "late", "after": "4s", "reply": "cut"}),
    ] {
        let before = sky.count("create-server").await;
        sky.simulator.fault(json!({"call": "create-port", "times": 1, "fault": fault})).await;
        sky.want(1).await;
        sky.ready(1).await;
        assert_eq!(sky.count("create-server").await, before + 1, "{fault}");
        sky.want(0).await;
        sky.ready(0).await;
    }
    // What came of an unclear answer after its record was gone is the collector's.
    eventually(SOON, || async {
        let left = ports(&sky).await;
        if left == 0 { Ok(()) } else { Err(format!("{left} ports")) }
    })
    .await;
    sky.end().await;
}

#[tokio::test]
async fn a_quota_of_ports_is_waited_for() {
    let sky = fenced().provider(json!({"maxServers": 3})).start().await;
    sky.simulator.settings(json!({"maxPorts": 1})).await;
    sky.want(2).await;
    let told = sky.provider_says(PROVIDER, "QuotaAvailable", "False", SOON).await;
    assert!(told.message.contains("port"), "{}", told.message);
    sky.called("create-server", 1).await;
    assert_eq!(sky.count("create-server").await, 1);
    sky.simulator.settings(json!({"maxPorts": -1})).await;
    sky.ready(2).await;
    assert_eq!(sky.count("create-server").await, 2);
    sky.end().await;
}

/// Ports of records that are gone, free and closed; those of live nodes, of other owners and without a mark stay.
#[tokio::test]
async fn ports_of_dead_records_are_collected_and_no_others() {
    let sky = fenced().full_list("1s").provider(json!({"launchTimeout": "2s"})).start().await;
    sky.want(1).await;
    let node = sky.ready(1).await.remove(0);
    let owner = sky.servers().await[0]["metadata"]["nodepool_owner"].as_str().unwrap().to_owned();
    let provider = format!("{}/{PROVIDER}", sky.namespace.name());
    let mark = |owner: &str, record: &str| format!("nodepool owner={owner} record={record} provider={provider}");
    let live = node.metadata.uid.clone().unwrap();
    for (device, text) in [
        ("", mark(&owner, "dead")),
        ("nodepool-fenced", mark(&owner, "dead")),
        ("", mark(&owner, &live)),
        ("", mark("somebody-else", "dead")),
        ("nodepool-fenced", "theirs".to_owned()),
    ] {
        let port = json!({"deviceId": device, "description": text, "age": "1h"});
        sky.simulator.send(reqwest::Method::POST, "ports", Some(port)).await;
    }
    // The node's own, and three that are not to be collected.
    eventually(SOON, || async {
        let left = ports(&sky).await;
        if left == 4 { Ok(()) } else { Err(format!("{left} ports")) }
    })
    .await;
    sky.event("LeakFound", "was left behind by record dead").await;
    sky.called("list-ports", sky.count("list-ports").await + 4).await;
    assert_eq!(ports(&sky).await, 4);
    assert_eq!(sky.ready(1).await[0].metadata.uid, node.metadata.uid);
}
