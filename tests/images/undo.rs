//! Undo: a bad version goes, by a person's word or by its own launches, and the one before is current at once.

use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, PoolNode, Provider, ProviderImage};
use serde_json::json;

use crate::stage::{BUILT, current, image, image_id, only, rebuild, snapshot, states, status, world};
use crate::support::{Namespace, World, eventually};

/// An image with two good versions, and a pool on the newer one.
async fn two_versions(boots: u32) -> (World, Vec<ProviderImage>) {
    let world = world(4).await;
    let spec = json!({"validation": {"boots": boots}});
    image(&world, "ci", snapshot("true"), spec).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    rebuild(&world, "ci", "again").await;
    let versions = states(&world, "ci", &[ImageState::Ready, ImageState::Ready]).await;
    current(&world, "ci", &versions[1]).await;
    world.pool("small", 1, json!({"image": "ci"})).await;
    world.pool_ready("small", 1).await;
    (world, versions)
}

/// The one idle node of the pool, once it is made from this version.
async fn followed(world: &World, version: &ProviderImage) -> PoolNode {
    eventually(BUILT, || async {
        let nodes = world.ready_nodes("small").await;
        let made = nodes.into_iter().find(|node| node.spec.provider_image == Some(version.name_any()));
        made.ok_or_else(|| "no node of it yet".to_owned())
    })
    .await
}

#[tokio::test]
async fn a_deleted_version_is_followed_by_the_one_before() {
    let (world, versions) = two_versions(0).await;
    let next = status(&world, "ci").await["nextBuildTime"].clone();
    world.delete::<ProviderImage>(&versions[1].name_any()).await;
    current(&world, "ci", &versions[0]).await;
    followed(&world, &versions[0]).await;
    world.gone::<ProviderImage>(&versions[1].name_any()).await;
    only(&world, &[image_id(&versions[0])]).await;
    // The next one comes at its time, not before, and not as a retry.
    let seen = status(&world, "ci").await;
    assert_eq!((&seen["nextBuildTime"], &seen["previous"]), (&next, &json!(null)));
    states(&world, "ci", &[ImageState::Ready]).await;
}

#[tokio::test]
async fn a_rejected_version_stays_to_be_looked_at_and_is_never_used_again() {
    let (world, versions) = two_versions(0).await;
    world.patch::<ProviderImage>(&versions[1].name_any(), json!({"spec": {"rejected": true}})).await;
    states(&world, "ci", &[ImageState::Ready, ImageState::Rejected]).await;
    current(&world, "ci", &versions[0]).await;
    followed(&world, &versions[0]).await;
    let said = world
        .namespace
        .kubectl()
        .run(&[
            "patch",
            "providerimage",
            &versions[1].name_any(),
            "--type=merge",
            "-p",
            "{\"spec\":{\"rejected\":false}}",
        ])
        .await;
    assert!(!said.success && said.stderr.contains("stays rejected"), "{}", said.stderr);
    only(&world, &[image_id(&versions[0]), image_id(&versions[1])]).await;
    rebuild(&world, "ci", "once more").await;
    let all = states(&world, "ci", &[ImageState::Ready, ImageState::Rejected, ImageState::Ready]).await;
    let seen = current(&world, "ci", &all[2]).await;
    assert_eq!(seen["previous"], json!(versions[0].name_any()), "the rejected one is nobody's previous");
}

#[tokio::test]
async fn all_providers_are_undone_at_once_by_label() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).simulator_arg("--run-commands").start().await;
    let spec = json!({"providers": ["a", "b"], "validation": {"boots": 0}});
    image(&world, "ci", snapshot("true"), spec).await;
    states(&world, "ci", &[ImageState::Ready; 2]).await;
    rebuild(&world, "ci", "again").await;
    let versions = states(&world, "ci", &[ImageState::Ready; 4]).await;
    let bad = versions[3].spec.version;
    assert_eq!(bad, versions[2].spec.version, "versions that begin together have one number");
    let label = format!("nodepool.dev/disk-image=ci,nodepool.dev/version={bad}");
    let said = world.namespace.kubectl().run(&["delete", "providerimages", "-l", &label]).await;
    assert!(said.success, "{}", said.stderr);
    let left = states(&world, "ci", &[ImageState::Ready; 2]).await;
    assert!(left.iter().all(|version| version.spec.version < bad));
    let image = json!(world.get::<DiskImage>("ci").await);
    for (seen, version) in image["status"]["providers"].as_array().unwrap().iter().zip(&left) {
        assert_eq!(seen["current"], json!(version.name_any()));
    }
}

#[tokio::test]
async fn a_version_whose_launches_fail_is_rejected_by_itself() {
    let world = world(4).await;
    let spec = json!({"validation": {"boots": 0}});
    image(&world, "ci", snapshot("true"), spec.clone()).await;
    let good = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    world.pool("small", 2, json!({"image": "ci", "update": {"strategy": "OnReplenish"}})).await;
    world.pool_ready("small", 2).await;
    image(&world, "ci", snapshot("touch \"$HOME/no-ssh\""), spec).await;
    let bad = states(&world, "ci", &[ImageState::Ready, ImageState::Ready]).await.remove(1);
    world.namespace.kubectl().scale("pool/small", 4).await;
    states(&world, "ci", &[ImageState::Ready, ImageState::Rejected]).await;
    current(&world, "ci", &good).await;
    let rejected = world.get::<ProviderImage>(&bad.name_any()).await;
    assert!(rejected.spec.rejected);
    let seen = rejected.status.unwrap().fault.unwrap();
    assert!(seen.message.contains("launches of version"), "{}", seen.message);
    world.event("ci", "RolledBack").await;
    world.pool_ready("small", 4).await;
}

#[tokio::test]
async fn what_other_namespaces_make_of_a_version_rejects_it_for_nobody() {
    let tenant = Namespace::new().await;
    let builder = World::builder().cloud("a", 8).simulator_arg("--run-commands");
    let world = builder.operator_arg(&format!("--watch-namespace={}", tenant.name())).start().await;
    world.patch::<Provider>("a", json!({"spec": {"allowedNamespaces": {"from": "All"}}})).await;
    let spec = json!({"validation": {"boots": 0}});
    image(&world, "ci", snapshot("true"), spec.clone()).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    // Who boots it otherwise than its owner would can make it fail.
    image(&world, "ci", snapshot("touch \"$HOME/no-ssh\""), spec).await;
    let versions = states(&world, "ci", &[ImageState::Ready, ImageState::Ready]).await;
    let theirs = json!({
        "apiVersion": "nodepool.dev/v1alpha1", "kind": "Pool", "metadata": {"name": "theirs"},
        "spec": {
            "image": "ci", "flavor": {"name": "small"}, "minReady": 5,
            "providers": [{"name": "a", "namespace": world.namespace.name()}],
        },
    });
    tenant.kubectl().apply_json(&theirs).await;
    let label = format!("pool=\"{}/theirs\"", tenant.name());
    eventually(BUILT, || async {
        let failed = world.operator.metric("nodepool_launches_total", &[&label, "result=\"boot_timeout\""]).await;
        if failed >= 5.0 { Ok(()) } else { Err(format!("{failed} launches failed")) }
    })
    .await;
    // Launched after all that: from the newer version, which its owner's launches say nothing against.
    world.pool("small", 1, json!({"image": "ci", "readiness": {"probe": "none"}})).await;
    followed(&world, &versions[1]).await;
    assert!(!world.get::<ProviderImage>(&versions[1].name_any()).await.spec.rejected);
}
