//! Which chunks a snapshot's regions are made of: for whoever compares snapshots, caches chunks, or looks for holes.

use sustain_proto::{ChunkId, Manifest, RegionName, SnapshotId};

use crate::SnapshotReader;

impl SnapshotReader {
    /// The snapshot that is read.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotId {
        self.whole.snapshot.id
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.whole.snapshot.manifest
    }

    /// The chunk at a position; none where the region is zero, or has no such position or name. Equal chunks have equal
    /// ids, in all snapshots of a store.
    #[must_use]
    pub fn chunk_id(&self, region: &RegionName, position: u64) -> Option<ChunkId> {
        let chunk = self.whole.located.region(region)?.get(position)?;
        Some(self.whole.catalogue.id(chunk))
    }

    /// The positions from `first` on that are not zero, in ascending order, each with its chunk.
    pub fn chunks_from(&self, region: &RegionName, first: u64) -> impl Iterator<Item = (u64, ChunkId)> + '_ {
        let chunks = self.whole.located.chunks_from(region, first);
        chunks.map(|(position, chunk)| (position, self.whole.catalogue.id(chunk)))
    }
}
