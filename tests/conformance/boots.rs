//! POST of a server: what is refused at once, what is taken, and what becomes of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::side::{Compute, Image, NOBODY, Side};
use super::things::PUBLIC_KEY;

async fn a_boot_is_taken_with_an_id_and_little_more(side: &Side) {
    let reply = side.boot(&side.name("taken"), json!({})).await.expect(202);
    let mut fields = reply.fields("server");
    fields.sort_unstable();
    assert_eq!(fields, ["OS-DCF:diskConfig", "adminPass", "id", "links", "security_groups"]);
    let id = reply.at("/server/id");
    assert_eq!(reply.header("location"), format!("{}/servers/{id}", side.url(Compute)));
}

async fn a_building_server_has_neither_address_nor_host(side: &Side) {
    let name = side.name("building");
    side.trouble("boot", &name, 4.0, None).await;
    let server = side.show(&side.booted(&name, json!({})).await).await;
    assert_eq!((&server["status"], &server["OS-EXT-STS:vm_state"]), (&json!("BUILD"), &json!("building")));
    assert_eq!((&server["addresses"], &server["hostId"]), (&json!({}), &json!("")));
    assert_eq!((&server["OS-SRV-USG:launched_at"], &server["OS-EXT-STS:power_state"]), (&Value::Null, &json!(0)));
    assert!(server["OS-EXT-STS:task_state"].is_string() && server.get("fault").is_none(), "{server}");
    side.no_trouble(&name).await;
}

async fn a_booted_server_is_what_was_asked_for(side: &Side) {
    let name = side.name("whole");
    let key = side.name("key");
    let pair = json!({"keypair": {"name": key, "public_key": PUBLIC_KEY}});
    side.post(Compute, "/os-keypairs", pair).await.expect(201);
    side.later(Compute, format!("/os-keypairs/{key}"));
    let extra = json!({
        "metadata": {"pool": "a", "k": "v"}, "tags": ["b=2", "a=1"], "config_drive": true, "key_name": key,
        "description": "what it is for", "availability_zone": "nova", "user_data": "IyEvYmluL3NoCg==",
        "security_groups": [{"name": "default"}], "min_count": 1, "max_count": 1,
    });
    let server = side.active(&side.booted(&name, extra).await).await;
    assert_eq!(server["name"], name.as_str(), "counts of one leave the name alone");
    assert_eq!(server["metadata"], json!({"pool": "a", "k": "v"}));
    assert_eq!(server["tags"], json!(["a=1", "b=2"]));
    assert_eq!((&server["config_drive"], &server["key_name"]), (&json!("True"), &json!(key)));
    assert_eq!(
        (&server["description"], &server["OS-EXT-AZ:availability_zone"]),
        (&json!("what it is for"), &json!("nova"))
    );
    assert_eq!(server["security_groups"], json!([{"name": "default"}]));
    assert_eq!((&server["OS-EXT-STS:vm_state"], &server["OS-EXT-STS:power_state"]), (&json!("active"), &json!(1)));
    assert_eq!(server["hostId"].as_str().unwrap().len(), 56);
    let address = &server["addresses"]["private"][0];
    assert_eq!((&address["version"], &address["OS-EXT-IPS:type"]), (&json!(4), &json!("fixed")));
    address["addr"].as_str().unwrap().parse::<std::net::Ipv4Addr>().unwrap();
    assert_eq!(address["OS-EXT-IPS-MAC:mac_addr"].as_str().unwrap().len(), 17);
    server["OS-SRV-USG:launched_at"].as_str().unwrap();
}

async fn an_unknown_image_is_refused(side: &Side) {
    side.boot("x", json!({"imageRef": NOBODY})).await.nova(400, "Can not find requested image");
}

async fn an_unknown_flavor_is_refused(side: &Side) {
    let message = format!("Flavor {NOBODY} could not be found.");
    side.boot("x", json!({"flavorRef": NOBODY})).await.nova(400, &message);
}

async fn an_unknown_network_is_refused(side: &Side) {
    let message = format!("Network {NOBODY} could not be found.");
    side.boot("x", json!({"networks": [{"uuid": NOBODY}]})).await.nova(400, &message);
}

async fn an_unknown_key_pair_is_refused(side: &Side) {
    side.boot("x", json!({"key_name": "nobody"})).await.nova(400, "Invalid key_name provided.");
}

async fn an_unknown_zone_is_refused(side: &Side) {
    let message = "The requested availability zone is not available";
    side.boot("x", json!({"availability_zone": "nowhere"})).await.nova(400, message);
}

async fn an_unknown_security_group_is_refused(side: &Side) {
    let message = "Unable to find security_group with name or id 'nobody'";
    side.boot("x", json!({"security_groups": [{"name": "nobody"}]})).await.nova(400, message);
}

async fn an_image_without_data_is_refused(side: &Side) {
    let id = side.image(json!({})).await;
    side.boot("x", json!({"imageRef": id})).await.nova(400, &format!("Image {id} is not active."));
}

async fn a_deactivated_image_is_refused(side: &Side) {
    let id = side.image(json!({})).await;
    side.upload(&id, vec![7; 512]).await.empty(204);
    side.ask(Method::POST, Image, &format!("/images/{id}/actions/deactivate")).send().await.empty(204);
    side.boot("x", json!({"imageRef": id})).await.nova(400, &format!("Image {id} is not active."));
}

async fn an_image_that_needs_more_memory_is_refused(side: &Side) {
    let id = side.image(json!({"min_ram": 4096})).await;
    side.upload(&id, vec![7; 512]).await.empty(204);
    let message = "Flavor's memory is too small for requested image.";
    side.boot("x", json!({"imageRef": id})).await.nova(400, message);
}

async fn an_image_that_needs_more_disk_is_refused(side: &Side) {
    let id = side.image(json!({"min_disk": 40})).await;
    side.upload(&id, vec![7; 512]).await.empty(204);
    let message = "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is \
                   1073741824 bytes, minimum size is 42949672960 bytes.";
    side.boot("x", json!({"imageRef": id})).await.nova(400, message);
}

async fn a_boot_needs_a_name(side: &Side) {
    side.boot("x", json!({"name": null})).await.invalid("server", "'name' is a required property");
}

async fn a_boot_needs_a_flavor(side: &Side) {
    side.boot("x", json!({"flavorRef": null})).await.invalid("server", "'flavorRef' is a required property");
}

async fn a_boot_needs_networks_from_2_37(side: &Side) {
    side.boot("x", json!({"networks": null})).await.invalid("server", "'networks' is a required property");
    let body = side.boot_body("x", json!({"networks": null, "imageRef": NOBODY})).await;
    let ask = side.ask(reqwest::Method::POST, Compute, "/servers").version("compute 2.36").json(&body);
    ask.send().await.nova(400, "Can not find requested image");
}

async fn tags_are_taken_from_2_52(side: &Side) {
    let body = side.boot_body("x", json!({"tags": ["a"], "imageRef": NOBODY})).await;
    let at = async |version: &str| {
        side.ask(reqwest::Method::POST, Compute, "/servers").version(version).json(&body).send().await
    };
    at("compute 2.51").await.invalid("server", "Additional properties are not allowed ('tags' was unexpected)");
    at("compute 2.52").await.nova(400, "Can not find requested image");
}

async fn unknown_attributes_are_refused(side: &Side) {
    let end = "Additional properties are not allowed ('nonsense' was unexpected)";
    side.boot("x", json!({"nonsense": 1})).await.invalid("server", end);
}

async fn a_boot_that_is_no_json_is_refused(side: &Side) {
    let ask = side.ask(reqwest::Method::POST, Compute, "/servers").body("application/json", "{");
    ask.send().await.nova(400, "Malformed request body");
}

async fn a_boot_without_a_server_is_refused(side: &Side) {
    let reply = side.post(Compute, "/servers", json!({})).await.expect(400);
    assert!(reply.at("/badRequest/message").ends_with("'server' is a required property"), "{reply}");
}

async fn a_count_of_none_is_refused(side: &Side) {
    let reply = side.boot("x", json!({"min_count": 0})).await.expect(400);
    assert!(reply.at("/badRequest/message").starts_with("Invalid input for field/attribute min_count."), "{reply}");
    let message = "min_count must be <= max_count";
    side.boot("x", json!({"min_count": 2, "max_count": 1})).await.nova(400, message);
}

async fn user_data_that_is_no_base64_is_refused(side: &Side) {
    let end = "'not base64!' is not a 'base64'";
    side.boot("x", json!({"user_data": "not base64!"})).await.invalid("user_data", end);
}

async fn a_boot_on_an_external_network_is_taken(side: &Side) {
    let public = side.given().await.public.clone();
    side.boot(&side.name("outside"), json!({"networks": [{"uuid": public}]})).await.expect(202);
}

async fn a_boot_may_have_no_network(side: &Side) {
    let server = side.active(&side.booted(&side.name("hermit"), json!({"networks": "none"})).await).await;
    assert_eq!(server["addresses"], json!({}));
}

async fn a_boot_may_leave_the_network_to_the_cloud(side: &Side) {
    let server = side.active(&side.booted(&side.name("auto"), json!({"networks": "auto"})).await).await;
    assert_eq!(server["addresses"]["private"].as_array().unwrap().len(), 1);
}

async fn names_need_not_differ(side: &Side) {
    let name = side.name("twin");
    let (first, second) = (side.booted(&name, json!({})).await, side.booted(&name, json!({})).await);
    assert_ne!(first, second);
    let held = side.get(Compute, &format!("/servers?name=^{name}$")).await.expect(200);
    assert_eq!(held.each("servers", "name"), [name.as_str(), name.as_str()]);
}

async fn several_at_once_get_numbers(side: &Side) {
    let name = side.name("trio");
    let extra = json!({"min_count": 3, "max_count": 3, "return_reservation_id": true});
    let reply = side.boot(&name, extra).await.expect(202);
    assert_eq!(reply.fields(""), ["reservation_id"]);
    let held = side.get(Compute, &format!("/servers?name=^{name}")).await.expect(200);
    held.each("servers", "id").iter().for_each(|id| side.later(Compute, format!("/servers/{id}")));
    let mut names = held.each("servers", "name");
    names.sort_unstable();
    assert_eq!(names, [1, 2, 3].map(|number| format!("{name}-{number}")));
}

async fn what_fits_no_host_ends_in_error(side: &Side) {
    let name = side.name("huge");
    let id = side.booted(&name, json!({"flavorRef": side.given().await.flavor("huge")})).await;
    let server = side.settled(&id, "ERROR").await;
    let fault = &server["fault"];
    assert_eq!((&fault["code"], &fault["message"]), (&json!(500), &json!("No valid host was found. ")));
    fault["created"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(fault.as_object().unwrap().len(), 3, "no details for its owner: {fault}");
    assert_eq!((&server["addresses"], &server["hostId"]), (&json!({}), &json!("")));
    assert_eq!((&server["OS-EXT-STS:vm_state"], &server["OS-EXT-STS:power_state"]), (&json!("error"), &json!(0)));
    let listed = side.get(Compute, &format!("/servers/detail?status=ERROR&name=^{name}$")).await.expect(200);
    assert_eq!(listed.json()["servers"][0]["fault"], *fault, "the list tells it too");
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
}

async fn a_boot_that_every_host_fails_ends_in_error(side: &Side) {
    let name = side.name("broken");
    side.trouble("boot", &name, 0.0, Some("the host says no")).await;
    let id = side.booted(&name, json!({})).await;
    let server = side.settled(&id, "ERROR").await;
    let message = format!(
        "Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures for instance {id}."
    );
    assert_eq!((&server["fault"]["code"], &server["fault"]["message"]), (&json!(500), &json!(message)));
    assert!(!server.to_string().contains("says no"), "the true cause is not told: {server}");
    side.no_trouble(&name).await;
}

async fn a_failed_server_leaves_no_port_when_it_is_deleted(side: &Side) {
    let name = side.name("broken");
    side.trouble("boot", &name, 0.0, Some("the host says no")).await;
    let id = side.booted(&name, json!({})).await;
    side.settled(&id, "ERROR").await;
    side.no_trouble(&name).await;
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    let left = side.get(super::side::Network, &format!("/ports?device_id={id}")).await.expect(200);
    assert!(left.each("ports", "id").is_empty(), "{left}");
}

async fn an_image_may_go_while_its_servers_run(side: &Side) {
    let image = side.image(json!({})).await;
    side.upload(&image, vec![7; 4096]).await.empty(204);
    let id = side.booted(&side.name("orphan"), json!({"imageRef": image})).await;
    side.active(&id).await;
    side.delete(Image, &format!("/images/{image}")).await.empty(204);
    let server = side.show(&id).await;
    assert_eq!((&server["status"], &server["image"]["id"]), (&json!("ACTIVE"), &json!(image)));
}

conformance!(shared:
    a_boot_is_taken_with_an_id_and_little_more,
    a_building_server_has_neither_address_nor_host,
    a_booted_server_is_what_was_asked_for,
    an_unknown_image_is_refused,
    an_unknown_flavor_is_refused,
    an_unknown_network_is_refused,
    an_unknown_key_pair_is_refused,
    an_unknown_zone_is_refused,
    an_unknown_security_group_is_refused,
    an_image_without_data_is_refused,
    a_deactivated_image_is_refused,
    an_image_that_needs_more_memory_is_refused,
    an_image_that_needs_more_disk_is_refused,
    a_boot_needs_a_name,
    a_boot_needs_a_flavor,
    a_boot_needs_networks_from_2_37,
    tags_are_taken_from_2_52,
    unknown_attributes_are_refused,
    a_boot_that_is_no_json_is_refused,
    a_boot_without_a_server_is_refused,
    a_count_of_none_is_refused,
    user_data_that_is_no_base64_is_refused,
    a_boot_on_an_external_network_is_taken,
    a_boot_may_have_no_network,
    a_boot_may_leave_the_network_to_the_cloud,
    names_need_not_differ,
    several_at_once_get_numbers,
    what_fits_no_host_ends_in_error,
    a_boot_that_every_host_fails_ends_in_error,
    a_failed_server_leaves_no_port_when_it_is_deleted,
    an_image_may_go_while_its_servers_run,
);
