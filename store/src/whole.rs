//! Indexes as sets of differences: pure functions between whole indexes and deltas.

use std::collections::BTreeMap;

use sustain_proto::{Region, RegionIndex, SnapshotIndex, chunk_count};

/// A base's index, without what lies outside its regions and without implied zeros.
pub(crate) fn whole_of_base(index: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
    overlay(index, &SnapshotIndex::default(), regions)
}

/// The whole index of a delta: its base's, with the delta's differences on top, cut to the regions.
pub(crate) fn overlay(base: &SnapshotIndex, delta: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
    let mut whole = BTreeMap::new();
    for region in regions {
        let count = chunk_count(region.bytes);
        let mut chunks = RegionIndex::new();
        for index in [base, delta] {
            if let Some(index) = index.regions.get(&region.name) {
                chunks.extend(index.range(..count));
            }
        }
        chunks.retain(|_, chunk| chunk.is_some());
        whole.insert(region.name.clone(), chunks);
    }
    SnapshotIndex { regions: whole }
}

/// What to note against the base so that [`overlay`] yields the whole index again.
pub(crate) fn difference(base: &SnapshotIndex, whole: &SnapshotIndex, regions: &[Region]) -> SnapshotIndex {
    let none = RegionIndex::new();
    let mut delta = BTreeMap::new();
    for region in regions {
        let old = base.regions.get(&region.name).unwrap_or(&none);
        let new = whole.regions.get(&region.name).unwrap_or(&none);
        let mut chunks = RegionIndex::new();
        for (position, chunk) in new {
            if old.get(position).copied().flatten() != *chunk {
                chunks.insert(*position, *chunk);
            }
        }
        for (position, chunk) in old.range(..chunk_count(region.bytes)) {
            if chunk.is_some() && new.get(position).copied().flatten().is_none() {
                chunks.insert(*position, None);
            }
        }
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
    use sustain_proto::{ChunkId, RegionName};

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

    proptest! {
        #[test]
        fn a_difference_laid_over_its_base_is_the_whole(
            (base, base_regions) in indexes(),
            (index, regions) in indexes(),
        ) {
            let base = whole_of_base(&base, &base_regions);
            let whole = whole_of_base(&index, &regions);
            let delta = difference(&base, &whole, &regions);
            prop_assert_eq!(&overlay(&base, &delta, &regions), &whole);
            prop_assert!(difference(&whole, &whole, &regions).regions.is_empty());
        }
    }
}
