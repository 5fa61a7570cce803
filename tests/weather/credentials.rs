//! Tokens and credentials that stop working while the operator works.

use std::time::Duration;

use serde_json::json;

use crate::sky::{PROVIDER, SOON, Settings, Sky, uids};

#[tokio::test]
async fn a_revoked_token_costs_one_login_and_nobody_notices() {
    let sky = Sky::clear().await;
    let logins = sky.count("auth").await;
    sky.simulator.send(reqwest::Method::POST, "tokens/revoke", None).await;
    sky.want(5).await;
    sky.ready(5).await;
    assert_eq!(sky.count("auth").await, logins + 1, "many calls were refused at once, one of them logs in");
    assert_eq!(sky.servers().await.len(), 5);
    sky.provider_says(PROVIDER, "Ready", "True", Duration::from_secs(1)).await;
    // A record may have two POSTs here, the first of which was refused before Nova saw it.
    let taken = sky.calls("create-server").await.iter().filter(|call| call["status"] == 202).count();
    assert_eq!(taken, 5);
}

#[tokio::test]
async fn revoked_credentials_are_told_and_heal_with_the_secret() {
    let settings = Settings::default().full_list("1s");
    let sky = settings.provider(json!({"cloud": {"cloudName": "simulator-application-credential"}})).start().await;
    sky.want(2).await;
    let nodes = uids(&sky.ready(2).await);
    let known = sky.simulator.get("application-credentials").await["applicationCredentials"].clone();
    let old = known[0]["id"].as_str().unwrap().to_owned();
    sky.simulator.send(reqwest::Method::DELETE, &format!("application-credentials/{old}"), None).await;
    let told = sky.provider_says(PROVIDER, "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "AuthenticationFailed", "{}", told.message);
    // What is ready is given away all the same: no call to the cloud is needed for that.
    sky.request("r", 1).await;
    sky.request_says("r", "True").await;
    let new = json!({"secret": "another-secret"});
    let made = sky.simulator.send(reqwest::Method::POST, "application-credentials", Some(new)).await;
    let clouds = sky.simulator.clouds_yaml().replace(&old, made["id"].as_str().unwrap());
    let clouds = clouds
        .replace("application_credential_secret: \"simulator\"", "application_credential_secret: \"another-secret\"");
    assert!(clouds.contains("another-secret"), "the clouds.yaml has another form: {clouds}");
    sky.namespace.secret(PROVIDER, &[("clouds.yaml", &clouds)]).await;
    sky.provider_says(PROVIDER, "Ready", "True", Duration::from_secs(8)).await;
    sky.ready_nodes_of(&nodes, 3).await;
    sky.end().await;
}

#[tokio::test]
async fn a_keystone_that_refuses_for_a_moment_costs_no_node() {
    let sky = Settings::default().full_list("1s").start().await;
    sky.want(2).await;
    let nodes = uids(&sky.ready(2).await);
    let refused = json!({"type": "answer", "status": 401});
    sky.simulator.fault(json!({"call": "auth", "times": 2, "fault": refused})).await;
    sky.simulator.send(reqwest::Method::POST, "tokens/revoke", None).await;
    let told = sky.provider_says(PROVIDER, "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "AuthenticationFailed", "{}", told.message);
    sky.provider_says(PROVIDER, "Ready", "True", SOON).await;
    assert_eq!(uids(&sky.ready(2).await), nodes);
    assert_eq!(sky.count("delete-server").await, 0);
    sky.end().await;
}
