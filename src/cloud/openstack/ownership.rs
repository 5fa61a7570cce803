//! How ownership is written on things in a cloud, and read back (rule 10).
//!
//! Servers carry it as metadata always, as tags where the cloud has them; images as properties; ports and floating IPs
//! in their description.
//! What does not fit a field's limits is replaced by its hash on both sides, so ours is still recognised. A thing is
//! never taken for ours on less than its owner's full mark.

use std::collections::BTreeMap;

use crate::cloud::marks::hashed;
use crate::cloud::{OWNER_KEY, Ownership, PROVIDER_KEY, RECORD_KEY};

/// Nova's and Neutron's limit of a tag, in characters.
const LONGEST_TAG: usize = 60;
/// Nova's limit of a metadata value, and Neutron's of a description.
const LONGEST_VALUE: usize = 255;
const DESCRIPTION: &str = "nodepool";

/// Who we are: what marks are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) owner: String,
    pub(crate) provider: String,
}

impl Identity {
    /// Undoes what a field's limits did to our own names; others' stay as they are.
    fn known(&self, owner: &str, record: &str, provider: &str, fit: impl Fn(&str) -> String) -> Ownership {
        let own = |stored: &str, ours: &str| if stored == fit(ours) { ours.to_owned() } else { stored.to_owned() };
        Ownership { owner: own(owner, &self.owner), record: record.to_owned(), provider: own(provider, &self.provider) }
    }

    pub(crate) fn in_metadata<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Option<Ownership> {
        let owner = value(OWNER_KEY)?;
        let (record, provider) = (value(RECORD_KEY).unwrap_or_default(), value(PROVIDER_KEY).unwrap_or_default());
        Some(self.known(owner, record, provider, |text| fitted(text, LONGEST_VALUE)))
    }

    pub(crate) fn in_tags(&self, tags: &[String]) -> Option<Ownership> {
        let value = |key: &str| tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='));
        let owner = value(OWNER_KEY)?;
        let (record, provider) = (value(RECORD_KEY).unwrap_or_default(), value(PROVIDER_KEY).unwrap_or_default());
        let mut read = self.known(owner, record, provider, |_| String::new());
        for (stored, key, ours) in
            [(&mut read.owner, OWNER_KEY, &self.owner), (&mut read.provider, PROVIDER_KEY, &self.provider)]
        {
            if *stored == tag_value(key, ours) {
                stored.clone_from(ours);
            }
        }
        Some(read)
    }

    pub(crate) fn in_description(&self, description: &str) -> Option<Ownership> {
        let words = description.strip_prefix(DESCRIPTION)?;
        let value = |key: &str| words.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let (record, provider) = (value("record").unwrap_or_default(), value("provider").unwrap_or_default());
        Some(self.known(value("owner")?, record, provider, word))
    }
}

/// The metadata of a server or the properties of an image: its owner's own, and ours above them.
pub(crate) fn metadata(own: &BTreeMap<String, String>, ownership: &Ownership) -> BTreeMap<String, String> {
    let mut all = own.clone();
    for (key, value) in marks(ownership) {
        all.insert(key.to_owned(), fitted(value, LONGEST_VALUE));
    }
    all
}

/// An owner as metadata and properties hold it: what a list is asked for.
pub(crate) fn owner_value(owner: &str) -> String {
    fitted(owner, LONGEST_VALUE)
}

/// The tags of a server.
pub(crate) fn tags(ownership: &Ownership) -> Vec<String> {
    marks(ownership).into_iter().map(|(key, value)| format!("{key}={}", tag_value(key, value))).collect()
}

/// The description of a port or a floating IP.
pub(crate) fn description(ownership: &Ownership) -> String {
    let Ownership { owner, record, provider } = ownership;
    let text = format!("{DESCRIPTION} owner={} record={} provider={}", word(owner), word(record), word(provider));
    debug_assert!(text.len() <= LONGEST_VALUE);
    text
}

fn marks(ownership: &Ownership) -> [(&'static str, &str); 3] {
    [(OWNER_KEY, &ownership.owner), (RECORD_KEY, &ownership.record), (PROVIDER_KEY, &ownership.provider)]
}

/// Tags may hold neither `/` nor `,`.
fn tag_value(key: &str, value: &str) -> String {
    let value = value.replace('/', ":");
    if value.contains(',') { hashed(&value) } else { fitted(&value, LONGEST_TAG - key.len() - 1) }
}

/// One word of a description; three of them and their keys stay below the limit.
fn word(value: &str) -> String {
    if value.contains(|c: char| c.is_whitespace() || c == '=') { hashed(value) } else { fitted(value, LONGEST_TAG) }
}

fn fitted(value: &str, longest: usize) -> String {
    if value.len() <= longest { value.to_owned() } else { hashed(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(owner: &str, provider: &str) -> (Identity, Ownership) {
        let identity = Identity { owner: owner.to_owned(), provider: provider.to_owned() };
        let record = "b6f3c6a4-5a57-4d6f-9c0b-1f2e3d4c5b6a".to_owned();
        (identity, Ownership { owner: owner.to_owned(), record, provider: provider.to_owned() })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(owner in "[ -~]{1,300}", provider in "[a-z0-9-]{1,60}/[a-z0-9.-]{1,300}") {
            let (identity, ownership) = both(&owner, &provider);
            let metadata = metadata(&BTreeMap::new(), &ownership);
            prop_assert!(metadata.values().all(|value| value.len() <= LONGEST_VALUE));
            prop_assert_eq!(identity.in_metadata(|key| metadata.get(key).map(String::as_str)), Some(ownership.clone()));
            let tags = tags(&ownership);
            prop_assert!(tags.iter().all(|tag| tag.len() <= LONGEST_TAG && !tag.contains([',', '/'])));
            prop_assert_eq!(identity.in_tags(&tags), Some(ownership.clone()));
            let description = description(&ownership);
            prop_assert!(description.len() <= LONGEST_VALUE);
            prop_assert_eq!(identity.in_description(&description), Some(ownership));
        }
    }

    #[test]
    fn others_stay_others() {
        let (identity, _) = both("me", "ns/one");
        let (_, theirs) = both("you", "ns/one");
        assert_eq!(identity.in_tags(&tags(&theirs)).unwrap().owner, "you");
        assert_eq!(identity.in_description(&description(&theirs)).unwrap().owner, "you");
        assert_eq!(identity.in_description("somebody's address"), None);
        assert_eq!(identity.in_description("nodepool is great"), None);
        assert_eq!(identity.in_tags(&["other".to_owned()]), None);
    }

    #[test]
    fn our_marks_win_over_the_pools_metadata() {
        let (_, ownership) = both("me", "ns/one");
        let pool = BTreeMap::from([(OWNER_KEY.to_owned(), "you".to_owned()), ("team".to_owned(), "a".to_owned())]);
        let all = metadata(&pool, &ownership);
        assert_eq!((all[OWNER_KEY].as_str(), all["team"].as_str()), ("me", "a"));
    }
}
