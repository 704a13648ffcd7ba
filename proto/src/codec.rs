//! The envelope of everything stored or sent: a magic number, a version, then a postcard body.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of encoded thing: its magic number, the one version that this build writes and reads, and
/// the most bytes it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What it is called in errors.
    pub name: &'static str,
    /// First four bytes.
    pub magic: [u8; 4],
    /// Next two bytes, little endian.
    pub version: u16,
    /// Most bytes, envelope included.
    pub bytes_max: usize,
}

/// Bytes of the envelope: magic and version.
const ENVELOPE_BYTES: usize = 6;

/// Why bytes can't be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// More bytes than the format may have.
    #[error("a {format} has at most {bytes_max} bytes, this one has {bytes}")]
    TooLarge {
        /// The format's name.
        format: &'static str,
        /// The limit.
        bytes_max: usize,
        /// What was found.
        bytes: usize,
    },
    /// The first four bytes are not the format's.
    #[error("this is no {format}: its magic number is wrong")]
    Magic {
        /// The format's name.
        format: &'static str,
    },
    /// Written by another version.
    #[error("this {format} has version {found}, this build reads version {expected}")]
    Version {
        /// The format's name.
        format: &'static str,
        /// Version that this build reads.
        expected: u16,
        /// Version found.
        found: u16,
    },
    /// More of something than its limit.
    #[error("this {format} has more than {max} {what}")]
    TooMany {
        /// The format's name.
        format: &'static str,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The same value has exactly one encoding, and this is another one.
    #[error("this {format} is not encoded as this build would encode it")]
    NotCanonical {
        /// The format's name.
        format: &'static str,
    },
    /// Cut short, too long, or not what the format says.
    #[error("this {format} is damaged")]
    Body {
        /// The format's name.
        format: &'static str,
        /// What the decoder says.
        source: postcard::Error,
    },
    /// Bytes are left over after the body.
    #[error("this {format} has {bytes} bytes too many")]
    Trailing {
        /// The format's name.
        format: &'static str,
        /// How many.
        bytes: usize,
    },
}

/// Encodes a value in its envelope.
///
/// # Errors
/// If it has more bytes than the format may have.
pub fn encode<T: Serialize>(format: Format, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&format.magic);
    bytes.extend_from_slice(&format.version.to_le_bytes());
    let bytes = postcard::to_extend(value, bytes)
        .map_err(|source| CodecError::Body { format: format.name, source })?;
    check_size(format, bytes.len())?;
    Ok(bytes)
}

/// Decodes a value from its envelope, using every byte.
///
/// # Errors
/// Wrong magic number, unknown version, too large, damaged, or bytes left over.
pub fn decode<T: DeserializeOwned>(format: Format, bytes: &[u8]) -> Result<T, CodecError> {
    check_size(format, bytes.len())?;
    if bytes.len() < ENVELOPE_BYTES || bytes[..4] != format.magic {
        return Err(CodecError::Magic { format: format.name });
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found != format.version {
        return Err(CodecError::Version { format: format.name, expected: format.version, found });
    }
    let (value, rest) = postcard::take_from_bytes(&bytes[ENVELOPE_BYTES..])
        .map_err(|source| CodecError::Body { format: format.name, source })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(CodecError::Trailing { format: format.name, bytes: rest.len() })
    }
}

fn check_size(format: Format, bytes: usize) -> Result<(), CodecError> {
    if bytes > format.bytes_max {
        return Err(CodecError::TooLarge { format: format.name, bytes_max: format.bytes_max, bytes });
    }
    Ok(())
}
