//! Servers that do not go, or not at once: their slots stay taken until they are proven gone (rule 1).

use std::time::Duration;

use nodepool_operator::api::{NodeState, Provider};
use serde_json::{Value, json};

use crate::sky::{PROVIDER, SOON, Settings, Sky};
use crate::support::eventually;

/// A pool of one node on a Provider of one slot, whose node is destroyed in this weather while another is wanted.
/// Returns the server that goes.
async fn one_goes(settings: Settings, fault: Option<Value>) -> (Sky, String) {
    let sky = settings.provider(json!({"maxServers": 1})).start().await;
    sky.want(1).await;
    let node = sky.ready(1).await.remove(0);
    if let Some(fault) = fault {
        sky.simulator.fault(fault).await;
    }
    let server = node.status.unwrap().server_id.unwrap();
    sky.namespace.kubectl().delete(&format!("poolnode/{}", node.metadata.name.unwrap())).await;
    (sky, server)
}

async fn gone(sky: &Sky, server: &str, deadline: Duration) {
    eventually(deadline, || async {
        let servers = sky.servers().await;
        if servers.iter().all(|other| other["id"] != server) { Ok(()) } else { Err(format!("{servers:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_takes_long_is_shown_and_holds_its_slot() {
    let (sky, server) = one_goes(Settings::default().cloud("--delete-time=7s"), None).await;
    eventually(SOON, || async {
        let states: Vec<_> = sky.nodes().await.iter().map(nodepool_operator::api::PoolNode::state).collect();
        if states == [NodeState::Deleting] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    eventually(SOON, || async {
        let counts = sky.get::<Provider>(PROVIDER).await.status.unwrap().servers.unwrap();
        if (counts.used, counts.deleting) == (1, 1) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    assert_eq!(sky.count("create-server").await, 1, "the slot is held");
    gone(&sky, &server, SOON).await;
    sky.ready(1).await;
    assert_eq!(sky.count("delete-server").await, 1, "a deletion under way is not sent again");
    sky.simulator.settings(json!({"deleteTime": "0s"})).await;
    sky.end().await;
}

#[tokio::test]
async fn a_deletion_without_effect_is_sent_again() {
    let (sky, server) =
        one_goes(Settings::default(), Some(json!({"times": 1, "fault": {"type": "delete-ignored"}}))).await;
    gone(&sky, &server, SOON).await;
    sky.ready(1).await;
    sky.end().await;
}

#[tokio::test]
async fn a_deletion_that_ends_in_error_is_sent_again() {
    let (sky, server) =
        one_goes(Settings::default(), Some(json!({"times": 1, "fault": {"type": "delete-error"}}))).await;
    gone(&sky, &server, SOON).await;
    sky.ready(1).await;
    sky.end().await;
}

#[tokio::test]
async fn a_deletion_that_is_not_answered_is_sent_again() {
    for fault in [
        json!({"type": "answer", "status": 500}),
        json!({"type": "answer", "status": 409, "message": "Instance is locked"}),
        json!({"type": "cut", "effect": true}),
    ] {
        let sky = Settings::default().provider(json!({"maxServers": 1})).start().await;
        sky.want(1).await;
        let node = sky.ready(1).await.remove(0);
        sky.simulator.fault(json!({"call": "delete-server", "times": 1, "fault": fault})).await;
        sky.namespace.kubectl().delete(&format!("poolnode/{}", node.metadata.name.unwrap())).await;
        gone(&sky, &node.status.unwrap().server_id.unwrap(), SOON).await;
        sky.ready(1).await;
        sky.end().await;
    }
}

#[tokio::test]
async fn a_soft_deleted_server_holds_its_slot_until_it_is_forced_out() {
    let sky = Settings::default().provider(json!({"maxServers": 1})).start().await;
    sky.simulator.settings(json!({"softDelete": true})).await;
    sky.want(1).await;
    let node = sky.ready(1).await.remove(0);
    sky.namespace.kubectl().delete(&format!("poolnode/{}", node.metadata.name.unwrap())).await;
    eventually(SOON, || async {
        let state = sky.simulator.state().await["servers"]["byStatus"].clone();
        if state["SOFT_DELETED"] == 1 { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    sky.called("force-delete-server", 1).await;
    sky.ready(1).await;
    let forced = sky.calls("force-delete-server").await;
    let creates = sky.calls("create-server").await;
    assert_eq!(creates.len(), 2);
    assert!(crate::sky::seconds(&forced[0], &creates[1]) >= 0.0, "booted before the slot was free");
    sky.end().await;
}

#[tokio::test]
async fn one_404_does_not_prove_that_a_server_is_gone() {
    let sky = Settings::default().full_list("1s").start().await;
    sky.want(1).await;
    let before = sky.ready(1).await.remove(0).metadata.uid;
    let missing = json!({"type": "answer", "status": 404, "message": "Instance could not be found."});
    sky.simulator.fault(json!({"call": "show-server", "times": 1, "fault": missing})).await;
    sky.simulator
        .fault(json!({"call": "list-servers", "name": "*", "times": 2, "fault": {"type": "down-cell", "mode": "skip"}}))
        .await;
    sky.called("show-server", 1).await;
    sky.called("list-servers", sky.count("list-servers").await + 3).await;
    let nodes = sky.ready(1).await;
    assert_eq!(nodes[0].metadata.uid, before);
    assert_eq!((sky.count("delete-server").await, sky.count("create-server").await), (0, 1));
    sky.end().await;
}

/// What Neutron keeps carries our mark: the slot is not held for it, and the collector takes it when Neutron is back.
#[tokio::test]
async fn a_network_service_that_is_away_holds_no_slot_and_leaks_no_address() {
    let floating = json!({"floatingIP": {"network": "public"}, "launchTimeout": "4s"});
    let (sky, _) = one_goes(
        Settings::default().full_list("1s").provider(floating),
        Some(json!({"service": "network", "fault": {"type": "answer", "status": 503}})),
    )
    .await;
    sky.called("create-server", 2).await;
    sky.simulator.clear_faults().await;
    let kept = sky.ready(1).await.remove(0).status.unwrap();
    assert_eq!(kept.addresses.len(), 2, "a fixed and a floating address: {kept:?}");
    eventually(SOON, || async {
        let left = sky.simulator.state().await["floatingIps"].clone();
        if left == 1 { Ok(()) } else { Err(format!("{left} floating addresses, one of them of the node")) }
    })
    .await;
    sky.end().await;
}
