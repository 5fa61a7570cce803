//! The boot request has no clear answer: there is never a second one for the same record (rule 2).

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use nodepool_operator::api::ProviderImage;
use nodepool_operator::controllers::pool_node::server_name;
use serde_json::{Value, json};

use crate::sky::{SOON, Settings, Sky, time, uids};
use crate::support::eventually;

/// Each way in which a call is not answered clearly.
pub fn unanswered(effect: bool) -> Vec<Value> {
    vec![
        json!({"type": "answer", "status": 500, "effect": effect}),
        json!({"type": "answer", "status": 502, "body": "html", "effect": effect}),
        json!({"type": "answer", "status": 202, "body": "truncated", "effect": effect}),
        json!({"type": "cut", "effect": effect}),
        json!({"type": "hang", "limit": "500ms", "effect": effect}),
    ]
}

#[tokio::test]
async fn a_server_made_without_an_answer_is_adopted() {
    let sky = Sky::clear().await;
    for (number, fault) in unanswered(true).into_iter().enumerate() {
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        sky.want(u32::try_from(number).unwrap() + 1).await;
        let nodes = sky.ready(number + 1).await;
        assert_eq!(sky.count("create-server").await, number + 1, "{fault}");
        assert_eq!(sky.servers().await.len(), number + 1, "{fault}");
        let names: Vec<String> = nodes.iter().map(server_name).collect();
        for server in sky.servers().await {
            assert!(names.iter().any(|name| server["name"] == **name), "{server} belongs to none of {names:?}");
        }
    }
    sky.end().await;
}

#[tokio::test]
async fn a_boot_request_without_effect_is_given_up_with_its_record() {
    let sky = Settings::default().provider(json!({"launchTimeout": "3s"})).start().await;
    for (number, fault) in unanswered(false).into_iter().enumerate() {
        let before = sky.count("create-server").await;
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        sky.want(u32::try_from(number).unwrap() + 1).await;
        sky.ready(number + 1).await;
        assert_eq!(sky.count("create-server").await, before + 2, "one without effect, one of a new record: {fault}");
        assert_eq!(sky.servers().await.len(), number + 1, "{fault}");
    }
    sky.end().await;
}

#[tokio::test]
async fn a_server_that_appears_late_is_adopted() {
    let sky = Sky::clear().await;
    for (number, reply) in ["gateway-timeout", "cut"].into_iter().enumerate() {
        let late = json!({"type": "late", "after": "1500ms", "reply": reply});
        sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": late})).await;
        sky.want(u32::try_from(number).unwrap() + 1).await;
        sky.ready(number + 1).await;
        assert_eq!(sky.count("create-server").await, number + 1);
    }
    sky.end().await;
}

/// Longer than `launchTimeout`: a message queue may hold a boot request for minutes.
#[tokio::test]
async fn a_server_that_appears_after_launch_timeout_is_adopted_within_the_settle_time() {
    let settings = Settings::default().provider(json!({"maxServers": 1, "launchTimeout": "3s"}));
    let sky = settings.operator("--settle-time=30s").start().await;
    let late = json!({"type": "late", "after": "6s", "reply": "cut"});
    sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": late})).await;
    sky.want(1).await;
    let first = eventually(SOON, || async { sky.nodes().await.pop().ok_or_else(|| "no record yet".to_owned()) }).await;
    let node = sky.ready(1).await.remove(0);
    assert_eq!(node.metadata.uid, first.metadata.uid, "its slot was given to another before its server came");
    assert_eq!(sky.count("create-server").await, 1);
    sky.end().await;
}

/// Rule 8: the turn of a boot request may come long after its image version was asked about.
#[tokio::test]
async fn a_version_that_is_rejected_boots_nothing_that_still_waits_for_its_turn() {
    let sky = Settings::default().provider(json!({"requestsPerSecond": 2})).start().await;
    sky.want(6).await;
    sky.called("create-server", 1).await;
    let versions = sky.namespace.list::<ProviderImage>().await;
    let name = versions[0].metadata.name.as_deref().unwrap();
    let reject = Patch::Merge(json!({"spec": {"rejected": true}}));
    sky.namespace.api::<ProviderImage>().patch(name, &PatchParams::default(), &reject).await.unwrap();
    let rejected = Timestamp::now();
    eventually(SOON, || async {
        let (records, boots) = (sky.nodes().await.len(), sky.count("create-server").await);
        if records <= boots { Ok(()) } else { Err(format!("{records} records, {boots} boot requests")) }
    })
    .await;
    let boots = sky.calls("create-server").await;
    assert!(boots.len() < 6, "all were sent before the version could be rejected");
    for boot in boots {
        let after = time(&boot).duration_since(rejected).as_secs_f64();
        assert!(after < 0.5, "booted {after} s after the version was rejected");
    }
}

#[tokio::test]
async fn one_request_that_makes_two_servers_leaves_one_node() {
    let sky = Sky::clear().await;
    let twice = json!({"times": 1, "fault": {"type": "duplicate"}});
    let unclear = json!({"call": "create-server", "times": 1, "fault": {"type": "cut", "effect": true}});
    sky.simulator.fault(json!([twice, unclear])).await;
    sky.want(1).await;
    let first = uids(&sky.ready(1).await);
    assert_eq!(sky.count("create-server").await, 1);
    assert_eq!(uids(&sky.ready(1).await), first);
    sky.check().await;
}

#[tokio::test]
async fn faults_on_many_creates_at_once_double_nothing() {
    let sky = Settings::default().provider(json!({"maxServers": 12, "launchTimeout": "4s"})).start().await;
    for (skip, fault) in unanswered(true).into_iter().chain(unanswered(false)).enumerate() {
        sky.simulator.fault(json!({"call": "create-server", "skip": skip % 3, "times": 1, "fault": fault})).await;
    }
    sky.want(10).await;
    sky.ready(10).await;
    assert_eq!(sky.servers().await.len(), 10);
    sky.end().await;
}
