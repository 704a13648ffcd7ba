//! The fixed grid: how many chunks a region has and how long each is.

use crate::limits::CHUNK_BYTES;

/// How many grid positions a region of this many bytes covers; the last one may be partly covered.
#[must_use]
pub const fn chunk_count(region_bytes: u64) -> u64 {
    region_bytes.div_ceil(CHUNK_BYTES as u64)
}

/// Plain bytes of the chunk at this position: [`CHUNK_BYTES`], less for the last one, 0 past the end.
#[must_use]
pub const fn chunk_bytes_at(region_bytes: u64, position: u64) -> usize {
    let Some(start) = position.checked_mul(CHUNK_BYTES as u64) else {
        return 0;
    };
    let left = region_bytes.saturating_sub(start);
    if left < CHUNK_BYTES as u64 { left as usize } else { CHUNK_BYTES }
}

/// Whether all bytes are zero. Such chunks are implied, never stored.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Words of 64 bytes first: the compiler turns this into vector code, at memory speed.
    let words = bytes.chunks_exact(64);
    let rest = words.remainder();
    words.into_iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}
