//! What a manifest lists: writing its index into a pack, and finding the packs that it needs.

use std::collections::BTreeSet;

use sustain_proto::{ChunkId, IndexRoot, PackId, PackRef, RegionIndex, SnapshotIndex};

use crate::Fault;
use crate::block::Encoder;
use crate::catalogue::Catalogue;
use crate::limits;
use crate::pack_writer::PackSink;

/// Adds an encoded index to the packs that are being written.
pub(crate) fn append_index(
    sink: &mut PackSink,
    root: IndexRoot,
    encoded: &[u8],
    level: i32,
) -> Result<(), Fault> {
    let encoder = Encoder::new(sink.key(), level, limits::ZSTD_DELTA_LEVEL);
    let mut encoder = encoder.map_err(crate::ingest::no_memory)?;
    sink.append(&encoder.index(root, encoded)?)
}

/// The packs that a manifest lists: those that hold its index and the chunks that this names, but not
/// those of its base, and the new ones. `shared` are the chunks with which the new ones' chunks share pages.
pub(crate) fn list_packs(
    catalogue: &Catalogue,
    base_packs: Option<&BTreeSet<PackId>>,
    stored: &SnapshotIndex,
    roots: &[IndexRoot],
    new: &[PackRef],
    shared: &BTreeSet<ChunkId>,
) -> Vec<PackRef> {
    let chunks = stored.regions.values().flat_map(RegionIndex::chunks).map(|(_, chunk)| chunk);
    let places = chunks.chain(shared.iter().copied()).filter_map(|chunk| catalogue.chunk(&chunk));
    let mut numbers = catalogue.packs_sharing(places.map(|place| catalogue.block_of(place)));
    numbers.extend(roots.iter().filter_map(|root| catalogue.index(root)).map(|place| place.pack));
    let old = numbers.into_iter().map(|number| catalogue.packs()[number as usize].0);
    let old = old.filter(|pack| base_packs.is_none_or(|base| !base.contains(&pack.id)));
    let mut listed: Vec<PackRef> = old.collect();
    for pack in new {
        if !listed.contains(pack) {
            listed.push(*pack);
        }
    }
    listed
}
