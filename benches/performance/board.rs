//! What a client of the API server sees, and when: nodes that become ready, requests that are fulfilled.
//!
//! Watches with a reader as small as can be, since it shares the two cores with what it measures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::WatchEvent;
use kube::api::WatchParams;
use kube::core::request::Request;
use serde::Deserialize;

use crate::support::eventually;

/// What was seen so far.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

#[derive(Default)]
pub struct Seen {
    /// Nodes that exist, by uid.
    pub nodes: HashMap<String, Node>,
    /// When the node of a server was first seen ready, by server id; kept when it is gone.
    pub ready_at: HashMap<String, Timestamp>,
    /// When a request was first seen fulfilled, by name; kept when it is gone.
    pub fulfilled_at: HashMap<String, Timestamp>,
}

/// A node that exists.
#[derive(Clone, Copy)]
pub struct Node {
    pub ready: bool,
    pub claimed: bool,
}

#[derive(Clone, Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    resource_version: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    claim_ref: Option<Anything>,
}

#[derive(Clone, Deserialize)]
struct Anything {}

#[derive(Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    state: String,
    #[serde(rename = "serverID")]
    server_id: Option<String>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

impl Board {
    /// Watches a namespace that is still empty, until it is dropped with its runtime.
    pub async fn watching(client: &Client, namespace: &str) -> Self {
        let board = Self::default();
        board.follow(client, namespace, "poolnodes", Seen::node).await;
        board.follow(client, namespace, "noderequests", Seen::request).await;
        board
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    /// Waits until exactly that many nodes are ready and unclaimed, and exactly that many exist.
    pub async fn settled(&self, ready: u32, existing: u32, deadline: Duration) {
        eventually(deadline, || async {
            let (seen_ready, seen_existing) = self.counts();
            match (seen_ready, seen_existing) == (ready, existing) {
                true => Ok(()),
                false => Err(format!("{seen_ready} of {ready} ready, {seen_existing} of {existing} exist")),
            }
        })
        .await;
    }

    /// Ready and unclaimed nodes, and all nodes.
    pub fn counts(&self) -> (u32, u32) {
        let seen = self.seen();
        let ready = seen.nodes.values().filter(|node| node.ready && !node.claimed).count();
        (u32::try_from(ready).unwrap(), u32::try_from(seen.nodes.len()).unwrap())
    }

    async fn follow(&self, client: &Client, namespace: &str, plural: &str, take: fn(&mut Seen, bool, Object)) {
        let requests = Request::new(format!("/apis/nodepool.dev/v1alpha1/namespaces/{namespace}/{plural}"));
        let list: List = client.request(requests.list(&Default::default()).unwrap()).await.unwrap();
        let mut version = list.metadata.resource_version;
        let (seen, client) = (Arc::clone(&self.0), client.clone());
        tokio::spawn(async move {
            loop {
                let request = requests.watch(&WatchParams::default().timeout(290), &version).unwrap();
                let events = client.request_events::<Object>(request).await.unwrap();
                let mut events = std::pin::pin!(events);
                // The end of one watch, however it came, is the beginning of the next.
                while let Ok(Some(event)) = events.try_next().await {
                    let (exists, object) = match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => (true, object),
                        WatchEvent::Deleted(object) => (false, object),
                        WatchEvent::Bookmark(bookmark) => {
                            version = bookmark.metadata.resource_version;
                            continue;
                        }
                        WatchEvent::Error(status) => panic!("the watch of the measurement failed: {status:?}"),
                    };
                    version.clone_from(&object.metadata.resource_version);
                    take(&mut seen.lock().unwrap(), exists, object);
                }
            }
        });
    }
}

impl Seen {
    fn node(&mut self, exists: bool, object: Object) {
        let node = Node { ready: object.status.state == "Ready", claimed: object.spec.claim_ref.is_some() };
        if let (true, Some(server)) = (node.ready, object.status.server_id) {
            self.ready_at.entry(server).or_insert_with(Timestamp::now);
        }
        if exists {
            self.nodes.insert(object.metadata.uid, node);
        } else {
            self.nodes.remove(&object.metadata.uid);
        }
    }

    fn request(&mut self, _exists: bool, object: Object) {
        if object.status.state == "Fulfilled" {
            self.fulfilled_at.entry(object.metadata.name).or_insert_with(Timestamp::now);
        }
    }
}
