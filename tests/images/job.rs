//! Source `job`: a pod leaves a file, and the operator's own container uploads it. There are no Nodes here: the test does
//! what the kubelet would, with the same program as a process.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use nodepool_operator::api::{DiskImage, ImageState};
use serde_json::{Value, json};

use crate::stage::{BUILT, current, image, image_id, ours, states};
use crate::support::{World, eventually};

fn source() -> Value {
    json!({"job": {
        "template": {"spec": {"containers": [{
            "name": "build", "image": "builder", "command": ["make-image"], "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        }], "volumes": [{"name": "work", "emptyDir": {}}]}},
        "output": "/output/disk.raw", "format": "raw",
    }})
}

/// The pod of the only Job, as the job controller made it.
async fn pod(world: &World) -> Pod {
    eventually(BUILT, || async {
        let pods = world.namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
        pods.items.into_iter().next().ok_or_else(|| "no pod yet".to_owned())
    })
    .await
}

fn uploader(pod: &Pod) -> Container {
    let containers = &pod.spec.as_ref().unwrap().containers;
    assert_eq!(containers.len(), 1, "the user's containers run first, as init containers");
    containers[0].clone()
}

/// Runs the uploader as its container would, with the Secrets where they would be mounted; what it left to say.
fn upload(world: &World, container: &Container, folder: &Path, file: &str) -> (bool, String) {
    let mut targets: Vec<Value> = container
        .env
        .iter()
        .flatten()
        .find(|variable| variable.name == "NODEPOOL_TARGETS")
        .map(|variable| serde_json::from_str(variable.value.as_ref().unwrap()).unwrap())
        .unwrap();
    for (target, cloud) in targets.iter_mut().zip(&world.clouds) {
        let clouds = folder.join(target["provider"].as_str().unwrap());
        std::fs::create_dir_all(&clouds).unwrap();
        std::fs::write(clouds.join("clouds.yaml"), cloud.clouds_yaml()).unwrap();
        target["cloudsDirectory"] = json!(clouds);
    }
    // What else the operator says of where clouds may be.
    let others = container.env.iter().flatten().filter(|variable| variable.name != "NODEPOOL_TARGETS");
    let others = others.map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()));
    let args = container.args.clone().unwrap();
    assert_eq!(args[..3], ["upload", "--file", "/output/disk.raw"]);
    let result = folder.join("termination-log");
    let output = Command::new(env!("CARGO_BIN_EXE_nodepool-operator"))
        .args(["upload", "--file", file, "--format", "raw", "--result"])
        .arg(&result)
        .env_clear()
        .envs(others)
        .env("NODEPOOL_TARGETS", json!(targets).to_string())
        .output()
        .unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), std::fs::read_to_string(result).unwrap())
}

/// Says what a kubelet would of a container that has ended.
async fn ended(world: &World, pod: &Pod, success: bool, message: &str) {
    let code = i32::from(!success);
    let status = json!({"status": {"phase": if success { "Succeeded" } else { "Failed" }, "containerStatuses": [{
        "name": "nodepool-upload", "image": "x", "imageID": "x", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "message": message}},
    }]}});
    let api = world.namespace.api::<Pod>();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn folder() -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("job-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test]
async fn what_a_pod_leaves_is_uploaded_to_each_provider() {
    let world = World::builder().cloud("a", 2).cloud("b", 2).start().await;
    image(&world, "ci", source(), json!({"providers": ["a", "b"]})).await;
    let pod = pod(&world).await;
    let jobs = world.namespace.list::<Job>().await;
    assert_eq!(jobs.len(), 1, "one build for both");
    assert_eq!(jobs[0].metadata.owner_references.as_ref().unwrap()[0].kind, "DiskImage");
    let spec = pod.spec.clone().unwrap();
    let build = &spec.init_containers.as_ref().unwrap()[0];
    let shared = build.volume_mounts.as_ref().unwrap().iter().find(|mount| mount.mount_path == "/output").unwrap();
    let container = uploader(&pod);
    let seen = container.volume_mounts.as_ref().unwrap();
    assert!(seen.iter().any(|mount| mount.name == shared.name && mount.read_only == Some(true)));
    let secret = |mounts: &[k8s_openapi::api::core::v1::VolumeMount]| {
        mounts.iter().any(|mount| mount.mount_path.starts_with("/etc/nodepool/clouds"))
    };
    assert!(
        secret(seen) && !secret(build.volume_mounts.as_ref().unwrap()),
        "only the uploader sees the clouds' Secrets"
    );
    let folder = folder();
    let disk = folder.join("disk.raw");
    std::fs::write(&disk, vec![7_u8; 1_000_000]).unwrap();
    let (success, said) = upload(&world, &container, &folder, disk.to_str().unwrap());
    assert!(success, "{said}");
    ended(&world, &pod, true, &said).await;
    let versions = states(&world, "ci", &[ImageState::Ready; 2]).await;
    for (cloud, version) in versions.iter().enumerate() {
        let made = &ours(&world, cloud).await[0];
        assert_eq!((&made["id"], &made["size"]), (&json!(image_id(version)), &json!(1_000_000)));
    }
    current(&world, "ci", &versions[0]).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_pod_that_leaves_nothing_is_told() {
    let world = World::one_cloud(1).await;
    image(&world, "ci", source(), json!({})).await;
    let pod = pod(&world).await;
    let folder = folder();
    let (success, said) = upload(&world, &uploader(&pod), &folder, folder.join("absent").to_str().unwrap());
    assert!(!success);
    ended(&world, &pod, false, &said).await;
    let version = states(&world, "ci", &[ImageState::Failed]).await.remove(0);
    let fault = version.status.unwrap().fault.unwrap();
    assert!(fault.message.contains("absent"), "{}", fault.message);
    assert!(ours(&world, 0).await.is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_build_outlives_the_operator_that_began_it() {
    let mut world = World::one_cloud(1).await;
    image(&world, "ci", source(), json!({"validation": {"boots": 0}})).await;
    let pod = pod(&world).await;
    world.operator.kill9();
    world.operator = crate::support::Operator::start(&world.namespace).await;
    let folder = folder();
    let disk = folder.join("disk.raw");
    std::fs::write(&disk, vec![7_u8; 1000]).unwrap();
    let (success, said) = upload(&world, &uploader(&pod), &folder, disk.to_str().unwrap());
    assert!(success, "{said}");
    ended(&world, &pod, true, &said).await;
    states(&world, "ci", &[ImageState::Ready]).await;
    assert_eq!(world.namespace.list::<Job>().await.len(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_template_that_is_none_is_told() {
    let world = World::one_cloud(1).await;
    let mut source = source();
    source["job"]["template"]["spec"]["containers"][0]["image"] = json!(7);
    image(&world, "ci", source, json!({})).await;
    let told = world.reason::<DiskImage>("ci", "UpToDate", "BuildFailed").await;
    assert!(told["message"].as_str().unwrap().contains("pod template"), "{told}");
}
