//! Images whose making an outage of Glance cuts off: what is half there goes, the next attempt makes a whole one, and the
//! Provider's condition names the service.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::get;
use kube::ResourceExt;
use nodepool_operator::api::{ImageState, Provider, ProviderImage};
use serde_json::json;
use tokio::sync::watch;

use super::images::{cloud_has, disk, image, snapshot, url};
use super::stage::{PATIENCE, PROVIDER, Stage};
use super::support::eventually;
use super::support::openstack::OpenStack;
use super::support::versions::{built, versions};
use super::support::world::{condition, text};

/// Long enough for the service to be ended while a snapshot or an upload is under way.
const SNAPSHOT_TAKES: f64 = 12.0;

/// A file whose second half comes when it is let go.
async fn held_file(bytes: Vec<u8>) -> (String, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/disk.raw", listener.local_addr().unwrap());
    let router = Router::new().route("/disk.raw", get(halves)).with_state((Arc::new(bytes), gone));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, go)
}

async fn halves(State((bytes, go)): State<(Arc<Vec<u8>>, watch::Receiver<bool>)>) -> Body {
    let second = bytes.len() / 2;
    Body::from_stream(futures::stream::unfold(0, move |at| {
        let (bytes, mut go) = (Arc::clone(&bytes), go.clone());
        async move {
            if at == bytes.len() {
                return None;
            }
            if at == second {
                go.wait_for(|go| *go).await.ok()?;
            }
            let end = if at < second { second } else { bytes.len() };
            Some((Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes[at..end])), end))
        }
    }))
}

/// Waits for a version that is on its way into the cloud.
async fn uploading(stage: &Stage) -> ProviderImage {
    eventually(built(&stage.world), || async {
        let all = versions(&stage.world, "ci").await;
        let begun = |version: &ProviderImage| {
            version.state() == ImageState::Uploading && version.status.as_ref().is_some_and(|s| s.image_id.is_some())
        };
        let shown = format!("{:?}", all.iter().map(ProviderImage::state).collect::<Vec<_>>());
        all.into_iter().find(begun).ok_or_else(|| format!("nothing is being uploaded: {shown}"))
    })
    .await
}

/// Waits until the version that was cut off has failed for this reason, and another one is whole, tried, and the only one
/// in the cloud.
async fn made_again(stage: &Stage, cut_off: &ProviderImage, reason: &str) {
    let found = |what: &'static str, wanted: &dyn Fn(&ProviderImage) -> bool, all: Vec<ProviderImage>| {
        let shown = json!(all.iter().map(|version| json!([version.spec.version, version.status])).collect::<Vec<_>>());
        all.into_iter().find(wanted).ok_or_else(|| format!("none {what}: {shown:#}"))
    };
    let failed = |version: &ProviderImage| {
        let told = version.status.as_ref().and_then(|status| status.fault.as_ref());
        version.uid() == cut_off.uid() && told.is_some_and(|fault| fault.reason == reason)
    };
    eventually(built(&stage.world), || async { found("failed", &failed, versions(&stage.world, "ci").await) }).await;
    let good = eventually(built(&stage.world), || async {
        found("is good", &ProviderImage::is_usable, versions(&stage.world, "ci").await)
    })
    .await;
    assert_ne!(good.uid(), cut_off.uid(), "what was cut off is never used");
    cloud_has(stage, &[&good]).await;
}

async fn names_glance(stage: &Stage) {
    eventually(PATIENCE, || async {
        let told = json!(condition(&stage.world.get::<Provider>(PROVIDER).await, "Ready"));
        let names = text(&told["message"]).contains("the image service does not answer");
        if names { Ok(()) } else { Err(format!("{told}")) }
    })
    .await;
}

#[tokio::test]
async fn an_outage_in_the_middle_of_a_snapshot() {
    let stage = Stage::alone(json!({})).await;
    OpenStack::hosts(|rules| rules.push(json!({"verb": "snapshot", "delay": SNAPSHOT_TAKES, "count": 1})));
    image(&stage, "ci", snapshot(), json!({"buildTimeout": "30m"})).await;
    let cut_off = uploading(&stage).await;
    let server = cut_off.status.clone().unwrap().server_id.unwrap();
    let outage = OpenStack::outage(&["glance"]);
    // Nova gives the snapshot up, and cannot delete its image.
    eventually(PATIENCE, || async {
        let shown = stage.project.get("compute", &format!("/servers/{server}")).await;
        let task = &shown["server"]["OS-EXT-STS:task_state"];
        if task.is_null() { Ok(()) } else { Err(format!("{task}")) }
    })
    .await;
    drop(outage);
    OpenStack::hosts(Vec::clear);
    made_again(&stage, &cut_off, "ImageLost").await;
    stage.ends_empty().await;
}

#[tokio::test]
async fn an_outage_in_the_middle_of_an_upload() {
    let stage = Stage::alone(json!({})).await;
    let bytes = disk(8 << 20);
    let (address, go) = held_file(bytes.clone()).await;
    image(&stage, "ci", url(&address, &bytes), json!({})).await;
    let cut_off = uploading(&stage).await;
    let outage = OpenStack::outage(&["glance"]);
    go.send_replace(true);
    names_glance(&stage).await;
    drop(outage);
    made_again(&stage, &cut_off, "UploadFailed").await;
    stage.world.condition::<Provider>(PROVIDER, "Ready", "True").await;
    stage.ends_empty().await;
}
