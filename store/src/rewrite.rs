//! Writing a new generation: which of the base's packs stay, what is written anew, and how the snapshots that live on
//! are described by it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::{
    ChunkId, IndexRoot, PackId, PackRef, Region, RegionIndex, RegionName, SnapshotId, SnapshotIndex,
    SnapshotKind,
};

use crate::block::Encoder;
use crate::block_cache::BlockCache;
use crate::catalogue::{Catalogue, Place};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::Whole;
use crate::listing::append_index;
use crate::new_names::{NewNames, absent, change_key};
use crate::pack_writer::{FinishedPack, PackSink};
use crate::parallel::{Pace, for_each_batch};
use crate::policy::RebasePolicy;
use crate::promote::Draft;
use crate::rebase_error::RebaseError;
use crate::service_key::ServiceKey;
use crate::state::Snapshot;
use crate::store::Shared;
use crate::whole::difference;
use crate::{Fault, Progress, ReadError, limits};

/// How a new base is written: how much of the machine that takes, and who may stop it.
pub(crate) struct Effort<'a> {
    pub(crate) policy: &'a RebasePolicy,
    pub(crate) pace: Pace,
    pub(crate) progress: &'a dyn Progress,
}

/// What becomes of a chunk of a snapshot that becomes a base.
#[derive(Debug, Clone, Copy)]
struct Job {
    place: Place,
    /// Whether it is written anew. Else its pack stays.
    moves: bool,
}

/// What a new base is made of.
pub(crate) struct BasePacks {
    /// Packs that stay as they are.
    pub(crate) listed: Vec<PackRef>,
    /// Those that were written.
    pub(crate) packs: Vec<FinishedPack>,
    /// The index, by the names that chunks have under its key.
    pub(crate) index: SnapshotIndex,
}

/// The packs that are alive enough to be kept, if any may be, and each chunk once, in the order of the positions: what
/// they refer to, and the chunks of their blocks, are then needed at about the same time, so that each block is decoded
/// about once.
fn sort(whole: &Whole, policy: &RebasePolicy, may_keep: bool) -> (Vec<PackRef>, Vec<Job>) {
    let catalogue = &whole.catalogue;
    let mut seen = HashSet::new();
    let places: Vec<Place> = whole.located.places(catalogue).filter(|place| seen.insert(*place)).collect();
    let mut alive = vec![0; catalogue.packs().len()];
    for place in places.iter().filter(|place| catalogue.is_alone(**place)) {
        alive[place.pack as usize] += share_of_block(catalogue, *place);
    }
    let keeps: Vec<bool> = catalogue
        .packs()
        .iter()
        .zip(&alive)
        .zip(0..)
        .map(|(((pack, directory), alive), number)| {
            // A dead chunk that refers to another is not kept either: that one goes, and it would be found by its id.
            let mut chunks = (0..directory.chunk_count() as u32).map(|chunk| Place { pack: number, chunk });
            may_keep && policy.keeps(*alive, pack.bytes) && chunks.all(|place| catalogue.is_alone(place))
        })
        .collect();
    // A base's chunks are read by themselves: those that are not are written anew in any case.
    let moves = |place: &Place| !keeps[place.pack as usize] || !catalogue.is_alone(*place);
    let jobs = places.iter().map(|place| Job { place: *place, moves: moves(place) }).collect();
    let packs = catalogue.packs().iter().zip(&keeps);
    (packs.filter(|(_, keeps)| **keeps).map(|((pack, _), _)| *pack).collect(), jobs)
}

/// Keeps the packs that are alive enough, and copies what lives in the others. None is kept under another key. Every
/// chunk is read once, so that all of the new base has been checked when the old one goes.
pub(crate) fn write_base_packs(
    shared: &Shared,
    whole: &Whole,
    names: &NewNames,
    effort: &Effort<'_>,
) -> Result<BasePacks, RebaseError> {
    let catalogue = &whole.catalogue;
    let may_keep = !names.differ_from(&whole.snapshot.manifest);
    let (listed, jobs) = sort(whole, effort.policy, may_keep);
    effort.progress.total(jobs.iter().map(|job| u64::from(catalogue.plain_bytes(job.place))).sum());
    let key = names.key().clone();
    let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries(), key);
    // What is on the disk counts, and not what somebody has read from it before.
    let cache = BlockCache::default();
    let from = Chunks { cache: &cache, ..Chunks::new(shared, catalogue) };
    check_and_move(from, &jobs, &mut sink, (!may_keep).then_some(names), effort)?;
    let index = names.index(shared, whole, effort.progress)?;
    let (root, encoded) = index.encode().map_err(RebaseError::Index)?;
    // If a kept pack holds this very index already, listing that pack is enough.
    let stored = catalogue.index(&root).map(|place| catalogue.pack(place.pack));
    if !stored.is_some_and(|pack| listed.contains(&pack)) {
        append_index(&mut sink, root, &encoded, shared.zstd_level)?;
    }
    Ok(BasePacks { listed, packs: sink.finish()?, index })
}

/// Stored bytes of a chunk: of its block's, as many as it has of the block's plain ones.
fn share_of_block(catalogue: &Catalogue, place: Place) -> u64 {
    let block = catalogue.block(catalogue.block_of(place));
    let (data, all) = (catalogue.entry(place).data_bytes() as u64, u64::from(block.plain_bytes).max(1));
    u64::from(block.stored_bytes) * data / all
}

/// Reads chunks, which compares them with their ids, and writes those that move as a base has them, in blocks that need
/// no others, by their new names if they have any.
fn check_and_move(
    from: Chunks<'_>,
    jobs: &[Job],
    sink: &mut PackSink,
    names: Option<&NewNames>,
    effort: &Effort<'_>,
) -> Result<(), RebaseError> {
    let key = sink.key().clone();
    let sink = Mutex::new(sink);
    let append = |encoder: &mut Encoder| -> Result<(), Fault> {
        if let Some(block) = encoder.finish()? {
            sink.lock().unwrap_or_else(PoisonError::into_inner).append(&block)?;
        }
        encoder.clear();
        Ok(())
    };
    let make = || Ok::<_, RebaseError>((ChunkReader::new()?, encoder(from.shared, &key)?));
    let work = |(reader, encoder): &mut (ChunkReader, Encoder), batch: Range<u64>| {
        for job in &jobs[batch.start as usize..batch.end as usize] {
            stop_if_wanted(effort.progress)?;
            let plain = reader.chunk(from, job.place)?;
            effort.progress.advance(plain.len() as u64);
            if job.moves {
                let id = from.catalogue.id_at(job.place);
                encoder.add(names.map_or(id, |names| names.name(id, plain)), plain, None, None);
                if encoder.chunk_count() == limits::BASE_BLOCK_CHUNKS {
                    append(encoder)?;
                }
            }
        }
        Ok(append(encoder)?)
    };
    for_each_batch(effort.pace, jobs.len() as u64, limits::BATCH_JOBS as u64, make, work)?;
    Ok(())
}

fn encoder(shared: &Shared, key: &ServiceKey) -> Result<Encoder, Fault> {
    let encoder = Encoder::new(key, shared.zstd_level, limits::ZSTD_DELTA_LEVEL);
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
        let (located, catalogue, names) = (&self.whole.located, &self.whole.catalogue, &self.names);
        let base = |region: &Region| {
            let chunks = located.named(&region.name, catalogue);
            chunks.map(|(position, chunk)| (position, names.now(chunk)))
        };
        let base = old.snapshot.manifest.regions.iter().map(|region| (region, base(region)));
        let mut delta = difference(base, &index);
        let (index_root, encoded) = delta.encode().map_err(RebaseError::Index)?;
        for chunks in delta.regions.values_mut() {
            chunks.retain(|_, chunk| chunk.is_some_and(|chunk| !self.in_base.contains(&chunk)));
        }
        self.write(shared, old, (&delta, index_root, &encoded), progress)?;
        let chunks = delta.regions.values().flat_map(RegionIndex::chunks);
        let packs =
            chunks.filter_map(|(_, chunk)| self.written.get(&chunk)).chain(self.indexes.get(&index_root));
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
        let mut encoder = encoder(shared, sink.key())?;
        let base = Chunks::new(shared, &self.whole.catalogue);
        let from = Chunks::new(shared, &old.catalogue);
        let (mut reader, mut references) = (ChunkReader::new()?, ChunkReader::new()?);
        let mut new = BTreeSet::new();
        for (name, chunks) in &delta.regions {
            for (position, chunk) in chunks.chunks() {
                if self.written.contains_key(&chunk) || !new.insert(chunk) {
                    continue;
                }
                stop_if_wanted(progress)?;
                let reference = self.reference(base, &mut references, name, position)?;
                let place = place_at(old, name, position).ok_or_else(|| absent(old, chunk))?;
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
        let chunk = self.whole.located.region(name).and_then(|chunks| chunks.get(position));
        let Some(chunk) = chunk else { return Ok(None) };
        let catalogue = &self.whole.catalogue;
        let id = self.names.now(catalogue.id(chunk));
        Ok(Some((id, reader.chunk(base, catalogue.place(chunk))?)))
    }
}

/// Where the chunk at a position is, whatever it is called there.
fn place_at(whole: &Whole, name: &RegionName, position: u64) -> Option<Place> {
    Some(whole.catalogue.place(whole.located.region(name)?.get(position)?))
}

/// All chunks that a snapshot is made of, by these names.
pub(crate) fn chunks_of(whole: &Whole, names: &NewNames) -> HashSet<ChunkId> {
    whole.located.places(&whole.catalogue).map(|place| names.now(whole.catalogue.id_at(place))).collect()
}

pub(crate) fn stop_if_wanted(progress: &dyn Progress) -> Result<(), RebaseError> {
    if progress.cancelled() { Err(RebaseError::Cancelled) } else { Ok(()) }
}
