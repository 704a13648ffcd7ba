//! Indexes as sets of differences: pure functions between whole indexes and deltas.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sustain_proto::{ChunkId, Region, RegionIndex, SnapshotIndex, chunk_count};

/// A base's index, without what lies outside its regions and without implied zeros.
pub(crate) fn whole_of_base(index: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
    overlay(index, &SnapshotIndex::default(), regions)
}

/// The whole index of a delta: its base's, with the delta's differences on top, cut to the regions.
pub(crate) fn overlay(base: &SnapshotIndex, delta: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
    let none = RegionIndex::new();
    let whole = regions.iter().map(|region| {
        let [base, delta] = [base, delta].map(|index| index.regions.get(&region.name).unwrap_or(&none));
        let mut chunks = base.overlaid_by(delta);
        let count = chunk_count(region.bytes);
        chunks.retain(|position, chunk| chunk.is_some() && position < count);
        (region.name.clone(), chunks)
    });
    SnapshotIndex { regions: whole.collect() }
}

/// Where two lists of positions and chunks differ, in ascending order as they are: what the second has there.
pub(crate) fn differing(
    old: impl Iterator<Item = (u64, ChunkId)>,
    new: impl Iterator<Item = (u64, ChunkId)>,
) -> impl Iterator<Item = (u64, Option<ChunkId>)> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    std::iter::from_fn(move || {
        loop {
            let next = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            match next {
                Ordering::Less => return old.next().map(|(position, _)| (position, None)),
                Ordering::Greater => return new.next().map(|(position, chunk)| (position, Some(chunk))),
                Ordering::Equal => {
                    let (before, now) = (old.next(), new.next());
                    if before != now {
                        return now.map(|(position, chunk)| (position, Some(chunk)));
                    }
                }
            }
        }
    })
}

/// What to note against a base so that [`overlay`] yields the whole index again: given the regions, and the base's
/// chunks of each.
pub(crate) fn difference<'a>(
    base: impl Iterator<Item = (&'a Region, impl Iterator<Item = (u64, ChunkId)>)>,
    whole: &SnapshotIndex,
) -> SnapshotIndex {
    let none = RegionIndex::new();
    let mut delta = BTreeMap::new();
    for (region, old) in base {
        let new = whole.regions.get(&region.name).unwrap_or(&none);
        let count = chunk_count(region.bytes);
        let old = old.take_while(|(position, _)| *position < count);
        let chunks: RegionIndex = differing(old, new.chunks()).collect();
        if !chunks.is_empty() {
            delta.insert(region.name.clone(), chunks);
        }
    }
    SnapshotIndex { regions: delta }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sustain_proto::RegionName;

    fn against(base: &SnapshotIndex, whole: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
        let chunks =
            |region: &Region| base.regions.get(&region.name).into_iter().flat_map(RegionIndex::chunks);
        difference(regions.iter().map(|region| (region, chunks(region))), whole)
    }

    fn indexes() -> impl Strategy<Value = (SnapshotIndex, Vec<Region>)> {
        let region = (0_u64..12 * 65_536, proptest::collection::btree_map(0_u64..14, 0_u8..4, 0..10));
        proptest::collection::btree_map("[a-c]", region, 0..3).prop_map(|regions| {
            let mut index = SnapshotIndex::default();
            let mut list = Vec::new();
            for (name, (bytes, chunks)) in regions {
                let name = RegionName::new(name).unwrap();
                let chunks = chunks
                    .into_iter()
                    .map(|(position, id)| (position, (id > 0).then(|| ChunkId::from_bytes([id; 32]))));
                index.regions.insert(name.clone(), chunks.collect());
                list.push(Region { name, bytes });
            }
            (index, list)
        })
    }

    #[test]
    fn differences_are_seen_both_ways() {
        let chunks =
            |chunks: [(u64, u8); 3]| chunks.map(|(at, id)| (at, ChunkId::from_bytes([id; 32]))).into_iter();
        let found = differing(chunks([(0, 1), (1, 2), (9, 3)]), chunks([(0, 1), (2, 5), (9, 4)]));
        let found: Vec<_> = found.map(|(at, chunk)| (at, chunk.map(|chunk| chunk.as_bytes()[0]))).collect();
        assert_eq!(found, [(1, None), (2, Some(5)), (9, Some(4))]);
    }

    proptest! {
        #[test]
        fn a_difference_laid_over_its_base_is_the_whole(
            (base, base_regions) in indexes(),
            (index, regions) in indexes(),
        ) {
            let base = whole_of_base(&base, &base_regions);
            let whole = whole_of_base(&index, &regions);
            let delta = against(&base, &whole, &regions);
            prop_assert_eq!(&overlay(&base, &delta, &regions), &whole);
            prop_assert!(against(&whole, &whole, &regions).regions.is_empty());
        }
    }
}
