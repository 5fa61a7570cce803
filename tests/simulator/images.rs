//! Images: uploaded, snapshot, stuck, protected, hidden, deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::cloud::Cloud;

const PATCH: [(&str, &str); 1] = [("content-type", "application/openstack-images-v2.1-json-patch")];

async fn make(cloud: &Cloud, body: Value) -> String {
    let made = cloud.post("/image/v2/images", body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json()["status"], "queued");
    format!("/image/v2/images/{}", made.json()["id"].as_str().unwrap())
}

async fn upload(cloud: &Cloud, path: &str, data: Vec<u8>) -> u16 {
    let token = cloud.token.lock().unwrap().clone();
    let request = cloud.client.put(format!("{}{path}/file", cloud.url)).header("x-auth-token", token);
    let request = request.header("content-type", "application/octet-stream").body(data);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn an_image_is_made_filled_changed_and_deleted() {
    let cloud = Cloud::start(&[]).await;
    let wanted =
        json!({"name": "i", "disk_format": "raw", "container_format": "bare", "build_id": "12", "tags": ["t"]});
    let path = make(&cloud, wanted).await;
    assert_eq!(upload(&cloud, &path, vec![7; 3 << 20]).await, 204);
    let image = cloud.get(&path).await.json();
    assert_eq!(
        (&image["status"], &image["size"], &image["build_id"]),
        (&json!("active"), &json!(3 << 20), &json!("12"))
    );
    assert_eq!(image["os_hash_value"].as_str().unwrap().len(), 128);
    assert_eq!(upload(&cloud, &path, vec![7]).await, 409, "a second time");
    assert_eq!(cloud.get("/image/v2/images?build_id=12").await.json()["images"][0]["id"], image["id"]);
    assert_eq!(cloud.get("/image/v2/images?tag=t").await.json()["images"].as_array().unwrap().len(), 1);

    let steps =
        json!([{"op": "replace", "path": "/protected", "value": true}, {"op": "add", "path": "/x", "value": "y"}]);
    let patched = cloud.send(Method::PATCH, &path, Some(&steps), &PATCH).await.unwrap();
    assert_eq!((patched.status, &patched.json()["x"]), (200, &json!("y")));
    let refused = cloud.send(Method::PATCH, &path, Some(&json!([])), &[]).await.unwrap();
    assert_eq!(refused.status, 415, "PATCH needs its own content type");
    let protected = cloud.delete(&path).await;
    assert_eq!(protected.status, 403);
    assert!(protected.text.starts_with("<html>"), "Glance's errors are HTML");
    let steps = json!([{"op": "replace", "path": "/protected", "value": false}]);
    cloud.send(Method::PATCH, &path, Some(&steps), &PATCH).await.unwrap();
    assert_eq!(cloud.delete(&path).await.status, 204);
    assert_eq!(cloud.delete(&path).await.status, 404);
}

#[tokio::test]
async fn data_that_is_not_what_it_says_is_refused() {
    let cloud = Cloud::start(&[]).await;
    let path = make(&cloud, json!({"name": "lie", "disk_format": "qcow2", "container_format": "bare"})).await;
    assert_eq!(upload(&cloud, &path, vec![0; 4096]).await, 415);
    assert_eq!(cloud.get(&path).await.json()["status"], "queued", "and the image stays");
    let id = path.rsplit('/').next().unwrap();
    let mut boot = cloud.boot_body("x").await;
    boot["server"]["imageRef"] = id.into();
    let refused = cloud.post("/compute/v2.1/servers", boot).await;
    assert_eq!(refused.json()["badRequest"]["message"], format!("Image {id} is not active."));
}

#[tokio::test]
async fn lists_come_in_pages_and_leave_out_the_hidden() {
    let cloud = Cloud::start(&[]).await;
    for index in 0..30 {
        cloud.post("/simulator/images", json!({"name": format!("i{index}")})).await;
    }
    cloud.post("/simulator/images", json!({"name": "secret", "hidden": true})).await;
    let first = cloud.get("/image/v2/images").await.json();
    assert_eq!(first["images"].as_array().unwrap().len(), 25);
    let next = format!("/image{}", first["next"].as_str().unwrap());
    let second = cloud.get(&next).await.json();
    assert_eq!(second["images"].as_array().unwrap().len(), 7, "30 and the two that were there");
    assert!(second.get("next").is_none());
    let hidden = cloud.get("/image/v2/images?os_hidden=true").await.json();
    assert_eq!(hidden["images"].as_array().unwrap().iter().map(|image| &image["name"]).collect::<Vec<_>>(), ["secret"]);
}

#[tokio::test]
async fn a_snapshot_grows_into_an_image() {
    let cloud = Cloud::start(&[]).await;
    cloud.set(json!({"snapshotTime": "200ms"})).await;
    let id = cloud.server("base").await;
    let action = format!("/compute/v2.1/servers/{id}/action");
    let taken = cloud.post(&action, json!({"createImage": {"name": "snap", "metadata": {"build": "7"}}})).await;
    assert_eq!(taken.status, 202);
    let path = format!("/image/v2/images/{}", taken.json()["image_id"].as_str().unwrap());
    let queued = cloud.get(&path).await.json();
    assert_eq!((&queued["status"], &queued["disk_format"]), (&json!("queued"), &Value::Null));
    let busy = cloud.post(&action, json!({"createImage": {"name": "x"}})).await;
    assert_eq!(busy.status, 409, "one at a time");
    let image = cloud.poll(&path, |answer| answer.json()["status"] == "active").await.json();
    assert_eq!((&image["build"], &image["os_distro"], &image["min_disk"]), (&json!("7"), &json!("debian"), &json!(20)));
    let old = [("openstack-api-version", "compute 2.44")];
    cloud
        .poll(&format!("/compute/v2.1/servers/{id}"), |answer| {
            answer.json()["server"]["OS-EXT-STS:task_state"].is_null()
        })
        .await;
    let body = json!({"createImage": {"name": "snap2"}});
    let before = cloud.send(Method::POST, &action, Some(&body), &old).await.unwrap();
    assert_eq!((before.status, before.text.as_str()), (202, ""));
    let location = before.header("location").to_owned();
    let second = format!("/image/v2/images/{}", location.rsplit('/').next().unwrap());
    cloud.poll(&second, |answer| answer.json()["status"] == "active").await;
}

#[tokio::test]
async fn a_snapshot_fails_by_disappearing() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("base").await;
    cloud.fault(json!({"fault": {"type": "snapshot-fails", "after": "200ms"}})).await;
    let action = format!("/compute/v2.1/servers/{id}/action");
    let taken = cloud.post(&action, json!({"createImage": {"name": "snap"}})).await.json();
    let path = format!("/image/v2/images/{}", taken["image_id"].as_str().unwrap());
    assert_eq!(cloud.get(&path).await.status, 200);
    cloud.poll(&path, |answer| answer.status == 404).await;
    assert_eq!(cloud.show(&id).await.json()["server"]["OS-EXT-STS:task_state"], Value::Null);
}

#[tokio::test]
async fn images_can_be_stuck_in_any_status() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("base").await;
    for status in ["queued", "saving", "importing", "killed", "pending_delete"] {
        let fault = cloud.fault(json!({"times": 1, "fault": {"type": "image-stuck", "status": status}})).await;
        let action = format!("/compute/v2.1/servers/{id}/action");
        let taken = cloud.post(&action, json!({"createImage": {"name": "snap"}})).await.json();
        let path = format!("/image/v2/images/{}", taken["image_id"].as_str().unwrap());
        assert_eq!(cloud.get(&path).await.json()["status"], status);
        assert_eq!(cloud.get(&format!("/simulator/faults/{fault}")).await.json()["hits"], 1);
    }
    let path = make(&cloud, json!({"name": "u", "disk_format": "raw", "container_format": "bare"})).await;
    cloud.fault(json!({"call": "upload-image", "fault": {"type": "image-stuck", "status": "saving"}})).await;
    assert_eq!(upload(&cloud, &path, vec![1; 100]).await, 204);
    assert_eq!(cloud.get(&path).await.json()["status"], "saving");
}
