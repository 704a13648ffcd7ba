//! Ranges of pieces, and which fragments of packs a node holds.

use serde::{Deserialize, Serialize};

use super::{WireError, at_most};
use crate::{PackId, PieceRange, bounded, limits};

/// The fragments of a pack that a node holds, which one sheet names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFragments {
    /// The pack.
    pub pack: PackId,
    /// The first half of the BLAKE3 of the encoded sheet.
    pub sheet: [u8; 16],
    /// The numbers of the fragments.
    #[serde(deserialize_with = "bounded::list::<_, _, { u8::MAX as usize }>")]
    pub indices: Vec<u8>,
}

pub(super) fn check_held(held: &[HeldFragments]) -> Result<(), WireError> {
    at_most("packs", held.len() as u64, limits::MESSAGE_PACKS_MAX as u64)?;
    held.iter().try_for_each(|held| at_most("fragments", held.indices.len() as u64, u64::from(u8::MAX)))
}

pub(super) fn check_sheets(sheets: &[Vec<u8>]) -> Result<(), WireError> {
    at_most("sheets", sheets.len() as u64, limits::MESSAGE_SHEETS_MAX as u64)?;
    let max = limits::SHEET_BYTES_MAX as u64;
    sheets.iter().try_for_each(|sheet| at_most("bytes of a sheet", sheet.len() as u64, max))
}

pub(super) fn check_ranges(ranges: &[PieceRange]) -> Result<(), WireError> {
    at_most("ranges", ranges.len() as u64, limits::MESSAGE_RANGES_MAX as u64)?;
    let mut total = 0_u64;
    for range in ranges {
        at_most("bytes of offset", range.offset, limits::PACK_BYTES_MAX)?;
        total = total.saturating_add(range.bytes);
    }
    at_most("bytes of ranges", total, limits::MESSAGE_RANGE_BYTES_MAX)
}
