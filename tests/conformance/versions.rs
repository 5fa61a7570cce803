//! Which versions the services tell, and what Nova makes of the microversion that it is asked in.

use reqwest::Method;
use serde_json::{Value, json};

use super::reply::Reply;
use super::side::{Compute, Image, NOBODY, Network, Side};

/// Nova's root, above its version.
fn root(side: &Side) -> String {
    side.url(Compute).trim_end_matches("v2.1").to_owned()
}

async fn versions(side: &Side) -> Vec<Value> {
    let reply = side.ask(Method::GET, Compute, &root(side)).no_version().no_token().send().await.expect(200);
    reply.json()["versions"].as_array().unwrap().clone()
}

async fn at(side: &Side, version: &str, path: &str) -> Reply {
    side.ask(Method::GET, Compute, path).version(version).send().await
}

async fn newest(side: &Side) -> String {
    let all = versions(side).await;
    all.iter().find(|version| version["id"] == "v2.1").unwrap()["version"].as_str().unwrap().to_owned()
}

async fn nova_tells_its_range_to_everybody(side: &Side) {
    let all = versions(side).await;
    let current = all.iter().find(|version| version["id"] == "v2.1").unwrap();
    assert_eq!((&current["status"], &current["min_version"]), (&json!("CURRENT"), &json!("2.1")));
    let minor = current["version"].as_str().unwrap().strip_prefix("2.").unwrap().parse::<u32>().unwrap();
    assert!(minor >= 96, "{current}");
    let old = all.iter().find(|version| version["id"] == "v2.0").unwrap();
    assert_eq!((&old["status"], &old["version"], &old["min_version"]), (&json!("DEPRECATED"), &json!(""), &json!("")));
}

async fn nova_tells_of_one_version_at_its_address(side: &Side) {
    let reply = side.ask(Method::GET, Compute, "/").no_version().send().await.expect(200);
    let version = &reply.json()["version"];
    assert_eq!(
        (&version["id"], &version["status"], &version["min_version"]),
        (&json!("v2.1"), &json!("CURRENT"), &json!("2.1"))
    );
    assert_eq!(version["version"], newest(side).await.as_str());
}

async fn glance_tells_its_versions(side: &Side) {
    let address = side.login.catalog["image"].clone() + "/";
    let reply = side.ask(Method::GET, Image, &address).no_token().send().await.expect(300);
    let ids = reply.each("versions", "id");
    assert!(ids.iter().all(|id| id.starts_with("v2.")), "{reply}");
    assert_eq!(reply.each("versions", "status").iter().filter(|status| *status == "CURRENT").count(), 1);
}

async fn neutron_tells_its_versions(side: &Side) {
    let address = side.login.catalog["network"].clone() + "/";
    let reply = side.ask(Method::GET, Network, &address).no_token().send().await.expect(200);
    assert_eq!(
        (reply.each("versions", "id"), reply.each("versions", "status")),
        (vec!["v2.0".into()], vec!["CURRENT".into()])
    );
}

async fn a_version_too_high_is_not_acceptable(side: &Side) {
    let message =
        format!("Version 2.999 is not supported by the API. Minimum is 2.1 and maximum is {}.", newest(side).await);
    at(side, "compute 2.999", "/servers").await.nova(406, &message);
}

async fn a_malformed_version_is_refused(side: &Side) {
    let message = "API Version String two is of invalid format. Must be of format MajorNum.MinorNum.";
    at(side, "compute two", "/servers").await.nova(400, message);
}

async fn no_version_is_the_oldest(side: &Side) {
    let reply = side.ask(Method::GET, Compute, "/servers").no_version().send().await.expect(200);
    assert_eq!(reply.header("openstack-api-version"), "compute 2.1");
    assert_eq!(reply.header("x-openstack-nova-api-version"), "2.1");
}

async fn latest_is_the_newest(side: &Side) {
    let reply = at(side, "compute latest", "/limits").await.expect(200);
    assert_eq!(reply.header("openstack-api-version"), format!("compute {}", newest(side).await));
}

async fn the_old_name_of_the_header_works(side: &Side) {
    let ask = side.ask(Method::GET, Compute, "/limits").no_version();
    let reply = ask.header("x-openstack-nova-api-version", "2.30").send().await.expect(200);
    assert_eq!(reply.header("openstack-api-version"), "compute 2.30");
}

async fn the_new_name_wins_over_the_old(side: &Side) {
    let ask = side.ask(Method::GET, Compute, "/limits").version("compute 2.52");
    let reply = ask.header("x-openstack-nova-api-version", "2.30").send().await.expect(200);
    assert_eq!(reply.header("x-openstack-nova-api-version"), "2.52");
}

async fn a_version_for_another_service_is_none_for_nova(side: &Side) {
    let reply = at(side, "volume 3.50", "/limits").await.expect(200);
    assert_eq!(reply.header("openstack-api-version"), "compute 2.1");
}

async fn answers_name_the_version_and_the_request(side: &Side) {
    let found = side.get(Compute, "/limits").await.expect(200);
    let absent = side.get(Compute, &format!("/servers/{NOBODY}")).await.expect(404);
    for reply in [found, absent] {
        assert_eq!(reply.header("openstack-api-version"), "compute 2.96", "{reply}");
        assert!(reply.header("x-openstack-request-id").starts_with("req-"), "{reply}");
        assert_eq!(reply.header("x-compute-request-id"), reply.header("x-openstack-request-id"));
        let vary: Vec<&str> = reply.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(vary.join(",").contains("OpenStack-API-Version"), "{vary:?}");
    }
}

async fn glance_and_neutron_name_the_request_too(side: &Side) {
    for (service, path) in [(Image, "/images"), (Network, "/ports")] {
        let reply = side.get(service, path).await.expect(200);
        assert!(reply.header("x-openstack-request-id").starts_with("req-"), "{reply}");
    }
}

async fn a_server_shows_its_flavor_by_id_before_2_47(side: &Side) {
    let path = format!("/servers/{}", side.server().await);
    let flavor = at(side, "compute 2.46", &path).await.expect(200).json()["server"]["flavor"].clone();
    assert_eq!(flavor["id"], side.given().await.flavor("tiny"));
    assert!(flavor.get("vcpus").is_none(), "{flavor}");
}

async fn a_server_shows_its_flavor_by_values_from_2_47(side: &Side) {
    let path = format!("/servers/{}", side.server().await);
    let flavor = at(side, "compute 2.47", &path).await.expect(200).json()["server"]["flavor"].clone();
    let expected = json!({
        "original_name": "tiny", "ram": 512, "vcpus": 1, "disk": 5, "ephemeral": 0, "swap": 0, "extra_specs": {},
    });
    assert_eq!(flavor, expected);
}

async fn fields_of_a_server_come_with_their_versions(side: &Side) {
    let path = format!("/servers/{}", side.server().await);
    for (field, since) in [("locked", 9), ("description", 19), ("tags", 26), ("locked_reason", 73)] {
        for (minor, shown) in [(since - 1, false), (since, true)] {
            let reply = at(side, &format!("compute 2.{minor}"), &path).await.expect(200);
            assert_eq!(reply.json()["server"].get(field).is_some(), shown, "{field} in 2.{minor}");
        }
    }
}

async fn a_server_at_2_69_has_these_fields(side: &Side) {
    let path = format!("/servers/{}", side.server().await);
    let mut fields = at(side, "compute 2.69", &path).await.expect(200).fields("server");
    fields.sort_unstable();
    let mut expected = [
        "OS-DCF:diskConfig",
        "OS-EXT-AZ:availability_zone",
        "OS-EXT-STS:power_state",
        "OS-EXT-STS:task_state",
        "OS-EXT-STS:vm_state",
        "OS-SRV-USG:launched_at",
        "OS-SRV-USG:terminated_at",
        "accessIPv4",
        "accessIPv6",
        "addresses",
        "config_drive",
        "created",
        "description",
        "flavor",
        "hostId",
        "id",
        "image",
        "key_name",
        "links",
        "locked",
        "metadata",
        "name",
        "os-extended-volumes:volumes_attached",
        "progress",
        "security_groups",
        "status",
        "tags",
        "tenant_id",
        "trusted_image_certificates",
        "updated",
        "user_id",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
}

async fn flavors_grow_with_versions(side: &Side) {
    for (field, since) in [("description", 55), ("extra_specs", 61)] {
        for (minor, shown) in [(since - 1, false), (since, true)] {
            let reply = at(side, &format!("compute 2.{minor}"), "/flavors/detail").await.expect(200);
            assert_eq!(reply.json()["flavors"][0].get(field).is_some(), shown, "{field} in 2.{minor}");
        }
    }
}

async fn unknown_paths_are_no_proof_of_anything(side: &Side) {
    let reply = side.get(Compute, "/nonsense").await.expect(404);
    assert!(!reply.text.contains("itemNotFound"), "{reply}");
    let reply = side.get(Network, "/nonsense").await.expect(404);
    assert_eq!(reply.at("/NeutronError/type"), "HTTPNotFound");
}

conformance!(shared:
    nova_tells_its_range_to_everybody,
    nova_tells_of_one_version_at_its_address,
    glance_tells_its_versions,
    neutron_tells_its_versions,
    a_version_too_high_is_not_acceptable,
    a_malformed_version_is_refused,
    no_version_is_the_oldest,
    latest_is_the_newest,
    the_old_name_of_the_header_works,
    the_new_name_wins_over_the_old,
    a_version_for_another_service_is_none_for_nova,
    answers_name_the_version_and_the_request,
    glance_and_neutron_name_the_request_too,
    a_server_shows_its_flavor_by_id_before_2_47,
    a_server_shows_its_flavor_by_values_from_2_47,
    fields_of_a_server_come_with_their_versions,
    a_server_at_2_69_has_these_fields,
    flavors_grow_with_versions,
    unknown_paths_are_no_proof_of_anything,
);
