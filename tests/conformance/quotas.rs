//! What a project may have: limits, and the refusals of each service when there is no more.

use serde_json::{Value, json};

use super::side::{Compute, Network, Side};
use super::things::PUBLIC_KEY;

async fn limits(side: &Side) -> Value {
    side.get(Compute, "/limits").await.expect(200).json()["limits"]["absolute"].clone()
}

async fn limits_tell_what_there_may_be_and_what_is_used(side: &Side) {
    side.quota(json!({"instances": 7, "cores": 70, "ram": 7000})).await;
    let before = limits(side).await;
    assert_eq!((&before["maxTotalInstances"], &before["maxTotalCores"]), (&json!(7), &json!(70)));
    assert_eq!(before["maxTotalRAMSize"], 7000);
    let flavor = side.given().await.flavor("tiny");
    let id = side.booted(&side.name("used"), json!({"flavorRef": flavor})).await;
    // A real cloud counts a server once a host was chosen for it.
    side.active(&id).await;
    let after = limits(side).await;
    for (field, more) in [("totalInstancesUsed", 1), ("totalCoresUsed", 1), ("totalRAMUsed", 512)] {
        assert_eq!(after[field].as_i64().unwrap() - before[field].as_i64().unwrap(), more, "{field}");
    }
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    assert_eq!(limits(side).await, before);
}

async fn no_limit_is_minus_one(side: &Side) {
    side.quota(json!({"instances": -1, "cores": -1, "ram": -1})).await;
    let all = limits(side).await;
    for field in ["maxTotalInstances", "maxTotalCores", "maxTotalRAMSize"] {
        assert_eq!(all[field], -1, "{field}");
    }
    side.boot(&side.name("free"), json!({})).await.expect(202);
}

async fn servers_have_a_quota(side: &Side) {
    side.active(&side.booted(&side.name("first"), json!({})).await).await;
    side.quota(json!({"instances": 1})).await;
    let message = "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances";
    side.boot("x", json!({})).await.nova(403, message);
}

async fn memory_has_a_quota(side: &Side) {
    side.active(&side.booted(&side.name("first"), json!({})).await).await;
    side.quota(json!({"ram": 8192})).await;
    let message = "Quota exceeded for ram: Requested 8192, but already used 128 of 8192 ram";
    side.boot("x", json!({"flavorRef": side.given().await.flavor("large")})).await.nova(403, message);
}

async fn cores_have_a_quota(side: &Side) {
    side.active(&side.booted(&side.name("first"), json!({})).await).await;
    side.quota(json!({"cores": 2})).await;
    let message = "Quota exceeded for cores: Requested 2, but already used 1 of 2 cores";
    side.boot("x", json!({"flavorRef": side.given().await.flavor("medium")})).await.nova(403, message);
}

async fn all_that_is_exceeded_is_named(side: &Side) {
    side.active(&side.booted(&side.name("first"), json!({})).await).await;
    side.quota(json!({"cores": 2, "instances": 1})).await;
    let message = "Quota exceeded for cores, instances: Requested 2, 1, but already used 1, 1 of 2, 1 cores, instances";
    side.boot("x", json!({"flavorRef": side.given().await.flavor("medium")})).await.nova(403, message);
}

async fn several_at_once_are_counted_together(side: &Side) {
    side.quota(json!({"instances": 2})).await;
    let message = "Quota exceeded for instances: Requested 3, but already used 0 of 2 instances";
    side.boot("x", json!({"min_count": 3, "max_count": 3})).await.nova(403, message);
}

async fn failed_servers_count(side: &Side) {
    let id = side.booted(&side.name("huge"), json!({"flavorRef": side.given().await.flavor("huge")})).await;
    side.settled(&id, "ERROR").await;
    side.quota(json!({"instances": 1})).await;
    let message = "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances";
    side.boot("x", json!({})).await.nova(403, message);
}

async fn ports_have_a_quota_in_neutron(side: &Side) {
    side.port(json!({})).await;
    side.quota(json!({"port": 1})).await;
    let wanted = json!({"port": {"network_id": side.given().await.private}});
    let message = "Quota exceeded for resources: ['port'].";
    side.post(Network, "/ports", wanted).await.neutron(409, "OverQuota", message);
}

async fn a_boot_is_refused_for_its_port(side: &Side) {
    side.port(json!({})).await;
    side.port(json!({})).await;
    side.quota(json!({"port": 2})).await;
    side.boot("x", json!({})).await.nova(403, "Maximum number of ports exceeded");
    side.quota(json!({"port": 0})).await;
    side.boot("x", json!({})).await.nova(403, "The number of defined ports: 2 is over the limit: 0");
}

async fn a_boot_on_a_port_needs_no_further_one(side: &Side) {
    let port = side.port(json!({})).await;
    side.quota(json!({"port": 1})).await;
    side.boot(&side.name("on-port"), json!({"networks": [{"port": port["id"]}]})).await.expect(202);
}

async fn floating_addresses_have_a_quota(side: &Side) {
    side.floating_ip(json!({})).await.expect(201);
    side.quota(json!({"floatingip": 1})).await;
    let message = "Quota exceeded for resources: ['floatingip'].";
    side.floating_ip(json!({})).await.neutron(409, "OverQuota", message);
}

async fn key_pairs_have_a_quota(side: &Side) {
    side.quota(json!({"key_pairs": 0})).await;
    let wanted = json!({"keypair": {"name": side.name("key"), "public_key": PUBLIC_KEY}});
    let reply = side.post(Compute, "/os-keypairs", wanted).await.expect(403);
    assert!(reply.at("/forbidden/message").starts_with("Quota exceeded"), "{reply}");
}

async fn metadata_have_a_quota_of_another_wording(side: &Side) {
    let many: serde_json::Map<String, Value> = (0..129).map(|index| (format!("k{index}"), json!("v"))).collect();
    side.boot("x", json!({"metadata": many})).await.nova(403, "Maximum number of metadata items exceeds 128");
}

async fn the_project_s_quotas_can_be_read(side: &Side) {
    side.quota(json!({"instances": 7, "floatingip": 3, "port": 5})).await;
    let project = side.login.project();
    let of_nova = side.get(Compute, &format!("/os-quota-sets/{project}")).await.expect(200).json()["quota_set"].clone();
    assert_eq!(
        (&of_nova["instances"], &of_nova["id"], &of_nova["metadata_items"]),
        (&json!(7), &json!(project), &json!(128))
    );
    let of_neutron = side.get(Network, &format!("/quotas/{project}")).await.expect(200).json()["quota"].clone();
    assert_eq!((&of_neutron["floatingip"], &of_neutron["port"]), (&json!(3), &json!(5)));
    let details = side.get(Network, &format!("/quotas/{project}/details.json")).await.expect(200);
    assert_eq!(details.json()["quota"]["port"]["limit"], 5, "{details}");
}

conformance!(alone:
    limits_tell_what_there_may_be_and_what_is_used,
    no_limit_is_minus_one,
    servers_have_a_quota,
    memory_has_a_quota,
    cores_have_a_quota,
    all_that_is_exceeded_is_named,
    several_at_once_are_counted_together,
    failed_servers_count,
    ports_have_a_quota_in_neutron,
    a_boot_is_refused_for_its_port,
    a_boot_on_a_port_needs_no_further_one,
    floating_addresses_have_a_quota,
    key_pairs_have_a_quota,
    metadata_have_a_quota_of_another_wording,
    the_project_s_quotas_can_be_read,
);
