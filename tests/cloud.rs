//! The client of OpenStack against the simulated cloud, over HTTP: what it asks is understood, and whatever the cloud
//! does to an answer, no list is half read, no boot is sent twice and nothing of others is taken for ours.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use nodepool_operator::cloud::openstack::{CloudConfig, OpenStack, Options};
use nodepool_operator::cloud::poller::{PollSettings, Poller, SharedView};
use nodepool_operator::cloud::view::{ByName, View};
use nodepool_operator::cloud::{
    BootRequest, Cloud, CloudError, ErrorClass, Image, ImageSelector, NewImage, Ownership, Server, ServerQuery,
    ServerStatus,
};
use secrecy::SecretString;
use serde_json::json;
use support::openstack::loopback;
use support::{Simulator, eventually, within};

const SOON: Duration = Duration::from_secs(20);

fn client(simulator: &Simulator, cloud_name: &str) -> OpenStack {
    let config = CloudConfig::from_yaml(simulator.clouds_yaml().as_bytes(), cloud_name, None).unwrap();
    let options = Options {
        requests_per_second: 500.0,
        region: Some("RegionOne".into()),
        interface: None,
        provider_key: "ns/one".into(),
        owner: "me".into(),
        observer: None,
        egress: loopback(),
    };
    OpenStack::new(config, options).unwrap()
}

async fn start(args: &[&str]) -> (Simulator, OpenStack) {
    let simulator = Simulator::start(args).await;
    let cloud = client(&simulator, simulator.cloud_name());
    (simulator, cloud)
}

/// A cloud whose servers come and go at once.
async fn instant() -> (Simulator, OpenStack) {
    start(&["--boot-time=0s", "--delete-time=0s"]).await
}

fn ownership(name: &str) -> Ownership {
    Ownership { owner: "me".into(), record: format!("record-{name}"), provider: "ns/one".into() }
}

async fn request(cloud: &OpenStack, name: &str) -> BootRequest {
    let flavor = cloud.flavors().await.unwrap().into_iter().find(|flavor| flavor.name == "tiny").unwrap();
    BootRequest {
        name: name.to_owned(),
        ownership: ownership(name),
        image_id: cloud.images(&ImageSelector::Name("debian-13".into())).await.unwrap()[0].id.clone(),
        flavor_id: flavor.id,
        networks: vec![],
        security_groups: vec![],
        availability_zone: None,
        key_name: None,
        config_drive: None,
        user_data: Some(SecretString::from("#!/bin/sh\necho canary-user-data\n")),
        metadata: [("team".to_owned(), "a".to_owned())].into(),
        port: None,
        may_still: std::sync::Arc::new(|| true),
    }
}

async fn full(cloud: &OpenStack) -> Result<Vec<Server>, CloudError> {
    Ok(cloud.list_servers(ServerQuery::Full).await?.servers)
}

async fn calls(simulator: &Simulator, name: &str) -> u64 {
    simulator.get(&format!("calls?name={name}")).await["counts"][name]["calls"].as_u64().unwrap_or(0)
}

/// Nothing secret is in what people would see.
fn clean(error: &CloudError) -> ErrorClass {
    let shown = format!("{error} {error:?}");
    for secret in ["canary-user-data", "IyEvYmluL3No", "<html", "nginx", "gAAAA"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error.class
}

#[tokio::test]
async fn the_life_of_a_server() {
    let (simulator, cloud) = start(&["--boot-time=300ms", "--delete-time=300ms"]).await;
    cloud.check().await.unwrap();
    let wanted = BootRequest { networks: vec!["private".into()], ..request(&cloud, "np-1").await };
    let before = cloud.list_servers(ServerQuery::Full).await.unwrap().taken_at;
    let id = cloud.create_server(&wanted).await.unwrap();
    let server = cloud.get_server(&id).await.unwrap();
    assert_eq!((server.name.as_str(), server.status), ("np-1", ServerStatus::Build));
    assert_eq!(server.ownership, Some(ownership("np-1")));
    let active = eventually(SOON, || async {
        let server = cloud.get_server(&id).await.map_err(|error| error.to_string())?;
        if server.status == ServerStatus::Active { Ok(server) } else { Err(format!("{:?}", server.status)) }
    })
    .await;
    assert!(active.resources.is_some() && active.created.is_some() && !active.addresses.is_empty(), "{active:?}");

    let address = cloud.attach_floating_ip("public", &id, &ownership("np-1")).await.unwrap();
    assert_eq!(cloud.attach_floating_ip("public", &id, &ownership("np-1")).await.unwrap(), address, "not a second one");
    let floating = cloud.floating_ips().await.unwrap();
    assert_eq!((floating.len(), floating[0].address), (1, Some(address)));
    assert_eq!(floating[0].ownership, Some(ownership("np-1")));
    let ports = cloud.ports_of(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!((ports.len(), ports[0].attached_to.as_ref()), (1, Some(&id)));
    assert_eq!(floating[0].attached_to.as_ref(), Some(&ports[0].id));
    assert!(cloud.console_tail(&id, 20).await.unwrap().lines().count() <= 20);

    cloud.delete_floating_ip(&floating[0].id).await.unwrap();
    cloud.delete_floating_ip(&floating[0].id).await.unwrap();
    cloud.delete_server(&id).await.unwrap();
    let leaving = cloud.get_server(&id).await;
    assert!(leaving.as_ref().map_or(true, |server| server.status == ServerStatus::Deleting), "{leaving:?}");
    let gone = eventually(SOON, || async {
        match cloud.get_server(&id).await {
            Err(error) if error.class == ErrorClass::NotFound => Ok(error),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(gone.request_id.is_some());
    let changes = cloud.list_servers(ServerQuery::ChangedSince(before)).await.unwrap().servers;
    assert_eq!(changes.iter().map(|server| server.status).collect::<Vec<_>>(), [ServerStatus::Deleted]);
    assert_eq!(cloud.delete_server(&id).await.unwrap_err().class, ErrorClass::NotFound);
    let left = simulator.state().await;
    assert_eq!((&left["servers"]["existing"], &left["ports"], &left["floatingIps"]), (&json!(0), &json!(0), &json!(0)));
}

#[tokio::test]
async fn whatever_happens_to_a_boot_it_is_sent_once_and_found_by_name() {
    let (simulator, cloud) = instant().await;
    // The fault, whether a server exists afterwards, and the class.
    let faults = [
        (json!({"type": "cut", "effect": true}), true, ErrorClass::Unclear),
        (json!({"type": "cut"}), false, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 503, "effect": true}), true, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 500}), false, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 502, "body": "html", "effect": true}), true, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 403, "body": "html"}), false, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 404, "body": "html"}), false, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "html"}), true, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "truncate"}), true, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "cut-body"}), true, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "garbage"}), true, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "gzip"}), true, ErrorClass::Unclear),
        (json!({"type": "mangle", "how": "huge"}), true, ErrorClass::Unclear),
        (json!({"type": "answer", "status": 400}), false, ErrorClass::Invalid),
        (json!({"type": "answer", "status": 403}), false, ErrorClass::Quota),
        (json!({"type": "answer", "status": 409}), false, ErrorClass::Conflict),
        (json!({"type": "answer", "status": 401}), false, ErrorClass::Auth),
    ];
    for (number, (fault, exists, class)) in faults.into_iter().enumerate() {
        let name = format!("np-{number}");
        let wanted = request(&cloud, &name).await;
        let before = calls(&simulator, "create-server").await;
        simulator.fault(json!({"call": "create-server", "fault": fault})).await;
        let error = cloud.create_server(&wanted).await.unwrap_err();
        simulator.clear_faults().await;
        assert_eq!(clean(&error), class, "{fault}: {error}");
        // A token that Nova itself refuses is the one thing after which the boot is sent again.
        let sent = calls(&simulator, "create-server").await - before;
        assert_eq!(sent, if class == ErrorClass::Auth { 2 } else { 1 }, "{fault}");
        let mut view = View::new("me", "ns/one");
        view.apply_full(cloud.list_servers(ServerQuery::Full).await.unwrap());
        match view.by_name(&name) {
            ByName::One(server) => assert!(exists && server.ownership == Some(ownership(&name)), "{fault}"),
            other => assert!(!exists && other == ByName::Unknown, "{fault}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn throttling_is_silence_for_all_calls() {
    let (simulator, cloud) = instant().await;
    cloud.check().await.unwrap();
    for after in [json!({"seconds": 2}), json!({"date": 3})] {
        let wanted = request(&cloud, "np-1").await;
        let fault = json!({"type": "answer", "status": 429, "retryAfter": after});
        simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        let last = simulator.state().await["lastCall"].as_u64().unwrap();
        let error = cloud.create_server(&wanted).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Throttled);
        let wait = error.retry_after.unwrap();
        assert!((1..=3).contains(&wait.as_secs()), "{wait:?}");
        let start = std::time::Instant::now();
        cloud.limits().await.unwrap();
        assert!(start.elapsed() + Duration::from_millis(100) >= wait, "{wait:?}: {:?}", start.elapsed());
        let since = simulator.get(&format!("calls?since={last}")).await;
        assert_eq!(since["calls"].as_array().unwrap().len(), 2, "{since}");
        assert_eq!(simulator.state().await["servers"]["existing"], 0);
    }
}

#[tokio::test]
async fn lists_are_whole_or_errors() {
    let (simulator, cloud) = instant().await;
    let put = json!({"name": "foreign", "count": 9});
    simulator.send(reqwest::Method::POST, "servers", Some(put)).await;
    simulator.settings(json!({"pageLimit": 2})).await;
    assert_eq!(full(&cloud).await.unwrap().len(), 9);
    let on_the_way = [
        ("https-links", true),
        ("link-foreign", true),
        ("link-relative", true),
        ("huge", true),
        ("no-version-headers", true),
        ("link-repeated", false),
        ("truncate", false),
        ("cut-body", false),
        ("gzip", false),
        ("html", false),
        ("garbage", false),
    ];
    for (how, whole) in on_the_way {
        simulator.fault(json!({"call": "list-servers", "fault": {"type": "mangle", "how": how}})).await;
        let listed = full(&cloud).await;
        simulator.clear_faults().await;
        match listed {
            Ok(servers) => assert!(whole && servers.len() == 9, "{how}: {}", servers.len()),
            Err(error) => assert!(!whole && clean(&error) == ErrorClass::Unavailable, "{how}: {error}"),
        }
    }
    // A fault on a later page is a fault of the list, and one that passes is none.
    for (times, whole) in [(1, true), (3, false)] {
        let fault = json!({"type": "answer", "status": 500});
        simulator.fault(json!({"call": "list-servers", "skip": 2, "times": times, "fault": fault})).await;
        let listed = full(&cloud).await;
        simulator.clear_faults().await;
        assert_eq!(listed.map(|servers| servers.len()).ok(), whole.then_some(9));
    }
}

#[tokio::test]
async fn a_cloud_of_any_age_is_understood() {
    let (simulator, _) = instant().await;
    for (number, newest) in [1, 30, 47, 52, 68, 69, 96].into_iter().enumerate() {
        simulator.settings(json!({"maxMicroversion": newest})).await;
        let cloud = client(&simulator, simulator.cloud_name());
        let name = format!("np-{number}");
        let id = cloud.create_server(&request(&cloud, &name).await).await.unwrap();
        let servers = full(&cloud).await.unwrap();
        let server = servers.iter().find(|server| server.id == id).unwrap();
        assert_eq!(server.ownership, Some(ownership(&name)), "2.{newest}");
        assert_eq!(server.resources.is_some(), newest >= 47, "2.{newest}");
        let known = simulator.get("servers").await;
        let made = known["servers"].as_array().unwrap().iter().find(|server| server["id"] == id.as_str()).unwrap();
        assert_eq!(made["tags"].as_array().is_some_and(|tags| !tags.is_empty()), newest >= 52, "2.{newest}: {made}");
    }
}

fn image(name: &str) -> NewImage {
    NewImage { name: name.to_owned(), ownership: ownership(name), disk_format: "raw", properties: [].into() }
}

async fn found(cloud: &OpenStack, name: &str) -> Vec<Image> {
    let mut all = cloud.images_of("me").await.unwrap();
    all.retain(|image| image.ownership == Some(ownership(name)));
    all
}

#[tokio::test]
async fn a_snapshot_is_ours_in_a_cloud_of_any_age() {
    let (simulator, cloud) = instant().await;
    simulator.settings(json!({"snapshotTime": "0s"})).await;
    let server = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
    cloud.stop_server(&server).await.unwrap();
    for newest in [1, 44, 45, 96] {
        simulator.settings(json!({"maxMicroversion": newest})).await;
        let (cloud, name) = (client(&simulator, simulator.cloud_name()), format!("image-{newest}"));
        let id = cloud.snapshot_server(&server, &image(&name)).await.unwrap();
        let found = found(&cloud, &name).await;
        assert_eq!((found.len(), found[0].id.as_str()), (1, id.as_str()), "2.{newest}");
    }
}

#[tokio::test]
async fn an_image_whose_answer_got_lost_is_found_and_not_made_twice() {
    let (simulator, cloud) = instant().await;
    simulator.settings(json!({"snapshotTime": "0s"})).await;
    let server = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
    let faults = [
        (json!({"type": "cut", "effect": true}), 1),
        (json!({"type": "answer", "status": 500, "effect": true}), 1),
        (json!({"type": "answer", "status": 504, "body": "html"}), 0),
        (json!({"type": "mangle", "how": "truncate"}), 1),
        (json!({"type": "mangle", "how": "html"}), 1),
    ];
    for (number, (fault, exist)) in faults.into_iter().enumerate() {
        for call in ["create-image", "create-snapshot"] {
            let name = format!("{call}-{number}");
            simulator.fault(json!({"call": call, "fault": fault})).await;
            let before = calls(&simulator, call).await;
            let answer = match call {
                "create-image" => cloud.create_image(&image(&name)).await,
                _ => cloud.snapshot_server(&server, &image(&name)).await,
            };
            simulator.clear_faults().await;
            assert_eq!(clean(&answer.unwrap_err()), ErrorClass::Unclear, "{fault}");
            assert_eq!(calls(&simulator, call).await - before, 1, "{fault}");
            assert_eq!(found(&cloud, &name).await.len(), exist, "{call} {fault}");
        }
    }
}

#[tokio::test]
async fn tokens_end_and_credentials_of_both_kinds_work() {
    let (simulator, cloud) = instant().await;
    let by_credential = client(&simulator, "simulator-application-credential");
    by_credential.check().await.unwrap();
    cloud.check().await.unwrap();
    simulator.send(reqwest::Method::POST, "tokens/revoke", None).await;
    let before = calls(&simulator, "auth").await;
    let all = futures::future::join_all((0..50).map(|_| cloud.limits())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(calls(&simulator, "auth").await - before, 1);
    let id = by_credential.create_server(&request(&by_credential, "np-1").await).await.unwrap();
    assert_eq!(cloud.get_server(&id).await.unwrap().ownership, Some(ownership("np-1")));

    let all = simulator.get("application-credentials").await;
    let credential = all["applicationCredentials"][0]["id"].as_str().unwrap_or_else(|| panic!("{all}")).to_owned();
    let path = format!("application-credentials/{credential}");
    simulator.send(reqwest::Method::DELETE, &path, None).await;
    let before = calls(&simulator, "auth").await;
    for _ in 0..6 {
        assert_eq!(clean(&by_credential.limits().await.unwrap_err()), ErrorClass::Auth);
    }
    assert_eq!(calls(&simulator, "auth").await - before, 3, "then once a minute");
    cloud.limits().await.unwrap();
}

#[tokio::test]
async fn what_is_left_behind_is_found_by_its_server() {
    let (simulator, cloud) = instant().await;
    simulator.fault(json!({"call": "delete-server", "fault": {"type": "leave-ports"}})).await;
    let id = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
    cloud.delete_server(&id).await.unwrap();
    assert_eq!(cloud.get_server(&id).await.unwrap_err().class, ErrorClass::NotFound);
    let put = json!({"tags": ["nodepool_owner=me", "nodepool_record=r-9"]});
    simulator.send(reqwest::Method::POST, "ports", Some(put)).await;
    simulator.send(reqwest::Method::POST, "ports", Some(json!({"tags": ["nodepool_owner=you"]}))).await;
    for ignored in [false, true] {
        if ignored {
            simulator.fault(json!({"call": "list-ports", "fault": {"type": "filters-ignored"}})).await;
        }
        let ours = cloud.ports("me").await.unwrap();
        assert_eq!((ours.len(), ours[0].ownership.as_ref().unwrap().record.as_str()), (1, "r-9"));
        let linked = cloud.ports_of(&[id.clone(), "never-was".into()]).await.unwrap();
        assert_eq!(linked.len(), 1);
        assert!(linked[0].ownership.is_none() && linked[0].attached_to.as_ref() == Some(&id));
    }
    simulator.clear_faults().await;
    for port in cloud.ports_of(&[id]).await.unwrap() {
        cloud.delete_port(&port.id).await.unwrap();
        cloud.delete_port(&port.id).await.unwrap();
    }
    assert_eq!(simulator.state().await["ports"], 2);
}

#[tokio::test]
async fn soft_deleted_servers_are_not_gone_until_forced() {
    let (simulator, cloud) = instant().await;
    simulator.settings(json!({"softDelete": true})).await;
    let id = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
    cloud.delete_server(&id).await.unwrap();
    assert_eq!(cloud.get_server(&id).await.unwrap().status, ServerStatus::SoftDeleted);
    cloud.force_delete_server(&id).await.unwrap();
    eventually(SOON, || async {
        match cloud.get_server(&id).await {
            Err(error) if error.class == ErrorClass::NotFound => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn failed_boots_tell_why() {
    let (simulator, cloud) = instant().await;
    let cases = [
        ("No valid host was found. ", ErrorClass::NoCapacity),
        ("Quota exceeded for cores", ErrorClass::Quota),
        ("Build of instance aborted: disk full", ErrorClass::Invalid),
    ];
    for (message, class) in cases {
        let fault = json!({"type": "build-error", "message": message});
        simulator.fault(json!({"call": "create-server", "times": 1, "fault": fault})).await;
        let id = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
        let server = eventually(SOON, || async {
            let server = cloud.get_server(&id).await.map_err(|error| error.to_string())?;
            if server.status == ServerStatus::Error { Ok(server) } else { Err(format!("{:?}", server.status)) }
        })
        .await;
        let fault = server.fault.unwrap();
        assert_eq!((fault.class, fault.message.as_str()), (class, message.trim()));
    }
}

#[tokio::test]
async fn one_poller_sees_everything_that_happens() {
    let (simulator, cloud) = start(&["--boot-time=300ms", "--delete-time=300ms"]).await;
    let cloud = Arc::new(cloud);
    simulator.send(reqwest::Method::POST, "servers", Some(json!({"name": "foreign", "count": 3}))).await;
    let settings = PollSettings { moving: Duration::from_millis(50), ..PollSettings::default() };
    let (sender, mut updates) = tokio::sync::mpsc::channel(64);
    let view = SharedView::new(View::new("me", "ns/one"));
    let (poller, handle) = Poller::new(cloud.clone(), view.clone(), settings, sender);
    tokio::spawn(poller.run());
    let first = within(SOON, "the first list", updates.recv()).await.unwrap();
    assert!(first.full && first.delta.foreign && first.delta.changed.is_empty(), "{first:?}");
    assert_eq!(view.read().foreign().resources.instances, 3);
    handle.set_moving(true);
    let id = cloud.create_server(&request(&cloud, "np-1").await).await.unwrap();
    let is = |status| {
        let (view, id) = (view.clone(), id.clone());
        move || {
            let seen = view.read().get(&id).map(|server| server.status);
            std::future::ready(if seen == Some(status) { Ok(()) } else { Err(format!("{seen:?}")) })
        }
    };
    eventually(SOON, is(ServerStatus::Active)).await;
    cloud.delete_server(&id).await.unwrap();
    eventually(SOON, || std::future::ready(if view.read().is_gone(&id) { Ok(()) } else { Err("not gone".into()) }))
        .await;
    assert!(view.read().get(&id).is_none());
    // From here on nothing changes, and nothing is said.
    while updates.try_recv().is_ok() {}
    let polls = calls(&simulator, "list-servers").await;
    eventually(SOON, || async {
        let more = calls(&simulator, "list-servers").await - polls;
        if more > 10 { Ok(()) } else { Err(format!("{more} polls")) }
    })
    .await;
    assert!(updates.try_recv().is_err());
    // A cell whose database is down hides servers; nothing is taken for gone.
    let second = cloud.create_server(&request(&cloud, "np-2").await).await.unwrap();
    eventually(SOON, || {
        let seen = view.read().get(&second).is_some();
        std::future::ready(if seen { Ok(()) } else { Err("not seen".into()) })
    })
    .await;
    simulator.fault(json!({"name": "np-2", "fault": {"type": "down-cell", "mode": "unknown"}})).await;
    handle.refresh_full();
    eventually(SOON, || {
        let seen = view.read().get(&second).map(|server| (server.status, server.name.clone()));
        let hidden = seen == Some((ServerStatus::Unknown, "np-2".to_owned()));
        std::future::ready(if hidden { Ok(()) } else { Err(format!("{seen:?}")) })
    })
    .await;
    assert!(!view.read().is_gone(&second) && view.read().seen_in_last_full(&second));
}

#[tokio::test]
async fn ignored_filters_lead_to_full_lists() {
    let (simulator, cloud) = instant().await;
    simulator.send(reqwest::Method::POST, "servers", Some(json!({"name": "old"}))).await;
    simulator.fault(json!({"call": "list-servers", "fault": {"type": "changes-since-ignored"}})).await;
    let taken_at = cloud.list_servers(ServerQuery::Full).await.unwrap().taken_at;
    // A minute on, as if nothing had happened meanwhile.
    let since = taken_at + Duration::from_secs(60);
    let error = cloud.list_servers(ServerQuery::ChangedSince(since)).await.unwrap_err();
    assert_eq!(clean(&error), ErrorClass::Invalid);
    simulator.clear_faults().await;
    let changed = cloud.list_servers(ServerQuery::ChangedSince(since)).await.unwrap();
    assert!(changed.servers.is_empty());
}
