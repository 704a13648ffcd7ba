//! A generation in the making: its base, and what is described against it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sustain_proto::limits::CAME_FROM_MAX;
use sustain_proto::{
    ChunkId, Held, IndexRoot, KeyId, PackId, PackRef, SnapshotId, SnapshotIndex, SnapshotKind,
};

use crate::generation::{Whole, with_base};
use crate::new_names::{NewNames, change_key};
use crate::pack_writer::FinishedPack;
use crate::publish::sync_packs;
use crate::rebase_error::RebaseError;
use crate::rewrite::{BasePacks, Effort, chunks_of, write_base_packs};
use crate::service_key::ServiceKey;
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::{Fault, Progress};

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

/// A generation in the making: its base, and what was described against it so far. Nothing is visible yet.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The snapshot whose chunks are the base's: the promoted one as it was, or the base itself if that is there.
    pub(crate) whole: Whole,
    /// What its chunks are called under the generation's key.
    pub(crate) names: NewNames,
    pub(crate) base: Arc<Snapshot>,
    pub(crate) in_base: HashSet<ChunkId>,
    /// Old ids and what they became, the base among them if it is new.
    pub(crate) described: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// What was written for the generation's deltas, and where.
    pub(crate) written: HashMap<ChunkId, PackRef>,
    pub(crate) indexes: BTreeMap<IndexRoot, PackRef>,
    pub(crate) packs: Vec<FinishedPack>,
    /// How many of the packs are synced.
    synced: usize,
}

impl Draft {
    /// Writes the packs of the new base, which takes long, and describes it. All of it is sealed under this key.
    pub(crate) fn begin(
        shared: &Shared,
        state: &State,
        promoted: &Arc<Snapshot>,
        key: ServiceKey,
        held: Vec<Held>,
        effort: &Effort<'_>,
    ) -> Result<Self, RebaseError> {
        let (base, snapshot) = with_base(shared, state, promoted)?;
        let whole = Whole::load(shared, &base, &snapshot)?;
        let names = NewNames::under(key);
        let BasePacks { mut listed, packs, index } = write_base_packs(shared, &whole, &names, effort)?;
        listed.extend(packs.iter().map(|pack| pack.reference));
        let base = describe_base(&whole, &index, names.key().id(), listed, held)?;
        let described = BTreeMap::from([(promoted.id, base.clone())]);
        Ok(Self { described, packs, ..Self::against(whole, names, base) })
    }

    /// For adding to the generation of a base that is here.
    pub(crate) fn onto(shared: &Shared, base: &Arc<Snapshot>) -> Result<Self, RebaseError> {
        let names = NewNames::under(shared.keys.find(base.manifest.key)?);
        Ok(Self::against(Whole::load(shared, base, base)?, names, base.clone()))
    }

    fn against(whole: Whole, names: NewNames, base: Arc<Snapshot>) -> Self {
        Self {
            in_base: chunks_of(&whole, &names),
            whole,
            names,
            base,
            described: BTreeMap::new(),
            written: HashMap::new(),
            indexes: BTreeMap::new(),
            packs: Vec::new(),
            synced: 0,
        }
    }

    /// Describes snapshots that were not yet, oldest first, against the base.
    pub(crate) fn extend(
        &mut self,
        shared: &Shared,
        state: &State,
        snapshots: &[Arc<Snapshot>],
        progress: &dyn Progress,
    ) -> Result<(), RebaseError> {
        for old in snapshots {
            if !self.described.contains_key(&old.id) {
                let (base, old) = with_base(shared, state, old)?;
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

    /// The new base, if it is new, and these snapshots, which were all described. Packs for others, which are gone
    /// meanwhile, are left out.
    pub(crate) fn finish(mut self, snapshots: &[Arc<Snapshot>]) -> Plan {
        let planned = self.planned(snapshots);
        let listed: BTreeSet<PackId> =
            planned.iter().flat_map(|p| p.new.manifest.packs.iter().map(|pack| pack.id)).collect();
        self.packs.retain(|pack| listed.contains(&pack.reference.id));
        Plan { snapshots: planned, packs: self.packs }
    }

    /// What [`finish`](Self::finish) yields.
    pub(crate) fn planned(&self, snapshots: &[Arc<Snapshot>]) -> Vec<Planned> {
        let promoted = self.whole.snapshot.id;
        let kept = std::iter::once(promoted).chain(snapshots.iter().map(|snapshot| snapshot.id));
        let new = |old| self.described.get(&old).map(|new| Planned { old, new: new.clone() });
        kept.filter_map(new).collect()
    }
}

fn describe_base(
    whole: &Whole,
    index: &SnapshotIndex,
    key: KeyId,
    packs: Vec<PackRef>,
    held: Vec<Held>,
) -> Result<Arc<Snapshot>, RebaseError> {
    let old = &whole.snapshot;
    let mut came_from = vec![old.id];
    came_from.extend(old.came_from());
    came_from.truncate(CAME_FROM_MAX);
    let (index_root, _) = index.encode().map_err(RebaseError::Index)?;
    let mut manifest = old.manifest.clone();
    change_key(&mut manifest, key, index);
    manifest.kind = SnapshotKind::Base { came_from, held };
    manifest.indexes = vec![index_root];
    manifest.packs = packs;
    let (id, encoded) = manifest.encode()?;
    Ok(Arc::new(Snapshot { id, manifest, encoded, level: old.level }))
}
