//! Images are made once, told by their marks and deleted; the marks of others are others'.

use super::*;
use crate::cloud::{Cloud, ErrorClass, Image, ImageStatus};

const IMAGES: &str = "/image/v2/images";
const ONE: &str = "/image/v2/images/image-1";

fn answering(method: &'static str, path: &'static str, reply: Reply) -> Fake {
    Fake::start(move |seen| seen.is(method, path).then(|| reply.clone()))
}

#[tokio::test]
async fn what_is_asked_for_a_new_image() {
    let fake = answering("POST", IMAGES, Reply::Json(201, glance_image("image-1", json!({}))));
    let wanted = NewImage {
        properties: [("os_distro", "debian"), ("visibility", "public"), ("nodepool_owner", "you")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..new_image()
    };
    assert_eq!(cloud(&fake).create_image(&wanted).await.unwrap(), "image-1");
    let sent = fake.seen().pop().unwrap();
    let expected = json!({
        "name": "debian-1", "visibility": "private", "container_format": "bare", "disk_format": "qcow2",
        "os_distro": "debian", "nodepool_owner": "me", "nodepool_record": "record-1", "nodepool_provider": "ns/one",
    });
    assert_eq!(sent.body, expected);
    assert_eq!(sent.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_lost_answer_to_a_new_image_is_unclear_and_it_is_asked_for_once() {
    let garbage = [Reply::Json(201, json!({"name": "x"})), Reply::Json(201, json!({"id": "../../x"}))];
    for loss in losses().into_iter().chain(garbage) {
        let fake = answering("POST", IMAGES, loss.clone());
        let error = impatient(&fake).create_image(&new_image()).await.unwrap_err();
        assert_eq!((error.class, error.call), (ErrorClass::Unclear, "image create-image"), "{loss:?}: {error}");
        assert_eq!(fake.count("POST", IMAGES), 1, "{loss:?}");
        assert_clean(&error);
    }
}

#[tokio::test]
async fn a_refused_image_is_a_refusal_and_asked_for_once() {
    let cases = [
        (400, "Provided object does not match schema 'image'", ErrorClass::Invalid),
        (403, "You are not authorized to complete add_image action.", ErrorClass::Auth),
        (413, "Project p is over a limit for [Resource image_count_total is over limit]", ErrorClass::Quota),
    ];
    for (status, message, class) in cases {
        for reply in glance_faults(status, message) {
            let fake = answering("POST", IMAGES, reply);
            let error = cloud(&fake).create_image(&new_image()).await.unwrap_err();
            assert_eq!((error.class, error.message.as_str()), (class, message));
            assert_eq!(fake.count("POST", IMAGES), 1);
        }
    }
}

#[tokio::test]
async fn a_token_that_glance_refuses_is_renewed_and_the_image_asked_for_again() {
    for refusal in glance_faults(401, "This server could not verify that you are authorized") {
        let fake = Fake::start(move |seen| match seen.before {
            _ if !seen.is("POST", IMAGES) => None,
            0 => Some(refusal.clone()),
            _ => Some(Reply::Json(201, glance_image("image-1", json!({})))),
        });
        assert_eq!(cloud(&fake).create_image(&new_image()).await.unwrap(), "image-1");
        let tokens: Vec<_> = fake.seen().into_iter().filter(|seen| seen.is("POST", IMAGES)).collect();
        assert_eq!(tokens.len(), 2);
        assert_ne!(tokens[0].header("x-auth-token"), tokens[1].header("x-auth-token"));
    }
    let fake = answering("POST", IMAGES, Reply::Text(401, "<html>who are you?</html>".into()));
    let error = cloud(&fake).create_image(&new_image()).await.unwrap_err();
    assert_eq!((error.class, fake.count("POST", IMAGES)), (ErrorClass::Auth, 1), "no Glance wrote it");
}

async fn read(rest: Value) -> Image {
    let fake = answering("GET", ONE, Reply::Json(200, glance_image("image-1", rest)));
    cloud(&fake).get_image("image-1").await.unwrap()
}

#[tokio::test]
async fn an_image_is_read() {
    let image = read(json!({"status": "active", "size": 5_000_000_000_u64, "protected": true})).await;
    assert_eq!((image.id.as_str(), image.name.as_str()), ("image-1", "debian-1"));
    assert_eq!((image.size, image.protected, image.hidden), (Some(5_000_000_000), true, false));
    assert!(image.bootable() && image.ownership.is_none());
    let hidden = read(json!({"status": "active", "os_hidden": true})).await;
    assert!(hidden.hidden && !hidden.bootable());
    let cases = [
        ("queued", ImageStatus::Queued),
        ("saving", ImageStatus::Saving),
        ("uploading", ImageStatus::Saving),
        ("importing", ImageStatus::Saving),
        ("some_new_word", ImageStatus::Saving),
        ("active", ImageStatus::Active),
        ("deactivated", ImageStatus::Deactivated),
        ("killed", ImageStatus::Gone),
        ("pending_delete", ImageStatus::Gone),
        ("deleted", ImageStatus::Gone),
    ];
    for (word, expected) in cases {
        let image = read(json!({"status": word})).await;
        assert_eq!((image.status, image.bootable()), (expected, word == "active"), "{word}");
    }
}

/// Nova gives a snapshot the properties of the image that its server was booted from.
#[tokio::test]
async fn a_snapshot_that_inherited_our_marks_is_not_ours() {
    let with = |extra: Value| {
        let mut rest = marks("record-1");
        rest.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(rest)
    };
    assert_eq!(with(json!({})).await.ownership, Some(ownership()));
    assert_eq!(with(json!({"instance_uuid": "s-2"})).await.ownership, None, "of a server of an image we sent");
    let inherited = json!({"instance_uuid": "s-2", "nodepool_server": "s-1"});
    assert_eq!(with(inherited).await.ownership, None, "of a server of our snapshot");
    let own = json!({"instance_uuid": "s-1", "nodepool_server": "s-1"});
    assert_eq!(with(own).await.ownership, Some(ownership()));
}

#[tokio::test]
async fn an_image_that_is_gone_is_proven_gone() {
    for gone in glance_faults(404, "No image found with ID image-1") {
        let fake = answering("GET", ONE, gone);
        assert_eq!(cloud(&fake).get_image("image-1").await.unwrap_err().class, ErrorClass::NotFound);
    }
    let fake = Fake::start(|_| None);
    let error = cloud(&fake).get_image("image-1").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable, "a proxy's 404 is not Glance's");
    assert_eq!(cloud(&fake).get_image("a/b").await.unwrap_err().class, ErrorClass::Invalid);
}

/// Three of ours on two pages and among the hidden, and others' that no filter kept back.
fn crowded(seen: &Seen) -> Option<Reply> {
    let ours = |id: &str, rest: Value| {
        let mut image = glance_image(id, marks(id));
        image.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        image
    };
    if !seen.is("GET", IMAGES) {
        return None;
    }
    let page = match (seen.query.contains("os_hidden=true"), seen.query.contains("marker=")) {
        (false, false) => json!({"images": [
            ours("b", json!({"status": "killed"})),
            ours("theirs", json!({"nodepool_owner": "me-too"})),
            ours("shared", json!({"owner": "project-2"})),
            glance_image("unmarked", json!({})),
        ], "next": "/v2/images?marker=unmarked"}),
        (false, true) => json!({"images": [ours("c", json!({"owner": null}))]}),
        (true, _) => json!({"images": [ours("a", json!({"os_hidden": true})), ours("c", json!({"os_hidden": true}))]}),
    };
    Some(Reply::Json(200, page))
}

#[tokio::test]
async fn our_images_are_found_in_any_state_on_all_pages_and_nobody_elses() {
    let fake = Fake::start(crowded);
    let found = cloud(&fake).images_of("me").await.unwrap();
    let ids: Vec<&str> = found.iter().map(|image| image.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"], "each once");
    assert!(found.iter().all(|image| image.ownership.as_ref().unwrap().record == image.id));
    let queries: Vec<String> =
        fake.seen().into_iter().filter(|seen| seen.is("GET", IMAGES)).map(|seen| seen.query).collect();
    assert_eq!(
        queries,
        [
            "nodepool_owner=me&limit=1000",
            "nodepool_owner=me&marker=unmarked",
            "nodepool_owner=me&os_hidden=true&limit=1000"
        ]
    );
}

#[tokio::test]
async fn a_list_without_the_hidden_is_no_list() {
    let fake = Fake::start(|seen| match seen.query.contains("os_hidden") {
        true => Some(Reply::Text(500, String::new())),
        false => crowded(seen),
    });
    assert_eq!(cloud(&fake).images_of("me").await.unwrap_err().class, ErrorClass::Unavailable);
}

#[tokio::test]
async fn an_image_is_deleted_and_what_keeps_it_is_told() {
    let fake = Fake::start(|_| None);
    cloud(&fake).delete_image("image-1").await.unwrap();
    assert_eq!(fake.count("DELETE", ONE), 1);
    let cases = [
        (404, "Failed to find image image-1 to delete", ErrorClass::NotFound),
        (409, "Image image-1 could not be deleted because it is in use: rbd", ErrorClass::Conflict),
        (403, "Image image-1 is protected and cannot be deleted.", ErrorClass::Invalid),
        (403, "You are not authorized to complete delete_image action.", ErrorClass::Auth),
    ];
    for (status, message, class) in cases {
        for reply in glance_faults(status, message) {
            let fake = answering("DELETE", ONE, reply);
            let error = cloud(&fake).delete_image("image-1").await.unwrap_err();
            assert_eq!((error.class, error.message.as_str()), (class, message));
        }
    }
    for loss in [Reply::Text(404, "<html>nothing here</html>".into()), Reply::Text(403, String::new()), Reply::Stall] {
        let fake = answering("DELETE", ONE, loss);
        assert_eq!(impatient(&fake).delete_image("image-1").await.unwrap_err().class, ErrorClass::Unclear);
    }
}
