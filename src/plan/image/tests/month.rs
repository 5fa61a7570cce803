//! A month of several images on three providers, and the night in which everything is due at once.

use super::fleet::{Begin, Down, Fleet, Outage, Spot, after};
use super::*;
use crate::plan::schedule::offset;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// The provider that is down for ten days.
const UNLUCKY: usize = 2;

/// Daily, daily where the clocks change, every six hours, on some days.
const IMAGES: [(&str, &str, &str, Kind); 4] = [
    ("devstack-precise", NIGHTLY, "UTC", Kind::Snapshot),
    ("devstack-trusty", "@daily", "Europe/Berlin", Kind::Url),
    ("bare-precise", "0 */6 * * *", "UTC", Kind::Job),
    ("bare-centos6", "30 3 * * MON,WED,FRI", "America/New_York", Kind::Snapshot),
];
const PROVIDERS: [&str; 3] = ["hpcloud-az1", "hpcloud-az2", "rax-dfw"];

fn start() -> Timestamp {
    time("2014-03-10T09:00:00Z")
}

fn longest_period(schedule: &Schedule, offset: Duration) -> Duration {
    let runs = |from: Timestamp| schedule.next_after(from, offset);
    let all: Vec<Timestamp> = std::iter::successors(runs(start()), |last| runs(*last)).take(200).collect();
    all.windows(2).map(|pair| Duration::try_from(pair[1].duration_since(pair[0])).unwrap()).max().unwrap()
}

/// One image in three providers, one of which is down from day 8 to day 18.
fn month(down: Down) -> Fleet {
    let mut fleet = Fleet::new(start(), Bounds { per_provider: 4, in_all: 12 });
    for (image, (name, schedule, zone, kind)) in IMAGES.into_iter().enumerate() {
        for (provider, at) in PROVIDERS.into_iter().enumerate() {
            let mut lab = Lab::new(start());
            lab.schedule = Schedule::parse(schedule, Some(zone)).unwrap();
            (lab.jitter, lab.offset) = (HOUR, offset(HOUR, name, at));
            let period = longest_period(&lab.schedule, lab.offset);
            fleet.add(image, provider, kind, lab, period);
        }
    }
    fleet.failing = 20;
    fleet.outage =
        Some(Outage { provider: UNLUCKY, from: after(start(), DAY * 8), until: after(start(), DAY * 18), down });
    fleet.restarts = (1..30).map(|day| after(start(), DAY * day - HOUR * (day * 7 % 24))).collect();
    fleet
}

/// Lives a month, looking every hour at how fresh the providers are that are up.
fn live(down: Down) -> Fleet {
    let mut fleet = month(down);
    let outage = fleet.outage.unwrap();
    let healed = after(outage.until, HOUR * 12);
    while fleet.now < after(start(), DAY * 30) {
        fleet.run_until(after(fleet.now, HOUR));
        for provider in 0..PROVIDERS.len() {
            if provider != UNLUCKY || fleet.now <= outage.from || fleet.now >= healed {
                fleet.check_freshness(provider);
            }
        }
    }
    fleet
}

/// The starts of a place before, in and after the outage.
fn around(spot: &Spot, outage: Outage) -> [Vec<&Begin>; 3] {
    let (mut before, mut during, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for begin in &spot.starts {
        match begin.at {
            at if at < outage.from => before.push(begin),
            at if at < outage.until => during.push(begin),
            _ => after.push(begin),
        }
    }
    [before, during, after]
}

fn on_unlucky(fleet: &Fleet) -> impl Iterator<Item = &Spot> {
    fleet.spots.iter().filter(|spot| spot.provider == UNLUCKY)
}

/// Asserts that all that was missed is made up by one good version: only failures are repeated before it, and the next
/// one comes at a run that lies after it.
fn check_made_up_once(after: &[&Begin]) {
    let made = after.iter().position(|begin| begin.good == Some(true)).unwrap();
    assert!(after[1..=made].iter().all(|begin| begin.why == Some(Why::Retry)), "{after:?}");
    check_regular(after[made], after[made + 1]);
}

/// Asserts that an attempt that ended well is followed by the next scheduled run, at its time or with others shortly
/// before it.
fn check_regular(good: &Begin, next: &Begin) {
    assert!(good.next > good.at);
    match next.why {
        Some(why) => assert_eq!((why, next.at), (Why::Scheduled, good.next), "{good:?} {next:?}"),
        None => assert!(next.at < good.next && after(next.at, HOUR) >= good.next, "{good:?} {next:?}"),
    }
}

#[test]
fn a_month_in_which_a_provider_is_not_connected_for_ten_days() {
    let fleet = live(Down::NotConnected);
    let outage = fleet.outage.unwrap();
    let mut missed = 0;
    for spot in on_unlucky(&fleet) {
        let [before, during, after] = around(spot, outage);
        assert!(during.is_empty(), "nothing starts where nothing can");
        // An attempt that the outage caught hung until it was given up: that one is repeated.
        let caught = before.last().unwrap().good == Some(false);
        let why = if caught { Why::Retry } else { Why::Scheduled };
        assert_eq!((after[0].at, after[0].why), (outage.until, Some(why)), "at once");
        missed += usize::from(!caught);
        check_made_up_once(&after);
    }
    assert!(missed > 0, "some runs were missed altogether");
    check_everybody(&fleet);
}

#[test]
fn a_month_in_which_every_attempt_on_a_provider_fails_for_ten_days() {
    let fleet = live(Down::Failing);
    let outage = fleet.outage.unwrap();
    for spot in on_unlucky(&fleet) {
        let [_, during, after] = around(spot, outage);
        assert!((200..280).contains(&during.len()), "{} attempts in ten days: one an hour", during.len());
        assert_eq!(after[0].why, Some(Why::Retry));
        assert!(
            after[0].at.duration_since(outage.until) <= SignedDuration::from_secs(3_600),
            "within the longest pause"
        );
        check_made_up_once(&after);
    }
    check_everybody(&fleet);
}

/// What a month must have seen to prove anything, and that no place was built for more often than it was due.
fn check_everybody(fleet: &Fleet) {
    let begun = || fleet.spots.iter().filter(|spot| spot.provider != UNLUCKY).flat_map(|spot| &spot.starts);
    let ended = |good| begun().filter(|begin| begin.good == Some(good)).count();
    let (good, bad) = (ended(true), ended(false));
    assert!(bad * 100 > (good + bad) * 15 && bad * 100 < (good + bad) * 35, "{bad} of {} failed", good + bad);
    let joined = begun().filter(|begin| begin.why.is_none()).count();
    assert!(joined > 30, "{joined} joined others");
    for spot in &fleet.spots {
        assert_eq!(spot.lab.good().len(), 2);
        for pair in spot.starts.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            match before.good {
                Some(true) if spot.provider != UNLUCKY => check_regular(before, next),
                Some(true) => assert_ne!(next.why, Some(Why::Retry), "repeated without need"),
                _ => assert_eq!(next.why, Some(Why::Retry), "{before:?} {next:?}"),
            }
        }
    }
}

/// Fifty images on ten providers, all of whose versions are a day old.
fn crowd(failing: u64) -> Fleet {
    let mut fleet = Fleet::new(time("2014-03-11T02:14:00Z"), Bounds { per_provider: 4, in_all: 30 });
    for image in 0..50 {
        let kind = [Kind::Snapshot, Kind::Url, Kind::Job][image % 3];
        for provider in 0..10 {
            let lab = Lab { now: fleet.now, ..Lab::satisfied() };
            fleet.add(image, provider, kind, lab, DAY);
        }
    }
    fleet.failing = failing;
    fleet
}

#[test]
fn fifty_images_on_ten_providers_due_at_once_keep_to_the_bounds_and_are_all_fresh_in_the_end() {
    for failing in [0, 20] {
        let mut fleet = crowd(failing);
        // 500 attempts of fifty-five minutes, 30 at a time, take fifteen hours and a half; a fifth fail and are repeated.
        fleet.run_until(time("2014-03-12T02:13:00Z"));
        assert_eq!(fleet.busiest, 30, "the bounds are used");
        for spot in &fleet.spots {
            let good = spot.starts.iter().filter(|begin| begin.good == Some(true)).count();
            assert_eq!(good, 1, "{} on {}", spot.image, spot.provider);
            assert_eq!(spot.starts[0].why, Some(Why::Scheduled));
            assert!(failing > 0 || spot.starts.len() == 1);
            assert_eq!(spot.lab.due(), Due::At(time("2014-03-12T02:14:00Z")));
        }
        let attempts: usize = fleet.spots.iter().map(|spot| spot.starts.len()).sum();
        assert!(fleet.efforts < attempts, "{} efforts for {attempts} versions: files are shared", fleet.efforts);
        assert_eq!(failing > 0, attempts > 500);
    }
}
