//! Planning a rebase: which snapshots stay, and the new generation in the making.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sustain_proto::limits::CAME_FROM_MAX;
use sustain_proto::{ChunkId, IndexRoot, Lineage, PackId, PackRef, SnapshotId, SnapshotKind};

use crate::generation::{Whole, with_base};
use crate::pack_writer::FinishedPack;
use crate::publish::sync_packs;
use crate::rebase::RebaseError;
use crate::rewrite::{chunks_of, write_base_packs};
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::{Fault, Progress};

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
    /// The promoted snapshot as it was: its chunks are the new base's.
    pub(crate) whole: Whole,
    pub(crate) base: Arc<Snapshot>,
    pub(crate) in_base: HashSet<ChunkId>,
    /// Old ids and what they became, the base among them.
    pub(crate) described: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// What was written for the new generation's deltas, and where.
    pub(crate) written: HashMap<ChunkId, PackRef>,
    pub(crate) indexes: BTreeMap<IndexRoot, PackRef>,
    pub(crate) packs: Vec<FinishedPack>,
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
        Ok(Self {
            in_base: chunks_of(&whole.index),
            whole,
            base,
            described,
            written: HashMap::new(),
            indexes: BTreeMap::new(),
            packs,
            synced: 0,
        })
    }

    /// Describes snapshots that were not yet, oldest first, against the new base.
    pub(crate) fn extend(
        &mut self,
        shared: &Shared,
        state: &State,
        snapshots: &[Arc<Snapshot>],
        progress: &dyn Progress,
    ) -> Result<(), RebaseError> {
        for old in snapshots {
            if !self.described.contains_key(&old.id) {
                let (base, old) = with_base(state, old)?;
                let old = Whole::load(shared, &base, &old)?;
                let new = self.rewrite(shared, &old, progress)?;
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
        let promoted = self.whole.snapshot.id;
        let kept = std::iter::once(promoted).chain(snapshots.iter().map(|snapshot| snapshot.id));
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

fn describe_base(whole: &Whole, packs: Vec<PackRef>) -> Result<Arc<Snapshot>, RebaseError> {
    let old = &whole.snapshot;
    let mut came_from = vec![old.id];
    came_from.extend(old.came_from());
    came_from.truncate(CAME_FROM_MAX);
    let (index_root, _) = whole.index.encode().map_err(RebaseError::Index)?;
    let mut manifest = old.manifest.clone();
    manifest.kind = SnapshotKind::Base { came_from };
    manifest.indexes = vec![index_root];
    manifest.packs = packs;
    let (id, encoded) = manifest.encode()?;
    Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.level }))
}
