//! The port before a boot: made once with its mark, named by the boot, and closed only while no server has it.

use std::sync::{Arc, Mutex};

use super::*;
use crate::cloud::{Cloud, ErrorClass, Passage};

const PORTS: &str = "/network/v2.0/ports";
const PORT: &str = "/network/v2.0/ports/port-1";
const NETWORK: &str = "b6f3c6a4-5a57-4d6f-9c0b-1f2e3d4c5b6a";
const MARK: &str = "nodepool owner=me record=record-1 provider=ns/one";

fn fenced() -> BootRequest {
    BootRequest { networks: vec![NETWORK.into(), "net".into()], ..boot("np-1") }
}

/// A port as Neutron shows it; what is named in `changed` is different.
fn port(changed: Value) -> Value {
    let mut port = json!({"id": "port-1", "name": "np-1", "project_id": "project-1", "description": MARK, "tags": [],
        "device_id": "", "device_owner": "", "revision_number": 1, "created_at": "2026-11-22T10:00:00Z"});
    for (key, value) in changed.as_object().unwrap() {
        port[key] = value.clone();
    }
    port
}

fn neutron_fault(status: u16, kind: &str) -> Reply {
    Reply::Json(status, json!({"NeutronError": {"type": kind, "message": "x could not be found.", "detail": ""}}))
}

/// A Neutron with these ports that changes one only for its revision. Before the first change `meanwhile` happens to it.
fn neutron(ports: Vec<Value>, meanwhile: Option<Value>) -> (Fake, Arc<Mutex<Vec<Value>>>) {
    let held = Arc::new(Mutex::new(ports));
    let all = Arc::clone(&held);
    let fake = Fake::start(move |seen| {
        let mut all = all.lock().unwrap();
        if seen.is("GET", PORTS) {
            return Some(Reply::Json(200, json!({"ports": *all})));
        }
        if !seen.is("PUT", PORT) {
            return None;
        }
        if let Some(changed) = meanwhile.as_ref().filter(|_| seen.before == 0) {
            all[0] = changed.clone();
        }
        let revision = format!("revision_number={}", all[0]["revision_number"]);
        if seen.header("if-match") != Some(revision.as_str()) {
            return Some(neutron_fault(412, "RevisionNumberConstraintFailed"));
        }
        all[0]["device_id"] = seen.body["port"]["device_id"].clone();
        all[0]["revision_number"] = json!(all[0]["revision_number"].as_u64().unwrap() + 1);
        Some(Reply::Json(200, json!({"port": all[0]})))
    });
    (fake, held)
}

async fn closed(fake: &Fake) -> Result<Passage, CloudError> {
    cloud(fake).close_port("np-1", &ownership()).await
}

#[tokio::test]
async fn a_port_is_made_marked_and_named_by_the_boot() {
    let fake = Fake::start(|seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/network/v2.0/networks") => {
            Some(Reply::Json(200, json!({"networks": [{"id": "n-2", "name": "net"}]})))
        }
        ("GET", "/network/v2.0/security-groups") => {
            Some(Reply::Json(200, json!({"security_groups": [{"id": "g-1", "name": "ssh"}]})))
        }
        ("POST", PORTS) => Some(Reply::Json(201, json!({"port": {"id": "port-1"}}))),
        _ => None,
    });
    let cloud = cloud(&fake);
    let groups = vec!["ssh".to_owned(), "0c26e0b6-8a5b-4ad5-a8a5-2b8ad3a6d2f1".to_owned()];
    let mut request = BootRequest { security_groups: groups.clone(), ..fenced() };
    for _ in 0..2 {
        request.port = Some(cloud.create_port(&request).await.unwrap());
        cloud.create_server(&request).await.unwrap();
    }
    let sent = |method: &str, path: &str| fake.seen().into_iter().find(|seen| seen.is(method, path)).unwrap();
    assert_eq!(
        sent("POST", PORTS).body["port"],
        json!({"network_id": NETWORK, "name": "np-1", "description": MARK, "security_groups": ["g-1", groups[1]]})
    );
    assert_eq!(
        sent("POST", "/compute/v2.1/servers").body["server"]["networks"],
        json!([{"port": "port-1"}, {"uuid": "n-2"}])
    );
    assert_eq!(sent("GET", "/network/v2.0/security-groups").query, "project_id=project-1&name=ssh");
    assert_eq!(fake.count("GET", "/network/v2.0/security-groups"), 1, "names are remembered");
}

#[tokio::test]
async fn a_port_is_asked_for_once_and_refused_in_neutrons_words() {
    for (reply, class) in [
        (Reply::Cut, ErrorClass::Unclear),
        (Reply::Json(201, json!({"port": {}})), ErrorClass::Unclear),
        (Reply::Text(502, "<html>bad gateway</html>".into()), ErrorClass::Unclear),
        (neutron_fault(409, "OverQuota"), ErrorClass::Quota),
        (neutron_fault(409, "IpAddressGenerationFailure"), ErrorClass::NoCapacity),
        (neutron_fault(404, "NetworkNotFound"), ErrorClass::Invalid),
    ] {
        let fake = Fake::start(move |seen| seen.is("POST", PORTS).then(|| reply.clone()));
        let error = cloud(&fake).create_port(&fenced()).await.unwrap_err();
        assert_eq!((error.class, fake.count("POST", PORTS)), (class, 1), "{error}");
        assert_clean(&error);
    }
    let fake = Fake::start(|_| None);
    let late = BootRequest { may_still: Arc::new(|| false), ..fenced() };
    assert_eq!(cloud(&fake).create_port(&late).await.unwrap_err().class, ErrorClass::Unavailable);
    assert_eq!(cloud(&fake).create_port(&boot("nowhere")).await.unwrap_err().class, ErrorClass::Invalid);
    assert_eq!(fake.count("POST", PORTS), 0);
}

#[tokio::test]
async fn a_security_group_that_is_not_one_is_told() {
    for (found, told) in [(0, "no security group named ssh"), (2, "several security groups named ssh")] {
        let groups: Vec<Value> = (0..found).map(|number| json!({"id": number.to_string(), "name": "ssh"})).collect();
        let fake = Fake::start(move |seen| {
            seen.is("GET", "/network/v2.0/security-groups")
                .then(|| Reply::Json(200, json!({"security_groups": groups})))
        });
        let request = BootRequest { security_groups: vec!["ssh".into()], ..fenced() };
        let error = cloud(&fake).create_port(&request).await.unwrap_err();
        assert!(error.class == ErrorClass::Invalid && error.message.contains(told), "{error}");
        assert_eq!(fake.count("POST", PORTS), 0);
    }
}

#[tokio::test]
async fn a_port_is_closed_for_the_revision_that_was_read() {
    let (fake, held) = neutron(vec![port(json!({"revision_number": 7}))], None);
    assert_eq!(closed(&fake).await.unwrap(), Passage::Closed);
    assert_eq!((&held.lock().unwrap()[0]["device_id"], fake.count("PUT", PORT)), (&json!("nodepool-fenced"), 1));
    assert_eq!(fake.seen().iter().find(|seen| seen.is("GET", PORTS)).unwrap().query, "name=np-1&project_id=project-1");
    assert_eq!(closed(&fake).await.unwrap(), Passage::Closed);
    assert_eq!(fake.count("PUT", PORT), 1, "closed before");
}

#[tokio::test]
async fn a_server_that_takes_the_port_first_is_told() {
    let taken = port(json!({"device_id": "s-1", "device_owner": "compute:az1", "revision_number": 2}));
    for meanwhile in [None, Some(taken.clone())] {
        let before = if meanwhile.is_some() { port(json!({})) } else { taken.clone() };
        let (fake, held) = neutron(vec![before], meanwhile);
        assert_eq!(closed(&fake).await.unwrap(), Passage::Taken("s-1".into()));
        assert_eq!(held.lock().unwrap()[0]["device_id"], "s-1");
    }
}

#[tokio::test]
async fn a_port_that_changed_but_is_free_is_closed_after_all() {
    let (fake, held) = neutron(vec![port(json!({}))], Some(port(json!({"revision_number": 2}))));
    assert_eq!(closed(&fake).await.unwrap(), Passage::Closed);
    assert_eq!((&held.lock().unwrap()[0]["device_id"], fake.count("PUT", PORT)), (&json!("nodepool-fenced"), 2));
}

#[tokio::test]
async fn what_is_no_port_of_the_record_is_not_touched() {
    let other = port(json!({"description": MARK.replace("record-1", "record-2")}));
    let theirs = port(json!({"description": MARK.replace("owner=me", "owner=you")}));
    let elsewhere = port(json!({"project_id": "other"}));
    let (fake, _) = neutron(vec![other, theirs, elsewhere, port(json!({"description": "", "tags": []}))], None);
    assert_eq!(closed(&fake).await.unwrap(), Passage::Absent);
    assert_eq!((fake.count("PUT", PORT), cloud(&fake).ports_made("np-1", &ownership()).await.unwrap().len()), (0, 0));
    // Nova refuses a boot on the port of anything, and what has it keeps it.
    let (fake, held) = neutron(vec![port(json!({"device_id": "router-1", "device_owner": "network:router"}))], None);
    assert_eq!(closed(&fake).await.unwrap(), Passage::Closed);
    assert_eq!(held.lock().unwrap()[0]["device_id"], "router-1");
}

#[tokio::test]
async fn without_revisions_nothing_is_closed() {
    let (fake, _) = neutron(vec![port(json!({"revision_number": null}))], None);
    let error = closed(&fake).await.unwrap_err();
    assert_eq!((error.class, fake.count("PUT", PORT)), (ErrorClass::Invalid, 0), "{error}");
}

#[tokio::test]
async fn our_ports_are_found_by_their_mark_and_a_closed_one_is_attached_to_nothing() {
    let closed = port(json!({"device_id": "nodepool-fenced"}));
    let taken = port(json!({"id": "port-2", "device_id": "s-1", "device_owner": "compute:az1"}));
    let theirs = port(json!({"id": "port-3", "description": "nodepool owner=you record=record-1 provider=ns/one"}));
    let (fake, _) = neutron(vec![closed, taken, theirs], None);
    let found = cloud(&fake).ports("me").await.unwrap();
    let shown: Vec<_> = found.iter().map(|part| (part.id.as_str(), part.attached_to.as_deref())).collect();
    assert_eq!(shown, [("port-1", None), ("port-2", Some("s-1"))]);
    assert_eq!(found[0].ownership, Some(ownership()));
}

/// A Neutron that keeps a project from deleting what Nova owns, beside a Nova where this server is, or is not.
fn protected(server_lives: bool) -> (Fake, Arc<Mutex<Value>>) {
    let held = Arc::new(Mutex::new(port(json!({"device_id": "s-1", "device_owner": "compute:nova"}))));
    let kept = Arc::clone(&held);
    let fake = Fake::start(move |seen| {
        let mut port = kept.lock().unwrap();
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", PORTS) => Some(Reply::Json(200, json!({"ports": [*port]}))),
            ("DELETE", PORT) if port["device_owner"] != "" => Some(neutron_fault(403, "PolicyNotAuthorized")),
            ("PUT", PORT) if seen.header("if-match") == Some("revision_number=1") => {
                port["device_owner"] = seen.body["port"]["device_owner"].clone();
                Some(Reply::Json(200, json!({"port": *port})))
            }
            ("GET", "/compute/v2.1/servers/s-1") if server_lives => {
                Some(Reply::Json(200, json!({"server": {"id": "s-1", "name": "other", "status": "ACTIVE"}})))
            }
            ("GET", "/compute/v2.1/servers/s-1") => {
                let fault = json!({"code": 404, "message": "Instance s-1 could not be found."});
                Some(Reply::Json(404, json!({"itemNotFound": fault})))
            }
            _ => None,
        }
    });
    (fake, held)
}

#[tokio::test]
async fn the_port_of_a_server_that_lives_stays() {
    let (fake, held) = protected(true);
    let error = cloud(&fake).delete_port("port-1").await.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (ErrorClass::Conflict, "a server has this port"));
    assert_eq!((fake.count("PUT", PORT), &held.lock().unwrap()["device_owner"]), (0, &json!("compute:nova")));
}

#[tokio::test]
async fn the_port_of_a_server_that_is_gone_is_disowned_and_deleted() {
    let (fake, held) = protected(false);
    cloud(&fake).delete_port("port-1").await.unwrap();
    assert_eq!((fake.count("DELETE", PORT), fake.count("PUT", PORT)), (2, 1));
    assert_eq!(held.lock().unwrap()["device_owner"], "");
}
