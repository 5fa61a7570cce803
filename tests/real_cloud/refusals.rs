//! What real services refuse, in their own words, and how it heals.

use nodepool_operator::api::{Pool, Provider};
use reqwest::Method;
use serde_json::json;

use super::stage::{PATIENCE, PROVIDER, Stage};
use super::support::eventually;
use super::support::openstack::{OpenStack, Project};
use super::support::world::condition;

#[tokio::test]
async fn an_exhausted_quota_is_told_and_heals_when_it_is_raised() {
    let admin = Project::log_in("lab-admin").await;
    admin.limit(&Project::log_in("lab2").await, json!({"instances": 10})).await;
    let stage = Stage::on("lab2", json!({})).await;
    stage.pool("small", 1).await;
    stage.world.pool_ready("small", 1).await;
    // Below what the operator has read: Nova itself refuses.
    admin.limit(&stage.project, json!({"instances": 1})).await;
    stage.world.patch::<Pool>("small", json!({"spec": {"minReady": 2}})).await;
    let told = stage.world.reason::<Provider>(PROVIDER, "QuotaAvailable", "QuotaExceeded").await;
    assert!(told["message"].as_str().unwrap().contains("instances"), "{told}");
    assert_eq!(stage.servers().await.len(), 1);
    admin.limit(&stage.project, json!({"instances": 10})).await;
    stage.world.pool_ready("small", 2).await;
    stage.world.condition::<Provider>(PROVIDER, "QuotaAvailable", "True").await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_flavor_that_no_host_can_hold_is_told_and_heals_when_it_is_changed() {
    let stage = Stage::on("lab", json!({})).await;
    stage.world.pool("big", 1, json!({"flavor": {"name": "huge"}})).await;
    stage.world.reason::<Provider>(PROVIDER, "QuotaAvailable", "NoValidHost").await;
    eventually(PATIENCE, || async {
        let told = condition(&stage.world.get::<Pool>("big").await, "Available");
        let said = told["message"].as_str().is_some_and(|message| message.contains("No valid host"));
        if said { Ok(()) } else { Err(format!("{told}")) }
    })
    .await;
    stage.pool("big", 1).await;
    stage.world.pool_ready("big", 1).await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_revoked_application_credential_is_told_and_heals_when_the_secret_is_rewritten() {
    let user = Project::log_in("lab").await;
    let path = format!("/users/{}/application_credentials", user.login.user());
    let credential = async |name: &str| {
        let name = format!("{name}-{}", uuid::Uuid::new_v4());
        let body = json!({"application_credential": {"name": name}});
        let (status, made) = user.call(Method::POST, "identity", &path, Some(body)).await;
        assert_eq!(status, 201, "{made}");
        made["application_credential"].clone()
    };
    let lab = OpenStack::shared().cloud("lab");
    let said = |credential: &serde_json::Value| {
        json!({
            "auth_type": "v3applicationcredential", "region_name": lab["region_name"],
            "auth": {
                "auth_url": lab["auth"]["auth_url"],
                "application_credential_id": credential["id"],
                "application_credential_secret": credential["secret"],
            },
        })
    };
    let first = credential("first").await;
    let stage = Stage::of("lab", said(&first), json!({})).await;
    stage.pool("small", 1).await;
    let before = stage.world.pool_ready("small", 1).await;

    let revoked = format!("{path}/{}", first["id"].as_str().unwrap());
    assert_eq!(user.call(Method::DELETE, "identity", &revoked, None).await.0, 204);
    let told = stage.world.reason::<Provider>(PROVIDER, "Ready", "AuthenticationFailed").await;
    assert!(told["message"].as_str().unwrap().contains("clouds.yaml"), "{told}");
    assert_eq!(stage.world.nodes().await.len(), 1, "nothing is believed gone");

    let second = credential("second").await;
    stage.rewrite_secret(&said(&second)).await;
    stage.world.condition::<Provider>(PROVIDER, "Ready", "True").await;
    stage.world.patch::<Pool>("small", json!({"spec": {"minReady": 2}})).await;
    let after = stage.world.pool_ready("small", 2).await;
    assert!(after.iter().any(|node| node.metadata.uid == before[0].metadata.uid), "the ready node stays");
    stage.ends_empty().await;
    let second = format!("{path}/{}", second["id"].as_str().unwrap());
    assert_eq!(user.call(Method::DELETE, "identity", &second, None).await.0, 204);
}
