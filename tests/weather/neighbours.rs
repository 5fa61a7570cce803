//! What is broken next door delays nobody, and what belongs to others is theirs (rules 10 and 13).

use std::time::Duration;

use nodepool_operator::api::{DiskImage, Pool, Provider};
use serde_json::{Value, json};

use crate::sky::{PROVIDER, SOON, Settings, Sky};
use crate::support::{Simulator, eventually};

#[tokio::test]
async fn a_provider_that_hangs_delays_no_other() {
    let sky = Sky::clear().await;
    let broken = Simulator::start(&["--boot-time=0s"]).await;
    for name in ["hangs", "refuses"] {
        broken.secret(&sky.namespace, name).await;
    }
    broken.fault(json!({"service": "compute", "fault": {"type": "hang"}})).await;
    sky.make_provider("hangs", &broken, json!({"maxServers": 5})).await;
    sky.namespace.secret("refuses", &[("clouds.yaml", "clouds: {simulator: {auth: {}}}")]).await;
    sky.make_provider("refuses", &broken, json!({"maxServers": 5})).await;
    sky.make_image("elsewhere", &["hangs", "refuses"], &broken).await;
    sky.make_pool("stuck", "hangs", json!({"image": "elsewhere", "minReady": 2})).await;
    sky.want(3).await;
    sky.ready_within("pool", 3, Duration::from_secs(6)).await;
    sky.request("r", 2).await;
    sky.request_says("r", "True").await;
    sky.ready_nodes_of(&[], 5).await;
    for (name, reason) in [("hangs", "CloudUnreachable"), ("refuses", "SecretInvalid")] {
        let told = sky.provider_says(name, "Ready", "False", SOON).await;
        assert_eq!(told.reason, reason, "{}", told.message);
    }
    broken.clear_faults().await;
}

/// More than are probed at once.
const SILENT: u32 = 140;

#[tokio::test]
async fn machines_that_open_their_port_and_say_nothing_delay_no_other() {
    let settings = Settings::default().provider(json!({"maxServers": SILENT + 2, "bootTimeout": "1m"}));
    let sky = settings.cloud("--max-servers=-1").start().await;
    sky.make_pool("other", PROVIDER, json!({})).await;
    sky.simulator.fault(json!({"fault": {"type": "ssh", "mode": "silent"}})).await;
    sky.want(SILENT).await;
    sky.called("create-server", SILENT as usize).await;
    sky.simulator.clear_faults().await;
    sky.want_of("other", 2).await;
    sky.ready_within("other", 2, Duration::from_secs(5)).await;
    sky.check().await;
}

#[tokio::test]
async fn others_servers_are_counted_and_never_touched() {
    let sky = Settings::default().cloud("--max-servers=5").full_list("1s").start().await;
    let foreign = json!({"name": "theirs", "count": 3, "tags": ["somebody"]});
    sky.simulator.send(reqwest::Method::POST, "servers", Some(foreign)).await;
    eventually(SOON, || async {
        let quota = sky.get::<Provider>(PROVIDER).await.status.unwrap().quota.and_then(|quota| quota.instances);
        if quota.is_some_and(|quota| quota.others == 3) { Ok(()) } else { Err(format!("{quota:?}")) }
    })
    .await;
    sky.want(4).await;
    let told = sky.pool_says("Available", "False", SOON).await;
    eventually(SOON, || async {
        let pool: Pool = sky.get("pool").await;
        let ready = pool.status.unwrap().ready;
        if ready == 2 { Ok(()) } else { Err(format!("{ready} are ready; {}", told.message)) }
    })
    .await;
    assert_eq!(sky.count("create-server").await, 2, "what others use is not asked for");
    let theirs = |servers: &[Value]| servers.iter().filter(|server| server["foreign"] == true).count();
    assert_eq!(theirs(&sky.servers().await), 3);
    for server in sky.servers().await.iter().filter(|server| server["foreign"] == true) {
        sky.simulator.send(reqwest::Method::DELETE, &format!("servers/{}", server["id"].as_str().unwrap()), None).await;
    }
    sky.ready(4).await;
    sky.end().await;
}

#[tokio::test]
async fn a_server_with_our_name_but_not_our_mark_is_not_adopted() {
    let sky = Settings::default().provider(json!({"launchTimeout": "4s"})).start().await;
    sky.simulator.fault(json!({"call": "create-server", "times": 1, "fault": {"type": "cut"}})).await;
    sky.want(1).await;
    let first = eventually(SOON, || async { sky.nodes().await.pop().ok_or_else(|| "no record yet".to_owned()) }).await;
    let name = nodepool_operator::controllers::pool_node::server_name(&first);
    sky.simulator.send(reqwest::Method::POST, "servers", Some(json!({"name": name}))).await;
    let node = sky.ready(1).await.remove(0);
    assert_ne!(node.metadata.uid, first.metadata.uid);
    assert!(sky.servers().await.iter().any(|server| server["name"] == *name), "theirs is still there");
    sky.check().await;
}

#[tokio::test]
async fn an_image_service_that_is_away_stops_no_launch_of_a_known_image() {
    let sky = Settings::default().full_list("2s").start().await;
    for service in ["image", "network"] {
        sky.simulator.fault(json!({"service": service, "fault": {"type": "answer", "status": 503}})).await;
    }
    sky.want(2).await;
    sky.ready(2).await;
    // Nothing is made from a file meanwhile: what looks for leaks is all that asks the two.
    for service in ["image", "network"] {
        let named = format!("the {service} service does not answer");
        eventually(SOON, || async {
            let provider: Provider = sky.get(PROVIDER).await;
            let conditions = provider.status.unwrap_or_default().conditions;
            let told = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            let names = told.as_ref().is_some_and(|told| told.message.contains(&named));
            if names { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }
    sky.make_image("late", &[PROVIDER], &sky.simulator).await;
    eventually(SOON, || async {
        let image: DiskImage = sky.get("late").await;
        let told = image.status.unwrap_or_default().conditions.into_iter().find(|c| c.type_ == "Available");
        match told {
            Some(told) if told.status == "False" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    sky.simulator.clear_faults().await;
    eventually(SOON, || async {
        let image: DiskImage = sky.get("late").await;
        let told = image.status.unwrap_or_default().conditions.into_iter().find(|c| c.type_ == "Available");
        match told {
            Some(told) if told.status == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    sky.end().await;
}
