//! A snapshot is asked for once, in the words of any Nova; a stopped server is one that was stopped.

use super::*;
use crate::cloud::{Cloud, ErrorClass};

const ACTION: &str = "/compute/v2.1/servers/s-1/action";

/// A Nova that speaks up to this minor version, and answers any action so.
fn nova(newest: u32, reply: Reply) -> Fake {
    Fake::start(move |seen| match seen.path.as_str() {
        "/compute/v2.1/" => {
            let version = json!({"id": "v2.1", "version": format!("2.{newest}"), "min_version": "2.1"});
            Some(Reply::Json(200, json!({"version": version})))
        }
        ACTION => Some(reply.clone()),
        _ => None,
    })
}

fn located(address: &str) -> Reply {
    Reply::With(202, Value::Null, vec![("Location", address.to_owned())])
}

#[tokio::test]
async fn both_ways_to_tell_the_image_are_understood() {
    let told = Reply::Json(202, json!({"image_id": "image-1"}));
    let cases = [
        (96, told, Some("compute 2.45")),
        (44, located("http://elsewhere/images/image-1"), None),
        (1, located("/image/v2/images/image-1"), None),
    ];
    for (newest, reply, version) in cases {
        let fake = nova(newest, reply);
        assert_eq!(cloud(&fake).snapshot_server("s-1", &new_image()).await.unwrap(), "image-1", "2.{newest}");
        let sent = fake.seen().pop().unwrap();
        assert_eq!(sent.header("openstack-api-version"), version, "the lowest that serves");
        let metadata = json!({
            "os_distro": "debian", "nodepool_owner": "me", "nodepool_record": "record-1",
            "nodepool_provider": "ns/one", "nodepool_server": "s-1",
        });
        assert_eq!(sent.body, json!({"createImage": {"name": "debian-1", "metadata": metadata}}));
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_snapshot_is_unclear_and_it_is_asked_for_once() {
    let garbage = [
        Reply::Json(202, json!({"image_id": "../x"})),
        Reply::Json(202, json!({})),
        located("http://elsewhere/"),
        located("http://elsewhere/images/a%20b"),
    ];
    for loss in losses().into_iter().chain(garbage) {
        let fake = nova(96, loss.clone());
        let error = impatient(&fake).snapshot_server("s-1", &new_image()).await.unwrap_err();
        assert_eq!((error.class, error.call), (ErrorClass::Unclear, "compute snapshot-server"), "{loss:?}: {error}");
        assert_eq!(fake.count("POST", ACTION), 1, "{loss:?}");
        assert_clean(&error);
    }
}

#[tokio::test]
async fn a_refused_snapshot_is_a_refusal_and_asked_for_once() {
    let busy = "Cannot 'createImage' instance s-1 while it is in task_state image_snapshot";
    let cases = [
        (nova_fault(404, "itemNotFound", "Instance s-1 could not be found."), ErrorClass::NotFound),
        (nova_fault(409, "conflictingRequest", busy), ErrorClass::Conflict),
        (nova_fault(400, "badRequest", "Invalid input for field/attribute createImage."), ErrorClass::Invalid),
        (nova_fault(403, "forbidden", "Quota exceeded for images"), ErrorClass::Quota),
    ];
    for (reply, class) in cases {
        let fake = nova(96, reply.clone());
        let error = cloud(&fake).snapshot_server("s-1", &new_image()).await.unwrap_err();
        assert_eq!((error.class, fake.count("POST", ACTION)), (class, 1), "{reply:?}");
    }
}

#[tokio::test]
async fn a_server_is_stopped_once_however_often_it_is_asked_for() {
    let conflict =
        |what: &str| nova_fault(409, "conflictingRequest", &format!("Cannot 'stop' instance s-1 while {what}"));
    for reply in [
        Reply::Text(202, String::new()),
        conflict("it is in vm_state stopped"),
        conflict("it is in task_state powering-off"),
    ] {
        let fake = nova(96, reply);
        cloud(&fake).stop_server("s-1").await.unwrap();
        let sent = fake.seen().pop().unwrap();
        assert_eq!(sent.body, json!({"os-stop": null}));
        assert_eq!(sent.header("openstack-api-version"), None);
    }
    let cases = [
        (conflict("it is in task_state image_snapshot"), ErrorClass::Conflict),
        (nova_fault(409, "conflictingRequest", "Instance s-1 is locked"), ErrorClass::Conflict),
        (nova_fault(404, "itemNotFound", "Instance s-1 could not be found."), ErrorClass::NotFound),
        (Reply::Stall, ErrorClass::Unclear),
    ];
    for (reply, class) in cases {
        let fake = nova(96, reply.clone());
        assert_eq!(impatient(&fake).stop_server("s-1").await.unwrap_err().class, class, "{reply:?}");
    }
    assert_eq!(cloud(&Fake::start(|_| None)).stop_server("a/b").await.unwrap_err().class, ErrorClass::Invalid);
}
