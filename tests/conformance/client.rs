//! The operator's own client over each cloud: what it asks is understood, and what it is refused is classed rightly.

use std::sync::Arc;
use std::time::Duration;

use nodepool_operator::cloud::openstack::{CloudConfig, Interface, OpenStack, Options};
use nodepool_operator::cloud::{
    BootRequest, Cloud, CloudError, ErrorClass, ImageSelector, Ownership, Passage, Server, ServerQuery, ServerStatus,
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::side::{Compute, Identity, Image, NOBODY, Network, PATIENCE, Side};
use super::support::eventually;
use super::support::openstack::loopback;
use super::things::PUBLIC_KEY;

pub(super) const OWNER: &str = "conformance";
pub(super) const PROVIDER: &str = "ns/conformance";

pub(super) fn options() -> Options {
    Options {
        requests_per_second: 100.0,
        region: None,
        interface: None,
        provider_key: PROVIDER.into(),
        owner: OWNER.into(),
        observer: None,
        egress: loopback(),
    }
}

pub(super) fn open(clouds_yaml: &str, cloud: &str, options: Options) -> OpenStack {
    let config = CloudConfig::from_yaml(clouds_yaml.as_bytes(), cloud, None).unwrap();
    OpenStack::new(config, options).unwrap()
}

pub(super) fn client(side: &Side) -> OpenStack {
    open(&side.clouds_yaml, side.cloud, options())
}

pub(super) fn ownership(record: &str) -> Ownership {
    Ownership { owner: OWNER.into(), record: record.into(), provider: PROVIDER.into() }
}

pub(super) async fn request(side: &Side, name: &str) -> BootRequest {
    let given = side.given().await;
    BootRequest {
        name: name.to_owned(),
        ownership: ownership(name),
        image_id: given.image.clone(),
        flavor_id: given.flavor("nano"),
        networks: vec!["private".into()],
        security_groups: vec![],
        availability_zone: None,
        key_name: None,
        config_drive: None,
        user_data: Some(SecretString::from("#!/bin/sh\necho canary-user-data\n")),
        metadata: [("team".to_owned(), "a".to_owned())].into(),
        port: None,
        may_still: Arc::new(|| true),
    }
}

pub(super) async fn boot(side: &Side, cloud: &OpenStack, request: &BootRequest) -> String {
    let id = cloud.create_server(request).await.unwrap();
    side.later(Compute, format!("/servers/{id}"));
    id
}

pub(super) async fn status(cloud: &OpenStack, id: &str, wanted: ServerStatus) -> Server {
    eventually(PATIENCE, || async {
        let server = cloud.get_server(id).await.map_err(|error| error.to_string())?;
        if server.status == wanted {
            return Ok(server);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(format!("{server:?}"))
    })
    .await
}

pub(super) async fn gone(cloud: &OpenStack, id: &str) {
    eventually(PATIENCE, || async {
        match cloud.get_server(id).await {
            Err(error) if error.class == ErrorClass::NotFound => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The class of a failure that tells no secret.
pub(super) fn class(outcome: Result<impl std::fmt::Debug, CloudError>) -> ErrorClass {
    let error = outcome.unwrap_err();
    let shown = format!("{error} {error:?}");
    for secret in ["canary-user-data", "IyEvYmluL3No", "<html", "gAAAA"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error.class
}

async fn both_credentials_pass_the_check(side: &Side) {
    client(side).check().await.unwrap();
    open(&side.clouds_yaml, side.by_application_credential(), options()).check().await.unwrap();
}

async fn flavors_are_read(side: &Side) {
    let all = client(side).flavors().await.unwrap();
    let small = all.iter().find(|flavor| flavor.name == "small").unwrap();
    assert_eq!((small.resources.instances, small.resources.cores, small.resources.ram_mib), (1, 1, 2048));
    assert_eq!(small.id, side.given().await.flavor("small"));
}

async fn images_are_found_by_name_and_by_id(side: &Side) {
    let cloud = client(side);
    let by_name = cloud.images(&ImageSelector::Name("debian-13".into())).await.unwrap();
    assert!(by_name.len() == 1 && by_name[0].bootable(), "{by_name:?}");
    assert_eq!(cloud.images(&ImageSelector::Id(by_name[0].id.clone())).await.unwrap(), by_name);
    assert!(cloud.images(&ImageSelector::Name("debian".into())).await.unwrap().is_empty());
    assert!(cloud.images(&ImageSelector::Id(NOBODY.into())).await.unwrap().is_empty());
}

async fn an_image_that_cannot_be_booted_is_told_from_one_that_can(side: &Side) {
    let cloud = client(side);
    let queued = side.image(json!({})).await;
    let hidden = side.image(json!({"os_hidden": true})).await;
    side.upload(&hidden, vec![7; 512]).await.empty(204);
    for id in [queued, hidden] {
        let found = cloud.images(&ImageSelector::Id(id)).await.unwrap();
        assert!(found.len() == 1 && !found[0].bootable(), "{found:?}");
    }
}

async fn an_image_tells_its_owner(side: &Side) {
    let mark = json!({"nodepool_owner": OWNER, "nodepool_record": "r", "nodepool_provider": PROVIDER});
    let id = side.image(mark).await;
    let found = client(side).images(&ImageSelector::Id(id)).await.unwrap();
    assert_eq!(found[0].ownership, Some(ownership("r")));
}

async fn limits_are_read(side: &Side) {
    side.lasting().await;
    let limits = client(side).limits().await.unwrap();
    assert!(limits.instances.max.is_some_and(|max| max >= 3) && limits.instances.used >= 3, "{limits:?}");
    assert!(limits.ram_mib.used >= 3 * 512, "{limits:?}");
}

async fn a_server_is_booted_found_and_deleted(side: &Side) {
    let cloud = client(side);
    let name = side.name("life");
    let before = cloud.list_servers(ServerQuery::Full).await.unwrap().taken_at;
    let id = boot(side, &cloud, &request(side, &name).await).await;
    let listed = cloud.list_servers(ServerQuery::Full).await.unwrap();
    let mine = listed.servers.iter().find(|server| server.id == id).unwrap();
    assert_eq!((mine.name.as_str(), &mine.ownership), (name.as_str(), &Some(ownership(&name))));
    let server = status(&cloud, &id, ServerStatus::Active).await;
    let resources = server.resources.unwrap();
    assert_eq!((resources.instances, resources.cores, resources.ram_mib), (1, 1, 128));
    assert_eq!((server.addresses.len(), server.addresses[0].floating), (1, false));
    assert_eq!((server.addresses[0].network.as_str(), server.availability_zone.as_deref()), ("private", Some("nova")));
    assert!(server.created.is_some() && server.fault.is_none());
    let ports = cloud.ports_of(&[id.clone(), NOBODY.into()]).await.unwrap();
    assert!(
        ports.len() == 1 && ports[0].attached_to.as_ref() == Some(&id) && ports[0].ownership.is_none(),
        "{ports:?}"
    );
    cloud.delete_server(&id).await.unwrap();
    gone(&cloud, &id).await;
    assert_eq!(class(cloud.delete_server(&id).await), ErrorClass::NotFound);
    assert!(cloud.ports_of(std::slice::from_ref(&id)).await.unwrap().is_empty());
    let changed = cloud.list_servers(ServerQuery::ChangedSince(before)).await.unwrap().servers;
    let deleted = changed.iter().find(|server| server.id == id).unwrap();
    assert_eq!((deleted.status, &deleted.ownership), (ServerStatus::Deleted, &None), "marks go with the server");
}

async fn what_is_sent_arrives(side: &Side) {
    let (cloud, name) = (client(side), side.name("sent"));
    let key = side.name("key");
    let pair = json!({"keypair": {"name": key, "public_key": PUBLIC_KEY}});
    side.post(Compute, "/os-keypairs", pair).await.expect(201);
    side.later(Compute, format!("/os-keypairs/{key}"));
    let wanted = BootRequest {
        key_name: Some(key.clone()),
        config_drive: Some(true),
        availability_zone: Some("nova".into()),
        security_groups: vec!["default".into()],
        ..request(side, &name).await
    };
    let id = boot(side, &cloud, &wanted).await;
    status(&cloud, &id, ServerStatus::Active).await;
    let server = side.show(&id).await;
    assert_eq!((&server["key_name"], &server["config_drive"]), (&json!(key), &json!("True")));
    assert_eq!(server["metadata"]["team"], "a");
    let tags: Vec<&str> = server["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(tags.contains(&"nodepool_owner=conformance"), "{tags:?}");
}

async fn the_cloud_may_choose_the_network(side: &Side) {
    let (cloud, name) = (client(side), side.name("auto"));
    let wanted = BootRequest { networks: vec![], ..request(side, &name).await };
    let id = boot(side, &cloud, &wanted).await;
    assert_eq!(status(&cloud, &id, ServerStatus::Active).await.addresses.len(), 1);
}

async fn a_server_that_is_being_deleted_is_told_from_one_that_serves(side: &Side) {
    let (cloud, name) = (client(side), side.name("leaving"));
    let id = boot(side, &cloud, &request(side, &name).await).await;
    status(&cloud, &id, ServerStatus::Active).await;
    side.trouble("delete", &name, 2.0, None).await;
    cloud.delete_server(&id).await.unwrap();
    assert_eq!(cloud.get_server(&id).await.unwrap().status, ServerStatus::Deleting);
    cloud.delete_server(&id).await.unwrap();
    gone(&cloud, &id).await;
    side.no_trouble(&name).await;
}

async fn the_console_shows_host_keys(side: &Side) {
    let tail = client(side).console_tail(side.server().await, 200).await.unwrap();
    assert!(tail.contains("ssh-ed25519 "), "{tail}");
    let short = client(side).console_tail(side.server().await, 2).await.unwrap();
    assert_eq!(short.lines().count(), 2, "{short:?}");
}

async fn the_console_of_a_building_server_is_not_there(side: &Side) {
    let (cloud, name) = (client(side), side.name("young"));
    side.trouble("boot", &name, 4.0, None).await;
    let id = boot(side, &cloud, &request(side, &name).await).await;
    side.spawning(&id).await;
    assert_eq!(class(cloud.console_tail(&id, 10).await), ErrorClass::NotFound);
    side.no_trouble(&name).await;
}

async fn a_floating_ip_is_given_once_and_found_again(side: &Side) {
    let (machine, cloud) = (side.machine().await, client(side));
    let owner = ownership(&side.name("record"));
    let first = cloud.attach_floating_ip("public", &machine.id, &owner).await.unwrap();
    let all = cloud.floating_ips().await.unwrap();
    let part = all.iter().find(|part| part.ownership.as_ref() == Some(&owner)).unwrap().clone();
    side.later(Network, format!("/floatingips/{}", part.id));
    assert_eq!(cloud.attach_floating_ip("public", &machine.id, &owner).await.unwrap(), first, "asked for again");
    assert_eq!((part.address, part.attached_to.is_some(), part.created.is_some()), (Some(first), true, true));
    eventually(PATIENCE, || async {
        let server = cloud.get_server(&machine.id).await.map_err(|error| error.to_string())?;
        let shown = server.addresses.iter().any(|address| address.floating && address.ip == first);
        if shown { Ok(()) } else { Err(format!("{:?}", server.addresses)) }
    })
    .await;
    let second = cloud.attach_floating_ip("public", &machine.id, &ownership(&side.name("other"))).await;
    assert_eq!(class(second), ErrorClass::Conflict, "the port has one");
    cloud.delete_floating_ip(&part.id).await.unwrap();
    cloud.delete_floating_ip(&part.id).await.unwrap();
    assert!(!cloud.floating_ips().await.unwrap().iter().any(|held| held.id == part.id));
}

async fn ports_are_found_by_their_owner_and_deleted(side: &Side) {
    let (cloud, owner) = (client(side), side.name("owner"));
    let port = side.tagged_port(&[&format!("nodepool_owner={owner}"), "nodepool_record=r"]).await;
    let found = cloud.ports(&owner).await.unwrap();
    assert!(found.len() == 1 && port["id"] == found[0].id.as_str(), "{found:?}");
    let mark = found[0].ownership.as_ref().unwrap();
    assert_eq!((mark.owner.as_str(), mark.record.as_str()), (owner.as_str(), "r"));
    assert!(found[0].attached_to.is_none() && found[0].created.is_some());
    cloud.delete_port(&found[0].id).await.unwrap();
    cloud.delete_port(&found[0].id).await.unwrap();
    assert!(cloud.ports(&owner).await.unwrap().is_empty());
}

async fn a_port_that_nova_left_behind_can_be_deleted(side: &Side) {
    let cloud = client(side);
    let dead = uuid::Uuid::new_v4().to_string();
    // As Nova makes them: one that somebody named is left alone (rule 10).
    side.port(json!({"name": "", "device_id": dead, "device_owner": "compute:nova"})).await;
    let left = cloud.ports_of(std::slice::from_ref(&dead)).await.unwrap();
    assert_eq!(left.len(), 1);
    cloud.delete_port(&left[0].id).await.unwrap();
    assert!(cloud.ports_of(&[dead]).await.unwrap().is_empty());
}

/// A boot request that names a port of its own, made before.
async fn fenced(side: &Side, cloud: &OpenStack, word: &str) -> BootRequest {
    let wanted = BootRequest { security_groups: vec!["default".into()], ..request(side, &side.name(word)).await };
    let port = cloud.create_port(&wanted).await.unwrap();
    side.later(Network, format!("/ports/{port}"));
    BootRequest { port: Some(port), ..wanted }
}

async fn a_closed_port_fences_a_boot_off(side: &Side) {
    let cloud = client(side);
    let wanted = fenced(side, &cloud, "fenced-off").await;
    let close = || cloud.close_port(&wanted.name, &wanted.ownership);
    assert_eq!(close().await.unwrap(), Passage::Closed);
    assert_eq!(class(cloud.create_server(&wanted).await), ErrorClass::Conflict);
    assert_eq!(close().await.unwrap(), Passage::Closed);
    let made = cloud.ports_made(&wanted.name, &wanted.ownership).await.unwrap();
    assert!(made.len() == 1 && made[0].attached_to.is_none(), "{made:?}");
    assert!(cloud.ports(OWNER).await.unwrap().contains(&made[0]), "the collector would not find it");
    cloud.delete_port(&made[0].id).await.unwrap();
    assert_eq!(close().await.unwrap(), Passage::Absent);
    assert_eq!(class(cloud.create_server(&wanted).await), ErrorClass::Invalid);
}

async fn a_port_that_its_server_has_is_not_closed(side: &Side) {
    let cloud = client(side);
    let wanted = fenced(side, &cloud, "passed").await;
    let id = boot(side, &cloud, &wanted).await;
    status(&cloud, &id, ServerStatus::Active).await;
    assert_eq!(cloud.close_port(&wanted.name, &wanted.ownership).await.unwrap(), Passage::Taken(id.clone()));
    assert_eq!(status(&cloud, &id, ServerStatus::Active).await.addresses.len(), 1);
    cloud.delete_server(&id).await.unwrap();
    side.gone(&id).await;
    let left = cloud.ports_made(&wanted.name, &wanted.ownership).await.unwrap();
    assert!(left.len() == 1 && left[0].attached_to.is_none(), "{left:?}");
    cloud.delete_port(&left[0].id).await.unwrap();
}

/// Let through, and not built yet: the fence comes too late for the request, and the list tells what becomes of it.
async fn a_boot_that_passed_a_port_before_it_was_closed_is_listed(side: &Side) {
    let cloud = client(side);
    let wanted = fenced(side, &cloud, "just-passed").await;
    side.trouble("boot", &wanted.name, 2.0, None).await;
    let id = boot(side, &cloud, &wanted).await;
    let passage = cloud.close_port(&wanted.name, &wanted.ownership).await.unwrap();
    assert!(passage == Passage::Closed || passage == Passage::Taken(id.clone()), "{passage:?}");
    let listed = cloud.list_servers(ServerQuery::Full).await.unwrap().servers;
    assert!(listed.iter().any(|server| server.id == id && server.ownership == Some(wanted.ownership.clone())));
    side.no_trouble(&wanted.name).await;
}

async fn a_credential_that_was_revoked_is_told_as_such(side: &Side) {
    let auth = side.credentials(side.by_application_credential());
    let id = auth.pointer("/auth/identity/application_credential/id").unwrap().as_str().unwrap();
    let revoked = side.clouds_yaml.replace(id, &"0".repeat(32));
    let error = open(&revoked, side.by_application_credential(), options()).check().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth, "{error}");
    assert!(error.message.contains("correct them in clouds.yaml"), "{error}");
}

async fn the_cloud_s_clock_is_known(side: &Side) {
    let taken_at = client(side).list_servers(ServerQuery::Full).await.unwrap().taken_at;
    let off = jiff::Timestamp::now().as_second() - taken_at.as_second();
    assert!(off.abs() < 120, "{off} s, with a Date header or without");
}

async fn a_boot_that_can_never_work_is_invalid(side: &Side) {
    let (cloud, good) = (client(side), request(side, &side.name("bad")).await);
    let cases = [
        BootRequest { image_id: NOBODY.into(), ..good.clone() },
        BootRequest { flavor_id: NOBODY.into(), ..good.clone() },
        BootRequest { networks: vec![NOBODY.into()], ..good.clone() },
        BootRequest { networks: vec!["nowhere".into()], ..good.clone() },
        BootRequest { key_name: Some("nobody".into()), ..good.clone() },
        BootRequest { security_groups: vec!["nobody".into()], ..good.clone() },
        BootRequest { availability_zone: Some("nowhere".into()), ..good.clone() },
        BootRequest { user_data: Some(SecretString::from("x".repeat(60_000))), ..good },
    ];
    for wanted in cases {
        assert_eq!(class(cloud.create_server(&wanted).await), ErrorClass::Invalid, "{}", wanted.name);
    }
}

async fn a_server_that_fits_nowhere_is_a_lack_of_room(side: &Side) {
    let (cloud, name) = (client(side), side.name("huge"));
    let wanted = BootRequest { flavor_id: side.given().await.flavor("huge"), ..request(side, &name).await };
    let id = boot(side, &cloud, &wanted).await;
    let fault = status(&cloud, &id, ServerStatus::Error).await.fault.unwrap();
    assert_eq!((fault.class, fault.message.as_str()), (ErrorClass::NoCapacity, "No valid host was found."));
}

async fn a_server_that_no_host_could_build_is_told_as_failed(side: &Side) {
    let (cloud, name) = (client(side), side.name("broken"));
    side.trouble("boot", &name, 0.0, Some("the host says no")).await;
    let id = boot(side, &cloud, &request(side, &name).await).await;
    let fault = status(&cloud, &id, ServerStatus::Error).await.fault.unwrap();
    assert!(fault.message.starts_with("Exceeded maximum number of retries."), "{fault:?}");
    side.no_trouble(&name).await;
}

async fn what_is_not_there_is_not_found(side: &Side) {
    let cloud = client(side);
    assert_eq!(class(cloud.get_server(NOBODY).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.delete_server(NOBODY).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.force_delete_server(NOBODY).await), ErrorClass::NotFound);
    assert_eq!(class(cloud.console_tail(NOBODY, 5).await), ErrorClass::NotFound);
    cloud.delete_port(NOBODY).await.unwrap();
    cloud.delete_floating_ip(NOBODY).await.unwrap();
}

async fn a_locked_server_is_a_conflict(side: &Side) {
    let (machine, cloud) = (side.machine().await, client(side));
    side.act(&machine.id, json!({"lock": null})).await.empty(202);
    let refused = cloud.delete_server(&machine.id).await;
    side.act(&machine.id, json!({"unlock": null})).await.empty(202);
    assert_eq!(class(refused), ErrorClass::Conflict);
}

async fn wrong_credentials_are_told_as_such(side: &Side) {
    for cloud in [side.cloud, side.by_application_credential()] {
        let auth = side.credentials(cloud);
        let identity = &auth["auth"]["identity"];
        let password =
            identity.pointer("/password/user/password").or(identity.pointer("/application_credential/secret"));
        let password = password.unwrap().as_str().unwrap();
        // The simulator's is also the name of its cloud: only whole values are replaced.
        let wrong = [format!(": {password}\n"), format!(": \"{password}\"\n")]
            .iter()
            .fold(side.clouds_yaml.clone(), |yaml, value| yaml.replace(value, ": wrong-one\n"));
        assert_eq!(class(open(&wrong, cloud, options()).check().await), ErrorClass::Auth, "{cloud}");
    }
}

async fn a_token_that_ended_is_renewed_without_a_word(side: &Side) {
    let seen = Arc::new(super::tokens::Watched::default());
    let proxy = super::tokens::listen(side, seen.clone()).await;
    let yaml = side.clouds_yaml.replace(&side.url(Identity), &proxy);
    let cloud = open(&yaml, side.cloud, options());
    cloud.limits().await.unwrap();
    let token = seen.last();
    let revoke = side.ask(reqwest::Method::DELETE, Identity, "/auth/tokens");
    revoke.header("x-subject-token", &token).send().await.empty(204);
    eventually(PATIENCE, || async {
        cloud.limits().await.unwrap();
        if seen.last() != token { Ok(()) } else { Err("the old token still works".to_owned()) }
    })
    .await;
}

async fn any_interface_of_the_catalogue_may_be_chosen(side: &Side) {
    for interface in [Interface::Public, Interface::Internal, Interface::Admin] {
        let chosen = Options { interface: Some(interface), ..options() };
        open(&side.clouds_yaml, side.cloud, chosen).check().await.unwrap();
    }
}

async fn a_region_that_is_not_there_is_invalid(side: &Side) {
    let chosen = Options { region: Some("RegionNine".into()), ..options() };
    let error = open(&side.clouds_yaml, side.cloud, chosen).check().await.unwrap_err();
    assert!(error.message.contains("RegionOne"), "it names those that are: {error}");
}

async fn a_name_of_several_images_is_told(side: &Side) {
    let name = side.name("twin");
    for _ in 0..2 {
        side.image(json!({"name": name})).await;
    }
    assert_eq!(client(side).images(&ImageSelector::Name(name)).await.unwrap().len(), 2);
}

async fn pages_of_images_are_read_to_the_end(side: &Side) {
    // Glance's own page is 25 long; the client asks for more, and follows links all the same.
    let name = side.name("many");
    for _ in 0..3 {
        side.image(json!({"name": name})).await;
    }
    assert_eq!(client(side).images(&ImageSelector::Name(name)).await.unwrap().len(), 3);
    side.get(Image, "/images?limit=1000").await.expect(200);
}

conformance!(shared:
    both_credentials_pass_the_check,
    flavors_are_read,
    images_are_found_by_name_and_by_id,
    an_image_that_cannot_be_booted_is_told_from_one_that_can,
    an_image_tells_its_owner,
    limits_are_read,
    a_server_is_booted_found_and_deleted,
    what_is_sent_arrives,
    the_cloud_may_choose_the_network,
    a_server_that_is_being_deleted_is_told_from_one_that_serves,
    the_console_shows_host_keys,
    the_console_of_a_building_server_is_not_there,
    a_floating_ip_is_given_once_and_found_again,
    ports_are_found_by_their_owner_and_deleted,
    a_port_that_nova_left_behind_can_be_deleted,
    a_closed_port_fences_a_boot_off,
    a_port_that_its_server_has_is_not_closed,
    a_boot_that_passed_a_port_before_it_was_closed_is_listed,
    a_credential_that_was_revoked_is_told_as_such,
    the_cloud_s_clock_is_known,
    a_boot_that_can_never_work_is_invalid,
    a_server_that_fits_nowhere_is_a_lack_of_room,
    a_server_that_no_host_could_build_is_told_as_failed,
    what_is_not_there_is_not_found,
    a_locked_server_is_a_conflict,
    wrong_credentials_are_told_as_such,
    a_token_that_ended_is_renewed_without_a_word,
    any_interface_of_the_catalogue_may_be_chosen,
    a_region_that_is_not_there_is_invalid,
    a_name_of_several_images_is_told,
    pages_of_images_are_read_to_the_end,
);
