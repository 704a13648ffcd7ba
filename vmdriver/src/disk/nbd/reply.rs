//! Logic: replies to requests, simple and structured.

use super::wire::{CONTEXT_ID, Errno, MAGIC_CHUNK, MAGIC_SIMPLE_REPLY, STATUS_HOLE_ZERO, chunk};

/// A piece of the disk: whether all of it is zero without being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// How long it is.
    pub(crate) bytes: u64,
    /// Not stored, reads as zeros.
    pub(crate) is_hole: bool,
}

/// The head of a simple reply; a read's data follow it.
pub(crate) fn simple(cookie: u64, error: Option<Errno>) -> Vec<u8> {
    let mut bytes = MAGIC_SIMPLE_REPLY.to_be_bytes().to_vec();
    bytes.extend(error.map_or(0, |error| error as u32).to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes
}

fn head(cookie: u64, is_last: bool, kind: u16, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(MAGIC_CHUNK.to_be_bytes());
    bytes.extend(if is_last { chunk::FLAG_DONE } else { 0 }.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    // No payload is longer than a request may be, plus some bytes.
    bytes.extend((payload_bytes as u32).to_be_bytes());
    bytes
}

/// Nothing more to say: it is done.
pub(crate) fn done(cookie: u64) -> Vec<u8> {
    head(cookie, true, chunk::NONE, 0)
}

/// What comes before data of this length.
pub(crate) fn data_head(cookie: u64, is_last: bool, offset: u64, data_bytes: usize) -> Vec<u8> {
    let mut bytes = head(cookie, is_last, chunk::OFFSET_DATA, data_bytes + 8);
    bytes.extend(offset.to_be_bytes());
    bytes
}

/// Zeros that are not sent.
pub(crate) fn hole(cookie: u64, is_last: bool, offset: u64, hole_bytes: u32) -> Vec<u8> {
    let mut bytes = head(cookie, is_last, chunk::OFFSET_HOLE, 12);
    bytes.extend(offset.to_be_bytes());
    bytes.extend(hole_bytes.to_be_bytes());
    bytes
}

/// The end of a reply by an error.
pub(crate) fn error(cookie: u64, error: Errno) -> Vec<u8> {
    let mut bytes = head(cookie, true, chunk::ERROR, 6);
    bytes.extend((error as u32).to_be_bytes());
    bytes.extend(0_u16.to_be_bytes());
    bytes
}

/// What is where. Neighbours of one kind become one.
pub(crate) fn block_status(cookie: u64, extents: &[Extent]) -> Vec<u8> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for extent in extents {
        let status = if extent.is_hole { STATUS_HOLE_ZERO } else { 0 };
        // The range asked for has at most as many bytes as fit.
        let bytes = u32::try_from(extent.bytes).unwrap_or(u32::MAX);
        match joined.last_mut() {
            Some(last) if last.1 == status => last.0 = last.0.saturating_add(bytes),
            _ => joined.push((bytes, status)),
        }
    }
    let mut bytes = head(cookie, true, chunk::BLOCK_STATUS, 4 + 8 * joined.len());
    bytes.extend(CONTEXT_ID.to_be_bytes());
    for (length, status) in joined {
        bytes.extend(length.to_be_bytes());
        bytes.extend(status.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formats, byte by byte, as the specification draws them.
    #[test]
    fn replies_are_what_the_specification_says() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(simple(7, None)), "67446698000000000000000000000007");
        assert_eq!(hex(simple(7, Some(Errno::Io))), "67446698000000050000000000000007");
        assert_eq!(hex(done(1)), "668e33ef00010000000000000000000100000000");
        assert_eq!(
            hex(data_head(1, false, 2, 3)),
            "668e33ef0000000100000000000000010000000b0000000000000002"
        );
        assert_eq!(
            hex(hole(1, true, 2, 3)),
            "668e33ef0001000200000000000000010000000c000000000000000200000003"
        );
        assert_eq!(
            hex(error(1, Errno::NoSpace)),
            "668e33ef00018001000000000000000100000006".to_owned() + "0000001c0000"
        );
    }

    #[test]
    fn neighbours_of_one_kind_are_one_extent() {
        let extent = |bytes, is_hole| Extent { bytes, is_hole };
        let bytes = block_status(1, &[extent(1, true), extent(2, true), extent(4, false)]);
        let payload: Vec<u32> =
            bytes[20..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(payload, [CONTEXT_ID, 3, 3, 4, 0]);
    }
}
