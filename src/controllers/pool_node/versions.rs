//! Whether an image version may be booted from, asked of the API server itself (rule 8), once for all boots that wait.
//!
//! A boot is answered only by a read that was sent after the boot began: a read that is under way may be older than a
//! rejection that the boot must see, so who comes later waits for the next one. Decides nothing else, and keeps nothing.

use std::collections::HashMap;

use kube::Client;
use tokio::sync::oneshot;

use super::super::{Engine, records};
use super::Key;
use crate::api::{ImageState, ProviderImage};

/// What one boot is told.
pub type Answer = Result<bool, String>;

/// The boots that wait for the next read, by the version that is being read now.
#[derive(Debug, Default)]
pub struct Reads(HashMap<Key, Vec<oneshot::Sender<Answer>>>);

/// Asks for a version; the answer comes when a read that begins from now on is done.
pub fn ask(engine: &mut Engine, version: Key) -> oneshot::Receiver<Answer> {
    let (sender, answer) = oneshot::channel();
    match engine.memory.versions.0.get_mut(&version) {
        Some(next) => next.push(sender),
        None => read(engine, version, vec![sender]),
    }
    answer
}

fn read(engine: &mut Engine, version: Key, asked: Vec<oneshot::Sender<Answer>>) {
    engine.memory.versions.0.insert(version.clone(), Vec::new());
    let client = engine.setup.client.clone();
    engine.spawn(async move {
        let answer = usable(&client, &version).await;
        // A boot that nobody waits for any more needs no answer.
        asked.into_iter().for_each(|boot| drop(boot.send(answer.clone())));
        move |engine: &mut Engine| {
            let next = engine.memory.versions.0.remove(&version).unwrap_or_default();
            if !next.is_empty() {
                read(engine, version, next);
            }
        }
    });
}

async fn usable(client: &Client, version: &Key) -> Answer {
    let version = records::read::<ProviderImage>(client, &version.namespace, &version.name)
        .await
        .map_err(|error| error.to_string())?;
    Ok(version.is_some_and(|version| {
        !version.spec.rejected
            && version.metadata.deletion_timestamp.is_none()
            && version.state() != ImageState::Rejected
    }))
}
