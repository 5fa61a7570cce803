//! One story: a machine is set up and kept as an image, machines boot from it, and one that locks everybody out is not used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, ImageState, Pool, PoolNode, Provider, ProviderImage};
use serde_json::{Value, json};

use super::support::openstack::{OpenStack, Project};
use super::support::world::text;
use super::support::{Namespace, Operator, World, eventually};

/// Longer than a build, its snapshot and its trial take where two cores emulate and compile.
const PATIENCE: Duration = Duration::from_mins(15);

const PROVIDER: &str = "machines";

/// Nova's key pair whose private half the cloud keeps in its folder.
const KEY_PAIR: &str = "lab-key";

/// What the build leaves. It must run on no other machine, whatever cloud it was given to.
const PREPARE: &str = "#!/bin/sh\n\
    set -eu\n\
    export DEBIAN_FRONTEND=noninteractive\n\
    test -x /sbin/machine-init\n\
    echo \"preparing for $WHO\"\n\
    printf %s \"$WHO\" > /etc/made-for\n\
    apt-get install -y ./nodepool-proof.deb\n";

#[tokio::test]
async fn an_image_of_a_machine_boots_and_one_that_locks_everybody_out_is_not_used() {
    let began = Instant::now();
    let told = |what: &str| eprintln!("{:5.0} s  {what}", began.elapsed().as_secs_f64());
    let cloud = OpenStack::machines();
    let project = Project::log_in("lab").await;
    let namespace = Namespace::new().await;
    let operator = Operator::for_namespace(&namespace).arg("--settle-time=20s").arg("--full-list-interval=5s").start();
    operator.ready(PATIENCE).await;
    let world = World::of(namespace, operator, PROVIDER, PATIENCE);
    provider(&world, cloud).await;
    scripts(&world.namespace).await;
    image(&world, cloud, "./prepare.sh").await;
    world.pool("tiny", 1, json!({"image": "ci", "flavor": {"name": "tiny"}})).await;
    let good = version(&world, ImageState::Ready).await;
    told("the image is made and was tried");
    let log = good.status.clone().unwrap().log.unwrap();
    assert!(log.contains("preparing for a real machine"), "{log}");
    let node = world.pool_ready("tiny", 1).await.remove(0);
    told("a node of it is ready");
    assert_eq!(node.spec.provider_image, Some(good.name_any()));
    // Whoever reads the node's status gets in, and nobody else's machine would do.
    let word = log_in(cloud, &node, "cat /etc/made-for").unwrap();
    assert_eq!(word, "a real machine");
    assert_eq!(log_in(cloud, &node, "cat /usr/share/nodepool-proof/word").unwrap(), "installed\n");
    let installed = log_in(cloud, &node, "dpkg-query -W -f '${Version} ${db:Status-Status}' nodepool-proof").unwrap();
    assert_eq!(installed, "1.0 installed");
    let console = project.console(&text(&json!(node.status.as_ref().unwrap().server_id))).await;
    let keys = &node.status.as_ref().unwrap().host_keys;
    assert!(!keys.is_empty() && keys.iter().all(|key| console.contains(key)), "{keys:?} in {console}");

    image(&world, cloud, "./prepare.sh && rm /etc/ssh/sshd_config").await;
    let bad = version(&world, ImageState::Rejected).await;
    told("the image without sshd is rejected");
    let fault = bad.status.clone().unwrap().fault.unwrap();
    assert!(fault.message.contains("did not answer"), "{}", fault.message);
    let console = fault.console.unwrap();
    assert!(console.contains("/etc/ssh/sshd_config"), "the console tells why: {console}");
    let shown = status(&world).await;
    assert_eq!(shown["current"], json!(good.name_any()), "{shown}");
    world.reason::<DiskImage>("ci", "UpToDate", "BuildFailed").await;
    world.condition::<DiskImage>("ci", "Available", "True").await;
    let still = world.pool_ready("tiny", 1).await.remove(0);
    assert_eq!(still.uid(), node.uid(), "no idle node was replaced");
    assert_eq!(log_in(cloud, &still, "cat /etc/made-for").unwrap(), "a real machine");

    world.delete::<Pool>("tiny").await;
    world.delete::<DiskImage>("ci").await;
    nothing_is_left(&world, &project).await;
    told("nothing is left");
}

async fn provider(world: &World, cloud: &OpenStack) {
    let clouds = json!({"clouds": {"cloud": cloud.cloud("lab")}}).to_string();
    world.namespace.secret(PROVIDER, &[("clouds.yaml", &clouds)]).await;
    let spec = json!({
        "cloud": {"secretRef": {"name": PROVIDER}, "cloudName": "cloud"}, "networks": ["private"], "configDrive": true,
        "keyPair": KEY_PAIR, "maxServers": 2, "requestsPerSecond": 50, "launchTimeout": "10m", "bootTimeout": "3m",
    });
    world.apply("Provider", PROVIDER, spec).await;
    world.condition::<Provider>(PROVIDER, "Ready", "True").await;
}

async fn image(world: &World, cloud: &OpenStack, setup: &str) {
    let login = json!({"username": "root", "port": cloud.ssh_port()});
    let source = json!({"snapshot": {
        "baseImage": {"name": "debian-13"}, "flavor": {"name": "tiny"}, "login": {"username": "root"},
        "scriptsConfigMapRef": {"name": "scripts"}, "setup": setup, "env": {"WHO": "a real machine"},
    }});
    let spec = json!({
        "providers": [PROVIDER], "source": source, "login": login, "buildTimeout": "15m",
        "refresh": {"schedule": "0 0 1 1 *", "jitter": "0s"},
    });
    world.apply("DiskImage", "ci", spec).await;
}

/// The script, and beside it a package for it to install.
async fn scripts(namespace: &Namespace) {
    let package = BASE64_STANDARD.encode(fs::read(package(namespace.name())).unwrap());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"},
        "data": {"prepare.sh": PREPARE}, "binaryData": {"nodepool-proof.deb": package},
    });
    namespace.kubectl().apply_json(&map).await;
}

/// The path of a package that puts one file on a machine.
fn package(unique: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("usr/share/nodepool-proof")).unwrap();
    let control = "Package: nodepool-proof\nVersion: 1.0\nArchitecture: all\nMaintainer: CI <ci@example.org>\n\
                   Description: a file that shows that it is installed\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(tree.join("usr/share/nodepool-proof/word"), "installed\n").unwrap();
    let path = folder.join("nodepool-proof.deb");
    let made = Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    path
}

/// What a command prints on a node: logs in as a CI job would, by the node's status alone.
fn log_in(cloud: &OpenStack, node: &PoolNode, command: &str) -> Result<String, String> {
    let status = node.status.clone().unwrap();
    let (address, port) = (status.address.unwrap(), cloud.ssh_port());
    let known: String = status.host_keys.iter().map(|key| format!("[{address}]:{port} {key}\n")).collect();
    let known_hosts = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("known-{}", node.uid().unwrap()));
    fs::write(&known_hosts, known).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=60"]);
    ssh.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-p", &port.to_string()]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    ssh.arg("-i").arg(cloud.folder().join("id_ed25519")).arg(format!("root@{address}")).arg(command);
    let output = ssh.output().unwrap();
    fs::remove_file(&known_hosts).unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The first version that gets into this state. One that fails on the way, as on a machine too busy to boot another in
/// time, is made again.
async fn version(world: &World, wanted: ImageState) -> ProviderImage {
    eventually(PATIENCE, || async {
        let versions = world.namespace.list::<ProviderImage>().await;
        let shown: Vec<Value> = versions.iter().map(|version| json!([version.name_any(), version.status])).collect();
        versions
            .into_iter()
            .find(|version| version.state() == wanted)
            .ok_or_else(|| format!("no {wanted:?}: {shown:?}"))
    })
    .await
}

/// What the DiskImage says of its only provider.
async fn status(world: &World) -> Value {
    json!(world.get::<DiskImage>("ci").await)["status"]["providers"][0].clone()
}

/// Waits until no server, image or key pair of ours is in the cloud.
async fn nothing_is_left(world: &World, project: &Project) {
    let mark = format!("{}/{PROVIDER}", world.namespace.name());
    eventually(PATIENCE, || async {
        let servers = project.servers_of(&mark).await.len();
        let versions = world.namespace.list::<ProviderImage>().await.len();
        let images = project.get("image", "/images?limit=1000").await["images"].take();
        let ours = |image: &&Value| image["nodepool_owner"].is_string();
        let images = images.as_array().unwrap().iter().filter(ours).count();
        let pairs = project.get("compute", "/os-keypairs").await["keypairs"].take();
        let pairs = pairs.as_array().unwrap().iter().filter(|pair| pair["keypair"]["name"] != KEY_PAIR).count();
        let left = [servers, versions, images, pairs];
        if left == [0; 4] { Ok(()) } else { Err(format!("servers, versions, images, key pairs left: {left:?}")) }
    })
    .await;
}
