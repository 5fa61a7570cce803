//! Providers: lowered, paused, deleted, given other credentials; and what of their spec reaches the cloud.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nodepool_operator::api::{NodeRequest, Pool, Provider};
use reqwest::Method;
use serde_json::{Value, json};
use support::world::{SOON, given, server_ids, text};
use support::{World, eventually};

/// The ids of all servers of the first cloud.
async fn servers(world: &World) -> BTreeSet<String> {
    world.servers(0).await.iter().map(|server| text(&server["id"])).collect()
}

#[tokio::test]
async fn lowering_max_servers_kills_nothing() {
    let world = World::one_cloud(4).await;
    world.pool("small", 4, json!({})).await;
    let before = server_ids(&world.pool_ready("small", 4).await);
    world.patch::<Provider>("a", json!({"spec": {"maxServers": 2}})).await;
    eventually(SOON, || async {
        let counts = world.get::<Provider>("a").await.status.unwrap().servers.unwrap();
        if (counts.max, counts.used) == (2, 4) { Ok(()) } else { Err(json!(counts).to_string()) }
    })
    .await;
    assert_eq!(servers(&world).await, before);
    // What is given back is not replaced above the new limit.
    world.request("user", &[("small", 2)], json!({})).await;
    let used = given(&world.fulfilled("user").await);
    world.release("user").await;
    world.destroyed(&used).await;
    let left = server_ids(&world.pool_ready("small", 2).await);
    assert_eq!(left, before.difference(&used).cloned().collect());
    world.request("giant", &[("small", 3)], json!({})).await;
    world.failed("giant").await;
    world.patch::<Provider>("a", json!({"spec": {"maxServers": 3}})).await;
    world.pool_ready("small", 3).await;
    assert_eq!(world.servers_ever().await.len(), 5);
}

#[tokio::test]
async fn a_paused_provider_launches_nothing_and_what_runs_goes_on() {
    let world = World::builder().cloud("a", 4).cloud("b", 4).start().await;
    let only = |name: &str| json!({"providers": [{"name": name}]});
    world.pool("small", 2, only("a")).await;
    let before = server_ids(&world.pool_ready("small", 2).await);
    world.patch::<Provider>("a", json!({"spec": {"paused": true}})).await;
    world.reason::<Provider>("a", "Ready", "Paused").await;
    world.request("user", &[("small", 1)], json!({})).await;
    let used = given(&world.fulfilled("user").await);
    assert!(before.is_superset(&used), "ready nodes are still given");
    world.release("user").await;
    world.destroyed(&used).await;
    world.request("waits", &[("small", 2)], json!({})).await;
    world.position("waits", 1).await;
    world.pool("elsewhere", 1, only("b")).await;
    world.pool_ready("elsewhere", 1).await;
    assert_eq!(world.servers_ever().await.len(), 3, "a paused provider launched something");
    let available = world.condition::<Pool>("small", "Available", "False").await;
    assert!(text(&available["message"]).contains("paused"), "{available}");
    world.patch::<Provider>("a", json!({"spec": {"paused": false}})).await;
    world.fulfilled("waits").await;
    world.pool_ready("small", 2).await;
}

#[tokio::test]
async fn a_deleted_provider_drains_in_order() {
    let world = World::builder().cloud("a", 4).cloud("b", 4).start().await;
    world.pool("small", 4, json!({})).await;
    world.pool_ready("small", 4).await;
    world.pool("pinned", 0, json!({"providers": [{"name": "a"}]})).await;
    world.request("user", &[("pinned", 1)], json!({})).await;
    let used = given(&world.fulfilled("user").await);
    world.delete::<Provider>("a").await;
    world.reason::<Provider>("a", "Ready", "Draining").await;
    eventually(SOON, || async {
        let left = servers(&world).await;
        if left == used { Ok(()) } else { Err(format!("{left:?}, only {used:?} are in use")) }
    })
    .await;
    let elsewhere = world.pool_ready("small", 4).await;
    assert!(elsewhere.iter().all(|node| node.spec.provider == "b"));
    assert_eq!(given(&world.get::<NodeRequest>("user").await), used, "the request keeps its node");
    let finalizers = world.get::<Provider>("a").await.metadata.finalizers.unwrap_or_default();
    assert!(!finalizers.is_empty(), "it would go before its nodes");
    world.release("user").await;
    world.gone::<Provider>("a").await;
    assert!(servers(&world).await.is_empty());
    assert!(world.nodes().await.iter().all(|node| node.spec.provider == "b"));
    world.reason::<Pool>("pinned", "Available", "ScaledToZero").await;
}

#[tokio::test]
async fn a_rotated_secret_is_picked_up() {
    let credential = json!({"cloud": {"cloudName": "simulator-application-credential"}});
    let world = World::builder().cloud_with("a", 4, credential).operator_arg("--full-list-interval=1s").start().await;
    let cloud = &world.clouds[0];
    world.pool("small", 1, json!({})).await;
    let before = server_ids(&world.pool_ready("small", 1).await);
    let all = cloud.get("application-credentials").await;
    let old = all["applicationCredentials"][0].clone();
    let new = cloud.send(Method::POST, "application-credentials", Some(json!({"name": "rotated"}))).await;
    cloud.send(Method::DELETE, &format!("application-credentials/{}", text(&old["id"])), None).await;
    let condition = world.reason::<Provider>("a", "Ready", "AuthenticationFailed").await;
    assert!(!condition.to_string().contains(&text(&old["secret"])), "{condition}");
    assert_eq!(servers(&world).await, before, "what runs goes on");
    let yaml = cloud.clouds_yaml().replace(&text(&old["id"]), &text(&new["id"]));
    let quoted = |secret: &Value| format!("application_credential_secret: {secret}");
    let yaml = yaml.replace(&quoted(&old["secret"]), &quoted(&new["secret"]));
    world.namespace.secret("a", &[("clouds.yaml", &yaml)]).await;
    world.condition::<Provider>("a", "Ready", "True").await;
    world.namespace.kubectl().scale("pool/small", 2).await;
    let after = server_ids(&world.pool_ready("small", 2).await);
    assert!(after.is_superset(&before), "servers were lost on the way");
}

#[tokio::test]
async fn what_a_provider_and_a_pool_ask_for_reaches_the_cloud() {
    let spec = json!({
        "availabilityZones": ["east", "west"], "networks": ["private"], "securityGroups": ["default"],
        "keyPair": "ci", "configDrive": true, "floatingIP": {"network": "public"},
    });
    let world = World::builder().cloud_with("a", 4, spec).simulator_arg("--availability-zones=east,west").start().await;
    add_key_pair(&world, "ci").await;
    world.namespace.secret("user-data", &[("userData", "#cloud-config\nhostname: seen\n")]).await;
    world.pool("small", 2, json!({"userDataSecretRef": {"name": "user-data"}, "metadata": {"team": "ci"}})).await;
    let nodes = world.pool_ready("small", 2).await;
    let mut zones = BTreeSet::new();
    for server in world.servers(0).await {
        let sent = STANDARD.decode(text(&server["userData"])).unwrap();
        assert_eq!(sent, b"#cloud-config\nhostname: seen\n");
        assert_eq!((&server["keyName"], &server["configDrive"]), (&json!("ci"), &json!(true)));
        assert_eq!((&server["securityGroups"], &server["metadata"]["team"]), (&json!(["default"]), &json!("ci")));
        assert_eq!(server["addresses"].as_array().unwrap().len(), 2, "a fixed and a floating address: {server}");
        zones.insert(text(&server["zone"]));
    }
    assert_eq!(zones, ["east".to_owned(), "west".to_owned()].into(), "spread over the zones");
    for node in &nodes {
        let status = node.status.clone().unwrap();
        let floating = status.addresses.iter().find(|address| json!(address)["type"] == "floating").unwrap();
        assert_eq!(status.address.as_ref(), Some(&floating.address), "people connect to the floating address");
        assert!(zones.contains(&status.availability_zone.unwrap()));
    }
    assert_eq!(world.clouds[0].state().await["floatingIps"], 2);
    let log = world.operator.log();
    assert!(!log.contains("hostname: seen") && !log.contains(&STANDARD.encode("#cloud-config\nhostname: seen\n")));
    world.delete::<Pool>("small").await;
    world.empty().await;
    let left = eventually(SOON, || async {
        let state = world.clouds[0].state().await;
        if state["floatingIps"] == 0 {
            Ok(state)
        } else {
            Err(format!("{} floating addresses are left", state["floatingIps"]))
        }
    })
    .await;
    assert_eq!((&left["ports"], &left["keyPairs"]), (&json!(0), &json!(1)), "{left}");
}

/// Makes a key pair as its user would.
async fn add_key_pair(world: &World, name: &str) {
    let cloud = &world.clouds[0];
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let clouds: Value = serde_yaml::from_str(&cloud.clouds_yaml()).unwrap();
    let password = &clouds["clouds"]["simulator"]["auth"]["password"];
    let login = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "simulator", "password": password, "domain": {"name": "Default"},
        }}},
        "scope": {"project": {"name": "simulator", "domain": {"name": "Default"}}},
    }});
    let answer = client.post(format!("{}/identity/v3/auth/tokens", cloud.base())).json(&login).send().await.unwrap();
    let token = answer.headers()["x-subject-token"].to_str().unwrap().to_owned();
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqfA1x0fW8cGq6Zt4b6oW3m0K3c5mW8m0wC8rYyq2eV nobody";
    let key = json!({"keypair": {"name": name, "public_key": public}});
    let made =
        client.post(format!("{}/compute/v2.1/os-keypairs", cloud.base())).header("x-auth-token", token).json(&key);
    let made = made.send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.text().await.unwrap());
}

#[tokio::test]
async fn limits_and_quota_bound_what_a_provider_holds() {
    let world = World::builder().cloud_with("a", 8, json!({"limits": {"cores": 5}})).start().await;
    world.pool("medium", 4, json!({"flavor": {"name": "medium"}})).await;
    let nodes = eventually(SOON, || async {
        let nodes = world.ready_nodes("medium").await;
        if nodes.len() == 2 { Ok(nodes) } else { Err(format!("{} nodes", nodes.len())) }
    })
    .await;
    assert_eq!(nodes.len(), 2, "two nodes of two cores fit below five");
    world.reason::<Pool>("medium", "Available", "WaitingForCapacity").await;
    assert_eq!(world.highest(0).await, 2);
    world.patch::<Provider>("a", json!({"spec": {"limits": {"cores": 8}}})).await;
    world.pool_ready("medium", 4).await;
    assert_eq!(world.highest(0).await, 4);
}
