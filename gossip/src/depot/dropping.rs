//! Dropping parts: what this node is to hold no more.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{PackId, ServiceName, SnapshotId};

use super::known::Known;
use super::{Depot, DepotError};
use crate::keeper::{Part, Which};
use crate::transport::links::lock;

impl Depot {
    /// Drops parts, whether they are synced, coming, or neither. A whole pack that a snapshot in the store lists goes
    /// when the store lets the snapshot go by its own rules; or now, with the snapshot, if catalogs list that and this
    /// node is to hold fragments of it instead.
    pub(crate) fn drop_parts(&self, parts: &[Part]) -> Result<(), DepotError> {
        let (mut whole, mut fragments) = (BTreeSet::new(), BTreeSet::new());
        for part in parts {
            let coming = lock(&self.coming).remove(part);
            if let Some(receiver) = coming {
                receiver.discard();
            }
            lock(&self.appended).remove(part);
            lock(&self.waiting).remove(part);
            lock(&self.synced).remove(part);
            self.lists.forget(part);
            match part.which {
                Which::Whole => _ = whole.insert(part.pack),
                Which::Fragment(index) => _ = fragments.insert((part.pack, index)),
            }
        }
        self.forget_sheets(parts.iter().map(|part| part.pack));
        if !fragments.is_empty() {
            self.drop_fragments(&fragments)?;
        }
        if !whole.is_empty() {
            self.drop_whole(whole)?;
        }
        Ok(())
    }

    fn drop_fragments(&self, fragments: &BTreeSet<(PackId, u8)>) -> Result<(), DepotError> {
        for service in self.fragments.services() {
            self.fragments.discard(&service, fragments)?;
        }
        Ok(())
    }

    fn drop_whole(&self, packs: BTreeSet<PackId>) -> Result<(), DepotError> {
        self.store.discard_received(&packs)?;
        lock(&self.dropped).extend(packs);
        self.let_go()
    }

    /// Has the store let go of snapshots all of whose packs were dropped.
    pub(super) fn let_go(&self) -> Result<(), DepotError> {
        let known = self.known();
        let mut dropped = lock(&self.dropped);
        dropped.retain(|pack| self.store.has_pack(pack) && known.pack(pack).is_some());
        for (service, snapshots) in to_let_go(&known, &dropped) {
            self.store.let_go(&service, &snapshots, self.me)?;
        }
        // Those that came for what is still to come, too.
        self.store.discard_received(&dropped)?;
        dropped.retain(|pack| self.store.has_pack(pack));
        Ok(())
    }

    /// A pack is wanted again.
    pub(super) fn no_longer_dropped(&self, pack: &PackId) {
        lock(&self.dropped).remove(pack);
    }
}

/// Snapshots that catalogs list and this node is not to have in its store any more, all of whose own packs were
/// dropped.
fn to_let_go(known: &Known, dropped: &BTreeSet<PackId>) -> BTreeMap<ServiceName, BTreeSet<SnapshotId>> {
    let mut going: BTreeMap<ServiceName, BTreeSet<SnapshotId>> = BTreeMap::new();
    let mut stays = BTreeSet::new();
    for catalog in known.catalogs() {
        for entry in &catalog.entries {
            let is_dropped =
                !entry.packs.is_empty() && entry.packs.iter().all(|pack| dropped.contains(&pack.id));
            if known.is_whole(catalog, entry) || !is_dropped {
                stays.insert(entry.id);
            } else {
                going.entry(catalog.service.clone()).or_default().insert(entry.id);
            }
        }
    }
    // Another line may say otherwise.
    going.values_mut().for_each(|snapshots| snapshots.retain(|id| !stays.contains(id)));
    going.retain(|_, snapshots| !snapshots.is_empty());
    going
}
