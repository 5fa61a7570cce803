//! A pod that builds an image runs beside the credentials of the clouds that get it, and sees none of them.

use k8s_openapi::api::batch::v1::Job;
use nodepool_operator::api::DiskImage;
use serde_json::{Value, json};

use crate::support::World;

#[tokio::test]
async fn a_builder_gets_nothing_of_the_uploaders() {
    let world = World::one_cloud(1).await;
    let build = json!({"name": "build", "image": "builder"});
    let mounts =
        |name: &str| json!({"name": "build", "image": "b", "volumeMounts": [{"name": name, "mountPath": "/x"}]});
    for (name, spec, said) in [
        (
            "volume",
            json!({"containers": [build], "volumes": [{"name": "nodepool-cloud-0", "emptyDir": {}}]}),
            "nodepool-cloud-0",
        ),
        ("mount", json!({"containers": [mounts("nodepool-cloud-0")]}), "mounts nodepool-cloud-0"),
        (
            "early",
            json!({"initContainers": [mounts("nodepool-cloud-0")], "containers": [build]}),
            "mounts nodepool-cloud-0",
        ),
        ("container", json!({"containers": [{"name": "nodepool-upload", "image": "b"}]}), "nodepool-upload"),
        ("processes", json!({"containers": [build], "shareProcessNamespace": true}), "shareProcessNamespace"),
        ("host", json!({"containers": [build], "hostPID": true}), "hostPID"),
    ] {
        let source = json!({"job": {"template": {"spec": spec}, "output": "/output/disk.raw", "format": "raw"}});
        let image: Value = json!({"providers": ["a"], "source": source, "login": {"username": "debian"}});
        world.apply("DiskImage", name, image).await;
        let told = world.reason::<DiskImage>(name, "UpToDate", "BuildFailed").await;
        assert!(told["message"].as_str().unwrap().contains(said), "{name}: {told}");
    }
    assert!(world.namespace.list::<Job>().await.is_empty(), "nothing was started");
}
