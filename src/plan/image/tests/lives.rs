//! What holds at every moment of a place's life, whatever happens to it.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many seconds pass.
    Wait(u64),
    /// The clock is set back so many seconds.
    ClockBack(u64),
    /// The attempt that runs gets one state further.
    Progress,
    /// It fails.
    Fail,
    /// It fails, and the process dies before the status says so.
    FailUnwritten,
    /// The trial boots fail.
    TrialFails,
    /// The process dies; another takes over.
    Restart,
    /// Another place of the image starts, and one file serves both.
    Join,
    /// The next attempt's process dies before the status tells of its start.
    DieAtNextStart,
    /// A person rejects one of the versions.
    Reject(usize),
    /// A person deletes one.
    Delete(usize),
    /// A node begins to boot from one, or is ready.
    Boot(usize),
    /// The provider is up, or down.
    Provider(bool),
    Retain(usize),
    Suspend(bool),
    List(bool),
    Source(u8),
    Spec,
    Annotate(Option<u8>),
    Schedule(&'static str),
    /// The status is lost.
    Forget,
}

fn event() -> impl Strategy<Value = Event> {
    let schedules = vec![NIGHTLY, "0 */6 * * *", "*/5 * * * *", "0 0 1 * *"];
    prop_oneof![
        6 => (0..200_000_u64).prop_map(Event::Wait),
        12 => Just(Event::Progress),
        3 => Just(Event::Fail),
        1 => Just(Event::FailUnwritten),
        2 => Just(Event::TrialFails),
        2 => Just(Event::Restart),
        1 => Just(Event::DieAtNextStart),
        1 => Just(Event::Join),
        2 => (0..8_usize).prop_map(Event::Reject),
        2 => (0..8_usize).prop_map(Event::Delete),
        2 => (0..8_usize).prop_map(Event::Boot),
        2 => any::<bool>().prop_map(Event::Provider),
        1 => (0..6_usize).prop_map(Event::Retain),
        1 => any::<bool>().prop_map(Event::Suspend),
        1 => any::<bool>().prop_map(Event::List),
        1 => (0..3_u8).prop_map(Event::Source),
        1 => Just(Event::Spec),
        1 => option::of(0..4_u8).prop_map(Event::Annotate),
        1 => prop::sample::select(schedules).prop_map(Event::Schedule),
        1 => (0..100_000_u64).prop_map(Event::ClockBack),
        1 => Just(Event::Forget),
    ]
}

/// A place, the process that works on it, and the cloud it is in.
#[derive(Debug)]
struct Life {
    lab: Lab,
    /// The number of the version that the living process makes.
    working: Option<i64>,
    up: bool,
    dies_at_start: bool,
}

impl Life {
    fn new() -> Self {
        let mut lab = Lab::new(second(1_394_417_686));
        (lab.jitter, lab.offset) = (Duration::from_secs(86_400), Duration::from_secs(1_000));
        Self { lab, working: None, up: true, dies_at_start: false }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wait(seconds) => self.lab.wait(Duration::from_secs(seconds)),
            Event::ClockBack(seconds) => {
                self.lab.now = self.lab.now.checked_sub(Duration::from_secs(seconds)).unwrap();
            }
            Event::Progress => self.progress(),
            Event::Fail => self.end(|lab, number| lab.fail(number)),
            Event::FailUnwritten => self.end(|lab, number| lab.find(number).unwrap().state = State::Failed),
            Event::TrialFails => self.fail_trial(),
            Event::Restart => self.working = None,
            Event::DieAtNextStart => self.dies_at_start = true,
            Event::Join if self.up && joinable(&self.lab.place()).is_some() => self.start(),
            Event::Join => {}
            Event::Reject(which) => self.touch(which, |version| version.rejected = true),
            Event::Delete(which) => self.touch(which, |version| version.deleting = true),
            Event::Boot(which) => {
                self.touch(which, |version| version.booting = version.state == State::Ready && !version.booting);
            }
            Event::Provider(up) => self.up = up,
            Event::Retain(retain) => self.lab.retain = retain,
            Event::Suspend(suspended) => self.lab.suspended = suspended,
            Event::List(listed) => self.lab.listed = listed,
            Event::Source(source) => self.change(|lab| lab.source = format!("v{source}")),
            Event::Spec => self.change(|_| {}),
            Event::Annotate(value) => self.lab.rebuild = value.map(|value| value.to_string()),
            Event::Schedule(schedule) => self.change(|lab| lab.schedule = Schedule::parse(schedule, None).unwrap()),
            Event::Forget => self.lab.history = History::default(),
        }
    }

    fn change(&mut self, change: impl Fn(&mut Lab)) {
        change(&mut self.lab);
        self.lab.generation += 1;
    }

    fn touch(&mut self, which: usize, change: impl Fn(&mut Version)) {
        self.lab.versions.iter_mut().rev().nth(which).into_iter().for_each(change);
    }

    /// What the process works on ends, unless somebody deleted it meanwhile.
    fn end(&mut self, end: impl Fn(&mut Lab, i64)) {
        let working = self.working.take();
        if let Some(number) = working.filter(|number| self.lab.find(*number).is_some_and(|found| found.is_in_flight()))
        {
            end(&mut self.lab, number);
        }
    }

    fn progress(&mut self) {
        let Some(number) = self.working.filter(|_| self.up) else { return };
        let Some(version) = self.lab.find(number).filter(|version| version.is_in_flight()) else { return };
        match version.state {
            State::Building => version.state = State::Uploading,
            State::Uploading => (version.state, version.booting) = (State::Validating, true),
            _ => {
                version.booting = false;
                self.end(Lab::finish);
            }
        }
    }

    fn fail_trial(&mut self) {
        let found = self.working.and_then(|number| self.lab.find(number)).map(|version| version.state);
        if found == Some(State::Validating) {
            self.end(|lab, number| {
                let version = lab.find(number).unwrap();
                (version.state, version.booting) = (State::Rejected, false);
                lab.history = settled(&lab.place()).failed(lab.now);
            });
        }
    }

    /// What the operator does when it looks: it clears up, retires, and starts what is due.
    fn look(&mut self) {
        if self.up {
            self.lab.versions.retain(|version| version.booting || !version.is_leaving());
        }
        self.bury();
        let told = settled(&self.lab.place());
        self.lab.history = told.clone();
        assert_eq!(settled(&self.lab.place()), told, "right once is right");
        self.retire();
        if let Due::Now(_) = self.lab.due() {
            assert!(self.lab.listed && !self.lab.suspended);
            if self.up {
                self.start();
            }
        }
    }

    /// Ends what nobody works on any more, and what a person does not want to be made.
    fn bury(&mut self) {
        let working = self.working;
        let wanted = self.lab.listed;
        for index in 0..self.lab.versions.len() {
            let version = &mut self.lab.versions[index];
            if !version.is_in_flight() || (working == Some(version.number) && wanted && !version.rejected) {
                continue;
            }
            version.state = if version.rejected { State::Rejected } else { State::Failed };
            version.booting = false;
            if !version.rejected {
                self.lab.history = settled(&self.lab.place()).failed(self.lab.now);
            }
            self.working = None;
        }
    }

    fn retire(&mut self) {
        let good = self.lab.good();
        for index in self.lab.retire() {
            let version = &mut self.lab.versions[index];
            assert!(!version.is_in_flight() && !version.booting && !version.is_leaving(), "{version:?}");
            assert!(self.lab.listed || version.managed);
            version.deleting = true;
        }
        assert!(self.lab.retire().is_empty(), "once");
        if self.lab.listed {
            let kept = self.lab.retain.max(2).min(good.len());
            assert_eq!(self.lab.good()[..kept], good[..kept], "rule 7");
        }
    }

    fn start(&mut self) {
        let before = self.lab.history.clone();
        assert!(self.lab.versions.iter().all(|version| version.number < next_number(&self.lab.place())));
        let number = self.lab.start();
        if std::mem::take(&mut self.dies_at_start) {
            self.lab.history = before;
            self.working = None;
        } else {
            self.working = Some(number);
        }
    }

    /// Nothing more happens but time, and attempts that end well.
    fn calm(&mut self) {
        (self.up, self.lab.listed, self.lab.suspended, self.dies_at_start) = (true, true, false, false);
        self.lab.versions.iter_mut().for_each(|version| version.booting = false);
        let start = self.lab.now;
        for _ in 0..30 {
            self.look();
            match self.lab.due() {
                Due::InFlight => {
                    self.lab.wait(Duration::from_secs(20));
                    self.progress();
                }
                Due::At(at) if self.lab.history.failed_at.is_some() => self.lab.now = at,
                _ => break,
            }
        }
        let took = self.lab.now.duration_since(start);
        assert!(took <= SignedDuration::from_secs(3_600 + 600), "fresh at last, but after {took}: {self:?}");
        self.check_fresh();
    }

    fn check_fresh(&self) {
        let lab = &self.lab;
        let Due::At(next) = lab.due() else { panic!("{:?} is not quiet: {self:?}", lab.due()) };
        assert!(!lab.good().is_empty(), "{self:?}");
        assert!(lab.history.source.as_ref().is_none_or(|source| *source == lab.source));
        assert!(lab.rebuild.is_none() || lab.rebuild == lab.history.rebuild);
        assert!(lab.good().len() <= lab.retain.max(2));
        let failed = lab.versions.iter().filter(|version| version.came_to_nothing() && !version.is_leaving());
        assert!(failed.count() <= 1, "the newest stays");
        let mut later = lab.clone();
        for part in 1..=4 {
            let left = next.duration_since(lab.now).as_secs();
            later.now = second(lab.now.as_second() + left * part / 4 - i64::from(part == 4));
            assert_eq!(later.due(), Due::At(next), "quiet until then");
            assert!(later.retire().is_empty());
        }
        later.now = next;
        assert_eq!(later.due(), Due::Now(Why::Scheduled));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_two_newest_good_versions_stay_whatever_happens_and_all_is_fresh_in_the_end(events in vec(event(), 1..80)) {
        let mut life = Life::new();
        for event in events {
            life.happen(event);
            life.look();
            prop_assert!(life.lab.in_flight() <= 1, "rule 9: {life:?}");
        }
        life.calm();
    }
}

fn any_number() -> impl Strategy<Value = i64> {
    prop_oneof![0..6_i64, prop::sample::select(vec![i64::MIN, -1, i64::MAX - 1, i64::MAX, 253_402_300_000])]
}

fn any_version() -> impl Strategy<Value = Version> {
    let states = vec![
        State::Building,
        State::Uploading,
        State::Validating,
        State::Ready,
        State::Rejected,
        State::Failed,
        State::Deleting,
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any_number(), prop::sample::select(states), flags).prop_map(
        |(number, state, (rejected, deleting, managed, booting))| Version {
            number,
            state,
            rejected,
            deleting,
            managed,
            booting,
        },
    )
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let times = vec![Timestamp::MIN, Timestamp::UNIX_EPOCH, second(5), second(1_394_417_686), Timestamp::MAX];
    prop::sample::select(times)
}

fn any_history() -> impl Strategy<Value = History> {
    let failures = prop::sample::select(vec![0, 1, 5, u32::MAX]);
    let text = || option::of(prop::sample::select(vec!["v1".to_owned(), "v2".to_owned()]));
    let times = (option::of(any_time()), option::of(any_time()), option::of(any_time()));
    (times, text(), option::of(0..2_i64), failures, text()).prop_map(
        |((started, failed_at, anticipated), source, generation, failures, rebuild)| History {
            started,
            source,
            generation,
            failures,
            failed_at,
            anticipated,
            rebuild,
            rebuild_pending: false,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_place_breaks_it(
        versions in vec(any_version(), 0..10), history in any_history(), now in any_time(),
        offset in prop::sample::select(vec![0, 60, u64::MAX]), retain in prop::sample::select(vec![0, 2, usize::MAX]),
        suspended in any::<bool>(), listed in any::<bool>(), rebuild in option::of(Just("v1".to_owned())),
    ) {
        let lab = Lab {
            versions, history, retain, suspended, listed, rebuild, offset: Duration::from_secs(offset), jitter: Duration::from_secs(offset), ..Lab::new(now)
        };
        let place = lab.place();
        let answer = due(&place);
        prop_assert_eq!(due_since(&place).is_some(), matches!(answer, Due::Now(_)));
        prop_assert!(due_since(&place).is_none_or(|since| since <= now));
        let joins = joinable(&place);
        prop_assert!(joins.is_none_or(|run| answer == Due::At(run)));
        if let Due::At(at) = answer {
            prop_assert!(at > now);
        }
        let told = settled(&place);
        prop_assert!(told.started.is_none_or(|at| at <= now) && told.failed_at.is_none_or(|at| at <= now));
        let same = Lab { history: told.clone(), ..lab.clone() };
        prop_assert_eq!(settled(&same.place()), told.clone());
        prop_assert_eq!(same.due(), answer);
        prop_assert!(!begun(&place).failed(now).failed(now).succeeded().is_failed());
        prop_assert!(next_number(&place) >= 1);

        let gone = retire(&place);
        let newest = good(&lab.versions);
        for &index in &gone {
            let version = lab.versions[index];
            prop_assert!(!version.is_in_flight() && !version.is_leaving() && !version.booting);
            prop_assert!(!listed || !newest.iter().take(2).any(|&kept| kept == index), "rule 7");
        }
        let mut once = gone.clone();
        once.sort_unstable();
        once.dedup();
        prop_assert_eq!(once.len(), gone.len());
    }
}
