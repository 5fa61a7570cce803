//! A server that is there: shown, changed, stopped, locked, deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::side::{Compute, NOBODY, Network, Side};

fn absent(id: &str) -> String {
    format!("Instance {id} could not be found.")
}

async fn an_unknown_server_is_not_found(side: &Side) {
    let path = format!("/servers/{NOBODY}");
    side.get(Compute, &path).await.nova(404, &absent(NOBODY));
    side.delete(Compute, &path).await.nova(404, &absent(NOBODY));
    side.act(NOBODY, json!({"os-getConsoleOutput": {}})).await.nova(404, &absent(NOBODY));
}

async fn what_is_no_id_is_not_found_either(side: &Side) {
    side.get(Compute, "/servers/nobody").await.nova(404, &absent("nobody"));
    side.delete(Compute, "/servers/nobody").await.nova(404, &absent("nobody"));
}

async fn a_deleted_server_is_still_shown_then_gone(side: &Side) {
    let name = side.name("leaving");
    let id = side.booted(&name, json!({})).await;
    side.active(&id).await;
    side.trouble("delete", &name, 2.0, None).await;
    let path = format!("/servers/{id}");
    side.delete(Compute, &path).await.empty(204);
    let server = side.show(&id).await;
    assert_eq!((&server["status"], &server["OS-EXT-STS:task_state"]), (&json!("ACTIVE"), &json!("deleting")));
    let listed = side.get(Compute, &format!("/servers/detail?name=^{name}$&status=ACTIVE")).await.expect(200);
    assert_eq!(listed.json()["servers"][0]["OS-EXT-STS:task_state"], "deleting", "never hand such a one out");
    side.delete(Compute, &path).await.empty(204);
    let message = format!("Cannot 'createImage' instance {id} while it is in task_state deleting");
    side.act(&id, json!({"createImage": {"name": "x"}})).await.nova(409, &message);
    side.gone(&id).await.nova(404, &absent(&id));
    side.delete(Compute, &path).await.nova(404, &absent(&id));
    side.no_trouble(&name).await;
}

async fn a_deleted_server_shows_among_the_changes(side: &Side) {
    let name = side.name("past");
    let id = side.booted(&name, json!({"metadata": {"a": "b"}, "tags": ["t"]})).await;
    side.active(&id).await;
    let before = side.show(&id).await["created"].as_str().unwrap().to_owned();
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    let path = format!("/servers/detail?name=^{name}$&changes-since={before}");
    let server = side.get(Compute, &path).await.expect(200).json()["servers"][0].clone();
    assert_eq!((&server["id"], &server["status"], &server["addresses"]), (&json!(id), &json!("DELETED"), &json!({})));
    assert_eq!((&server["OS-EXT-STS:vm_state"], &server["OS-EXT-STS:task_state"]), (&json!("deleted"), &Value::Null));
    assert_eq!((&server["metadata"], &server["tags"]), (&json!({}), &json!([])), "marks go with the server");
    server["OS-SRV-USG:terminated_at"].as_str().unwrap();
    let listed = side.get(Compute, &format!("/servers?name=^{name}$")).await.expect(200);
    assert!(listed.each("servers", "id").is_empty(), "{listed}");
}

async fn a_new_server_is_found_at_once(side: &Side) {
    let name = side.name("new");
    let id = side.booted(&name, json!({})).await;
    // A 404 now would be taken for the proof that it is gone (rule 1).
    let shown = side.get(Compute, &format!("/servers/{id}")).await.expect(200);
    assert_eq!(shown.at("/server/name"), name);
    let listed = side.get(Compute, &format!("/servers?name=^{name}$")).await.expect(200);
    assert_eq!(listed.each("servers", "id"), [id]);
}

async fn a_building_server_can_be_deleted(side: &Side) {
    let name = side.name("early");
    side.trouble("boot", &name, 4.0, None).await;
    let id = side.booted(&name, json!({})).await;
    assert_eq!(side.show(&id).await["status"], "BUILD");
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    side.no_trouble(&name).await;
}

async fn a_building_server_refuses_actions(side: &Side) {
    let name = side.name("young");
    side.trouble("boot", &name, 6.0, None).await;
    let id = side.booted(&name, json!({})).await;
    side.spawning(&id).await;
    let cannot = |action: &str| format!("Cannot '{action}' instance {id} while it is in vm_state building");
    side.act(&id, json!({"createImage": {"name": "x"}})).await.nova(409, &cannot("createImage"));
    side.act(&id, json!({"os-stop": null})).await.nova(409, &cannot("stop"));
    // Its host has it, and no machine yet.
    side.act(&id, json!({"os-getConsoleOutput": {}})).await.nova(404, &format!("Instance {id} could not be found."));
    side.no_trouble(&name).await;
}

async fn a_failed_server_refuses_actions(side: &Side) {
    let id = side.booted(&side.name("huge"), json!({"flavorRef": side.given().await.flavor("huge")})).await;
    side.settled(&id, "ERROR").await;
    let cannot = |action: &str| format!("Cannot '{action}' instance {id} while it is in vm_state error");
    side.act(&id, json!({"createImage": {"name": "x"}})).await.nova(409, &cannot("createImage"));
    side.act(&id, json!({"os-start": null})).await.nova(409, &format!("Instance {id} is not ready"));
    side.act(&id, json!({"os-getConsoleOutput": {}})).await.nova(409, &format!("Instance {id} is not ready"));
}

async fn a_deletion_that_fails_can_be_repeated(side: &Side) {
    let name = side.name("stuck");
    let id = side.booted(&name, json!({})).await;
    side.active(&id).await;
    side.trouble("delete", &name, 0.0, Some("will not die")).await;
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    let server = side.settled(&id, "ERROR").await;
    let fault = (&server["fault"]["code"], &server["fault"]["message"]);
    assert_eq!(fault, (&json!(400), &json!("Failed to terminate instance: will not die")));
    side.no_trouble(&name).await;
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
}

async fn a_locked_server_stays(side: &Side) {
    let machine = side.machine().await;
    side.act(&machine.id, json!({"lock": null})).await.empty(202);
    let locked = side.show(&machine.id).await["locked"].clone();
    let delete = side.delete(Compute, &machine.path).await;
    let stop = side.act(&machine.id, json!({"os-stop": null})).await;
    side.act(&machine.id, json!({"unlock": null})).await.empty(202);
    assert_eq!(locked, true);
    let message = format!("Instance {} is locked", machine.id);
    delete.nova(409, &message);
    stop.nova(409, &message);
    assert_eq!(side.show(&machine.id).await["locked"], false);
}

async fn a_server_stops_and_starts(side: &Side) {
    let machine = side.machine().await;
    side.act(&machine.id, json!({"os-stop": null})).await.empty(202);
    let stopped = side.settled(&machine.id, "SHUTOFF").await;
    let again = side.act(&machine.id, json!({"os-stop": null})).await;
    side.act(&machine.id, json!({"os-start": null})).await.empty(202);
    side.active(&machine.id).await;
    assert_eq!((&stopped["OS-EXT-STS:vm_state"], &stopped["OS-EXT-STS:power_state"]), (&json!("stopped"), &json!(4)));
    again.nova(409, &format!("Cannot 'stop' instance {} while it is in vm_state stopped", machine.id));
    let message = format!("Cannot 'start' instance {} while it is in vm_state active", machine.id);
    side.act(&machine.id, json!({"os-start": null})).await.nova(409, &message);
}

async fn a_server_reboots(side: &Side) {
    let machine = side.machine().await;
    side.act(&machine.id, json!({"reboot": {"type": "HARD"}})).await.empty(202);
    side.active(&machine.id).await;
}

async fn a_forced_deletion_needs_no_soft_one(side: &Side) {
    let id = side.booted(&side.name("forced"), json!({})).await;
    side.active(&id).await;
    side.act(&id, json!({"forceDelete": null})).await.empty(202);
    side.gone(&id).await;
}

async fn an_unknown_action_is_refused(side: &Side) {
    let reply = side.act(side.server().await, json!({"dance": {}})).await.expect(400);
    assert_eq!(reply.at("/badRequest/message"), "There is no such action: dance");
}

async fn a_server_can_be_renamed(side: &Side) {
    let machine = side.machine().await;
    let name = side.name("renamed");
    let put = side.put(Compute, &machine.path, json!({"server": {"name": name}})).await;
    let shown = side.show(&machine.id).await["name"].clone();
    side.put(Compute, &machine.path, json!({"server": {"name": "conformance-2"}})).await.expect(200);
    assert_eq!((put.expect(200).at("/server/name"), shown), (name.clone(), json!(name)));
}

async fn the_console_is_text_of_the_length_asked_for(side: &Side) {
    let id = side.server().await;
    let whole = side.act(id, json!({"os-getConsoleOutput": {}})).await.expect(200);
    assert_eq!(whole.fields(""), ["output"]);
    assert!(whole.at("/output").contains("-----BEGIN SSH HOST KEY KEYS-----"), "{whole}");
    let tail = side.act(id, json!({"os-getConsoleOutput": {"length": 3}})).await.expect(200).at("/output");
    assert_eq!(tail.trim_end_matches('\n').lines().count(), 3, "{tail}");
    assert!(whole.at("/output").trim_end().ends_with(tail.trim_end()));
}

async fn tags_come_and_go(side: &Side) {
    let machine = side.machine().await;
    let (tag, path) = (side.name("tag"), machine.path.clone() + "/tags");
    let one = format!("{path}/{tag}");
    side.put(Compute, &path, json!({"tags": []})).await.is(200, &json!({"tags": []}));
    let put = side.ask(Method::PUT, Compute, &one).send().await.empty(201);
    assert!(put.header("location").ends_with(&one), "{:?}", put.headers);
    side.ask(Method::PUT, Compute, &one).send().await.empty(204);
    side.get(Compute, &one).await.empty(204);
    side.get(Compute, &path).await.is(200, &json!({"tags": [tag]}));
    side.delete(Compute, &one).await.empty(204);
    side.delete(Compute, &one).await.nova(404, &format!("Instance {} has no tag '{tag}'", machine.id));
    side.get(Compute, &one).await.nova(404, &format!("Server {} has no tag '{tag}'", machine.id));
    side.delete(Compute, &path).await.empty(204);
}

async fn metadata_come_and_go(side: &Side) {
    let machine = side.machine().await;
    let path = machine.path.clone() + "/metadata";
    side.put(Compute, &path, json!({"metadata": {"a": "1"}})).await.is(200, &json!({"metadata": {"a": "1"}}));
    let both = json!({"metadata": {"a": "1", "b": "2"}});
    side.post(Compute, &path, json!({"metadata": {"b": "2"}})).await.is(200, &both);
    side.put(Compute, &format!("{path}/b"), json!({"meta": {"b": "3"}})).await.is(200, &json!({"meta": {"b": "3"}}));
    side.get(Compute, &format!("{path}/b")).await.is(200, &json!({"meta": {"b": "3"}}));
    side.delete(Compute, &format!("{path}/b")).await.empty(204);
    side.delete(Compute, &format!("{path}/b")).await.nova(404, "Metadata item was not found");
    side.get(Compute, &format!("{path}/b")).await.nova(404, "Metadata item was not found");
    side.put(Compute, &path, json!({"metadata": {}})).await.is(200, &json!({"metadata": {}}));
}

async fn addresses_can_be_asked_for_alone(side: &Side) {
    let id = side.server().await;
    let shown = side.show(id).await["addresses"]["private"][0].clone();
    let private = json!({"private": [{"version": 4, "addr": shown["addr"]}]});
    side.get(Compute, &format!("/servers/{id}/ips")).await.is(200, &json!({"addresses": private}));
    side.get(Compute, &format!("/servers/{id}/ips/private")).await.is(200, &private);
}

async fn a_server_has_its_port(side: &Side) {
    let id = side.server().await;
    let shown = side.show(id).await["addresses"]["private"][0].clone();
    let ports = side.get(Network, &format!("/ports?device_id={id}")).await.expect(200).json()["ports"].clone();
    let port = &ports[0];
    assert_eq!(ports.as_array().unwrap().len(), 1);
    assert_eq!((&port["device_owner"], &port["status"]), (&json!("compute:nova"), &json!("ACTIVE")));
    assert_eq!(
        (&port["fixed_ips"][0]["ip_address"], &port["mac_address"]),
        (&shown["addr"], &shown["OS-EXT-IPS-MAC:mac_addr"])
    );
    assert_eq!((&port["tags"], &port["description"], &port["name"]), (&json!([]), &json!(""), &json!("")));
    let attached = side.get(Compute, &format!("/servers/{id}/os-interface")).await.expect(200);
    assert_eq!(attached.each("interfaceAttachments", "port_id"), [port["id"].as_str().unwrap()]);
}

async fn a_server_tells_of_its_creation(side: &Side) {
    let id = side.server().await;
    let actions = side.get(Compute, &format!("/servers/{id}/os-instance-actions")).await.expect(200).json();
    let create = actions["instanceActions"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&create["action"], &create["instance_uuid"], &create["message"]),
        (&json!("create"), &json!(id), &Value::Null)
    );
}

async fn a_server_tells_its_security_groups(side: &Side) {
    let path = format!("/servers/{}/os-security-groups", side.server().await);
    assert_eq!(side.get(Compute, &path).await.expect(200).each("security_groups", "name"), ["default"]);
}

async fn a_server_has_no_volumes(side: &Side) {
    let path = format!("/servers/{}/os-volume_attachments", side.server().await);
    side.get(Compute, &path).await.is(200, &json!({"volumeAttachments": []}));
}

conformance!(shared:
    an_unknown_server_is_not_found,
    what_is_no_id_is_not_found_either,
    a_deleted_server_is_still_shown_then_gone,
    a_deleted_server_shows_among_the_changes,
    a_new_server_is_found_at_once,
    a_building_server_can_be_deleted,
    a_building_server_refuses_actions,
    a_failed_server_refuses_actions,
    a_deletion_that_fails_can_be_repeated,
    a_locked_server_stays,
    a_server_stops_and_starts,
    a_server_reboots,
    a_forced_deletion_needs_no_soft_one,
    an_unknown_action_is_refused,
    a_server_can_be_renamed,
    the_console_is_text_of_the_length_asked_for,
    tags_come_and_go,
    metadata_come_and_go,
    addresses_can_be_asked_for_alone,
    a_server_has_its_port,
    a_server_tells_of_its_creation,
    a_server_tells_its_security_groups,
    a_server_has_no_volumes,
);
