//! `launchFence: Port` on the real Nova and Neutron.

use std::sync::Arc;

use nodepool_operator::api::{Pool, PoolNode};
use serde_json::{Value, json};

use super::stage::{PATIENCE, PROVIDER, Stage};
use super::support::openstack::{OpenStack, Project};
use super::support::world::{server_id, text};
use super::support::{Moment, Proxy, Verdict, eventually};

/// The ports that carry our mark, by the cloud's word.
async fn ports(stage: &Stage) -> Vec<Value> {
    let mut all = stage.project.get("network", "/ports").await["ports"].take();
    let mark = format!("provider={}/{PROVIDER}", stage.world.namespace.name());
    let all = all.as_array_mut().unwrap();
    all.retain(|port| port["description"].as_str().unwrap_or_default().contains(&mark));
    std::mem::take(all)
}

async fn no_port_is_left(stage: &Stage) {
    eventually(PATIENCE, || async {
        let left = ports(stage).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn each_server_has_the_port_that_was_made_for_it_until_both_go() {
    let mut stage = Stage::on("lab", json!({"launchFence": "Port", "securityGroups": ["default"]})).await;
    stage.pool("small", 3).await;
    let nodes = stage.world.pool_ready("small", 3).await;
    let mut servers: Vec<String> = nodes.iter().filter_map(server_id).collect();
    let mut devices: Vec<String> = ports(&stage).await.iter().map(|port| text(&port["device_id"])).collect();
    servers.sort_unstable();
    devices.sort_unstable();
    assert_eq!(devices, servers);
    // The next life knows of no port, and finds them by their names.
    stage.restart().await;
    stage.world.request("one", &[("small", 1)], json!({})).await;
    stage.world.fulfilled("one").await;
    stage.world.release("one").await;
    stage.world.pool_ready("small", 3).await;
    stage.agrees().await;
    stage.world.delete::<Pool>("small").await;
    no_port_is_left(&stage).await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_boot_request_that_got_lost_is_settled_by_its_fence() {
    let project = Project::log_in("lab").await;
    let proxy = Proxy::before_cloud().await;
    let (origin, path) = split(&project.login.url("compute"));
    proxy.connect(&origin);
    let boot = format!("POST {path}/servers");
    proxy.set_hook(Arc::new(move |call, moment| {
        let lost = call.signature == boot && call.ordinal == 1 && moment == Moment::Before;
        Box::pin(async move { if lost { Verdict::Cut } else { Verdict::Pass } })
    }));
    let mut said = OpenStack::shared().cloud("lab");
    said["compute_endpoint_override"] = json!(format!("{}{path}", proxy.url()));
    let one_slot = json!({"launchFence": "Port", "maxServers": 1, "launchTimeout": "10m"});
    let stage = Stage::of("lab", said, one_slot).await;
    stage.pool("small", 1).await;
    let first: PoolNode = eventually(PATIENCE, || async {
        stage.world.namespace.list::<PoolNode>().await.pop().ok_or_else(|| "no record yet".to_owned())
    })
    .await;
    eventually(PATIENCE, || async {
        let closed = ports(&stage).await.iter().any(|port| port["device_id"] == "nodepool-fenced");
        if closed { Ok(()) } else { Err("its port is not closed".to_owned()) }
    })
    .await;
    let node = stage.world.pool_ready("small", 1).await.remove(0);
    assert_ne!(node.metadata.uid, first.metadata.uid, "the only slot was given to another long before launchTimeout");
    assert_eq!((stage.agrees().await.len(), ports(&stage).await.len()), (1, 1));
    stage.world.delete::<Pool>("small").await;
    no_port_is_left(&stage).await;
    stage.ends_empty().await;
}

/// Scheme, host and port of an address, and the path below them.
fn split(url: &str) -> (String, String) {
    let url = reqwest::Url::parse(url).unwrap();
    (url.origin().ascii_serialization(), url.path().trim_end_matches('/').to_owned())
}
