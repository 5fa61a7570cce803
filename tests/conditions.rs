//! What admission cannot know becomes a condition within seconds, says what to write instead, heals by itself when
//! that is written, and delays nobody else (rules 13, 15); and no secret of all this is ever shown (rule 16).
//!
//! One operator and one simulated cloud serve all rows of the table at once, beside one healthy pool. What admission
//! does know is `tests/bad_input.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "conditions/rows.rs"]
mod rows;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{StreamExt, stream};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use rows::clouds;
use serde_json::{Value, json};
use support::{Namespace, Operator, Simulator, SimulatorOptions, eventually};
use tokio::time::Instant;

/// Until a condition tells what is wrong; the promise of rule 15.
const WITHIN: Duration = Duration::from_secs(5);
/// Until it is gone again after the correction. What only another try can tell waits for the next one.
const HEALED_WITHIN: Duration = Duration::from_secs(40);
/// Rows that start at once: as many people as do something at the same moment.
const AT_ONCE: usize = 6;

/// Words that stand in the credentials and the user data, and must never be seen anywhere else.
const PASSWORD: &str = "canary-password-Zk4wq";
const WRONG: &str = "canary-wrong-R8sdu";
const USER_DATA: &str = "canary-userdata-Tn3vb";

/// One mistake, what is said about it, and what mends it.
struct Row {
    name: &'static str,
    /// What is there and works before; the DiskImage among it becomes Available first.
    before: Vec<Value>,
    mistake: Vec<Value>,
    /// Kind, name and condition of the object that tells.
    told: (&'static str, String, &'static str),
    reason: &'static str,
    /// What the message must hold: the thing to correct, in the user's words.
    says: String,
    correction: Vec<Value>,
    /// Kind, name and condition that must become True.
    healed: (&'static str, String, &'static str),
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn secret(name: &str, data: Value) -> Value {
    // Not stringData: a key that is left out of that stays in the Secret.
    let encoded = |(key, text): (&String, &Value)| (key.clone(), json!(BASE64.encode(text.as_str().unwrap())));
    let data: serde_json::Map<String, Value> = data.as_object().unwrap().iter().map(encoded).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
}

fn merged(mut into: Value, from: Value) -> Value {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
    into
}

/// The world of all rows: a good Secret, Provider, DiskImage and Pool, each named `good`.
struct Scene {
    namespace: Namespace,
    simulator: Simulator,
    port: u64,
}

impl Scene {
    fn provider(&self, name: &str, secret: &str, rest: Value) -> Value {
        let cloud = json!({"secretRef": {"name": secret}, "cloudName": self.simulator.cloud_name()});
        let spec = json!({
            "cloud": cloud, "maxServers": 2, "requestsPerSecond": 1000, "launchTimeout": "10s", "bootTimeout": "5s",
        });
        ours("Provider", name, merged(spec, rest))
    }

    fn image(&self, name: &str, provider: &str, rest: Value) -> Value {
        let spec = json!({
            "providers": [provider], "source": {"existing": {"name": "debian-13"}},
            "login": {"username": "debian", "port": self.port},
        });
        ours("DiskImage", name, merged(spec, rest))
    }

    fn pool(&self, name: &str, provider: &str, rest: Value) -> Value {
        let spec = json!({
            "image": "good", "flavor": {"name": "small"}, "providers": [{"name": provider}], "minReady": 1,
        });
        ours("Pool", name, merged(spec, rest))
    }

    /// As `kubectl apply --server-side` does.
    async fn apply(&self, object: &Value) {
        let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap_or(("", "v1"));
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let resource = ApiResource::from_gvk(&kind);
        let api = Api::<DynamicObject>::namespaced_with(self.namespace.client(), self.namespace.name(), &resource);
        let parameters = PatchParams::apply("somebody").force();
        let name = object["metadata"]["name"].as_str().unwrap();
        if let Err(error) = api.patch(name, &parameters, &Patch::Apply(object)).await {
            panic!("{object}: {error}");
        }
    }

    async fn apply_all(&self, objects: &[Value]) {
        for object in objects {
            self.apply(object).await;
        }
    }

    async fn condition(&self, (kind, name, condition): &(&str, String, &str)) -> Result<Value, String> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("nodepool.dev", "v1alpha1", kind));
        let api = Api::<DynamicObject>::namespaced_with(self.namespace.client(), self.namespace.name(), &resource);
        let object = api.get(name).await.map_err(|error| error.to_string())?;
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|found| found["type"] == *condition).cloned();
        let found = found.ok_or_else(|| format!("no condition {condition}: {conditions:?}"))?;
        if found["observedGeneration"] == object.metadata.generation.unwrap_or_default() {
            Ok(found)
        } else {
            Err(format!("not yet observed: {found}"))
        }
    }

    async fn wait(
        &self,
        row: &str,
        told: &(&'static str, String, &'static str),
        within: Duration,
        status: &str,
    ) -> Value {
        eventually(within, || async move {
            match self.condition(told).await? {
                found if found["status"] == status => Ok(found),
                other => Err(format!("{row}: {told:?} is not {status}: {other}")),
            }
        })
        .await
    }

    /// What is wrong with how a mistake is told, and how long that took.
    async fn make_mistake(&self, row: &Row) -> (Duration, Option<String>) {
        self.apply_all(&row.before).await;
        for image in row.before.iter().filter(|object| object["kind"] == "DiskImage") {
            let name = image["metadata"]["name"].as_str().unwrap().to_owned();
            self.wait(row.name, &("DiskImage", name, "Available"), HEALED_WITHIN, "True").await;
        }
        self.apply_all(&row.mistake).await;
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < WITHIN {
            match self.condition(&row.told).await {
                Ok(found) if found["status"] == "False" && found["reason"] == row.reason => {
                    let message = found["message"].as_str().unwrap();
                    println!("{}: {}: {message}", row.name, row.reason);
                    if message.contains(&row.says) {
                        return (start.elapsed(), None);
                    }
                    last = found.to_string();
                }
                Ok(other) => last = other.to_string(),
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let wanted = format!("{:?} False {} … {} …", row.told, row.reason, row.says);
        (start.elapsed(), Some(format!("{}:\n  is     {last}\n  wanted {wanted}", row.name)))
    }

    async fn correct(&self, row: &Row) {
        self.apply_all(&row.correction).await;
        self.wait(row.name, &row.healed, HEALED_WITHIN, "True").await;
    }
}

/// A cloud behind a certificate of an authority that nobody knows.
async fn unknown_authority(scene: &Scene) -> (Simulator, Row) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let write = |name: &str, text: String| {
        let path = directory.join(format!("{}-{name}", scene.namespace.name()));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = write("certificate.pem", certified.cert.pem());
    let key = write("key.pem", certified.signing_key.serialize_pem());
    let simulator = SimulatorOptions::default()
        .arg(format!("--password={PASSWORD}"))
        .arg(format!("--tls-certificate={certificate}"))
        .arg(format!("--tls-key={key}"))
        .start()
        .await;
    let (name, id) = ("authority is unknown", "authority-is-unknown".to_owned());
    let data = clouds(simulator.url(), PASSWORD, "");
    let row = Row {
        name,
        before: Vec::new(),
        mistake: vec![secret(&id, data.clone()), scene.provider(&id, &id, json!({}))],
        told: ("Provider", id.clone(), "Ready"),
        reason: "InvalidConfiguration",
        says: "put the authority's PEM under the key `cacert` of the Secret".to_owned(),
        correction: vec![secret(&id, merged(data, json!({"cacert": certified.cert.pem()})))],
        healed: ("Provider", id, "Ready"),
    };
    (simulator, row)
}

async fn scene() -> (Scene, Operator) {
    let namespace = Namespace::new().await;
    let args = ["--boot-time=0s", "--delete-time=0s", "--max-servers=-1"].map(str::to_owned);
    let options = SimulatorOptions::default().arg(format!("--password={PASSWORD}"));
    let simulator = args.into_iter().fold(options, SimulatorOptions::arg).start().await;
    simulator.settings(json!({"catalogInterfaces": ["public", "internal"]})).await;
    let port = simulator.state().await["sshPort"].as_u64().unwrap();
    let scene = Scene { namespace, simulator, port };
    let good = [
        secret("good", json!({"clouds.yaml": scene.simulator.clouds_yaml()})),
        scene.provider("good", "good", json!({"maxServers": 100})),
        scene.image("good", "good", json!({})),
        scene.image("others", "good", json!({"providers": ["somebody-elses"]})),
        scene.pool("good", "good", json!({})),
    ];
    scene.apply_all(&good).await;
    let operator = Operator::for_namespace(&scene.namespace).log_filter("debug").start();
    operator.ready(Duration::from_secs(10)).await;
    (scene, operator)
}

#[tokio::test]
async fn every_mistake_is_told_within_seconds_and_heals_when_corrected() {
    let (scene, operator) = scene().await;
    let healthy = ("Pool", "good".to_owned(), "Available");
    let before = scene.wait("good", &healthy, HEALED_WITHIN, "True").await;

    let (_secured, row) = unknown_authority(&scene).await;
    let mut rows = vec![row];
    rows.extend(rows::wrong_secrets(&scene));
    rows.extend(rows::wrong_providers(&scene));
    rows.extend(rows::idle_pools(&scene));
    rows.extend(rows::wrong_pools(&scene));
    rows.extend(rows::refused_boots(&scene));
    rows.extend(rows::wrong_images(&scene));
    rows.extend(rows::waiting_requests(&scene));
    assert!(rows.len() >= 40, "{} rows are left", rows.len());

    let told = stream::iter(&rows).map(|row| scene.make_mistake(row)).buffer_unordered(AT_ONCE);
    let told: Vec<(Duration, Option<String>)> = told.collect().await;
    let slowest = told.iter().map(|(took, _)| *took).max().unwrap();
    let complaints: Vec<String> = told.into_iter().filter_map(|(_, complaint)| complaint).collect();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), rows.len(), complaints.join("\n"));

    for row in rows.iter().filter(|row| row.reason == "LaunchesFailing") {
        let healthy = (row.told.0, row.told.1.clone(), "LaunchHealthy");
        let told = scene.wait(row.name, &healthy, HEALED_WITHIN, "False").await;
        assert!(told["message"].as_str().unwrap().contains(&row.says), "{told}");
    }
    // All of them are wrong at once now, and the good pool did not even blink; it still does what it is told.
    let after = scene.condition(&healthy).await.unwrap();
    assert_eq!(after["lastTransitionTime"], before["lastTransitionTime"], "{after}");
    scene.apply(&scene.pool("good", "good", json!({"minReady": 3}))).await;
    scene.wait("good", &healthy, WITHIN, "True").await;

    stream::iter(&rows).for_each_concurrent(rows.len(), |row| scene.correct(row)).await;
    println!("{} mistakes were told, the slowest after {slowest:?}, and healed", rows.len());
    no_secret_is_shown(&scene, &operator).await;
}

/// Whatever was written, logged, counted or told about all this, no secret is in it (rule 16).
async fn no_secret_is_shown(scene: &Scene, operator: &Operator) {
    let kubectl = scene.namespace.kubectl();
    let mut shown = vec![("log", operator.log()), ("metrics", operator.metrics().await)];
    for what in ["nodepool", "events", "events.events.k8s.io"] {
        shown.push((what, kubectl.run(&["get", what, "--output=yaml", "--show-managed-fields"]).await.ok().unwrap()));
    }
    for (place, text) in &shown {
        assert!(text.len() > 1000, "nothing is in {place}: {text}");
    }
    let mut secrets: Vec<String> = [PASSWORD, WRONG, USER_DATA].map(str::to_owned).to_vec();
    secrets.extend(secrets.clone().iter().map(|secret| BASE64.encode(secret)));
    // What every token of the simulated Keystone begins with.
    secrets.push("gAAAAAB".to_owned());
    for (place, text) in &shown {
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "a secret is in {place}: {}", line.unwrap_or_default());
        }
    }
}
