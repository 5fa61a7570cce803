//! How many versions were in flight at once, from what the API server told a watch: no moment is missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::watcher::{Config, Event, watcher};
use nodepool_operator::api::ProviderImage;
use tokio::task::JoinHandle;

use crate::support::Namespace;

/// Watches from now on; ends when dropped.
pub struct Flights {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// The most that were in flight at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Highest {
    /// Of one image on one provider.
    pub of_one: usize,
    /// On one provider.
    pub on_provider: usize,
    /// In all.
    pub in_all: usize,
}

#[derive(Default)]
struct Seen {
    /// Image and provider of those that are in flight now, by name.
    flying: HashMap<String, (String, String)>,
    highest: Highest,
}

impl Flights {
    pub fn watch(namespace: &Namespace) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (told, api) = (Arc::clone(&seen), namespace.api::<ProviderImage>());
        let task = tokio::spawn(async move {
            let mut events = watcher(api, Config::default()).boxed();
            while let Some(event) = events.next().await {
                told.lock().unwrap().take(event.unwrap());
            }
        });
        Self { seen, task }
    }

    /// The most so far.
    pub fn highest(&self) -> Highest {
        assert!(!self.task.is_finished(), "the watch ended");
        self.seen.lock().unwrap().highest
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn take(&mut self, event: Event<ProviderImage>) {
        match event {
            Event::Apply(version) | Event::InitApply(version) if version.in_flight() => {
                let place = (version.spec.disk_image.clone(), version.spec.provider.clone());
                self.flying.insert(version.name_any(), place);
            }
            Event::Apply(version) | Event::InitApply(version) | Event::Delete(version) => {
                self.flying.remove(&version.name_any());
            }
            Event::Init => self.flying.clear(),
            Event::InitDone => {}
        }
        let (mut of, mut on) = (HashMap::new(), HashMap::new());
        for (image, provider) in self.flying.values() {
            *of.entry((image, provider)).or_insert(0) += 1;
            *on.entry(provider).or_insert(0) += 1;
        }
        let highest = &mut self.highest;
        highest.of_one = highest.of_one.max(of.into_values().max().unwrap_or(0));
        highest.on_provider = highest.on_provider.max(on.into_values().max().unwrap_or(0));
        highest.in_all = highest.in_all.max(self.flying.len());
    }
}
