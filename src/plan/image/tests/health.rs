//! When a version in use is called bad.

use super::*;

const fn launches(good: u32, bad: u32) -> Launches {
    Launches { good, bad }
}

#[test]
fn going_back_needs_evidence_and_somewhere_to_go() {
    let fine = Some(launches(10, 0));
    let rows: &[(&str, Launches, Option<Launches>, bool)] = &[
        ("all four failed", launches(0, 4), fine, true),
        ("three of four failed", launches(1, 3), fine, true),
        ("half is not more than half", launches(2, 2), fine, false),
        ("half of many is not more than half", launches(50, 50), fine, false),
        ("more than half of many", launches(49, 51), fine, true),
        ("three are too few", launches(0, 3), fine, false),
        ("nothing was launched", launches(0, 0), fine, false),
        ("all is well", launches(10, 0), fine, false),
        ("there is no version before", launches(0, 100), None, false),
        ("nobody remembers launches of the version before", launches(0, 4), Some(launches(0, 0)), true),
        ("the version before fails as well", launches(0, 4), Some(launches(1, 2)), false),
        ("the version before failed its last launch", launches(0, 4), Some(launches(0, 1)), false),
        ("the version before fails now and then", launches(0, 4), Some(launches(2, 2)), true),
        ("no number is too large", launches(u32::MAX - 1, u32::MAX), Some(launches(u32::MAX, u32::MAX)), true),
    ];
    for (name, current, previous, expected) in rows {
        assert_eq!(turned_bad(*current, *previous, true), *expected, "{name}");
        assert!(!turned_bad(*current, *previous, false), "{name}, but it is switched off");
    }
}

#[test]
fn what_was_rolled_back_waits_for_the_schedule() {
    let mut lab = Lab::satisfied();
    assert!(turned_bad(launches(0, 4), Some(launches(3, 0)), true));
    let at = current(&lab.versions).unwrap();
    lab.versions[at].rejected = true;
    assert_eq!(lab.due(), Due::At(time("2014-03-11T02:14:00Z")));
    assert_eq!(current(&lab.versions), Some(0));
    assert_eq!(previous(&lab.versions), None, "and this one is not rolled back: there is none before it");
    assert!(lab.retire().is_empty());
}
