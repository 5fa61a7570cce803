//! Writes to the records, each guarded by the uid and the version it was decided on.
//!
//! An answer is one of four: done, lost a race, gone, or unclear. Nothing here is retried: the next pass decides anew
//! from what the watches say (rule 14). Holds the one place where the right to boot a server is born (rule 2).

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::api::PoolNode;

/// The deadline of one write: longer than a slow API server needs, shorter than a lease.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a write did not happen, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Somebody else changed the record first.
    #[error("the record changed meanwhile")]
    Conflict,
    /// A record of this name exists.
    #[error("a record of this name exists")]
    AlreadyExists,
    /// The record is gone.
    #[error("the record is gone")]
    NotFound,
    /// The API server refuses it for good.
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// Nobody can tell whether it happened.
    #[error("no clear answer: {0}")]
    Unclear(String),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.reason == "AlreadyExists" => Self::AlreadyExists,
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            kube::Error::Api(status) if status.code == 404 => Self::NotFound,
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                Self::Refused(status.message)
            }
            other => Self::Unclear(other.to_string()),
        }
    }
}

/// The right to send one boot request for one record. It is born from the API server's 201 for our own create, and
/// only here; it cannot be copied, stored or made again, and sending the request consumes it (rule 2).
#[derive(Debug)]
pub struct LaunchPermit {
    uid: String,
    /// When the record was asked for: it is not older than this.
    asked: Instant,
}

impl LaunchPermit {
    /// The record it is for.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// When it ends. Whoever else acts gives the record up, and its slot to another, when no server of it is there
    /// after `launch_timeout`; the second half of that time is for the request's own way and for clocks that differ.
    #[must_use]
    pub fn good_until(&self, launch_timeout: Duration) -> Instant {
        self.asked + launch_timeout / 2
    }
}

/// On the heap: else every task that may once make a call is as large as the largest one, tens of kilobytes.
fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> impl Future<Output = Result<T, WriteError>> {
    let call = Box::pin(call);
    async {
        match timeout(DEADLINE, call).await {
            Ok(answer) => answer.map_err(WriteError::from),
            Err(_) => Err(WriteError::Unclear("no answer in time".to_owned())),
        }
    }
}

/// Makes the record of a node. Only a clear 201 gives the permit.
pub async fn create_node(client: &Client, node: &PoolNode) -> Result<(PoolNode, LaunchPermit), WriteError> {
    let api: Api<PoolNode> = Api::namespaced(client.clone(), &node.namespace().unwrap_or_default());
    let asked = Instant::now();
    let created = within(api.create(&PostParams::default(), node)).await?;
    let uid = created.uid().ok_or_else(|| WriteError::Unclear("the answer has no uid".to_owned()))?;
    Ok((created, LaunchPermit { uid, asked }))
}

/// Makes a record of another kind.
pub async fn create<K>(client: &Client, object: &K) -> Result<K, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    within(api.create(&PostParams::default(), object)).await
}

/// The record as the API server has it now; `None` is proof that it is gone.
pub async fn read<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    within(api.get_opt(name)).await
}

/// Changes a record that is still the one, and still as it was when this was decided.
pub async fn patch<K>(client: &Client, seen: &K, change: Value) -> Result<K, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &seen.namespace().unwrap_or_default());
    let change = guarded(seen, change);
    within(api.patch(&seen.name_any(), &PatchParams::default(), &Patch::Merge(change))).await
}

/// Changes a record's status, guarded in the same way.
pub async fn patch_status<K>(client: &Client, seen: &K, status: Value) -> Result<K, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &seen.namespace().unwrap_or_default());
    let change = guarded(seen, json!({ "status": status }));
    within(api.patch_status(&seen.name_any(), &PatchParams::default(), &Patch::Merge(change))).await
}

/// Deletes a record, if it is still the one and nobody changed it: a claim and a condemnation compete here (rule 4).
pub async fn delete<K>(client: &Client, seen: &K) -> Result<Option<K>, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &seen.namespace().unwrap_or_default());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: seen.uid(), resource_version: seen.resource_version() }),
        ..DeleteParams::background()
    };
    Ok(within(api.delete(&seen.name_any(), &params)).await?.left())
}

/// Removes our finalizer; the record goes when it was the last one and the record is being deleted.
pub async fn remove_finalizer<K>(client: &Client, seen: &K, finalizer: &str) -> Result<K, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let rest: Vec<&String> = seen.finalizers().iter().filter(|name| *name != finalizer).collect();
    patch(client, seen, json!({ "metadata": { "finalizers": rest } })).await
}

fn guarded<K: Resource<DynamicType = ()>>(seen: &K, mut change: Value) -> Value {
    let meta = seen.meta();
    change["metadata"]["uid"] = json!(meta.uid);
    change["metadata"]["resourceVersion"] = json!(meta.resource_version);
    change
}

/// The merge patch that turns one status into the other; `None` when they say the same, so nothing is written.
pub fn difference<S: Serialize>(old: &S, new: &S) -> Option<Value> {
    let old = serde_json::to_value(old).ok()?;
    let new = serde_json::to_value(new).ok()?;
    let change = merge(&old, &new);
    (!change.as_object().is_some_and(serde_json::Map::is_empty)).then_some(change)
}

fn merge(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), old.get(key).map_or_else(|| value.clone(), |old| merge(old, value))));
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_that_waits_is_small() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(kube::Config::new("http://127.0.0.1".parse().unwrap())).unwrap();
        let node: PoolNode = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "cloud-0"},
            "spec": {"provider": "cloud", "pool": "p", "slot": 0, "imageID": "i", "flavor": "f", "flavorID": "f",
                "templateHash": "h", "username": "u", "port": 22, "probe": "ssh"},
        }))
        .unwrap();
        let write = crate::ops::turns::usual(|| patch_status(&client, &node, json!({})));
        let bytes = size_of_val(&*write);
        assert!(bytes < 1536, "{bytes} bytes for each write that waits");
    }

    #[test]
    fn the_same_again_is_not_written() {
        assert_eq!(difference(&json!({"a": [1], "b": {"c": 2}}), &json!({"a": [1], "b": {"c": 2}})), None);
    }

    #[test]
    fn what_is_gone_becomes_null_at_every_depth() {
        let change = difference(&json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}), &json!({"b": {"c": 4}, "e": []}));
        assert_eq!(change, Some(json!({"a": null, "b": {"c": 4, "d": null}, "e": []})));
    }
}
