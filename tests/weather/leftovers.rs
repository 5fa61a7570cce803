//! What was left behind goes, a few at a time; what has a record, or is somebody else's, stays (rules 10 and 11).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use nodepool_operator::api::provider::LeakKind;
use nodepool_operator::api::{Provider, ProviderImage};
use nodepool_operator::cloud::openstack::{CloudConfig, OpenStack, Options};
use nodepool_operator::cloud::{Cloud, NewImage, Ownership, key_pair_name};
use serde_json::json;

use crate::sky::{PROVIDER, SOON, Settings, Sky};
use crate::support::eventually;
use crate::support::openstack::loopback;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFbgsHmjjMGkB3cntXbSsB1uXnzsiQnxEWZkswjdL0M1 leftovers";

/// What a record of this installation is told by, as its Provider would have it.
fn mark(sky: &Sky, owner: &str, record: &str) -> Ownership {
    let provider = format!("{}/{PROVIDER}", sky.namespace.name());
    Ownership { owner: owner.to_owned(), record: record.to_owned(), provider }
}

async fn make(cloud: &OpenStack, name: &str, ownership: Ownership) -> String {
    cloud.create_key_pair(&key_pair_name(&ownership), KEY).await.unwrap();
    let image = NewImage { name: name.to_owned(), ownership, disk_format: "raw", properties: [].into() };
    cloud.create_image(&image).await.unwrap()
}

#[tokio::test]
async fn images_and_key_pairs_without_a_record_go() {
    let sky = Settings::default().full_list("1s").provider(json!({"launchTimeout": "2s"})).start().await;
    let namespaces: Api<Namespace> = Api::all(sky.namespace.client());
    let owner = namespaces.get(sky.namespace.name()).await.unwrap().uid().unwrap();
    let version = eventually(SOON, || async {
        let mut all = sky.namespace.list::<ProviderImage>().await;
        all.pop().ok_or_else(|| "no version yet".to_owned())
    })
    .await;
    let config = CloudConfig::from_yaml(sky.simulator.clouds_yaml().as_bytes(), sky.simulator.cloud_name(), None);
    let options = Options {
        requests_per_second: 100.0,
        region: None,
        interface: None,
        provider_key: format!("{}/{PROVIDER}", sky.namespace.name()),
        owner: owner.clone(),
        observer: None,
        egress: loopback(),
    };
    let cloud = OpenStack::new(config.unwrap(), options).unwrap();
    let nobody = || uuid::Uuid::new_v4().to_string();
    let (recorded, foreign) = (mark(&sky, &owner, &version.uid().unwrap()), mark(&sky, &nobody(), &nobody()));
    let kept = [make(&cloud, "recorded", recorded.clone()).await, make(&cloud, "foreign", foreign.clone()).await];
    cloud.create_key_pair("lab-key", KEY).await.unwrap();
    let protected = make(&cloud, "protected", mark(&sky, &owner, &nobody())).await;
    let protect = async |value: bool| {
        let path = format!("images/{protected}");
        sky.simulator.send(reqwest::Method::POST, &path, Some(json!({"protected": value}))).await;
    };
    protect(true).await;
    for number in 0..3 {
        make(&cloud, &format!("lost-{number}"), mark(&sky, &owner, &nobody())).await;
    }
    let mut pairs = [key_pair_name(&recorded), key_pair_name(&foreign), "lab-key".to_owned()];
    pairs.sort_unstable();
    let left = async || {
        let state = sky.simulator.state().await;
        (state["images"].as_u64().unwrap(), state["keyPairs"].as_u64().unwrap())
    };
    // Seven may go in one window, and five do; the rest is seen and waits.
    eventually(SOON, || async {
        match left().await {
            (images, pairs) if images + pairs == 15 - 5 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let refused = sky.calls("delete-image").await.into_iter().filter(|call| call["status"] == 403);
    assert_eq!(refused.map(|call| call["subjectId"].clone()).collect::<Vec<_>>(), [json!(protected)], "asked for once");
    let seen = sky.get::<Provider>(PROVIDER).await.status.unwrap().leaks;
    assert!(seen.iter().any(|leak| leak.kind == LeakKind::Image && leak.id == protected), "{seen:?}");
    for id in kept.iter().chain([&protected]) {
        cloud.get_image(id).await.unwrap();
    }
    let names: BTreeSet<String> = cloud.key_pairs().await.unwrap().into_iter().collect();
    assert!(pairs.iter().all(|pair| names.contains(pair)), "{names:?}");
    sky.end().await;
}
