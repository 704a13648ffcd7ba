//! The types of services (P29–P33): what a service may be put through when the cluster is cut in two.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// What a service may be put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ServiceType {
    /// Type 0: its data never changes, so copies of it do no harm.
    Unchanging,
    /// Type 1: it works with a part of its data, and what others added may come late.
    #[default]
    Mergeable,
    /// Type 2: it works with a part of its data, but what it can't say in time it must not say.
    Prompt,
    /// Type 3: it needs all of its data, and its clients can wait for it.
    Whole,
}

/// Why a text is no type of a service that can be sustained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// P33.
    #[error(
        "a service that needs all of its data at once and can't bear a delay can't be sustained: while the \
         cluster is cut in two, one side would answer wrongly or not at all"
    )]
    Cannot,
    /// Nothing that the paper names.
    #[error("the types are 0, 1, 2 and 3, and `cannot`; there is no type {found}")]
    Unknown {
        /// What was given.
        found: String,
    },
}

/// What is in force for every type. A macro, for [`concat!`] takes nothing else.
macro_rules! every_side_serves {
    () => {
        "every side of a cut serves on; once they meet, the server with the lesser term stops, and its states stay \
         stored, unmerged"
    };
}

impl ServiceType {
    /// All that can be sustained.
    pub const ALL: [Self; 4] = [Self::Unchanging, Self::Mergeable, Self::Prompt, Self::Whole];

    /// The paper's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unchanging => 0,
            Self::Mergeable => 1,
            Self::Prompt => 2,
            Self::Whole => 3,
        }
    }

    /// In plain words what it asks for. How much of that is in force, [`ServiceType::today`] says.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unchanging => "its data never changes: copies on both sides of a cut do no harm",
            Self::Mergeable => {
                "a part of its data is enough and delays are acceptable: both sides of a cut may serve, and are \
                 to be merged"
            }
            Self::Prompt => {
                "a part of its data is enough but nothing may come late: both sides of a cut may serve, and are to \
                 refuse what would have to wait"
            }
            Self::Whole => {
                "it needs all of its data and can wait: a side of a cut that lacks some is to hold requests back"
            }
        }
    }

    /// What really happens where less is built than the type asks for; none where it has all that it asks for.
    #[must_use]
    pub const fn today(self) -> Option<&'static str> {
        match self {
            Self::Unchanging => None,
            Self::Mergeable => Some(concat!("merging is not built yet: ", every_side_serves!())),
            Self::Prompt => {
                Some(concat!("type 2 is not built yet: nothing is refused, ", every_side_serves!()))
            }
            Self::Whole => {
                Some(concat!("type 3 is not built yet: no request is held back, ", every_side_serves!()))
            }
        }
    }
}

impl FromStr for ServiceType {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        if text == "cannot" {
            return Err(TypeError::Cannot);
        }
        let known = Self::ALL.into_iter().find(|kind| text.parse() == Ok(kind.number()));
        known.ok_or_else(|| TypeError::Unknown { found: text.chars().take(20).collect() })
    }
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl Serialize for ServiceType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for ServiceType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = ServiceType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type of a service: 0, 1, 2 or 3")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ServiceType, E> {
                number.to_string().parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ServiceType, E> {
                number.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ServiceType, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merging and the types 2 and 3 were once told as facts, to people who were about to choose one.
    #[test]
    fn a_type_that_is_not_in_force_says_what_happens_instead() {
        assert_eq!(ServiceType::Unchanging.today(), None);
        for kind in ServiceType::ALL.into_iter().skip(1) {
            let today = kind.today().unwrap();
            assert!(today.contains("not built yet") && today.contains("lesser term stops"), "{today}");
            assert!(!kind.words().contains("are merged"), "{}", kind.words());
        }
    }

    #[test]
    fn types_are_numbers_and_cannot_says_why() {
        for kind in ServiceType::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), kind.to_string());
            assert_eq!(serde_json::from_str::<ServiceType>(&kind.to_string()).unwrap(), kind);
        }
        assert_eq!("cannot".parse::<ServiceType>(), Err(TypeError::Cannot));
        for other in ["4", "-1", "", "+1x", "one"] {
            assert!(matches!(other.parse::<ServiceType>(), Err(TypeError::Unknown { .. })), "{other:?}");
        }
        assert!(serde_json::from_str::<ServiceType>("4").is_err());
    }
}
