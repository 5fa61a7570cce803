//! What a client library must make of the cloud's answers, subject by subject; the same for every library.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::cloud::{Cloud, FINGERPRINT, OTHERS, PUBLIC_KEY};
use super::told::{Library, Told};

/// Makes a test of each story, told by one library.
macro_rules! stories {
    ($library:expr => $($subject:ident),+) => {
        $(#[tokio::test]
        async fn $subject() {
            crate::story::$subject($library).await;
        })+
    };
}

pub async fn server(library: Library) {
    let cloud = Cloud::with_other_servers().await;
    let mut told = Told::by(library, "server", &cloud).await;
    let made = told.said("create");
    assert_eq!((&made["name"], &made["status"], &made["flavor"]), (&json!("web"), &json!("ACTIVE"), &json!("small")));
    assert_eq!((&made["metadata"], &made["key"]), (&json!({"job": "7"}), &json!("ci")));
    assert!(is_loopback(&made["addresses"][0]), "{made}");
    assert_eq!(told.said("show"), made);
    assert_eq!(told.said("list"), json!([&OTHERS[..], &["web"]].concat()));
    assert_eq!(told.said("find"), json!(["web"]));
    told.refused("missing", 404, "could not be found.");
    told.refused("without-image", 400, "Can not find requested image");
    assert_eq!(told.said("delete"), true);
    assert_eq!(told.said("list-after"), json!(OTHERS));
    told.end();
    assert!(cloud.servers("web").await.is_empty());
    cloud.end().await;
}

pub async fn image(library: Library) {
    let cloud = Cloud::start().await;
    let mut told = Told::by(library, "image", &cloud).await;
    let made = told.said("create");
    let (_, data) = cloud.image_file();
    let hash: String = Sha512::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    let wanted = json!({
        "id": made["id"], "name": "golden", "status": "active", "visibility": "private", "format": "raw",
        "size": data.len(), "hash": hash, "build": "41",
    });
    assert_eq!(made, wanted);
    assert_eq!(told.said("show"), made);
    assert_eq!(told.said("list"), json!(["debian-13", "golden", "ubuntu-24.04"]));
    assert_eq!(told.said("find"), json!(["golden"]));
    told.refused("missing", 404, "No image found with ID");
    told.refused("delete-protected", 403, "is protected and cannot be deleted.");
    assert_eq!(told.said("delete"), true);
    assert_eq!(told.said("list-after"), json!(["debian-13", "ubuntu-24.04"]));
    told.end();
    cloud.end().await;
}

pub async fn key_pair(library: Library) {
    let cloud = Cloud::start().await;
    let mut told = Told::by(library, "key_pair", &cloud).await;
    let made = told.said("create");
    assert_eq!(made, json!({"name": "ci", "key": PUBLIC_KEY, "fingerprint": FINGERPRINT}));
    told.refused("duplicate", 409, "Key pair 'ci' already exists.");
    assert_eq!(told.said("show"), made);
    let generated = told.said("generate");
    assert!(generated["key"].as_str().unwrap().starts_with("ssh-"), "{generated}");
    assert!(generated["private"].as_str().unwrap().contains("PRIVATE KEY-----\n"), "{generated}");
    assert_eq!(told.said("list"), json!(["ci", "generated"]));
    told.refused("missing", 404, "Keypair nobody not found for user");
    assert_eq!(told.said("delete"), true);
    assert_eq!(told.said("list-after"), json!(["generated"]));
    told.end();
    cloud.end().await;
}

pub async fn port(library: Library) {
    let cloud = Cloud::with_other_ports().await;
    let mut told = Told::by(library, "port", &cloud).await;
    let network = told.said("network");
    let made = told.said("create");
    let brief = ["name", "network", "status", "groups"].map(|field| made[field].clone());
    assert_eq!(brief, [json!("mine"), network, json!("DOWN"), json!(1)]);
    assert!(is_loopback(&made["address"]) && made["mac"].as_str().unwrap().starts_with("fa:16:3e:"), "{made}");
    told.refused("over-quota", 409, "Quota exceeded for resources: ['port'].");
    assert_eq!(told.said("show"), made);
    assert_eq!(told.said("list"), json!(["mine", "other-1", "other-2"]));
    assert_eq!(told.said("find"), json!(["mine"]));
    assert_eq!(told.said("update"), "ours");
    told.refused("missing", 404, "could not be found.");
    assert_eq!(told.said("delete"), true);
    assert_eq!(told.said("list-after"), json!(["other-1", "other-2"]));
    told.end();
    cloud.end().await;
}

pub async fn floating_ip(library: Library) {
    let cloud = Cloud::start().await;
    let mut told = Told::by(library, "floating_ip", &cloud).await;
    let (network, port) = (told.said("network"), told.said("port"));
    let made = told.said("create");
    assert_eq!((&made["network"], &made["port"], &made["fixed"]), (&network, &Value::Null, &Value::Null));
    assert!(is_loopback(&made["address"]), "{made}");
    assert_eq!(told.said("show"), made);
    assert_eq!(told.said("list"), json!([made["address"]]));
    assert_eq!(told.said("find"), json!([made["address"]]));
    assert_eq!(told.said("update"), "ours");
    let attached = told.said("attach");
    assert_eq!((&attached["port"], &attached["fixed"]), (&port["id"], &port["address"]));
    told.refused("attach-second", 409, "already has a floating IP on external network");
    assert_eq!(told.said("detach"), made);
    told.refused("missing", 404, "could not be found");
    assert_eq!(told.said("delete"), true);
    assert_eq!(told.said("list-after"), json!([]));
    told.end();
    cloud.end().await;
}

pub async fn tags(library: Library) {
    let cloud = Cloud::start().await;
    let mut told = Told::by(library, "tags", &cloud).await;
    tags_of(&mut told, "server", json!(["boot"]), Some("has no tag 'b'"));
    tags_of(&mut told, "port", json!([]), Some("Tag b could not be found."));
    // Gophercloud replaces all tags of an image: it cannot take off one that is not there.
    let absent = matches!(library, Library::Sdk).then_some("The resource could not be found.");
    tags_of(&mut told, "image", json!(["boot"]), absent);
    if matches!(library, Library::Sdk) {
        told.refused("image-difference", 400, "Invalid JSON pointer for this resource: ");
    }
    told.end();
    cloud.end().await;
}

fn tags_of(told: &mut Told, subject: &str, at_first: Value, absent: Option<&str>) {
    let step = |step: &str| format!("{subject}-{step}");
    assert_eq!(told.said(&step("create")), at_first);
    assert_eq!(told.said(&step("list")), json!(["a", "b", "c"]));
    assert_eq!(told.said(&step("find")), json!(["tagged"]));
    assert_eq!(told.said(&step("remove")), json!(["a", "c"]));
    if let Some(words) = absent {
        told.refused(&step("missing"), 404, words);
    }
    assert_eq!(told.said(&step("clear")), json!([]));
}

/// An address of a simulated network: all of them are on this machine.
fn is_loopback(address: &Value) -> bool {
    address.as_str().unwrap().parse::<std::net::Ipv4Addr>().unwrap().is_loopback()
}
