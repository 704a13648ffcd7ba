//! Pushing: a snapshot from the bytes of its regions, stored as what differs from the base.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use sustain_proto::limits::MANIFEST_PACKS_MAX;
use sustain_proto::{
    ChunkId, IndexRoot, Manifest, PackRef, Region, RegionIndex, ServiceName, SnapshotId, SnapshotIndex,
    SnapshotKind, Term, TermOrigin, chunk_count,
};

use crate::PushError;
use crate::block_cache::BlockCache;
use crate::catalogue::Catalogue;
use crate::gate::{Gate, Work};
use crate::generation::{Whole, with_base};
use crate::index_parts::{IndexPart, extend};
use crate::ingest::Worker;
use crate::listing::{append_index, list_packs};
use crate::located::Located;
use crate::pack_writer::{FinishedPack, PackSink};
use crate::parallel::{Pace, workers_max};
use crate::pins::Pin;
use crate::processes::Pinned;
use crate::publish::{Unpublished, add_snapshots, rename_packs, sync_packs, write_manifests};
use crate::push_request::{PushLineage, PushReport, PushRequest};
use crate::push_settle::Author;
use crate::recent::Recent;
use crate::service_key::ServiceKey;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::whole::{difference, differing};

/// What the snapshot continues, as far as this store holds it.
#[derive(Debug)]
pub(crate) struct Parent {
    base: SnapshotId,
    base_packs: BTreeSet<sustain_proto::PackId>,
    /// What the base holds.
    pub(crate) base_located: Arc<Located>,
    /// What the parent itself holds.
    pub(crate) located: Arc<Located>,
    /// The index as it is stored.
    parts: Vec<IndexPart>,
    pub(crate) regions: Vec<Region>,
}

/// A push under way. Dropping it leaves nothing behind.
pub struct Push {
    pub(crate) shared: Arc<Shared>,
    _gate: Gate,
    /// What the generation has stored, which other processes see, and that it is pushed into.
    _pin: Pin,
    pub(crate) key: ServiceKey,
    pub(crate) service: ServiceName,
    term: Term,
    origin: Option<TermOrigin>,
    pub(crate) parents: Vec<SnapshotId>,
    seq: u64,
    /// Whether it is to continue the newest snapshot, whichever that is in the end.
    pub(crate) follows_newest: Option<Author>,
    /// Whether parts of the parent were taken over unseen, so that it can continue no other one.
    pub(crate) relies_on_parent: bool,
    time_ms: u64,
    pub(crate) parent: Option<Parent>,
    /// Everything that the generation has stored.
    pub(crate) catalogue: Catalogue,
    /// Decoded blocks, if it does not use the store's.
    pub(crate) cache: Option<BlockCache>,
    /// Those of the regions before.
    pub(crate) workers: Vec<Worker>,
    pub(crate) sink: PackSink,
    pub(crate) new: HashSet<ChunkId>,
    pub(crate) regions: Vec<Region>,
    pub(crate) index: SnapshotIndex,
    pub(crate) broken: bool,
    pub(crate) pace: Pace,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push").field("service", &self.service).field("seq", &self.seq).finish_non_exhaustive()
    }
}

/// The numbers of a new snapshot.
struct Position {
    term: Term,
    origin: Option<TermOrigin>,
    parents: Vec<SnapshotId>,
    seq: u64,
}

/// Decides what a push continues: its numbers, and the snapshot whose generation it joins.
fn place(
    shared: &Shared,
    state: &State,
    service: &ServiceName,
    lineage: &PushLineage,
) -> (Position, Option<Arc<Snapshot>>) {
    match *lineage {
        PushLineage::ContinueNewest { node, nonce } => match state.all_of_service(service).pop() {
            Some(newest) => {
                let (term, origin) = Author { node, nonce }.continues(&newest.manifest);
                let seq = shared.next_number(state, &newest.manifest);
                (
                    Position { term, origin, parents: vec![newest.id], seq },
                    // What is damaged is followed all the same, by a base: else it would be the newest again one day.
                    Some(newest).filter(|newest| state.is_whole(newest)),
                )
            }
            None => {
                let term = Term { counter: 1, node, nonce };
                (Position { term, origin: None, parents: Vec::new(), seq: 1 }, None)
            }
        },
        PushLineage::Explicit { term, origin, ref parents, seq } => {
            // A parent that a rebase has renamed meanwhile is named as it is now.
            let held: Vec<_> = parents.iter().map(|id| state.follow(*id)).collect();
            let ids = parents.iter().zip(&held).map(|(id, held)| held.as_ref().map_or(*id, |held| held.id));
            let position = Position { term, origin, parents: ids.collect(), seq };
            let first = held
                .into_iter()
                .flatten()
                .find(|snapshot| snapshot.manifest.service == *service && state.is_whole(snapshot));
            (position, first)
        }
    }
}

/// What is damaged is followed by a base, which costs more than a delta: somebody may wonder.
fn say_why_base(state: &State, service: &ServiceName, parents: &[SnapshotId]) {
    let parent = parents.first().and_then(|id| state.snapshots.get(id));
    if let Some(parent) = parent.filter(|parent| parent.manifest.service == *service) {
        let snapshot = parent.id.short();
        tracing::warn!(%service, %snapshot, "all is stored anew, since files of the snapshot before are bad");
    }
}

impl Store {
    /// Begins a push: reads the parent's index and what the generation has stored. One push of a service at a
    /// time, and none in the moment in which a rebase is committed.
    ///
    /// # Errors
    /// Busy, or if what the push continues can't be read.
    pub fn begin_push(&self, request: PushRequest) -> Result<Push, PushError> {
        let shared = self.shared.clone();
        let PushRequest { service, lineage, time_ms } = request;
        let gate = shared.gates.take(Work::Change, &service);
        let gate = gate.ok_or_else(|| PushError::Busy { service: service.clone() })?;
        let choose = |state: &State| {
            let (position, snapshot) = place(&shared, state, &service, &lineage);
            let found = snapshot.map(|snapshot| with_base(&shared, state, &snapshot)).transpose()?;
            let siblings = found.as_ref().map(|(base, _)| state.of_generation(base.id)).unwrap_or_default();
            let packs = siblings.iter().flat_map(|sibling| &sibling.manifest.packs);
            let mut pinned: Vec<Pinned> = packs.map(|pack| *pack.id.as_bytes()).collect();
            pinned.extend(found.as_ref().map(|(base, _)| *base.id.as_bytes()));
            Ok::<_, PushError>(((position, found, siblings), pinned))
        };
        let ((position, found, siblings), pin) = shared.pinned(choose)?;
        if found.is_none() {
            say_why_base(&shared.seen(), &service, &position.parents);
        }
        let parent = found.as_ref().map(|(_, snapshot)| snapshot.id);
        let recent = parent.and_then(|parent| shared.recents.take(&service, parent, &shared.state()));
        // A generation stays under the key of its base.
        let key = match &found {
            Some((base, _)) => shared.keys.find(base.manifest.key)?,
            None => shared.key_to_write(&service)?,
        };
        let (mut parent, mut catalogue) = (None, Catalogue::default());
        // Only who pushes again may find there what it needs.
        let cache = recent.is_none().then(|| BlockCache::of_push(workers_max()));
        if let Some((base, snapshot)) = found {
            let recent = match recent.filter(|recent| recent.parent.base == base.id) {
                Some(recent) => recent,
                None => load(&shared, &base, &snapshot)?,
            };
            catalogue = recent.catalogue;
            for sibling in siblings {
                catalogue.add_readable(&shared, &sibling.manifest.packs);
            }
            parent = Some(recent.parent);
        }
        let sink = PackSink::new(shared.disk.clone(), shared.layout.temporaries(), key.clone());
        let Position { term, origin, parents, seq } = position;
        Ok(Push {
            shared,
            _gate: gate,
            _pin: pin,
            key,
            service,
            term,
            origin,
            parents,
            seq,
            follows_newest: match lineage {
                PushLineage::ContinueNewest { node, nonce } => Some(Author { node, nonce }),
                PushLineage::Explicit { .. } => None,
            },
            relies_on_parent: false,
            time_ms,
            parent,
            catalogue,
            cache,
            workers: Vec::new(),
            sink,
            new: HashSet::new(),
            regions: Vec::new(),
            index: SnapshotIndex::default(),
            broken: false,
            pace: Pace::Full,
        })
    }
}

/// Reads what a push continues.
fn load(shared: &Shared, base: &Arc<Snapshot>, snapshot: &Arc<Snapshot>) -> Result<Recent, PushError> {
    let whole = Whole::load(shared, base, snapshot)?;
    let Whole { base: base_located, located, parts, catalogue, .. } = whole;
    let base_packs = base.manifest.packs.iter().map(|pack| pack.id).collect();
    let regions = snapshot.manifest.regions.clone();
    let parent = Parent { base: base.id, base_packs, base_located, located, parts, regions };
    Ok(Recent { snapshot: snapshot.id, parent, catalogue })
}

impl Push {
    /// Takes as much of the machine from now on: all of it, unless told otherwise.
    #[must_use]
    pub fn at_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Makes the snapshot durable and visible.
    ///
    /// # Errors
    /// If the disk is full or fails, or a limit is exceeded. If the database's own commit fails, the
    /// snapshot may turn up when the store is opened again; in all other cases nothing of it is left.
    pub fn commit(mut self) -> Result<PushReport, PushError> {
        if self.broken {
            return Err(PushError::Broken);
        }
        let stored = match &self.parent {
            Some(parent) => self.difference(&parent.base_located),
            None => self.index.clone(),
        };
        let chunks_new = self.sink.records();
        let (mut parts, new) = self.index_parts(&stored);
        if let Some(index) = new {
            let (root, encoded) = index.encode().map_err(PushError::Index)?;
            if self.catalogue.index(&root).is_none() {
                append_index(&mut self.sink, root, &encoded, self.shared.zstd_level)?;
            }
            parts.push(IndexPart { root, index: Arc::new(index) });
        }
        let roots: Vec<IndexRoot> = parts.iter().map(|part| part.root).collect();
        let sink = std::mem::replace(
            &mut self.sink,
            PackSink::new(self.shared.disk.clone(), self.shared.layout.temporaries(), self.key.clone()),
        );
        let packs = sink.finish()?;
        // While the manifest is made.
        packs.iter().for_each(FinishedPack::begin_sync);
        let base_packs = self.parent.as_ref().map(|parent| &parent.base_packs);
        let new: Vec<PackRef> = packs.iter().map(|pack| pack.reference).collect();
        let shared = packs.iter().flat_map(|pack| pack.directory.owners()).collect();
        let listed = list_packs(&self.catalogue, base_packs, &stored, &roots, &new, &shared);
        let manifest = self.describe(roots, listed)?;
        sync_packs(&packs)?;
        let report = self.publish(manifest, packs, chunks_new)?;
        self.leave(report.snapshot, parts, &new);
        Ok(report)
    }

    /// What this snapshot has that another one has not.
    fn difference(&self, other: &Located) -> SnapshotIndex {
        let chunks = |region: &Region| other.named(&region.name, &self.catalogue);
        difference(self.regions.iter().map(|region| (region, chunks(region))), &self.index)
    }

    /// The parts of the parent's index that are the new one's too, and what is to be stored besides.
    fn index_parts(&self, stored: &SnapshotIndex) -> (Vec<IndexPart>, Option<SnapshotIndex>) {
        let Some(parent) = &self.parent else { return (Vec::new(), Some(stored.clone())) };
        // A region of another size has lost what lay outside, of which the parent's parts may speak.
        if parent.regions != self.regions {
            return extend(Vec::new(), stored.clone());
        }
        let change = self.difference(&parent.located);
        match extend(parent.parts.clone(), change) {
            // Without what is as in the base again.
            (kept, Some(_)) if kept.is_empty() => extend(kept, stored.clone()),
            extended => extended,
        }
    }

    /// Leaves to the next push what it would have to read.
    fn leave(self, snapshot: SnapshotId, parts: Vec<IndexPart>, new: &[PackRef]) {
        let Self { shared, service, parent, mut catalogue, index, regions, .. } = self;
        // A base's own index is read again once.
        let Some(parent) = parent else { return };
        if catalogue.add(&shared, new).is_err() {
            return;
        }
        if let Ok(located) = Located::new(&index, |_, _, chunk| catalogue.number(chunk).ok_or(())) {
            let parent = Parent { located: Arc::new(located), parts, regions, ..parent };
            shared.recents.put(service, Recent { snapshot, parent, catalogue });
        }
    }

    fn describe(&self, indexes: Vec<IndexRoot>, packs: Vec<PackRef>) -> Result<Manifest, PushError> {
        if packs.len() > MANIFEST_PACKS_MAX {
            return Err(PushError::TooManyPacks { service: self.service.clone() });
        }
        let kind = match &self.parent {
            Some(parent) => SnapshotKind::Delta { base: parent.base },
            None => SnapshotKind::Base { came_from: Vec::new(), held: Vec::new() },
        };
        Ok(Manifest {
            service: self.service.clone(),
            key: self.key.id(),
            term: self.term,
            origin: self.origin,
            seq: self.seq,
            time_ms: self.time_ms,
            kind,
            parents: self.parents.clone(),
            regions: self.regions.clone(),
            indexes,
            content: self.index.content_hash(&self.regions),
            first_content: None,
            packs,
        })
    }

    /// Grid positions that differ from the parent's, or that are not zero if there is none.
    fn chunks_changed(&self) -> u64 {
        let changed = |region: &Region| {
            let before =
                self.parent.iter().flat_map(|parent| parent.located.named(&region.name, &self.catalogue));
            let now = self.index.regions.get(&region.name).into_iter().flat_map(RegionIndex::chunks);
            let count = chunk_count(region.bytes);
            differing(before.take_while(|(position, _)| *position < count), now).count() as u64
        };
        self.regions.iter().map(changed).sum()
    }

    fn publish(
        &self,
        mut manifest: Manifest,
        packs: Vec<FinishedPack>,
        chunks_new: u64,
    ) -> Result<PushReport, PushError> {
        let bytes_new = packs.iter().map(|pack| pack.reference.bytes).sum();
        let chunks_changed = self.chunks_changed();
        let mut commit = self.shared.begin_commit()?;
        self.settle(&mut manifest)?;
        let mut listed = self.still_here(&manifest, &packs)?;
        let (id, encoded) = manifest.encode()?;
        let report = PushReport {
            snapshot: id,
            base: manifest.base(),
            seq: manifest.seq,
            bytes_in: manifest.bytes(),
            bytes_new,
            chunks_changed,
            chunks_new,
            packs: manifest.packs.clone(),
        };
        let mut undo = Unpublished::new(&self.shared);
        listed.extend(rename_packs(&self.shared, packs, &mut undo)?);
        write_manifests(&self.shared, std::iter::once((id, encoded.as_slice())), &mut undo)?;
        undo.keep();
        let level = self.shared.state().snapshots.get(&id).and_then(|snapshot| snapshot.level);
        let snapshot = Arc::new(Snapshot { id, manifest, encoded, level });
        add_snapshots(&mut commit, vec![snapshot], &listed)?;
        Ok(report)
    }
}
