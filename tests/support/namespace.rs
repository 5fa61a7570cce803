//! A namespace of one test's own: what makes tests independent of each other on one API server.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{ControlPlane, Kubectl, canary, within};

/// Kind and plural of all our resources, dependents first.
const KINDS: [(&str, &str); 6] = [
    ("NodeRequest", "noderequests"),
    ("Pool", "pools"),
    ("PoolNode", "poolnodes"),
    ("ProviderImage", "providerimages"),
    ("DiskImage", "diskimages"),
    ("Provider", "providers"),
];

/// A namespace that is deleted with all its content at the end of the test.
///
/// Declare it before the operators that watch it: what is declared last is dropped first.
pub struct Namespace {
    name: String,
    plane: &'static ControlPlane,
    client: Client,
}

impl Namespace {
    /// A new namespace on the shared control plane, named after the test.
    pub async fn new() -> Self {
        Self::on(ControlPlane::shared()).await
    }

    /// A new namespace on this control plane, named after the test.
    pub async fn on(plane: &'static ControlPlane) -> Self {
        let client = plane.client().await;
        let thread = std::thread::current();
        let test: String = thread.name().unwrap_or("main").rsplit("::").next().unwrap_or_default().to_lowercase();
        let test = test.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("t-{test:.40}-{unique:.8}");
        let object: v1::Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Self { name, plane, client }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The control plane it is on.
    pub fn plane(&self) -> &'static ControlPlane {
        self.plane
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self) -> Kubectl {
        self.plane.kubectl(&self.name)
    }

    /// The objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// All objects of one kind, read from etcd.
    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Watches one object until `condition` holds; `None` is an object that does not exist.
    pub async fn wait_for<K>(&self, name: &str, deadline: Duration, condition: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Send + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        let waited = await_condition(self.api::<K>(), name, condition);
        within(deadline, &format!("a condition of {name}"), waited).await.unwrap()
    }

    /// Puts a Secret here, such as a provider's clouds.yaml.
    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: serde_json::Map<_, _> = data.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        self.kubectl().apply_json(&secret).await;
    }

    fn show(&self) {
        for args in [&["get", "nodepool", "--output", "wide"][..], &["get", "events", "--sort-by=.lastTimestamp"]] {
            match self.kubectl().command().args(args).output() {
                Ok(output) => eprintln!("--- kubectl {}\n{}", args.join(" "), String::from_utf8_lossy(&output.stdout)),
                Err(error) => eprintln!("--- kubectl {}: {error}", args.join(" ")),
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        let (plane, name) = (self.plane, self.name.clone());
        // A thread of its own: this one may be inside a runtime, and a client is bound to the runtime that made it.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), clean(plane, &name)).await })
        });
        // What is left behind costs the shared server a little; it must not hide why the test failed.
        match cleaned.join() {
            Ok(Ok(Ok(shown))) => canary::look_for("an object or an event", &shown),
            _ => eprintln!("namespace {} was not cleaned up", self.name),
        }
    }
}

/// Deletes the namespace, and returns what its objects of ours and its events showed. The operator is gone by now, so nobody else
/// will take its finalizers off.
async fn clean(plane: &ControlPlane, name: &str) -> kube::Result<String> {
    let client = plane.client().await;
    let events = Api::<v1::Event>::namespaced(client.clone(), name).list(&ListParams::default()).await?;
    let mut shown: Vec<String> = events.into_iter().map(|event| json!(event).to_string()).collect();
    Api::<v1::Namespace>::all(client.clone()).delete(name, &DeleteParams::default()).await?;
    for (kind, plural) in KINDS {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("nodepool.dev", "v1alpha1", kind), plural);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), name, &resource);
        match api.delete_collection(&DeleteParams::default(), &ListParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => continue,
            Err(error) => return Err(error),
        }
        for object in api.list(&ListParams::default()).await? {
            shown.push(json!([object.metadata.name, object.metadata.annotations, object.data]).to_string());
            let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            match api.patch_metadata(&object.metadata.name.unwrap_or_default(), &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(shown.join("\n"))
}
