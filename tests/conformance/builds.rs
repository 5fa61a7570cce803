//! The operator's own client over each cloud, as it makes images: what it asks is understood, and what it reads is so.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use nodepool_operator::cloud::openstack::{OpenStack, Options};
use nodepool_operator::cloud::{
    Cloud, ErrorClass, Image, ImageBytes, ImageStatus, NewImage, Ownership, ServerStatus, key_pair_name,
    key_pair_record,
};
use serde_json::json;
use tokio::sync::mpsc;

use super::client::{OWNER, boot, class, client, open, options, ownership, request, status};
use super::side::{Compute, Image as Glance, NOBODY, PATIENCE, Side};
use super::support::eventually;
use super::things::PUBLIC_KEY;

fn new_image(name: &str, ownership: Ownership) -> NewImage {
    let properties = [("os_distro".to_owned(), "debian".to_owned())].into();
    NewImage { name: name.to_owned(), ownership, disk_format: "raw", properties }
}

/// The id of an image that waits for its bytes.
async fn made(side: &Side, cloud: &OpenStack, image: &NewImage) -> String {
    let id = cloud.create_image(image).await.unwrap();
    side.later(Glance, format!("/images/{id}"));
    id
}

fn bytes(pieces: usize) -> ImageBytes {
    Box::pin(stream::iter((0..pieces).map(|_| Ok(Bytes::from_static(&[7; 10_000])))))
}

/// Bytes that come when they are told to.
fn told_bytes() -> (mpsc::Sender<std::io::Result<Bytes>>, ImageBytes) {
    let (sender, receiver) = mpsc::channel(1);
    let bytes = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (sender, Box::pin(bytes))
}

async fn becomes(cloud: &OpenStack, id: &str, wanted: ImageStatus) -> Image {
    eventually(PATIENCE, || async {
        let image = cloud.get_image(id).await.map_err(|error| error.to_string())?;
        if image.status == wanted {
            return Ok(image);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(format!("{image:?}"))
    })
    .await
}

async fn an_image_that_is_made_and_sent_is_active(side: &Side) {
    let (cloud, name) = (client(side), side.name("made"));
    let id = made(side, &cloud, &new_image(&name, ownership(&name))).await;
    let queued = cloud.get_image(&id).await.unwrap();
    assert_eq!((queued.status, queued.size, queued.bootable()), (ImageStatus::Queued, None, false));
    assert_eq!((queued.name.as_str(), queued.ownership.as_ref()), (name.as_str(), Some(&ownership(&name))));
    cloud.upload_image(&id, bytes(300)).await.unwrap();
    let active = cloud.get_image(&id).await.unwrap();
    assert_eq!((active.status, active.size, active.bootable()), (ImageStatus::Active, Some(3_000_000), true));
    let shown = side.get(Glance, &format!("/images/{id}")).await.expect(200).json();
    assert_eq!((&shown["visibility"], &shown["container_format"]), (&json!("private"), &json!("bare")));
    assert_eq!((&shown["disk_format"], &shown["os_distro"]), (&json!("raw"), &json!("debian")));
    let off = jiff::Timestamp::now().as_second() - active.created.as_second();
    assert!(off.abs() < 600 && !active.protected && !active.hidden, "{active:?}");
}

async fn while_its_bytes_come_an_image_is_saving_and_takes_no_others(side: &Side) {
    let (cloud, name) = (client(side), side.name("saving"));
    let id = made(side, &cloud, &new_image(&name, ownership(&name))).await;
    let (sender, told) = told_bytes();
    let upload = cloud.upload_image(&id, told);
    let meanwhile = async {
        sender.send(Ok(Bytes::from(vec![7; 1 << 20]))).await.unwrap();
        becomes(&cloud, &id, ImageStatus::Saving).await;
        assert_eq!(class(cloud.upload_image(&id, bytes(1)).await), ErrorClass::Conflict);
        side.upload(&id, b"abc".to_vec()).await.expect(409);
        sender.send(Ok(Bytes::from(vec![7; 1 << 20]))).await.unwrap();
        drop(sender);
    };
    let (uploaded, ()) = tokio::join!(upload, meanwhile);
    uploaded.unwrap();
    assert_eq!(becomes(&cloud, &id, ImageStatus::Active).await.size, Some(2 << 20));
    assert_eq!(class(cloud.upload_image(&id, bytes(1)).await), ErrorClass::Conflict);
}

async fn bytes_that_break_off_make_no_image(side: &Side) {
    let (cloud, name) = (client(side), side.name("broken"));
    let id = made(side, &cloud, &new_image(&name, ownership(&name))).await;
    let broken = vec![Ok(Bytes::from(vec![7; 4 << 20])), Err(std::io::Error::other("canary-user-data"))];
    assert_eq!(class(cloud.upload_image(&id, Box::pin(stream::iter(broken))).await), ErrorClass::Unclear);
    becomes(&cloud, &id, ImageStatus::Queued).await;
    cloud.upload_image(&id, bytes(1)).await.unwrap();
    assert_eq!(becomes(&cloud, &id, ImageStatus::Active).await.size, Some(10_000));
}

async fn bytes_that_are_not_what_they_say_are_refused(side: &Side) {
    let (cloud, name) = (client(side), side.name("lie"));
    let wanted = NewImage { disk_format: "qcow2", ..new_image(&name, ownership(&name)) };
    let id = made(side, &cloud, &wanted).await;
    let error = cloud.upload_image(&id, bytes(110)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
    assert!(error.message.contains("Image disk_format qcow2 does not match"), "{error}");
    assert_eq!(cloud.get_image(&id).await.unwrap().status, ImageStatus::Queued);
}

async fn an_image_of_nonsense_is_invalid(side: &Side) {
    let wanted = NewImage { disk_format: "floppy", ..new_image(&side.name("bad"), ownership("r")) };
    assert_eq!(class(client(side).create_image(&wanted).await), ErrorClass::Invalid);
    let reserved = [("status".to_owned(), "active".to_owned())].into();
    let wanted = NewImage { properties: reserved, ..new_image(&side.name("bad"), ownership("r")) };
    assert_eq!(class(client(side).create_image(&wanted).await), ErrorClass::Invalid);
}

async fn the_images_of_an_owner_are_found_in_any_state(side: &Side) {
    let owner = side.name("owner");
    let cloud = open(&side.clouds_yaml, side.cloud, Options { owner: owner.clone(), ..options() });
    let of = |owner: &str, name: &str| new_image(name, Ownership { owner: owner.to_owned(), ..ownership(name) });
    let mut wanted = BTreeSet::new();
    for state in ["queued", "active", "deactivated", "hidden"] {
        let id = made(side, &cloud, &of(&owner, state)).await;
        if state != "queued" {
            cloud.upload_image(&id, bytes(1)).await.unwrap();
        }
        match state {
            "deactivated" => {
                let path = format!("/images/{id}/actions/deactivate");
                side.ask(reqwest::Method::POST, Glance, &path).send().await.empty(204);
            }
            "hidden" => {
                let steps = json!([{"op": "replace", "path": "/os_hidden", "value": true}]);
                side.patch(&id, steps).await.expect(200);
            }
            _ => {}
        }
        wanted.insert(id);
    }
    made(side, &cloud, &of(&format!("{owner}-too"), "theirs")).await;
    side.image(json!({"name": "unmarked"})).await;
    let found = cloud.images_of(&owner).await.unwrap();
    assert_eq!(found.iter().map(|image| image.id.clone()).collect::<BTreeSet<_>>(), wanted, "{found:?}");
    let state = |name: &str| found.iter().find(|image| image.name == name).unwrap();
    assert_eq!(state("queued").status, ImageStatus::Queued);
    assert_eq!(state("deactivated").status, ImageStatus::Deactivated);
    assert!(state("active").bootable() && state("hidden").hidden && !state("hidden").bootable());
    let mark = state("hidden").ownership.as_ref().unwrap();
    assert_eq!((mark.owner.as_str(), mark.record.as_str()), (owner.as_str(), "hidden"));
    assert!(cloud.images_of(&side.name("nobody")).await.unwrap().is_empty());
}

async fn a_protected_image_stays_and_any_other_goes_once(side: &Side) {
    let (cloud, name) = (client(side), side.name("protected"));
    let id = made(side, &cloud, &new_image(&name, ownership(&name))).await;
    let protect = async |value: bool| {
        side.patch(&id, json!([{"op": "replace", "path": "/protected", "value": value}])).await.expect(200);
    };
    protect(true).await;
    let (shown, refused) = (cloud.get_image(&id).await, cloud.delete_image(&id).await);
    protect(false).await;
    assert!(shown.unwrap().protected);
    let error = refused.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
    assert_eq!(error.message, format!("Image {id} is protected and cannot be deleted."));
    cloud.delete_image(&id).await.unwrap();
    assert_eq!(class(cloud.delete_image(&id).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.get_image(&id).await), ErrorClass::NotFound);
    let others = &side.given().await.image;
    assert_eq!(class(cloud.delete_image(others).await), ErrorClass::Auth);
}

async fn a_stopped_server_becomes_an_image_of_ours(side: &Side) {
    let (machine, cloud, name) = (side.machine().await, client(side), side.name("snapshot"));
    cloud.stop_server(&machine.id).await.unwrap();
    cloud.stop_server(&machine.id).await.unwrap();
    side.settled(&machine.id, "SHUTOFF").await;
    cloud.stop_server(&machine.id).await.unwrap();
    assert_eq!(cloud.get_server(&machine.id).await.unwrap().status, ServerStatus::Stopped);
    let id = cloud.snapshot_server(&machine.id, &new_image(&name, ownership(&name))).await.unwrap();
    side.later(Glance, format!("/images/{id}"));
    let second = cloud.snapshot_server(&machine.id, &new_image(&name, ownership(&name))).await;
    let image = becomes(&cloud, &id, ImageStatus::Active).await;
    side.settled(&machine.id, "SHUTOFF").await;
    side.act(&machine.id, json!({"os-start": null})).await.empty(202);
    side.active(&machine.id).await;
    assert_eq!(class(second), ErrorClass::Conflict, "one at a time");
    assert_eq!((image.name.as_str(), image.ownership.as_ref()), (name.as_str(), Some(&ownership(&name))));
    assert!(image.size.is_some_and(|size| size > 0) && image.bootable(), "{image:?}");
    let ours = cloud.images_of(OWNER).await.unwrap();
    assert!(ours.iter().any(|found| found.id == id), "{ours:?}");
    let shown = side.get(Glance, &format!("/images/{id}")).await.expect(200).json();
    assert_eq!((&shown["visibility"], &shown["os_distro"]), (&json!("private"), &json!("debian")));
}

/// Nova hands the properties of an image down; what somebody keeps of a node is no leftover of ours.
async fn what_others_make_of_our_images_is_theirs(side: &Side) {
    let (cloud, name) = (client(side), side.name("base"));
    let ours = made(side, &cloud, &new_image(&name, ownership(&name))).await;
    cloud.upload_image(&ours, bytes(1)).await.unwrap();
    let wanted = nodepool_operator::cloud::BootRequest { image_id: ours, ..request(side, &name).await };
    let server = boot(side, &cloud, &wanted).await;
    status(&cloud, &server, ServerStatus::Active).await;
    let taken = side.act(&server, json!({"createImage": {"name": "somebody's own"}})).await;
    let theirs = taken.expect(202).at("/image_id");
    side.later(Glance, format!("/images/{theirs}"));
    let image = becomes(&cloud, &theirs, ImageStatus::Active).await;
    side.active(&server).await;
    let snapshot = cloud.snapshot_server(&server, &new_image(&name, ownership("second"))).await.unwrap();
    side.later(Glance, format!("/images/{snapshot}"));
    let second = becomes(&cloud, &snapshot, ImageStatus::Active).await;
    side.active(&server).await;
    let shown = side.get(Glance, &format!("/images/{theirs}")).await.expect(200).json();
    assert_eq!(shown["nodepool_owner"], OWNER, "it has the mark: {shown}");
    assert_eq!(image.ownership, None);
    assert_eq!(second.ownership, Some(ownership("second")));
    let found: Vec<String> = cloud.images_of(OWNER).await.unwrap().into_iter().map(|image| image.id).collect();
    assert!(found.contains(&snapshot) && !found.contains(&theirs), "{found:?}");
}

async fn a_key_pair_is_made_once_and_deleted_once(side: &Side) {
    let cloud = client(side);
    let mark = Ownership { record: uuid::Uuid::new_v4().to_string(), ..ownership("") };
    let name = key_pair_name(&mark);
    side.later(Compute, format!("/os-keypairs/{name}"));
    cloud.create_key_pair(&name, PUBLIC_KEY).await.unwrap();
    cloud.create_key_pair(&name, PUBLIC_KEY).await.unwrap();
    let other = PUBLIC_KEY.replace("IFbgsHmj", "IFbgsHmk");
    assert_eq!(class(cloud.create_key_pair(&name, &other).await), ErrorClass::Conflict);
    assert_eq!(class(cloud.create_key_pair(&side.name("bad"), "nonsense").await), ErrorClass::Invalid);
    let all = cloud.key_pairs().await.unwrap();
    let records: Vec<&str> = all.iter().filter_map(|name| key_pair_record(name, OWNER)).collect();
    assert!(records.contains(&mark.record.as_str()), "{all:?}");
    let held = side.get(Compute, &format!("/os-keypairs/{name}")).await.expect(200);
    assert_eq!(held.at("/keypair/public_key"), PUBLIC_KEY);
    cloud.delete_key_pair(&name).await.unwrap();
    cloud.delete_key_pair(&name).await.unwrap();
    assert!(!cloud.key_pairs().await.unwrap().contains(&name));
}

async fn of_what_is_not_there_nothing_is_made(side: &Side) {
    let cloud = client(side);
    assert_eq!(class(cloud.get_image(NOBODY).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.delete_image(NOBODY).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.upload_image(NOBODY, bytes(1)).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.stop_server(NOBODY).await), ErrorClass::NotFound);
    let image = new_image(&side.name("nothing"), ownership("r"));
    assert_eq!(class(cloud.snapshot_server(NOBODY, &image).await), ErrorClass::NotFound);
    cloud.delete_key_pair("nobody").await.unwrap();
}

conformance!(shared:
    an_image_that_is_made_and_sent_is_active,
    while_its_bytes_come_an_image_is_saving_and_takes_no_others,
    bytes_that_break_off_make_no_image,
    bytes_that_are_not_what_they_say_are_refused,
    an_image_of_nonsense_is_invalid,
    the_images_of_an_owner_are_found_in_any_state,
    a_protected_image_stays_and_any_other_goes_once,
    a_stopped_server_becomes_an_image_of_ours,
    what_others_make_of_our_images_is_theirs,
    a_key_pair_is_made_once_and_deleted_once,
    of_what_is_not_there_nothing_is_made,
);
