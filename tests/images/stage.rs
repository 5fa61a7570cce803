//! What tests of images share: the specs they write, and the waits for versions.

use std::time::Duration;

use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, ProviderImage};
use serde_json::{Value, json};

use crate::support::{Namespace, World, eventually};

/// A build boots a server, sets it up, stops it, and boots another: longer than other things take.
pub const BUILT: Duration = Duration::from_secs(60);

/// A world whose servers run what is asked of them over SSH.
pub async fn world(max_servers: u32) -> World {
    World::builder().cloud("a", max_servers).simulator_arg("--run-commands").start().await
}

/// The port on which the servers of all clouds answer.
pub async fn port(world: &World) -> Value {
    world.clouds[0].state().await["sshPort"].clone()
}

/// A DiskImage that nothing makes again by itself; `spec` is what differs from an image of this source.
pub async fn image(world: &World, name: &str, source: Value, spec: Value) {
    let mut all = json!({
        "providers": ["a"], "source": source, "login": {"username": "debian", "port": port(world).await},
        "refresh": {"schedule": "0 0 1 1 *", "jitter": "0s"},
    });
    spec.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    world.apply("DiskImage", name, all).await;
}

/// Source `snapshot` with this command.
pub fn snapshot(setup: &str) -> Value {
    json!({"snapshot": {
        "baseImage": {"name": "debian-13"}, "flavor": {"name": "small"}, "login": {"username": "debian"}, "setup": setup,
    }})
}

/// A ConfigMap of scripts.
pub async fn scripts(namespace: &Namespace, name: &str, files: &[(&str, &str)]) {
    let data: serde_json::Map<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    namespace.kubectl().apply_json(&map).await;
}

/// All versions of an image, oldest first.
pub async fn versions(world: &World, image: &str) -> Vec<ProviderImage> {
    let mut versions = world.namespace.list::<ProviderImage>().await;
    versions.retain(|version| version.spec.disk_image == image);
    versions.sort_by_key(|version| (version.spec.version, version.name_any()));
    versions
}

/// Waits until the versions of an image are in these states, oldest first.
#[track_caller]
pub fn states<'a>(
    world: &'a World,
    image: &'a str,
    wanted: &'a [ImageState],
) -> impl Future<Output = Vec<ProviderImage>> + 'a {
    eventually(BUILT, move || async move {
        let versions = versions(world, image).await;
        let states: Vec<ImageState> = versions.iter().map(ProviderImage::state).collect();
        let shown = |version: &ProviderImage| json!([version.name_any(), version.status]);
        if states == wanted {
            return Ok(versions);
        }
        Err(format!("{states:?}, not {wanted:?}: {:?}", versions.iter().map(shown).collect::<Vec<_>>()))
    })
}

/// Waits until nodes boot from this version, and the DiskImage says so.
#[track_caller]
pub fn current<'a>(world: &'a World, image: &'a str, version: &'a ProviderImage) -> impl Future<Output = ()> + 'a {
    eventually(BUILT, move || async move {
        let status = status(world, image).await;
        if status["current"] == json!(version.name_any()) { Ok(()) } else { Err(format!("current: {status}")) }
    })
}

/// What a DiskImage says of its first provider.
pub async fn status(world: &World, image: &str) -> Value {
    json!(world.get::<DiskImage>(image).await)["status"]["providers"][0].clone()
}

/// Asks for a new version now.
pub async fn rebuild(world: &World, image: &str, word: &str) {
    let annotations = json!({"nodepool.dev/rebuild-requested-at": word});
    world.patch::<DiskImage>(image, json!({"metadata": {"annotations": annotations}})).await;
}

/// The id of a version's image in the cloud.
pub fn image_id(version: &ProviderImage) -> String {
    version.status.as_ref().unwrap().image_id.clone().unwrap()
}

/// The images of one cloud that carry a mark of ours.
pub async fn ours(world: &World, cloud: usize) -> Vec<Value> {
    let images = world.clouds[cloud].get("images").await["images"].as_array().unwrap().clone();
    images.into_iter().filter(|image| image.to_string().contains("nodepool_owner")).collect()
}

/// Waits until a cloud has exactly these images of ours.
#[track_caller]
pub fn only<'a>(world: &'a World, ids: &'a [String]) -> impl Future<Output = ()> + 'a {
    eventually(BUILT, move || async move {
        let mut found: Vec<String> =
            ours(world, 0).await.iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
        let mut wanted = ids.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        if found == wanted { Ok(()) } else { Err(format!("images {found:?}, not {wanted:?}")) }
    })
}
