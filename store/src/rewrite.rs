//! Writing a new generation: which of the base's packs stay, what is written anew, and how the snapshots that live on
//! are described by it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sustain_proto::{
    ChunkId, IndexRoot, PackId, PackRef, RegionName, SnapshotId, SnapshotIndex, SnapshotKind,
};

use crate::block::Encoder;
use crate::catalogue::{Catalogue, Place};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::Whole;
use crate::listing::append_index;
use crate::new_names::{NewNames, absent, change_key};
use crate::pack_writer::{FinishedPack, PackSink};
use crate::policy::RebasePolicy;
use crate::promote::Draft;
use crate::rebase::RebaseError;
use crate::state::Snapshot;
use crate::store::Shared;
use crate::whole::difference;
use crate::{Fault, Progress, ReadError, limits};

/// What a new base is made of.
pub(crate) struct BasePacks {
    /// Packs that stay as they are.
    pub(crate) listed: Vec<PackRef>,
    /// Those that were written.
    pub(crate) packs: Vec<FinishedPack>,
    /// The index, if chunks have other names now.
    pub(crate) renamed: Option<SnapshotIndex>,
}

/// Keeps the packs that are alive enough, and copies what lives in the others. None is kept under another key.
pub(crate) fn write_base_packs(
    shared: &Shared,
    whole: &Whole,
    names: &mut NewNames,
    policy: &RebasePolicy,
    progress: &dyn Progress,
) -> Result<BasePacks, RebaseError> {
    let is_renamed = names.differ_from(&whole.snapshot.manifest);
    let live: BTreeSet<Place> = whole
        .index
        .regions
        .values()
        .flat_map(|chunks| chunks.values())
        .flatten()
        .filter_map(|chunk| whole.catalogue.chunk(chunk))
        .collect();
    let catalogue = &whole.catalogue;
    let mut kept = Vec::new();
    let mut moved = Vec::new();
    for (number, (pack, _)) in catalogue.packs().iter().enumerate() {
        let first = Place { pack: number as u32, chunk: 0 };
        let last = Place { pack: number as u32, chunk: u32::MAX };
        // A base's chunks are read by themselves: those that are not are written anew in any case.
        let (alone, blocked): (Vec<Place>, Vec<Place>) =
            live.range(first..=last).copied().partition(|place| catalogue.is_alone(*place));
        let bytes: u64 = alone.iter().map(|place| share_of_block(catalogue, *place)).sum();
        moved.extend(blocked);
        if !is_renamed && policy.keeps(bytes, pack.bytes) {
            kept.push(*pack);
        } else {
            moved.extend(alone);
        }
    }
    moved.sort_unstable();
    let key = names.key().clone();
    let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries(), key);
    write_whole(shared, catalogue, &moved, &mut sink, is_renamed.then_some(&mut *names), progress)?;
    let index = names.index(shared, whole, progress)?;
    let (root, encoded) = index.encode().map_err(RebaseError::Index)?;
    // If a kept pack holds this very index already, listing that pack is enough.
    let stored = catalogue.index(&root).map(|place| catalogue.pack(place.pack));
    if !stored.is_some_and(|pack| kept.contains(&pack)) {
        append_index(&mut sink, root, &encoded, shared.zstd_level)?;
    }
    let renamed = is_renamed.then(|| index.into_owned());
    Ok(BasePacks { listed: kept, packs: sink.finish()?, renamed })
}

/// Stored bytes of a chunk: of its block's, as many as it has of the block's plain ones.
fn share_of_block(catalogue: &Catalogue, place: Place) -> u64 {
    let block = catalogue.block(catalogue.block_of(place));
    let (data, all) = (catalogue.entry(place).data_bytes() as u64, u64::from(block.plain_bytes).max(1));
    u64::from(block.stored_bytes) * data / all
}

/// Writes chunks as a base has them, in blocks that need no others.
fn write_whole(
    shared: &Shared,
    catalogue: &Catalogue,
    places: &[Place],
    sink: &mut PackSink,
    mut names: Option<&mut NewNames>,
    progress: &dyn Progress,
) -> Result<(), RebaseError> {
    let from = Chunks::new(shared, catalogue);
    let (mut reader, mut encoder) = (ChunkReader::new()?, encoder(shared, sink)?);
    for place in places {
        stop_if_wanted(progress)?;
        let (id, plain) = (catalogue.entry(*place).id, reader.chunk(from, *place)?);
        let id = names.as_mut().map_or(id, |names| names.name(id, plain));
        encoder.add(id, plain, None, None);
        if encoder.chunk_count() == limits::BASE_BLOCK_CHUNKS {
            append(&mut encoder, sink)?;
        }
    }
    Ok(append(&mut encoder, sink)?)
}

fn encoder(shared: &Shared, sink: &PackSink) -> Result<Encoder, Fault> {
    let encoder = Encoder::new(sink.key(), shared.zstd_level, limits::ZSTD_DELTA_LEVEL);
    encoder.map_err(crate::ingest::no_memory)
}

fn append(encoder: &mut Encoder, sink: &mut PackSink) -> Result<(), Fault> {
    if let Some(block) = encoder.finish()? {
        sink.append(&block)?;
    }
    encoder.clear();
    Ok(())
}

impl Draft {
    /// Describes a snapshot against the new base: same contents, another index, and chunks that refer to the new
    /// base's. The old base's are gone, and what refers to them could not be read any more.
    pub(crate) fn rewrite(
        &mut self,
        shared: &Shared,
        old: &Whole,
        progress: &dyn Progress,
    ) -> Result<Arc<Snapshot>, RebaseError> {
        let index = self.names.index(shared, old, progress)?;
        let mut delta = difference(self.base_index(), &index, &old.snapshot.manifest.regions);
        let (index_root, encoded) = delta.encode().map_err(RebaseError::Index)?;
        for chunks in delta.regions.values_mut() {
            chunks.retain(|_, chunk| chunk.is_some_and(|chunk| !self.in_base.contains(&chunk)));
        }
        self.write(shared, old, (&delta, index_root, &encoded), progress)?;
        let chunks = delta.regions.values().flat_map(|chunks| chunks.values()).flatten();
        let packs = chunks.filter_map(|chunk| self.written.get(chunk)).chain(self.indexes.get(&index_root));
        let packs: BTreeMap<PackId, PackRef> = packs.map(|pack| (pack.id, *pack)).collect();
        let mut manifest = old.snapshot.manifest.clone();
        change_key(&mut manifest, self.names.key().id(), &index);
        manifest.kind = SnapshotKind::Delta { base: self.base.id };
        let renamed = |id: &SnapshotId| self.described.get(id).map_or(*id, |new| new.id);
        manifest.parents = manifest.parents.iter().map(renamed).collect();
        manifest.indexes = vec![index_root];
        manifest.packs = packs.into_values().collect();
        let (id, encoded) = manifest.encode()?;
        Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.snapshot.level }))
    }

    /// Writes what no earlier snapshot of the new generation has: chunks, and the index.
    fn write(
        &mut self,
        shared: &Shared,
        old: &Whole,
        (delta, root, encoded): (&SnapshotIndex, IndexRoot, &[u8]),
        progress: &dyn Progress,
    ) -> Result<(), RebaseError> {
        let key = self.names.key().clone();
        let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries(), key);
        let mut encoder = encoder(shared, &sink)?;
        let base = Chunks::new(shared, &self.whole.catalogue);
        let from = Chunks::new(shared, &old.catalogue);
        let (mut reader, mut references) = (ChunkReader::new()?, ChunkReader::new()?);
        let mut new = BTreeSet::new();
        for (name, chunks) in &delta.regions {
            for (position, chunk) in chunks {
                let Some(chunk) = chunk.filter(|chunk| !self.written.contains_key(chunk)) else { continue };
                if !new.insert(chunk) {
                    continue;
                }
                stop_if_wanted(progress)?;
                let reference = self.reference(base, &mut references, name, *position)?;
                let place = place_at(old, name, *position).ok_or_else(|| absent(old, chunk))?;
                let plain = reader.chunk(from, place)?;
                encoder.add(chunk, plain, reference, None);
                if encoder.chunk_count() == limits::BLOCK_CHUNKS_MAX {
                    append(&mut encoder, &mut sink)?;
                }
            }
            append(&mut encoder, &mut sink)?;
        }
        if !self.indexes.contains_key(&root) {
            append_index(&mut sink, root, encoded, shared.zstd_level)?;
        }
        for pack in sink.finish()? {
            self.written.extend(pack.directory.chunk_ids().map(|chunk| (chunk, pack.reference)));
            self.indexes.extend(pack.directory.indexes().iter().map(|(root, _)| (*root, pack.reference)));
            self.packs.push(pack);
        }
        Ok(())
    }

    /// The new base's chunk at a position.
    fn reference<'r>(
        &self,
        base: Chunks<'_>,
        reader: &'r mut ChunkReader,
        name: &RegionName,
        position: u64,
    ) -> Result<Option<(ChunkId, &'r [u8])>, ReadError> {
        let chunk = self.base_index().regions.get(name).and_then(|chunks| chunks.get(&position));
        let Some(chunk) = chunk.copied().flatten() else { return Ok(None) };
        let Some(place) = place_at(&self.whole, name, position) else { return Ok(None) };
        Ok(Some((chunk, reader.chunk(base, place)?)))
    }
}

/// Where the chunk at a position is, whatever it is called there.
fn place_at(whole: &Whole, name: &RegionName, position: u64) -> Option<Place> {
    let chunk = whole.index.regions.get(name)?.get(&position).copied().flatten()?;
    whole.catalogue.chunk(&chunk)
}

/// All chunks that an index names.
pub(crate) fn chunks_of(index: &SnapshotIndex) -> HashSet<ChunkId> {
    index.regions.values().flat_map(|chunks| chunks.values()).flatten().copied().collect()
}

pub(crate) fn stop_if_wanted(progress: &dyn Progress) -> Result<(), RebaseError> {
    if progress.cancelled() { Err(RebaseError::Cancelled) } else { Ok(()) }
}
