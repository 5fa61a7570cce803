//! `trustedCA`: a cloud whose certificate an authority of the installation's own has signed.

use std::path::Path;

use nodepool_operator::api::Provider;
use serde_json::{Value, json};

use crate::support::helm::{object, render, scratch};
use crate::support::world::SOON;
use crate::support::{Namespace, Operator, SimulatorOptions, World};

/// The container's variables for trust, with the directory of authorities at another place.
fn variables(directory: &Path) -> Vec<(String, String)> {
    let objects = render("trustedCA: {configMapName: ca}").unwrap();
    let pod = &object(&objects, "Deployment", "nodepool-operator").unwrap()["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["volumes"][0]["configMap"]["items"][0]["path"], "ca.crt");
    let mounted = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = container["env"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["value"])));
    let all: Vec<(String, String)> = all.filter(|(name, _)| name.starts_with("SSL_CERT")).collect();
    assert!(all.iter().any(|(name, value)| name == "SSL_CERT_DIR" && value == mounted), "{all:?}");
    all.into_iter().map(|(name, value)| (name, value.replace(mounted, directory.to_str().unwrap()))).collect()
}

#[tokio::test]
async fn an_authority_of_the_installations_own_is_trusted() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = scratch("trust");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("ca.crt"), certified.cert.pem()).unwrap();
    let key = scratch("trust.key");
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let cloud = SimulatorOptions::default()
        .arg(format!("--tls-certificate={}", directory.join("ca.crt").display()))
        .arg(format!("--tls-key={}", key.display()))
        .start()
        .await;
    for (trusted, status) in [(false, "False"), (true, "True")] {
        let namespace = Namespace::new().await;
        cloud.secret(&namespace, "cloud").await;
        let options = Operator::for_namespace(&namespace);
        let given = if trusted { variables(&directory) } else { Vec::new() };
        let operator = given.into_iter().fold(options, |options, (name, value)| options.env(name, value)).start();
        let world = World::of(namespace, operator, "a", SOON);
        world.operator.ready(SOON).await;
        let spec = json!({"cloud": {"secretRef": {"name": "cloud"}, "cloudName": cloud.cloud_name()}, "maxServers": 1});
        world.apply("Provider", "a", spec).await;
        let condition = world.condition::<Provider>("a", "Ready", status).await;
        assert!(trusted || condition["message"].as_str().unwrap().contains("unknown authority"), "{condition}");
    }
}
