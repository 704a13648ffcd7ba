//! What the store knows, in memory: read by everybody, changed only together with the database.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{Held, Manifest, PackId, ServiceName, SnapshotId, SnapshotKind, Term};

use std::sync::Arc;

use crate::database::{Changes, Contents, without};

/// A snapshot that is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    pub(crate) manifest: Manifest,
    pub(crate) encoded: Vec<u8>,
    pub(crate) level: Option<u32>,
}

impl Snapshot {
    /// The base of its generation, which may be itself.
    pub(crate) fn generation(&self) -> SnapshotId {
        self.manifest.base().unwrap_or(self.id)
    }

    /// What its rebase kept besides what follows it.
    pub(crate) fn held(&self) -> &[Held] {
        match &self.manifest.kind {
            SnapshotKind::Base { held, .. } => held,
            SnapshotKind::Delta { .. } => &[],
        }
    }

    pub(crate) fn came_from(&self) -> &[SnapshotId] {
        match &self.manifest.kind {
            SnapshotKind::Base { came_from, .. } => came_from,
            SnapshotKind::Delta { .. } => &[],
        }
    }
}

/// Everything visible.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// Pack files that are here with the size that they should have.
    pub(crate) packs: BTreeMap<PackId, u64>,
    /// Those of them that no manifest lists yet, in the order in which they came.
    pub(crate) received: BTreeMap<PackId, u64>,
    pub(crate) aliases: BTreeMap<SnapshotId, SnapshotId>,
    /// How often it has changed.
    pub(crate) epoch: u64,
}

/// Later terms are newer, then higher numbers, then the newer generation: a base that was made of a
/// snapshot is newer than that one, and of two with the same contents, the one that was made of more.
type Order = (Term, u64, (Term, u64, usize), bool, SnapshotId);

impl State {
    /// What one commit changes. Snapshots that are new are given; those that are not, another commit has dropped since.
    pub(crate) fn change(&mut self, changes: &Changes, new: &BTreeMap<SnapshotId, Arc<Snapshot>>) {
        let Changes { remove, add } = changes;
        without(&mut self.snapshots, &remove.snapshots);
        without(&mut self.packs, &remove.packs);
        without(&mut self.received, &remove.received);
        without(&mut self.aliases, &remove.aliases);
        add.snapshots.iter().for_each(|(id, level)| self.show(*id, *level, new));
        self.packs.extend(&add.packs);
        self.received.extend(&add.received);
        self.aliases.extend(&add.aliases);
        self.epoch += 1;
    }

    /// Everything that the database holds.
    pub(crate) fn become_like(&mut self, all: &Contents, new: &BTreeMap<SnapshotId, Arc<Snapshot>>) {
        self.snapshots.retain(|id, _| all.snapshots.contains_key(id));
        all.snapshots.iter().for_each(|(id, level)| self.show(*id, *level, new));
        self.packs.clone_from(&all.packs);
        self.received.clone_from(&all.received);
        self.aliases.clone_from(&all.aliases);
        self.epoch += 1;
    }

    /// Makes a snapshot visible, which is new or has another level now.
    pub(crate) fn show(
        &mut self,
        id: SnapshotId,
        level: Option<u32>,
        new: &BTreeMap<SnapshotId, Arc<Snapshot>>,
    ) {
        let Some(snapshot) = new.get(&id).or_else(|| self.snapshots.get(&id)) else { return };
        let snapshot = if snapshot.level == level {
            snapshot.clone()
        } else {
            Arc::new(Snapshot { level, ..Snapshot::clone(snapshot) })
        };
        self.snapshots.insert(id, snapshot);
    }

    fn order(&self, snapshot: &Snapshot) -> Order {
        let manifest = &snapshot.manifest;
        let base = self.snapshots.get(&snapshot.generation()).map_or(snapshot, |base| &**base);
        let generation = (base.manifest.term, base.manifest.seq, base.came_from().len());
        (manifest.term, manifest.seq, generation, manifest.base().is_none(), snapshot.id)
    }

    /// Whether a snapshot is of an older generation than a base's.
    pub(crate) fn is_older(&self, snapshot: &Snapshot, base: &Snapshot) -> bool {
        if snapshot.generation() == base.id {
            return false;
        }
        let own = self.snapshots.get(&snapshot.generation()).map_or(snapshot, |base| &**base);
        self.order(own) < self.order(base) || base.came_from().contains(&own.id)
    }

    /// All snapshots of a service whose files are here, oldest first.
    pub(crate) fn of_service(&self, service: &ServiceName) -> Vec<Arc<Snapshot>> {
        let mut found = self.all_of_service(service);
        found.retain(|snapshot| self.is_whole(snapshot));
        found
    }

    /// All snapshots of a service, oldest first, also those of which a file is missing.
    pub(crate) fn all_of_service(&self, service: &ServiceName) -> Vec<Arc<Snapshot>> {
        let ours = self.snapshots.values().filter(|snapshot| snapshot.manifest.service == *service);
        let mut found: Vec<_> = ours.cloned().collect();
        found.sort_by_key(|snapshot| self.order(snapshot));
        found
    }

    pub(crate) fn services(&self) -> BTreeSet<ServiceName> {
        self.snapshots.values().map(|snapshot| snapshot.manifest.service.clone()).collect()
    }

    /// Whether a snapshot's base and all packs of both are here.
    pub(crate) fn is_whole(&self, snapshot: &Snapshot) -> bool {
        let here = |snapshot: &Snapshot| {
            snapshot.manifest.packs.iter().all(|pack| self.packs.get(&pack.id) == Some(&pack.bytes))
        };
        here(snapshot)
            && match snapshot.manifest.base() {
                None => true,
                Some(base) => self.snapshots.get(&base).is_some_and(|base| here(base)),
            }
    }

    /// The snapshots of a generation, its base included.
    pub(crate) fn of_generation(&self, base: SnapshotId) -> Vec<Arc<Snapshot>> {
        self.snapshots.values().filter(|snapshot| snapshot.generation() == base).cloned().collect()
    }

    /// Whether any visible snapshot lists a pack.
    pub(crate) fn lists(&self, pack: &PackId) -> bool {
        self.snapshots
            .values()
            .any(|snapshot| snapshot.manifest.packs.iter().any(|listed| listed.id == *pack))
    }

    /// The packs that any visible snapshot lists.
    pub(crate) fn listed_packs(&self) -> BTreeSet<PackId> {
        self.snapshots.values().flat_map(|s| s.manifest.packs.iter().map(|pack| pack.id)).collect()
    }

    /// Follows rebases from a former id to the snapshot that holds its contents now.
    pub(crate) fn follow(&self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        let mut at = id;
        for _ in 0..crate::limits::ALIAS_STEPS_MAX {
            if let Some(snapshot) = self.snapshots.get(&at) {
                return Some(snapshot.clone());
            }
            if let Some(base) = self.snapshots.values().find(|snapshot| snapshot.came_from().contains(&at)) {
                return Some(base.clone());
            }
            at = *self.aliases.get(&at)?;
        }
        None
    }
}
