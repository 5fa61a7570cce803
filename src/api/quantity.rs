//! Amounts of memory as Kubernetes quantities: `8Gi`, `8192Mi`.
//!
//! Decides how many MiB a quantity means. It must never guess: what it cannot read is an error, not zero.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount of memory, written as a Kubernetes quantity with its unit: `8Gi`, `8192Mi`, `8G`.
///
/// A bare number would mean bytes, which nobody who writes `8192` has in mind; it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    bytes: u64,
}

/// The text is no amount of memory; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an amount of memory with its unit, such as 8Gi or 8192Mi")]
pub struct InvalidQuantity;

const UNITS: [(&str, u64); 7] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("Ki", 1 << 10),
];

impl Quantity {
    /// An amount of whole MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self { bytes: mib << 20 }
    }

    /// The amount in MiB, the unit of a flavor's RAM; rounded up, so that a flavor never has less than was asked.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.bytes.div_ceil(1 << 20)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
            .ok_or(InvalidQuantity)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(InvalidQuantity);
        }
        let whole: u64 = whole.parse().map_err(|_| InvalidQuantity)?;
        let parts: u128 = fraction.parse().map_err(|_| InvalidQuantity)?;
        let scale = fraction.bytes().fold(1u128, |scale, _| scale * 10);
        let fraction = u64::try_from((parts * u128::from(factor)).div_ceil(scale)).map_err(|_| InvalidQuantity)?;
        let bytes = whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(fraction)).ok_or(InvalidQuantity)?;
        Ok(Self { bytes })
    }
}

/// The largest binary unit that divides evenly, so that it reads back as the same amount.
impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("Ti", 1u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
            if self.bytes.is_multiple_of(factor) && self.bytes > 0 {
                return write!(formatter, "{}{unit}", self.bytes / factor);
            }
        }
        for (unit, factor) in [("G", 1_000_000_000u64), ("M", 1_000_000)] {
            if self.bytes.is_multiple_of(factor) && self.bytes > 0 {
                return write!(formatter, "{}{unit}", self.bytes / factor);
            }
        }
        write!(formatter, "{}Ki", self.bytes.div_ceil(1 << 10))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Integers pass the type check, so that the rule of [`super::rules::memory`] can say what to write instead.
impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": 20 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_quantities_with_a_unit() {
        for (text, mib) in
            [("8Gi", 8192), ("8192Mi", 8192), ("1.5Gi", 1536), ("1Ti", 1 << 20), ("8G", 7630), ("512Ki", 1)]
        {
            assert_eq!(text.parse::<Quantity>().map(Quantity::mib), Ok(mib), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "8192", "8GB", "8 Gi", "-8Gi", "8gi", "Gi", ".5Gi", "1.Gi", "1e3Gi", "99999999999Ti"] {
            assert_eq!(text.parse::<Quantity>(), Err(InvalidQuantity), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_it_prints_it_reads(mib in 1..1u64 << 29) {
            let quantity = Quantity::from_mib(mib);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Quantity>();
        }
    }
}
