//! What is kept and what goes: never the two newest good versions, nothing that a node boots from, and nothing is
//! forgotten that the cloud does not let go (rule 7).

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, NodeState, PoolNode, Provider, ProviderImage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{BUILT, current, image, image_id, only, ours, rebuild, states, status, versions};
use crate::support::{World, eventually};
use crate::url::{Files, bytes, hex, source};

/// A file that is small enough to be uploaded at once, as source `url`.
async fn file() -> Value {
    let disk = bytes(10_000);
    let (_, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    source(format!("{base}/disk.raw"), json!({"value": hex(&disk)}))
}

/// Asks for one more version, and waits until it is current on the first provider.
async fn next(world: &World, word: &str) -> ProviderImage {
    let before = versions(world, "ci").await.last().unwrap().spec.version;
    rebuild(world, "ci", word).await;
    eventually(BUILT, || async {
        let seen = status(world, "ci").await;
        let Some(name) = seen["current"].as_str() else { return Err(format!("{seen}")) };
        let current = world.get::<ProviderImage>(name).await;
        if current.spec.version > before { Ok(current) } else { Err(format!("{seen}")) }
    })
    .await
}

/// Waits until the cloud has no image of ours.
async fn cleared(world: &World, cloud: usize) {
    eventually(BUILT, || async {
        let left = ours(world, cloud).await;
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_two_newest_good_versions_stay_whatever_comes() {
    let world = World::one_cloud(2).await;
    let good = file().await;
    image(&world, "ci", good.clone(), json!({"validation": {"boots": 0}})).await;
    let mut made = vec![states(&world, "ci", &[ImageState::Ready]).await.remove(0)];
    made.push(next(&world, "second").await);
    only(&world, &[image_id(&made[0]), image_id(&made[1])]).await;
    // One that fails, and one that is rejected, count for nothing.
    world.clouds[0].fault(json!({"call": "upload-image", "fault": {"type": "answer", "status": 413}})).await;
    rebuild(&world, "ci", "in vain").await;
    states(&world, "ci", &[ImageState::Ready, ImageState::Ready, ImageState::Failed]).await;
    world.clouds[0].clear_faults().await;
    let third = next(&world, "third").await;
    only(&world, &[image_id(&made[1]), image_id(&third)]).await;
    world.patch::<ProviderImage>(&third.name_any(), json!({"spec": {"rejected": true}})).await;
    current(&world, "ci", &made[1]).await;
    let fourth = next(&world, "fourth").await;
    // The rejected one is kept to be looked at; of the good ones, these two.
    let kept = states(&world, "ci", &[ImageState::Ready, ImageState::Rejected, ImageState::Ready]).await;
    assert_eq!([&kept[0], &kept[2]].map(ResourceExt::name_any), [made[1].name_any(), fourth.name_any()]);
    let fifth = next(&world, "fifth").await;
    eventually(BUILT, || async {
        let mut left = versions(&world, "ci").await;
        left.retain(|version| version.state() == ImageState::Ready);
        let names: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
        if names == [fourth.name_any(), fifth.name_any()] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_a_node_boots_from_waits_until_that_has_ended() {
    let slow = json!({"launchTimeout": "10m", "bootTimeout": "10m"});
    let world = World::builder().cloud_with("a", 2, slow).start().await;
    image(&world, "ci", file().await, json!({"validation": {"boots": 0}})).await;
    let first = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    world.clouds[0].fault(json!({"call": "create-server", "fault": {"type": "boot-time", "after": "1h"}})).await;
    world.pool("small", 1, json!({"image": "ci", "update": {"strategy": "OnReplenish"}})).await;
    let server = eventually(BUILT, || async {
        let servers = world.servers(0).await;
        servers
            .first()
            .map(|server| server["id"].as_str().unwrap().to_owned())
            .ok_or_else(|| "no server yet".to_owned())
    })
    .await;
    for word in ["second", "third", "fourth"] {
        next(&world, word).await;
    }
    // The second is gone, which had been its turn after the first.
    let kept = states(&world, "ci", &[ImageState::Ready; 3]).await;
    assert_eq!(kept[0].name_any(), first.name_any());
    // A person who deletes it changes nothing of that.
    world.delete::<ProviderImage>(&first.name_any()).await;
    world.reason::<ProviderImage>(&first.name_any(), "Ready", "Draining").await;
    only(&world, &kept.iter().map(image_id).collect::<Vec<_>>()).await;
    let nodes = world.namespace.list::<PoolNode>().await;
    assert_eq!(nodes.iter().map(PoolNode::state).collect::<Vec<_>>(), [NodeState::Building]);
    let up = json!({"status": "ACTIVE", "ssh": "answer"});
    world.clouds[0].send(Method::POST, &format!("servers/{server}"), Some(up)).await;
    world.pool_ready("small", 1).await;
    world.gone::<ProviderImage>(&first.name_any()).await;
    only(&world, &[image_id(&kept[1]), image_id(&kept[2])]).await;
}

#[tokio::test]
async fn what_the_cloud_refuses_to_delete_is_shown_and_tried_ever_more_slowly() {
    let world = World::one_cloud(2).await;
    image(&world, "ci", file().await, json!({"validation": {"boots": 0}})).await;
    let oldest = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    let in_use = json!({"call": "delete-image", "times": 1, "fault": {"type": "answer", "status": 409}});
    world.clouds[0].fault(in_use).await;
    next(&world, "second").await;
    next(&world, "third").await;
    let told = world.reason::<ProviderImage>(&oldest.name_any(), "Ready", "ImageInUse").await;
    assert!(told["message"].as_str().unwrap().contains("it goes when nothing uses it any more"), "{told}");
    let protect = async |protected: bool| {
        let path = format!("images/{}", image_id(&oldest));
        world.clouds[0].send(Method::POST, &path, Some(json!({"protected": protected}))).await;
    };
    protect(true).await;
    let told = world.reason::<ProviderImage>(&oldest.name_any(), "Ready", "ImageProtected").await;
    assert!(told["message"].as_str().unwrap().contains("take the protection away"), "{told}");
    protect(false).await;
    world.gone::<ProviderImage>(&oldest.name_any()).await;
    let kept = states(&world, "ci", &[ImageState::Ready; 2]).await;
    only(&world, &[image_id(&kept[0]), image_id(&kept[1])]).await;
    let calls = world.clouds[0].get("calls?name=delete-image").await;
    let times: Vec<Timestamp> =
        calls["calls"].as_array().unwrap().iter().map(|call| call["time"].as_str().unwrap().parse().unwrap()).collect();
    let pauses: Vec<i128> = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()).collect();
    assert!(pauses.len() == 2 && pauses[0] >= 2_000 && pauses[1] >= 4_000, "{pauses:?}");
}

#[tokio::test]
async fn a_provider_that_fails_keeps_its_two_while_another_moves_on() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    image(&world, "ci", file().await, json!({"providers": ["a", "b"], "validation": {"boots": 0}})).await;
    states(&world, "ci", &[ImageState::Ready; 2]).await;
    rebuild(&world, "ci", "second").await;
    let four = states(&world, "ci", &[ImageState::Ready; 4]).await;
    let on = |versions: &[ProviderImage], provider: &str| -> Vec<String> {
        versions.iter().filter(|version| version.spec.provider == provider).map(ResourceExt::name_any).collect()
    };
    let kept = on(&four, "b");
    let images = ours(&world, 1).await;
    world.clouds[1].fault(json!({"call": "*", "fault": {"type": "answer", "status": 503}})).await;
    let (third, fourth) = (next(&world, "third").await, next(&world, "fourth").await);
    eventually(BUILT, || async {
        let mut now = versions(&world, "ci").await;
        now.retain(|version| version.state() == ImageState::Ready);
        let seen = (on(&now, "a"), on(&now, "b"));
        let wanted = (vec![third.name_any(), fourth.name_any()], kept.clone());
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, not {wanted:?}")) }
    })
    .await;
    assert_eq!(ours(&world, 1).await, images);
    // When it is back, it gets what it missed, and only then lets the oldest go.
    world.clouds[1].clear_faults().await;
    eventually(2 * BUILT, || async {
        let mut now = versions(&world, "ci").await;
        now.retain(|version| version.state() == ImageState::Ready);
        let now = on(&now, "b");
        if now.len() == 2 && now[0] == kept[1] { Ok(()) } else { Err(format!("{now:?} after {kept:?}")) }
    })
    .await;
}

#[tokio::test]
async fn images_go_with_whatever_wanted_them() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    let file = file().await;
    let spec = json!({"providers": ["a", "b"], "validation": {"boots": 0}});
    image(&world, "ci", file.clone(), spec.clone()).await;
    image(&world, "other", file, spec).await;
    let stays = states(&world, "ci", &[ImageState::Ready; 2]).await.remove(0);
    let others = states(&world, "other", &[ImageState::Ready; 2]).await;
    // The DiskImage is deleted: on all its providers.
    world.delete::<DiskImage>("other").await;
    for version in &others {
        world.gone::<ProviderImage>(&version.name_any()).await;
    }
    only(&world, &[image_id(&stays)]).await;
    // A provider is taken off the list: there.
    world.patch::<DiskImage>("ci", json!({"spec": {"providers": ["a"]}})).await;
    cleared(&world, 1).await;
    let left = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    assert_eq!(left.name_any(), stays.name_any());
    only(&world, &[image_id(&stays)]).await;
    // The Provider is deleted: it goes when nothing of ours is there any more.
    world.delete::<Provider>("a").await;
    world.gone::<Provider>("a").await;
    cleared(&world, 0).await;
    eventually(BUILT, || async {
        let left: BTreeSet<String> = versions(&world, "ci").await.iter().map(ResourceExt::name_any).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
