//! Logic: what a keeper holds and lacks, for people.

use super::Keeper;
use super::part::Which;

/// Counts of parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// Bytes of whole packs that are here.
    pub pack_bytes: u64,
    /// Bytes of fragments that are here.
    pub fragment_bytes: u64,
    /// Parts that this node is to hold and has not synced.
    pub missing_parts: usize,
}

impl Keeper {
    /// What is here and what is missing.
    #[must_use]
    pub fn stock(&self) -> Stock {
        let missing_parts = self.wants.keys().filter(|part| !self.shelf.is_synced(part)).count();
        let mut stock = Stock { missing_parts, ..Stock::default() };
        for (part, bytes) in self.shelf.sizes() {
            match part.which {
                Which::Whole => stock.pack_bytes += bytes,
                Which::Fragment(_) => stock.fragment_bytes += bytes,
            }
        }
        stock
    }
}
