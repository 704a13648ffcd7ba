//! Logic: the messages by which the disk's process asks the node for blocks. Both ends are of one program,
//! and yet either may be a version behind for a moment, or not be what it seems.
//!
//! ```text
//! both, first:  8 bytes, magic and version
//! request:      u64 chunk number
//! reply:        u8 kind (0 zeros · 1 data · 2 not to be had) · u32 length · data, or the reason
//! ```
//! Numbers are little endian.

use crate::limits::BLOCK_REASON_BYTES_MAX;

use super::{ChunkContent, Unavailable};

/// What either side says first: a magic number, then the version.
pub(crate) const HELLO: [u8; 8] = *b"SUSTBLK\x01";
pub(crate) const REQUEST_BYTES: usize = 8;
pub(crate) const REPLY_HEAD_BYTES: usize = 5;

const ZERO: u8 = 0;
const DATA: u8 = 1;
const UNAVAILABLE: u8 = 2;

/// What follows a reply's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Zero,
    /// As many bytes as the chunk has.
    Data,
    /// A reason of so many bytes.
    Unavailable(usize),
}

/// A whole reply.
pub(crate) fn reply(result: Result<ChunkContent, Unavailable>, chunk: &[u8]) -> Vec<u8> {
    let (kind, data) = match &result {
        Ok(ChunkContent::Zero) => (ZERO, [].as_slice()),
        Ok(ChunkContent::Data) => (DATA, chunk),
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
        assert_eq!(reply(Ok(ChunkContent::Zero), b"abc"), [0, 0, 0, 0, 0]);
        assert_eq!(reply(Ok(ChunkContent::Data), b"abc"), b"\x01\x03\0\0\0abc");
        assert_eq!(reply(Err(Unavailable::new("gone")), b"abc"), b"\x02\x04\0\0\0gone");
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood_and_nothing_else(head in any::<[u8; 5]>(), small in any::<bool>()) {
            let head = if small { [head[0] % 4, head[1], 0, 0, 0] } else { head };
            match parse_head(head, 9) {
                Some(Head::Zero) => prop_assert_eq!(head, [0; 5]),
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
