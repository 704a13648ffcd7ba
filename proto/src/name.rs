//! Names that people give: services, regions and pins. All end up in file names and command lines, so all
//! are restricted to characters that need no quoting anywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a name needs at least one character")]
    Empty,
    /// Longer than the limit.
    #[error("a name has at most {bytes_max} characters, this one has {bytes}")]
    Long {
        /// Characters allowed.
        bytes_max: usize,
        /// Characters found.
        bytes: usize,
    },
    /// A character outside a-z, 0-9, `-` and `_`, or one of the latter two at the start.
    #[error(
        "{character:?} is not allowed here: names are of a-z, 0-9, - and _, and begin with a letter or digit"
    )]
    Character {
        /// The character.
        character: char,
    },
}

fn check(text: &str, bytes_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > bytes_max {
        return Err(NameError::Long { bytes_max, bytes: text.len() });
    }
    for (position, character) in text.char_indices() {
        let legal = match character {
            'a'..='z' | '0'..='9' => true,
            '-' | '_' => position > 0,
            _ => false,
        };
        if !legal {
            return Err(NameError::Character { character });
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text, $max)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name! {
    /// What a service is called: `mail`, `shop-1`.
    ServiceName, limits::SERVICE_NAME_BYTES_MAX
}
name! {
    /// What somebody calls a snapshot that is to stay: `before-upgrade`.
    PinName, limits::PIN_NAME_BYTES_MAX
}
name! {
    /// What a region of a snapshot is called: `ram`, `device`, `disk0`.
    RegionName, limits::REGION_NAME_BYTES_MAX
}
