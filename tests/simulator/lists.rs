//! Lists: pages, filters, what changed since, and ten thousand servers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use super::cloud::Cloud;

/// Follows next-page links to the end; the servers of each page.
async fn pages(cloud: &Cloud, first: &str) -> Vec<Vec<Value>> {
    let (mut all, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(url) = next {
        let answer = cloud.get(&url).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        all.push(page["servers"].as_array().unwrap().clone());
        next = page["servers_links"][0]["href"].as_str().map(str::to_owned);
    }
    all
}

#[tokio::test]
async fn pages_are_linked_and_newest_comes_first() {
    let cloud = Cloud::start(&[]).await;
    for index in 0..7 {
        cloud.server(&format!("s{index}")).await;
    }
    let pages = pages(&cloud, "/compute/v2.1/servers?limit=3").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let names: Vec<&str> = pages.iter().flatten().map(|server| server["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]);
    assert_eq!(cloud.names("?sort_key=created_at&sort_dir=asc&limit=2").await, ["s0", "s1"]);

    let marker = pages[1][0]["id"].as_str().unwrap();
    cloud.delete(&format!("/compute/v2.1/servers/{marker}")).await;
    let after_gone = cloud.get(&format!("/compute/v2.1/servers?limit=1&marker={marker}")).await.json();
    assert_eq!(after_gone["servers"][0]["name"], "s2", "a deleted server still marks its place");
    let never = cloud.get("/compute/v2.1/servers?limit=3&marker=nobody").await;
    assert_eq!(never.json(), json!({"badRequest": {"code": 400, "message": "marker [nobody] not found"}}));
    let full = cloud.get("/compute/v2.1/servers?limit=6").await.json();
    assert!(full["servers_links"].is_array(), "a full page has a link even when nothing follows");
    assert_eq!(cloud.get("/compute/v2.1/servers?limit=x").await.status, 400);
    assert_eq!(cloud.get("/compute/v2.1/servers?nonsense=1").await.status, 400);
    let old = [("openstack-api-version", "compute 2.60")];
    let ignored = cloud.send(Method::GET, "/compute/v2.1/servers?nonsense=1", None, &old).await.unwrap();
    assert_eq!(ignored.status, 200);
    assert_eq!(cloud.get("/compute/v2.1/servers/detail?all_tenants=1").await.status, 403);
}

#[tokio::test]
async fn filters_choose() {
    let cloud = Cloud::start(&[]).await;
    for name in ["pool-a-1", "pool-a-2", "pool-b-1"] {
        cloud.server(name).await;
    }
    assert_eq!(cloud.names("?name=pool-a").await, ["pool-a-2", "pool-a-1"]);
    assert_eq!(cloud.names("?name=^pool-a-1$").await, ["pool-a-1"]);
    assert_eq!(cloud.names("?name=-1$").await, ["pool-b-1", "pool-a-1"]);
    assert_eq!(cloud.names("?status=ACTIVE").await.len(), 3);
    assert!(cloud.names("?status=ERROR").await.is_empty());
}

#[tokio::test]
async fn changes_since_shows_what_changed_and_what_went() {
    let cloud = Cloud::start(&[]).await;
    let old = json!({"name": "old", "age": "1h", "foreign": false});
    cloud.post("/simulator/servers", json!({"name": "older", "age": "2h"})).await;
    let answer = cloud.post("/simulator/servers", old).await.json();
    let old = answer["id"].as_str().unwrap();
    let new = cloud.server("new").await;
    let since = |seconds: i64| {
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
        format!("?changes-since={}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    };
    cloud.delete(&format!("/compute/v2.1/servers/{new}")).await;
    let page = cloud.get(&format!("/compute/v2.1/servers/detail{}", since(60))).await.json();
    let shown: BTreeSet<(&str, &str)> = page["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| (server["name"].as_str().unwrap(), server["status"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, BTreeSet::from([("new", "DELETED")]));
    assert!(cloud.names(&since(-60)).await.is_empty(), "nothing changed in the future");
    cloud.post("/simulator/purge", json!({})).await;
    assert!(!cloud.names(&since(60)).await.contains(&"new".to_owned()));
    cloud.put(&format!("/compute/v2.1/servers/{old}/tags/x"), Value::Null).await;
    assert_eq!(cloud.names(&since(60)).await, ["old"]);
    assert_eq!(cloud.get("/compute/v2.1/servers?changes-since=yesterday").await.status, 400);
}

#[tokio::test]
async fn the_clock_of_a_cloud_can_be_wrong() {
    let cloud = Cloud::start(&[]).await;
    cloud.set(json!({"clockSkewSeconds": 3600})).await;
    let id = cloud.server("skewed").await;
    let answer = cloud.show(&id).await;
    let updated: jiff::Timestamp = answer.json()["server"]["updated"].as_str().unwrap().parse().unwrap();
    assert!(updated > jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3000));
    let date = jiff::fmt::rfc2822::parse(answer.header("date")).unwrap().timestamp();
    assert!(date > jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3000));
    let since = |at: jiff::Timestamp| format!("?changes-since={}", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(cloud.names(&since(updated)).await, ["skewed"]);
    assert!(cloud.names(&since(updated + jiff::SignedDuration::from_secs(2))).await.is_empty());
}

#[tokio::test]
async fn ten_thousand_servers_are_listed_without_ado() {
    let cloud = Cloud::start(&["--max-servers", "-1"]).await;
    // Without SSH they need no open files, of which a test machine may have few.
    let many = json!({"name": "n", "count": 10_000, "ssh": "never", "tags": ["owner"], "age": "1h"});
    assert_eq!(cloud.post("/simulator/servers", many).await.status, 201);
    for pass in ["first", "again"] {
        let start = Instant::now();
        let pages = pages(&cloud, "/compute/v2.1/servers/detail?tags=owner").await;
        println!("10,000 servers in pages of 1,000, {pass}: {:?}", start.elapsed());
        let ids: BTreeSet<&str> = pages.iter().flatten().map(|server| server["id"].as_str().unwrap()).collect();
        assert_eq!((pages.len(), ids.len()), (11, 10_000));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    let id = cloud.server("the-one").await;
    let updated = cloud.show(&id).await.json()["server"]["updated"].as_str().unwrap().to_owned();
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(cloud.names(&format!("?changes-since={updated}")).await, ["the-one"]);
        assert_eq!(cloud.names("?name=^n-77$").await, ["n-77"]);
    }
    println!("200 narrow questions among 10,000 servers: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(cloud.state().await["servers"]["highest"], 10_001);
}
