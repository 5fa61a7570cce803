//! The records as we know them: what the watches delivered, overlaid with the answers to our own writes.
//!
//! An answer to a write is as good as a watch event and arrives earlier, so both go through the same door, and the
//! newer `resourceVersion` stays; what is gone stays gone, however late an answer of ours arrives. Never decides
//! anything, and never asks the API server.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use foldhash::HashMap;
use kube::ResourceExt;
use kube::core::Resource;

/// A record's namespace and name; no namespace for what lives in none.
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
    pub fn of<K: Resource>(object: &K) -> Self {
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

/// What one watch covers: one namespace, or all of them.
pub type Scope = Option<Arc<str>>;

/// What a watch says.
#[derive(Debug)]
pub enum Event<K> {
    /// A complete list is asked for; what will not be in it is gone.
    Listing,
    /// The record exists in this form.
    Applied(K),
    /// The record exists in a form that cannot be read: what is known of it is old, and nothing may be done to it.
    Unreadable(Key),
    /// The record is gone; this was its last form.
    Deleted(K),
    /// A record that could not be read is gone.
    DeletedUnread {
        /// Its key.
        key: Key,
        /// Its uid: the name may belong to another one by now.
        uid: Option<String>,
    },
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
    /// Records whose newest form cannot be read.
    unreadable: HashSet<Key>,
    /// The lists that are under way, one for each watch at most.
    listings: HashMap<Scope, Listing>,
    gone: Gone,
    synced: HashSet<Scope>,
}

/// One list under way.
#[derive(Debug, Default)]
struct Listing {
    /// What it showed.
    seen: HashSet<Key>,
    /// What our own writes made or changed meanwhile: the list may be older than they are.
    written: HashSet<Key>,
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
        Self {
            records: HashMap::default(),
            unreadable: HashSet::new(),
            listings: HashMap::default(),
            gone: Gone::default(),
            synced: HashSet::new(),
        }
    }
}

impl<K: Resource> Store<K> {
    /// Whether so many watches gave a complete list: nothing may be decided before all did.
    #[must_use]
    pub fn synced(&self, watches: usize) -> bool {
        self.synced.len() >= watches
    }

    /// Records whose newest form cannot be read: they are left alone, and hold what they hold.
    pub fn unreadable(&self) -> impl Iterator<Item = &Key> {
        self.unreadable.iter()
    }

    /// Whether a record's newest form cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, key: &Key) -> bool {
        self.unreadable.contains(key)
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

    /// Takes what a watch of this scope says and tells what changed.
    pub fn observe(&mut self, scope: &Scope, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Listing => {
                self.listings.insert(scope.clone(), Listing::default());
                Vec::new()
            }
            Event::Applied(object) => {
                let key = Key::of(&object);
                self.saw(scope, &key);
                self.unreadable.remove(&key);
                self.apply(object).into_iter().collect()
            }
            Event::Unreadable(key) => {
                self.saw(scope, &key);
                self.unreadable.insert(key);
                Vec::new()
            }
            Event::Deleted(object) => self.remove(&object).into_iter().collect(),
            Event::DeletedUnread { key, uid } => {
                self.unreadable.remove(&key);
                let known = self.records.get(&key).filter(|known| known.uid() == uid).map(Arc::clone);
                known.and_then(|known| self.remove(&known)).into_iter().collect()
            }
            Event::Listed => self.listed(scope),
        }
    }

    fn saw(&mut self, scope: &Scope, key: &Key) {
        if let Some(listing) = self.listings.get_mut(scope) {
            listing.seen.insert(key.clone());
        }
    }

    /// What the list of a scope did not show is gone, unless our own writes made it while the list was on its way.
    fn listed(&mut self, scope: &Scope) -> Vec<Change<K>> {
        self.synced.insert(scope.clone());
        let Listing { seen, written } = self.listings.remove(scope).unwrap_or_default();
        let covers = |key: &Key| scope.as_ref().is_none_or(|namespace| key.namespace == *namespace);
        let absent = |key: &Key| covers(key) && !seen.contains(key) && !written.contains(key);
        self.unreadable.retain(|key| !absent(key));
        let gone: Vec<Key> = self.records.keys().filter(|key| absent(key)).cloned().collect();
        let gone: Vec<Arc<K>> = gone.iter().filter_map(|key| self.records.remove(key)).collect();
        gone.iter().for_each(|object| self.gone.add(&**object));
        gone.into_iter().map(Change::Removed).collect()
    }

    /// Takes the answer to one of our own writes.
    pub fn wrote(&mut self, object: K) -> Option<Change<K>> {
        let key = Key::of(&object);
        self.listings.values_mut().for_each(|listing| {
            listing.written.insert(key.clone());
        });
        self.apply(object)
    }

    /// Forgets a record that is proven gone, unless its name belongs to another one by now. No later answer or event
    /// brings it back.
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
        store.observe(&None, Event::Applied(record("one", 1)));
        assert_eq!(store.observe(&None, Event::Deleted(record("one", 3))).len(), 1);
        assert!(store.wrote(record("one", 2)).is_none(), "a late answer");
        assert_eq!(shown(&store), None);
        assert!(store.wrote(record("two", 4)).is_some(), "another record of that name");
        assert!(store.wrote(record("one", 2)).is_none());
        assert_eq!(shown(&store), Some(("two".to_owned(), 4)));
    }

    #[test]
    fn a_list_without_a_record_ends_it_for_good() {
        let mut store = Store::default();
        store.observe(&None, Event::Applied(record("one", 1)));
        store.observe(&None, Event::Listing);
        assert_eq!(store.observe(&None, Event::Listed).len(), 1);
        assert!(store.wrote(record("one", 2)).is_none() && store.is_empty());
    }

    #[test]
    fn the_newer_record_of_a_name_stays() {
        let mut store = Store::default();
        store.observe(&None, Event::Applied(record("two", 5)));
        assert!(store.wrote(record("one", 3)).is_none(), "an answer older than the record that took the name");
        assert!(store.observe(&None, Event::Applied(record("three", 9))).len() == 1);
        assert!(store.observe(&None, Event::Applied(record("two", 6))).is_empty(), "what was replaced is gone");
        assert_eq!(shown(&store), Some(("three".to_owned(), 9)));
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_of_another() {
        let (a, b): (Scope, Scope) = (Some("n".into()), Some("other".into()));
        let mut store = Store::default();
        store.observe(&a, Event::Listing);
        store.observe(&a, Event::Applied(record("one", 1)));
        store.observe(&a, Event::Listed);
        assert!(store.synced(1) && !store.synced(2));
        store.observe(&b, Event::Listing);
        assert!(store.observe(&b, Event::Listed).is_empty());
        assert_eq!(shown(&store), Some(("one".to_owned(), 1)));
    }

    #[test]
    fn what_was_written_while_a_list_was_on_its_way_stays() {
        let mut store = Store::default();
        store.observe(&None, Event::Listing);
        store.wrote(record("one", 9));
        assert!(store.observe(&None, Event::Listed).is_empty());
        assert_eq!(shown(&store), Some(("one".to_owned(), 9)));
    }

    #[test]
    fn a_record_that_cannot_be_read_stays_until_it_is_gone() {
        let mut store = Store::default();
        store.observe(&None, Event::Applied(record("one", 1)));
        store.observe(&None, Event::Listing);
        store.observe(&None, Event::Unreadable(Key::new("n", "a-0")));
        assert!(store.observe(&None, Event::Listed).is_empty());
        assert!(store.is_unreadable(&Key::new("n", "a-0")) && shown(&store).is_some());
        let deleted = Event::DeletedUnread { key: Key::new("n", "a-0"), uid: Some("one".to_owned()) };
        assert_eq!(store.observe(&None, deleted).len(), 1);
        assert!(!store.is_unreadable(&Key::new("n", "a-0")) && store.is_empty());
    }
}
