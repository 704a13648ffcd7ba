//! Durations and sizes as people write them: `500ms`, `1s`, `5m`; `512KiB`, `256MiB`, `2GiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {}{expected}", self.fault())]
pub struct UnitError {
    /// The text.
    pub text: String,
    /// What it should be, with an example.
    pub expected: &'static str,
}

impl UnitError {
    fn fault(&self) -> &'static str {
        let bare = !self.text.is_empty() && self.text.bytes().all(|digit| digit.is_ascii_digit());
        if bare { "has no unit: it must be " } else { "is not " }
    }
}

/// A length of time in milliseconds, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(u64);

/// A size in bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(u64);

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const BYTES_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Duration {
    /// This many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl Bytes {
    /// This many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|value| *value > 0)
}

fn print(value: u64, units: &[(&str, u64)], largest_first: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let exact = |unit: &&(&str, u64)| value % unit.1 == 0;
    let unit = if largest_first { units.iter().find(exact) } else { units.iter().rev().find(exact) };
    let (name, factor) = unit.unwrap_or(&("", 1));
    write!(f, "{}{name}", value / factor)
}

impl FromStr for Duration {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a duration like 500ms, 1s or 5m";
        parse(text, &DURATION_UNITS).map(Self).ok_or_else(|| UnitError { text: text.to_owned(), expected })
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a size like 512KiB, 256MiB or 2GiB";
        parse(text, &BYTES_UNITS).map(Self).ok_or_else(|| UnitError { text: text.to_owned(), expected })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, &DURATION_UNITS, false, f)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self.0, &BYTES_UNITS, true, f)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = UnitError;
            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(Duration);
as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back_as_they_were_written() {
        for text in ["1ms", "250ms", "1s", "90s", "5m", "2h", "7d"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        for text in ["1B", "512KiB", "256MiB", "3GiB", "2TiB"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert_eq!("256 MiB".parse::<Bytes>().unwrap().get(), 256 << 20);
    }

    #[test]
    fn what_has_no_unit_or_is_zero_or_overflows_is_refused() {
        for text in ["", "5", "0s", "-1s", "1.5s", "s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        assert!("1MB".parse::<Bytes>().is_err());
        let said = "512".parse::<Bytes>().unwrap_err().to_string();
        assert!(said.starts_with("`512` has no unit"), "the number is fine, its unit is missing: {said}");
        assert!("5x".parse::<Duration>().unwrap_err().to_string().starts_with("`5x` is not a duration"));
    }
}
