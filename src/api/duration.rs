//! Durations as users write them: `90s`, `10m`, `8h`, `1h30m`.
//!
//! Decides how a duration is read and written. It must never accept what the API server's own rule refuses, or print
//! what that rule would not take back.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole seconds, written `90s`, `10m`, `8h` or `1h30m`.
///
/// Not `kube::core::Duration`: that one accepts signs, fractions and nanoseconds, which no field here can mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    seconds: u64,
}

/// The largest number before a unit: six digits.
const MAX_NUMBER: u64 = 999_999;

/// The text is no duration; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a duration such as 90s, 10m, 8h or 1h30m")]
pub struct InvalidDuration;

impl Duration {
    /// The longest text accepted; keeps the API server's cost estimate of its rules small.
    pub const MAX_LENGTH: usize = 20;

    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self { seconds }
    }

    /// A duration of whole minutes.
    #[must_use]
    pub const fn from_mins(minutes: u64) -> Self {
        Self { seconds: minutes * 60 }
    }

    /// A duration of whole hours.
    #[must_use]
    pub const fn from_hours(hours: u64) -> Self {
        Self { seconds: hours * 3600 }
    }

    /// The length in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.seconds
    }

    /// The same length for timers.
    #[must_use]
    pub const fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.seconds)
    }

    /// Whether it is `0s`, which some fields read as "off".
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.seconds == 0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.as_std()
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        if text.is_empty() || text.len() > Self::MAX_LENGTH {
            return Err(InvalidDuration);
        }
        let mut rest = text;
        let mut seconds: u64 = 0;
        for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            if number.is_empty() || number.len() > 6 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(InvalidDuration);
            }
            let number: u64 = number.parse().map_err(|_| InvalidDuration)?;
            seconds += number * factor; // at most 3 × 10^6 × 3600, far from overflow
            rest = after;
        }
        if rest.is_empty() { Ok(Self { seconds }) } else { Err(InvalidDuration) }
    }
}

/// One unit, the largest that divides evenly: `90s`, `10m`, `8h`; several when one would need too many digits.
impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            0 => formatter.write_str("0s"),
            seconds if seconds % 3600 == 0 => write!(formatter, "{}h", seconds / 3600),
            seconds if seconds % 60 == 0 && seconds / 60 <= MAX_NUMBER => write!(formatter, "{}m", seconds / 60),
            seconds if seconds <= MAX_NUMBER => write!(formatter, "{seconds}s"),
            seconds => write!(formatter, "{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Only type and length; each field adds its own bounds with [`super::rules::duration`], so that one refusal says all.
impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::MAX_LENGTH })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_users_write() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("10m", 600), ("8h", 28_800), ("1h30m", 5400), ("1h1m1s", 3661)]
        {
            assert_eq!(text.parse(), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "10", "-1s", "1.5h", "10 m", "m", "1s1h", "1d", "10min", "500ms", "1h1h", "1234567s", "١s"] {
            assert_eq!(text.parse::<Duration>(), Err(InvalidDuration), "{text}");
        }
    }

    #[test]
    fn prints_the_largest_even_unit() {
        for (seconds, text) in [(0, "0s"), (90, "90s"), (600, "10m"), (28_800, "8h"), (3661, "3661s")] {
            assert_eq!(Duration::from_secs(seconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_it_prints_it_reads(hours in 0..99_999u64, minutes in 0..60u64, seconds in 0..60u64) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let duration: Duration = text.parse().unwrap();
            prop_assert_eq!(duration.as_secs(), hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Duration>();
        }
    }
}
