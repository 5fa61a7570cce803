//! The story that nodepool's documents tell: a bad image is deleted, the one before serves, the next comes in time.

use super::*;

const OLDER: i64 = 1_394_417_686;
const NEWER: i64 = 1_394_514_268;

/// devstack-precise at hpcloud-az2, its two versions ready.
fn devstack_precise() -> Lab {
    let mut lab = Lab::new(time("2014-03-11T09:00:00Z"));
    lab.versions = vec![version(OLDER), version(NEWER)];
    lab.offset = crate::plan::schedule::offset(Duration::from_secs(3_600), "devstack-precise", "hpcloud-az2");
    lab.history = History {
        started: Some(second(NEWER)),
        source: Some(lab.source.clone()),
        generation: Some(lab.generation),
        ..History::default()
    };
    lab
}

#[test]
fn a_bad_image_is_undone_by_deleting_it() {
    let mut lab = devstack_precise();
    assert_eq!(lab.good(), [NEWER, OLDER]);
    let run = lab.schedule.next_after(lab.now, lab.offset).unwrap();
    assert!(run > time("2014-03-12T02:14:00Z") && run < time("2014-03-12T03:14:00Z"), "tomorrow night: {run}");
    assert_eq!(lab.due(), Due::At(run));

    lab.find(NEWER).unwrap().deleting = true;
    assert_eq!(lab.good(), [OLDER], "the one before serves at once");
    assert_eq!(lab.due(), Due::At(run), "and none is built for it before its time");
    assert!(lab.retire().is_empty());
    lab.versions.retain(|version| version.number != NEWER);
    assert_eq!((lab.good(), lab.due()), (vec![OLDER], Due::At(run)));

    lab.now = second(run.as_second() - 1);
    assert_eq!(lab.due(), Due::At(run));
    lab.now = run;
    assert_eq!(lab.due(), Due::Now(Why::Scheduled));
    let next = lab.start();
    assert_eq!(next, run.as_second());
    assert_eq!((lab.due(), lab.good()), (Due::InFlight, vec![OLDER]), "which serves while the next is built");

    lab.wait(Duration::from_secs(1_800));
    lab.finish(next);
    assert_eq!(lab.good(), [next, OLDER], "and is kept as the next most recent one");
    assert!(lab.retire().is_empty());
    lab.now = lab.schedule.next_after(lab.now, lab.offset).unwrap();
    assert_eq!(lab.due(), Due::Now(Why::Scheduled));
    let after = lab.start();
    assert!(lab.retire().is_empty(), "until two newer ones are good");
    lab.finish(after);
    assert_eq!(lab.retire().iter().map(|&index| lab.versions[index].number).collect::<Vec<_>>(), [OLDER]);
}

#[test]
fn rejecting_it_does_the_same_and_keeps_the_record() {
    let mut lab = devstack_precise();
    let due = lab.due();
    lab.find(NEWER).unwrap().rejected = true;
    assert_eq!((lab.good(), lab.due()), (vec![OLDER], due));
    *lab.find(NEWER).unwrap() = rejected(NEWER);
    assert_eq!((lab.good(), lab.due()), (vec![OLDER], due));
    assert!(lab.retire().is_empty());
}
