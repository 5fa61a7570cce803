//! Snapshots: an image made of a server, from `queued` to `active`, or to nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::side::{Compute, Image, Side};

/// Takes a snapshot of a server; the image goes when the case ends.
async fn snapshot(side: &Side, server: &str, name: &str) -> String {
    let wanted = json!({"createImage": {"name": name, "metadata": {"build": "7"}}});
    let id = side.act(server, wanted).await.expect(202).at("/image_id");
    side.later(Image, format!("/images/{id}"));
    id
}

async fn active(side: &Side, id: &str) -> Value {
    let reply = side.until(Image, &format!("/images/{id}"), |reply| reply.json()["status"] == "active").await;
    reply.json()
}

async fn the_image_is_there_at_once_and_queued(side: &Side) {
    let machine = side.machine().await;
    let name = side.name("snapshot");
    let id = snapshot(side, &machine.id, &name).await;
    let reply = side.get(Image, &format!("/images/{id}")).await.expect(200);
    let image = reply.json();
    assert!(["queued", "saving"].contains(&image["status"].as_str().unwrap()), "{reply}");
    assert_eq!((&image["name"], &image["visibility"], &image["build"]), (&json!(name), &json!("private"), &json!("7")));
    let done = active(side, &id).await;
    side.active(&machine.id).await;
    assert!(done["size"].as_u64().unwrap() > 0 && done["disk_format"].is_string(), "{done}");
}

async fn the_image_inherits_and_tells_where_it_is_from(side: &Side) {
    let machine = side.machine().await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    let image = active(side, &id).await;
    side.active(&machine.id).await;
    assert_eq!((&image["os_distro"], &image["image_type"]), (&json!("debian"), &json!("snapshot")));
    assert_eq!(
        (&image["instance_uuid"], &image["base_image_ref"]),
        (&json!(machine.id), &json!(side.given().await.image))
    );
    assert_eq!((&image["min_disk"], &image["min_ram"]), (&json!(5), &json!(0)), "the disk of the server's flavor");
    assert_eq!(image["owner"], side.login.project().as_str());
}

async fn one_at_a_time(side: &Side) {
    let machine = side.machine().await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    let second = side.act(&machine.id, json!({"createImage": {"name": "x"}})).await;
    active(side, &id).await;
    side.active(&machine.id).await;
    let message = second.expect(409).at("/conflictingRequest/message");
    let start = format!("Cannot 'createImage' instance {} while it is in task_state image_", machine.id);
    assert!(message.starts_with(&start), "{message}");
}

async fn before_2_45_the_id_is_in_the_location(side: &Side) {
    let machine = side.machine().await;
    let ask = side.ask(Method::POST, Compute, &format!("{}/action", machine.path)).version("compute 2.44");
    let reply = ask.json(&json!({"createImage": {"name": side.name("snapshot")}})).send().await.empty(202);
    let location = reply.header("location").to_owned();
    let id = location.rsplit('/').next().unwrap();
    side.later(Image, format!("/images/{id}"));
    active(side, id).await;
    side.active(&machine.id).await;
    assert!(!location.contains("/v2") && location.ends_with(&format!("/images/{id}")), "{location}");
}

async fn a_snapshot_needs_a_name(side: &Side) {
    let reply = side.act(side.server().await, json!({"createImage": {}})).await;
    reply.invalid("createImage", "'name' is a required property");
}

async fn a_failed_snapshot_leaves_nothing(side: &Side) {
    let machine = side.machine().await;
    let name = side.show(&machine.id).await["name"].as_str().unwrap().to_owned();
    side.trouble("snapshot", &name, 1.5, Some("disk full")).await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    let at_first = side.get(Image, &format!("/images/{id}")).await;
    side.until(Image, &format!("/images/{id}"), |reply| reply.status == 404).await;
    side.no_trouble(&name).await;
    let server = side.active(&machine.id).await;
    at_first.expect(200);
    assert!(server.get("fault").is_none(), "{server}");
}

async fn a_snapshot_boots_on_flavors_as_large_only(side: &Side) {
    let machine = side.machine().await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    active(side, &id).await;
    side.active(&machine.id).await;
    let message = "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is \
                   1073741824 bytes, minimum size is 5368709120 bytes.";
    side.boot("x", json!({"imageRef": id})).await.nova(400, message);
    let extra = json!({"imageRef": id, "flavorRef": side.given().await.flavor("tiny")});
    let server = side.active(&side.booted(&side.name("again"), extra).await).await;
    assert_eq!(server["image"]["id"], id.as_str());
}

async fn a_stopped_server_can_be_snapshot(side: &Side) {
    let machine = side.machine().await;
    side.act(&machine.id, json!({"os-stop": null})).await.empty(202);
    side.settled(&machine.id, "SHUTOFF").await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    active(side, &id).await;
    side.settled(&machine.id, "SHUTOFF").await;
    side.act(&machine.id, json!({"os-start": null})).await.empty(202);
    side.active(&machine.id).await;
}

async fn a_snapshot_goes_as_any_image(side: &Side) {
    let machine = side.machine().await;
    let id = snapshot(side, &machine.id, &side.name("snapshot")).await;
    active(side, &id).await;
    side.active(&machine.id).await;
    side.delete(Image, &format!("/images/{id}")).await.empty(204);
    side.get(Image, &format!("/images/{id}")).await.glance(404, "No image found with ID");
}

conformance!(shared:
    the_image_is_there_at_once_and_queued,
    the_image_inherits_and_tells_where_it_is_from,
    one_at_a_time,
    before_2_45_the_id_is_in_the_location,
    a_snapshot_needs_a_name,
    a_failed_snapshot_leaves_nothing,
    a_snapshot_boots_on_flavors_as_large_only,
    a_stopped_server_can_be_snapshot,
    a_snapshot_goes_as_any_image,
);
