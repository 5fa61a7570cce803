//! When an image is made again: a cron expression in a time zone, moved by a part of the jitter that is fixed for each
//! image and provider.
//!
//! It never reads a clock. Runs that were missed are made up once, not one by one, and a restart neither loses nor
//! repeats a run, because the next one follows from the last.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A schedule, read and checked.
#[derive(Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl fmt::Debug for Schedule {
    /// In its five fields: what they are read into fills screens.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name();
        formatter.debug_struct("Schedule").field("cron", &self.cron.as_str()).field("zone", &zone).finish()
    }
}

/// Why a schedule is refused, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// It does not have five fields.
    #[error(
        "schedule \"{expression}\" has {count} fields; write five: minute, hour, day of month, month, day of week, for \
         example \"30 3 * * *\" for every day at 03:30, or @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Fields {
        /// What was written.
        expression: String,
        /// How many fields that are.
        count: usize,
    },
    /// A field cannot be read.
    #[error(
        "schedule \"{expression}\" cannot be read: {problem}; the fields are minute 0-59, hour 0-23, day of month 1-31, \
         month 1-12, day of week 0-7, for example \"30 3 * * *\" for every day at 03:30"
    )]
    Unreadable {
        /// What was written.
        expression: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such day ever comes.
    #[error("schedule \"{expression}\" never comes; check the day of month against the month")]
    Never {
        /// What was written.
        expression: String,
    },
    /// The time zone is not known.
    #[error("timeZone \"{name}\" is not known; write a name of the IANA list such as \"Europe/Berlin\", or \"UTC\"")]
    TimeZone {
        /// What was written.
        name: String,
    },
}

/// From here on a schedule must come at least once, or it never does. Any time will do: the calendar repeats.
const SOME_DAY: Timestamp = Timestamp::constant(1_700_000_000, 0);

impl Schedule {
    /// Reads a cron expression of five fields, or a nickname such as `@daily`, in a time zone (UTC unless given).
    pub fn parse(expression: &str, time_zone: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = match time_zone {
            None => TimeZone::UTC,
            Some(name) => time_zone_named(name)?,
        };
        let expression = expression.trim();
        let count = expression.split_whitespace().count();
        if count != 5 && !(count == 1 && expression.starts_with('@')) {
            return Err(ScheduleError::Fields { expression: expression.to_owned(), count });
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| ScheduleError::Unreadable {
            expression: expression.to_owned(),
            problem: error.to_string().trim_end_matches('.').to_owned(),
        })?;
        let schedule = Self { cron, zone };
        match schedule.next_after(SOME_DAY, Duration::ZERO) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never { expression: expression.to_owned() }),
        }
    }

    /// The first run after a time, for an image and provider whose runs are `offset` later than the schedule says.
    ///
    /// A time of day that a change of clocks leaves out comes at the change; one that comes twice counts once, unless
    /// the schedule names many times of day.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, offset: Duration) -> Option<Timestamp> {
        let moved = after.checked_sub(offset).ok()?.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&moved, false).ok()?;
        next.timestamp().checked_add(offset).ok()
    }

    /// When the next run is due: now, if there was none yet or one was missed; `None` if it never is.
    #[must_use]
    pub fn due(&self, last: Option<Timestamp>, now: Timestamp, offset: Duration) -> Option<Timestamp> {
        let Some(last) = last else { return Some(now) };
        self.next_after(last.min(now), offset).map(|next| next.max(now))
    }
}

fn time_zone_named(name: &str) -> Result<TimeZone, ScheduleError> {
    let unknown = || ScheduleError::TimeZone { name: name.to_owned() };
    // Files that say what the machine's own zone is: the operator's must not matter.
    if ["local", "localtime", "posixrules"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(unknown());
    }
    TimeZone::get(name).map_err(|_not_found| unknown())
}

/// How much later than the schedule says an image is made for a provider: the same on every day and after every
/// restart, spread evenly from nothing to `jitter`, in whole seconds.
#[must_use]
pub fn offset(jitter: Duration, image: &str, provider: &str) -> Duration {
    let digest = Sha256::new().chain_update(image).chain_update([0]).chain_update(provider).finalize();
    let number = digest.iter().take(8).fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    match jitter.as_secs().checked_add(1) {
        Some(choices) => Duration::from_secs(number % choices),
        None => Duration::from_secs(number),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn runs(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(expression, Some(zone)).unwrap();
        let mut last = time(after);
        (0..count)
            .map(|_| {
                last = schedule.next_after(last, Duration::ZERO).unwrap();
                last.to_string()
            })
            .collect()
    }

    #[test]
    fn comes_when_it_says() {
        let cases: &[(&str, &str, &str, &[&str])] = &[
            ("30 3 * * *", "UTC", "2026-01-05T03:30:00Z", &["2026-01-06T03:30:00Z", "2026-01-07T03:30:00Z"]),
            ("30 3 * * *", "UTC", "2026-01-05T03:29:59.9Z", &["2026-01-05T03:30:00Z"]),
            ("@daily", "UTC", "2026-01-05T03:30:00Z", &["2026-01-06T00:00:00Z"]),
            ("*/20 * * * *", "UTC", "2026-01-05T03:30:00Z", &["2026-01-05T03:40:00Z", "2026-01-05T04:00:00Z"]),
            ("0 6 * * MON-FRI", "UTC", "2026-01-02T06:00:00Z", &["2026-01-05T06:00:00Z"]),
            ("0 0 29 2 *", "UTC", "2026-01-02T06:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
            ("0 0 * * 7", "UTC", "2026-01-02T06:00:00Z", &["2026-01-04T00:00:00Z"]),
            ("0 4 * * *", "Asia/Kolkata", "2026-01-02T06:00:00Z", &["2026-01-02T22:30:00Z"]),
            ("0 4 * * *", "asia/kolkata", "2026-01-02T06:00:00Z", &["2026-01-02T22:30:00Z"]),
        ];
        for (expression, zone, after, expected) in cases {
            assert_eq!(runs(expression, zone, after, expected.len()), *expected, "{expression} {zone}");
        }
    }

    #[test]
    fn a_change_of_clocks_neither_drops_nor_doubles_a_daily_run() {
        let cases: &[(&str, &str, &str, &str, &[&str])] = &[
            (
                "02:30 is left out: it comes at the change",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00Z",
                &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            (
                "02:30 comes twice: the first counts",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            (
                "left out in New York",
                "30 2 * * *",
                "America/New_York",
                "2026-03-07T12:00:00Z",
                &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
            ),
            (
                "twice in New York",
                "30 1 * * *",
                "America/New_York",
                "2026-10-31T12:00:00Z",
                &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
            ),
            (
                "half an hour on Lord Howe",
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T12:00:00Z",
                &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
            ),
            (
                "every hour stays every hour over the long night",
                "0 * * * *",
                "Europe/Berlin",
                "2026-10-24T23:30:00Z",
                &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
            ),
            (
                "every hour stays every hour over the short night",
                "0 * * * *",
                "Europe/Berlin",
                "2026-03-28T23:30:00Z",
                &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
            ),
        ];
        for (name, expression, zone, after, expected) in cases {
            assert_eq!(runs(expression, zone, after, expected.len()), *expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_what_to_write() {
        let cases: &[(&str, Option<&str>, &str)] = &[
            ("", None, "has 0 fields; write five"),
            ("daily", None, "has 1 fields; write five"),
            ("* * * *", None, "has 4 fields; write five"),
            ("0 30 3 * * *", None, "has 6 fields; write five"),
            ("61 * * * *", None, "cannot be read"),
            ("* 24 * * *", None, "cannot be read"),
            ("* * 0 * *", None, "cannot be read"),
            ("* * * 13 *", None, "cannot be read"),
            ("* * * * 8", None, "cannot be read"),
            ("* * * FOO *", None, "cannot be read"),
            ("*/0 * * * *", None, "cannot be read"),
            ("5-1 * * * *", None, "cannot be read"),
            ("@reboot", None, "cannot be read"),
            ("@", None, "cannot be read"),
            ("0 0 30 2 *", None, "never comes"),
            ("0 0 31 4,6,9,11 *", None, "never comes"),
            ("@daily", Some("Mars/Olympus"), "timeZone \"Mars/Olympus\" is not known"),
            ("@daily", Some(""), "is not known"),
            ("@daily", Some("Local"), "is not known"),
            ("@daily", Some("../../etc/passwd"), "is not known"),
        ];
        for (expression, zone, sentence) in cases {
            let error = Schedule::parse(expression, *zone).unwrap_err().to_string();
            assert!(error.contains(sentence), "{expression}: {error}");
        }
    }

    #[test]
    fn what_was_missed_is_made_up_once() {
        let schedule = Schedule::parse("0 3 * * *", None).unwrap();
        let now = time("2026-01-10T12:00:00Z");
        let due = |last: Option<&str>| schedule.due(last.map(time), now, Duration::ZERO);
        assert_eq!(due(None), Some(now), "the first one comes at once");
        assert_eq!(due(Some("2026-01-01T03:00:10Z")), Some(now), "nine were missed");
        assert_eq!(due(Some("2026-01-10T02:59:59Z")), Some(now));
        assert_eq!(due(Some("2026-01-10T03:00:10Z")), Some(time("2026-01-11T03:00:00Z")));
        assert_eq!(due(Some("2026-01-10T12:00:00Z")), Some(time("2026-01-11T03:00:00Z")), "made up: not again");
        assert_eq!(due(Some("2027-01-01T00:00:00Z")), Some(time("2026-01-11T03:00:00Z")), "a clock that was ahead");
    }

    #[test]
    fn an_offset_moves_every_run() {
        let schedule = Schedule::parse("0 3 * * *", None).unwrap();
        let offset = Duration::from_secs(5_400);
        let next = |after: &str| schedule.next_after(time(after), offset).unwrap();
        assert_eq!(next("2026-01-10T02:00:00Z"), time("2026-01-10T04:30:00Z"));
        assert_eq!(next("2026-01-10T04:29:59Z"), time("2026-01-10T04:30:00Z"));
        assert_eq!(next("2026-01-10T04:30:00Z"), time("2026-01-11T04:30:00Z"));
        assert_eq!(schedule.next_after(Timestamp::MIN, offset), None);
        assert_eq!(schedule.next_after(Timestamp::MAX, Duration::ZERO), None);
    }

    #[test]
    fn it_is_shown_in_its_five_fields() {
        let schedule = Schedule::parse("30 3 * * 1", Some("Europe/Berlin")).unwrap();
        assert_eq!(format!("{schedule:?}"), r#"Schedule { cron: "30 3 * * 1", zone: Some("Europe/Berlin") }"#);
    }

    #[test]
    fn the_offset_is_fixed_and_spread() {
        let jitter = Duration::from_secs(3_600);
        assert_eq!(offset(jitter, "noble", "a"), Duration::from_secs(2_529), "it must not move with a release");
        assert_ne!(offset(jitter, "noble", "a"), offset(jitter, "noble", "b"));
        assert_ne!(offset(jitter, "ab", "c"), offset(jitter, "a", "bc"));
        assert_eq!(offset(Duration::ZERO, "noble", "a"), Duration::ZERO);
        let offsets: Vec<Duration> = (0..1_000).map(|number| offset(jitter, "noble", &number.to_string())).collect();
        assert!(offsets.iter().all(|offset| *offset <= jitter));
        let early = offsets.iter().filter(|offset| **offset < jitter / 2).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
        assert!(offset(Duration::MAX, "x", "y") <= Duration::MAX);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(expression in "[0-9*/,@LW#?+ a-zA-Z-]{0,24}", zone in proptest::option::of("[A-Za-z/_+0-9-]{0,16}")) {
            if let Ok(schedule) = Schedule::parse(&expression, zone.as_deref()) {
                let _next = schedule.next_after(SOME_DAY, Duration::ZERO);
            }
        }

        #[test]
        fn the_next_run_is_after_and_nothing_lies_between(
            minute in 0..60_u8, hour in 0..24_u8, start in 1_600_000_000..1_900_000_000_i64, moved in 0..100_000_u64,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
        ) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *"), Some(zone)).unwrap();
            let (start, moved) = (Timestamp::from_second(start).unwrap(), Duration::from_secs(moved));
            let next = schedule.next_after(start, moved).unwrap();
            prop_assert!(next > start);
            prop_assert!(next.duration_since(start) <= jiff::SignedDuration::from_hours(25));
            let before = next.checked_sub(Duration::from_secs(1)).unwrap();
            prop_assert_eq!(schedule.next_after(before, moved), Some(next));
            prop_assert_eq!(schedule.next_after(start.midpoint(before), moved), Some(next));
        }
    }

    /// The time in the middle of two.
    trait Midpoint {
        fn midpoint(self, other: Self) -> Self;
    }

    impl Midpoint for Timestamp {
        fn midpoint(self, other: Self) -> Self {
            Self::from_second(i64::midpoint(self.as_second(), other.as_second())).unwrap()
        }
    }
}
