//! What tests of images wait for: the versions of a DiskImage, their states, and which of them is current.

use std::time::Duration;

use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, ProviderImage};
use serde_json::{Value, json};

use super::{World, eventually};

/// A build boots a server, sets it up, stops it, and boots another: longer than other things take.
pub fn built(world: &World) -> Duration {
    3 * world.patience()
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
    eventually(built(world), move || async move {
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
pub fn current<'a>(world: &'a World, image: &'a str, version: &'a ProviderImage) -> impl Future<Output = Value> + 'a {
    says(world, image, |status| status["current"] == json!(version.name_any()))
}

/// Waits until a DiskImage says this of its first provider: it follows what its versions say, a moment later.
#[track_caller]
pub fn says<'a>(
    world: &'a World,
    image: &'a str,
    wanted: impl Fn(&Value) -> bool + 'a,
) -> impl Future<Output = Value> + 'a {
    let wanted = std::rc::Rc::new(wanted);
    eventually(built(world), move || {
        let wanted = std::rc::Rc::clone(&wanted);
        async move {
            let status = status(world, image).await;
            if wanted(&status) { Ok(status) } else { Err(format!("the image says {status}")) }
        }
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
