//! The whole client against a scripted cloud over HTTP.

mod boot;
mod fake;
mod fence;
mod images;
mod key_pairs;
mod lists;
mod login;
mod networks;
mod polling;
mod services;
mod snapshots;
mod tls;
mod uploads;

use std::time::Duration;

use serde_json::{Value, json};

use super::{CloudConfig, OpenStack, Options};
use crate::cloud::{BootRequest, CloudError, NewImage, Ownership};
use crate::egress::Egress;
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
        egress: Egress::loopback(),
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

fn new_image() -> NewImage {
    NewImage {
        name: "debian-1".into(),
        ownership: ownership(),
        disk_format: "qcow2",
        properties: [("os_distro".to_owned(), "debian".to_owned())].into(),
    }
}

/// An image as Glance shows it, with these attributes above it.
fn glance_image(id: &str, rest: Value) -> Value {
    let mut image = json!({"id": id, "name": "debian-1", "status": "queued", "created_at": "2026-11-22T10:00:00Z",
                           "os_hidden": false, "protected": false, "owner": "project-1", "size": null, "tags": []});
    image.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    image
}

/// The properties of what is ours.
fn marks(record: &str) -> Value {
    json!({"nodepool_owner": "me", "nodepool_record": record, "nodepool_provider": "ns/one"})
}

/// Glance's refusal, as it writes it to who accepts JSON, and as the page that it writes to others.
fn glance_faults(status: u16, message: &str) -> [Reply; 2] {
    let json = json!({"message": format!("{message}<br /><br />\n\n\n"), "code": format!("{status} X"), "title": "X"});
    let page = format!(
        "<html>\n <head>\n  <title>{status} X</title>\n </head>\n <body>\n  <h1>{status} X</h1>\n  \
         {message}<br /><br />\n\n\n\n </body>\n</html>"
    );
    [Reply::Json(status, json), Reply::Text(status, page)]
}

/// What can happen to the answer of a call that was made: whether it did anything is not known.
fn losses() -> Vec<Reply> {
    vec![
        nova_fault(500, "computeFault", "Unexpected API Error."),
        Reply::Text(500, "<html>Traceback</html>".into()),
        Reply::Text(502, "<html>bad gateway</html>".into()),
        Reply::Text(503, "<html>unavailable</html>".into()),
        Reply::Text(504, "<html>late</html>".into()),
        Reply::Text(200, "<html>please log in</html>".into()),
        Reply::Text(403, "<html>who are you?</html>".into()),
        Reply::Text(404, "<html>nothing here</html>".into()),
        Reply::Text(302, String::new()),
        Reply::Truncated(json!({"id": "image-1", "image_id": "image-1"})),
        Reply::Cut,
        Reply::Stall,
    ]
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
