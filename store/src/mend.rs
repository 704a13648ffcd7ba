//! What a damaged chunk takes to be had again: which packs, and which of them holds it.

use std::collections::BTreeSet;

use sustain_proto::{ChunkId, PackId, PackRef, RegionName};

use crate::catalogue::Place;
use crate::reader::SnapshotReader;

impl SnapshotReader {
    /// The chunk at a position and the pack that holds it, if it is not zero and can be had by itself.
    #[must_use]
    pub fn chunk_of(&self, region: &RegionName, position: u64) -> Option<(PackRef, ChunkId)> {
        let (chunk, place) = self.place_of(region, position)?;
        let catalogue = &self.whole.catalogue;
        catalogue.is_alone(place).then(|| (catalogue.pack(place.pack), chunk))
    }

    /// The packs that reading the chunk at a position takes, its own first. None if it is zero.
    #[must_use]
    pub fn packs_of(&self, region: &RegionName, position: u64) -> Vec<PackRef> {
        let catalogue = &self.whole.catalogue;
        let Some((_, place)) = self.place_of(region, position) else { return Vec::new() };
        let own = catalogue.block_of(place);
        let mut packs = vec![catalogue.pack(own.pack)];
        for block in catalogue.blocks_needed([own]) {
            let pack = catalogue.pack(block.pack);
            if !packs.contains(&pack) {
                packs.push(pack);
            }
        }
        packs
    }

    fn place_of(&self, region: &RegionName, position: u64) -> Option<(ChunkId, Place)> {
        let chunk = self.whole.located.region(region)?.get(position)?;
        Some((self.whole.catalogue.id(chunk), self.whole.catalogue.place(chunk)))
    }

    /// The packs that were here when the snapshot was opened.
    #[must_use]
    pub fn packs_here(&self) -> Vec<PackRef> {
        let foreign: BTreeSet<PackId> = self.whole.catalogue.foreign().map(|pack| pack.id).collect();
        let packs = self.whole.catalogue.packs().iter().map(|(pack, _)| *pack);
        packs.filter(|pack| !foreign.contains(&pack.id)).collect()
    }
}
