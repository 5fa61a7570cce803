//! Images: made, filled, found, changed, protected, deleted. Glance's refusals are pages.

use reqwest::Method;
use serde_json::{Value, json};

use super::side::{Image, NOBODY, Side};

async fn show(side: &Side, id: &str) -> Value {
    side.get(Image, &format!("/images/{id}")).await.expect(200).json()
}

async fn an_image_is_made_queued(side: &Side) {
    let name = side.name("image");
    let wanted =
        json!({"name": name, "disk_format": "raw", "container_format": "bare", "build_id": "12", "tags": ["b", "a"]});
    let reply = side.post(Image, "/images", wanted).await.expect(201);
    let (id, image) = (reply.at("/id"), reply.json());
    side.later(Image, format!("/images/{id}"));
    assert_eq!(reply.header("location"), format!("{}/images/{id}", side.url(Image)));
    let expected = json!({
        "name": name, "status": "queued", "visibility": "shared", "protected": false, "os_hidden": false,
        "disk_format": "raw", "container_format": "bare", "min_disk": 0, "min_ram": 0, "size": null,
        "virtual_size": null, "checksum": null, "os_hash_algo": null, "os_hash_value": null, "build_id": "12",
        "owner": side.login.project(), "id": id, "self": format!("/v2/images/{id}"),
        "file": format!("/v2/images/{id}/file"), "schema": "/v2/schemas/image",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&image[field], value, "{field}: {reply}");
    }
    let mut tags: Vec<&str> = image["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b"]);
    image["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(image.as_object().unwrap().len(), expected.as_object().unwrap().len() + 3, "{reply}");
}

async fn data_make_an_image_active(side: &Side) {
    let id = side.image(json!({})).await;
    side.upload(&id, b"abc".to_vec()).await.empty(204);
    let image = show(side, &id).await;
    assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(3)));
    assert_eq!(image["checksum"], "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(image["os_hash_algo"], "sha512");
    assert!(image["os_hash_value"].as_str().unwrap().starts_with("ddaf35a193617abacc417349ae204131"));
}

async fn data_may_come_in_chunks(side: &Side) {
    let id = side.image(json!({})).await;
    let chunks = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b'z'; 65536]));
    side.upload(&id, reqwest::Body::wrap_stream(futures::stream::iter(chunks))).await.empty(204);
    assert_eq!(show(side, &id).await["size"], 64 * 65536);
}

async fn data_come_once(side: &Side) {
    let id = side.image(json!({})).await;
    side.upload(&id, b"abc".to_vec()).await.empty(204);
    let says = "Image status transition from active to saving is not allowed";
    side.upload(&id, b"abc".to_vec()).await.glance(409, says);
}

async fn data_are_an_octet_stream(side: &Side) {
    let id = side.image(json!({})).await;
    let ask = side.ask(Method::PUT, Image, &format!("/images/{id}/file")).body("text/plain", "abc");
    ask.send().await.glance(415, "415 Unsupported Media Type");
    assert_eq!(show(side, &id).await["status"], "queued");
}

async fn data_that_are_not_what_they_say_are_refused(side: &Side) {
    let id = side.image(json!({"disk_format": "qcow2"})).await;
    let says = "Image disk_format qcow2 does not match stream data raw";
    side.upload(&id, vec![7; 1 << 20]).await.glance(415, says);
    assert_eq!(show(side, &id).await["status"], "queued", "and the image stays");
    side.delete(Image, &format!("/images/{id}")).await.empty(204);
}

async fn raw_takes_anything(side: &Side) {
    let id = side.image(json!({})).await;
    let mut data = b"QFI\xfb\0\0\0\x03".to_vec();
    data.resize(65536, 0);
    side.upload(&id, data).await.empty(204);
    assert_eq!(show(side, &id).await["status"], "active");
}

async fn data_need_a_format(side: &Side) {
    let id = side.image(json!({"disk_format": null, "container_format": null})).await;
    let reply = side.upload(&id, b"abc".to_vec()).await;
    reply.glance(400, "Properties disk_format, container_format must be set prior to saving data.");
}

async fn data_of_no_image_are_not_found(side: &Side) {
    side.upload(NOBODY, b"abc".to_vec()).await.glance(404, "404 Not Found");
}

async fn an_unknown_image_is_not_found(side: &Side) {
    for id in [NOBODY, "nobody"] {
        let says = format!("No image found with ID {id}");
        side.get(Image, &format!("/images/{id}")).await.glance(404, &says);
    }
}

/// WebOb, which Glance leaves its refusals to, writes a page to who takes one.
async fn refusals_are_in_the_form_that_the_client_accepts(side: &Side) {
    let path = format!("/images/{NOBODY}");
    let ask = |accept: &str| side.ask(Method::GET, Image, &path).header("accept", accept);
    let reply = ask("application/json").send().await.expect(404);
    let json = reply.json();
    assert_eq!((&json["code"], &json["title"]), (&json!("404 Not Found"), &json!("Not Found")));
    assert_eq!(json["message"], format!("No image found with ID {NOBODY}<br /><br />\n\n\n"), "{reply}");
    for accept in ["*/*", "application/json, text/html"] {
        ask(accept).send().await.glance(404, &format!("No image found with ID {NOBODY}"));
    }
    let stranger = ask("application/json").token("nonsense").send().await.expect(401);
    assert_eq!(stranger.json()["code"], "401 Unauthorized", "{stranger}");
}

async fn an_image_goes_once(side: &Side) {
    let id = side.image(json!({})).await;
    let path = format!("/images/{id}");
    side.delete(Image, &path).await.empty(204);
    side.delete(Image, &path).await.glance(404, &format!("Failed to find image {id} to delete"));
    side.get(Image, &path).await.glance(404, "No image found with ID");
}

async fn a_deactivated_image_comes_back(side: &Side) {
    let id = side.image(json!({})).await;
    side.upload(&id, b"abc".to_vec()).await.empty(204);
    for (action, status) in [("deactivate", "deactivated"), ("deactivate", "deactivated"), ("reactivate", "active")] {
        side.ask(Method::POST, Image, &format!("/images/{id}/actions/{action}")).send().await.empty(204);
        assert_eq!(show(side, &id).await["status"], status);
    }
}

async fn only_images_with_data_are_deactivated(side: &Side) {
    let id = side.image(json!({})).await;
    for action in ["deactivate", "reactivate"] {
        let path = format!("/images/{id}/actions/{action}");
        let refused = side.ask(Method::POST, Image, &path).send().await;
        refused.glance(403, &format!("Not allowed to {action} image in status 'queued'"));
        side.post(Image, &path, json!({})).await.glance(400, "A body is not expected with this request.");
    }
}

async fn a_protected_image_stays(side: &Side) {
    let id = side.image(json!({"protected": true})).await;
    let refused = side.delete(Image, &format!("/images/{id}")).await;
    side.patch(&id, json!([{"op": "replace", "path": "/protected", "value": false}])).await.expect(200);
    refused.glance(403, &format!("Image {id} is protected and cannot be deleted."));
}

async fn an_image_is_changed_step_by_step(side: &Side) {
    let id = side.image(json!({"old": "1"})).await;
    let steps = json!([
        {"op": "add", "path": "/formatted_at", "value": "123"},
        {"op": "replace", "path": "/name", "value": "another"},
        {"op": "remove", "path": "/old"},
    ]);
    let image = side.patch(&id, steps).await.expect(200).json();
    assert_eq!((&image["formatted_at"], &image["name"], image.get("old")), (&json!("123"), &json!("another"), None));
}

async fn a_change_has_its_own_content_type(side: &Side) {
    let id = side.image(json!({})).await;
    let ask = side.ask(Method::PATCH, Image, &format!("/images/{id}")).json(&json!([]));
    ask.send().await.glance(415, "415 Unsupported Media Type");
}

async fn a_property_that_is_not_there_cannot_go(side: &Side) {
    let id = side.image(json!({})).await;
    let reply = side.patch(&id, json!([{"op": "remove", "path": "/nonsense"}])).await;
    reply.glance(409, "Property nonsense does not exist.");
}

async fn only_administrators_make_images_public(side: &Side) {
    let id = side.image(json!({})).await;
    let reply = side.patch(&id, json!([{"op": "replace", "path": "/visibility", "value": "public"}])).await;
    reply.glance(403, "You are not authorized to complete publicize_image action.");
}

async fn attributes_of_glance_s_own_cannot_be_set(side: &Side) {
    let reply = side.post(Image, "/images", json!({"name": "x", "status": "active"})).await;
    reply.glance(403, "Attribute 'status' is read-only.");
}

async fn an_unknown_format_is_refused(side: &Side) {
    let wanted = json!({"disk_format": "floppy", "container_format": "bare"});
    side.post(Image, "/images", wanted).await.glance(400, "'floppy' is not one of");
}

async fn an_id_may_be_chosen_once(side: &Side) {
    let id = uuid::Uuid::new_v4().to_string();
    assert_eq!(side.image(json!({"id": id})).await, id);
    side.post(Image, "/images", json!({"id": id})).await.glance(409, &format!("Image ID {id} already exists!"));
}

async fn properties_are_text(side: &Side) {
    side.post(Image, "/images", json!({"name": "x", "build": 7})).await.glance(400, "400 Bad Request");
}

async fn images_are_found_by_property(side: &Side) {
    let build = side.name("build");
    let id = side.image(json!({"build_id": build})).await;
    let found = side.get(Image, &format!("/images?build_id={build}")).await.expect(200);
    assert_eq!(found.each("images", "id"), [id]);
    let none = side.get(Image, "/images?build_id=nothing-has-this").await.expect(200);
    assert!(none.each("images", "id").is_empty(), "{none}");
}

async fn images_are_found_by_exact_name(side: &Side) {
    let name = side.name("two of one name");
    let mut ids = [side.image(json!({"name": name})).await, side.image(json!({"name": name})).await];
    let query = |name: &str| format!("/images?limit=1000&name={}", name.replace(' ', "%20"));
    let mut found = side.get(Image, &query(&name)).await.expect(200).each("images", "id");
    ids.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, ids);
    let part = side.get(Image, &query(&name[..name.len() - 1])).await.expect(200);
    assert!(part.each("images", "id").is_empty(), "{part}");
}

async fn images_are_found_by_tag(side: &Side) {
    let tag = side.name("tag");
    let id = side.image(json!({"tags": [tag]})).await;
    let found = side.get(Image, &format!("/images?tag={tag}")).await.expect(200);
    assert_eq!(found.each("images", "id"), [id]);
}

async fn images_are_found_by_status(side: &Side) {
    let name = side.name("status");
    let id = side.image(json!({"name": name})).await;
    let found = side.get(Image, &format!("/images?name={name}&status=queued")).await.expect(200);
    assert_eq!(found.each("images", "id"), [id]);
    let none = side.get(Image, &format!("/images?name={name}&status=active")).await.expect(200);
    assert!(none.each("images", "id").is_empty(), "{none}");
}

async fn a_hidden_image_is_listed_only_among_the_hidden(side: &Side) {
    let name = side.name("hidden");
    let id = side.image(json!({"name": name, "os_hidden": true})).await;
    let none = side.get(Image, &format!("/images?name={name}")).await.expect(200);
    assert!(none.each("images", "id").is_empty(), "{none}");
    let found = side.get(Image, &format!("/images?name={name}&os_hidden=true")).await.expect(200);
    assert_eq!(found.each("images", "id"), [id.as_str()]);
    assert_eq!(show(side, &id).await["os_hidden"], true, "by id it is found");
}

async fn images_come_in_pages(side: &Side) {
    let name = side.name("page");
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(side.image(json!({"name": name})).await);
    }
    let first = side.get(Image, &format!("/images?name={name}&limit=2")).await.expect(200);
    let next = first.at("/next");
    assert!(
        next.starts_with("/v2/images?") && next.contains(&format!("marker={}", first.each("images", "id")[1])),
        "{next}"
    );
    let second = side.get(Image, next.strip_prefix("/v2").unwrap()).await.expect(200);
    assert!(second.json().get("next").is_none(), "{second}");
    let mut seen = [first.each("images", "id"), second.each("images", "id")].concat();
    seen.sort_unstable();
    made.sort_unstable();
    assert_eq!(seen, made);
    assert_eq!(
        (first.at("/schema"), first.at("/first").starts_with("/v2/images?")),
        ("/v2/schemas/images".into(), true)
    );
}

async fn a_marker_that_is_gone_is_refused(side: &Side) {
    let reply = side.get(Image, &format!("/images?limit=1&marker={NOBODY}")).await;
    reply.glance(400, &format!("No image found with ID {NOBODY}"));
}

async fn a_limit_is_a_number(side: &Side) {
    side.get(Image, "/images?limit=x").await.glance(400, "limit param must be an integer");
}

async fn tags_come_and_go(side: &Side) {
    let id = side.image(json!({})).await;
    let path = format!("/images/{id}/tags/one");
    side.ask(Method::PUT, Image, &path).send().await.empty(204);
    assert_eq!(show(side, &id).await["tags"], json!(["one"]));
    side.delete(Image, &path).await.empty(204);
    side.delete(Image, &path).await.glance(404, "404 Not Found");
}

async fn glance_tells_how_to_import(side: &Side) {
    let methods = side.get(Image, "/info/import").await.expect(200);
    assert!(methods.json()["import-methods"]["value"].is_array(), "{methods}");
}

async fn the_given_images_are_public_and_active(side: &Side) {
    let image = show(side, &side.given().await.image).await;
    assert_eq!(
        (&image["status"], &image["visibility"], &image["name"]),
        (&json!("active"), &json!("public"), &json!("debian-13"))
    );
    assert_eq!(image["os_distro"], "debian");
    let reply = side.delete(Image, &format!("/images/{}", side.given().await.image)).await;
    reply.glance(403, "You are not authorized to complete delete_image action.");
}

conformance!(shared:
    an_image_is_made_queued,
    data_make_an_image_active,
    data_may_come_in_chunks,
    data_come_once,
    data_are_an_octet_stream,
    data_that_are_not_what_they_say_are_refused,
    raw_takes_anything,
    data_need_a_format,
    data_of_no_image_are_not_found,
    an_unknown_image_is_not_found,
    refusals_are_in_the_form_that_the_client_accepts,
    an_image_goes_once,
    a_deactivated_image_comes_back,
    only_images_with_data_are_deactivated,
    a_protected_image_stays,
    an_image_is_changed_step_by_step,
    a_change_has_its_own_content_type,
    a_property_that_is_not_there_cannot_go,
    only_administrators_make_images_public,
    attributes_of_glance_s_own_cannot_be_set,
    an_unknown_format_is_refused,
    an_id_may_be_chosen_once,
    properties_are_text,
    images_are_found_by_property,
    images_are_found_by_exact_name,
    images_are_found_by_tag,
    images_are_found_by_status,
    a_hidden_image_is_listed_only_among_the_hidden,
    images_come_in_pages,
    a_marker_that_is_gone_is_refused,
    a_limit_is_a_number,
    tags_come_and_go,
    glance_tells_how_to_import,
    the_given_images_are_public_and_active,
);
