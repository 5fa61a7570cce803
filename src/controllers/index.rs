//! The records as we know them: what the watches delivered, overlaid with the answers to our own writes.
//!
//! An answer to a write is as good as a watch event and arrives earlier, so both go through the same door, and the
//! newer `resourceVersion` stays. Never decides anything, and never asks the API server.

use std::collections::{HashMap, HashSet};
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
    /// Uids of records that our own writes ended, until a watch tells of the end: what it tells before is older.
    ended: HashSet<String>,
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { records: HashMap::new(), listing: None, written: HashSet::new(), ended: HashSet::new(), synced: false }
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
                self.ended.clear();
                Vec::new()
            }
            Event::Applied(object) => {
                if let Some(seen) = &mut self.listing {
                    seen.insert(Key::of(&object));
                }
                self.apply(object).into_iter().collect()
            }
            Event::Deleted(object) => {
                object.meta().uid.as_ref().map(|uid| self.ended.remove(uid));
                self.remove(&object).into_iter().collect()
            }
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
                gone.iter().filter_map(|key| self.records.remove(key)).map(Change::Removed).collect()
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

    /// One of our own writes ended a record: the watch, which is later, must not bring it back.
    pub fn ended(&mut self, object: &K) -> Option<Change<K>> {
        let change = self.remove(object)?;
        self.ended.extend(object.uid());
        Some(change)
    }

    /// Forgets a record that is proven gone, unless its name belongs to another one by now.
    pub fn remove(&mut self, object: &K) -> Option<Change<K>> {
        let key = Key::of(object);
        match self.records.get(&key) {
            Some(known) if known.uid() == object.uid() => self.records.remove(&key).map(Change::Removed),
            _ => None,
        }
    }

    fn apply(&mut self, mut object: K) -> Option<Change<K>> {
        if object.meta().uid.as_ref().is_some_and(|uid| self.ended.contains(uid)) {
            return None;
        }
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let known = self.records.get(&key);
        if known.is_some_and(|known| known.uid() == object.uid() && version(&**known) >= version(&object)) {
            return None;
        }
        let object = Arc::new(object);
        let before = self.records.insert(key, Arc::clone(&object));
        Some(Change::Updated(object, before))
    }
}

/// Resource versions of one kind are comparable as integers; one that is not counts as newest.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}
