//! A server's life: refused or taken, booted, reached, changed, deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::cloud::{Cloud, handshake, wait_refused};

#[tokio::test]
async fn a_server_boots_answers_ssh_and_goes() {
    let cloud = Cloud::start(&["--boot-time", "300ms", "--delete-time", "300ms"]).await;
    let id = cloud.server("web").await;
    let building = cloud.show(&id).await.json()["server"].clone();
    assert_eq!(building["status"], "BUILD");
    assert_eq!(building["addresses"], json!({}));
    assert_eq!(building["hostId"], "");
    let active = cloud.wait_for(&id, "ACTIVE").await;
    assert_eq!(active["OS-EXT-STS:task_state"], Value::Null);
    let address = cloud.ssh_address(&id).await;
    let key = handshake(address).await.unwrap();
    assert_eq!(key, handshake(address).await.unwrap(), "a server keeps its host key");
    let console = json!({"os-getConsoleOutput": {}});
    let console = cloud.post(&format!("/compute/v2.1/servers/{id}/action"), console).await.json();
    assert!(console["output"].as_str().unwrap().contains(&key), "the console shows the key that SSH shows");

    assert_eq!(cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status, 204);
    let deleting = cloud.show(&id).await.json()["server"].clone();
    assert_eq!((&deleting["status"], &deleting["OS-EXT-STS:task_state"]), (&json!("ACTIVE"), &json!("deleting")));
    assert_eq!(cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status, 204, "again, meanwhile");
    cloud.wait_gone(&id).await;
    wait_refused(address).await;
    let gone = cloud.show(&id).await.json();
    assert_eq!(gone["itemNotFound"]["message"], format!("Instance {id} could not be found."));
    assert_eq!(cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status, 404);
}

#[tokio::test]
async fn nothing_takes_time_when_told_so() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("now").await;
    assert_eq!(cloud.show(&id).await.json()["server"]["status"], "ACTIVE");
    handshake(cloud.ssh_address(&id).await).await.unwrap();
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    assert_eq!(cloud.show(&id).await.status, 404);
}

#[tokio::test]
async fn servers_differ_in_address_and_host_key() {
    let cloud = Cloud::start(&[]).await;
    let (first, second) = (cloud.server("a").await, cloud.server("b").await);
    let (first, second) = (cloud.ssh_address(&first).await, cloud.ssh_address(&second).await);
    assert_ne!(first.ip(), second.ip());
    assert_ne!(handshake(first).await.unwrap(), handshake(second).await.unwrap());
}

#[tokio::test]
async fn quota_refusals_name_what_is_exceeded() {
    let cloud = Cloud::start(&["--max-servers", "2"]).await;
    cloud.server("a").await;
    cloud.server("b").await;
    let refused = cloud.boot("c").await;
    assert_eq!(refused.status, 403);
    let message = "Quota exceeded for instances: Requested 1, but already used 2 of 2 instances";
    assert_eq!(refused.json(), json!({"forbidden": {"code": 403, "message": message}}));
    cloud.set(json!({"maxCores": 2, "maxRam": 4096})).await;
    let message = "Quota exceeded for cores, instances, ram: Requested 1, 1, 2048, but already used 2, 2, 4096 of \
                   2, 2, 4096 cores, instances, ram";
    assert_eq!(cloud.boot("c").await.json()["forbidden"]["message"], message);
    let limits = cloud.get("/compute/v2.1/limits").await.json()["limits"]["absolute"].clone();
    assert_eq!((&limits["maxTotalInstances"], &limits["totalInstancesUsed"]), (&json!(2), &json!(2)));
    assert_eq!((&limits["totalCoresUsed"], &limits["totalRAMUsed"]), (&json!(2), &json!(4096)));
}

#[tokio::test]
async fn racing_boots_never_pass_the_quota() {
    let cloud = Cloud::start(&["--max-servers", "10"]).await;
    let body = cloud.boot_body("racer").await;
    let boots = (0..50).map(|_| cloud.post("/compute/v2.1/servers", body.clone()));
    let answers = futures::future::join_all(boots).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 10);
    assert_eq!(answers.iter().filter(|answer| answer.status == 403).count(), 40);
    let servers = cloud.state().await["servers"].clone();
    assert_eq!((&servers["existing"], &servers["highest"]), (&json!(10), &json!(10)));
}

#[tokio::test]
async fn the_highest_count_remembers() {
    let cloud = Cloud::start(&[]).await;
    let ids = [cloud.server("a").await, cloud.server("b").await, cloud.server("c").await];
    cloud.post("/simulator/servers", json!({"name": "foreign"})).await;
    for id in &ids {
        cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    }
    let servers = cloud.state().await["servers"].clone();
    assert_eq!((&servers["existing"], &servers["own"], &servers["foreign"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!((&servers["highest"], &servers["highestOwn"]), (&json!(4), &json!(3)));
    cloud.post("/simulator/state/reset", json!({})).await;
    assert_eq!(cloud.state().await["servers"]["highest"], 1);
}

#[tokio::test]
async fn bad_boots_are_refused_in_the_words_of_nova() {
    let cloud = Cloud::start(&[]).await;
    let good = cloud.boot_body("x").await;
    let nowhere = "00000000-0000-4000-8000-000000000000";
    for (field, value, message) in [
        ("imageRef", json!(nowhere), "Can not find requested image"),
        ("flavorRef", json!(nowhere), "Flavor 00000000-0000-4000-8000-000000000000 could not be found."),
        ("networks", json!([{"uuid": nowhere}]), "Network 00000000-0000-4000-8000-000000000000 could not be found."),
        ("key_name", json!("nope"), "Invalid key_name provided."),
        ("networks", Value::Null, "'networks' is a required property"),
        ("nonsense", json!(1), "Additional properties are not allowed ('nonsense' was unexpected)"),
        ("tags", json!(["a,b"]), "does not match '^[^,/]*$'"),
        ("metadata", json!({"a": 1}), "1 is not of type 'string'"),
        ("availability_zone", json!("mars"), "The requested availability zone is not available"),
    ] {
        let mut body = good.clone();
        match value {
            Value::Null => _ = body["server"].as_object_mut().unwrap().remove(field),
            value => body["server"][field] = value,
        }
        let answer = cloud.post("/compute/v2.1/servers", body).await;
        assert_eq!(answer.status, 400, "{field}: {}", answer.text);
        let said = answer.json()["badRequest"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains(message), "{field}: {said}");
    }
    assert_eq!(cloud.state().await["servers"]["highest"], 0);
}

#[tokio::test]
async fn microversions_change_what_is_shown() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("v").await;
    let path = format!("/compute/v2.1/servers/{id}");
    let at = async |version: &str| {
        let headers = [("openstack-api-version", version)];
        cloud.send(Method::GET, &path, None, &headers).await.unwrap()
    };
    let old = at("compute 2.1").await;
    assert_eq!(old.header("x-openstack-nova-api-version"), "2.1");
    assert!(old.json()["server"].get("tags").is_none() && old.json()["server"]["flavor"].get("id").is_some());
    let new = at("compute latest").await;
    assert_eq!(new.header("openstack-api-version"), "compute 2.96");
    assert_eq!(new.json()["server"]["flavor"]["original_name"], "small");
    assert_eq!(new.json()["server"]["tags"], json!([]));
    let refused = at("compute 2.999").await;
    assert_eq!(refused.status, 406);
    let message = "Version 2.999 is not supported by the API. Minimum is 2.1 and maximum is 2.96.";
    assert_eq!(refused.json(), json!({"computeFault": {"code": 406, "message": message}}));
    assert_eq!(at("compute two").await.status, 400);
    cloud.set(json!({"maxMicroversion": 0})).await;
    let without = at("compute 2.52").await;
    assert_eq!((without.status, without.header("openstack-api-version")), (200, ""));
    let versions = cloud.get("/compute/").await.json();
    assert!(versions["versions"].as_array().unwrap().iter().all(|version| version["version"] == ""));
}

#[tokio::test]
async fn tags_metadata_and_power_change() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("t").await;
    let path = format!("/compute/v2.1/servers/{id}");
    assert_eq!(cloud.put(&format!("{path}/tags/one"), Value::Null).await.status, 201);
    assert_eq!(cloud.put(&format!("{path}/tags/one"), Value::Null).await.status, 204);
    assert_eq!(cloud.names("?tags=one").await, ["t"]);
    assert!(cloud.names("?tags=one,two").await.is_empty());
    assert_eq!(cloud.delete(&format!("{path}/tags/two")).await.status, 404);
    let set = cloud.post(&format!("{path}/metadata"), json!({"metadata": {"state": "ready"}})).await;
    assert_eq!(set.json(), json!({"metadata": {"state": "ready"}}));
    let address = cloud.ssh_address(&id).await;
    assert_eq!(cloud.post(&format!("{path}/action"), json!({"os-stop": null})).await.status, 202);
    wait_refused(address).await;
    let again = cloud.post(&format!("{path}/action"), json!({"os-stop": null})).await;
    let message = format!("Cannot 'stop' instance {id} while it is in vm_state stopped");
    assert_eq!(again.json(), json!({"conflictingRequest": {"code": 409, "message": message}}));
    cloud.post(&format!("{path}/action"), json!({"os-start": null})).await;
    handshake(address).await.unwrap();
    cloud.post(&format!("{path}/action"), json!({"lock": null})).await;
    let locked = cloud.delete(&path).await;
    assert_eq!(
        (locked.status, locked.json()["conflictingRequest"]["message"].clone()),
        (409, json!(format!("Instance {id} is locked")))
    );
    let renamed = cloud.put(&path, json!({"server": {"name": "u"}})).await;
    assert_eq!(renamed.json()["server"]["name"], "u");
    assert_eq!(cloud.names("?name=^u$").await, ["u"]);
}

#[tokio::test]
async fn a_test_can_break_a_server() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("victim").await;
    let address = cloud.ssh_address(&id).await;
    cloud.post(&format!("/simulator/servers/{id}"), json!({"ssh": "never"})).await;
    wait_refused(address).await;
    let broken = json!({"status": "ERROR", "message": "the host burned"});
    cloud.post(&format!("/simulator/servers/{id}"), broken).await;
    let server = cloud.show(&id).await.json()["server"].clone();
    assert_eq!((&server["status"], &server["fault"]["message"]), (&json!("ERROR"), &json!("the host burned")));
    assert_eq!(cloud.post(&format!("/simulator/servers/{id}"), json!({"state": "ERROR"})).await.status, 400);
}
