//! The cloud takes the boot request, and the server does not become a node.

use std::time::Duration;

use nodepool_operator::api::Pool;
use serde_json::{Value, json};

use crate::sky::{POOL, SOON, Settings, Sky};
use crate::support::eventually;

/// One failed launch: told on the pool with its reason and in an event, and replaced. Returns message and console.
async fn one_bad_boot(fault: Value, reason: &str) -> (Sky, String, Option<String>) {
    let sky = Settings::default().provider(json!({"launchTimeout": "4s", "bootTimeout": "3s"})).start().await;
    sky.simulator.fault(json!({"times": 1, "fault": fault})).await;
    sky.want(1).await;
    let (message, console) = sky.failure(reason).await;
    sky.event(reason, &message).await;
    sky.ready(1).await;
    assert_eq!(sky.count("create-server").await, 2, "one failed, one replaced it");
    (sky, message, console)
}

#[tokio::test]
async fn a_server_in_error_is_told_with_its_fault_and_replaced() {
    let fault = json!({"type": "build-error", "message": "Build of instance aborted: the disk is full"});
    let (sky, message, _) = one_bad_boot(fault, "ServerError").await;
    assert!(message.contains("the disk is full"), "{message}");
    sky.end().await;
}

#[tokio::test]
async fn a_server_that_vanishes_after_202_is_replaced() {
    let (sky, _, _) = one_bad_boot(json!({"type": "vanish"}), "LaunchTimeout").await;
    sky.end().await;
}

#[tokio::test]
async fn a_server_that_never_becomes_active_is_replaced() {
    let (sky, _, _) = one_bad_boot(json!({"type": "build-forever"}), "LaunchTimeout").await;
    sky.end().await;
}

#[tokio::test]
async fn a_server_whose_ssh_port_stays_closed_is_replaced_and_its_console_kept() {
    let (sky, _, console) = one_bad_boot(json!({"type": "ssh", "mode": "never"}), "BootTimeout").await;
    assert!(console.as_deref().is_some_and(|console| console.contains("Linux version")), "{console:?}");
    sky.end().await;
}

#[tokio::test]
async fn a_server_whose_ssh_port_opens_without_a_banner_is_replaced() {
    let (sky, _, _) = one_bad_boot(json!({"type": "ssh", "mode": "silent"}), "BootTimeout").await;
    sky.end().await;
}

#[tokio::test]
async fn a_server_that_answers_late_is_ready_only_then() {
    let sky = Sky::clear().await;
    sky.simulator.fault(json!({"fault": {"type": "ssh", "mode": "late", "after": "2s"}})).await;
    sky.want(1).await;
    let node = sky.ready(1).await.remove(0);
    let status = node.status.unwrap();
    let waited = status.ready_at.unwrap().0.duration_since(node.metadata.creation_timestamp.unwrap().0);
    assert!(waited.as_secs_f64() >= 1.0, "ready {waited} after its record was made, before it could answer");
    assert!(!status.host_keys.is_empty());
    assert_eq!(sky.count("create-server").await, 1);
    sky.end().await;
}

#[tokio::test]
async fn an_image_whose_launches_mostly_fail_is_tried_slowly_until_it_heals() {
    let sky = Sky::clear().await;
    let fault = json!({"type": "build-error", "message": "Build of instance aborted: no bootable device"});
    sky.simulator.fault(json!({"fault": fault})).await;
    sky.want(5).await;
    let unhealthy = sky.pool_says("LaunchHealthy", "False", SOON).await;
    assert_eq!(unhealthy.reason, "LaunchesFailing");
    assert!(unhealthy.message.contains("no bootable device"), "{}", unhealthy.message);
    // At most the first batch, the probe that is due within this time, and what was sent before the condition turned.
    let before = sky.count("create-server").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = sky.count("create-server").await;
    assert!(before <= 10 && after - before <= 1, "{before} boot requests, then {after}");
    sky.simulator.clear_faults().await;
    sky.ready_within(POOL, 5, Duration::from_secs(40)).await;
    eventually(SOON, || async {
        let pool: Pool = sky.get(POOL).await;
        let healthy = pool.status.unwrap_or_default().conditions.into_iter().find(|c| c.type_ == "LaunchHealthy");
        // Five good launches of the last ten are as many as bad ones.
        healthy.filter(|healthy| healthy.status == "True").map(|_| ()).ok_or_else(|| "still unhealthy".to_owned())
    })
    .await;
    sky.end().await;
}
