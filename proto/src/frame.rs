//! Frames on a QUIC stream: a header with magic number, version and length, then that many bytes.
//!
//! The length is checked against the lane's limit before anything is allocated, so a peer can't make a
//! node set aside more memory than the limit.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError, Format};

const MAGIC: [u8; 4] = *b"SUSf";
const VERSION: u16 = 1;

/// Bytes of a frame's header: magic number (4), version (2), length of the body (4), little endian.
pub const FRAME_HEADER_BYTES: usize = 10;

/// Why a frame can't be sent or was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header's magic number is wrong.
    #[error("this is no sustain frame: its magic number is wrong")]
    Magic,
    /// The peer speaks another version.
    #[error("the peer's frames have version {found}, this build speaks version {VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// The body is, or would be, longer than this lane allows.
    #[error("a frame of {bytes} bytes, where at most {bytes_max} are allowed")]
    TooLarge {
        /// Bytes announced.
        bytes: usize,
        /// The lane's limit.
        bytes_max: usize,
    },
    /// The body doesn't decode.
    #[error("the frame's body is not a message")]
    Body(#[source] CodecError),
}

impl From<CodecError> for FrameError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::TooLarge { bytes, bytes_max, .. } => Self::TooLarge { bytes, bytes_max },
            other => Self::Body(other),
        }
    }
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the body that follow.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Reads and checks a header.
    ///
    /// # Errors
    /// Wrong magic number, another version, or a body over `body_bytes_max`.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES], body_bytes_max: usize) -> Result<Self, FrameError> {
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let found = u16::from_le_bytes([bytes[4], bytes[5]]);
        if found != VERSION {
            return Err(FrameError::Version { found });
        }
        let length = u32::from_le_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
        let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if body_bytes > body_bytes_max {
            return Err(FrameError::TooLarge { bytes: body_bytes, bytes_max: body_bytes_max });
        }
        Ok(Self { body_bytes })
    }
}

const fn body_format(bytes_max: usize) -> Format {
    Format { name: "message", magic: *b"SUSm", version: 1, bytes_max }
}

/// Encodes a message as header and body.
///
/// # Errors
/// If its body is over `body_bytes_max`.
pub fn encode_frame<T: Serialize>(message: &T, body_bytes_max: usize) -> Result<Vec<u8>, FrameError> {
    let body = codec::encode(body_format(body_bytes_max), message)?;
    let length = u32::try_from(body.len())
        .map_err(|_| FrameError::TooLarge { bytes: body.len(), bytes_max: body_bytes_max })?;
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&VERSION.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Decodes the body of a frame whose header was checked.
///
/// # Errors
/// If it is not exactly one message of this type.
pub fn decode_frame<T: DeserializeOwned>(body: &[u8], body_bytes_max: usize) -> Result<T, FrameError> {
    Ok(codec::decode(body_format(body_bytes_max), body)?)
}
