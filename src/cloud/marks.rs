//! What marks a thing as ours where a cloud keeps no metadata of it: its name, and what stands for a mark that is too long.
//!
//! Decides how marks are written and read, never what becomes of what carries one. A thing is never taken for ours on
//! less than its owner's full mark (rule 10).

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Ownership;

/// A longer owner is replaced by its hash in the name of a key pair, which has room for 255 characters.
const LONGEST_OWNER: usize = 64;

/// The name of the key pair of a record: a key pair has neither metadata nor tags, so its name is its mark.
#[must_use]
pub fn key_pair_name(ownership: &Ownership) -> String {
    format!("{}{}", key_pair_prefix(&ownership.owner), ownership.record)
}

/// The record that a key pair of this owner was made for, by the key pair's name. `None` when it is not the owner's:
/// the record must be a uid, so that an owner whose name begins with this one's is not taken for it.
#[must_use]
pub fn key_pair_record<'n>(name: &'n str, owner: &str) -> Option<&'n str> {
    let record = name.strip_prefix(&key_pair_prefix(owner))?;
    let is_uid = record.len() == uuid::fmt::Hyphenated::LENGTH && Uuid::try_parse(record).is_ok();
    (is_uid && !owner.is_empty()).then_some(record)
}

/// Before 2.92 Nova takes letters, digits, spaces, `_` and `-`.
fn key_pair_prefix(owner: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let fits = owner.len() <= LONGEST_OWNER && owner.chars().all(is_plain);
    if fits { format!("nodepool-{owner}-") } else { format!("nodepool-{}-", hashed(owner)) }
}

/// Stands for a text that does not fit its field: 38 letters and digits, so that it fits the shortest.
pub(crate) fn hashed(value: &str) -> String {
    let digest = Sha256::digest(value.as_bytes());
    digest.iter().take(16).fold("sha256".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "b6f3c6a4-5a57-4d6f-9c0b-1f2e3d4c5b6a";

    fn made(owner: &str, record: &str) -> Ownership {
        Ownership { owner: owner.to_owned(), record: record.to_owned(), provider: "ns/one".to_owned() }
    }

    proptest! {
        #[test]
        fn a_key_pair_names_its_record_to_its_owner_only(owner in "[ -~]{1,300}", other in "[ -~]{1,300}") {
            let name = key_pair_name(&made(&owner, UID));
            prop_assert!(name.len() <= 255 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)));
            prop_assert_eq!(key_pair_record(&name, &owner), Some(UID));
            prop_assert!(owner == other || key_pair_record(&name, &other).is_none());
        }
    }

    #[test]
    fn less_than_the_whole_name_is_nobodys() {
        let name = key_pair_name(&made("me", UID));
        assert_eq!(name, format!("nodepool-me-{UID}"));
        let bare = UID.replace('-', "");
        let others = [
            &name[..name.len() - 1],
            &format!("{name}0"),
            &format!("nodepool-me-{bare}"),
            &format!("nodepool-you-{UID}"),
            "nodepool-me-",
            "nodepool-me-key",
            "lab-key",
        ];
        for other in others {
            assert_eq!(key_pair_record(other, "me"), None, "{other}");
        }
        let longer = key_pair_name(&made(&format!("me-{UID}"), UID));
        assert_eq!(key_pair_record(&longer, "me"), None, "another installation's longer name");
        assert_eq!(key_pair_record(&format!("nodepool--{UID}"), ""), None, "who has no name has no key pairs");
    }
}
