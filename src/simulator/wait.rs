//! A length of time as people write it (`0s`, `1500ms`, `2m`), in flags, settings and faults alike.
//!
//! Never negative: a cloud that answers before it was asked is no fault worth having.

use std::{fmt, str::FromStr, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time, written with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(pub Duration);

impl Wait {
    /// So that defaults read as they are written in the help.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    pub(crate) fn signed(self) -> SignedDuration {
        SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX)
    }
}

/// What to write instead of a duration that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a duration: write a number with its unit, such as 0s, 500ms, 90s or 10m")]
pub struct NotAWait(String);

impl FromStr for Wait {
    type Err = NotAWait;

    fn from_str(text: &str) -> Result<Self, NotAWait> {
        let parsed: SignedDuration = text.trim().parse().map_err(|_| NotAWait(text.to_owned()))?;
        Duration::try_from(parsed).map(Self).map_err(|_| NotAWait(text.to_owned()))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

impl Serialize for Wait {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["0s", "500ms", "90s", "3600s"] {
            assert_eq!(text.parse::<Wait>().unwrap().to_string(), text);
        }
        assert_eq!("10m".parse::<Wait>().unwrap(), Wait::seconds(600));
        assert!("-1s".parse::<Wait>().is_err());
        assert!("soon".parse::<Wait>().is_err());
    }
}
