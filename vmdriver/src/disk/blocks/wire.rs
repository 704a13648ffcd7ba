//! Logic: the messages by which the disk's process asks the node for blocks. Both ends are of one program,
//! and yet either may be a version behind for a moment, or not be what it seems.
//!
//! ```text
//! both, first:  8 bytes, magic and version
//! request:      u8 kind (0 somebody waits · 1 nobody does) · u64 chunk number
//! reply:        u8 kind (0 zeros · 1 data · 2 not to be had · 3 later) · u32 length · data, or the reason
//! ```
//! Numbers are little endian.

use crate::limits::BLOCK_REASON_BYTES_MAX;

use super::{ChunkContent, Unavailable};

/// What either side says first: a magic number, then the version.
pub(crate) const HELLO: [u8; 8] = *b"SUSTBLK\x02";
pub(crate) const REQUEST_BYTES: usize = 9;
pub(crate) const REPLY_HEAD_BYTES: usize = 5;

const ZERO: u8 = 0;
const DATA: u8 = 1;
const UNAVAILABLE: u8 = 2;
const LATER: u8 = 3;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) chunk: u64,
    /// Whether nobody waits for it.
    pub(crate) prefetch: bool,
}

impl Request {
    pub(crate) fn encode(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [u8::from(self.prefetch); REQUEST_BYTES];
        bytes[1..].copy_from_slice(&self.chunk.to_le_bytes());
        bytes
    }

    pub(crate) fn decode([kind, chunk @ ..]: [u8; REQUEST_BYTES]) -> Self {
        Self { chunk: u64::from_le_bytes(chunk), prefetch: kind != 0 }
    }
}

/// What follows a reply's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Zero,
    /// As many bytes as the chunk has.
    Data,
    /// A reason of so many bytes.
    Unavailable(usize),
    Later,
}

/// A whole reply.
pub(crate) fn reply(result: Result<Option<ChunkContent>, Unavailable>, chunk: &[u8]) -> Vec<u8> {
    let (kind, data) = match &result {
        Ok(Some(ChunkContent::Zero)) => (ZERO, [].as_slice()),
        Ok(Some(ChunkContent::Data)) => (DATA, chunk),
        Ok(None) => (LATER, [].as_slice()),
        Err(error) => {
            let bytes = error.reason.as_bytes();
            (UNAVAILABLE, &bytes[..bytes.len().min(BLOCK_REASON_BYTES_MAX)])
        }
    };
    let mut bytes = vec![kind];
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// Takes a reply's head apart; none if it is impossible for a chunk of this size.
pub(crate) fn parse_head(head: [u8; REPLY_HEAD_BYTES], chunk_bytes: usize) -> Option<Head> {
    let [kind, b0, b1, b2, b3] = head;
    let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
    match kind {
        ZERO if bytes == 0 => Some(Head::Zero),
        DATA if bytes == chunk_bytes => Some(Head::Data),
        LATER if bytes == 0 => Some(Head::Later),
        UNAVAILABLE if bytes <= BLOCK_REASON_BYTES_MAX => Some(Head::Unavailable(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_fixed() {
        assert_eq!(reply(Ok(Some(ChunkContent::Zero)), b"abc"), [0, 0, 0, 0, 0]);
        assert_eq!(reply(Ok(Some(ChunkContent::Data)), b"abc"), b"\x01\x03\0\0\0abc");
        assert_eq!(reply(Ok(None), b"abc"), [3, 0, 0, 0, 0]);
        let request = Request { chunk: 0x0102, prefetch: true };
        assert_eq!(request.encode(), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Request::decode(request.encode()), request);
        assert_eq!(reply(Err(Unavailable::new("gone")), b"abc"), b"\x02\x04\0\0\0gone");
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood_and_nothing_else(head in any::<[u8; 5]>(), small in any::<bool>()) {
            let head = if small { [head[0] % 5, head[1], 0, 0, 0] } else { head };
            match parse_head(head, 9) {
                Some(Head::Zero) => prop_assert_eq!(head, [0; 5]),
                Some(Head::Later) => prop_assert_eq!(head, [3, 0, 0, 0, 0]),
                Some(Head::Data) => prop_assert_eq!(head, [1, 9, 0, 0, 0]),
                Some(Head::Unavailable(bytes)) => prop_assert!(bytes <= BLOCK_REASON_BYTES_MAX),
                None => {}
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let bytes = reply(Err(Unavailable::new("x".repeat(1 << 20))), &[]);
        assert_eq!(bytes.len(), REPLY_HEAD_BYTES + BLOCK_REASON_BYTES_MAX);
        let head = bytes[..REPLY_HEAD_BYTES].try_into().unwrap();
        assert_eq!(parse_head(head, 1), Some(Head::Unavailable(BLOCK_REASON_BYTES_MAX)));
    }
}
