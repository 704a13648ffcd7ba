//! Which chunks a snapshot is made of, by their numbers in a catalogue: ids are long, and each is in memory once, in
//! its pack's directory.

use std::collections::BTreeMap;

use sustain_proto::{ChunkId, RegionIndex, RegionName, SnapshotIndex};

use crate::catalogue::{Catalogue, ChunkNumber, Place};

/// The chunks of a region, by their positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocatedRegion {
    /// In ascending order. A region has fewer than 2^32 positions.
    entries: Vec<(u32, ChunkNumber)>,
}

impl LocatedRegion {
    /// The chunk at a position; none if that is zero or past the end.
    pub(crate) fn get(&self, position: u64) -> Option<ChunkNumber> {
        let position = u32::try_from(position).ok()?;
        let found = self.entries.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(self.entries[found].1)
    }

    /// The positions from this one on that are not zero, in ascending order.
    pub(crate) fn chunks_from(&self, first: u64) -> impl Iterator<Item = (u64, ChunkNumber)> + '_ {
        let first = self.entries.partition_point(|(position, _)| u64::from(*position) < first);
        self.entries[first..].iter().map(|(position, chunk)| (u64::from(*position), *chunk))
    }
}

/// The chunks of a whole snapshot.
#[derive(Debug, Default)]
pub(crate) struct Located {
    regions: BTreeMap<RegionName, LocatedRegion>,
}

impl Located {
    /// Those of a whole index, given how a chunk is found.
    ///
    /// # Errors
    /// As that says.
    pub(crate) fn new<E>(
        index: &SnapshotIndex,
        mut find: impl FnMut(&RegionName, u64, &ChunkId) -> Result<ChunkNumber, E>,
    ) -> Result<Self, E> {
        let mut regions = BTreeMap::new();
        for (name, chunks) in &index.regions {
            let mut entries = Vec::with_capacity(chunks.len());
            for (position, chunk) in chunks.chunks() {
                entries.push((position as u32, find(name, position, &chunk)?));
            }
            regions.insert(name.clone(), LocatedRegion { entries });
        }
        Ok(Self { regions })
    }

    pub(crate) fn region(&self, name: &RegionName) -> Option<&LocatedRegion> {
        self.regions.get(name)
    }

    /// A region's positions from this one on that are not zero, in ascending order.
    pub(crate) fn chunks_from<'a>(
        &'a self,
        name: &RegionName,
        first: u64,
    ) -> impl Iterator<Item = (u64, ChunkNumber)> + use<'a> {
        self.regions.get(name).into_iter().flat_map(move |region| region.chunks_from(first))
    }

    /// The same, with each chunk's id, from the first on.
    pub(crate) fn named<'a>(
        &'a self,
        name: &RegionName,
        catalogue: &'a Catalogue,
    ) -> impl Iterator<Item = (u64, ChunkId)> + use<'a> {
        self.chunks_from(name, 0).map(|(position, chunk)| (position, catalogue.id(chunk)))
    }

    /// All places, of all regions.
    pub(crate) fn places<'a>(&'a self, catalogue: &'a Catalogue) -> impl Iterator<Item = Place> + 'a {
        let chunks = self.regions.values().flat_map(|region| region.chunks_from(0));
        chunks.map(|(_, chunk)| catalogue.place(chunk))
    }

    /// The index that it was made of.
    pub(crate) fn index(&self, catalogue: &Catalogue) -> SnapshotIndex {
        let region = |name: &RegionName| -> RegionIndex {
            self.named(name, catalogue).map(|(position, chunk)| (position, Some(chunk))).collect()
        };
        SnapshotIndex { regions: self.regions.keys().map(|name| (name.clone(), region(name))).collect() }
    }
}
