//! The `openstack` command, as people type it.

use serde_json::{Value, json};

use super::cloud::{Cloud, FINGERPRINT, OTHERS, PUBLIC_KEY};
use super::prompt::{Prompt, fails, run};

/// One column of a list, in order of the names.
fn column(list: &Value, name: &str) -> Vec<String> {
    let rows = list.as_array().unwrap().iter();
    let mut values: Vec<String> = rows.map(|row| row[name].as_str().unwrap().to_owned()).collect();
    values.sort();
    values
}

fn names(list: &Value) -> Vec<String> {
    column(list, "Name")
}

#[tokio::test]
async fn server() {
    let cloud = Cloud::with_other_servers().await;
    let mut openstack = Prompt::open(&cloud);
    let create = "server create --image debian-13 --flavor small --network private --property job=7 --wait web";
    let made = openstack.ask(create).await;
    let truth = cloud.servers("web").await[0].clone();
    assert_eq!((&made["name"], &made["status"], &made["id"]), (&json!("web"), &json!("ACTIVE"), &truth["id"]));
    assert_eq!(made["image"], format!("debian-13 ({})", truth["image"].as_str().unwrap()));
    assert_eq!((&made["flavor"]["name"], &made["flavor"]["ram"]), (&json!("small"), &json!(2048)));
    assert_eq!((&made["addresses"]["private"], &made["properties"]), (&truth["addresses"], &json!({"job": "7"})));

    let shown = openstack.ask("server show web").await;
    assert_eq!((&shown["id"], &shown["addresses"]), (&made["id"], &made["addresses"]));
    let list = openstack.ask("server list").await;
    assert_eq!(names(&list), [&OTHERS[..], &["web"]].concat());
    let found = openstack.ask("server list --name ^web$ --long").await;
    assert_eq!(
        (found.as_array().unwrap().len(), &found[0]["ID"], &found[0]["Status"]),
        (1, &made["id"], &json!("ACTIVE"))
    );
    assert_eq!((&found[0]["Image Name"], &found[0]["Flavor"]), (&json!("debian-13"), &json!("small")));

    openstack.refused("server show nobody", "No Server found for nobody").await;
    openstack.refused("server create --image nothing --flavor small --network private x", "nothing").await;
    openstack.tell("server delete --wait web").await;
    assert_eq!(names(&openstack.ask("server list").await), OTHERS);
    assert!(cloud.servers("web").await.is_empty());
    openstack.end().await;

    fails(&cloud, &["server", "show", "nobody"], "No Server found for nobody").await;
    cloud.end().await;
}

#[tokio::test]
async fn image() {
    let cloud = Cloud::start().await;
    let (path, data) = cloud.image_file();
    let mut openstack = Prompt::open(&cloud);
    let create = "image create --disk-format raw --private --property build=41 --file";
    let made = openstack.ask(&format!("{create} {} golden", path.display())).await;
    let shown = openstack.ask("image show golden").await;
    assert_eq!((&shown["id"], &shown["status"]), (&made["id"], &json!("active")));
    assert_eq!((&shown["size"], &shown["disk_format"]), (&json!(data.len()), &json!("raw")));
    assert_eq!((&shown["visibility"], &shown["properties"]["build"]), (&json!("private"), &json!("41")));

    assert_eq!(names(&openstack.ask("image list").await), ["debian-13", "golden", "ubuntu-24.04"]);
    assert_eq!(names(&openstack.ask("image list --private").await), ["golden"]);
    assert_eq!(names(&openstack.ask("image list --name golden").await), ["golden"]);
    openstack.refused("image show nothing", "No Image found for nothing").await;
    openstack.tell("image set --protected golden").await;
    assert_eq!(openstack.ask("image show golden").await["protected"], true);
    fails(&cloud, &["image", "delete", "golden"], "is protected and cannot be deleted.").await;
    openstack.tell("image set --unprotected golden").await;
    openstack.tell("image delete golden").await;
    assert_eq!(names(&openstack.ask("image list").await), ["debian-13", "ubuntu-24.04"]);
    openstack.end().await;
    cloud.end().await;
}

#[tokio::test]
async fn key_pair() {
    let cloud = Cloud::start().await;
    let key = cloud.file("ci.pub", PUBLIC_KEY.as_bytes());
    let create = format!("keypair create --public-key {} ci", key.display());
    let mut openstack = Prompt::open(&cloud);
    let made = openstack.ask(&create).await;
    assert_eq!(
        (&made["name"], &made["fingerprint"], &made["type"]),
        (&json!("ci"), &json!(FINGERPRINT), &json!("ssh"))
    );
    openstack.refused(&create, "Key pair 'ci' already exists.").await;
    let shown = openstack.ask("keypair show ci").await;
    assert_eq!((&shown["name"], &shown["fingerprint"]), (&made["name"], &made["fingerprint"]));
    let list = openstack.ask("keypair list").await;
    assert_eq!(list, json!([{"Name": "ci", "Fingerprint": FINGERPRINT, "Type": "ssh"}]));
    openstack.refused("keypair show nobody", "No Keypair found for nobody").await;
    openstack.tell("keypair delete ci").await;
    assert_eq!(openstack.ask("keypair list").await, json!([]));
    openstack.end().await;

    // Makes a key on this machine and says only its private half.
    let output = run(&cloud, &["keypair", "create", "made"]).await;
    assert!(output.status.success() && output.stdout.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----\n"));
    let made = ["keypair", "create", "made"];
    fails(&cloud, &made, "Key pair 'made' already exists.").await;
    cloud.end().await;
}

#[tokio::test]
async fn port() {
    let cloud = Cloud::with_other_ports().await;
    let mut openstack = Prompt::open(&cloud);
    let network = openstack.ask("network show private").await;
    let made = openstack.ask("port create --network private --description ours mine").await;
    assert_eq!((&made["name"], &made["network_id"], &made["status"]), (&json!("mine"), &network["id"], &json!("DOWN")));
    assert_eq!((&made["description"], &made["fixed_ips"][0]["subnet_id"]), (&json!("ours"), &network["subnets"][0]));
    openstack.refused("port create --network private more", "Quota exceeded for resources: ['port'].").await;
    let shown = openstack.ask("port show mine").await;
    assert_eq!((&shown["id"], &shown["fixed_ips"]), (&made["id"], &made["fixed_ips"]));
    assert_eq!(names(&openstack.ask("port list").await), ["mine", "other-1", "other-2"]);
    assert_eq!(names(&openstack.ask("port list --name mine").await), ["mine"]);
    assert_eq!(names(&openstack.ask("port list --network private").await), ["mine", "other-1", "other-2"]);
    openstack.refused("port show nobody", "No Port found for nobody").await;
    openstack.tell("port delete mine").await;
    assert_eq!(names(&openstack.ask("port list").await), ["other-1", "other-2"]);
    openstack.end().await;

    fails(&cloud, &["port", "create", "--network", "nothing", "x"], "No Network found for nothing").await;
    cloud.end().await;
}

#[tokio::test]
async fn floating_ip() {
    let cloud = Cloud::start().await;
    let mut openstack = Prompt::open(&cloud);
    let network = openstack.ask("network show public").await;
    let port = openstack.ask("port create --network private mine").await;
    let made = openstack.ask("floating ip create --description ours public").await;
    let address = made["floating_ip_address"].as_str().unwrap();
    assert_eq!((&made["floating_network_id"], &made["description"]), (&network["id"], &json!("ours")));
    assert_eq!((&made["port_id"], &made["status"]), (&Value::Null, &json!("DOWN")));
    let shown = openstack.ask(&format!("floating ip show {address}")).await;
    assert_eq!((&shown["id"], &shown["floating_ip_address"]), (&made["id"], &made["floating_ip_address"]));
    assert_eq!(column(&openstack.ask("floating ip list").await, "Floating IP Address"), [address]);

    openstack.tell(&format!("floating ip set --port mine {address}")).await;
    let list = openstack.ask("floating ip list --port mine").await;
    assert_eq!((&list[0]["Port"], &list[0]["Fixed IP Address"]), (&port["id"], &port["fixed_ips"][0]["ip_address"]));
    openstack.refused("floating ip create --port mine public", "already has a floating IP").await;
    openstack.tell(&format!("floating ip unset --port {address}")).await;
    assert_eq!(openstack.ask("floating ip list --port mine").await, json!([]));
    openstack.refused("floating ip show 127.1.2.3", "No FloatingIP found for 127.1.2.3").await;
    openstack.tell(&format!("floating ip delete {address}")).await;
    assert_eq!(openstack.ask("floating ip list").await, json!([]));
    openstack.end().await;

    fails(&cloud, &["floating", "ip", "create", "private"], "is not a valid external network").await;
    cloud.end().await;
}

#[tokio::test]
async fn tags() {
    let cloud = Cloud::start().await;
    let mut openstack = Prompt::open(&cloud);
    let boot = "server create --image debian-13 --flavor small --network private --tag boot --wait tagged";
    assert_eq!(openstack.ask(boot).await["tags"], json!(["boot"]));
    openstack.ask("port create --network private --tag boot tagged").await;
    openstack.ask(&format!("image create --tag boot --file {} tagged", cloud.image_file().0.display())).await;
    openstack.ask("floating ip create --tag boot public").await;
    let address = column(&openstack.ask("floating ip list --tags boot").await, "Floating IP Address").remove(0);
    let things = [
        ("server", "tagged", "--tags"),
        ("port", "tagged", "--tags"),
        ("image", "tagged", "--tag"),
        ("floating ip", &address, "--tags"),
    ];
    for (thing, name, by_tag) in things {
        openstack.tell(&format!("{thing} set --tag a --tag b {name}")).await;
        assert_eq!(held(&openstack.ask(&format!("{thing} show {name}")).await), ["a", "b", "boot"]);
        let found = openstack.ask(&format!("{thing} list {by_tag} a")).await;
        assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
        openstack.tell(&format!("{thing} unset --tag boot {name}")).await;
        assert_eq!(held(&openstack.ask(&format!("{thing} show {name}")).await), ["a", "b"]);
        assert_eq!(openstack.ask(&format!("{thing} list {by_tag} boot")).await, json!([]));
    }
    openstack.end().await;
    cloud.end().await;
}

fn held(thing: &Value) -> Vec<String> {
    let mut tags: Vec<String> = serde_json::from_value(thing["tags"].clone()).unwrap();
    tags.sort();
    tags
}
