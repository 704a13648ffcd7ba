//! Planning a rebase: which packs stay, what is written anew, how the snapshots of the new generation
//! are described.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::limits::CAME_FROM_MAX;
use sustain_proto::{ChunkId, Lineage, PackId, PackRef, SnapshotId, SnapshotIndex, SnapshotKind};

use crate::catalogue::{Catalogue, Place};
use crate::generation::{Whole, with_base};
use crate::listing::{append_index, list_packs};
use crate::pack_file::PackFile;
use crate::pack_writer::{FinishedPack, NewRecord, PackSink};
use crate::publish::sync_packs;
use crate::rebase::RebaseError;
use crate::record::{Decoder, RecordKind};
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::whole::difference;
use crate::{Fault, Progress, limits};

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

/// A new generation in the making: its base, and what was described against it so far. Nothing is visible yet.
#[derive(Debug)]
pub(crate) struct Draft {
    promoted: SnapshotId,
    base: Arc<Snapshot>,
    base_index: SnapshotIndex,
    /// Old ids and what they became, the base among them.
    described: BTreeMap<SnapshotId, Arc<Snapshot>>,
    packs: Vec<FinishedPack>,
    /// How many of the packs are synced.
    synced: usize,
}

impl Draft {
    /// Writes the packs of the new base, which takes long, and describes it.
    pub(crate) fn begin(
        shared: &Shared,
        state: &State,
        promoted: &Arc<Snapshot>,
        progress: &dyn Progress,
    ) -> Result<Self, RebaseError> {
        let (base, snapshot) = with_base(state, promoted)?;
        let whole = Whole::load(shared, &base, &snapshot)?;
        let (mut listed, packs) = write_base_packs(shared, &whole, progress)?;
        listed.extend(packs.iter().map(|pack| pack.reference));
        let base = describe_base(&whole, listed)?;
        let described = BTreeMap::from([(promoted.id, base.clone())]);
        Ok(Self { promoted: promoted.id, base, base_index: whole.index, described, packs, synced: 0 })
    }

    /// Describes snapshots that were not yet, oldest first, against the new base.
    pub(crate) fn extend(
        &mut self,
        shared: &Shared,
        state: &State,
        snapshots: &[Arc<Snapshot>],
    ) -> Result<(), RebaseError> {
        for old in snapshots {
            if !self.described.contains_key(&old.id) {
                let (base, old) = with_base(state, old)?;
                let old = Whole::load(shared, &base, &old)?;
                let new = self.rewrite(shared, &old)?;
                self.described.insert(old.snapshot.id, new);
            }
        }
        Ok(())
    }

    /// Syncs the packs that were written since the last time.
    pub(crate) fn sync(&mut self) -> Result<(), Fault> {
        sync_packs(&self.packs[self.synced..])?;
        self.synced = self.packs.len();
        Ok(())
    }

    /// The base and these snapshots, which were all described. Packs for others, which are gone meanwhile, are
    /// left out.
    pub(crate) fn finish(mut self, snapshots: &[Arc<Snapshot>]) -> Plan {
        let kept = std::iter::once(self.promoted).chain(snapshots.iter().map(|snapshot| snapshot.id));
        let mut planned = Vec::new();
        for old in kept {
            planned.extend(self.described.remove(&old).map(|new| Planned { old, new }));
        }
        let listed: BTreeSet<PackId> =
            planned.iter().flat_map(|p| p.new.manifest.packs.iter().map(|pack| pack.id)).collect();
        self.packs.retain(|pack| listed.contains(&pack.reference.id));
        Plan { snapshots: planned, packs: self.packs }
    }
}

/// Keeps the packs that are alive enough, and copies what lives in the others.
fn write_base_packs(
    shared: &Shared,
    whole: &Whole,
    progress: &dyn Progress,
) -> Result<(Vec<PackRef>, Vec<FinishedPack>), RebaseError> {
    let live: BTreeSet<Place> = whole
        .index
        .regions
        .values()
        .flat_map(|chunks| chunks.values())
        .flatten()
        .filter_map(|chunk| whole.catalogue.chunk(chunk))
        .collect();
    let mut kept = Vec::new();
    let mut moved = Vec::new();
    for (number, (pack, _)) in whole.catalogue.packs().iter().enumerate() {
        let first = Place { pack: number as u32, record: 0 };
        let last = Place { pack: number as u32, record: u32::MAX };
        let places: Vec<Place> = live.range(first..=last).copied().collect();
        let bytes: u64 = places.iter().map(|p| u64::from(whole.catalogue.entry(*p).stored_bytes)).sum();
        if !places.is_empty() && bytes * 100 >= pack.bytes * limits::LIVE_PERCENT_MIN {
            kept.push(*pack);
        } else {
            moved.extend(places);
        }
    }
    let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries());
    copy_records(shared, &whole.catalogue, &moved, &mut sink, progress)?;
    let (root, encoded) = whole.index.encode().map_err(RebaseError::Index)?;
    // If a kept pack holds this very index already, listing that pack is enough.
    let stored = whole.catalogue.index(&root).map(|place| whole.catalogue.pack(place));
    if !stored.is_some_and(|pack| kept.contains(&pack)) {
        append_index(&mut sink, root, &encoded, shared.zstd_level)?;
    }
    Ok((kept, sink.finish()?))
}

/// Copies chunks as they are stored, once it is sure that they are what they should be.
fn copy_records(
    shared: &Shared,
    catalogue: &Catalogue,
    places: &[Place],
    sink: &mut PackSink,
    progress: &dyn Progress,
) -> Result<(), RebaseError> {
    let key = shared.key_to_read()?;
    let mut decoder = Decoder::new().map_err(crate::ingest::no_memory)?;
    let mut stored = Vec::new();
    let mut open: Option<(PackId, PackFile)> = None;
    for place in places {
        if progress.cancelled() {
            return Err(RebaseError::Cancelled);
        }
        let id = catalogue.pack(*place).id;
        let file = match open.take() {
            Some((pack, file)) if pack == id => file,
            _ => PackFile::open(shared.disk.as_ref(), &shared.layout, &id)?,
        };
        let entry = catalogue.entry(*place);
        file.record(&entry, Some(&key), &mut decoder, &mut stored)?;
        sink.append(NewRecord {
            kind: RecordKind::Chunk,
            id: entry.id,
            encoding: entry.encoding,
            plain_bytes: entry.plain_bytes as usize,
            stored: &stored,
        })?;
        open = Some((id, file));
    }
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

impl Draft {
    /// Describes a snapshot against the new base: same contents, another index.
    fn rewrite(&mut self, shared: &Shared, old: &Whole) -> Result<Arc<Snapshot>, RebaseError> {
        let mut delta = difference(&self.base_index, &old.index, &old.snapshot.manifest.regions);
        let (index_root, encoded) = delta.encode().map_err(RebaseError::Index)?;
        // Snapshots without a change between them share one index.
        let shares = |pack: &&FinishedPack| {
            let mut entries = pack.directory.entries.iter();
            entries.any(|entry| entry.kind == RecordKind::Index && entry.id == *index_root.as_bytes())
        };
        let mut new: Vec<PackRef> =
            self.packs.iter().find(shares).map(|pack| pack.reference).into_iter().collect();
        if old.catalogue.index(&index_root).is_none() && new.is_empty() {
            let mut sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries());
            append_index(&mut sink, index_root, &encoded, shared.zstd_level)?;
            let written = sink.finish()?;
            new.extend(written.iter().map(|pack| pack.reference));
            self.packs.extend(written);
        }
        // What the base's packs hold need not be looked for in those of the old generation.
        let in_base = base_chunks(&self.base_index);
        for chunks in delta.regions.values_mut() {
            chunks.retain(|_, chunk| chunk.is_some_and(|chunk| !in_base.contains(&chunk)));
        }
        let base_packs: BTreeSet<PackId> = self.base.manifest.packs.iter().map(|pack| pack.id).collect();
        let mut manifest = old.snapshot.manifest.clone();
        manifest.kind = SnapshotKind::Delta { base: self.base.id };
        let renamed = |id: &SnapshotId| self.described.get(id).map_or(*id, |new| new.id);
        manifest.parents = manifest.parents.iter().map(renamed).collect();
        manifest.index_root = index_root;
        new.retain(|pack| !base_packs.contains(&pack.id));
        manifest.packs = list_packs(&old.catalogue, Some(&base_packs), &delta, index_root, &new);
        let (id, encoded) = manifest.encode()?;
        Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.snapshot.level }))
    }
}

fn base_chunks(index: &SnapshotIndex) -> BTreeSet<ChunkId> {
    index.regions.values().flat_map(|chunks| chunks.values()).flatten().copied().collect()
}
