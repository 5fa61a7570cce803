//! What tests of images share: the specs they write, and what they look for in simulated clouds.

use std::time::Duration;

use serde_json::{Value, json};

pub use crate::support::versions::{current, image_id, rebuild, says, states, status, versions};
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
