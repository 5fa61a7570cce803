//! Tokens and credentials that stop working while the operator works.

use std::time::Duration;

use serde_json::{Value, json};

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
    let sky = Settings::default().full_list("1s").start().await;
    sky.want(2).await;
    let before = uids(&sky.ready(2).await);
    let good = sky.simulator.clouds_yaml();
    // The credential that the Provider uses from now on, and that is taken away.
    let spec = json!({"cloud": {"cloudName": "simulator-application-credential"}});
    let other = Sky::make_provider(&sky, "other", &sky.simulator, json!({"maxServers": 1}));
    sky.simulator.secret(&sky.namespace, "other").await;
    other.await;
    let patch = kube::api::Patch::Merge(json!({"spec": spec}));
    let providers = sky.namespace.api::<nodepool_operator::api::Provider>();
    providers.patch("other", &kube::api::PatchParams::default(), &patch).await.unwrap();
    sky.provider_says("other", "Ready", "True", SOON).await;
    let all = sky.simulator.get("application-credentials").await["applicationCredentials"].clone();
    let id = all[0]["id"].as_str().unwrap().to_owned();
    // Both clouds of the file stop working: the password by another one in the Secret, the credential by its end.
    sky.simulator.send(reqwest::Method::DELETE, &format!("application-credentials/{id}"), None).await;
    let told = sky.provider_says("other", "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "AuthenticationFailed", "{}", told.message);
    let wrong =
        good.replace("password: simulator", "password: wrong").replace("password: \"simulator\"", "password: wrong");
    assert_ne!(wrong, good, "the clouds.yaml has another form: {good}");
    sky.namespace.secret("other", &[("clouds.yaml", &wrong)]).await;
    providers
        .patch(
            "other",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(json!({"spec": {"cloud": {"cloudName": "simulator"}}})),
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = sky.provider_says("other", "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "AuthenticationFailed", "{}", told.message);
    assert!(!told.message.contains("wrong"), "{}", told.message);
    sky.namespace.secret("other", &[("clouds.yaml", &good)]).await;
    sky.provider_says("other", "Ready", "True", Duration::from_secs(8)).await;
    assert_eq!(uids(&sky.ready(2).await), before, "the neighbour was not touched");
    sky.end().await;
}

#[tokio::test]
async fn nodes_stay_while_the_credentials_do_not_work() {
    let sky = Settings::default().full_list("1s").start().await;
    sky.want(2).await;
    let before = uids(&sky.ready(2).await);
    let refused = json!({"type": "answer", "status": 401});
    let token: Value = json!({"call": "*", "fault": refused});
    sky.simulator.fault(token).await;
    let told = sky.provider_says(PROVIDER, "Ready", "False", Duration::from_secs(5)).await;
    assert_eq!(told.reason, "AuthenticationFailed", "{}", told.message);
    sky.request("r", 1).await;
    sky.request_says("r", "True").await;
    sky.simulator.clear_faults().await;
    sky.provider_says(PROVIDER, "Ready", "True", SOON).await;
    let nodes = sky.nodes().await;
    assert!(before.iter().all(|uid| uids(&nodes).contains(uid)), "{nodes:?}");
    assert_eq!(sky.count("delete-server").await, 0);
    sky.check().await;
}
