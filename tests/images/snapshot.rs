//! Source `snapshot`: a server is set up, stopped and kept as an image.

use kube::ResourceExt;
use nodepool_operator::api::pool_node::ClaimKind;
use nodepool_operator::api::{DiskImage, ImageState, PoolNode};
use serde_json::json;

use crate::stage::{
    BUILT, current, image, image_id, only, ours, rebuild, says, scripts, snapshot, states, versions, world,
};
use crate::support::eventually;

#[tokio::test]
async fn a_version_is_made_tried_and_booted_from() {
    let world = world(3).await;
    scripts(
        &world.namespace,
        "scripts",
        &[("prepare.sh", "#!/bin/sh\necho \"preparing for $WHO\"\nprintf %s \"$WHO\" > \"$HOME/made\"\n")],
    )
    .await;
    let mut source = snapshot("./prepare.sh");
    source["snapshot"]["scriptsConfigMapRef"] = json!({"name": "scripts"});
    source["snapshot"]["env"] = json!({"WHO": "it's \"$(id)\""});
    image(&world, "ci", source, json!({"properties": {"team": "ci"}})).await;
    world.pool("small", 1, json!({"image": "ci"})).await;
    let version = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    current(&world, "ci", &version).await;
    let node = world.pool_ready("small", 1).await.remove(0);
    assert_eq!(node.spec.image_id, image_id(&version));
    assert_eq!(node.spec.provider_image, Some(version.name_any()));
    let told = version.status.clone().unwrap();
    assert!(told.log.as_deref().unwrap_or_default().contains("preparing for it's \"$(id)\""), "{:?}", told.log);
    assert!(told.server_id.is_some() && told.current && told.ready_at.is_some(), "{told:?}");
    assert_eq!(told.hostname, format!("ci-{}.template.a", version.spec.version));
    // What was made for it is gone: its server, the trial's, the key pair. One server was there at a time.
    world.one_server_per_record().await;
    assert!(world.nodes().await.iter().all(|node| node.image_claim().is_none()));
    assert!(world.highest(0).await <= 2, "a build and its trial never stand beside each other");
    assert_eq!(world.clouds[0].state().await["keyPairs"], 0);
    let image = &ours(&world, 0).await[0];
    assert_eq!(image["name"], json!(format!("ci-{}", version.spec.version)));
    assert!(image.to_string().contains("\"team\":\"ci\""), "{image}");
    world.condition::<DiskImage>("ci", "Available", "True").await;
    world.condition::<DiskImage>("ci", "UpToDate", "True").await;
    world.condition::<DiskImage>("ci", "Progressing", "False").await;
}

#[tokio::test]
async fn a_build_takes_a_slot_like_everybody() {
    let world = world(1).await;
    world.pool("small", 1, json!({})).await;
    world.pool_ready("small", 1).await;
    // The only slot is taken by an idle node: it makes way, as for a request, and comes back.
    image(&world, "ci", snapshot("true"), json!({"validation": {"boots": 0}})).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    world.pool_ready("small", 1).await;
    assert_eq!(world.highest(0).await, 1, "a build's server counts in maxServers");
}

#[tokio::test]
async fn a_setup_that_fails_leaves_its_last_words_and_nothing_else() {
    let world = world(2).await;
    image(&world, "ci", snapshot("echo first; echo 'no such package' >&2; exit 7"), json!({})).await;
    let version = states(&world, "ci", &[ImageState::Failed]).await.remove(0);
    let told = version.status.clone().unwrap();
    let fault = told.fault.unwrap();
    assert_eq!(fault.reason, "SetupFailed");
    assert!(fault.message.contains("exit code 7"), "{}", fault.message);
    assert!(told.log.unwrap().contains("no such package"));
    let shown = world.reason::<DiskImage>("ci", "UpToDate", "BuildFailed").await;
    assert!(shown["message"].as_str().unwrap().contains("exit code 7"), "{shown}");
    world.condition::<DiskImage>("ci", "Available", "False").await;
    only(&world, &[]).await;
    world.empty().await;
    says(&world, "ci", |seen| seen["failures"].is_i64() && seen["nextBuildTime"].is_string()).await;
    // Corrected, it is made at once, whatever pause was running.
    image(&world, "ci", snapshot("true"), json!({})).await;
    says(&world, "ci", |seen| {
        seen["current"].is_string() && seen["failures"].is_null() && seen["lastFailure"].is_null()
    })
    .await;
}

#[tokio::test]
async fn a_trial_that_does_not_answer_leaves_the_old_version_in_use() {
    let world = world(3).await;
    image(&world, "ci", snapshot("true"), json!({})).await;
    world.pool("small", 1, json!({"image": "ci"})).await;
    let good = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    let before = world.pool_ready("small", 1).await.remove(0);
    image(&world, "ci", snapshot("touch \"$HOME/no-ssh\""), json!({})).await;
    let versions = states(&world, "ci", &[ImageState::Ready, ImageState::Rejected]).await;
    let fault = versions[1].status.clone().unwrap().fault.unwrap();
    assert!(fault.message.contains("did not answer"), "{}", fault.message);
    assert!(fault.console.is_some(), "the console's last lines are kept");
    current(&world, "ci", &good).await;
    world.reason::<DiskImage>("ci", "UpToDate", "BuildFailed").await;
    world.condition::<DiskImage>("ci", "Available", "True").await;
    let after = world.pool_ready("small", 1).await.remove(0);
    assert_eq!(before.uid(), after.uid(), "no idle node was replaced");
}

#[tokio::test]
async fn what_a_build_lacks_is_told_before_a_server_is_booted() {
    let world = world(1).await;
    let mut source = snapshot("true");
    source["snapshot"]["baseImage"] = json!({"name": "no-such"});
    image(&world, "no-base", source, json!({})).await;
    let mut source = snapshot("true");
    source["snapshot"]["login"]["privateKeySecretRef"] = json!({"name": "absent"});
    image(&world, "no-key", source, json!({})).await;
    let base = world.reason::<DiskImage>("no-base", "Available", "ImageNotFound").await;
    assert!(base["message"].as_str().unwrap().contains("correct spec.source.snapshot.baseImage"), "{base}");
    let key = world.reason::<DiskImage>("no-key", "Available", "BuildFailed").await;
    assert!(key["message"].as_str().unwrap().contains("create the Secret absent"), "{key}");
    assert!(world.servers_ever().await.is_empty());
    assert!(versions(&world, "no-base").await.is_empty());
    // It heals by itself when corrected.
    image(&world, "no-base", snapshot("true"), json!({"validation": {"boots": 0}})).await;
    states(&world, "no-base", &[ImageState::Ready]).await;
}

#[tokio::test]
async fn a_missing_config_map_is_told() {
    let world = world(1).await;
    let mut source = snapshot("true");
    source["snapshot"]["scriptsConfigMapRef"] = json!({"name": "absent"});
    image(&world, "ci", source, json!({})).await;
    let version = states(&world, "ci", &[ImageState::Failed]).await.remove(0);
    let fault = version.status.unwrap().fault.unwrap();
    assert!(fault.message.contains("create the ConfigMap absent"), "{}", fault.message);
}

#[tokio::test]
async fn the_server_of_a_build_is_never_given_to_a_request() {
    let world = world(2).await;
    image(&world, "ci", snapshot("sleep 3"), json!({"validation": {"boots": 0}})).await;
    let build = eventually(BUILT, || async {
        let nodes = world.nodes().await;
        nodes.into_iter().find(PoolNode::is_build).ok_or_else(|| "no build's server yet".to_owned())
    })
    .await;
    world.pool("small", 0, json!({})).await;
    world.request("job", &[("small", 1)], json!({})).await;
    let request = world.fulfilled("job").await;
    assert!(request.status.unwrap().nodes.iter().all(|node| node.pool_node != build.name_any()));
    let claim = build.spec.claim_ref.clone().unwrap();
    assert_eq!((claim.kind, build.spec.pool), (ClaimKind::ProviderImage, None));
    states(&world, "ci", &[ImageState::Ready]).await;
}

#[tokio::test]
async fn an_annotation_asks_for_a_new_version_and_is_echoed() {
    let world = world(2).await;
    image(&world, "ci", snapshot("true"), json!({"validation": {"boots": 0}})).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    rebuild(&world, "ci", "2026-11-25T12:00:00Z").await;
    let versions = states(&world, "ci", &[ImageState::Ready, ImageState::Ready]).await;
    let seen = current(&world, "ci", &versions[1]).await;
    assert_eq!(seen["rebuildRequestedAt"], "2026-11-25T12:00:00Z");
    assert_eq!(seen["previous"], json!(versions[0].name_any()));
}

#[tokio::test]
async fn a_snapshot_that_the_cloud_gave_up_is_not_waited_for() {
    let world = world(2).await;
    // What Nova leaves when the image service goes away under a snapshot: its server is free, the image still queued.
    let stuck = json!({"call": "create-snapshot", "fault": {"type": "image-stuck", "status": "queued"}});
    world.clouds[0].fault(stuck).await;
    image(&world, "ci", snapshot("true"), json!({"validation": {"boots": 0}})).await;
    let version = states(&world, "ci", &[ImageState::Failed]).await.remove(0);
    let fault = version.status.unwrap().fault.unwrap();
    assert_eq!((fault.reason.as_str(), fault.message.contains("ended the snapshot")), ("ImageLost", true), "{fault:?}");
    world.clouds[0].clear_faults().await;
    says(&world, "ci", |seen| seen["current"].is_string()).await;
    world.empty().await;
}

#[tokio::test]
async fn a_script_that_never_ends_is_ended_at_the_deadline() {
    let world = world(1).await;
    let spec = json!({"validation": {"boots": 0}, "buildTimeout": "1m"});
    image(&world, "ci", snapshot("echo waiting; exec sleep 1000000"), spec).await;
    // The shortest there may be is as long as other tests wait at most.
    let version = eventually(2 * BUILT, || async {
        let first = versions(&world, "ci").await.into_iter().next();
        first.filter(|version| version.state() == ImageState::Failed).ok_or_else(|| "it has not failed yet".to_owned())
    })
    .await;
    let told = version.status.clone().unwrap();
    let fault = told.fault.unwrap();
    assert!(fault.message.contains("within buildTimeout"), "{fault:?}");
    assert!(told.log.unwrap_or_default().contains("waiting"), "what it said until then is kept");
    says(&world, "ci", |seen| seen["failures"].is_i64() && seen["current"].is_null()).await;
    // Without its server: the only slot serves the next attempt, which ends by itself.
    image(&world, "ci", snapshot("true"), json!({"validation": {"boots": 0}})).await;
    says(&world, "ci", |seen| seen["current"].is_string()).await;
    world.empty().await;
}
