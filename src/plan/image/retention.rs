//! Which versions are good, which of them is booted from, and which records the operator deletes.
//!
//! While the image is wanted on the provider, the two newest good versions stay, whatever fails and however long
//! (rule 7). Age never counts, only newer good ones do. Nothing that is being made or booted from is deleted, and
//! nothing is deleted twice.

use std::cmp::Reverse;

use super::{Place, State, Version};

/// The fewest good versions kept: the current one, and the one to go back to.
const FEWEST: usize = 2;

/// The indexes of the versions that nodes may be booted from, the newest first (rule 8).
#[must_use]
pub fn good(versions: &[Version]) -> Vec<usize> {
    let mut good: Vec<(Reverse<i64>, usize)> = versions
        .iter()
        .enumerate()
        .filter(|(_, version)| version.is_good())
        .map(|(index, version)| (Reverse(version.number), index))
        .collect();
    good.sort_unstable();
    good.into_iter().map(|(_, index)| index).collect()
}

/// The index of the version that nodes are booted from.
#[must_use]
pub fn current(versions: &[Version]) -> Option<usize> {
    good(versions).first().copied()
}

/// The index of the version that becomes current when the current one is deleted or rejected.
#[must_use]
pub fn previous(versions: &[Version]) -> Option<usize> {
    good(versions).get(1).copied()
}

/// The indexes of the versions whose records the operator deletes now, the oldest first.
///
/// What is being made is not deleted even where the image is no longer wanted: whoever makes it gives it up there (see
/// [`super::Due::Never`]), and then its record goes as failed.
#[must_use]
pub fn retire(place: &Place<'_>) -> Vec<usize> {
    let mut going: Vec<(i64, usize)> = place
        .versions
        .iter()
        .enumerate()
        .filter(|(_, version)| is_free(version) && is_done_with(place, version))
        .map(|(index, version)| (version.number, index))
        .collect();
    going.sort_unstable();
    going.into_iter().map(|(_, index)| index).collect()
}

/// The indexes of the good versions that stay in the place of one that [`retire`] lets go: it must not go unless these
/// are still good (rule 7). None where it is not good itself, or the image is no longer wanted.
#[must_use]
pub fn stays_for(place: &Place<'_>, going: &Version) -> Vec<usize> {
    if !place.listed || !going.is_good() {
        return Vec::new();
    }
    let mut staying = good(place.versions);
    staying.truncate(place.retain.max(FEWEST));
    staying
}

const fn is_free(version: &Version) -> bool {
    !version.is_leaving() && !version.is_in_flight() && !version.booting
}

fn is_done_with(place: &Place<'_>, version: &Version) -> bool {
    if !place.listed {
        return version.managed;
    }
    let mut newer = place.versions.iter().filter(|other| other.number > version.number);
    if version.came_to_nothing() {
        // Until the next attempt has ended, it is what people look at.
        return newer.any(has_ended);
    }
    newer.filter(|other| other.is_good()).count() >= place.retain.max(FEWEST)
}

const fn has_ended(version: &Version) -> bool {
    matches!(version.state, State::Ready | State::Rejected | State::Failed) && !version.is_leaving()
}
