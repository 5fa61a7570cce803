//! The uploader as a pod runs it: the real program, a file that a build left, and simulated clouds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nodepool_operator::builder::job::{JobImage, JobResult, JobTarget};
use nodepool_operator::cloud::openstack::{CloudConfig, OpenStack, Options};
use nodepool_operator::cloud::{Cloud, Image, ImageStatus};
use serde_json::json;
use support::openstack::loopback;
use support::{Killer, Program, Simulator, eventually};

const SOON: Duration = Duration::from_secs(60);
const OWNER: &str = "installation";

/// A pod's file systems; gone when dropped.
struct Pod {
    directory: PathBuf,
    targets: Vec<JobTarget>,
}

impl Pod {
    /// With a file of this content, and a mounted Secret for each cloud.
    fn new(image: &[u8], clouds: &[(&str, &Simulator)]) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pod-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(directory.join("output")).unwrap();
        std::fs::write(directory.join("output/image.raw"), image).unwrap();
        let target = |&(name, simulator): &(&str, &Simulator)| {
            let clouds = directory.join(name);
            std::fs::create_dir(&clouds).unwrap();
            std::fs::write(clouds.join("clouds.yaml"), simulator.clouds_yaml()).unwrap();
            JobTarget {
                provider: name.to_owned(),
                cloud_name: simulator.cloud_name().to_owned(),
                clouds_directory: clouds,
                region: Some("RegionOne".to_owned()),
                interface: Some("public".to_owned()),
                image: JobImage {
                    name: format!("noble-{name}"),
                    owner: OWNER.to_owned(),
                    record: format!("uid-of-{name}"),
                    provider: format!("ns/{name}"),
                    properties: [("os_type".to_owned(), "linux".to_owned())].into(),
                },
            }
        };
        let targets = clouds.iter().map(target).collect();
        Self { directory, targets }
    }

    fn start(&self, file: &Path) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodepool-operator"));
        command.arg("upload").arg("--file").arg(file).args(["--format", "raw"]);
        command.env("NODEPOOL_TARGETS", serde_json::to_string(&self.targets).unwrap());
        command.arg("--result").arg(self.result()).args(["--allow-network", "127.0.0.0/8"]);
        Program::start("uploader", command, Killer::default())
    }

    /// The exit code, and what the operator would read.
    async fn run(&self, file: &Path) -> (i32, Vec<JobResult>) {
        self.end(self.start(file)).await
    }

    async fn end(&self, program: Program) -> (i32, Vec<JobResult>) {
        let code = program.wait_exit(SOON).await.code().unwrap();
        let result = std::fs::read_to_string(self.result()).unwrap_or_else(|_| panic!("{}", program.log()));
        assert!(result.len() <= 4096);
        (code, serde_json::from_str(&result).unwrap())
    }

    fn image(&self) -> PathBuf {
        self.directory.join("output/image.raw")
    }

    fn result(&self) -> PathBuf {
        self.directory.join("result")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Left behind when it cannot be removed: it is below target/ and holds no secret.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What the installation has in a cloud.
async fn images(simulator: &Simulator) -> Vec<Image> {
    let config = CloudConfig::from_yaml(simulator.clouds_yaml().as_bytes(), simulator.cloud_name(), None).unwrap();
    let options = Options {
        requests_per_second: 100.0,
        region: None,
        interface: None,
        provider_key: "ns/test".to_owned(),
        owner: OWNER.to_owned(),
        observer: None,
        egress: loopback(),
    };
    OpenStack::new(config, options).unwrap().images_of(OWNER).await.unwrap()
}

fn failure(result: &JobResult) -> (&str, &str) {
    let JobResult::Failed { error, reason, .. } = result else { panic!("{result:?}") };
    (error, reason)
}

#[tokio::test]
async fn a_file_goes_to_all_clouds() {
    let (one, two) = (Simulator::start(&[]).await, Simulator::start(&[]).await);
    let pod = Pod::new(&[7; 300_000], &[("one", &one), ("two", &two)]);
    let (code, results) = pod.run(&pod.image()).await;
    assert_eq!(code, 0, "{results:?}");
    for (result, (name, cloud)) in results.iter().zip([("one", &one), ("two", &two)]) {
        let [image] = images(cloud).await.try_into().unwrap();
        assert_eq!(result, &JobResult::Made { provider: name.to_owned(), image_id: image.id.clone() });
        assert_eq!((image.status, image.size), (ImageStatus::Active, Some(300_000)));
        assert_eq!(image.name, format!("noble-{name}"));
        let ownership = image.ownership.unwrap();
        assert_eq!((ownership.record, ownership.provider), (format!("uid-of-{name}"), format!("ns/{name}")));
    }
}

#[tokio::test]
async fn each_cloud_is_for_itself() {
    let (good, bad) = (Simulator::start(&[]).await, Simulator::start(&[]).await);
    bad.fault(json!({"call": "upload-image", "fault": {"type": "answer", "status": 503}})).await;
    let names = ["good", "bad", "unmounted", "unnamed", "garbled"];
    let mut pod = Pod::new(&[7; 300_000], &names.map(|name| (name, if name == "bad" { &bad } else { &good })));
    std::fs::remove_dir_all(&pod.targets[2].clouds_directory).unwrap();
    pod.targets[3].cloud_name = "elsewhere".to_owned();
    std::fs::write(pod.targets[4].clouds_directory.join("clouds.yaml"), "clouds: [hunter2").unwrap();
    let (code, results) = pod.run(&pod.image()).await;
    assert_eq!(code, 1);
    assert!(matches!(&results[0], JobResult::Made { provider, .. } if provider == "good"), "{results:?}");
    assert_eq!(images(&good).await.len(), 1);
    assert!(failure(&results[1]).0.contains("image"), "{results:?}");
    assert!(images(&bad).await.is_empty(), "what did not become whole is deleted");
    assert!(failure(&results[2]).0.contains("there is no clouds.yaml in"), "{results:?}");
    assert!(failure(&results[3]).0.contains("no cloud named elsewhere"), "{results:?}");
    assert!(failure(&results[4]).0.contains("clouds.yaml cannot be read"), "{results:?}");
    assert!(results[2..].iter().all(|result| failure(result).1 == "SecretInvalid"), "{results:?}");
    assert!(!format!("{results:?}").contains("hunter2"));
}

#[tokio::test]
async fn without_a_file_no_image_is_made() {
    let cloud = Simulator::start(&[]).await;
    let pod = Pod::new(b"", &[("one", &cloud)]);
    let missing = pod.directory.join("output/other.raw");
    let directory = pod.directory.join("output");
    for (file, expected) in
        [(pod.image(), "is empty"), (missing, "there is no file"), (directory, "is a directory: name the one file")]
    {
        let (code, results) = pod.run(&file).await;
        let (error, reason) = failure(&results[0]);
        assert!(code == 1 && error.contains(expected) && reason == "InvalidConfiguration", "{results:?}");
    }
    assert!(images(&cloud).await.is_empty());
    assert_eq!(cloud.get("calls?name=create-image").await["counts"]["create-image"], json!(null));
}

#[tokio::test]
async fn an_image_whose_making_was_not_answered_is_found_again() {
    let cloud = Simulator::start(&[]).await;
    let pod = Pod::new(&[7; 100_000], &[("one", &cloud)]);
    cloud.fault(json!({"call": "create-image", "times": 1, "fault": {"type": "cut", "effect": true}})).await;
    let (code, results) = pod.run(&pod.image()).await;
    assert_eq!(code, 0, "{results:?}");
    assert_eq!(images(&cloud).await.len(), 1);
}

#[tokio::test]
async fn told_to_stop_it_leaves_nothing_behind() {
    let cloud = Simulator::start(&[]).await;
    let pod = Pod::new(&[7; 100_000], &[("one", &cloud)]);
    cloud.fault(json!({"call": "upload-image", "fault": {"type": "hang"}})).await;
    let program = pod.start(&pod.image());
    eventually(SOON, || async {
        if program.log().contains("made an empty image") { Ok(()) } else { Err(program.log()) }
    })
    .await;
    assert_eq!(images(&cloud).await.len(), 1);
    program.sigterm();
    let (code, results) = pod.end(program).await;
    assert!(code == 1 && failure(&results[0]).0.contains("told to stop"), "{results:?}");
    assert!(images(&cloud).await.is_empty());
}
