//! Whether a port that is made first fences late boots: a boot on a port that is bound, deleted, taken by name or
//! deleted meanwhile, and changes of a port that hold for one revision only.

use reqwest::Method;
use serde_json::{Value, json};

use super::reply::Reply;
use super::side::{Compute, NOBODY, Network, Side};

fn id(port: &Value) -> &str {
    port["id"].as_str().unwrap()
}

fn path(port: &Value) -> String {
    format!("/ports/{}", id(port))
}

/// What Neutron says to a project that deletes the port of a server.
const BOUND: &str = "rule:delete_port is disallowed by policy";

fn on(port: &Value) -> Value {
    json!({"networks": [{"port": port["id"]}]})
}

async fn set_device(side: &Side, port: &Value, device: &str, condition: Option<u64>) -> Reply {
    let ask = side.ask(Method::PUT, Network, &path(port)).json(&json!({"port": {"device_id": device}}));
    match condition {
        Some(revision) => ask.header("if-match", &format!("revision_number={revision}")).send().await,
        None => ask.send().await,
    }
}

async fn revision(side: &Side, port: &Value) -> u64 {
    side.get(Network, &path(port)).await.expect(200).json()["port"]["revision_number"].as_u64().unwrap()
}

async fn a_boot_takes_the_port_and_its_address(side: &Side) {
    let port = side.port(json!({})).await;
    let server = side.booted(&side.name("on-port"), on(&port)).await;
    let shown = side.active(&server).await["addresses"]["private"][0].clone();
    assert_eq!(
        (&shown["addr"], &shown["OS-EXT-IPS-MAC:mac_addr"]),
        (&port["fixed_ips"][0]["ip_address"], &port["mac_address"])
    );
    let bound = side.get(Network, &path(&port)).await.expect(200).json()["port"].clone();
    assert_eq!(
        (&bound["device_id"], &bound["device_owner"], &bound["status"]),
        (&json!(server), &json!("compute:nova"), &json!("ACTIVE"))
    );
    assert_eq!(bound["name"], port["name"]);
}

async fn a_second_boot_on_a_bound_port_is_refused(side: &Side) {
    let port = side.port(json!({})).await;
    let server = side.booted(&side.name("first"), on(&port)).await;
    side.active(&server).await;
    let message = format!("Port {} is still in use.", id(&port));
    side.boot(&side.name("second"), on(&port)).await.nova(409, &message);
}

async fn of_two_boots_at_once_one_gets_the_port(side: &Side) {
    let port = side.port(json!({})).await;
    let (first, second) = (side.name("first"), side.name("second"));
    let (first, second) = tokio::join!(side.boot(&first, on(&port)), side.boot(&second, on(&port)));
    let mut active = 0;
    for reply in [first, second] {
        if reply.status == 409 {
            continue;
        }
        let server = reply.expect(202).at("/server/id");
        let settled =
            |reply: &Reply| ["ACTIVE", "ERROR"].iter().any(|status| reply.json()["server"]["status"] == *status);
        let shown = side.until(Compute, &format!("/servers/{server}"), settled).await.expect(200).json();
        active += usize::from(shown["server"]["status"] == "ACTIVE");
    }
    assert_eq!(active, 1);
}

async fn a_boot_on_a_deleted_port_is_refused(side: &Side) {
    let port = side.port(json!({})).await;
    side.delete(Network, &path(&port)).await.empty(204);
    let message = format!("Port id {} could not be found.", id(&port));
    side.boot(&side.name("late"), on(&port)).await.nova(400, &message);
}

async fn a_boot_on_a_port_that_never_was_is_refused(side: &Side) {
    let extra = json!({"networks": [{"port": NOBODY}]});
    side.boot("x", extra).await.nova(400, &format!("Port id {NOBODY} could not be found."));
}

async fn a_boot_on_a_port_with_a_device_is_refused(side: &Side) {
    let port = side.port(json!({})).await;
    set_device(side, &port, "fenced", None).await.expect(200);
    let message = format!("Port {} is still in use.", id(&port));
    side.boot(&side.name("late"), on(&port)).await.nova(409, &message);
    set_device(side, &port, "", None).await.expect(200);
    side.booted(&side.name("allowed"), on(&port)).await;
}

async fn a_port_may_be_made_with_a_device(side: &Side) {
    let port = side.port(json!({"device_id": "fenced"})).await;
    assert_eq!(port["device_id"], "fenced");
    side.boot(&side.name("late"), on(&port)).await.nova(409, &format!("Port {} is still in use.", id(&port)));
}

async fn a_port_that_goes_while_its_server_is_built_does_not_stop_it(side: &Side) {
    let name = side.name("robbed");
    side.trouble("boot", &name, 4.0, None).await;
    let port = side.port(json!({})).await;
    let server = side.booted(&name, on(&port)).await;
    side.until(Network, &path(&port), |reply| reply.json()["port"]["device_id"] == server.as_str()).await;
    side.delete(Network, &path(&port)).await.neutron(403, "PolicyNotAuthorized", BOUND);
    side.put(Network, &path(&port), json!({"port": {"device_owner": ""}})).await.expect(200);
    side.delete(Network, &path(&port)).await.empty(204);
    let ended = |reply: &Reply| reply.json()["server"]["status"] != "BUILD";
    let shown = side.until(Compute, &format!("/servers/{server}"), ended).await.expect(200).json()["server"].clone();
    side.no_trouble(&name).await;
    // The port is no fence any more once Nova has bound it: the server comes all the same, without a port.
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    let ports = side.get(Network, &format!("/ports?device_id={server}")).await.expect(200);
    assert!(ports.each("ports", "id").is_empty(), "{ports}");
}

async fn a_port_that_was_made_first_outlives_its_server(side: &Side) {
    let port = side.port(json!({})).await;
    let server = side.booted(&side.name("short"), on(&port)).await;
    side.active(&server).await;
    side.delete(Compute, &format!("/servers/{server}")).await.empty(204);
    side.gone(&server).await;
    let free = |reply: &Reply| reply.json()["port"]["device_id"] == "";
    let left = side.until(Network, &path(&port), free).await.expect(200).json()["port"].clone();
    assert_eq!((&left["device_owner"], &left["fixed_ips"]), (&json!(""), &port["fixed_ips"]));
    side.booted(&side.name("again"), on(&port)).await;
}

async fn a_port_goes_from_under_a_server_that_runs(side: &Side) {
    let port = side.port(json!({})).await;
    let server = side.booted(&side.name("bare"), on(&port)).await;
    side.active(&server).await;
    side.delete(Network, &path(&port)).await.neutron(403, "PolicyNotAuthorized", BOUND);
    // The port of a server is protected by its owner's name only.
    let owner = json!({"port": {"device_owner": ""}});
    let put = side.put(Network, &path(&port), owner).await.expect(200);
    assert_eq!(put.at("/port/device_id"), server);
    side.delete(Network, &path(&port)).await.empty(204);
    // Neutron tells Nova nothing of a port that it does not own any more: Nova may go on showing the address.
    let ports = side.get(Network, &format!("/ports?device_id={server}")).await.expect(200);
    assert!(ports.each("ports", "id").is_empty(), "{ports}");
}

async fn a_failed_boot_gives_its_port_back(side: &Side) {
    let port = side.port(json!({})).await;
    let mut extra = on(&port);
    extra["flavorRef"] = side.given().await.flavor("huge").into();
    let server = side.booted(&side.name("huge"), extra).await;
    side.settled(&server, "ERROR").await;
    side.until(Network, &path(&port), |reply| reply.json()["port"]["device_id"] == "").await;
    side.delete(Network, &path(&port)).await.empty(204);
}

async fn binding_a_port_is_a_new_revision(side: &Side) {
    let port = side.port(json!({})).await;
    let before = revision(side, &port).await;
    let server = side.booted(&side.name("bound"), on(&port)).await;
    side.active(&server).await;
    let message = format!("Constrained to {before}, but current revision is {}", revision(side, &port).await);
    let late = set_device(side, &port, "fenced", Some(before)).await;
    late.neutron(412, "RevisionNumberConstraintFailed", &message);
    let shown = side.get(Network, &path(&port)).await.expect(200);
    assert_eq!(shown.at("/port/device_id"), server);
}

async fn a_fence_holds_for_the_revision_it_was_decided_for(side: &Side) {
    let port = side.port(json!({})).await;
    let before = revision(side, &port).await;
    set_device(side, &port, "fenced", Some(before)).await.expect(200);
    assert!(revision(side, &port).await > before);
    set_device(side, &port, "other", Some(before)).await.expect(412);
    let ask = side.ask(Method::DELETE, Network, &path(&port));
    ask.header("if-match", &format!("revision_number={before}")).send().await.expect(412);
    assert_eq!(side.get(Network, &path(&port)).await.expect(200).at("/port/device_id"), "fenced");
}

async fn a_server_is_found_by_its_port(side: &Side) {
    let tag = side.name("node");
    let port = side.tagged_port(&[&tag]).await;
    let server = side.booted(&side.name("by-port"), on(&port)).await;
    side.until(Network, &format!("/ports?tags={tag}"), |reply| reply.each("ports", "device_id") == [server.as_str()])
        .await;
}

conformance!(shared:
    a_boot_takes_the_port_and_its_address,
    a_second_boot_on_a_bound_port_is_refused,
    of_two_boots_at_once_one_gets_the_port,
    a_boot_on_a_deleted_port_is_refused,
    a_boot_on_a_port_that_never_was_is_refused,
    a_boot_on_a_port_with_a_device_is_refused,
    a_port_may_be_made_with_a_device,
    a_port_that_goes_while_its_server_is_built_does_not_stop_it,
    a_port_that_was_made_first_outlives_its_server,
    a_port_goes_from_under_a_server_that_runs,
    a_failed_boot_gives_its_port_back,
    binding_a_port_is_a_new_revision,
    a_fence_holds_for_the_revision_it_was_decided_for,
    a_server_is_found_by_its_port,
);
