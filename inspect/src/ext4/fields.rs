//! Logic: numbers at fixed places of a block. What lies past its end is zero, so a short block harms nobody.

fn bytes<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| block.get(at..end)) {
        bytes.copy_from_slice(found);
    }
    bytes
}

/// 16 bits, little endian.
pub(crate) fn le16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(block, at))
}

/// 32 bits, little endian.
pub(crate) fn le32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(block, at))
}

/// 16 bits, big endian, as in the journal.
pub(crate) fn be16(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes(block, at))
}

/// 32 bits, big endian.
pub(crate) fn be32(block: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes(block, at))
}

/// A number of which the halves are in different places.
pub(crate) fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
