//! Each rule of when and why, row by row.

use super::*;

const TONIGHT: Due = Due::At(Timestamp::constant(1_394_504_040, 0));

/// What a place is due for once it has been changed.
type Row = (&'static str, fn() -> Lab, fn(&mut Lab), Due);

fn check(rows: &[Row]) {
    assert_eq!(TONIGHT, Due::At(time("2014-03-11T02:14:00Z")));
    for (name, lab, change, expected) in rows {
        let mut lab = lab();
        change(&mut lab);
        assert_eq!(lab.due(), *expected, "{name}");
    }
}

fn untouched() -> Lab {
    Lab::new(time("2014-03-10T12:00:00Z"))
}

#[test]
fn each_reason_to_make_a_version_has_its_time() {
    check(&[
        ("nothing there yet: at once", untouched, |_| {}, Due::Now(Why::FirstTime)),
        ("two versions and no reason: tonight", Lab::satisfied, |_| {}, TONIGHT),
        (
            "the jitter moves the run",
            Lab::satisfied,
            |lab| (lab.offset, lab.history.started) = (Duration::from_secs(60), Some(time("2014-03-10T02:15:00Z"))),
            Due::At(time("2014-03-11T02:15:00Z")),
        ),
        ("the run has come", Lab::satisfied, |lab| lab.now = time("2014-03-11T02:14:00Z"), Due::Now(Why::Scheduled)),
        ("a second before it has not", Lab::satisfied, |lab| lab.now = time("2014-03-11T02:13:59Z"), TONIGHT),
        ("another source: at once", Lab::satisfied, |lab| lab.source = "v2".into(), Due::Now(Why::SourceChanged)),
        ("another spec with the same source: no reason", Lab::satisfied, |lab| lab.generation = 2, TONIGHT),
        ("nobody knows the source: no reason", Lab::satisfied, |lab| lab.history.source = None, TONIGHT),
        ("asked for: at once", Lab::satisfied, |lab| lab.rebuild = Some("1".into()), Due::Now(Why::Requested)),
        (
            "asked for again: at once",
            Lab::satisfied,
            |lab| (lab.rebuild, lab.history.rebuild) = (Some("2".into()), Some("1".into())),
            Due::Now(Why::Requested),
        ),
        (
            "asked for and done",
            Lab::satisfied,
            |lab| (lab.rebuild, lab.history.rebuild) = (Some("1".into()), Some("1".into())),
            TONIGHT,
        ),
        ("no longer asked for", Lab::satisfied, |lab| lab.history.rebuild = Some("1".into()), TONIGHT),
        (
            "another schedule that came since the last run: at once",
            Lab::satisfied,
            |lab| lab.schedule = Schedule::parse("0 10 * * *", None).unwrap(),
            Due::Now(Why::Scheduled),
        ),
        (
            "no run comes any more before the end of time",
            Lab::satisfied,
            |lab| (lab.now, lab.history.started) = (Timestamp::MAX, Some(Timestamp::MAX)),
            Due::Never,
        ),
    ]);
}

#[test]
fn nothing_is_made_beside_another_nor_where_it_is_unwanted_or_suspended() {
    let everything = |lab: &mut Lab| {
        (lab.source, lab.rebuild, lab.now) = ("v2".into(), Some("1".into()), time("2014-04-01T00:00:00Z"));
    };
    let mut lab = Lab::satisfied();
    everything(&mut lab);
    assert_eq!(lab.due(), Due::Now(Why::SourceChanged));
    for state in [State::Building, State::Uploading, State::Validating] {
        let mut lab = lab.clone();
        lab.versions.push(in_state(1, state));
        assert_eq!(lab.due(), Due::InFlight, "{state:?}");
        lab.suspended = true;
        assert_eq!(lab.due(), Due::InFlight, "{state:?}, suspended");
        lab.versions[2].deleting = true;
        assert_eq!(lab.due(), Due::Suspended, "{state:?}, deleting");
        lab.suspended = false;
        assert_eq!(lab.due(), Due::Now(Why::SourceChanged), "{state:?}, deleting");
    }
    check(&[
        ("suspended from the start", untouched, |lab| lab.suspended = true, Due::Suspended),
        (
            "suspended, though asked for",
            Lab::satisfied,
            |lab| (lab.suspended, lab.rebuild) = (true, Some("1".into())),
            Due::Suspended,
        ),
        ("suspended, though failing", || Lab::failing(3), |lab| lab.suspended = true, Due::Suspended),
        ("unwanted from the start", untouched, |lab| lab.listed = false, Due::Never),
        (
            "unwanted while one is made: it is given up",
            Lab::satisfied,
            |lab| (lab.listed, lab.versions[1].state) = (false, State::Building),
            Due::Never,
        ),
    ]);
}

#[test]
fn what_was_asked_for_while_suspended_is_made_afterwards() {
    let mut lab = Lab::satisfied();
    (lab.suspended, lab.rebuild) = (true, Some("1".into()));
    assert_eq!(lab.due(), Due::Suspended);
    lab.suspended = false;
    assert_eq!(lab.due(), Due::Now(Why::Requested));
    let number = lab.start();
    lab.finish(number);
    assert_eq!(lab.due(), TONIGHT, "once");
}

#[test]
fn a_failed_attempt_is_repeated_after_a_pause_that_grows_to_an_hour() {
    let pauses = [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (9, 2_560), (10, 3_600), (u32::MAX, 3_600)];
    for (failures, pause) in pauses {
        let mut lab = Lab::failing(failures);
        let retry = second(time("2014-03-10T02:30:00Z").as_second() + pause);
        lab.now = second(retry.as_second() - 1);
        assert_eq!(lab.due(), Due::At(retry), "after {failures}");
        lab.now = retry;
        assert_eq!(lab.due(), Due::Now(Why::Retry), "after {failures}");
    }
}

#[test]
fn failures_wait_for_nothing_but_their_pause_or_a_correction() {
    let soon = Due::At(time("2014-03-10T03:30:00Z"));
    let failing = || {
        let mut lab = Lab::failing(20);
        lab.now = time("2014-03-10T02:40:00Z");
        lab
    };
    let retry = Due::Now(Why::Retry);
    check(&[
        ("a failure", failing, |_| {}, soon),
        ("whatever the schedule says", failing, |lab| lab.schedule = Schedule::parse("* * * * *", None).unwrap(), soon),
        ("also with nothing to boot from", failing, |lab| lab.versions.clear(), soon),
        ("also with nothing good left", failing, |lab| lab.versions[0].rejected = true, soon),
        ("the spec was corrected: at once", failing, |lab| lab.generation = 2, retry),
        ("nobody knows which spec failed: as if it were this", failing, |lab| lab.history.generation = None, soon),
        ("another source: at once", failing, |lab| lab.source = "v2".into(), Due::Now(Why::SourceChanged)),
        ("asked for: at once", failing, |lab| lab.rebuild = Some("1".into()), Due::Now(Why::Requested)),
        ("a person deleted its record: as before", failing, |lab| lab.versions[1].deleting = true, soon),
        (
            "an earlier one failed, this one did not",
            failing,
            |lab| {
                lab.history.failed_at = Some(time("2014-03-10T02:13:00Z"));
                lab.versions[1].state = State::Ready;
            },
            TONIGHT,
        ),
        (
            "it failed, and the next was good, but only the count says so",
            failing,
            |lab| (lab.history.failures, lab.versions[1].state) = (0, State::Ready),
            TONIGHT,
        ),
        (
            "an earlier one failed by a clock that was ahead",
            failing,
            |lab| {
                (lab.now, lab.versions[1].state) = (time("2014-03-10T01:00:00Z"), State::Ready);
                lab.history.failed_at = Some(time("2014-03-10T02:00:00Z"));
            },
            Due::At(time("2014-03-10T02:14:00Z")),
        ),
    ]);
}

#[test]
fn pauses_begin_anew_with_another_spec_and_with_a_success() {
    let mut lab = Lab::failing(20);
    let number = lab.start();
    assert_eq!(lab.history.failures, 20, "the same spec");
    lab.fail(number);
    assert_eq!(lab.history.failures, 21);
    lab.generation = 2;
    let number = lab.start();
    assert_eq!(lab.history.failures, 0, "another spec");
    lab.fail(number);
    assert_eq!(lab.due(), Due::At(second(lab.now.as_second() + 10)));
    lab.wait(Duration::from_secs(10));
    let number = lab.start();
    lab.finish(number);
    assert_eq!((lab.history.failures, lab.due()), (0, TONIGHT));
}

#[test]
fn an_attempt_fails_once_however_often_it_is_said() {
    let mut lab = Lab::satisfied();
    let number = lab.start();
    lab.fail(number);
    let once = lab.history.clone();
    lab.wait(Duration::from_secs(5));
    assert_eq!(lab.history.failed(lab.now), once);
    assert_eq!(settled(&lab.place()), once);
    assert_eq!(begun(&lab.place()).failed_at, None, "another attempt");
    let ahead = History { started: Some(time("2015-01-01T00:00:00Z")), ..History::default() };
    assert!(ahead.failed(lab.now).is_failed(), "whatever the clock says meanwhile");
}

#[test]
fn each_value_of_the_annotation_asks_once() {
    let mut lab = Lab::satisfied();
    for (value, asks) in [(Some("1"), true), (None, false), (Some("1"), false), (Some("2"), true)] {
        lab.rebuild = value.map(str::to_owned);
        assert_eq!(lab.due(), if asks { Due::Now(Why::Requested) } else { TONIGHT }, "{value:?}");
        let number = lab.start();
        lab.finish(number);
    }
    assert_eq!(lab.history.rebuild.as_deref(), Some("2"));
}

#[test]
fn what_was_begun_for_a_request_answers_it_though_nobody_wrote_that_down() {
    let mut lab = Lab::satisfied();
    (lab.rebuild, lab.history.rebuild) = (Some("2".into()), Some("1".into()));
    let before = lab.history.clone();
    let number = lab.start();
    // Died before the status was written; the version had been made so fast that it was good already.
    lab.history = before;
    lab.find(number).unwrap().state = State::Ready;
    lab.wait(Duration::from_secs(1));
    assert_eq!((lab.due(), settled(&lab.place()).rebuild.as_deref()), (TONIGHT, Some("2")));
    let once = settled(&lab.place());
    assert_eq!(settled(&Place { history: &once, ..lab.place() }), once, "right once is right");
    lab.rebuild = Some("3".into());
    assert_eq!(lab.due(), Due::Now(Why::Requested), "asked anew");
    // It failed: somebody still waits for one.
    lab.rebuild = Some("2".into());
    lab.find(number).unwrap().state = State::Failed;
    lab.history = settled(&lab.place());
    assert!(is_insisted(&lab.place()) && matches!(lab.due(), Due::At(_)));
    // A later attempt, of which there is no record, answered another value.
    (lab.history.started, lab.history.rebuild) = (Some(lab.now), Some("3".into()));
    assert_eq!(lab.due(), Due::Now(Why::Requested));
}

#[test]
fn a_record_that_lies_ahead_does_not_tell_which_request_was_answered_last() {
    let mut lab = Lab::satisfied();
    lab.rebuild = Some("1".into());
    let number = lab.start();
    lab.finish(number);
    // The clock was set back; what was asked for then could not be begun.
    lab.now = second(number - 10_000);
    lab.rebuild = Some("2".into());
    lab.history = begun(&lab.place()).failed(lab.now);
    lab.wait(Duration::from_secs(1));
    assert!(matches!(lab.due(), Due::At(_)), "{:?}", lab.due());
    assert_eq!(settled(&lab.place()).rebuild.as_deref(), Some("2"));
}

#[test]
fn what_was_asked_for_is_insisted_on_until_it_is_there() {
    let mut lab = Lab::satisfied();
    assert!(!is_insisted(&lab.place()));
    lab.rebuild = Some("1".into());
    assert!(is_insisted(&lab.place()), "asked for");
    for attempt in 1..=2 {
        lab.history = begun(&lab.place()).failed(lab.now);
        assert!(is_insisted(&lab.place()), "attempt {attempt} failed");
        lab.wait(Duration::from_secs(60));
    }
    let begun = begun(&lab.place());
    for (ended, history) in [("rejected by a person", begun.unwanted()), ("made", begun.succeeded())] {
        lab.history = history;
        assert!(!is_insisted(&lab.place()), "{ended}");
    }
}

#[test]
fn what_a_person_rejects_or_deletes_comes_back_at_the_scheduled_time_and_not_before() {
    let none_left = Due::Now(Why::NoneLeft);
    check(&[
        ("the newer one was deleted", Lab::satisfied, |lab| lab.versions.truncate(1), TONIGHT),
        ("the newer one is being deleted", Lab::satisfied, |lab| lab.versions[1].deleting = true, TONIGHT),
        ("the same, once its state shows it", Lab::satisfied, |lab| lab.versions[1].state = State::Deleting, TONIGHT),
        ("the newer one was rejected", Lab::satisfied, |lab| lab.versions[1].rejected = true, TONIGHT),
        (
            "the same, once its state shows it",
            Lab::satisfied,
            |lab| lab.versions[1] = rejected(lab.versions[1].number),
            TONIGHT,
        ),
        ("the older one was deleted", Lab::satisfied, |lab| lab.versions = lab.versions.split_off(1), TONIGHT),
        ("all were deleted", Lab::satisfied, |lab| lab.versions.clear(), none_left),
        (
            "all are rejected or being deleted",
            Lab::satisfied,
            |lab| (lab.versions[0].rejected, lab.versions[1].deleting) = (true, true),
            none_left,
        ),
        (
            "one is left, but only a failed one",
            Lab::satisfied,
            |lab| lab.versions = vec![in_state(1, State::Failed)],
            none_left,
        ),
    ]);
}

#[test]
fn missed_runs_are_made_up_once() {
    let mut lab = Lab::satisfied();
    lab.now = time("2014-03-20T12:00:00Z");
    assert_eq!(lab.due(), Due::Now(Why::Scheduled), "ten were missed");
    let number = lab.start();
    assert_eq!(lab.due(), Due::InFlight);
    lab.wait(Duration::from_secs(1_800));
    lab.finish(number);
    assert_eq!(lab.due(), Due::At(time("2014-03-21T02:14:00Z")));
}

#[test]
fn a_process_that_dies_at_any_instant_loses_nothing_and_doubles_nothing() {
    let mut lab = Lab::satisfied();
    lab.now = time("2014-03-11T02:14:00Z");
    let before = lab.history.clone();
    let number = lab.start();
    let began = lab.history.clone();

    lab.history = before.clone();
    assert_eq!(lab.due(), Due::InFlight, "the record is there, the status is not");
    lab.find(number).unwrap().state = State::Failed;
    lab.wait(Duration::from_secs(5));
    let retry = Due::At(time("2014-03-11T02:14:10Z"));
    assert_eq!(lab.due(), retry, "neither the start nor the failure was written");
    lab.history = began.clone();
    assert_eq!(lab.due(), retry, "the failure was not written");
    lab.history = settled(&lab.place());
    assert_eq!((lab.history.failures, lab.due()), (1, retry), "now it is");

    lab.history = before.failed(time("2014-03-10T02:15:00Z"));
    lab.history.failures = 3;
    assert_eq!(settled(&lab.place()).failures, 4, "after a failure that was written came one that was not");
    assert_eq!(lab.due(), Due::At(time("2014-03-11T02:15:20Z")));
    assert_eq!(begun(&lab.place()).failures, 4, "and it counts for the next");

    lab.find(number).unwrap().state = State::Ready;
    for history in [before, began] {
        lab.history = history;
        assert_eq!(lab.due(), Due::At(time("2014-03-12T02:14:00Z")), "it was made, but that was not written");
    }
}

#[test]
fn trial_boots_that_fail_are_a_failure_and_a_persons_no_is_none() {
    let mut lab = Lab::satisfied();
    let number = lab.start();
    *lab.find(number).unwrap() = in_state(number, State::Rejected);
    assert_eq!(lab.due(), Due::At(second(number + 10)));
    *lab.find(number).unwrap() = rejected(number);
    assert_eq!(lab.due(), TONIGHT);
}

#[test]
fn records_whose_status_was_lost_go_on_from_their_numbers() {
    let mut lab = Lab::satisfied();
    lab.history = History::default();
    assert_eq!(lab.due(), TONIGHT);
    lab.now = time("2014-03-12T00:00:00Z");
    assert_eq!(lab.due(), Due::Now(Why::Scheduled));
    lab.now = time("2014-03-10T12:00:00Z");
    lab.versions = vec![version(i64::MAX), version(i64::MIN)];
    assert_eq!(lab.due(), TONIGHT, "numbers that are no times: from now");
}

#[test]
fn a_start_that_lies_ahead_is_taken_as_now_once() {
    let mut lab = Lab::satisfied();
    lab.history.started = Some(time("2015-01-01T00:00:00Z"));
    assert_eq!(lab.due(), TONIGHT);
    lab.history = settled(&lab.place());
    assert_eq!(lab.history.started, Some(lab.now));
    lab.now = time("2014-03-11T02:14:00Z");
    assert_eq!(lab.due(), Due::Now(Why::Scheduled), "it does not recede");
}

#[test]
fn a_clock_that_is_set_back_hides_no_failure_and_no_order() {
    let mut lab = Lab::satisfied();
    lab.now = time("2014-06-01T00:00:00Z");
    let number = lab.start();
    lab.now = time("2014-03-10T13:00:00Z");
    lab.fail(number);
    assert!(settled(&lab.place()).failed_at.is_some());
    lab.history = settled(&lab.place());
    assert_eq!(lab.due(), Due::At(time("2014-03-10T13:00:10Z")));
    lab.wait(Duration::from_secs(10));
    assert_eq!(lab.due(), Due::Now(Why::Retry));
    let next = lab.start();
    assert_eq!(next, number + 1, "the newest is the newest");
    lab.finish(next);
    assert_eq!(lab.good()[0], next);
    assert_eq!(lab.due(), TONIGHT);
}

#[test]
fn numbers_are_times_and_always_grow() {
    let mut lab = Lab::new(second(1_394_417_686));
    assert_eq!(next_number(&lab.place()), 1_394_417_686);
    lab.versions = vec![in_state(1_394_417_686, State::Failed)];
    assert_eq!(next_number(&lab.place()), 1_394_417_687, "twice in a second");
    lab.now = second(-5);
    lab.versions.clear();
    assert_eq!(next_number(&lab.place()), 1, "before 1970");
    lab.versions = vec![version(i64::MAX)];
    assert_eq!(next_number(&lab.place()), i64::MAX);
}

#[test]
fn who_joins_others_before_its_run_needs_that_run_no_more() {
    let joins = |lab: &Lab| joinable(&lab.place());
    let run = time("2014-03-11T02:59:00Z");
    let mut lab = Lab::satisfied();
    (lab.jitter, lab.offset) = (Duration::from_secs(3_600), Duration::from_secs(45 * 60));
    lab.history.started = Some(time("2014-03-10T02:59:00Z"));
    lab.now = time("2014-03-11T01:58:59Z");
    assert_eq!(joins(&lab), None, "too early");
    lab.now = time("2014-03-11T01:59:00Z");
    assert_eq!(joins(&lab), Some(run));
    lab.suspended = true;
    assert_eq!(joins(&lab), None, "suspended");
    lab.suspended = false;
    let late = Lab { now: run, ..lab.clone() };
    assert_eq!(joins(&late), None, "due by itself");
    let failing = Lab { history: lab.history.failed(lab.now), ..lab.clone() };
    assert_eq!(joins(&failing), None, "no run, but a pause");

    let number = lab.start();
    assert_eq!(lab.history.anticipated, Some(run));
    lab.wait(Duration::from_secs(600));
    let mut well = lab.clone();
    well.finish(number);
    let next = Due::At(time("2014-03-12T02:59:00Z"));
    assert_eq!(well.due(), next);
    well.history = settled(&well.place());
    assert_eq!(well.due(), next, "settled or not");

    lab.fail(number);
    lab.wait(Duration::from_secs(10));
    assert_eq!(lab.due(), Due::Now(Why::Retry));
    let number = lab.start();
    lab.wait(Duration::from_secs(600));
    lab.finish(number);
    assert_eq!(lab.due(), next, "the repetition stands for it as well");

    lab.now = time("2014-03-12T02:59:00Z");
    lab.start();
    assert_eq!(lab.history.anticipated, None, "its own run");
}

#[test]
fn a_run_that_was_anticipated_by_a_clock_that_was_ahead_is_not_waited_for() {
    let mut lab = Lab::satisfied();
    lab.history.started = Some(time("2015-01-01T00:00:00Z"));
    lab.history.anticipated = Some(time("2015-01-01T01:00:00Z"));
    assert_eq!(lab.due(), TONIGHT);
    lab.history = settled(&lab.place());
    assert_eq!((lab.due(), lab.history.anticipated), (TONIGHT, None));
}

#[test]
fn waiting_is_counted_from_when_it_was_wanted() {
    let since = |lab: &Lab| due_since(&lab.place());
    let mut lab = Lab::satisfied();
    assert_eq!(since(&lab), None, "nothing is due");
    lab.now = time("2014-03-12T12:00:00Z");
    assert_eq!(since(&lab), Some(time("2014-03-11T02:14:00Z")), "the first run that was missed");
    lab.source = "v2".into();
    assert_eq!(since(&lab), lab.history.started);
    let failing = Lab::failing(1);
    assert_eq!(since(&failing), Some(time("2014-03-10T02:30:10Z")), "the end of the pause");
    assert_eq!(since(&untouched()), Some(Timestamp::MIN), "before all others");
    let mut empty = Lab::satisfied();
    empty.versions.clear();
    assert_eq!(since(&empty), empty.history.started);
    empty.suspended = true;
    assert_eq!(since(&empty), None);
}
