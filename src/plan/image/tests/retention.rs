//! What stays and what goes, row by row.

use super::*;

/// A place with these versions: the numbers of those that go, in order.
fn going(retain: usize, versions: &[Version]) -> Vec<i64> {
    let mut lab = Lab::satisfied();
    (lab.retain, lab.versions) = (retain, versions.to_vec());
    lab.retire().into_iter().map(|index| versions[index].number).collect()
}

#[test]
fn the_newest_good_version_is_current_and_the_next_one_previous() {
    let versions = [
        version(2),
        rejected(9),
        Version { rejected: true, ..version(8) },
        Version { deleting: true, ..version(7) },
        in_state(6, State::Validating),
        in_state(5, State::Failed),
        version(4),
        in_state(3, State::Deleting),
    ];
    assert_eq!(good(&versions), [6, 0]);
    assert_eq!((current(&versions), previous(&versions)), (Some(6), Some(0)));
    assert_eq!((current(&versions[..2]), previous(&versions[..2])), (Some(0), None));
    assert_eq!((current(&[]), previous(&[])), (None, None));
}

#[test]
fn good_versions_go_once_enough_newer_good_ones_are_there() {
    let all: Vec<Version> = (1..=5).map(version).collect();
    let rows: &[(&str, usize, &[i64])] = &[
        ("two are kept", 2, &[1, 2, 3]),
        ("three are kept", 3, &[1, 2]),
        ("more than there are", 50, &[]),
        ("one means two", 1, &[1, 2, 3]),
        ("none means two", 0, &[1, 2, 3]),
        ("no number is too large", usize::MAX, &[]),
    ];
    for (name, retain, expected) in rows {
        assert_eq!(going(*retain, &all), *expected, "{name}");
    }
}

#[test]
fn what_is_not_good_does_not_push_out_what_is() {
    let others: &[(&str, Version)] = &[
        ("failed", in_state(9, State::Failed)),
        ("rejected by its trial", in_state(9, State::Rejected)),
        ("rejected by a person", rejected(9)),
        ("just rejected by a person", Version { rejected: true, ..version(9) }),
        ("building", in_state(9, State::Building)),
        ("uploading", in_state(9, State::Uploading)),
        ("in its trial", in_state(9, State::Validating)),
        ("deleting", Version { deleting: true, ..version(9) }),
        ("shown as deleting", in_state(9, State::Deleting)),
    ];
    for (name, other) in others {
        assert_eq!(going(2, &[version(1), version(2), *other]), Vec::<i64>::new(), "{name}");
        assert_eq!(going(2, &[version(1), version(2), version(3), *other]), [1], "{name}");
    }
}

#[test]
fn what_is_booted_from_made_or_already_going_is_not_deleted() {
    let rows: &[(&str, Version)] = &[
        ("a node boots from it", Version { booting: true, ..version(1) }),
        ("it is being deleted", Version { deleting: true, ..version(1) }),
        ("it is shown as deleting", in_state(1, State::Deleting)),
        ("building", in_state(1, State::Building)),
        ("uploading", in_state(1, State::Uploading)),
        ("in its trial", in_state(1, State::Validating)),
        ("a node boots from it although it was rejected", Version { booting: true, ..rejected(1) }),
        ("its trial still runs", Version { booting: true, ..in_state(1, State::Rejected) }),
    ];
    for (name, old) in rows {
        let versions = [*old, version(2), version(3), version(4)];
        assert_eq!(going(2, &versions), [2], "{name}");
        let mut lab = Lab::satisfied();
        (lab.listed, lab.versions) = (false, vec![*old]);
        assert!(lab.retire().is_empty(), "{name}, where it is no longer wanted");
    }
}

#[test]
fn the_last_failure_stays_to_be_looked_at() {
    let (failed, tried) = (in_state(5, State::Failed), in_state(5, State::Rejected));
    for old in [failed, tried] {
        let rows: &[(&str, &[Version], &[i64])] = &[
            ("alone", &[], &[]),
            ("older ones do not count", &[in_state(4, State::Building), version(3), version(2)], &[]),
            ("the next attempt runs", &[in_state(6, State::Building)], &[]),
            ("the next attempt was deleted", &[Version { deleting: true, ..in_state(6, State::Building) }], &[]),
            ("the next attempt failed, and goes", &[Version { deleting: true, ..in_state(6, State::Failed) }], &[]),
            ("the next attempt failed", &[in_state(6, State::Failed)], &[5]),
            ("the next attempt did not boot", &[in_state(6, State::Rejected)], &[5]),
            ("the next attempt was good", &[version(6)], &[5]),
            ("the next attempt was good until a person rejected it", &[rejected(6)], &[5]),
        ];
        for (name, others, expected) in rows {
            let versions: Vec<Version> = [&[old], *others].concat();
            assert_eq!(going(2, &versions), *expected, "{name}: {old:?}");
        }
    }
    let many: Vec<Version> = (1..=4).map(|number| in_state(number, State::Failed)).collect();
    assert_eq!(going(50, &many), [1, 2, 3], "only the newest");
}

#[test]
fn what_a_person_rejected_goes_once_enough_newer_good_ones_are_there() {
    for old in [rejected(5), Version { rejected: true, ..version(5) }] {
        assert_eq!(going(2, &[version(1), version(2), old]), Vec::<i64>::new());
        assert_eq!(going(2, &[version(2), old, version(6)]), Vec::<i64>::new());
        assert_eq!(going(2, &[version(2), old, version(6), version(7)]), [2, 5]);
        assert_eq!(going(3, &[old, version(6), version(7)]), Vec::<i64>::new());
    }
    let failed = Version { rejected: true, ..in_state(5, State::Failed) };
    assert_eq!(going(2, &[failed, version(6)]), [5], "a failed one is a failed one");
}

#[test]
fn where_it_is_no_longer_wanted_all_that_is_ours_goes_the_newest_last() {
    let mut lab = Lab::satisfied();
    lab.listed = false;
    lab.versions = vec![
        version(9),
        Version { managed: false, ..version(8) },
        in_state(3, State::Failed),
        rejected(4),
        Version { booting: true, ..version(7) },
        Version { deleting: true, ..version(6) },
        version(5),
    ];
    assert_eq!(lab.retire(), [2, 3, 6, 0]);
    lab.suspended = true;
    assert_eq!(lab.retire(), [2, 3, 6, 0], "suspended or not");
    lab.listed = true;
    assert_eq!(lab.retire(), [2, 3, 6], "wanted again: two stay, and the one that is booted from");
}

#[test]
fn images_of_others_are_let_go_like_our_own() {
    let theirs: Vec<Version> = (1..=3).map(|number| Version { managed: false, ..version(number) }).collect();
    assert_eq!(going(2, &theirs), [1]);
}

#[test]
fn a_good_version_goes_only_for_good_ones_that_stay() {
    let mut lab = Lab::satisfied();
    lab.versions = vec![version(1), version(2), rejected(3), version(4), in_state(5, State::Failed)];
    let stays = |lab: &Lab, index: usize| stays_for(&lab.place(), &lab.versions[index]);
    assert_eq!(lab.retire(), [0]);
    assert_eq!(stays(&lab, 0), [3, 1], "the two newest good ones");
    assert_eq!(stays(&lab, 2), [0_usize; 0], "what came to nothing goes for itself");
    lab.listed = false;
    assert_eq!(stays(&lab, 0), [0_usize; 0], "where it is no longer wanted, all go");
}
