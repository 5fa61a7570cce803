//! Images on real services: made on a server over SSH or from a file, tried, booted from, undone, protected.
//!
//! A setup runs on the machine that the tests run on, as whoever runs them: it only ever echoes.

use axum::Router;
use axum::routing::get;
use kube::ResourceExt;
use nodepool_operator::api::{ImageState, PoolNode, ProviderImage};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use super::precise::{self, Place};
use super::stage::{PATIENCE, PROVIDER, Stage, login, start};
use super::support::eventually;
use super::support::versions::{built, current, image_id, rebuild, states, status};
use super::support::world::{server_id, text};

/// Sets nothing up: what it says is kept in the version's status.
pub const SNAPSHOT: &str = "echo built";

/// A DiskImage on the one Provider that nothing makes again by itself.
pub async fn image(stage: &Stage, name: &str, source: Value, spec: Value) {
    let mut all = json!({
        "providers": [PROVIDER], "source": source, "login": login(),
        "refresh": {"schedule": "0 0 1 1 *", "jitter": "0s"},
    });
    spec.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    stage.world.apply("DiskImage", name, all).await;
}

/// Source `snapshot`, on the smallest servers.
pub fn snapshot() -> Value {
    json!({"snapshot": {
        "baseImage": {"name": "debian-13"}, "flavor": {"name": "nano"}, "login": {"username": "root"}, "setup": SNAPSHOT,
    }})
}

/// Source `url`: a raw disk at this address.
pub fn url(address: &str, disk: &[u8]) -> Value {
    json!({"url": {"url": address, "checksum": {"value": hex(&Sha256::digest(disk))}, "format": "raw"}})
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no two places of a disk share.
pub fn disk(length: u32) -> Vec<u8> {
    (0..length / 4).flat_map(u32::to_be_bytes).collect()
}

/// Waits until the cloud has exactly the images of these versions.
pub async fn cloud_has(stage: &Stage, versions: &[&ProviderImage]) {
    let mut wanted: Vec<String> = versions.iter().map(|version| image_id(version)).collect();
    wanted.sort_unstable();
    eventually(PATIENCE, || async {
        let mut found: Vec<String> = stage.images().await.iter().map(|image| text(&image["id"])).collect();
        found.sort_unstable();
        if found == wanted { Ok(()) } else { Err(format!("images {found:?}, not {wanted:?}")) }
    })
    .await;
}

/// Waits until the pool's one node is of this version, and asks the cloud what it boots from.
async fn node_of(stage: &Stage, version: &ProviderImage) -> PoolNode {
    let node = eventually(built(&stage.world), || async {
        let nodes = stage.world.ready_nodes("small").await;
        let of_it = nodes.into_iter().find(|node| node.spec.provider_image == Some(version.name_any()));
        of_it.ok_or_else(|| format!("no node of {} yet", version.name_any()))
    })
    .await;
    let server = stage.project.get("compute", &format!("/servers/{}", server_id(&node).unwrap())).await;
    assert_eq!(server["server"]["image"]["id"], json!(image_id(version)), "{server}");
    node
}

/// What was asked of a server that may be gone, in order.
async fn actions(stage: &Stage, server: &str) -> Vec<String> {
    let list = stage.project.get("compute", &format!("/servers/{server}/os-instance-actions")).await;
    let newest_first = list["instanceActions"].as_array().unwrap().iter().map(|action| text(&action["action"]));
    newest_first.rev().collect()
}

#[tokio::test]
async fn a_snapshot_is_made_over_ssh_tried_booted_from_and_undone() {
    let stage = Stage::on("lab", json!({})).await;
    let world = &stage.world;
    image(&stage, "ci", snapshot(), json!({"properties": {"team": "ci"}})).await;
    world.pool("small", 1, json!({"image": "ci", "flavor": {"name": "nano"}})).await;
    eventually(PATIENCE, || async {
        let pairs = stage.key_pairs().await;
        if pairs.len() == 1 { Ok(()) } else { Err(format!("key pairs {pairs:?}, one for the build wanted")) }
    })
    .await;
    let first = states(world, "ci", &[ImageState::Ready]).await.remove(0);
    current(world, "ci", &first).await;
    let told = first.status.clone().unwrap();
    assert!(told.log.unwrap_or_default().contains("built"), "what the setup said");
    let server = told.server_id.unwrap();
    eventually(PATIENCE, || async {
        let actions = actions(&stage, &server).await;
        let wanted = ["create", "stop", "createImage", "delete"];
        if actions == wanted { Ok(()) } else { Err(format!("{actions:?}, not {wanted:?}")) }
    })
    .await;

    let made = stage.images().await.remove(0);
    assert_eq!((&made["status"], &made["size"], &made["team"]), (&json!("active"), &json!(65_536), &json!("ci")));
    assert_eq!(made["instance_uuid"], json!(server));
    // What the lab puts into a snapshot is what its server was: here stopped, and booted with one key.
    let (status_code, bytes) = stage.project.bytes(&image_id(&first)).await;
    assert_eq!(status_code, 200);
    let machine: Value = serde_json::from_slice(bytes.split(|byte| *byte == 0).next().unwrap()).unwrap();
    assert_eq!(machine["node"]["running"], json!(false), "{machine}");
    assert_eq!(machine["node"]["keys"].as_array().unwrap().len(), 1, "{machine}");
    assert!(stage.key_pairs().await.is_empty(), "the key that was made for the build is gone");

    node_of(&stage, &first).await;
    rebuild(world, "ci", "again").await;
    let versions = states(world, "ci", &[ImageState::Ready, ImageState::Ready]).await;
    current(world, "ci", &versions[1]).await;
    node_of(&stage, &versions[1]).await;
    cloud_has(&stage, &[&first, &versions[1]]).await;

    let next = status(world, "ci").await["nextBuildTime"].clone();
    let said = world.namespace.kubectl().run(&["delete", "providerimage", &versions[1].name_any()]).await;
    assert!(said.success, "{}", said.stderr);
    current(world, "ci", &first).await;
    node_of(&stage, &first).await;
    cloud_has(&stage, &[&first]).await;
    assert_eq!(status(world, "ci").await["nextBuildTime"], next, "no build before its time");
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_file_becomes_an_image_that_stays_as_long_as_it_is_protected() {
    let stage = Stage::on("lab-appcred", json!({})).await;
    let world = &stage.world;
    let bytes = disk(3 << 20);
    let (served, sha512) = (bytes.clone(), hex(&Sha512::digest(&bytes)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/disk.raw", listener.local_addr().unwrap());
    let router = Router::new().route("/disk.raw", get(move || async move { served }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    image(&stage, "ci", url(&address, &bytes), json!({})).await;
    let first = states(world, "ci", &[ImageState::Ready]).await.remove(0);
    let made = stage.images().await.remove(0);
    assert_eq!((&made["status"], &made["size"]), (&json!("active"), &json!(bytes.len())));
    assert_eq!((&made["os_hash_value"], &made["visibility"]), (&json!(sha512), &json!("private")));
    rebuild(world, "ci", "again").await;
    let versions = states(world, "ci", &[ImageState::Ready, ImageState::Ready]).await;

    let (name, id) = (first.name_any(), image_id(&first));
    stage.project.protect(&id, true).await;
    world.delete::<ProviderImage>(&name).await;
    let told = world.reason::<ProviderImage>(&name, "Ready", "ImageProtected").await;
    assert!(text(&told["message"]).contains("take the protection away"), "{told}");
    let (code, image) = stage.project.call(Method::GET, "image", &format!("/images/{id}"), None).await;
    assert_eq!((code, &image["status"]), (200, &json!("active")), "it stays");
    stage.project.protect(&id, false).await;
    world.gone::<ProviderImage>(&name).await;
    cloud_has(&stage, &[&versions[1]]).await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn a_bad_devstack_precise_at_hpcloud_az2_is_undone_and_the_one_before_it_kept() {
    let mut stage = Stage::named(precise::PROVIDER).await;
    let (world, project) = (&mut stage.world, &stage.project);
    Place { world, project, flavor: "nano", login: login(), start }.tell().await;
    stage.ends_empty().await;
}
