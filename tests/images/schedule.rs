//! When versions are made: at their time, at once when something is new, once for what was missed, later after each
//! failure, and only a few at a time.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use nodepool_operator::api::{DiskImage, ImageState, ProviderImage};
use serde_json::{Value, json};

use crate::flights::Flights;
use crate::stage::{BUILT, current, image, image_id, rebuild, says, states, status, versions};
use crate::support::{Operator, World, eventually};
use crate::url::{Files, bytes, hex, source};

/// A file that is small enough to be uploaded at once, as source `url`.
async fn file(length: usize) -> Value {
    let disk = bytes(length);
    let (_, base) = Files::serve(vec![("disk.raw", disk.clone())]).await;
    source(format!("{base}/disk.raw"), json!({"value": hex(&disk)}))
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

/// A daily schedule whose run is half a day away, either way: none comes while a test runs.
fn far_away() -> String {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    format!("0 {} * * *", (now.hour() + 12) % 24)
}

async fn restart(world: &mut World, args: &[&str]) {
    world.operator.kill9();
    let options = Operator::for_namespace(&world.namespace);
    world.operator = args.iter().fold(options, |options, arg| options.arg(*arg)).start();
    world.operator.ready(crate::support::world::SOON).await;
}

#[tokio::test]
async fn what_is_suspended_is_not_made_until_that_ends() {
    let world = World::one_cloud(1).await;
    let file = file(10_000).await;
    image(&world, "ci", file.clone(), json!({"suspend": true, "validation": {"boots": 0}})).await;
    rebuild(&world, "ci", "now").await;
    world.reason::<DiskImage>("ci", "Progressing", "Paused").await;
    // One that is asked for later is made meanwhile.
    image(&world, "other", file, json!({"validation": {"boots": 0}})).await;
    states(&world, "other", &[ImageState::Ready]).await;
    assert!(versions(&world, "ci").await.is_empty());
    assert!(status(&world, "ci").await["nextBuildTime"].is_null());
    world.patch::<DiskImage>("ci", json!({"spec": {"suspend": false}})).await;
    // What was asked for meanwhile is not forgotten, and is answered by the first one.
    let version = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    let seen = current(&world, "ci", &version).await;
    assert_eq!(seen["rebuildRequestedAt"], "now", "{seen}");
    world.patch::<DiskImage>("ci", json!({"spec": {"suspend": true}})).await;
    world.reason::<DiskImage>("ci", "Progressing", "Paused").await;
    // What there is stays in use.
    assert_eq!(status(&world, "ci").await["current"], json!(version.name_any()));
}

#[tokio::test]
async fn a_new_provider_and_a_changed_source_are_answered_at_once() {
    let world = World::builder().cloud("a", 1).cloud("b", 1).start().await;
    let (first, second) = (file(10_000).await, file(20_000).await);
    let spec = |providers: Value| json!({"providers": providers, "validation": {"boots": 0}});
    image(&world, "ci", first.clone(), spec(json!(["a"]))).await;
    let on_a = states(&world, "ci", &[ImageState::Ready]).await.remove(0);
    image(&world, "ci", first, spec(json!(["a", "b"]))).await;
    let both = states(&world, "ci", &[ImageState::Ready; 2]).await;
    assert_eq!((both[0].name_any(), both[1].spec.provider.as_str()), (on_a.name_any(), "b"), "only there");
    image(&world, "ci", second, spec(json!(["a", "b"]))).await;
    let all = states(&world, "ci", &[ImageState::Ready; 4]).await;
    assert!(all[2..].iter().all(|version| version.spec.source_hash != on_a.spec.source_hash));
    // Nothing else of the spec is a reason.
    world.patch::<DiskImage>("ci", json!({"spec": {"retain": 3, "login": {"username": "zuul"}}})).await;
    let generation = world.get::<DiskImage>("ci").await.metadata.generation;
    eventually(BUILT, || async {
        let seen = world.get::<DiskImage>("ci").await.status.unwrap_or_default().observed_generation;
        if seen == generation { Ok(()) } else { Err(format!("generation {seen:?} of {generation:?}")) }
    })
    .await;
    states(&world, "ci", &[ImageState::Ready; 4]).await;
}

/// A version that was made then, as its record is found by an operator that was away since.
async fn made_then(world: &World, at: Timestamp) -> String {
    let number = at.as_second();
    let name = format!("ci-a-{number}");
    let spec = json!({"diskImage": "ci", "provider": "a", "version": number, "managed": true});
    let record = json!({
        "apiVersion": "nodepool.dev/v1alpha1", "kind": "ProviderImage", "metadata": {"name": name}, "spec": spec,
    });
    let api = world.namespace.api::<ProviderImage>();
    api.create(&PostParams::default(), &serde_json::from_value(record).unwrap()).await.unwrap();
    let status = json!({"status": {"state": "Ready", "imageID": "11111111-2222-3333-4444-555555555555"}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    name
}

#[tokio::test]
async fn what_was_missed_is_made_up_once() {
    let mut world = World::one_cloud(1).await;
    world.operator.kill9();
    let away = SignedDuration::from_hours(24 * 9);
    let old = made_then(&world, Timestamp::now() - away).await;
    let refresh = json!({"schedule": far_away(), "jitter": "0s"});
    image(&world, "ci", file(10_000).await, json!({"validation": {"boots": 0}, "refresh": refresh})).await;
    restart(&mut world, &[]).await;
    let all = states(&world, "ci", &[ImageState::Ready; 2]).await;
    assert_eq!(all[0].name_any(), old);
    // Nine runs were missed; the next comes at its time.
    let next = time(&current(&world, "ci", &all[1]).await["nextBuildTime"]);
    let wait = next.duration_since(Timestamp::now());
    assert!(wait > SignedDuration::from_hours(10) && wait < SignedDuration::from_hours(13), "{next}");
    restart(&mut world, &[]).await;
    rebuild(&world, "ci", "now").await;
    let all = versions_after(&world, &all[1]).await;
    assert_eq!(all.len(), 1, "one was asked for, and none else was due: {all:?}");
}

/// The good versions that are newer than this one, once there are any.
async fn versions_after(world: &World, version: &ProviderImage) -> Vec<String> {
    eventually(BUILT, || async {
        let mut newer = versions(world, "ci").await;
        newer.retain(|other| other.spec.version > version.spec.version);
        let ready = !newer.is_empty() && newer.iter().all(|other| other.state() == ImageState::Ready);
        let names: Vec<String> = newer.iter().map(ResourceExt::name_any).collect();
        if ready { Ok(names) } else { Err(format!("{names:?}")) }
    })
    .await
}

/// Waits until so many attempts in a row have failed.
async fn failures(world: &World, count: i64) -> Value {
    says(world, "ci", |seen| seen["failures"] == json!(count)).await
}

/// From the failure to the next attempt.
fn pause(seen: &Value) -> SignedDuration {
    time(&seen["nextBuildTime"]).duration_since(time(&seen["lastFailure"]["time"]))
}

#[tokio::test]
async fn pauses_grow_with_each_failure_and_outlive_the_operator() {
    let mut world = World::one_cloud(1).await;
    let (_, base) = Files::serve(Vec::new()).await;
    let absent = source(format!("{base}/absent.raw"), json!({"value": "0".repeat(64)}));
    image(&world, "ci", absent, json!({"validation": {"boots": 0}})).await;
    let first = failures(&world, 1).await;
    assert_eq!(pause(&first).as_secs(), 10, "{first}");
    restart(&mut world, &[]).await;
    world.condition::<DiskImage>("ci", "UpToDate", "False").await;
    let kept = status(&world, "ci").await;
    assert_eq!((&kept["failures"], &kept["nextBuildTime"]), (&first["failures"], &first["nextBuildTime"]));
    let second = failures(&world, 2).await;
    assert!(time(&second["lastFailure"]["time"]) >= time(&first["nextBuildTime"]), "{second} after {first}");
    assert_eq!(pause(&second).as_secs(), 20, "{second}");
    assert_eq!(versions(&world, "ci").await.len(), 1, "the record of an attempt goes when the next has ended");
}

#[tokio::test]
async fn each_image_has_a_part_of_the_jitter_that_never_changes() {
    let mut world = World::builder().cloud("a", 1).cloud("b", 1).start().await;
    let spec = json!({
        "providers": ["a", "b"], "validation": {"boots": 0}, "refresh": {"schedule": far_away(), "jitter": "8h"},
    });
    image(&world, "ci", file(10_000).await, spec).await;
    let first = states(&world, "ci", &[ImageState::Ready; 2]).await;
    let shown = async |world: &World, made: &[ProviderImage]| {
        let made: Vec<Value> = made.iter().map(|version| json!(version.name_any())).collect();
        eventually(BUILT, || async {
            let image = json!(world.get::<DiskImage>("ci").await);
            let all = image["status"]["providers"].as_array().unwrap().clone();
            let due = |seen: &Value| (seen["jitter"].clone(), seen["nextBuildTime"].clone());
            if all.iter().all(|seen| seen["nextBuildTime"].is_string() && made.contains(&seen["current"])) {
                Ok(all.iter().map(due).collect::<Vec<_>>())
            } else {
                Err(format!("{all:?}"))
            }
        })
        .await
    };
    let before = shown(&world, &first).await;
    assert_ne!(before[0].0, before[1].0, "two providers at two times");
    for (jitter, next) in &before {
        let jitter: nodepool_operator::api::Duration = jitter.as_str().unwrap().parse().unwrap();
        assert!(jitter.as_std() <= Duration::from_secs(8 * 3600));
        let run = time(next) - SignedDuration::try_from(jitter.as_std()).unwrap();
        assert_eq!(run.as_second() % 3600, 0, "{next} is the schedule's run and {jitter}");
    }
    restart(&mut world, &[]).await;
    rebuild(&world, "ci", "now").await;
    let all = states(&world, "ci", &[ImageState::Ready; 4]).await;
    assert_eq!(shown(&world, &all[2..]).await, before);
}

const IMAGES: usize = 50;
const PROVIDERS: usize = 10;
const BOUNDS: [&str; 2] = ["--builds=8", "--builds-per-provider=2"];

/// The most uploads that one cloud took at once.
async fn uploads_at_once(world: &World, cloud: usize) -> usize {
    let calls = world.clouds[cloud].get("calls?name=upload-image").await;
    let mut edges = Vec::new();
    for call in calls["calls"].as_array().unwrap() {
        let end = time(&call["time"]);
        let took = SignedDuration::from_micros(call["tookMicros"].as_i64().unwrap());
        edges.extend([(end - took, 1), (end, -1_i64)]);
    }
    edges.sort_unstable();
    let mut now = 0;
    edges
        .iter()
        .map(|(_, step)| {
            now += step;
            now
        })
        .max()
        .map_or(0, |most| usize::try_from(most).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_images_on_ten_providers_are_due_at_one_moment() {
    let mut world = World::builder().cloud("a", 1).cloud("b", 1).start().await;
    world.operator.kill9();
    for number in 0..PROVIDERS {
        let of = ["a", "b"][number % 2];
        let spec = json!({
            "cloud": {"secretRef": {"name": of}, "cloudName": world.clouds[0].cloud_name()},
            "maxServers": 0, "requestsPerSecond": 1000, "launchTimeout": "10s", "bootTimeout": "5s",
        });
        world.apply("Provider", &format!("p{number}"), spec).await;
    }
    let providers: Vec<String> = (0..PROVIDERS).map(|number| format!("p{number}")).collect();
    let spec = json!({
        "providers": providers, "source": file(1_000).await, "login": {"username": "debian"},
        "refresh": {"schedule": "0 0 1 1 *", "jitter": "0s"}, "validation": {"boots": 0},
    });
    let api = world.namespace.api::<DiskImage>();
    for number in 0..IMAGES {
        let object = json!({
            "apiVersion": "nodepool.dev/v1alpha1", "kind": "DiskImage", "metadata": {"name": format!("i{number}")},
            "spec": spec,
        });
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let flights = Flights::watch(&world.namespace);
    restart(&mut world, &BOUNDS).await;
    eventually(4 * BUILT, || async {
        let images = world.namespace.list::<DiskImage>().await;
        let made = images.iter().filter_map(|image| image.status.as_ref()).flat_map(|status| &status.providers);
        let made = made.filter(|seen| seen.name.starts_with('p') && seen.current.is_some()).count();
        if made == IMAGES * PROVIDERS { Ok(()) } else { Err(format!("{made} of {}", IMAGES * PROVIDERS)) }
    })
    .await;
    let highest = flights.highest();
    assert!(highest.of_one == 1 && highest.on_provider <= 2 && highest.in_all <= 8, "{highest:?}");
    assert!(highest.in_all > 2, "the bound is used: {highest:?}");
    let made: Vec<ProviderImage> = world.namespace.list().await;
    let ids: std::collections::BTreeSet<String> =
        made.iter().filter(|version| version.spec.managed).map(image_id).collect();
    assert_eq!(ids.len(), IMAGES * PROVIDERS, "each was made once");
    for cloud in 0..2 {
        assert_eq!(world.calls(cloud, "create-image").await, IMAGES * PROVIDERS / 2);
        assert!(uploads_at_once(&world, cloud).await <= 8);
    }
}
