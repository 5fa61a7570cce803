//! Where the operator connects to, and where not, whatever a Provider, a catalogue or a DiskImage says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use nodepool_operator::api::{DiskImage, Provider};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::world::SOON;
use crate::support::{Namespace, Operator, Simulator, World};

/// The variable that support opens this machine with.
const ALLOWED: &str = "NODEPOOL_ALLOW_NETWORK";
const CLUSTER: &str = "NODEPOOL_CLUSTER_NETWORK";

/// A server that counts who asks it, and sends everybody on.
struct Witness {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

async fn seen(State((asked, to)): State<(Arc<AtomicUsize>, String)>) -> Response {
    asked.fetch_add(1, Ordering::SeqCst);
    (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
}

impl Witness {
    /// Listens on this address, and redirects to `to`, with its own port for `PORT`.
    async fn start(at: &str, to: &str) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let to = to.replace("PORT", &address.port().to_string());
        let router = Router::new().fallback(any(seen)).with_state((asked.clone(), to));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// An operator with these variables, and a namespace for it.
async fn operator(variables: &[(&str, &str)]) -> (Namespace, Operator) {
    let namespace = Namespace::new().await;
    let options = Operator::for_namespace(&namespace);
    let operator = variables.iter().fold(options, |options, (name, value)| options.env(*name, *value)).start();
    operator.ready(SOON).await;
    (namespace, operator)
}

/// A Provider whose cloud is said to be at this address.
async fn provider_at(world: &World, url: &str) {
    let auth = json!({"auth_url": url, "username": "ci", "password": "x", "project_name": "ci"});
    let text = json!({"clouds": {"openstack": {"auth": auth}}}).to_string();
    world.namespace.secret("cloud", &[("clouds.yaml", &text)]).await;
    world.apply("Provider", "a", json!({"cloud": {"secretRef": {"name": "cloud"}}, "maxServers": 1})).await;
}

/// What the Provider says of why it is not ready.
async fn told(world: &World) -> String {
    let condition = world.condition::<Provider>("a", "Ready", "False").await;
    condition["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_cloud_is_not_looked_for_where_only_the_operator_reaches() {
    let witness = Witness::start("127.0.0.1", "http://127.0.0.1:PORT/again").await;
    let port = witness.address.port();
    for (url, variables, said) in [
        (format!("http://127.0.0.1:{port}/v3"), vec![(ALLOWED, "")], "loopback"),
        (format!("http://localhost:{port}/v3"), vec![(ALLOWED, "")], "loopback"),
        (format!("http://[::ffff:127.0.0.1]:{port}/v3"), vec![(ALLOWED, "")], "loopback"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), vec![], "link-local"),
        ("http://10.96.0.1/v3".to_owned(), vec![(CLUSTER, "10.96.0.0/12")], "in the cluster"),
        ("https://10.96.0.1/v3".to_owned(), vec![("KUBERNETES_SERVICE_HOST", "10.96.0.1")], "in the cluster"),
    ] {
        let (namespace, operator) = operator(&variables).await;
        let world = World::of(namespace, operator, "a", SOON);
        provider_at(&world, &url).await;
        let message = told(&world).await;
        assert!(message.contains(said) && message.contains("--allow-network"), "{url}: {message}");
    }
    assert_eq!(witness.asked(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_catalogue_leads_nowhere_else() {
    let cloud = Simulator::start(&["--boot-time=0s"]).await;
    // The cloud itself is open, by its one address; what its catalogue names is at another one of the same machine.
    let (namespace, operator) = operator(&[(ALLOWED, "127.0.0.1/32")]).await;
    let world = World::of(namespace, operator, "a", SOON);
    let witness = Witness::start("127.0.0.2", "http://127.0.0.2:PORT/").await;
    cloud.secret(&world.namespace, "cloud").await;
    cloud.settings(json!({"catalogUrls": {"compute": format!("http://{}/v2.1", witness.address)}})).await;
    let spec = json!({"cloud": {"secretRef": {"name": "cloud"}, "cloudName": cloud.cloud_name()}, "maxServers": 1});
    world.apply("Provider", "a", spec).await;
    let message = told(&world).await;
    assert!(message.contains("127.0.0.2 is not connected to"), "{message}");
    assert_eq!(witness.asked(), 0);
}

/// A DiskImage of a file at this address; what it says of why there is no version.
async fn image_at(world: &World, name: &str, url: &str, checksum: Value) -> String {
    let source = json!({"url": {"url": url, "format": "raw", "checksum": checksum}});
    let spec =
        json!({"providers": ["a"], "source": source, "login": {"username": "debian"}, "validation": {"boots": 0}});
    world.apply("DiskImage", name, spec).await;
    let condition = world.reason::<DiskImage>(name, "UpToDate", "BuildFailed").await;
    condition["message"].as_str().unwrap().to_owned()
}

/// A world whose cloud is open by its one address, while the rest of the machine is closed.
async fn closed_world(variables: &[(&str, &str)]) -> World {
    let builder = World::builder().cloud("a", 2);
    let (clouds, namespace) = builder.prepare().await;
    let options = Operator::for_namespace(&namespace).env(ALLOWED, "127.0.0.1/32");
    let options = variables.iter().fold(options, |options, (name, value)| options.env(*name, *value));
    builder.run(clouds, namespace, options).await
}

#[tokio::test]
async fn an_image_is_not_fetched_from_where_only_the_operator_reaches() {
    let world = closed_world(&[]).await;
    let witness = Witness::start("127.0.0.2", "http://127.0.0.2:PORT/").await;
    let port = witness.address.port();
    let digest = json!({"value": "0".repeat(64)});
    let file = image_at(&world, "file", &format!("http://127.0.0.2:{port}/disk.raw"), digest.clone()).await;
    let list = json!({"url": format!("http://127.0.0.2:{port}/SHA256SUMS")});
    let list = image_at(&world, "list", "http://203.0.113.1/disk.raw", list).await;
    let metadata = image_at(&world, "metadata", "http://169.254.169.254/latest/user-data", digest).await;
    for (message, why) in [(file, "loopback"), (list, "loopback"), (metadata, "link-local")] {
        assert!(message.contains(why) && message.contains("--allow-network"), "{message}");
    }
    assert_eq!(witness.asked(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_redirect_is_followed_to_the_same_host_only_unless_the_installation_says_otherwise() {
    let digest = json!({"value": "0".repeat(64)});
    let witness = Witness::start("127.0.0.1", "http://127.0.0.1:PORT/again").await;
    let elsewhere = Witness::start("127.0.0.1", "http://localhost:PORT/").await;
    let world = closed_world(&[]).await;
    let url = |witness: &Witness| format!("http://{}/disk.raw", witness.address);
    let same = image_at(&world, "same", &url(&witness), digest.clone()).await;
    assert!(same.contains("redirects more than 5 times"), "{same}");
    assert_eq!(witness.asked() % 6, 0, "{}", witness.asked());
    let other = image_at(&world, "other", &url(&elsewhere), digest.clone()).await;
    assert!(
        other.contains("127.0.0.1 redirects to another host, localhost") && other.contains("--image-redirects"),
        "{other}"
    );

    let world = closed_world(&[("NODEPOOL_IMAGE_REDIRECTS", "any-host")]).await;
    // The other host is judged as any is: its name leads to this machine and to `::1`, and the one that is open is taken.
    let before = elsewhere.asked();
    let other = image_at(&world, "other", &url(&elsewhere), digest.clone()).await;
    assert!(other.contains("redirects more than 5 times"), "{other}");
    assert!(elsewhere.asked() > before + 1);
    let metadata = Witness::start("127.0.0.1", "http://169.254.169.254/latest").await;
    let closed = image_at(&world, "metadata", &url(&metadata), digest).await;
    assert!(closed.contains("link-local"), "{closed}");
}
