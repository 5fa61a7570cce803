//! Ports and floating addresses: made, marked, found, changed under a condition, tied to servers, deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::reply::Reply;
use super::side::{Compute, NOBODY, Network, Side};

async fn path_of(side: &Side, extra: Value) -> (String, Value) {
    let port = side.port(extra).await;
    (format!("/ports/{}", port["id"].as_str().unwrap()), port)
}

/// A change that holds only for this revision.
async fn change_if(side: &Side, method: Method, path: &str, revision: u64, body: Option<Value>) -> Reply {
    let ask = side.ask(method, Network, path).header("if-match", &format!("revision_number={revision}"));
    match body {
        Some(body) => ask.json(&body).send().await,
        None => ask.send().await,
    }
}

async fn a_port_is_made_with_an_address(side: &Side) {
    let (_, port) = path_of(side, json!({"description": "what for"})).await;
    assert_eq!((&port["status"], &port["device_id"], &port["device_owner"]), (&json!("DOWN"), &json!(""), &json!("")));
    assert_eq!(
        (&port["admin_state_up"], &port["description"], &port["tags"]),
        (&json!(true), &json!("what for"), &json!([]))
    );
    assert_eq!(port["project_id"], side.login.project().as_str());
    assert_eq!(port["tenant_id"], port["project_id"]);
    assert_eq!(port["revision_number"], 1);
    assert_eq!(
        (port["fixed_ips"].as_array().unwrap().len(), port["security_groups"].as_array().unwrap().len()),
        (1, 1)
    );
    port["fixed_ips"][0]["ip_address"].as_str().unwrap().parse::<std::net::Ipv4Addr>().unwrap();
    port["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(port["binding:vnic_type"], "normal");
}

async fn a_port_goes_once(side: &Side) {
    let (path, port) = path_of(side, json!({})).await;
    let message = format!("Port {} could not be found.", port["id"].as_str().unwrap());
    side.delete(Network, &path).await.empty(204);
    side.delete(Network, &path).await.neutron(404, "PortNotFound", &message);
    side.get(Network, &path).await.neutron(404, "PortNotFound", &message);
    side.put(Network, &path, json!({"port": {"name": "x"}})).await.neutron(404, "PortNotFound", &message);
}

async fn a_port_of_a_server_is_not_deleted_under_it(side: &Side) {
    let (path, port) = path_of(side, json!({"device_id": NOBODY, "device_owner": "compute:nova"})).await;
    assert_eq!((&port["device_id"], &port["device_owner"]), (&json!(NOBODY), &json!("compute:nova")));
    let message = "rule:delete_port is disallowed by policy";
    side.delete(Network, &path).await.neutron(403, "PolicyNotAuthorized", message);
    side.put(Network, &path, json!({"port": {"device_owner": ""}})).await.expect(200);
    side.delete(Network, &path).await.empty(204);
}

async fn a_port_needs_a_network_that_is_there(side: &Side) {
    let reply = side.post(Network, "/ports", json!({"port": {"network_id": NOBODY}})).await;
    reply.neutron(404, "NetworkNotFound", &format!("Network {NOBODY} could not be found."));
}

async fn tags_of_a_port_that_is_made_are_not_to_be_counted_on(side: &Side) {
    let (path, port) = path_of(side, json!({"tags": [side.name("tag")], "description": "holds"})).await;
    assert_eq!((&port["tags"], &port["description"]), (&json!([]), &json!("holds")));
    assert_eq!(side.get(Network, &path).await.expect(200).json()["port"]["tags"], json!([]));
}

async fn ports_are_found_by_their_server_and_project(side: &Side) {
    let (first, second) = (&side.lasting().await[0], &side.lasting().await[2]);
    let query = format!("/ports?device_id={first}&device_id={second}&project_id={}", side.login.project());
    let mut found = side.get(Network, &query).await.expect(200).each("ports", "device_id");
    let mut expected = [first.clone(), second.clone()];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let none = side.get(Network, &format!("/ports?device_id={first}&project_id={}", "0".repeat(32))).await.expect(200);
    assert!(none.each("ports", "id").is_empty(), "{none}");
}

async fn ports_are_found_by_tags(side: &Side) {
    let (tag, other) = (side.name("tag"), side.name("other"));
    let (path, port) = path_of(side, json!({})).await;
    let put = side.put(Network, &format!("{path}/tags"), json!({"tags": [tag, other]})).await.expect(200);
    assert_eq!(put.json()["tags"].as_array().unwrap().len(), 2);
    let id = port["id"].as_str().unwrap();
    for (query, hits) in [
        (format!("tags={tag}"), 1),
        (format!("tags={tag},{other}"), 1),
        (format!("tags={tag},none"), 0),
        (format!("tags-any={tag},none"), 1),
    ] {
        let found = side.get(Network, &format!("/ports?{query}")).await.expect(200).each("ports", "id");
        assert!(found.len() == hits && found.iter().all(|found| found == id), "{query}: {found:?}");
    }
}

async fn ports_are_found_by_name_and_description(side: &Side) {
    let (name, text) = (side.name("by-name"), side.name("text"));
    let (_, port) = path_of(side, json!({"name": name, "description": text})).await;
    for query in [
        format!("name={name}"),
        format!("description={text}"),
        format!("mac_address={}", port["mac_address"].as_str().unwrap()),
    ] {
        let found = side.get(Network, &format!("/ports?{query}")).await.expect(200).each("ports", "id");
        assert_eq!(found, [port["id"].as_str().unwrap()], "{query}");
    }
}

async fn unknown_filters_are_refused(side: &Side) {
    let reply = side.get(Network, "/ports?nonsense=1").await;
    reply.neutron(400, "HTTPBadRequest", "['nonsense'] is invalid attribute for filtering");
}

async fn fields_can_be_chosen(side: &Side) {
    let (_, port) = path_of(side, json!({})).await;
    let query = format!("/ports?id={}&fields=id&fields=device_id", port["id"].as_str().unwrap());
    let reply = side.get(Network, &query).await.expect(200);
    assert_eq!(reply.json()["ports"], json!([{"id": port["id"], "device_id": ""}]));
}

async fn tags_come_and_go(side: &Side) {
    let (path, _) = path_of(side, json!({})).await;
    let one = format!("{path}/tags/one");
    side.ask(Method::PUT, Network, &one).send().await.expect(201);
    side.ask(Method::PUT, Network, &one).send().await.expect(201);
    side.get(Network, &one).await.empty(204);
    side.get(Network, &format!("{path}/tags")).await.is(200, &json!({"tags": ["one"]}));
    side.delete(Network, &one).await.empty(204);
    side.delete(Network, &one).await.neutron(404, "TagNotFound", "Tag one could not be found.");
    side.get(Network, &one).await.neutron(404, "TagNotFound", "Tag one could not be found.");
}

async fn pages_are_linked(side: &Side) {
    let name = side.name("page");
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(side.port(json!({"name": name})).await["id"].as_str().unwrap().to_owned());
    }
    let first = side.get(Network, &format!("/ports?name={name}&limit=2")).await.expect(200);
    let links = first.json()["ports_links"].clone();
    let next = links.as_array().unwrap().iter().find(|link| link["rel"] == "next").unwrap()["href"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = side.get(Network, &next).await.expect(200);
    let more =
        second.json()["ports_links"].as_array().is_some_and(|links| links.iter().any(|link| link["rel"] == "next"));
    assert!(!more, "{second}");
    let mut seen = [first.each("ports", "id"), second.each("ports", "id")].concat();
    seen.sort_unstable();
    made.sort_unstable();
    assert_eq!(seen, made);
}

async fn a_marker_that_is_gone_is_refused(side: &Side) {
    let reply = side.get(Network, &format!("/ports?limit=1&marker={NOBODY}")).await;
    reply.neutron(404, "PortNotFound", &format!("Port {NOBODY} could not be found."));
}

async fn a_limit_is_a_number(side: &Side) {
    let reply = side.get(Network, "/ports?limit=x").await;
    let message = "Bad limit request: Limit must be an integer 0 or greater and not 'x'.";
    reply.neutron(400, "BadRequest", message);
}

async fn every_change_has_a_number(side: &Side) {
    let (path, port) = path_of(side, json!({})).await;
    let first = port["revision_number"].as_u64().unwrap();
    let put = side.put(Network, &path, json!({"port": {"name": "another"}})).await.expect(200);
    assert!(put.json()["port"]["revision_number"].as_u64().unwrap() > first, "{put}");
    let before = side.get(Network, &path).await.json()["port"]["revision_number"].as_u64().unwrap();
    side.put(Network, &format!("{path}/tags"), json!({"tags": ["x"]})).await.expect(200);
    let after = side.get(Network, &path).await.json()["port"]["revision_number"].as_u64().unwrap();
    assert!(after > before, "tags are a change too: {after}");
}

async fn a_change_for_an_older_revision_is_refused(side: &Side) {
    let (path, port) = path_of(side, json!({})).await;
    let first = port["revision_number"].as_u64().unwrap();
    side.put(Network, &path, json!({"port": {"name": "another"}})).await.expect(200);
    let current = side.get(Network, &path).await.json()["port"]["revision_number"].as_u64().unwrap();
    let rename = json!({"port": {"name": "late"}});
    let message = format!("Constrained to {first}, but current revision is {current}");
    let reply = change_if(side, Method::PUT, &path, first, Some(rename.clone())).await;
    reply.neutron(412, "RevisionNumberConstraintFailed", &message);
    change_if(side, Method::DELETE, &path, first, None).await.neutron(412, "RevisionNumberConstraintFailed", &message);
    change_if(side, Method::PUT, &path, current, Some(rename)).await.expect(200);
    let current = side.get(Network, &path).await.json()["port"]["revision_number"].as_u64().unwrap();
    change_if(side, Method::DELETE, &path, current, None).await.empty(204);
}

async fn a_condition_of_another_form_is_none(side: &Side) {
    let (path, _) = path_of(side, json!({})).await;
    let ask = side.ask(Method::DELETE, Network, &path).header("if-match", "nonsense");
    ask.send().await.empty(204);
}

async fn a_floating_address_is_made(side: &Side) {
    let reply = side.floating_ip(json!({"description": "nodepool owner=me"})).await.expect(201);
    let ip = reply.json()["floatingip"].clone();
    assert_eq!((&ip["status"], &ip["port_id"], &ip["fixed_ip_address"]), (&json!("DOWN"), &Value::Null, &Value::Null));
    assert_eq!((&ip["description"], &ip["tags"]), (&json!("nodepool owner=me"), &json!([])));
    assert_eq!((&ip["project_id"], &ip["tenant_id"]), (&json!(side.login.project()), &json!(side.login.project())));
    ip["floating_ip_address"].as_str().unwrap().parse::<std::net::Ipv4Addr>().unwrap();
    ip["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(ip["floating_network_id"], side.given().await.public.as_str());
}

async fn a_floating_address_goes_once(side: &Side) {
    let id = side.floating_ip(json!({})).await.expect(201).at("/floatingip/id");
    let path = format!("/floatingips/{id}");
    let message = format!("Floating IP {id} could not be found");
    side.delete(Network, &path).await.empty(204);
    side.delete(Network, &path).await.neutron(404, "FloatingIPNotFound", &message);
    side.get(Network, &path).await.neutron(404, "FloatingIPNotFound", &message);
}

async fn a_floating_address_needs_an_external_network(side: &Side) {
    let reply = side.floating_ip(json!({"floating_network_id": NOBODY})).await;
    reply.neutron(404, "NetworkNotFound", &format!("Network {NOBODY} could not be found."));
    let private = side.given().await.private.clone();
    let message = format!("Bad floatingip request: Network {private} is not a valid external network.");
    side.floating_ip(json!({"floating_network_id": private})).await.neutron(400, "BadRequest", &message);
}

async fn a_floating_address_needs_a_port_that_is_there(side: &Side) {
    let message = format!("Port {NOBODY} could not be found.");
    side.floating_ip(json!({"port_id": NOBODY})).await.neutron(404, "PortNotFound", &message);
}

async fn floating_addresses_are_found_by_description(side: &Side) {
    let text = format!("nodepool owner=me record={}", side.name("record"));
    let id = side.floating_ip(json!({"description": text})).await.expect(201).at("/floatingip/id");
    let query = format!(
        "/floatingips?project_id={}&description={}",
        side.login.project(),
        text.replace(' ', "%20").replace('=', "%3D")
    );
    assert_eq!(side.get(Network, &query).await.expect(200).each("floatingips", "id"), [id]);
}

async fn a_port_has_one_floating_address(side: &Side) {
    let (_, port) = path_of(side, json!({})).await;
    let first = side.floating_ip(json!({"port_id": port["id"]})).await.expect(201).json()["floatingip"].clone();
    assert_eq!((&first["port_id"], &first["fixed_ip_address"]), (&port["id"], &port["fixed_ips"][0]["ip_address"]));
    let second = side.floating_ip(json!({"port_id": port["id"]})).await.expect(409);
    assert_eq!(second.at("/NeutronError/type"), "FloatingIPPortAlreadyAssociated");
    let message = second.at("/NeutronError/message");
    let (port, fixed) = (port["id"].as_str().unwrap(), port["fixed_ips"][0]["ip_address"].as_str().unwrap());
    let end = format!(
        "with port {port} using fixed IP {fixed}, as that fixed IP already has a floating IP on external network {}.",
        side.given().await.public
    );
    assert!(message.starts_with("Cannot associate floating IP ") && message.ends_with(&end), "{message}\n{end}");
}

async fn a_floating_address_moves(side: &Side) {
    let (_, first) = path_of(side, json!({})).await;
    let (_, second) = path_of(side, json!({})).await;
    let id = side.floating_ip(json!({"port_id": first["id"]})).await.expect(201).at("/floatingip/id");
    let path = format!("/floatingips/{id}");
    for port in [&second["id"], &Value::Null, &first["id"]] {
        let put = side.put(Network, &path, json!({"floatingip": {"port_id": port}})).await.expect(200);
        assert_eq!(&put.json()["floatingip"]["port_id"], port, "{put}");
    }
}

async fn a_floating_address_outlives_its_port(side: &Side) {
    let (path, port) = path_of(side, json!({})).await;
    let id = side.floating_ip(json!({"port_id": port["id"]})).await.expect(201).at("/floatingip/id");
    side.delete(Network, &path).await.empty(204);
    let left = side.get(Network, &format!("/floatingips/{id}")).await.expect(200).json()["floatingip"].clone();
    assert_eq!(
        (&left["port_id"], &left["fixed_ip_address"], &left["status"]),
        (&Value::Null, &Value::Null, &json!("DOWN"))
    );
}

async fn a_server_shows_its_floating_address(side: &Side) {
    let machine = side.machine().await;
    let port = side.get(Network, &format!("/ports?device_id={}", machine.id)).await.expect(200).at("/ports/0/id");
    let made = side.floating_ip(json!({"port_id": port})).await.expect(201);
    let address = made.at("/floatingip/floating_ip_address");
    let shown = |wanted: bool| {
        let address = address.clone();
        move |reply: &Reply| {
            let server = reply.json();
            let all = server["server"]["addresses"]["private"].as_array().cloned().unwrap_or_default();
            all.iter().any(|one| one["addr"] == address.as_str() && one["OS-EXT-IPS:type"] == "floating") == wanted
        }
    };
    side.until(Compute, &machine.path, shown(true)).await;
    side.delete(Network, &format!("/floatingips/{}", made.at("/floatingip/id"))).await.empty(204);
    side.until(Compute, &machine.path, shown(false)).await;
}

async fn a_server_s_port_goes_with_it_and_its_floating_address_stays(side: &Side) {
    let id = side.booted(&side.name("with-address"), json!({})).await;
    side.active(&id).await;
    let port = side.get(Network, &format!("/ports?device_id={id}")).await.expect(200).at("/ports/0/id");
    let ip = side.floating_ip(json!({"port_id": port})).await.expect(201).at("/floatingip/id");
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    side.get(Network, &format!("/ports/{port}")).await.expect(404);
    let left = side.get(Network, &format!("/floatingips/{ip}")).await.expect(200).json()["floatingip"].clone();
    assert_eq!((&left["port_id"], &left["status"]), (&Value::Null, &json!("DOWN")));
}

async fn networks_are_found_by_exact_name(side: &Side) {
    let reply = side.get(Network, "/networks?name=private").await.expect(200);
    assert_eq!(reply.each("networks", "name"), ["private"]);
    let network = reply.json()["networks"][0].clone();
    assert_eq!((&network["router:external"], &network["status"]), (&json!(false), &json!("ACTIVE")));
    let none = side.get(Network, "/networks?name=privat").await.expect(200);
    assert!(none.each("networks", "id").is_empty(), "{none}");
    let public = side.get(Network, "/networks?router:external=true").await.expect(200);
    assert_eq!(public.each("networks", "name"), ["public"]);
}

async fn an_unknown_network_is_not_found(side: &Side) {
    let reply = side.get(Network, &format!("/networks/{NOBODY}")).await;
    reply.neutron(404, "NetworkNotFound", &format!("Network {NOBODY} could not be found."));
}

async fn the_project_has_a_default_security_group(side: &Side) {
    let reply = side.get(Network, &format!("/security-groups?name=default&project_id={}", side.login.project())).await;
    let reply = reply.expect(200);
    assert_eq!(reply.each("security_groups", "name"), ["default"]);
    assert!(!reply.json()["security_groups"][0]["security_group_rules"].as_array().unwrap().is_empty());
}

async fn the_extensions_that_we_count_on_are_there(side: &Side) {
    let all = side.get(Network, "/extensions").await.expect(200).each("extensions", "alias");
    for alias in [
        "router",
        "external-net",
        "security-group",
        "standard-attr-tag",
        "project-id",
        "standard-attr-description",
        "standard-attr-timestamp",
        "standard-attr-revisions",
        "revision-if-match",
        "quotas",
        "pagination",
        "sorting",
        "binding",
        "port-security",
        "fip-port-details",
    ] {
        assert!(all.iter().any(|held| held == alias), "{alias}");
    }
}

conformance!(shared:
    a_port_is_made_with_an_address,
    a_port_goes_once,
    a_port_of_a_server_is_not_deleted_under_it,
    a_port_needs_a_network_that_is_there,
    tags_of_a_port_that_is_made_are_not_to_be_counted_on,
    ports_are_found_by_their_server_and_project,
    ports_are_found_by_tags,
    ports_are_found_by_name_and_description,
    unknown_filters_are_refused,
    fields_can_be_chosen,
    tags_come_and_go,
    pages_are_linked,
    a_marker_that_is_gone_is_refused,
    a_limit_is_a_number,
    every_change_has_a_number,
    a_change_for_an_older_revision_is_refused,
    a_condition_of_another_form_is_none,
    a_floating_address_is_made,
    a_floating_address_goes_once,
    a_floating_address_needs_an_external_network,
    a_floating_address_needs_a_port_that_is_there,
    floating_addresses_are_found_by_description,
    a_port_has_one_floating_address,
    a_floating_address_moves,
    a_floating_address_outlives_its_port,
    a_server_shows_its_floating_address,
    a_server_s_port_goes_with_it_and_its_floating_address_stays,
    networks_are_found_by_exact_name,
    an_unknown_network_is_not_found,
    the_project_has_a_default_security_group,
    the_extensions_that_we_count_on_are_there,
);
