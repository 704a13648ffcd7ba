//! Which chunk is at which grid position of one region.

use std::ops::RangeBounds;

use serde::{Serialize, Serializer};

use crate::ChunkId;

/// A grid position, and its chunk; none if it is all zero.
type Entry = (u64, Option<ChunkId>);

/// Grid positions of one region in ascending order, each with its chunk. One after the other in memory, since a region
/// may have millions.
///
/// In a base, a position that is absent is all zero. In a delta, a position that is absent is as in the
/// base, and `None` says that it is all zero now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionIndex {
    entries: Vec<Entry>,
}

impl RegionIndex {
    /// One without positions.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// How many positions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is at a position; nothing if it is absent.
    #[must_use]
    pub fn get(&self, position: u64) -> Option<Option<ChunkId>> {
        let found = self.entries.binary_search_by_key(&position, |(position, _)| *position);
        found.ok().map(|found| self.entries[found].1)
    }

    /// The last position.
    #[must_use]
    pub fn last_position(&self) -> Option<u64> {
        self.entries.last().map(|(position, _)| *position)
    }

    /// All positions in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().copied()
    }

    /// The positions that are not zero, in ascending order.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, ChunkId)> + '_ {
        self.iter().filter_map(|(position, chunk)| Some((position, chunk?)))
    }

    /// Sets what is at a position. This is quick behind the last one, and takes time in proportion to the length
    /// elsewhere.
    pub fn insert(&mut self, position: u64, chunk: Option<ChunkId>) {
        if self.last_position().is_none_or(|last| last < position) {
            self.entries.push((position, chunk));
            return;
        }
        match self.entries.binary_search_by_key(&position, |(position, _)| *position) {
            Ok(found) => self.entries[found].1 = chunk,
            Err(place) => self.entries.insert(place, (position, chunk)),
        }
    }

    /// Keeps only what `wanted` says yes to.
    pub fn retain(&mut self, mut wanted: impl FnMut(u64, Option<ChunkId>) -> bool) {
        self.entries.retain(|(position, chunk)| wanted(*position, *chunk));
    }

    /// Drops the positions outside of a range.
    pub fn cut(&mut self, range: impl RangeBounds<u64>) {
        self.retain(|position, _| range.contains(&position));
    }

    /// What this says, and of the positions that `newer` has what that says.
    #[must_use]
    pub fn overlaid_by(&self, newer: &Self) -> Self {
        let mut entries = Vec::with_capacity(self.len().max(newer.len()));
        let (mut old, mut new) = (self.entries.as_slice(), newer.entries.as_slice());
        while let (Some((first_old, _)), Some((first_new, _))) = (old.first(), new.first()) {
            let (from, skipped) =
                if first_old < first_new { (&mut old, false) } else { (&mut new, first_old == first_new) };
            entries.push(from[0]);
            *from = &from[1..];
            if skipped {
                old = &old[1..];
            }
        }
        entries.extend_from_slice(old);
        entries.extend_from_slice(new);
        Self { entries }
    }
}

impl FromIterator<Entry> for RegionIndex {
    /// In any order. Of a position that comes twice, the last counts.
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        if !entries.is_sorted_by(|one, next| one.0 < next.0) {
            entries.reverse();
            entries.sort_by_key(|(position, _)| *position);
            entries.dedup_by_key(|(position, _)| *position);
        }
        Self { entries }
    }
}

impl<const N: usize> From<[Entry; N]> for RegionIndex {
    fn from(entries: [Entry; N]) -> Self {
        entries.into_iter().collect()
    }
}

impl Serialize for RegionIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let chunk = |number: u8| (number > 0).then(|| ChunkId::from_bytes([number; 32]));
        prop::collection::vec((0_u64..30, 0_u8..9), 0..40)
            .prop_map(move |entries| entries.into_iter().map(|(at, number)| (at, chunk(number))).collect())
    }

    proptest! {
        #[test]
        fn it_is_a_map(old in entries(), new in entries(), end in 0_u64..30) {
            let mut map: BTreeMap<u64, Option<ChunkId>> = old.iter().copied().collect();
            let index: RegionIndex = old.iter().copied().collect();
            prop_assert!(index.iter().eq(map.iter().map(|(position, chunk)| (*position, *chunk))));
            let newer: RegionIndex = new.iter().copied().collect();
            let mut inserted = index.clone();
            for (position, chunk) in &new {
                map.insert(*position, *chunk);
                inserted.insert(*position, *chunk);
            }
            let mut overlaid = index.overlaid_by(&newer);
            prop_assert_eq!(&overlaid, &inserted);
            prop_assert!(overlaid.iter().eq(map.iter().map(|(position, chunk)| (*position, *chunk))));
            for position in 0..31 {
                prop_assert_eq!(overlaid.get(position), map.get(&position).copied());
            }
            overlaid.cut(..end);
            prop_assert!(overlaid.last_position().is_none_or(|last| last < end));
            prop_assert_eq!(overlaid.len(), map.range(..end).count());
        }
    }
}
