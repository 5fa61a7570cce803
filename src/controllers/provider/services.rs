//! Finds the service behind a cloud's trouble, so that the condition names it: what Nova says of the others does not.
//!
//! Asks only while there is trouble, and decides nothing.

use std::time::Duration;

use super::super::index::Key;
use super::super::{Engine, Mark};
use crate::cloud::Silence;

/// Pause before the services are asked again: while one is silent, and while all answer and the trouble lasts.
const SILENT_AGAIN: Duration = Duration::from_secs(5);
const ANSWERING_AGAIN: Duration = Duration::from_secs(30);

/// What is known of the services of one cloud.
#[derive(Clone, Debug, Default)]
pub struct Services {
    silent: Vec<Silence>,
    ask_at: Option<jiff::Timestamp>,
    asking: bool,
}

impl Services {
    /// Those that the operator itself needs, in one sentence.
    pub fn needed(&self) -> Option<String> {
        sentence(self.silent.iter().filter(|silence| silence.service != "placement"))
    }

    /// All that Nova needs too, in one sentence.
    pub fn all(&self) -> Option<String> {
        sentence(self.silent.iter())
    }
}

fn sentence<'a>(silent: impl Iterator<Item = &'a Silence>) -> Option<String> {
    let words: Vec<String> = silent.map(ToString::to_string).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Asks the services of a cloud in trouble, when that is due.
pub fn ask(engine: &mut Engine, key: &Key) {
    let now = engine.now;
    let Some(connection) = engine.connections.get_mut(key) else { return };
    // Of one that was silent, only its answer tells that it is back: who noticed may not have asked again yet.
    if !connection.in_trouble(now) && connection.services.silent.is_empty() {
        return;
    }
    if connection.services.asking || connection.services.ask_at.is_some_and(|at| now < at) {
        return;
    }
    connection.services.asking = true;
    let cloud = connection.cloud();
    let key = key.clone();
    engine.spawn(async move {
        let silent = cloud.silent_services().await;
        move |engine: &mut Engine| answered(engine, &key, silent)
    });
}

fn answered(engine: &mut Engine, key: &Key, silent: Vec<Silence>) {
    let pause = if silent.is_empty() { ANSWERING_AGAIN } else { SILENT_AGAIN };
    let again = engine.after(pause);
    let Some(connection) = engine.connections.get_mut(key) else { return };
    for silence in silent.iter().filter(|silence| !connection.services.silent.contains(silence)) {
        tracing::warn!(provider = %key, "{silence}");
    }
    connection.services = Services { silent, ask_at: Some(again), asking: false };
    engine.wake(again, Mark::Provider(key.clone()));
    engine.mark(Mark::Provider(key.clone()));
}
