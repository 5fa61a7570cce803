//! Pools: how they fill, are used up and refilled, shrink, pause, and follow what their template says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, NodeState, Pool, PoolNode, Provider, ProviderImage};
use russh::client::{self, Handler};
use russh::keys::PublicKeyOrCertificate;
use serde_json::{Value, json};
use support::world::{SOON, given, server_ids, text};
use support::{World, eventually};

/// How many of the nodes are on this provider.
fn on(nodes: &[PoolNode], provider: &str) -> usize {
    nodes.iter().filter(|node| node.spec.provider == provider).count()
}

#[tokio::test]
async fn a_pool_fills_over_two_providers_and_both_get_a_share() {
    let world = World::builder().cloud("a", 4).cloud("b", 4).start().await;
    world.pool("small", 4, json!({})).await;
    let nodes = world.pool_ready("small", 4).await;
    assert_eq!((on(&nodes, "a"), on(&nodes, "b")), (2, 2));
    world.condition::<Pool>("small", "Available", "True").await;
    world.one_server_per_record().await;
    assert_eq!((world.highest(0).await, world.highest(1).await), (2, 2));
    world.delete::<Pool>("small").await;
    world.empty().await;
}

#[tokio::test]
async fn a_used_node_is_destroyed_and_never_handed_out_again() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({})).await;
    world.pool_ready("small", 2).await;
    let mut used = BTreeSet::new();
    for round in 0..3 {
        let name = format!("round-{round}");
        world.request(&name, &[("small", 1)], json!({})).await;
        let servers = given(&world.fulfilled(&name).await);
        assert!(servers.is_disjoint(&used), "handed out twice: {servers:?}");
        world.release(&name).await;
        world.destroyed(&servers).await;
        used.extend(servers);
        let ready = world.pool_ready("small", 2).await;
        assert!(server_ids(&ready).is_disjoint(&used), "a used server is ready again");
    }
    assert_eq!(used.len(), 3);
    assert_eq!(world.servers_ever().await.len(), 5, "one new server for each used one");
    assert!(world.highest(0).await <= 4);
    world.one_server_per_record().await;
}

/// Keeps the key that a server proved to have.
struct Seen(Arc<Mutex<Option<String>>>);

impl Handler for Seen {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        if let PublicKeyOrCertificate::PublicKey { key, .. } = key {
            *self.0.lock().unwrap() = Some(key.to_openssh().unwrap());
        }
        Ok(true)
    }
}

#[tokio::test]
async fn a_ready_node_records_the_keys_of_a_real_handshake() {
    let world = World::one_cloud(1).await;
    world.pool("small", 1, json!({})).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    let said = world.namespace.kubectl().wait("condition=Ready", &format!("poolnode/{}", node.name_any()), 5).await;
    assert!(said.success, "{}", said.stderr);
    let status = node.status.unwrap();
    let seen = Arc::new(Mutex::new(None));
    let address = (status.address.clone().unwrap(), u16::try_from(status.port.unwrap()).unwrap());
    let session = client::connect(Arc::new(client::Config::default()), address, Seen(Arc::clone(&seen))).await.unwrap();
    drop(session);
    let proven = seen.lock().unwrap().clone().unwrap();
    let words = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    assert!(status.host_keys.iter().any(|key| words(key) == words(&proven)), "{proven}: {:?}", status.host_keys);
    assert_eq!(status.username.as_deref(), Some("debian"));
    let server = &world.servers(0).await[0];
    assert_eq!(server["addresses"], json!([status.address]));
    assert_eq!(server["id"], json!(status.server_id));
}

#[tokio::test]
async fn two_pools_share_a_provider_that_is_too_small_for_both() {
    let world = World::builder().cloud_with("a", 4, json!({"paused": true})).start().await;
    // Both are there before anything can be launched: neither was first.
    world.pool("one", 4, json!({})).await;
    world.pool("two", 4, json!({})).await;
    for pool in ["one", "two"] {
        world.reason::<Pool>(pool, "Available", "Paused").await;
    }
    world.patch::<Provider>("a", json!({"spec": {"paused": false}})).await;
    eventually(SOON, || async {
        let (one, two) = (world.ready_nodes("one").await.len(), world.ready_nodes("two").await.len());
        if (one, two) == (2, 2) { Ok(()) } else { Err(format!("{one} + {two}")) }
    })
    .await;
    let reasons = [
        world.reason::<Pool>("one", "Available", "WaitingForCapacity").await,
        world.reason::<Pool>("two", "Available", "WaitingForCapacity").await,
    ];
    assert!(reasons.iter().all(|reason| text(&reason["message"]).contains('a')), "{reasons:?}");
    assert_eq!(world.highest(0).await, 4);
    // What one gives up, the other gets.
    world.namespace.kubectl().scale("pool/one", 0).await;
    world.pool_ready("two", 4).await;
    assert_eq!(world.highest(0).await, 4);
}

#[tokio::test]
async fn kubectl_scale_fills_shrinks_and_empties_a_pool() {
    let world = World::one_cloud(5).await;
    world.pool("small", 1, json!({})).await;
    let first = server_ids(&world.pool_ready("small", 1).await);
    let kubectl = world.namespace.kubectl();
    kubectl.scale("pool/small", 4).await;
    let grown = server_ids(&world.pool_ready("small", 4).await);
    assert!(grown.is_superset(&first), "growing replaced a node");
    kubectl.scale("pool/small", 2).await;
    let shrunk = server_ids(&world.pool_ready("small", 2).await);
    assert!(grown.is_superset(&shrunk), "shrinking launched a node");
    kubectl.scale("pool/small", 0).await;
    world.empty().await;
    world.reason::<Pool>("small", "Available", "ScaledToZero").await;
    assert_eq!(world.servers_ever().await.len(), 4);
}

#[tokio::test]
async fn a_paused_pool_launches_nothing_and_loses_nothing() {
    let world = World::one_cloud(6).await;
    world.pool("small", 2, json!({})).await;
    let before = server_ids(&world.pool_ready("small", 2).await);
    world.pool("small", 4, json!({"paused": true})).await;
    world.reason::<Pool>("small", "Available", "Paused").await;
    // Another pool shows that whatever could have happened to this one has.
    world.pool("other", 1, json!({})).await;
    world.pool_ready("other", 1).await;
    assert_eq!(server_ids(&world.pool_ready("small", 2).await), before);
    world.pool("small", 0, json!({"paused": true})).await;
    world.namespace.kubectl().scale("pool/other", 2).await;
    world.pool_ready("other", 2).await;
    assert_eq!(server_ids(&world.pool_ready("small", 2).await), before);
    // What it has can still be taken.
    world.request("taker", &[("small", 1)], json!({})).await;
    assert!(before.is_superset(&given(&world.fulfilled("taker").await)));
    world.pool("small", 3, json!({"paused": false})).await;
    world.pool_ready("small", 3).await;
}

#[tokio::test]
async fn max_nodes_counts_nodes_in_use() {
    let world = World::one_cloud(6).await;
    world.pool("small", 2, json!({"maxNodes": 3})).await;
    world.pool_ready("small", 2).await;
    world.request("pair", &[("small", 2)], json!({})).await;
    world.fulfilled("pair").await;
    world.pool_ready("small", 1).await;
    world.reason::<Pool>("small", "Available", "WaitingForCapacity").await;
    assert_eq!(world.highest(0).await, 3);
    world.release("pair").await;
    world.pool_ready("small", 2).await;
    assert_eq!(world.highest(0).await, 3);
}

#[tokio::test]
async fn the_preferred_provider_is_filled_first_up_to_its_share() {
    let world = World::builder().cloud("a", 5).cloud("b", 5).start().await;
    let providers = json!([{"name": "a", "priority": 20}, {"name": "b", "priority": 10, "maxNodes": 2}]);
    world.pool("small", 1, json!({"providers": providers})).await;
    let nodes = world.pool_ready("small", 1).await;
    assert_eq!((on(&nodes, "a"), on(&nodes, "b")), (0, 1));
    world.namespace.kubectl().scale("pool/small", 4).await;
    let nodes = world.pool_ready("small", 4).await;
    assert_eq!((on(&nodes, "a"), on(&nodes, "b")), (2, 2));
    assert_eq!(world.highest(1).await, 2);
}

#[tokio::test]
async fn nodes_that_were_ready_too_long_are_replaced() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({"maxReadyAge": "3s"})).await;
    let first = server_ids(&world.pool_ready("small", 2).await);
    world.request("keeper", &[("small", 1)], json!({})).await;
    let kept = given(&world.fulfilled("keeper").await);
    world.destroyed(&first.difference(&kept).cloned().collect()).await;
    world.pool_ready("small", 2).await;
    let servers: BTreeSet<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
    assert!(servers.is_superset(&kept), "a claimed node was replaced for its age");
    assert!(world.highest(0).await <= 4);
}

/// Follows a pool until all its idle nodes satisfy `new`; says the lowest number of idle nodes seen on the way.
async fn lowest_until(world: &World, pool: &str, count: usize, new: impl Fn(&PoolNode) -> bool) -> usize {
    let lowest = Mutex::new(usize::MAX);
    let (lowest_seen, new) = (&lowest, &new);
    eventually(SOON, move || async move {
        let idle = world.ready_nodes(pool).await;
        let mut lowest = lowest_seen.lock().unwrap();
        *lowest = (*lowest).min(idle.len());
        let done = idle.iter().filter(|node| new(node)).count();
        if done == count && idle.len() == count { Ok(()) } else { Err(format!("{done} of {} are new", idle.len())) }
    })
    .await;
    lowest.into_inner().unwrap()
}

#[tokio::test]
async fn a_rolling_update_never_misses_more_than_it_may() {
    let world = World::builder().cloud("a", 6).simulator_arg("--boot-time=300ms").start().await;
    world.pool("small", 3, json!({})).await;
    world.pool_ready("small", 3).await;
    world.request("user", &[("small", 1)], json!({})).await;
    let used = given(&world.fulfilled("user").await);
    world.pool_ready("small", 3).await;
    world.pool("small", 3, json!({"flavor": {"name": "medium"}, "update": {"maxUnavailable": 1}})).await;
    let lowest = lowest_until(&world, "small", 3, |node| node.spec.flavor == "medium").await;
    assert!(lowest >= 2, "only {lowest} of 3 were ready during the update");
    world.pool("small", 3, json!({"flavor": {"name": "medium"}, "metadata": {"team": "ci"}})).await;
    eventually(SOON, || async {
        let servers = world.servers(0).await;
        let new = servers.iter().filter(|server| server["metadata"]["team"] == "ci").count();
        if new == 3 && servers.len() == 4 { Ok(()) } else { Err(format!("{servers:?}")) }
    })
    .await;
    let servers: BTreeSet<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
    assert!(servers.is_superset(&used), "a claimed node was replaced");
}

#[tokio::test]
async fn a_pool_that_updates_on_replenish_keeps_what_is_ready() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({"update": {"strategy": "OnReplenish"}})).await;
    let before = server_ids(&world.pool_ready("small", 2).await);
    world.pool("small", 2, json!({"update": {"strategy": "OnReplenish"}, "flavor": {"name": "medium"}})).await;
    eventually(SOON, || async {
        let status = world.get::<Pool>("small").await.status.unwrap();
        if status.updated == 0 { Ok(()) } else { Err(json!(status).to_string()) }
    })
    .await;
    world.request("taker", &[("small", 1)], json!({})).await;
    assert!(before.is_superset(&given(&world.fulfilled("taker").await)));
    let nodes = world.pool_ready("small", 2).await;
    let flavors: BTreeSet<&str> = nodes.iter().map(|node| node.spec.flavor.as_str()).collect();
    assert_eq!(flavors, ["medium", "small"].into());
}

#[tokio::test]
async fn a_newer_image_of_the_same_name_replaces_the_nodes_of_the_old_one() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({})).await;
    world.pool_ready("small", 2).await;
    let made = world.clouds[0].send(reqwest::Method::POST, "images", Some(json!({"name": "debian-13"}))).await;
    let new = text(&made["id"]);
    world.patch::<DiskImage>("debian-13", json!({"spec": {"refresh": {"jitter": "30m"}}})).await;
    let lowest = lowest_until(&world, "small", 2, |node| node.spec.image_id == new).await;
    assert!(lowest >= 1, "the pool was empty during the update");
    assert!(world.servers(0).await.iter().all(|server| server["image"] == json!(new)));
    let status = json!(world.get::<DiskImage>("debian-13").await.status);
    assert_eq!(status["providers"][0]["imageID"], json!(new), "{status}");
    assert!(status["providers"][0]["previous"].is_string(), "the old version is kept: {status}");
    let current = text(&status["providers"][0]["current"]);
    world.condition::<ProviderImage>(&current, "Ready", "True").await;
}

#[tokio::test]
async fn an_idle_node_that_stops_answering_is_replaced() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({"readiness": {"recheck": "1s"}})).await;
    let before = server_ids(&world.pool_ready("small", 2).await);
    let silent = before.first().unwrap().clone();
    world.clouds[0].send(reqwest::Method::POST, &format!("servers/{silent}"), Some(json!({"ssh": "never"}))).await;
    world.destroyed(&[silent.clone()].into()).await;
    let after = server_ids(&world.pool_ready("small", 2).await);
    assert!(!after.contains(&silent));
    assert_eq!(after.intersection(&before).count(), 1, "the other one answered and stays");
}

#[tokio::test]
async fn a_pool_decides_what_must_answer_before_a_node_is_ready() {
    let world = World::one_cloud(4).await;
    world.clouds[0].fault(json!({"fault": {"type": "ssh", "mode": "silent"}, "times": 2})).await;
    world.pool("tcp", 1, json!({"readiness": {"probe": "tcp"}})).await;
    let nodes = world.pool_ready("tcp", 1).await;
    assert!(nodes[0].status.as_ref().unwrap().host_keys.is_empty());
    world.clouds[0].clear_faults().await;
    world.clouds[0].fault(json!({"fault": {"type": "ssh", "mode": "never"}, "times": 1})).await;
    world.pool("none", 1, json!({"readiness": {"probe": "none"}})).await;
    world.pool_ready("none", 1).await;
    assert_eq!(world.servers_ever().await.len(), 2);
}

#[tokio::test]
async fn a_held_node_is_kept_out_of_the_pool_until_its_hold_ends() {
    let world = World::one_cloud(4).await;
    world.pool("small", 1, json!({})).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    let server = server_ids(std::slice::from_ref(&node));
    let until = jiff::Timestamp::now() + Duration::from_secs(5);
    world
        .patch::<PoolNode>(&node.name_any(), json!({"spec": {"hold": {"reason": "look at it", "until": until}}}))
        .await;
    let replacement = eventually(SOON, || async {
        let held = world.get::<PoolNode>(&node.name_any()).await;
        let ready = world.ready_nodes("small").await;
        let pool = world.get::<Pool>("small").await.status.unwrap();
        if held.state() == NodeState::Held && ready.len() == 1 && (pool.held, pool.ready) == (1, 1) {
            return Ok(server_ids(&ready));
        }
        Err(format!("{}, {} ready, {}", held.state(), ready.len(), json!(pool)))
    })
    .await;
    assert!(replacement.is_disjoint(&server));
    assert!(jiff::Timestamp::now() < until, "this machine is too slow to see the hold");
    world.destroyed(&server).await;
    assert!(jiff::Timestamp::now() >= until, "it was destroyed before its time");
    world.gone::<PoolNode>(&node.name_any()).await;
    assert_eq!(server_ids(&world.pool_ready("small", 1).await), replacement);
}

#[tokio::test]
async fn a_stable_world_is_left_alone() {
    let world = World::builder().cloud("a", 4).api_proxied().operator_arg("--full-list-interval=2s").start().await;
    world.pool("small", 2, json!({"readiness": {"recheck": "2s"}})).await;
    world.pool_ready("small", 2).await;
    world.request("user", &[("small", 1)], json!({})).await;
    world.fulfilled("user").await;
    world.pool_ready("small", 2).await;
    let proxy = world.api.as_ref().unwrap();
    let writes = || {
        let calls = proxy.calls().into_iter().map(|call| call.signature);
        calls
            .filter(|call| ["CREATE", "UPDATE", "PATCH", "DELETE"].iter().any(|verb| call.starts_with(verb)))
            .collect::<Vec<_>>()
    };
    // Settled: the last counts are shown, the last event is written.
    let quiet = Mutex::new((writes().len(), tokio::time::Instant::now()));
    eventually(SOON, || async {
        let now = tokio::time::Instant::now();
        let mut quiet = quiet.lock().unwrap();
        if quiet.0 != writes().len() {
            *quiet = (writes().len(), now);
        }
        if now - quiet.1 >= Duration::from_secs(2) { Ok(()) } else { Err(format!("{:?}", writes().last())) }
    })
    .await;
    proxy.reset();
    world.clouds[0].send(reqwest::Method::DELETE, "calls", None).await;
    // Nothing happening can only be seen by looking for a while.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(writes(), Vec::<String>::new());
    let calls = world.clouds[0].calls().await;
    let calls = calls["calls"].as_array().unwrap();
    let mutating: Vec<&Value> = calls.iter().filter(|call| call["method"] != "GET" && call["name"] != "auth").collect();
    assert!(mutating.is_empty(), "{mutating:?}");
    let of_one: Vec<&Value> = calls.iter().filter(|call| call["name"] == "show-server").collect();
    assert!(of_one.is_empty(), "asked for single servers: {of_one:?}");
    let lists = calls.iter().filter(|call| call["name"] == "list-servers").count();
    assert!((3..=12).contains(&lists), "{lists} lists in 10 s at one every 2 s");
}

#[tokio::test]
async fn the_operator_tells_how_it_is() {
    let world = World::one_cloud(3).await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    world.request("user", &[("small", 1)], json!({})).await;
    world.fulfilled("user").await;
    world.release("user").await;
    world.pool_ready("small", 1).await;
    for page in ["/livez", "/readyz"] {
        assert_eq!(world.operator.get(page).await.unwrap().0, 200, "{page}");
    }
    let labels = [r#"pool="small""#, r#"provider="a""#, r#"state="Ready""#];
    eventually(SOON, || async {
        let ready = world.operator.metric("nodepool_nodes", &labels).await;
        if (ready - 1.0).abs() < 0.5 { Ok(()) } else { Err(format!("{ready} ready nodes in the metrics")) }
    })
    .await;
    assert!(world.operator.metric("nodepool_launches_total", &[r#"result="ready""#]).await >= 2.0);
    assert!(world.operator.metric("nodepool_launch_duration_seconds_count", &[]).await >= 2.0);
    assert!(world.operator.metric("nodepool_request_wait_seconds_count", &[]).await >= 1.0);
    assert!(world.operator.metric("nodepool_cloud_calls_total", &[r#"service="compute""#]).await >= 3.0);
    let page = world.operator.metrics().await;
    assert!(page.contains("nodepool_current_image_age_seconds{"), "{page}");
}

#[tokio::test]
async fn transitions_are_told_in_events() {
    let world = World::one_cloud(2).await;
    world.clouds[0]
        .fault(json!({"times": 1, "fault": {"type": "build-error", "message": "the hypervisor tripped"}}))
        .await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    world.request("user", &[("small", 1)], json!({})).await;
    world.fulfilled("user").await;
    world.request("giant", &[("small", 9)], json!({})).await;
    world.failed("giant").await;
    for (name, reason) in [("small", "ServerError"), ("user", "NodesAssigned"), ("giant", "ExceedsCapacity")] {
        world.event(name, reason).await;
    }
    let failure = world.get::<Pool>("small").await.status.unwrap().last_launch_failure.unwrap();
    assert!(failure.message.contains("the hypervisor tripped"), "{failure:?}");
    assert_eq!(failure.reason, "ServerError");
    world.condition::<Provider>("a", "Ready", "True").await;
}

#[tokio::test]
async fn a_deleted_pool_takes_its_idle_nodes_along_and_leaves_those_in_use() {
    let world = World::one_cloud(4).await;
    world.pool("small", 2, json!({})).await;
    world.pool_ready("small", 2).await;
    world.request("user", &[("small", 1)], json!({})).await;
    let used = given(&world.fulfilled("user").await);
    world.pool_ready("small", 2).await;
    world.delete::<Pool>("small").await;
    eventually(SOON, || async {
        let left: BTreeSet<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
        if left == used { Ok(()) } else { Err(format!("{left:?}, only {used:?} are in use")) }
    })
    .await;
    assert_eq!(world.fulfilled("user").await.status.unwrap().nodes.len(), 1);
    world.release("user").await;
    world.empty().await;
}
