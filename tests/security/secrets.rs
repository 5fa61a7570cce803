//! What is secret is used and never shown. What every other test looks for at its end is planted here in each place at once.

use nodepool_operator::api::{Pool, Provider};
use serde_json::json;

use crate::support::canary::{found, planted};
use crate::support::world::{SOON, text};
use crate::support::{World, eventually};

#[tokio::test]
async fn what_is_secret_is_used_and_shown_nowhere() {
    let world = World::builder().cloud("a", 4).start().await;
    let cloud = &world.clouds[0];
    assert!(found(&cloud.clouds_yaml()).is_some(), "the password is planted");
    let refused =
        reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/compute/v2.1/servers", cloud.base()));
    let refused = refused.send().await.unwrap();
    assert!(found(refused.headers()["x-debug"].to_str().unwrap()).is_some(), "replies carry what nobody may repeat");
    assert!(found(&refused.text().await.unwrap()).is_some());

    let data = planted("user-data");
    world.namespace.secret("init", &[("userData", &format!("#!/bin/sh\necho {data}\n"))]).await;
    world.pool("small", 1, json!({"userDataSecretRef": {"name": "init"}})).await;
    world.pool_ready("small", 1).await;

    // A cloud that quotes what it was sent: in a refusal of Nova's own form.
    let password = text(
        &serde_yaml::from_str::<serde_json::Value>(&cloud.clouds_yaml()).unwrap()["clouds"]["simulator"]["auth"]["password"],
    );
    let quoting = json!({"type": "answer", "status": 400, "message": format!("no server for {password}")});
    cloud.fault(json!({"call": "create-server", "times": 1, "fault": quoting})).await;
    world.patch::<Pool>("small", json!({"spec": {"minReady": 2}})).await;
    eventually(SOON, || async {
        let failure = json!(world.get::<Pool>("small").await.status.unwrap().last_launch_failure);
        if failure.is_null() { Err("no failed launch yet".to_owned()) } else { Ok(()) }
    })
    .await;

    // Credentials that are refused, with a word of their own.
    let wrong = cloud.clouds_yaml().replace(&password, &planted("wrong"));
    world.namespace.secret("wrong", &[("clouds.yaml", &wrong)]).await;
    let spec = json!({"cloud": {"secretRef": {"name": "wrong"}, "cloudName": cloud.cloud_name()}, "maxServers": 1});
    world.apply("Provider", "b", spec).await;
    world.reason::<Provider>("b", "Ready", "AuthenticationFailed").await;
}

#[test]
fn what_is_looked_for_is_found() {
    assert!(found(&format!("a line\nand {} in it", planted("word"))).is_some_and(|found| found.starts_with("and ")));
    assert!(found("X-Auth-Token: gAAAAABexample").is_some());
    assert_eq!(found("nothing"), None);
}
