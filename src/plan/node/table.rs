//! Every state, sighting, boot request and deletion: the answers as tables to read, and what must hold for all of them.

use proptest::prelude::*;

use super::*;

const LAUNCH: i64 = 600;
const BOOT: i64 = 120;

/// Seconds after the record was made.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_394_417_686 + second).unwrap()
}

/// A record whose server was named and is not listed yet, `now` seconds old.
fn seen(now: i64, state: State) -> Observation {
    Observation {
        now: at(now),
        created: at(0),
        state,
        condemned: false,
        boot: Boot::Accepted,
        fence: Fence::Off,
        server_known: true,
        server_recorded: true,
        sighting: Sighting::Unlisted,
        probe: Probe::Idle,
        deletion: Deletion::Unsent,
        looked_up: None,
        claim: Claim::None,
        hold: Hold::None,
        address_missing: false,
        boot_timeout: Duration::from_secs(BOOT.unsigned_abs()),
        launch_timeout: Duration::from_secs(LAUNCH.unsigned_abs()),
        settle_time: Duration::ZERO,
        recheck: None,
        busy: false,
    }
}

fn building(now: i64, sighting: Sighting) -> Observation {
    Observation { sighting, ..seen(now, State::Building) }
}

/// A record that is being deleted.
fn condemned(now: i64, sighting: Sighting, deletion: Deletion) -> Observation {
    Observation { condemned: true, sighting, deletion, ..seen(now, State::Ready) }
}

/// A record that is being deleted and whose server was never named.
fn unnamed(now: i64, boot: Boot, sighting: Sighting) -> Observation {
    Observation { boot, server_known: false, ..condemned(now, sighting, Deletion::Unsent) }
}

fn missing(listed: i64, listed_full: i64) -> Sighting {
    Sighting::Missing { listed: at(listed), listed_full: at(listed_full) }
}

fn active(since: i64) -> Sighting {
    Sighting::Present(Status::Active { since: at(since) })
}

const fn present(status: Status) -> Sighting {
    Sighting::Present(status)
}

fn accepted(second: i64, times: u32) -> Deletion {
    Deletion::Accepted { at: at(second), times }
}

fn check(table: Vec<(Observation, Step)>) {
    for (number, (observation, expected)) in table.into_iter().enumerate() {
        assert_eq!(decide(&observation).step, expected, "row {number}: {observation:#?}");
    }
}

#[test]
fn a_node_in_use_ends_only_by_proof_that_its_server_is_gone() {
    let in_use = |sighting, looked_up: Option<i64>| Observation {
        claim: Claim::Live,
        sighting,
        looked_up: looked_up.map(at),
        ..seen(1000, State::InUse)
    };
    let held = |o: &Observation| Observation { state: State::Held, hold: Hold::Until(None), ..o.clone() };
    let rows = vec![
        (in_use(active(410), None), Step::Wait),
        (in_use(present(Status::Stopped), None), Step::Wait),
        (in_use(present(Status::Error), None), Step::Wait),
        (in_use(Sighting::Unlisted, None), Step::Wait),
        (in_use(missing(999, 999), None), Step::LookUp),
        (in_use(missing(999, 999), Some(990)), Step::Wait),
        (in_use(missing(999, 999), Some(960)), Step::LookUp),
        (in_use(Sighting::Gone, None), Step::Condemn(Failure::ServerLost)),
    ];
    check(rows.iter().map(|(observation, step)| (held(observation), *step)).collect());
    check(rows);
}

#[test]
fn the_boot_request_of_a_building_record() {
    let row = |boot, step| (Observation { boot, server_known: false, ..building(1, missing(1, 1)) }, step);
    check(vec![
        row(Boot::Permitted, Step::Boot),
        row(Boot::InFlight, Step::Wait),
        row(Boot::Refused { at: at(1) }, Step::MarkFailed(Failure::Refused)),
        row(Boot::Never, Step::Condemn(Failure::NeverAppeared)),
        row(Boot::Unclear, Step::Wait),
        row(Boot::Accepted, Step::Wait),
    ]);
}

#[test]
fn an_unclear_boot_request_is_searched_for_until_a_full_list_after_the_deadline() {
    let row = |now, sighting, step| {
        (Observation { boot: Boot::Unclear, server_known: false, ..building(now, sighting) }, step)
    };
    check(vec![
        row(1, Sighting::Unlisted, Step::Wait),
        row(LAUNCH + 1, Sighting::Unlisted, Step::Wait),
        row(LAUNCH - 1, missing(LAUNCH - 1, LAUNCH - 1), Step::Wait),
        row(LAUNCH + 1, missing(LAUNCH + 1, LAUNCH - 1), Step::ListAll),
        row(LAUNCH + 1, missing(LAUNCH + 1, LAUNCH), Step::MarkFailed(Failure::NeverAppeared)),
        row(LAUNCH + 1, active(1), Step::MarkFailed(Failure::BootTimeout)),
    ]);
}

/// A fenced record whose boot request nobody can tell the outcome of; a complete list was taken at both these times.
fn fenced(fence: Fence, now: i64, listed: i64, listed_full: i64) -> Observation {
    Observation {
        boot: Boot::Unclear,
        fence,
        server_known: false,
        settle_time: Duration::from_secs(LAUNCH.unsigned_abs()),
        ..building(now, missing(listed, listed_full))
    }
}

/// The same for a record that is being deleted, and shown so already.
fn ended(o: Observation) -> Observation {
    Observation { condemned: true, state: State::Deleting, ..o }
}

fn in_both(rows: Vec<(Observation, Step, Step)>) {
    check(rows.iter().map(|(o, living, _)| (o.clone(), *living)).collect());
    check(rows.into_iter().map(|(o, _, dying)| (ended(o), dying)).collect());
}

#[test]
fn a_fence_is_closed_when_a_first_search_found_nothing() {
    let open = |close| Fence::Open { close: at(close) };
    let row = |fence, now, listed, step| (fenced(fence, now, listed, 1), step, step);
    in_both(vec![
        row(Fence::Off, 20, 20, Step::Wait),
        row(open(10), 9, 9, Step::Wait),
        row(open(10), 11, 9, Step::Wait),
        row(open(10), 11, 10, Step::CloseFence),
        row(open(10), 11, 11, Step::CloseFence),
        row(Fence::of_unclear(at(3)), 7, 7, Step::Wait),
        row(Fence::of_unclear(at(3)), 8, 8, Step::CloseFence),
        row(Fence::not_closed(at(10), 1), 14, 14, Step::Wait),
        row(Fence::not_closed(at(10), 1), 15, 15, Step::CloseFence),
        row(Fence::not_closed(at(10), 30), 69, 69, Step::Wait),
        row(Fence::not_closed(at(10), 30), 70, 70, Step::CloseFence),
        // What was never closed ends as without a fence.
        row(open(10), LAUNCH + 1, LAUNCH - 1, Step::ListAll),
    ]);
    let unlisted = Observation { sighting: Sighting::Unlisted, ..fenced(open(10), 20, 1, 1) };
    in_both(vec![(unlisted, Step::Wait, Step::Wait)]);
    let found = Observation { server_known: true, server_recorded: false, ..fenced(open(10), 20, 20, 20) };
    check(vec![
        (Observation { boot: Boot::InFlight, ..fenced(open(10), 20, 20, 20) }, Step::Wait),
        (Observation { boot: Boot::Permitted, ..fenced(open(10), 20, 20, 20) }, Step::Boot),
        (found.clone(), Step::Wait),
        (ended(found), Step::DeleteServer),
    ]);
}

#[test]
fn behind_a_closed_fence_a_full_list_two_minutes_later_is_proof() {
    let closed = |now, listed, listed_full| fenced(Fence::Closed { at: at(10) }, now, listed, listed_full);
    let never = Step::MarkFailed(Failure::NeverAppeared);
    in_both(vec![
        (closed(11, 11, 11), Step::Wait, Step::Wait),
        (closed(129, 129, 129), Step::Wait, Step::Wait),
        (closed(130, 130, 129), Step::ListAll, Step::ListAll),
        (closed(131, 131, 130), never, Step::Free),
    ]);
    let passed = |sighting| Observation { sighting, ..closed(131, 131, 131) };
    check(vec![
        // It had passed before: the list shows what became of it.
        (passed(present(Status::Building)), Step::Wait),
        (passed(present(Status::Error)), Step::MarkFailed(Failure::ServerError)),
        (passed(active(60)), Step::Probe),
        // Named, so that only its own end frees the slot.
        (Observation { server_known: true, ..closed(131, 131, 131) }, Step::LookUp),
    ]);
    // Whoever is content with less everywhere is so here.
    let hasty = |now, full| Observation { settle_time: Duration::from_secs(2), ..closed(now, now, full) };
    in_both(vec![(hasty(12, 11), Step::ListAll, Step::ListAll), (hasty(12, 12), never, Step::Free)]);
}

#[test]
fn nothing_is_given_up_while_a_server_that_tells_nothing_has_the_port() {
    let taken = |now, listed| fenced(Fence::Taken { again: at(10) }, now, listed, listed);
    in_both(vec![
        (taken(9, 9), Step::Wait, Step::Wait),
        (taken(11, 11), Step::CloseFence, Step::CloseFence),
        (taken(10 * LAUNCH, 9), Step::Wait, Step::Wait),
        (taken(10 * LAUNCH, 10 * LAUNCH), Step::CloseFence, Step::CloseFence),
    ]);
}

#[test]
fn whoever_waits_for_a_fence_is_woken_when_it_is_due() {
    let wake = |fence, now| decide(&fenced(fence, now, now, now)).wake;
    assert_eq!(wake(Fence::Open { close: at(10) }, 5), Some(at(10)));
    assert_eq!(wake(Fence::Closed { at: at(10) }, 15), Some(at(130)));
    assert_eq!(wake(Fence::Taken { again: at(20) }, 15), Some(at(20)));
    assert_eq!(wake(Fence::Off, 15), Some(at(LAUNCH)));
}

#[test]
fn a_server_that_boots() {
    let probing = |probe, now| Observation { probe, ..building(now, active(10)) };
    let addressless = Observation { address_missing: true, ..building(11, active(10)) };
    let unrecorded = |now| Observation { server_recorded: false, ..building(now, present(Status::Building)) };
    check(vec![
        (building(5, present(Status::Building)), Step::Wait),
        (unrecorded(1), Step::Wait),
        (unrecorded(3), Step::RecordServer),
        (building(LAUNCH, present(Status::Building)), Step::MarkFailed(Failure::LaunchTimeout)),
        (building(LAUNCH, present(Status::Stopped)), Step::MarkFailed(Failure::LaunchTimeout)),
        (building(5, present(Status::Error)), Step::MarkFailed(Failure::ServerError)),
        (building(5, present(Status::SoftDeleted)), Step::MarkFailed(Failure::ServerLost)),
        (building(5, present(Status::Deleting)), Step::Wait),
        (building(5, Sighting::Gone), Step::MarkFailed(Failure::ServerLost)),
        (building(5, missing(5, 5)), Step::Wait),
        (building(30, missing(5, 5)), Step::LookUp),
        (Observation { looked_up: Some(at(30)), ..building(59, missing(5, 5)) }, Step::Wait),
        (Observation { looked_up: Some(at(30)), ..building(60, missing(5, 5)) }, Step::LookUp),
        (building(LAUNCH, missing(LAUNCH, 5)), Step::MarkFailed(Failure::LaunchTimeout)),
        (addressless, Step::AttachAddress),
        (probing(Probe::Idle, 11), Step::Probe),
        (probing(Probe::Running, 11), Step::Wait),
        (probing(Probe::Answered, 11), Step::MarkReady),
        (probing(Probe::Idle, 10 + BOOT), Step::MarkFailed(Failure::BootTimeout)),
        (probing(Probe::Running, 10 + BOOT), Step::MarkFailed(Failure::BootTimeout)),
        (probing(Probe::Answered, 10 + BOOT), Step::MarkReady),
    ]);
}

#[test]
fn an_idle_node_is_kept_while_it_is_what_ready_promises() {
    let ready = |sighting| Observation { sighting, ..seen(1000, State::Ready) };
    let again = |looked_up| Observation { looked_up: Some(at(looked_up)), ..ready(missing(999, 999)) };
    let recheck = |second, probe| Observation { recheck: Some(at(second)), probe, ..ready(active(10)) };
    check(vec![
        (ready(active(10)), Step::Wait),
        (ready(Sighting::Unlisted), Step::Wait),
        (ready(present(Status::Building)), Step::Wait),
        (ready(missing(999, 999)), Step::LookUp),
        (again(971), Step::Wait),
        (again(970), Step::LookUp),
        (ready(Sighting::Gone), Step::Condemn(Failure::ServerLost)),
        (ready(present(Status::Error)), Step::Condemn(Failure::ServerLost)),
        (ready(present(Status::Stopped)), Step::Condemn(Failure::ServerLost)),
        (ready(present(Status::Deleting)), Step::Condemn(Failure::ServerLost)),
        (ready(present(Status::SoftDeleted)), Step::Condemn(Failure::ServerLost)),
        (recheck(1001, Probe::Answered), Step::Wait),
        (recheck(1000, Probe::Answered), Step::Probe),
        (recheck(1000, Probe::Running), Step::Wait),
        (recheck(900, Probe::Running), Step::Wait),
        (recheck(1001, Probe::Lost), Step::Condemn(Failure::Unreachable)),
    ]);
}

#[test]
fn claims_and_holds_in_every_state() {
    use State::{Building, Deleting, Failed, Held, InUse, Ready};
    let row = |state, claim, hold, step| {
        (Observation { claim, hold, sighting: active(10), probe: Probe::Running, ..seen(100, state) }, step)
    };
    let for_ever = Hold::Until(None);
    let (coming, over) = (Hold::Until(Some(at(101))), Hold::Until(Some(at(100))));
    check(vec![
        row(Building, Claim::Live, Hold::None, Step::Wait),
        row(Building, Claim::Released, Hold::None, Step::Release),
        row(Building, Claim::ReleasedToHold, Hold::None, Step::HoldReleased),
        row(Building, Claim::None, for_ever, Step::MarkHeld),
        row(Ready, Claim::Live, Hold::None, Step::MarkInUse),
        row(Ready, Claim::Live, for_ever, Step::MarkHeld),
        row(Ready, Claim::Released, Hold::None, Step::Release),
        row(InUse, Claim::Live, Hold::None, Step::Wait),
        row(InUse, Claim::Released, Hold::None, Step::Release),
        row(InUse, Claim::ReleasedToHold, Hold::None, Step::HoldReleased),
        row(InUse, Claim::Released, for_ever, Step::MarkHeld),
        row(Held, Claim::None, for_ever, Step::Wait),
        row(Held, Claim::None, coming, Step::Wait),
        row(Held, Claim::None, over, Step::Release),
        row(Held, Claim::None, Hold::None, Step::Release),
        row(Held, Claim::Live, over, Step::Wait),
        row(Held, Claim::Live, Hold::None, Step::Wait),
        row(Held, Claim::Released, coming, Step::Wait),
        row(Held, Claim::Released, over, Step::Release),
        row(Held, Claim::ReleasedToHold, over, Step::Release),
        row(Held, Claim::ReleasedToHold, Hold::None, Step::Release),
        row(Failed, Claim::None, Hold::None, Step::Release),
        row(Failed, Claim::Live, Hold::None, Step::Release),
        row(Failed, Claim::None, for_ever, Step::MarkHeld),
        row(Deleting, Claim::None, Hold::None, Step::Release),
        row(Deleting, Claim::None, for_ever, Step::Release),
    ]);
}

#[test]
fn the_deletion_of_a_server() {
    let failed = |second| Deletion::Failed { retry: at(second) };
    let looked = |now, sighting, deletion, second| Observation {
        looked_up: Some(at(second)),
        ..condemned(now, sighting, deletion)
    };
    let shown = |o: Observation| Observation { state: State::Deleting, ..o };
    check(vec![
        (condemned(50, active(10), Deletion::Unsent), Step::DeleteServer),
        (condemned(50, missing(49, 49), Deletion::Unsent), Step::DeleteServer),
        (condemned(50, Sighting::Unlisted, Deletion::Unsent), Step::DeleteServer),
        (condemned(50, present(Status::SoftDeleted), Deletion::Unsent), Step::ForceDeleteServer),
        (condemned(50, active(10), Deletion::InFlight), Step::Wait),
        (condemned(50, Sighting::Gone, Deletion::Unsent), Step::Free),
        (condemned(50, Sighting::Gone, accepted(49, 1)), Step::Free),
        (condemned(50, active(10), failed(50)), Step::DeleteServer),
        (condemned(50, active(10), failed(51)), Step::MarkDeleting),
        (shown(condemned(50, active(10), failed(51))), Step::Wait),
        // Short deletions cost no write; longer ones are shown.
        (condemned(102, active(10), accepted(100, 1)), Step::Wait),
        (condemned(103, active(10), accepted(100, 1)), Step::MarkDeleting),
        // The proof does not come: the server is looked up, and what still stands is pushed, ever more slowly.
        (shown(condemned(104, active(10), accepted(100, 1))), Step::Wait),
        (shown(condemned(105, active(10), accepted(100, 1))), Step::LookUp),
        (shown(condemned(105, missing(104, 90), accepted(100, 1))), Step::LookUp),
        (shown(looked(109, active(10), accepted(100, 1), 105)), Step::Wait),
        (shown(looked(110, active(10), accepted(100, 1), 105)), Step::DeleteServer),
        (shown(looked(110, present(Status::Error), accepted(100, 1), 105)), Step::DeleteServer),
        (shown(looked(124, active(10), accepted(100, 3), 105)), Step::Wait),
        (shown(looked(125, active(10), accepted(100, 3), 105)), Step::DeleteServer),
        (shown(looked(134, missing(133, 133), accepted(100, 1), 105)), Step::Wait),
        (shown(looked(135, missing(133, 133), accepted(100, 1), 105)), Step::LookUp),
        // A look-up from before the deletion says nothing about it.
        (shown(looked(105, active(10), accepted(100, 1), 99)), Step::LookUp),
        // The cloud works on it.
        (shown(condemned(399, present(Status::Deleting), accepted(100, 1))), Step::Wait),
        (shown(condemned(400, present(Status::Deleting), accepted(100, 1))), Step::DeleteServer),
        (shown(condemned(104, present(Status::SoftDeleted), accepted(100, 1))), Step::Wait),
        (shown(condemned(105, present(Status::SoftDeleted), accepted(100, 1))), Step::ForceDeleteServer),
    ]);
}

#[test]
fn a_condemned_record_whose_server_was_never_named() {
    let refused = Boot::Refused { at: at(10) };
    check(vec![
        (unnamed(11, Boot::Permitted, Sighting::Unlisted), Step::Free),
        (unnamed(11, Boot::Never, Sighting::Unlisted), Step::Free),
        (unnamed(11, Boot::InFlight, missing(11, 11)), Step::Wait),
        (unnamed(11, refused, Sighting::Unlisted), Step::MarkDeleting),
        (unnamed(11, refused, missing(10, 10)), Step::MarkDeleting),
        (unnamed(12, refused, missing(11, 5)), Step::Free),
        (unnamed(11, Boot::Unclear, missing(11, 11)), Step::MarkDeleting),
        (unnamed(LAUNCH + 1, Boot::Unclear, missing(LAUNCH + 1, LAUNCH - 1)), Step::ListAll),
        (unnamed(LAUNCH + 1, Boot::Unclear, missing(LAUNCH + 1, LAUNCH)), Step::Free),
        (unnamed(LAUNCH + 1, Boot::Unclear, Sighting::Unlisted), Step::MarkDeleting),
        (unnamed(11, Boot::Unclear, Sighting::Gone), Step::Free),
    ]);
}

fn moment() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        (-10..2 * LAUNCH).prop_map(at),
        Just(at(0)),
        Just(at(LAUNCH)),
        Just(Timestamp::MIN),
        Just(Timestamp::MAX)
    ]
}

fn sighting() -> impl Strategy<Value = Sighting> {
    prop_oneof![
        Just(Sighting::Unlisted),
        (moment(), moment()).prop_map(|(listed, listed_full)| Sighting::Missing { listed, listed_full }),
        Just(Sighting::Gone),
        moment().prop_map(|since| Sighting::Present(Status::Active { since })),
        prop::sample::select(vec![
            Status::Building,
            Status::Error,
            Status::Deleting,
            Status::SoftDeleted,
            Status::Stopped
        ])
        .prop_map(Sighting::Present),
    ]
}

fn boot() -> impl Strategy<Value = Boot> {
    prop_oneof![
        prop::sample::select(vec![Boot::Permitted, Boot::InFlight, Boot::Accepted, Boot::Unclear, Boot::Never]),
        moment().prop_map(|at| Boot::Refused { at }),
    ]
}

fn fence() -> impl Strategy<Value = Fence> {
    prop_oneof![
        Just(Fence::Off),
        moment().prop_map(|close| Fence::Open { close }),
        moment().prop_map(|again| Fence::Taken { again }),
        moment().prop_map(|at| Fence::Closed { at }),
    ]
}

fn deletion() -> impl Strategy<Value = Deletion> {
    prop_oneof![
        Just(Deletion::Unsent),
        Just(Deletion::InFlight),
        (moment(), 0..40u32).prop_map(|(at, times)| Deletion::Accepted { at, times }),
        moment().prop_map(|retry| Deletion::Failed { retry }),
    ]
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![3 => Just(Hold::None), 1 => prop::option::of(moment()).prop_map(Hold::Until)]
}

prop_compose! {
    fn any_observation()(
        (now, created, looked_up, recheck) in
            (moment(), moment(), prop::option::of(moment()), prop::option::of(moment())),
        (sighting, boot, fence, deletion, hold) in (sighting(), boot(), fence(), deletion(), hold()),
        state in prop::sample::select(vec![
            State::Building, State::Ready, State::InUse, State::Held, State::Failed, State::Deleting,
        ]),
        probe in prop::sample::select(vec![Probe::Idle, Probe::Running, Probe::Answered, Probe::Lost]),
        claim in prop::sample::select(vec![
            Claim::None, Claim::Live, Claim::Released, Claim::ReleasedToHold,
        ]),
        (condemned, server_known, server_recorded, address_missing) in any::<(bool, bool, bool, bool)>(),
        busy in prop::bool::weighted(0.1),
        (boot_seconds, launch_seconds, settle_seconds) in (0..u64::MAX, 0..2000u64, 0..200u64),
    ) -> Observation {
        Observation {
            now, created, state, condemned, boot, fence, server_known, server_recorded, sighting, probe, deletion,
            looked_up, claim, hold, address_missing, recheck, busy,
            boot_timeout: Duration::from_secs(boot_seconds % if boot_seconds % 7 == 0 { u64::MAX } else { 300 }),
            launch_timeout: Duration::from_secs(launch_seconds),
            settle_time: Duration::from_secs(settle_seconds),
        }
    }
}

/// Whether nothing can exist for this record any more.
fn proven_gone(o: &Observation) -> bool {
    let deadline = later(o.created, o.launch_timeout.max(o.settle_time));
    let fenced = |listed_full: &Timestamp| match o.fence {
        Fence::Closed { at } => *listed_full >= later(at, o.settle_time.min(Duration::from_secs(120))),
        Fence::Off | Fence::Open { .. } | Fence::Taken { .. } => false,
    };
    match (o.boot, &o.sighting) {
        (_, Sighting::Gone) => true,
        _ if o.server_known => false,
        (Boot::Permitted | Boot::Never, _) => true,
        (Boot::Refused { at }, Sighting::Missing { listed, .. }) => *listed > at,
        (Boot::Unclear | Boot::Accepted, Sighting::Missing { listed_full, .. }) => {
            !matches!(o.fence, Fence::Taken { .. }) && *listed_full >= deadline || fenced(listed_full)
        }
        _ => false,
    }
}

/// What is under way and will bring an event of its own, or what only people can end.
fn something_arrives(o: &Observation) -> bool {
    o.busy
        || o.boot == Boot::InFlight
        || o.deletion == Deletion::InFlight
        || o.probe == Probe::Running
        || matches!(o.claim, Claim::Live)
        || matches!(o.state, State::Held | State::InUse)
        || (o.state == State::Ready && !o.condemned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_slot_is_freed_only_by_proof(o in any_observation()) {
        let freed = decide(&o).step == Step::Free;
        prop_assert!(!freed || (o.condemned && proven_gone(&o)));
    }

    #[test]
    fn a_record_whose_boot_is_in_doubt_is_given_up_only_by_proof(o in any_observation()) {
        let given_up = decide(&o).step == Step::MarkFailed(Failure::NeverAppeared);
        prop_assert!(!given_up || o.server_known || proven_gone(&o));
    }

    #[test]
    fn only_the_fence_of_a_boot_in_doubt_is_closed(o in any_observation()) {
        let closes = decide(&o).step == Step::CloseFence;
        let in_doubt = matches!(o.boot, Boot::Unclear | Boot::Accepted) && !o.server_known;
        let missing = matches!(o.sighting, Sighting::Missing { .. });
        let open = matches!(o.fence, Fence::Open { .. } | Fence::Taken { .. });
        prop_assert!(!closes || (in_doubt && missing && open));
    }

    #[test]
    fn only_a_permit_boots_and_only_a_building_record(o in any_observation()) {
        let boots = decide(&o).step == Step::Boot;
        prop_assert!(!boots || (o.boot == Boot::Permitted && o.state == State::Building && !o.condemned));
    }

    #[test]
    fn a_node_that_a_live_request_has_is_not_destroyed(o in any_observation(), held in any::<bool>()) {
        let state = if held { State::Held } else { State::InUse };
        let o = Observation { state, condemned: false, claim: Claim::Live, ..o };
        let step = decide(&o).step;
        let proof = o.sighting == Sighting::Gone;
        let harmless = matches!(step, Step::Wait | Step::LookUp | Step::MarkHeld);
        prop_assert!(harmless || (proof && step == Step::Condemn(Failure::ServerLost)), "{step:?}");
    }

    #[test]
    fn nothing_in_the_cloud_is_deleted_before_the_record(o in any_observation()) {
        let deletes = matches!(decide(&o).step, Step::DeleteServer | Step::ForceDeleteServer);
        prop_assert!(!deletes || (o.condemned && o.server_known));
    }

    #[test]
    fn a_used_node_is_never_ready_again(o in any_observation()) {
        prop_assert!(decide(&o).step != Step::MarkReady || o.state == State::Building);
    }

    #[test]
    fn ready_means_active_and_answered(o in any_observation()) {
        let ready = decide(&o).step == Step::MarkReady;
        let is = matches!(o.sighting, Sighting::Present(Status::Active { .. })) && o.probe == Probe::Answered;
        prop_assert!(!ready || (is && !o.address_missing));
    }

    #[test]
    fn whoever_waits_is_woken(o in any_observation()) {
        let decision = decide(&o);
        let woken = decision.wake.is_some() || something_arrives(&o);
        prop_assert!(decision.step != Step::Wait || woken, "{decision:?}");
    }

    #[test]
    fn nothing_is_done_while_something_is_under_way(o in any_observation()) {
        prop_assert!(!o.busy || decide(&o).step == Step::Wait);
    }

    #[test]
    fn a_wake_that_is_over_is_no_wait(o in any_observation()) {
        let decision = decide(&o);
        let over = decision.wake.is_some_and(|at| at <= o.now) && o.now < Timestamp::MAX;
        prop_assert!(decision.step != Step::Wait || !over, "it would be asked again at once, for ever: {decision:?}");
    }
}
