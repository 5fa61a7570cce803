//! Lists of servers and flavors: pages, markers, filters, what changed since.

use reqwest::Method;
use serde_json::json;

use super::reply::Reply;
use super::side::{Compute, NOBODY, Side};

/// The servers that stay, which no other case adds to or takes from; the second may be away under another name.
const LASTING: &str = "name=^conformance-[13]$";

async fn list(side: &Side, query: &str) -> Reply {
    side.lasting().await;
    side.get(Compute, &format!("/servers?{query}")).await
}

fn next(reply: &Reply) -> Option<String> {
    let body = reply.json();
    let links = body["servers_links"].as_array()?;
    links.iter().find(|link| link["rel"] == "next").map(|link| link["href"].as_str().unwrap().to_owned())
}

async fn pages_are_linked_until_one_is_not_full(side: &Side) {
    let first = list(side, &format!("{LASTING}&limit=1")).await.expect(200);
    let second = side.get(Compute, &next(&first).unwrap()).await.expect(200);
    let third = side.get(Compute, &next(&second).unwrap_or_else(|| panic!("a full page has a link: {second}"))).await;
    let third = third.expect(200);
    let ids = [first, second].map(|page| page.each("servers", "id"));
    assert!(ids.iter().all(|page| page.len() == 1) && ids[0] != ids[1], "{ids:?}");
    assert!(third.each("servers", "id").is_empty() && next(&third).is_none(), "{third}");
}

async fn a_link_repeats_the_question(side: &Side) {
    let page = list(side, &format!("{LASTING}&limit=1")).await.expect(200);
    let link = reqwest::Url::parse(&next(&page).unwrap()).unwrap();
    let value = |name: &str| link.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert_eq!(value("limit").as_deref(), Some("1"));
    assert_eq!(value("marker").as_ref(), page.each("servers", "id").last());
    assert_eq!(value("name").as_deref(), Some("^conformance-[13]$"));
    assert!(link.path().ends_with("/v2.1/servers"), "{link}");
}

async fn a_page_that_is_not_full_has_no_link(side: &Side) {
    let reply = list(side, &format!("{LASTING}&limit=3")).await.expect(200);
    assert_eq!((reply.each("servers", "id").len(), next(&reply)), (2, None));
    let reply = list(side, LASTING).await.expect(200);
    assert_eq!((reply.each("servers", "id").len(), next(&reply)), (2, None));
}

async fn a_limit_beyond_the_cloud_s_own_is_taken(side: &Side) {
    let reply = list(side, &format!("{LASTING}&limit=5000")).await.expect(200);
    assert_eq!(reply.each("servers", "id").len(), 2);
}

async fn a_limit_of_nothing_is_an_empty_page(side: &Side) {
    let reply = list(side, &format!("{LASTING}&limit=0")).await.expect(200);
    assert!(reply.each("servers", "id").is_empty() && next(&reply).is_none(), "{reply}");
}

async fn a_limit_is_a_number(side: &Side) {
    let message = "Invalid input for query parameters limit. Value: x. 'x' does not match '^[0-9]*$'";
    list(side, "limit=x").await.nova(400, message);
}

async fn a_marker_that_is_gone_is_refused(side: &Side) {
    list(side, &format!("limit=1&marker={NOBODY}")).await.nova(400, &format!("marker [{NOBODY}] not found"));
}

async fn the_marker_of_a_deleted_server_holds(side: &Side) {
    let id = side.booted(&side.name("marker"), json!({})).await;
    side.active(&id).await;
    side.delete(Compute, &format!("/servers/{id}")).await.empty(204);
    side.gone(&id).await;
    let page = list(side, &format!("{LASTING}&limit=1&marker={id}")).await.expect(200);
    assert_eq!(page.each("servers", "id").len(), 1, "what is older: {page}");
}

async fn the_newest_comes_first(side: &Side) {
    let name = side.name("order");
    let first = side.booted(&name, json!({})).await;
    let older = side.show(&first).await["created"].as_str().unwrap().to_owned();
    let second = side.booted(&name, json!({})).await;
    let shown = list(side, &format!("name={name}")).await.expect(200).each("servers", "id");
    if side.show(&second).await["created"] != older.as_str() {
        assert_eq!(shown, [second.clone(), first.clone()]);
    }
    let reply = list(side, &format!("name={name}&sort_key=created_at&sort_dir=asc")).await.expect(200);
    assert_eq!(reply.each("servers", "id").len(), 2);
}

async fn a_list_without_details_has_names_only(side: &Side) {
    let reply = list(side, LASTING).await.expect(200);
    let server = reply.json()["servers"][0].clone();
    assert_eq!(server.as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "links", "name"]);
    assert_eq!(
        server["links"][0],
        json!({"rel": "self", "href": format!("{}/servers/{}", side.url(Compute), server["id"].as_str().unwrap())})
    );
}

async fn a_list_with_details_shows_what_a_get_shows(side: &Side) {
    let id = side.server().await;
    let listed = side.get(Compute, "/servers/detail?name=^conformance-1$").await.expect(200);
    let mut shown = side.show(id).await;
    assert_eq!(shown.as_object_mut().unwrap().remove("server_groups"), Some(json!([])), "this a GET shows alone");
    assert_eq!(listed.json()["servers"][0], shown);
}

async fn a_name_is_a_regular_expression_found_anywhere(side: &Side) {
    for (query, hits) in [
        ("name=onformance-[13]", 2),
        ("name=^conformance-1$", 1),
        ("name=^onformance-1", 0),
        ("name=^conformance-[0-9]%2B$", 3),
        ("name=^conformance-(1|3)$", 0), // Nova takes the bar for itself.,
    ] {
        assert_eq!(list(side, query).await.expect(200).each("servers", "id").len(), hits, "{query}");
    }
}

async fn a_broken_expression_is_refused(side: &Side) {
    let reply = list(side, "name=(").await.expect(400);
    assert_eq!(
        reply.at("/badRequest/message"),
        "Invalid input for query parameters name. Value: (. '(' is not a 'regex'"
    );
}

async fn unknown_parameters_are_refused_from_2_75(side: &Side) {
    let message = "'nonsense' does not match any of the regexes: '^_'";
    list(side, "nonsense=1").await.nova(400, message);
    let old = side.ask(Method::GET, Compute, "/servers?nonsense=1").version("compute 2.74").send().await;
    old.expect(200);
}

async fn metadata_are_no_filter(side: &Side) {
    let reply = list(side, &format!("{LASTING}&metadata=%7B%22nonsense%22%3A%22b%22%7D")).await.expect(200);
    assert_eq!(reply.each("servers", "id").len(), 2, "ignored");
}

async fn only_administrators_list_all_projects(side: &Side) {
    for (path, which) in [("/servers?all_tenants=1", "index"), ("/servers/detail?all_tenants=1", "detail")] {
        let message = format!("Policy doesn't allow os_compute_api:servers:{which}:get_all_tenants to be performed.");
        side.get(Compute, path).await.nova(403, &message);
    }
}

async fn a_status_is_a_filter(side: &Side) {
    assert_eq!(list(side, &format!("{LASTING}&status=ACTIVE")).await.expect(200).each("servers", "id").len(), 2);
    assert!(list(side, &format!("{LASTING}&status=ERROR")).await.expect(200).each("servers", "id").is_empty());
    list(side, "status=NONSENSE").await.nova(400, "Invalid status value");
}

async fn only_administrators_list_the_deleted(side: &Side) {
    let message = "Only administrators may list deleted instances";
    list(side, "status=DELETED").await.nova(403, message);
}

async fn tags_are_filters(side: &Side) {
    let name = side.name("tagged");
    let id = side.booted(&name, json!({"tags": ["one", "two"]})).await;
    for (query, hits) in [
        ("tags=one", 1),
        ("tags=one,two", 1),
        ("tags=one,three", 0),
        ("tags-any=one,three", 1),
        ("not-tags=one,two", 0),
        ("not-tags-any=three", 1),
    ] {
        let found = list(side, &format!("name={name}&{query}")).await.expect(200).each("servers", "id");
        assert_eq!(found.len(), hits, "{query}");
        assert!(found.iter().all(|found| *found == id));
    }
}

async fn an_id_is_no_filter(side: &Side) {
    let id = side.server().await;
    let reply = list(side, &format!("{LASTING}&uuid={id}")).await.expect(200);
    assert_eq!(reply.each("servers", "id").len(), 2, "ignored");
}

async fn nothing_changed_in_the_future(side: &Side) {
    let reply = list(side, "changes-since=2199-01-01T00:00:00Z").await.expect(200);
    assert!(reply.each("servers", "id").is_empty(), "{reply}");
}

async fn what_changed_since_its_own_time_is_listed(side: &Side) {
    let server = side.show(side.server().await).await;
    let updated = server["updated"].as_str().unwrap();
    let found = list(side, &format!("name=^conformance-1$&changes-since={updated}")).await.expect(200);
    assert_eq!(found.each("servers", "id"), [side.server().await]);
}

async fn a_moment_is_written_in_one_way(side: &Side) {
    let message =
        "Invalid input for query parameters changes-since. Value: yesterday. 'yesterday' is not a 'date-time'";
    list(side, "changes-since=yesterday").await.nova(400, message);
}

async fn an_unknown_sort_key_is_refused(side: &Side) {
    let reply = list(side, "sort_key=nonsense").await.expect(400);
    assert!(
        reply
            .at("/badRequest/message")
            .starts_with("Invalid input for query parameters sort_key. Value: nonsense. 'nonsense' is not one of ["),
        "{reply}"
    );
}

async fn flavors_tell_their_sizes(side: &Side) {
    let reply = side.get(Compute, "/flavors/detail").await.expect(200);
    for (name, ram, vcpus, disk) in [
        ("nano", 128, 1, 1),
        ("tiny", 512, 1, 5),
        ("small", 2048, 1, 20),
        ("medium", 4096, 2, 40),
        ("large", 8192, 4, 80),
    ] {
        let body = reply.json();
        let flavor = body["flavors"].as_array().unwrap().iter().find(|flavor| flavor["name"] == name).unwrap().clone();
        assert_eq!((&flavor["ram"], &flavor["vcpus"], &flavor["disk"]), (&json!(ram), &json!(vcpus), &json!(disk)));
        assert_eq!(
            (&flavor["OS-FLV-DISABLED:disabled"], &flavor["os-flavor-access:is_public"]),
            (&json!(false), &json!(true))
        );
        flavor["id"].as_str().unwrap();
    }
}

async fn flavors_come_in_pages(side: &Side) {
    let first = side.get(Compute, "/flavors?limit=2").await.expect(200);
    let link = first.json()["flavors_links"][0].clone();
    assert_eq!(link["rel"], "next");
    let second = side.get(Compute, link["href"].as_str().unwrap()).await.expect(200);
    assert!(!second.each("flavors", "id").contains(&first.each("flavors", "id")[1]));
    let message = format!("marker [{NOBODY}] not found");
    side.get(Compute, &format!("/flavors?marker={NOBODY}")).await.nova(400, &message);
}

async fn an_unknown_flavor_is_not_found(side: &Side) {
    let message = format!("Flavor {NOBODY} could not be found.");
    side.get(Compute, &format!("/flavors/{NOBODY}")).await.nova(404, &message);
}

conformance!(shared:
    pages_are_linked_until_one_is_not_full,
    a_link_repeats_the_question,
    a_page_that_is_not_full_has_no_link,
    a_limit_beyond_the_cloud_s_own_is_taken,
    a_limit_of_nothing_is_an_empty_page,
    a_limit_is_a_number,
    a_marker_that_is_gone_is_refused,
    the_marker_of_a_deleted_server_holds,
    the_newest_comes_first,
    a_list_without_details_has_names_only,
    a_list_with_details_shows_what_a_get_shows,
    a_name_is_a_regular_expression_found_anywhere,
    a_broken_expression_is_refused,
    unknown_parameters_are_refused_from_2_75,
    metadata_are_no_filter,
    only_administrators_list_all_projects,
    a_status_is_a_filter,
    only_administrators_list_the_deleted,
    tags_are_filters,
    an_id_is_no_filter,
    nothing_changed_in_the_future,
    what_changed_since_its_own_time_is_listed,
    a_moment_is_written_in_one_way,
    an_unknown_sort_key_is_refused,
    flavors_tell_their_sizes,
    flavors_come_in_pages,
    an_unknown_flavor_is_not_found,
);
