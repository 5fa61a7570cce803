//! The records as we know them: what the watches delivered, overlaid with the answers to our own writes.
//!
//! An answer to a write is as good as a watch event and arrives earlier, so both go through the same door, and the
//! newer `resourceVersion` stays; what is gone stays gone, however late an answer of ours arrives. Never decides
//! anything, and never asks the API server.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::{NamespaceResourceScope, Resource};

/// A record's namespace and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of these two.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a record.
    pub fn of<K: Resource<Scope = NamespaceResourceScope>>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    /// Another record of the same namespace.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Self {
        Self { namespace: Arc::clone(&self.namespace), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a watch says.
#[derive(Debug)]
pub enum Event<K> {
    /// A complete list begins; what is not in it is gone.
    Listing,
    /// The record exists in this form.
    Applied(K),
    /// The record is gone; this was its last form.
    Deleted(K),
    /// The list is complete.
    Listed,
}

/// What changed in a store.
#[derive(Debug)]
pub enum Change<K> {
    /// A record is new or different; the form before it, if any.
    Updated(Arc<K>, Option<Arc<K>>),
    /// A record is gone.
    Removed(Arc<K>),
}

/// All records of one kind.
pub struct Store<K> {
    records: HashMap<Key, Arc<K>>,
    listing: Option<HashSet<Key>>,
    /// Records that our own writes made or changed while a list was under way: the list may be older than they are.
    written: HashSet<Key>,
    /// Records that are gone: the late answer to a write of ours must not bring one back.
    gone: Gone,
    synced: bool,
}

/// How many uids of records that are gone are remembered; answers are late by seconds.
const MOST_GONE: usize = 8192;

/// Uids of records that are gone, the oldest forgotten first. No uid ever comes back.
#[derive(Debug, Default)]
struct Gone {
    uids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Gone {
    fn add<K: Resource>(&mut self, object: &K) {
        let Some(uid) = object.meta().uid.as_deref().map(Arc::<str>::from) else { return };
        if !self.uids.insert(Arc::clone(&uid)) {
            return;
        }
        self.order.push_back(uid);
        if self.order.len() > MOST_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    fn has<K: Resource>(&self, object: &K) -> bool {
        object.meta().uid.as_deref().is_some_and(|uid| self.uids.contains(uid))
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { records: HashMap::new(), listing: None, written: HashSet::new(), gone: Gone::default(), synced: false }
    }
}

impl<K: Resource<Scope = NamespaceResourceScope>> Store<K> {
    /// Whether a complete list was ever seen: nothing may be decided before.
    #[must_use]
    pub const fn synced(&self) -> bool {
        self.synced
    }

    /// A record.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.records.get(key)
    }

    /// All records, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.records.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes what a watch says and tells what changed.
    pub fn observe(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Listing => {
                self.listing = Some(HashSet::new());
                self.written.clear();
                Vec::new()
            }
            Event::Applied(object) => {
                if let Some(seen) = &mut self.listing {
                    seen.insert(Key::of(&object));
                }
                self.apply(object).into_iter().collect()
            }
            Event::Deleted(object) => self.remove(&object).into_iter().collect(),
            Event::Listed => {
                self.synced = true;
                let seen = self.listing.take().unwrap_or_default();
                let written = std::mem::take(&mut self.written);
                let gone: Vec<Key> = self
                    .records
                    .keys()
                    .filter(|key| !seen.contains(*key) && !written.contains(*key))
                    .cloned()
                    .collect();
                let gone: Vec<Arc<K>> = gone.iter().filter_map(|key| self.records.remove(key)).collect();
                gone.iter().for_each(|object| self.gone.add(&**object));
                gone.into_iter().map(Change::Removed).collect()
            }
        }
    }

    /// Takes the answer to one of our own writes.
    pub fn wrote(&mut self, object: K) -> Option<Change<K>> {
        if self.listing.is_some() {
            self.written.insert(Key::of(&object));
        }
        self.apply(object)
    }

    /// Forgets a record that is proven gone, unless its name belongs to another one by now.
    pub fn remove(&mut self, object: &K) -> Option<Change<K>> {
        let key = Key::of(object);
        self.gone.add(object);
        match self.records.get(&key) {
            Some(known) if known.uid() == object.uid() => self.records.remove(&key).map(Change::Removed),
            _ => None,
        }
    }

    fn apply(&mut self, mut object: K) -> Option<Change<K>> {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let known = self.records.get(&key);
        let older = |known: &Arc<K>| match known.uid() == object.uid() {
            true => version(&**known) >= version(&object),
            false => version(&**known) > version(&object),
        };
        if self.gone.has(&object) || known.is_some_and(older) {
            return None;
        }
        let object = Arc::new(object);
        let before = self.records.insert(key, Arc::clone(&object));
        if let Some(before) = before.as_deref().filter(|before| before.uid() != object.uid()) {
            self.gone.add(before);
        }
        Some(Change::Updated(object, before))
    }
}

/// Resource versions of one kind are comparable as integers; one that is not counts as newest.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn record(uid: &str, version: u64) -> ConfigMap {
        let metadata = json!({"namespace": "n", "name": "a-0", "uid": uid, "resourceVersion": version.to_string()});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    /// The uid and version that the store shows.
    fn shown(store: &Store<ConfigMap>) -> Option<(String, u64)> {
        store.get(&Key::new("n", "a-0")).map(|object| (object.uid().unwrap(), version(&**object)))
    }

    #[test]
    fn an_answer_that_comes_after_the_end_brings_nothing_back() {
        let mut store = Store::default();
        store.observe(Event::Applied(record("one", 1)));
        assert_eq!(store.observe(Event::Deleted(record("one", 3))).len(), 1);
        assert!(store.wrote(record("one", 2)).is_none(), "a late answer");
        assert_eq!(shown(&store), None);
        assert!(store.wrote(record("two", 4)).is_some(), "another record of that name");
        assert!(store.wrote(record("one", 2)).is_none());
        assert_eq!(shown(&store), Some(("two".to_owned(), 4)));
    }

    #[test]
    fn a_list_without_a_record_ends_it_for_good() {
        let mut store = Store::default();
        store.observe(Event::Applied(record("one", 1)));
        store.observe(Event::Listing);
        assert_eq!(store.observe(Event::Listed).len(), 1);
        assert!(store.wrote(record("one", 2)).is_none() && store.is_empty());
    }

    #[test]
    fn the_newer_record_of_a_name_stays() {
        let mut store = Store::default();
        store.observe(Event::Applied(record("two", 5)));
        assert!(store.wrote(record("one", 3)).is_none(), "an answer older than the record that took the name");
        assert!(store.observe(Event::Applied(record("three", 9))).len() == 1);
        assert!(store.observe(Event::Applied(record("two", 6))).is_empty(), "what was replaced is gone");
        assert_eq!(shown(&store), Some(("three".to_owned(), 9)));
    }
}
