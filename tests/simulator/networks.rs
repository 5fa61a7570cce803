//! Ports and floating addresses: made, found by their tags, tied to servers, left behind.

use serde_json::{Value, json};

use super::cloud::{Cloud, handshake, wait_refused};

async fn ports(cloud: &Cloud, query: &str) -> Vec<Value> {
    let answer = cloud.get(&format!("/network/v2.0/ports{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["ports"].as_array().unwrap().clone()
}

async fn network(cloud: &Cloud, name: &str) -> String {
    let answer = cloud.get(&format!("/network/v2.0/networks?name={name}")).await.json();
    answer["networks"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_port_comes_and_goes_with_its_server() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("p").await;
    let held = ports(&cloud, &format!("?device_id={id}")).await;
    assert_eq!(held.len(), 1);
    assert_eq!((&held[0]["device_owner"], &held[0]["status"]), (&json!("compute:nova"), &json!("ACTIVE")));
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    assert!(ports(&cloud, "").await.is_empty());
}

#[tokio::test]
async fn a_port_can_be_left_behind() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("leaky").await;
    cloud.fault(json!({"times": 1, "fault": {"type": "leave-ports"}})).await;
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    assert_eq!(cloud.show(&id).await.status, 404);
    let left = ports(&cloud, &format!("?device_id={id}")).await;
    assert_eq!((left.len(), &left[0]["status"]), (1, &json!("ACTIVE")));
    let made = cloud.post("/simulator/ports", json!({"tags": ["owner=x"], "deviceId": "dead", "age": "1h"})).await;
    let found = ports(&cloud, "?tags=owner=x").await;
    assert_eq!(found[0]["id"], made.json()["id"]);
    for port in [&left[0], &found[0]] {
        let path = format!("/network/v2.0/ports/{}", port["id"].as_str().unwrap());
        assert_eq!(cloud.delete(&path).await.status, 403, "Nova's, whether its server is there or not");
        assert_eq!(cloud.put(&path, json!({"port": {"device_owner": ""}})).await.status, 200);
        assert_eq!(cloud.delete(&path).await.status, 204);
        assert_eq!(cloud.delete(&path).await.json()["NeutronError"]["type"], "PortNotFound");
    }
}

#[tokio::test]
async fn a_port_made_before_is_used_and_outlives_its_server() {
    let cloud = Cloud::start(&[]).await;
    let body = json!({"port": {"network_id": network(&cloud, "private").await, "name": "mine"}});
    let made = cloud.post("/network/v2.0/ports", body).await;
    assert_eq!(made.status, 201);
    let port = made.json()["port"]["id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.put(&format!("/network/v2.0/ports/{port}/tags"), json!({"tags": ["a"]})).await.status, 200);
    let mut boot = cloud.boot_body("on-port").await;
    boot["server"]["networks"] = json!([{"port": port}]);
    let server = cloud.post("/compute/v2.1/servers", boot.clone()).await.json();
    let id = server["server"]["id"].as_str().unwrap();
    let shown = ports(&cloud, "?tags=a").await;
    assert_eq!(shown[0]["device_id"], id);
    let taken = cloud.post("/compute/v2.1/servers", boot).await;
    assert_eq!(
        (taken.status, taken.json()["conflictingRequest"]["message"].clone()),
        (409, json!(format!("Port {port} is still in use.")))
    );
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    assert_eq!(ports(&cloud, "?tags=a").await[0]["device_id"], "");
}

#[tokio::test]
async fn a_floating_address_answers_for_its_server() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("f").await;
    let public = network(&cloud, "public").await;
    let wanted = json!({"floatingip": {"floating_network_id": public, "description": "ours"}});
    let made = cloud.post("/network/v2.0/floatingips", wanted.clone()).await;
    assert_eq!(made.status, 201);
    let floating = made.json()["floatingip"].clone();
    let path = format!("/network/v2.0/floatingips/{}", floating["id"].as_str().unwrap());
    let port = ports(&cloud, &format!("?device_id={id}")).await[0]["id"].as_str().unwrap().to_owned();
    let tied = cloud.put(&path, json!({"floatingip": {"port_id": port}})).await;
    assert_eq!(tied.json()["floatingip"]["port_id"], port.as_str());
    let shown = cloud.show(&id).await.json()["server"]["addresses"]["private"].clone();
    assert_eq!(shown[1]["OS-EXT-IPS:type"], "floating");
    let ssh_port = cloud.ssh_address(&id).await.port();
    let address = format!("{}:{ssh_port}", floating["floating_ip_address"].as_str().unwrap()).parse().unwrap();
    handshake(address).await.unwrap();

    let mut second = wanted;
    second["floatingip"]["port_id"] = port.as_str().into();
    let refused = cloud.post("/network/v2.0/floatingips", second).await;
    assert_eq!(
        (refused.status, refused.json()["NeutronError"]["type"].clone()),
        (409, json!("FloatingIPPortAlreadyAssociated"))
    );
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    wait_refused(address).await;
    let left = cloud.get(&path).await.json();
    assert_eq!((&left["floatingip"]["port_id"], &left["floatingip"]["status"]), (&Value::Null, &json!("DOWN")));
    assert_eq!(cloud.delete(&path).await.status, 204);
    assert_eq!(cloud.get(&path).await.status, 404);
}

#[tokio::test]
async fn neutron_refuses_over_quota_in_its_own_way() {
    let cloud = Cloud::start(&[]).await;
    cloud.set(json!({"maxPorts": 0, "maxFloatingIps": 0})).await;
    let body = json!({"port": {"network_id": network(&cloud, "private").await}});
    let refused = cloud.post("/network/v2.0/ports", body).await;
    let error = json!({"type": "OverQuota", "message": "Quota exceeded for resources: ['port'].", "detail": ""});
    assert_eq!((refused.status, refused.json()), (409, json!({"NeutronError": error})));
    let body = json!({"floatingip": {"floating_network_id": network(&cloud, "public").await}});
    assert_eq!(cloud.post("/network/v2.0/floatingips", body).await.status, 409);
    let boot = cloud.boot("no-port").await;
    let message = "Maximum number of ports exceeded";
    assert_eq!((boot.status, boot.json()["forbidden"]["message"].clone()), (403, json!(message)));
}
