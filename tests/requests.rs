//! Requests: who is served when and with what, how a request ends, and that a node goes to exactly one of those who
//! want it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use nodepool_operator::api::{NodeRequest, NodeState, Pool, PoolNode, RequestState};
use serde_json::{Value, json};
use support::world::{SOON, condition, given, is_idle, server_id, server_ids, text};
use support::{Moment, Verdict, World, eventually};

/// The reason of a request's condition.
fn why(request: &NodeRequest) -> String {
    text(&condition(request, "Fulfilled")["reason"])
}

#[tokio::test]
async fn a_request_gets_all_that_a_client_needs_to_log_in() {
    let world = World::one_cloud(2).await;
    world.pool("small", 1, json!({})).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    world.request("user", &[("small", 1)], json!({})).await;
    let said = world.namespace.kubectl().wait("condition=Fulfilled", "noderequest/user", 20).await;
    assert!(said.success, "{}", said.stderr);
    let status = world.get::<NodeRequest>("user").await.status.unwrap();
    assert_eq!((status.state, status.provider.as_deref(), status.position), (RequestState::Fulfilled, Some("a"), None));
    let (given, seen) = (&status.nodes[0], node.status.unwrap());
    assert_eq!(given.pool_node, node.metadata.name.unwrap());
    assert_eq!(Some(&given.server_id), seen.server_id.as_ref());
    assert_eq!(Some(&given.address), seen.address.as_ref());
    assert_eq!((given.port, given.username.as_str()), (seen.port.unwrap(), "debian"));
    assert!(!given.host_keys.is_empty() && given.host_keys == seen.host_keys);
    let state = world.get::<PoolNode>(&given.pool_node).await.spec.claim_ref.unwrap();
    assert_eq!((state.name.as_str(), state.namespace.as_str()), ("user", world.namespace.name()));
    eventually(SOON, || async {
        let state = world.get::<PoolNode>(&given.pool_node).await.state();
        if state == NodeState::InUse { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_no_provider_could_ever_hold_fails_at_once() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    world.pool("small", 0, json!({})).await;
    world.pool("capped", 0, json!({"maxNodes": 1})).await;
    world.request("giant", &[("small", 3)], json!({})).await;
    world.request("beyond-the-pool", &[("capped", 2)], json!({})).await;
    world.request("beyond-all", &[("small", 5)], json!({"spread": true})).await;
    for name in ["giant", "beyond-the-pool", "beyond-all"] {
        let request = world.failed(name).await;
        assert_eq!(why(&request), "ExceedsCapacity", "{name}");
        assert!(!text(&condition(&request, "Fulfilled")["message"]).is_empty());
    }
    // What one provider cannot hold, two can.
    world.request("spread", &[("small", 3)], json!({"spread": true})).await;
    let nodes = world.fulfilled("spread").await.status.unwrap().nodes;
    let providers: BTreeSet<&str> = nodes.iter().map(|node| node.provider.as_str()).collect();
    assert_eq!((nodes.len(), providers), (3, ["a", "b"].into()));
    assert_eq!(world.servers_ever().await.len(), 3, "nothing was launched for what cannot be served");
}

#[tokio::test]
async fn a_request_waits_for_what_is_not_free_and_shows_its_place() {
    let world = World::one_cloud(3).await;
    world.pool("small", 0, json!({})).await;
    world.request("first", &[("small", 2)], json!({})).await;
    let first = given(&world.fulfilled("first").await);
    world.request("second", &[("small", 3)], json!({})).await;
    world.position("second", 1).await;
    world.request("third", &[("small", 2)], json!({"priority": -1})).await;
    world.position("third", 2).await;
    let columns = world.namespace.kubectl().run(&["get", "noderequest", "second"]).await.stdout;
    assert!(columns.contains("POSITION") && columns.contains("Pending"), "{columns}");
    world.release("first").await;
    let second = given(&world.fulfilled("second").await);
    assert!(second.len() == 3 && second.is_disjoint(&first), "{second:?}");
    world.position("third", 1).await;
    world.release("second").await;
    assert!(given(&world.fulfilled("third").await).is_disjoint(&second));
    world.release("third").await;
    world.empty().await;
    assert_eq!(world.highest(0).await, 3);
}

#[tokio::test]
async fn a_request_for_several_pools_is_served_on_one_provider() {
    let world = World::builder().cloud("a", 3).cloud("b", 6).start().await;
    world.pool("small", 2, json!({})).await;
    world.pool("large", 1, json!({"flavor": {"name": null, "minRam": "8Gi"}, "providers": [{"name": "b"}]})).await;
    world.pool_ready("small", 2).await;
    world.pool_ready("large", 1).await;
    world.request("build", &[("large", 1), ("small", 3)], json!({})).await;
    let status = world.fulfilled("build").await.status.unwrap();
    assert_eq!(status.provider.as_deref(), Some("b"));
    let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n0", "n1-0", "n1-1", "n1-2"]);
    let nodes = world.nodes().await;
    let flavor = |name: &str| nodes.iter().find(|node| node.name_any() == name).unwrap().spec.flavor.clone();
    let flavors: Vec<String> = status.nodes.iter().map(|node| flavor(&node.pool_node)).collect();
    assert_eq!(flavors, ["large", "small", "small", "small"]);
    assert!(status.nodes.iter().all(|node| node.provider == "b"));
}

/// Waits until the API server's clock shows another second than an object's creation.
async fn next_second(world: &World, name: &str) {
    let created = world.get::<NodeRequest>(name).await.creation_timestamp().unwrap().0.as_second();
    eventually(SOON, || async move {
        if jiff::Timestamp::now().as_second() > created { Ok(()) } else { Err("the same second".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn priority_comes_before_age_and_age_before_names() {
    let world = World::one_cloud(1).await;
    world.pool("small", 0, json!({})).await;
    world.request("holder", &[("small", 1)], json!({})).await;
    world.fulfilled("holder").await;
    world.request("z-old", &[("small", 1)], json!({})).await;
    next_second(&world, "z-old").await;
    world.request("a-young", &[("small", 1)], json!({})).await;
    world.request("urgent", &[("small", 1)], json!({"priority": 7})).await;
    let queue = ["urgent", "z-old", "a-young"];
    for (place, name) in (1..).zip(queue) {
        world.position(name, place).await;
    }
    let mut before = "holder";
    for name in queue {
        world.release(before).await;
        world.fulfilled(name).await;
        before = name;
    }
    // The priority of one that waits can be changed.
    world.request("patient", &[("small", 1)], json!({})).await;
    world.position("patient", 1).await;
    next_second(&world, "patient").await;
    world.request("late", &[("small", 1)], json!({})).await;
    world.position("late", 2).await;
    world.patch::<NodeRequest>("late", json!({"spec": {"priority": 1}})).await;
    world.position("late", 1).await;
    world.position("patient", 2).await;
    assert_eq!(world.highest(0).await, 1);
}

#[tokio::test]
async fn a_request_fails_when_it_waited_too_long() {
    let world = World::one_cloud(1).await;
    world.pool("small", 0, json!({})).await;
    world.request("holder", &[("small", 1)], json!({})).await;
    world.fulfilled("holder").await;
    world.request("hasty", &[("small", 1)], json!({"waitTimeout": "2s"})).await;
    world.request("patient", &[("small", 1)], json!({"priority": -5})).await;
    let hasty = world.failed("hasty").await;
    assert_eq!(why(&hasty), "WaitTimeout");
    assert_eq!(hasty.status.unwrap().position, None);
    world.position("patient", 1).await;
    world.release("holder").await;
    world.fulfilled("patient").await;
}

#[tokio::test]
async fn a_request_that_keeps_its_nodes_too_long_loses_them() {
    let world = World::one_cloud(2).await;
    world.pool("small", 0, json!({})).await;
    world.request("slow", &[("small", 2)], json!({"activeDeadline": "2s"})).await;
    let servers = given(&world.fulfilled("slow").await);
    let failed = world.failed("slow").await;
    assert_eq!(why(&failed), "ActiveDeadlineExceeded");
    world.destroyed(&servers).await;
    world.empty().await;
}

#[tokio::test]
async fn nodes_of_a_request_that_asks_for_it_are_held_on_release() {
    let world = World::one_cloud(3).await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    world.request("debug", &[("small", 1)], json!({"onRelease": "Hold"})).await;
    let request = world.fulfilled("debug").await;
    let node = request.status.as_ref().unwrap().nodes[0].pool_node.clone();
    world.release("debug").await;
    let held = world
        .namespace
        .wait_for::<PoolNode>(&node, SOON, |node| node.is_some_and(|node| node.state() == NodeState::Held))
        .await
        .unwrap();
    assert!(held.spec.hold.is_some_and(|hold| !hold.reason.is_empty()));
    world.pool_ready("small", 1).await;
    let servers: BTreeSet<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
    assert!(servers.is_superset(&given(&request)), "the held server is gone");
    let shown = |pool: Option<&Pool>| pool.and_then(|pool| pool.status.as_ref()).is_some_and(|status| status.held == 1);
    world.namespace.wait_for::<Pool>("small", SOON, shown).await;
    // Taking the hold off ends it.
    world.patch::<PoolNode>(&node, json!({"spec": {"hold": null}})).await;
    world.destroyed(&given(&request)).await;
    world.pool_ready("small", 1).await;
}

#[tokio::test]
async fn nodes_are_released_when_the_owner_of_their_request_is_deleted() {
    let world = World::one_cloud(2).await;
    world.pool("small", 0, json!({})).await;
    let owner: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "job"}})).unwrap();
    let owner = world.namespace.api::<ConfigMap>().create(&PostParams::default(), &owner).await.unwrap();
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "job", "uid": owner.metadata.uid});
    let request = json!({
        "apiVersion": "nodepool.dev/v1alpha1", "kind": "NodeRequest",
        "metadata": {"name": "of-a-job", "ownerReferences": [reference]},
        "spec": {"nodes": [{"name": "n", "pool": "small", "count": 2}]},
    });
    world.namespace.kubectl().apply_json(&request).await;
    world.fulfilled("of-a-job").await;
    world.delete::<ConfigMap>("job").await;
    world.gone::<NodeRequest>("of-a-job").await;
    world.empty().await;
}

#[tokio::test]
async fn only_a_request_evicts_idle_nodes_of_another_pool_and_the_oldest_first() {
    let world = World::one_cloud(3).await;
    world.pool("old", 1, json!({})).await;
    let oldest = server_ids(&world.pool_ready("old", 1).await);
    let name = world.nodes().await[0].metadata.name.clone().unwrap();
    let made = world.get::<PoolNode>(&name).await.status.unwrap().ready_at.unwrap().0.as_second();
    eventually(SOON, || async move {
        if jiff::Timestamp::now().as_second() > made { Ok(()) } else { Err("too early".to_owned()) }
    })
    .await;
    world.namespace.kubectl().scale("pool/old", 3).await;
    let full = server_ids(&world.pool_ready("old", 3).await);
    // Standby of another pool takes nothing away.
    world.pool("new", 2, json!({"flavor": {"name": "medium"}})).await;
    world.reason::<Pool>("new", "Available", "WaitingForCapacity").await;
    assert_eq!(server_ids(&world.pool_ready("old", 3).await), full);
    world.request("urgent", &[("new", 1)], json!({})).await;
    world.fulfilled("urgent").await;
    let left = server_ids(&world.ready_nodes("old").await);
    assert_eq!(full.difference(&left).cloned().collect::<BTreeSet<_>>(), oldest, "exactly the oldest made way");
    assert_eq!(world.highest(0).await, 3);
    assert_eq!(world.servers_ever().await.len(), 4);
}

#[tokio::test]
async fn a_request_adopts_a_node_that_is_still_building() {
    let world = World::builder().cloud("a", 4).simulator_arg("--boot-time=3s").start().await;
    // No second node may be made: one made a moment later could answer first, and be given as well.
    world.pool("small", 1, json!({"maxNodes": 1})).await;
    let building = eventually(SOON, || async {
        let servers = world.servers(0).await;
        servers.first().map(|server| text(&server["id"])).ok_or_else(|| "no server yet".to_owned())
    })
    .await;
    world.request("early", &[("small", 1)], json!({})).await;
    let request = world.fulfilled("early").await;
    assert_eq!(given(&request), [building].into(), "it waited for the node that was on its way");
    assert_eq!(world.servers_ever().await.len(), 1, "none was made for the request");
}

#[tokio::test]
async fn fifty_claimers_share_ten_servers_and_no_node_goes_to_two() {
    let world = World::one_cloud(10).await;
    world.pool("small", 10, json!({})).await;
    world.pool_ready("small", 10).await;
    let counts: Vec<u32> = (0..50).map(|number| if number % 5 == 0 { 3 } else { 1 }).collect();
    let api = world.namespace.api::<NodeRequest>();
    let made = counts.iter().enumerate().map(|(number, count)| {
        let api = api.clone();
        let request = json!({"metadata": {"name": format!("r-{number}")}, "spec": {"nodes": [{"name": "n", "pool": "small", "count": count}]}});
        async move { api.create(&PostParams::default(), &serde_json::from_value(request).unwrap()).await.unwrap() }
    });
    join_all(made).await;
    let mut used = BTreeSet::new();
    let served = std::sync::Mutex::new(BTreeSet::new());
    // Whoever is served gives back at once, until all were.
    while served.lock().unwrap().len() < 50 {
        let fresh = eventually(SOON, || async {
            let requests = world.namespace.list::<NodeRequest>().await;
            let failed: Vec<&NodeRequest> = requests
                .iter()
                .filter(|request| request.status.as_ref().is_some_and(|s| s.state == RequestState::Failed))
                .collect();
            assert!(failed.is_empty(), "{failed:?}");
            let partly = requests.iter().filter(|request| {
                request.status.as_ref().is_some_and(|s| s.state == RequestState::Pending && !s.nodes.is_empty())
            });
            assert_eq!(partly.count(), 0, "a request shows a part of its nodes");
            let new = |request: &NodeRequest| {
                let fulfilled = request.status.as_ref().is_some_and(|status| status.state == RequestState::Fulfilled);
                fulfilled && !served.lock().unwrap().contains(&request.name_any())
            };
            let fresh: Vec<NodeRequest> = requests.into_iter().filter(new).collect();
            if fresh.is_empty() { Err(format!("{} of 50 are served", served.lock().unwrap().len())) } else { Ok(fresh) }
        })
        .await;
        for request in fresh {
            let servers = given(&request);
            assert_eq!(servers.len(), usize::try_from(request.spec.nodes[0].count).unwrap(), "all or nothing");
            assert!(servers.is_disjoint(&used), "{} got a server that another has or had", request.name_any());
            used.extend(servers);
            served.lock().unwrap().insert(request.name_any());
            world.release(&request.name_any()).await;
        }
    }
    assert_eq!(used.len(), usize::try_from(counts.iter().sum::<u32>()).unwrap());
    let ready = server_ids(&world.pool_ready("small", 10).await);
    assert!(ready.is_disjoint(&used));
    assert!(world.highest(0).await <= 10);
    world.one_server_per_record().await;
}

#[tokio::test]
async fn scaling_down_while_requests_come_takes_no_node_from_a_request() {
    let world = World::one_cloud(6).await;
    world.pool("small", 6, json!({})).await;
    let mut used = BTreeSet::new();
    for round in 0..4 {
        world.namespace.kubectl().scale("pool/small", 6).await;
        world.pool_ready("small", 6).await;
        let names: Vec<String> = (0..4).map(|number| format!("r-{round}-{number}")).collect();
        let api = world.namespace.api::<NodeRequest>();
        let requests =
            join_all(
                names.iter().map(|name| {
                    let request =
                        json!({"metadata": {"name": name}, "spec": {"nodes": [{"name": "n", "pool": "small"}]}});
                    let api = api.clone();
                    async move {
                        api.create(&PostParams::default(), &serde_json::from_value(request).unwrap()).await.unwrap()
                    }
                }),
            );
        let shrink = async {
            world
                .namespace
                .api::<Pool>()
                .patch("small", &PatchParams::default(), &Patch::Merge(json!({"spec": {"minReady": 0}})))
                .await
                .unwrap()
        };
        // Sometimes the one is sent first, sometimes the other.
        if round % 2 == 0 {
            drop(tokio::join!(requests, shrink))
        } else {
            drop(tokio::join!(shrink, requests))
        }
        let mut now = BTreeSet::new();
        for name in &names {
            let servers = given(&world.fulfilled(name).await);
            assert!(
                servers.len() == 1 && servers.is_disjoint(&used) && servers.is_disjoint(&now),
                "{name}: {servers:?}"
            );
            now.extend(servers);
        }
        // All that nobody took is gone, all that was taken is there.
        world.pool_ready("small", 0).await;
        let there: BTreeSet<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
        assert_eq!(there, now);
        for name in &names {
            world.release(name).await;
        }
        used.extend(now);
    }
    world.empty().await;
    assert!(world.highest(0).await <= 6);
}

#[tokio::test]
async fn a_node_that_is_deleted_under_a_claim_is_not_claimed() {
    let world = World::builder().cloud("a", 3).api_proxied().start().await;
    world.pool("small", 1, json!({})).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    let (done, api) = (Arc::new(AtomicBool::new(false)), world.namespace.api::<PoolNode>());
    let proxy = world.api.as_ref().unwrap();
    proxy.set_hook(Arc::new(move |call, moment| {
        let there =
            call.signature == "PATCH poolnodes" && moment == Moment::Before && !done.swap(true, Ordering::SeqCst);
        let (api, name) = (api.clone(), node_in(&call.path));
        Box::pin(async move {
            if there {
                api.delete(&name, &DeleteParams::default()).await.unwrap();
            }
            Verdict::Pass
        })
    }));
    world.request("user", &[("small", 1)], json!({})).await;
    let request = world.fulfilled("user").await;
    proxy.clear_hook();
    let lost = server_id(&node).unwrap();
    assert!(!given(&request).contains(&lost), "it got a node that was being deleted");
    world.destroyed(&[lost].into()).await;
    let ready = world.pool_ready("small", 1).await;
    assert!(server_ids(&ready).is_disjoint(&given(&request)));
}

#[tokio::test]
async fn a_node_that_is_claimed_under_a_deletion_is_not_deleted() {
    let world = World::builder().cloud("a", 3).api_proxied().start().await;
    world.pool("small", 1, json!({})).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    let (done, requests) = (Arc::new(AtomicBool::new(false)), world.namespace.api::<NodeRequest>());
    let (nodes, space) = (world.namespace.api::<PoolNode>(), world.namespace.name().to_owned());
    let proxy = world.api.as_ref().unwrap();
    proxy.set_hook(Arc::new(move |call, moment| {
        let there =
            call.signature == "DELETE poolnodes" && moment == Moment::Before && !done.swap(true, Ordering::SeqCst);
        let (requests, nodes, space) = (requests.clone(), nodes.clone(), space.clone());
        let name = node_in(&call.path);
        Box::pin(async move {
            if there {
                let request =
                    json!({"metadata": {"name": "winner"}, "spec": {"nodes": [{"name": "n", "pool": "small"}]}});
                let request =
                    requests.create(&PostParams::default(), &serde_json::from_value(request).unwrap()).await.unwrap();
                let claim = json!({"namespace": space, "name": "winner", "uid": request.uid()});
                let patch = Patch::Merge(json!({"spec": {"claimRef": claim}}));
                nodes.patch(&name, &PatchParams::default(), &patch).await.unwrap();
            }
            Verdict::Pass
        })
    }));
    world.namespace.kubectl().scale("pool/small", 0).await;
    eventually(SOON, || async {
        let found = world.namespace.api::<NodeRequest>().get_opt("winner").await.unwrap();
        found.map(|_| ()).ok_or_else(|| "nothing was deleted yet".to_owned())
    })
    .await;
    let request = world.fulfilled("winner").await;
    proxy.clear_hook();
    assert_eq!(given(&request), server_ids(std::slice::from_ref(&node)), "the node that was claimed first");
    world.pool_ready("small", 0).await;
    let servers: Vec<Value> = world.servers(0).await;
    assert!(servers.iter().any(|server| Some(text(&server["id"])) == server_id(&node)), "{servers:?}");
    assert!(!is_idle(&world.get::<PoolNode>(&node.name_any()).await));
}

/// The node that a call to the API server is about.
fn node_in(path: &str) -> String {
    path.split(['/', '?']).skip_while(|segment| *segment != "poolnodes").nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_served_request_that_loses_a_server_says_so() {
    let world = World::builder().cloud("a", 3).operator_arg("--full-list-interval=1s").start().await;
    world.pool("small", 0, json!({})).await;
    world.request("user", &[("small", 2)], json!({})).await;
    let servers = given(&world.fulfilled("user").await);
    let lost = servers.first().unwrap();
    world.clouds[0].send(reqwest::Method::DELETE, &format!("servers/{lost}"), None).await;
    world.reason::<NodeRequest>("user", "Fulfilled", "NodeLost").await;
    let left: Vec<String> = world.servers(0).await.iter().map(|server| text(&server["id"])).collect();
    assert_eq!(left.len(), 1, "nothing new was given behind its back: {left:?}");
}
