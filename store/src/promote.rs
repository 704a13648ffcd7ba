//! Planning a rebase: which packs stay, what is written anew, how the snapshots of the new generation
//! are described.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::limits::CAME_FROM_MAX;
use sustain_proto::{
    ChunkId, ChunkKey, IndexRoot, Lineage, PackId, PackRef, RegionName, SnapshotId, SnapshotIndex,
    SnapshotKind,
};

use crate::block::Encoder;
use crate::catalogue::{Catalogue, Place};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::{Whole, with_base};
use crate::listing::append_index;
use crate::pack_writer::{FinishedPack, PackSink};
use crate::rebase::RebaseError;
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::whole::difference;
use crate::{Fault, limits};

/// Which snapshots of a service a promotion drops, and which it keeps under new ids.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) dropped: Vec<Arc<Snapshot>>,
    /// Oldest first, the promoted one not among them.
    pub(crate) rewritten: Vec<Arc<Snapshot>>,
}

impl Fate {
    /// Ancestors of the promoted snapshot go. Everything else of its generation is kept: what is newer,
    /// and heads that no lineage shows to be ancestors (P13).
    pub(crate) fn decide(state: &State, promoted: &Snapshot) -> Self {
        let service = &promoted.manifest.service;
        let all: Vec<_> = state.of_service(service);
        // What has lost packs can't be described anew, and does not outlive its base.
        let broken = state.of_generation(promoted.generation());
        let broken = broken.into_iter().filter(|snapshot| !state.is_whole(snapshot));
        let mut lineage = Lineage::default();
        all.iter().for_each(|snapshot| lineage.learn(&snapshot.manifest));
        let of = &promoted.manifest;
        let is_ancestor = |s: &Snapshot| lineage.contains(&of.term, of.seq, &s.manifest.term, s.manifest.seq);
        let others = all.into_iter().filter(|snapshot| snapshot.id != promoted.id);
        let (mut dropped, kept): (Vec<_>, Vec<_>) = others.partition(|snapshot| is_ancestor(snapshot));
        // A base of an older generation stays as long as one of its deltas does.
        let needed: BTreeSet<SnapshotId> = kept
            .iter()
            .filter(|snapshot| snapshot.generation() != promoted.generation())
            .map(|snapshot| snapshot.generation())
            .collect();
        dropped.retain(|snapshot| !needed.contains(&snapshot.id));
        dropped.extend(broken);
        let rewritten =
            kept.into_iter().filter(|snapshot| snapshot.generation() == promoted.generation()).collect();
        Self { dropped, rewritten }
    }
}

/// A new snapshot, ready to be made visible, with the packs written for it.
pub(crate) struct Planned {
    pub(crate) old: SnapshotId,
    pub(crate) new: Arc<Snapshot>,
}

/// A whole new generation.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) snapshots: Vec<Planned>,
    pub(crate) packs: Vec<FinishedPack>,
}

/// Writes the packs of the new generation and describes its snapshots. Nothing is visible yet.
pub(crate) fn plan(
    shared: &Shared,
    state: &State,
    promoted: &Arc<Snapshot>,
    fate: &Fate,
) -> Result<Plan, RebaseError> {
    let (base, snapshot) = with_base(state, promoted)?;
    let whole = Whole::load(shared, &base, &snapshot)?;
    let (kept, packs) = write_base_packs(shared, &whole)?;
    let mut listed = kept;
    listed.extend(packs.iter().map(|pack| pack.reference));
    let base = describe_base(&whole, listed)?;
    let mut plan = vec![Planned { old: promoted.id, new: base.clone() }];
    let mut rewriting = Rewriting {
        shared,
        key: shared.key_to_read()?,
        whole: &whole,
        in_base: chunks_of(&whole.index),
        ids: BTreeMap::from([(promoted.id, base.id)]),
        base,
        written: BTreeMap::new(),
        indexes: BTreeMap::new(),
        packs,
    };
    for old in &fate.rewritten {
        let (base, old) = with_base(state, old)?;
        let old = Whole::load(shared, &base, &old)?;
        let new = rewriting.rewrite(&old)?;
        plan.push(Planned { old: old.snapshot.id, new });
    }
    Ok(Plan { snapshots: plan, packs: rewriting.packs })
}

/// Keeps the packs that are alive enough, and copies what lives in the others.
fn write_base_packs(
    shared: &Shared,
    whole: &Whole,
) -> Result<(Vec<PackRef>, Vec<FinishedPack>), RebaseError> {
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
        let stored = |place: &Place| u64::from(catalogue.block(catalogue.block_of(*place)).stored_bytes);
        let bytes: u64 = alone.iter().map(stored).sum();
        moved.extend(blocked);
        if !alone.is_empty() && bytes * 100 >= pack.bytes * limits::LIVE_PERCENT_MIN {
            kept.push(*pack);
        } else {
            moved.extend(alone);
        }
    }
    moved.sort_unstable();
    let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries());
    write_whole(shared, catalogue, &moved, &mut sink)?;
    let (root, encoded) = whole.index.encode().map_err(RebaseError::Index)?;
    // If a kept pack holds this very index already, listing that pack is enough.
    let stored = catalogue.index(&root).map(|place| catalogue.pack(place.pack));
    if !stored.is_some_and(|pack| kept.contains(&pack)) {
        append_index(&mut sink, root, &encoded, shared.zstd_level)?;
    }
    Ok((kept, sink.finish()?))
}

/// Writes chunks by themselves, as a base has them.
fn write_whole(
    shared: &Shared,
    catalogue: &Catalogue,
    places: &[Place],
    sink: &mut PackSink,
) -> Result<(), Fault> {
    let key = shared.key_to_read()?;
    let from = Chunks { shared, catalogue, key: Some(&key) };
    let (mut reader, mut encoder) = (ChunkReader::new()?, encoder(shared)?);
    for place in places {
        encoder.add(catalogue.entry(*place).id, reader.chunk(from, *place)?, None, None);
        append(&mut encoder, sink)?;
    }
    Ok(())
}

fn encoder(shared: &Shared) -> Result<Encoder, Fault> {
    Encoder::new(shared.zstd_level, limits::ZSTD_DELTA_LEVEL).map_err(crate::ingest::no_memory)
}

fn append(encoder: &mut Encoder, sink: &mut PackSink) -> Result<(), Fault> {
    if let Some(block) = encoder.finish() {
        sink.append(&block)?;
    }
    encoder.clear();
    Ok(())
}

fn describe_base(whole: &Whole, packs: Vec<PackRef>) -> Result<Arc<Snapshot>, RebaseError> {
    let old = &whole.snapshot;
    let mut came_from = vec![old.id];
    came_from.extend(old.came_from());
    came_from.truncate(CAME_FROM_MAX);
    let (index_root, _) = whole.index.encode().map_err(RebaseError::Index)?;
    let mut manifest = old.manifest.clone();
    manifest.kind = SnapshotKind::Base { came_from };
    manifest.index_root = index_root;
    manifest.packs = packs;
    let (id, encoded) = manifest.encode()?;
    Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.level }))
}

/// What the snapshots of a new generation are described by.
struct Rewriting<'a> {
    shared: &'a Shared,
    key: ChunkKey,
    /// The promoted snapshot as it was: its chunks are the new base's.
    whole: &'a Whole,
    base: Arc<Snapshot>,
    in_base: BTreeSet<ChunkId>,
    /// New ids by old ones.
    ids: BTreeMap<SnapshotId, SnapshotId>,
    /// What was written for the new generation's deltas, and where.
    written: BTreeMap<ChunkId, PackRef>,
    indexes: BTreeMap<IndexRoot, PackRef>,
    packs: Vec<FinishedPack>,
}

impl Rewriting<'_> {
    /// Describes a snapshot against the new base: same contents, another index, and chunks that refer to the new
    /// base's. The old base's are gone, and what refers to them could not be read any more.
    fn rewrite(&mut self, old: &Whole) -> Result<Arc<Snapshot>, RebaseError> {
        let mut delta = difference(&self.whole.index, &old.index, &old.snapshot.manifest.regions);
        let (index_root, encoded) = delta.encode().map_err(RebaseError::Index)?;
        for chunks in delta.regions.values_mut() {
            chunks.retain(|_, chunk| chunk.is_some_and(|chunk| !self.in_base.contains(&chunk)));
        }
        self.write(old, &delta, index_root, &encoded)?;
        let chunks = delta.regions.values().flat_map(|chunks| chunks.values()).flatten();
        let packs = chunks.filter_map(|chunk| self.written.get(chunk)).chain(self.indexes.get(&index_root));
        let packs: BTreeMap<PackId, PackRef> = packs.map(|pack| (pack.id, *pack)).collect();
        let mut manifest = old.snapshot.manifest.clone();
        manifest.kind = SnapshotKind::Delta { base: self.base.id };
        let renamed = |id: &SnapshotId| self.ids.get(id).copied().unwrap_or(*id);
        manifest.parents = manifest.parents.iter().map(renamed).collect();
        manifest.index_root = index_root;
        manifest.packs = packs.into_values().collect();
        let (id, encoded) = manifest.encode()?;
        self.ids.insert(old.snapshot.id, id);
        Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.snapshot.level }))
    }

    /// Writes what no earlier snapshot of the new generation has: chunks, and the index.
    fn write(
        &mut self,
        old: &Whole,
        delta: &SnapshotIndex,
        root: IndexRoot,
        encoded: &[u8],
    ) -> Result<(), RebaseError> {
        let mut sink = PackSink::new(self.shared.disk.clone(), self.shared.layout.temporaries());
        let mut encoder = encoder(self.shared)?;
        let (mut reader, mut references) = (ChunkReader::new()?, ChunkReader::new()?);
        let mut new = BTreeSet::new();
        for (name, chunks) in &delta.regions {
            for (position, chunk) in chunks {
                let Some(chunk) = chunk.filter(|chunk| !self.written.contains_key(chunk)) else { continue };
                if !new.insert(chunk) {
                    continue;
                }
                let reference = self.reference(&mut references, name, *position)?;
                let place = old.catalogue.chunk(&chunk).ok_or_else(|| missing(&old.snapshot, chunk))?;
                let plain = reader.chunk(self.chunks(&old.catalogue), place)?;
                encoder.add(chunk, plain, reference, None);
                if encoder.is_full() {
                    append(&mut encoder, &mut sink)?;
                }
            }
            append(&mut encoder, &mut sink)?;
        }
        if !self.indexes.contains_key(&root) {
            append_index(&mut sink, root, encoded, self.shared.zstd_level)?;
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
        reader: &'r mut ChunkReader,
        name: &RegionName,
        position: u64,
    ) -> Result<Option<(ChunkId, &'r [u8])>, Fault> {
        let chunk = self.whole.index.regions.get(name).and_then(|chunks| chunks.get(&position));
        let Some(chunk) = chunk.copied().flatten() else { return Ok(None) };
        let Some(place) = self.whole.catalogue.chunk(&chunk) else { return Ok(None) };
        Ok(Some((chunk, reader.chunk(self.chunks(&self.whole.catalogue), place)?)))
    }

    fn chunks<'c>(&'c self, catalogue: &'c Catalogue) -> Chunks<'c> {
        Chunks { shared: self.shared, catalogue, key: Some(&self.key) }
    }
}

/// For a chunk that loading the snapshot has found in its packs.
fn missing(snapshot: &Snapshot, chunk: ChunkId) -> Fault {
    let reason = format!("no pack holds chunk {}", chunk.short());
    Fault::damaged(std::path::Path::new(&snapshot.id.to_string()), reason)
}

fn chunks_of(index: &SnapshotIndex) -> BTreeSet<ChunkId> {
    index.regions.values().flat_map(|chunks| chunks.values()).flatten().copied().collect()
}
