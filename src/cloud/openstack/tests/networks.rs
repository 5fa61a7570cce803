//! Floating IPs and ports: only ours, and never a second one for the same record.

use super::*;
use crate::cloud::{Cloud, ErrorClass};
use std::sync::{Arc, Mutex};

const FIPS: &str = "/network/v2.0/floatingips";
const PORTS: &str = "/network/v2.0/ports";

fn port(id: &str, device: &str, project: &str) -> Value {
    json!({"id": id, "device_id": device, "project_id": project, "tenant_id": project, "tags": [], "description": "",
           "created_at": "2026-11-22T10:00:00Z", "fixed_ips": [{"subnet_id": "s", "ip_address": "10.0.0.5"}]})
}

/// A Neutron that keeps floating IPs; the first `lost` answers to their making get lost.
fn neutron(lost: usize) -> (Fake, Arc<Mutex<Vec<Value>>>) {
    let kept: Arc<Mutex<Vec<Value>>> = Arc::default();
    let all = kept.clone();
    let fake = Fake::start(move |seen| {
        let mut all = all.lock().unwrap();
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/network/v2.0/networks") => {
                Some(Reply::Json(200, json!({"networks": [{"id": "ext-1", "name": "ext"}]})))
            }
            ("GET", PORTS) => {
                let ports =
                    [port("p-1", "s-1", "project-1"), port("p-2", "s-2", "project-1"), port("p-3", "s-1", "other")];
                Some(Reply::Json(200, json!({"ports": ports})))
            }
            ("GET", FIPS) => Some(Reply::Json(200, json!({"floatingips": *all}))),
            ("POST", FIPS) => {
                let mut made = seen.body["floatingip"].clone();
                made["id"] = json!(format!("f-{}", all.len()));
                made["floating_ip_address"] = json!("198.51.100.7");
                made["project_id"] = json!("project-1");
                all.push(made.clone());
                Some(if seen.before < lost { Reply::Cut } else { Reply::Json(201, json!({"floatingip": made})) })
            }
            ("PUT", path) if path.starts_with(FIPS) => {
                all[0]["port_id"] = seen.body["floatingip"]["port_id"].clone();
                Some(Reply::Json(200, json!({"floatingip": all[0]})))
            }
            _ => None,
        }
    });
    (fake, kept)
}

#[tokio::test]
async fn a_floating_ip_whose_answer_was_lost_is_found_again() {
    let (fake, kept) = neutron(1);
    let cloud = cloud(&fake);
    let error = cloud.attach_floating_ip("ext", "s-1", &ownership()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unclear);
    let address = cloud.attach_floating_ip("ext", "s-1", &ownership()).await.unwrap();
    assert_eq!(address.to_string(), "198.51.100.7");
    assert_eq!((fake.count("POST", FIPS), kept.lock().unwrap().len()), (1, 1));
    let made = kept.lock().unwrap()[0].clone();
    assert_eq!(made["description"], "nodepool owner=me record=record-1 provider=ns/one");
    assert_eq!((&made["port_id"], &made["floating_network_id"]), (&json!("p-1"), &json!("ext-1")));
    let listed = cloud.floating_ips().await.unwrap();
    assert_eq!(listed[0].ownership.as_ref(), Some(&ownership()));
    assert_eq!(listed[0].attached_to.as_deref(), Some("p-1"));
}

#[tokio::test]
async fn one_that_is_free_is_attached_and_one_elsewhere_is_left_alone() {
    let (fake, kept) = neutron(0);
    let cloud = cloud(&fake);
    cloud.attach_floating_ip("ext", "s-1", &ownership()).await.unwrap();
    kept.lock().unwrap()[0]["port_id"] = Value::Null;
    cloud.attach_floating_ip("ext", "s-1", &ownership()).await.unwrap();
    assert_eq!(kept.lock().unwrap()[0]["port_id"], "p-1");
    let error = cloud.attach_floating_ip("ext", "s-2", &ownership()).await.unwrap_err();
    assert_eq!((error.class, fake.count("POST", FIPS)), (ErrorClass::Conflict, 1));
    let error = cloud.attach_floating_ip("ext", "s-9", &ownership()).await.unwrap_err();
    assert!(error.class == ErrorClass::Conflict && error.message.contains("no port"), "{error}");
}

#[tokio::test]
async fn filters_that_are_ignored_show_nothing_of_others() {
    let mut tagged = port("t-1", "", "project-1");
    tagged["tags"] = json!(["nodepool_owner=me", "nodepool_record=r"]);
    let mut theirs = tagged.clone();
    theirs["tags"] = json!(["nodepool_owner=you"]);
    let fake = Fake::start(move |seen| {
        let ports = [tagged.clone(), theirs.clone(), port("p-1", "s-1", "project-1"), port("p-2", "s-1", "other")];
        seen.is("GET", PORTS).then(|| Reply::Json(200, json!({"ports": ports})))
    });
    let cloud = cloud(&fake);
    let ours: Vec<String> = cloud.ports("me").await.unwrap().into_iter().map(|part| part.id).collect();
    assert_eq!(ours, ["t-1"]);
    let linked = cloud.ports_of(&["s-1".to_owned(), "s-9".to_owned()]).await.unwrap();
    assert_eq!(linked.iter().map(|part| part.id.as_str()).collect::<Vec<_>>(), ["p-1"]);
    assert_eq!(fake.seen().pop().unwrap().query, "device_id=s-1&device_id=s-9&project_id=project-1");
    assert_eq!(cloud.ports_of(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_gone_already_is_deleted() {
    let gone = |kind: &str| json!({"NeutronError": {"type": kind, "message": "x could not be found.", "detail": ""}});
    let fake = Fake::start(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("DELETE", "/network/v2.0/ports/p-1") => Some(Reply::Json(404, gone("PortNotFound"))),
        ("DELETE", "/network/v2.0/ports/p-2") => Some(Reply::Text(404, "<html>nothing here</html>".into())),
        ("DELETE", _) => Some(Reply::Json(404, gone("FloatingIPNotFound"))),
        _ => None,
    });
    let cloud = cloud(&fake);
    cloud.delete_port("p-1").await.unwrap();
    cloud.delete_floating_ip("f-1").await.unwrap();
    assert_eq!(cloud.delete_port("p-2").await.unwrap_err().class, ErrorClass::Unclear);
}
