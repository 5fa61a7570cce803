//! The cloud says "not now": rate limits, quotas, no valid host. Back-pressure on the Provider (rule 3).

use std::time::Duration;

use serde_json::json;

use crate::sky::{PROVIDER, SOON, Settings, Sky, seconds};

#[tokio::test]
async fn retry_after_is_obeyed_in_seconds_and_as_a_date() {
    for (wait, at_least) in [(json!({"seconds": 4}), 4.0), (json!({"date": 4}), 3.0)] {
        let sky = Sky::clear().await;
        let fault = json!({"type": "answer", "status": 429, "retryAfter": wait});
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        sky.want(1).await;
        let throttled = sky.provider_says(PROVIDER, "Throttled", "True", Duration::from_secs(4)).await;
        assert_eq!(throttled.reason, "RateLimited");
        sky.ready(1).await;
        sky.provider_says(PROVIDER, "Throttled", "False", SOON).await;
        let creates = sky.calls("create-server").await;
        assert_eq!(creates.len(), 2, "{creates:?}");
        assert!(seconds(&creates[0], &creates[1]) >= at_least, "{wait}: {creates:?}");
        sky.end().await;
    }
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_told_and_heals_when_it_is_raised() {
    let sky = Settings::default().cloud("--max-servers=6").start().await;
    sky.simulator.settings(json!({"maxServers": 2})).await;
    sky.want(4).await;
    let told = sky.provider_says(PROVIDER, "QuotaAvailable", "False", SOON).await;
    assert_eq!(told.reason, "QuotaExceeded");
    assert!(told.message.contains("Quota exceeded"), "{}", told.message);
    let refused = sky.count("create-server").await;
    assert!(refused <= 4, "{refused} boot requests for 4 nodes");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(sky.count("create-server").await <= refused + 1, "one probe in a step");
    sky.simulator.settings(json!({"maxServers": 10})).await;
    sky.ready(4).await;
    sky.provider_says(PROVIDER, "QuotaAvailable", "True", SOON).await;
    sky.end().await;
}

#[tokio::test]
async fn a_quota_that_nobody_tells_is_probed_one_by_one() {
    let sky = Sky::clear().await;
    let message = "Quota exceeded for instances: Requested 1, but already used 2 of 2 instances";
    let fault = json!({"type": "answer", "status": 403, "message": message});
    sky.simulator.fault(json!({"call": "create-server", "fault": fault})).await;
    sky.want(3).await;
    sky.called("create-server", 1).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let creates = sky.calls("create-server").await;
    let late: Vec<_> = creates.iter().filter(|call| seconds(&creates[0], call) > 2.0).collect();
    assert!(creates.len() - late.len() <= 3, "the first batch: {creates:?}");
    assert_eq!(late.len(), 1, "one probe after the first step: {creates:?}");
    assert!(seconds(&creates[0], late[0]) >= 4.5, "{creates:?}");
    sky.simulator.clear_faults().await;
    sky.ready(3).await;
    sky.provider_says(PROVIDER, "QuotaAvailable", "True", SOON).await;
    sky.end().await;
}

#[tokio::test]
async fn no_valid_host_pauses_one_flavor_and_no_other() {
    let sky = Sky::clear().await;
    sky.make_pool("other", PROVIDER, json!({"flavor": {"name": "medium"}})).await;
    sky.simulator.fault(json!({"times": 2, "fault": {"type": "build-error"}})).await;
    sky.want(2).await;
    let told = sky.provider_says(PROVIDER, "QuotaAvailable", "False", SOON).await;
    assert_eq!(told.reason, "NoValidHost");
    assert!(told.message.contains("No valid host"), "{}", told.message);
    sky.want_of("other", 1).await;
    sky.ready_within("other", 1, Duration::from_secs(4)).await;
    let creates = sky.calls("create-server").await;
    assert_eq!(creates.len(), 3, "two of the flavor that fits nowhere, one of the other: {creates:?}");
    sky.ready(2).await;
    sky.provider_says(PROVIDER, "QuotaAvailable", "True", SOON).await;
    let creates = sky.calls("create-server").await;
    assert_eq!(creates.len(), 5, "{creates:?}");
    assert!(seconds(&creates[0], &creates[3]) >= 4.5, "{creates:?}");
    sky.check().await;
}

#[tokio::test]
async fn an_image_is_not_blamed_for_a_cloud_without_room() {
    let sky = Sky::clear().await;
    sky.simulator.fault(json!({"times": 4, "fault": {"type": "build-error"}})).await;
    sky.want(4).await;
    sky.provider_says(PROVIDER, "QuotaAvailable", "False", SOON).await;
    sky.ready(4).await;
    sky.pool_says("LaunchHealthy", "True", Duration::from_secs(1)).await;
    sky.end().await;
}
