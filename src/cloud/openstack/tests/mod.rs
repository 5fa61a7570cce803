//! The whole client against a scripted cloud over HTTP.

mod boot;
mod fake;
mod fence;
mod lists;
mod login;
mod networks;
mod polling;
mod services;
mod tls;

use std::time::Duration;

use serde_json::{Value, json};

use super::{CloudConfig, OpenStack, Options};
use crate::cloud::{BootRequest, CloudError, Ownership};
use fake::{Fake, Reply, Seen, token};

const PASSWORD: &str = "correct-horse-battery";

fn options() -> Options {
    Options {
        requests_per_second: 1000.0,
        region: None,
        interface: None,
        provider_key: "ns/one".into(),
        owner: "me".into(),
        observer: None,
    }
}

fn config(scheme: &str, fake: &Fake, rest: &str, ca: Option<&[u8]>) -> CloudConfig {
    let yaml = format!(
        "clouds: {{c: {{auth: {{auth_url: '{scheme}://{}/identity', username: ci, password: {PASSWORD}, \
         project_name: ci}}{rest}}}}}",
        fake.address
    );
    CloudConfig::from_yaml(yaml.as_bytes(), "c", ca).unwrap()
}

fn cloud(fake: &Fake) -> OpenStack {
    OpenStack::new(config("http", fake, "", None), options()).unwrap()
}

/// As [`cloud`], but what is not answered within a moment is taken for lost.
fn impatient(fake: &Fake) -> OpenStack {
    let mut cloud = cloud(fake);
    cloud.client.transport.shorten_deadlines(Duration::from_millis(300));
    cloud
}

fn boot(name: &str) -> BootRequest {
    BootRequest {
        name: name.to_owned(),
        ownership: ownership(),
        image_id: "image-1".into(),
        flavor_id: "flavor-1".into(),
        networks: vec![],
        security_groups: vec![],
        availability_zone: None,
        key_name: None,
        config_drive: None,
        user_data: None,
        metadata: Default::default(),
        port: None,
        may_still: std::sync::Arc::new(|| true),
    }
}

fn ownership() -> Ownership {
    Ownership { owner: "me".into(), record: "record-1".into(), provider: "ns/one".into() }
}

fn nova_fault(status: u16, key: &str, message: &str) -> Reply {
    Reply::Json(status, json!({key: {"code": status, "message": message}}))
}

fn unauthorized() -> Reply {
    let fault = json!({"error": {"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}});
    Reply::Json(401, fault)
}

/// Nothing secret and no body is in what people see.
fn assert_clean(error: &CloudError) {
    let shown = format!("{error} {error:?}");
    for secret in [PASSWORD, "token-", "<html", "Traceback"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(error.message.chars().count() <= 256, "{shown}");
}
