//! Words that nobody may read, planted wherever something is secret or a cloud says more than it is asked for, and looked for
//! wherever the operator can be read: its log, its metrics, statuses and events. Every test that makes a [`World`](super::World)
//! plants them, and what a test made is searched at its end, so the whole run of tests is the check.

use uuid::Uuid;

/// How every planted word begins.
const PLANTED: &str = "c4n4ry";
/// How every token begins, those of a real Keystone too.
const TOKEN: &str = "gAAAAAB";

/// A word for one place.
pub fn planted(place: &str) -> String {
    format!("{PLANTED}-{place}-{}", Uuid::new_v4().simple())
}

/// Where in a text something stands that nobody may read.
pub fn found(text: &str) -> Option<String> {
    let at = [PLANTED, TOKEN].iter().find_map(|word| text.find(word))?;
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    Some(text[line..].chars().take(2000).collect())
}

/// Fails the test when a text shows something that nobody may read. For the end of what a test made: a test that fails
/// already has its own words.
pub fn look_for(place: &str, text: &str) {
    if let Some(found) = found(text).filter(|_| !std::thread::panicking()) {
        panic!("{place} shows what nobody may read: {found}");
    }
}
