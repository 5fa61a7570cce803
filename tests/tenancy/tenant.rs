//! A namespace beside the one that has the clouds, and who works in it.

use nodepool_operator::api::Pool;
use serde_json::{Value, json};

use crate::support::helm::render_as;
use crate::support::world::{Object, SOON, WorldBuilder, condition};
use crate::support::{Kubectl, Namespace, Said, World, eventually};

/// The chart's roles for people.
pub const ROLES: [&str; 4] = ["admin", "author", "claimer", "viewer"];

/// Somebody with one of the chart's roles in one namespace, and no other rights.
pub struct Person {
    kubectl: Kubectl,
    name: String,
}

impl Person {
    /// What `kubectl` says to them.
    pub async fn says(&self, args: &[&str], input: &str) -> Said {
        self.kubectl.run_with_input(&[&["--as", &self.name], args].concat(), input).await
    }

    /// Applies one object of ours, which must be taken.
    pub async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let said = self.says(&["apply", "-f", "-"], &object(kind, name, spec).to_string()).await;
        assert!(said.success, "{}: {}", self.name, said.stderr);
    }
}

/// One object of ours.
pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "nodepool.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Gives the chart's role to somebody in this namespace.
pub async fn person(role: &str, namespace: &Namespace) -> Person {
    let (release, name) = ("nodepool-operator", namespace.name());
    let objects = render_as(release, name, &format!("watchNamespaces: [{name}]")).unwrap();
    let cluster_role = format!("{name}-{release}-{role}");
    let found = objects.iter().find(|one| one["kind"] == "ClusterRole" && one["metadata"]["name"] == *cluster_role);
    let mut granted = found.unwrap_or_else(|| panic!("the chart has no {cluster_role}")).clone();
    // Of this test's namespace alone, so that nothing outlives it.
    granted["kind"] = json!("Role");
    let metadata = json!({"name": role, "namespace": name});
    granted["metadata"] = metadata.clone();
    let user = format!("{role}@{name}");
    let api = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": api, "kind": "Role", "name": role},
        "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
    });
    for one in [&granted, &binding] {
        namespace.kubectl().apply_json(one).await;
    }
    Person { kubectl: namespace.kubectl(), name: user }
}

/// Runs a world whose operator serves the tenant's namespace too.
pub async fn serving(builder: WorldBuilder, tenant: &Namespace) -> World {
    builder.operator_arg(&format!("--watch-namespace={}", tenant.name())).start().await
}

/// Opens a Provider or Pool of the world's to others, or closes it with null.
pub async fn open<K: Object>(world: &World, name: &str, allowed: Value) {
    world.patch::<K>(name, json!({"spec": {"allowedNamespaces": allowed}})).await;
}

/// Waits until an object of the tenant's has a condition of this reason; its message.
pub async fn told<K: Object>(tenant: &Namespace, name: &str, type_: &str, reason: &str) -> String {
    eventually(SOON, || async {
        let condition = condition(&tenant.api::<K>().get(name).await.unwrap(), type_);
        let message = condition["message"].as_str().unwrap_or_default().to_owned();
        if condition["reason"] == reason { Ok(message) } else { Err(format!("{name}: {type_} is {condition}")) }
    })
    .await
}

/// A Pool of the tenant's on a Provider of another namespace.
pub fn pool_on(provider: &str, namespace: &str, min_ready: u32) -> Value {
    json!({
        "image": crate::support::world::IMAGE, "flavor": {"name": "small"}, "minReady": min_ready,
        "providers": [{"name": provider, "namespace": namespace}],
    })
}

/// Waits until a Pool of the tenant's counts this many ready, in use and in all.
pub async fn counts(tenant: &Namespace, pool: &str, wanted: (i32, i32, i32)) {
    eventually(SOON, || async {
        let status = tenant.api::<Pool>().get(pool).await.unwrap().status.unwrap_or_default();
        let counted = (status.ready, status.in_use, status.total);
        if counted == wanted { Ok(()) } else { Err(format!("{pool}: {counted:?}, not {wanted:?}: {}", json!(status))) }
    })
    .await;
}
