//! Faults: each does what `docs/simulator.md` says, to the calls it is for and no others, as often as it is told.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::cloud::{Answer, Cloud, handshake, wait_refused};

const LIST: &str = "/compute/v2.1/servers/detail";

async fn try_boot(cloud: &Cloud, name: &str) -> Result<Answer, reqwest::Error> {
    let body = cloud.boot_body(name).await;
    cloud.send(Method::POST, "/compute/v2.1/servers", Some(&body), &[]).await
}

#[tokio::test]
async fn answers_are_replaced_with_or_without_effect() {
    let cloud = Cloud::start(&[]).await;
    for (effect, status) in [(false, 500), (true, 503), (false, 429), (true, 502)] {
        let name = format!("{effect}-{status}");
        cloud
            .fault(json!({"call": "create-server", "times": 1, "fault": {"type": "answer", "status": status, "effect": effect}}))
            .await;
        assert_eq!(cloud.boot(&name).await.status, status);
        assert_eq!(cloud.names(&format!("?name=^{name}$")).await.len(), usize::from(effect), "{name}");
    }
    assert_eq!(cloud.boot("after").await.status, 202, "each was for one call");
}

#[tokio::test]
async fn answers_have_the_body_and_headers_asked_for() {
    let cloud = Cloud::start(&[]).await;
    let answer = async |fault: Value| {
        cloud.no_faults().await;
        cloud.fault(json!({"call": "list-servers", "fault": fault})).await;
        cloud.get(LIST).await
    };
    let limited = answer(json!({"type": "answer", "status": 429, "retryAfter": {"seconds": 7}})).await;
    assert_eq!(limited.header("retry-after"), "7");
    let body = json!({"code": 429, "message": "This request was rate-limited.", "retryAfter": "7"});
    assert_eq!(limited.json(), json!({"overLimit": body}));
    let dated = answer(json!({"type": "answer", "status": 503, "retryAfter": {"date": 60}})).await;
    let date = jiff::fmt::rfc2822::parse(dated.header("retry-after")).unwrap();
    assert!(date.timestamp() > jiff::Timestamp::now());
    let quota = answer(json!({"type": "answer", "status": 403, "message": "Quota exceeded for cores"})).await;
    assert_eq!(quota.json()["forbidden"]["message"], "Quota exceeded for cores");
    let proxy = answer(json!({"type": "answer", "status": 200, "body": "html"})).await;
    assert!(proxy.status == 200 && proxy.text.starts_with("<html>"));
    let empty = answer(json!({"type": "answer", "status": 500, "body": "empty"})).await;
    assert_eq!((empty.status, empty.text.as_str()), (500, ""));
    for (body, least) in [("garbage", 100), ("truncated", 10), ("huge", 10_000_000)] {
        let odd = answer(json!({"type": "answer", "status": 200, "body": body})).await;
        assert!(odd.text.len() >= least, "{body}");
        let parsed = serde_json::from_str::<Value>(&odd.text);
        assert_eq!(parsed.is_ok(), body == "huge", "{body}");
    }
    for (path, key) in [("/network/v2.0/ports", "NeutronError"), ("/identity/v3/auth/catalog", "error")] {
        cloud.no_faults().await;
        cloud.fault(json!({"path": path, "fault": {"type": "answer", "status": 409}})).await;
        let answer = cloud.get(path).await;
        assert!(answer.status == 409 && answer.json()[key].is_object(), "{path}: each service in its own shape");
    }
}

#[tokio::test]
async fn connections_are_cut_and_calls_hang() {
    let cloud = Cloud::start(&[]).await;
    for (kind, effect) in [("cut", false), ("cut", true), ("hang", false), ("hang", true)] {
        let name = format!("{kind}-{effect}");
        let mut fault = json!({"type": kind, "effect": effect});
        if kind == "hang" {
            fault["limit"] = "300ms".into();
        }
        cloud.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        let start = Instant::now();
        assert!(try_boot(&cloud, &name).await.is_err(), "{name}");
        assert!(kind == "cut" || start.elapsed() >= Duration::from_millis(300), "{name}");
        assert_eq!(cloud.names(&format!("?name=^{name}$")).await.len(), usize::from(effect), "{name}");
    }
    let calls = cloud.get("/simulator/calls?name=create-server").await.json();
    let statuses: Vec<&Value> = calls["calls"].as_array().unwrap().iter().map(|call| &call["status"]).collect();
    assert_eq!(statuses, [0, 0, 0, 0], "none of them was answered");
    assert!(calls["calls"][1]["subjectId"].is_string(), "the record knows what took effect");
}

#[tokio::test]
async fn effects_can_be_late() {
    let cloud = Cloud::start(&[]).await;
    cloud.fault(json!({"call": "create-server", "times": 1, "fault": {"type": "late", "after": "400ms"}})).await;
    assert_eq!(cloud.boot("late").await.status, 504);
    assert!(cloud.names("?name=late").await.is_empty());
    let there = |answer: &Answer| !answer.json()["servers"].as_array().unwrap().is_empty();
    cloud.poll(&format!("{LIST}?name=late"), there).await;
    cloud.fault(json!({"call": "create-server", "fault": {"type": "late", "after": "1ms", "reply": "cut"}})).await;
    assert!(try_boot(&cloud, "late-too").await.is_err());
    cloud.poll(&format!("{LIST}?name=late-too"), there).await;
    cloud.no_faults().await;
    cloud.fault(json!({"call": "list-servers", "times": 1, "delay": "300ms", "fault": {"type": "slow"}})).await;
    let start = Instant::now();
    assert_eq!(cloud.get(LIST).await.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn answers_are_mangled() {
    let cloud = Cloud::start(&[]).await;
    cloud.server("a").await;
    cloud.server("b").await;
    let path = format!("{LIST}?limit=1");
    let mangle = async |how: &str| {
        cloud.no_faults().await;
        cloud.fault(json!({"call": "list-servers", "fault": {"type": "mangle", "how": how}})).await;
        cloud.send(Method::GET, &path, None, &[]).await
    };
    let link = |answer: Answer| answer.json()["servers_links"][0]["href"].as_str().map(str::to_owned);
    assert!(serde_json::from_str::<Value>(&mangle("truncate").await.unwrap().text).is_err());
    assert!(mangle("cut-body").await.is_err());
    assert_eq!(mangle("huge").await.unwrap().json()["servers"][0]["name"], "b");
    let zipped = mangle("gzip").await.unwrap();
    assert_eq!(zipped.header("content-encoding"), "gzip");
    let html = mangle("html").await.unwrap();
    assert!(html.status == 200 && html.text.starts_with("<html>"));
    assert!(serde_json::from_str::<Value>(&mangle("garbage").await.unwrap().text).is_err());
    assert_eq!(link(mangle("link-repeated").await.unwrap()), Some(format!("{}{path}", cloud.url)));
    assert!(link(mangle("link-foreign").await.unwrap()).unwrap().starts_with("http://elsewhere.invalid/"));
    assert!(link(mangle("link-relative").await.unwrap()).unwrap().starts_with("/compute/v2.1/servers/detail?"));
    assert_eq!(link(mangle("link-missing").await.unwrap()), None);
    assert_eq!(mangle("no-version-headers").await.unwrap().header("openstack-api-version"), "");
    cloud.fault(json!({"fault": {"type": "mangle", "how": "https-links"}})).await;
    assert!(cloud.get("/compute/").await.text.contains("https://"));
}

#[tokio::test]
async fn bodies_can_be_slow() {
    let cloud = Cloud::start(&[]).await;
    cloud.fault(json!({"call": "list-flavors", "fault": {"type": "mangle", "how": "slow"}})).await;
    let request = cloud.client.get(format!("{}/compute/v2.1/flavors", cloud.url));
    let request = request.header("x-auth-token", cloud.token.lock().unwrap().clone());
    let start = Instant::now();
    let response = request.send().await.unwrap();
    let headers = start.elapsed();
    assert!(response.json::<Value>().await.unwrap()["flavors"].is_array());
    assert!(start.elapsed() > headers + Duration::from_secs(3));
}

#[tokio::test]
async fn boots_end_badly() {
    let cloud = Cloud::start(&[]).await;
    cloud.fault(json!({"name": "full-*", "fault": {"type": "build-error"}})).await;
    let quota = "Quota exceeded for instances: Requested 1, but already used 5 of 5 instances";
    cloud.fault(json!({"name": "quota-*", "fault": {"type": "build-error", "message": quota, "after": "100ms", "leavesPort": true}})).await;
    cloud.fault(json!({"name": "never-*", "fault": {"type": "build-forever"}})).await;
    cloud.fault(json!({"name": "ghost-*", "fault": {"type": "vanish", "after": "100ms"}})).await;
    let id = cloud.server("full-1").await;
    let failed = cloud.show(&id).await.json()["server"].clone();
    assert_eq!(
        (&failed["status"], &failed["fault"]["message"]),
        (&json!("ERROR"), &json!("No valid host was found. "))
    );
    assert_eq!(failed["fault"]["code"], 500);
    let id = cloud.server("quota-1").await;
    assert_eq!(cloud.wait_for(&id, "ERROR").await["fault"]["message"], quota);
    assert_eq!(cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status, 204);
    let ports = cloud.get(&format!("/network/v2.0/ports?device_id={id}")).await.json();
    assert_eq!(ports["ports"].as_array().unwrap().len(), 1, "an ERROR server leaks its port");
    let id = cloud.server("never-1").await;
    let console = json!({"os-getConsoleOutput": {}});
    let console = cloud.post(&format!("/compute/v2.1/servers/{id}/action"), console).await;
    assert_eq!(console.json()["conflictingRequest"]["message"], format!("Instance {id} is not ready"));
    assert_eq!(cloud.show(&id).await.json()["server"]["status"], "BUILD");
    assert_eq!(cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status, 204);
    assert_eq!(cloud.show(&id).await.status, 404);
    let id = cloud.server("ghost-1").await;
    cloud.wait_gone(&id).await;
    assert!(cloud.names("?changes-since=2020-01-01T00:00:00Z&name=ghost").await.is_empty(), "no trace of it");
    assert_eq!(cloud.boot("good").await.status, 202);
    assert_eq!(cloud.names("?name=good&status=ACTIVE").await, ["good"]);
}

#[tokio::test]
async fn one_post_can_make_two_servers() {
    let cloud = Cloud::start(&[]).await;
    cloud.fault(json!({"times": 1, "fault": {"type": "duplicate"}})).await;
    cloud.server("twin").await;
    assert_eq!(cloud.names("?name=^twin$").await, ["twin", "twin"]);
    assert_eq!(cloud.state().await["servers"]["highest"], 2);
}

#[tokio::test]
async fn ssh_fails_for_chosen_servers() {
    let cloud = Cloud::start(&[]).await;
    cloud.fault(json!({"name": "deaf", "fault": {"type": "ssh", "mode": "never"}})).await;
    cloud.fault(json!({"name": "dumb", "fault": {"type": "ssh", "mode": "silent"}})).await;
    cloud.fault(json!({"name": "late", "fault": {"type": "ssh", "mode": "late", "after": "500ms"}})).await;
    let id = cloud.server("deaf").await;
    wait_refused(cloud.ssh_address(&id).await).await;
    let id = cloud.server("dumb").await;
    let stream = tokio::net::TcpStream::connect(cloud.ssh_address(&id).await).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), stream.readable()).await;
    assert!(silence.is_err(), "open, and not a word");
    let id = cloud.server("late").await;
    let address = cloud.ssh_address(&id).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "refused at first");
    let start = Instant::now();
    while handshake(address).await.is_err() {
        assert!(start.elapsed() < super::cloud::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deletions_go_wrong() {
    let cloud = Cloud::start(&[]).await;
    let delete = async |id: &str| cloud.delete(&format!("/compute/v2.1/servers/{id}")).await.status;
    let id = cloud.server("stays").await;
    cloud.fault(json!({"times": 1, "fault": {"type": "delete-ignored"}})).await;
    assert_eq!(delete(&id).await, 204);
    assert_eq!(cloud.show(&id).await.json()["server"]["OS-EXT-STS:task_state"], Value::Null);
    cloud.fault(json!({"times": 1, "fault": {"type": "delete-error", "message": "will not die"}})).await;
    assert_eq!(delete(&id).await, 204);
    let server = cloud.wait_for(&id, "ERROR").await;
    assert_eq!(server["fault"]["message"], "Failed to terminate instance: will not die");
    assert_eq!(server["fault"]["code"], 400);
    cloud.fault(json!({"times": 1, "fault": {"type": "delete-time", "after": "300ms"}})).await;
    assert_eq!(delete(&id).await, 204);
    assert_eq!(cloud.show(&id).await.json()["server"]["OS-EXT-STS:task_state"], "deleting");
    cloud.wait_gone(&id).await;
    let id = cloud.server("soft").await;
    cloud.fault(json!({"times": 1, "fault": {"type": "soft-delete"}})).await;
    assert_eq!(delete(&id).await, 204);
    assert_eq!(cloud.show(&id).await.json()["server"]["status"], "SOFT_DELETED");
    assert!(cloud.names("").await.is_empty());
    let force = cloud.post(&format!("/compute/v2.1/servers/{id}/action"), json!({"forceDelete": null})).await;
    assert_eq!((force.status, cloud.show(&id).await.status), (202, 404));
}

#[tokio::test]
async fn filters_and_changes_since_are_ignored() {
    let cloud = Cloud::start(&[]).await;
    cloud.post("/simulator/servers", json!({"name": "foreign", "age": "1h"})).await;
    cloud.fault(json!({"fault": {"type": "filters-ignored"}})).await;
    assert_eq!(cloud.names("?name=^mine$&tags=owner").await, ["foreign"]);
    assert!(cloud.names("?changes-since=2199-01-01T00:00:00Z").await.is_empty());
    cloud.fault(json!({"fault": {"type": "changes-since-ignored"}})).await;
    assert_eq!(cloud.names("?changes-since=2199-01-01T00:00:00Z").await, ["foreign"]);
}

#[tokio::test]
async fn a_cell_goes_down() {
    let cloud = Cloud::start(&[]).await;
    let lost = cloud.server("cell2-a").await;
    cloud.server("cell1-a").await;
    cloud.fault(json!({"name": "cell2-*", "fault": {"type": "down-cell", "mode": "unknown"}})).await;
    assert_eq!(cloud.names("").await, ["cell1-a", "(unknown)"]);
    assert_eq!(cloud.names("?status=ACTIVE").await, ["cell1-a"], "a filtered list leaves it out silently");
    assert_eq!(cloud.names("?limit=10").await, ["cell1-a"]);
    assert_eq!(cloud.show(&lost).await.json()["server"]["status"], "UNKNOWN");
    assert_eq!(cloud.get(&format!("{LIST}?marker={lost}")).await.status, 500);
    let old = [("openstack-api-version", "compute 2.60")];
    let path = format!("/compute/v2.1/servers/{lost}");
    assert_eq!(cloud.send(Method::GET, &path, None, &old).await.unwrap().status, 500);
    cloud.no_faults().await;
    cloud.fault(json!({"name": "cell2-*", "fault": {"type": "down-cell", "mode": "skip"}})).await;
    assert_eq!(cloud.names("").await, ["cell1-a"]);
    cloud.no_faults().await;
    cloud.fault(json!({"name": "cell2-*", "fault": {"type": "down-cell", "mode": "error"}})).await;
    assert_eq!(cloud.get(LIST).await.status, 500);
}

#[tokio::test]
async fn faults_find_their_calls() {
    let cloud = Cloud::start(&[]).await;
    let id = cloud.server("one").await;
    let other = cloud.server("two").await;
    let status = json!({"type": "answer", "status": 404});
    let flap = json!({"call": "show-server", "name": "one", "skip": 1, "times": 2, "fault": status});
    let number = cloud.fault(flap).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        assert_eq!(cloud.show(&other).await.status, 200, "another server");
        statuses.push(cloud.show(&id).await.status);
    }
    assert_eq!(statuses, [200, 404, 404, 200, 200]);
    let shown = cloud.get(&format!("/simulator/faults/{number}")).await.json();
    assert_eq!((&shown["seen"], &shown["hits"], &shown["times"]), (&json!(3), &json!(2), &json!(2)));
    cloud.no_faults().await;
    cloud.fault(json!({"method": "GET", "path": "*/flavors*", "fault": {"type": "answer", "status": 500}})).await;
    cloud.fault(json!({"service": "network", "fault": {"type": "answer", "status": 503}})).await;
    cloud
        .fault(
            json!({"query": "marker=", "fault": {"type": "answer", "status": 400, "message": "marker [x] not found"}}),
        )
        .await;
    assert_eq!(cloud.get("/compute/v2.1/flavors/detail").await.status, 500);
    assert_eq!(cloud.get("/network/v2.0/networks").await.status, 503);
    assert_eq!(cloud.get(&format!("{LIST}?marker=x")).await.json()["badRequest"]["message"], "marker [x] not found");
    assert_eq!(cloud.get(LIST).await.status, 200);
    for bad in [
        json!({"fault": {"type": "answer"}}),
        json!({"fault": {"type": "nonsense"}}),
        json!({"calls": "x", "fault": {"type": "cut"}}),
    ] {
        let refused = cloud.post("/simulator/faults", bad).await;
        assert!(refused.status == 400 && refused.json()["error"].is_string());
    }
    let many = cloud.post("/simulator/faults", json!([{"fault": {"type": "cut"}}, {"fault": {"type": "cut"}}])).await;
    assert_eq!(many.json()["ids"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn calls_are_recorded_and_counted() {
    let cloud = Cloud::start(&[]).await;
    cloud.delete("/simulator/calls").await;
    let id = cloud.server("seen").await;
    cloud.show(&id).await;
    cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    cloud.show(&id).await;
    let calls = cloud.get("/simulator/calls").await.json();
    let counts = &calls["counts"];
    assert_eq!(counts["create-server"], json!({"calls": 1, "statuses": {"202": 1}}));
    assert_eq!(counts["show-server"], json!({"calls": 2, "statuses": {"200": 1, "404": 1}}));
    let created = calls["calls"].as_array().unwrap().iter().find(|call| call["name"] == "create-server").unwrap();
    assert_eq!((&created["subjectId"], &created["subjectName"]), (&json!(id), &json!("seen")));
    assert_eq!((&created["service"], &created["method"]), (&json!("compute"), &json!("POST")));
    let last = calls["last"].as_u64().unwrap();
    cloud.show(&id).await;
    let since = cloud.get(&format!("/simulator/calls?since={last}")).await.json();
    assert_eq!(since["calls"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.count("delete-server").await, 1);
}
