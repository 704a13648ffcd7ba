//! What a node keeps for its cluster, on its disk: whole packs and snapshots in the store, fragments beside them, the
//! catalogs that say what they are for, and the node's claim. It does what the [keeper](crate::keeper) decides.
//!
//! ```text
//!  catalog ─▶ remember ─────────────────────────────────┐
//!  list, groups ─▶ receive ─▶ PartReceiver ─▶ sync ─▶ pack ─▶ import, when all of a snapshot is here
//!                     │  ▲                     └──▶ fragment in a segment
//!               read ◀┘  └─ make ◀─ parts
//! ```
//!
//! Everything here blocks. What [`sync`](Depot::sync) has said to be synced is here after any crash, as
//! [`Depot::open`] then says: a whole pack of a snapshot that this node is to have in its store only when a snapshot
//! that lists it is there, so that what is said to be here can be restored. What no catalog lists that is known is not
//! said to be here, and stays: of a catalog that is damaged nobody knows what it lists.

mod coming;
mod dropping;
mod entries;
mod error;
mod files;
mod importing;
mod known;
mod making;
mod reading;
mod records;
mod sheets;
mod syncing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sustain_proto::{Cut, NodeId, PackId, ServiceName, SnapshotId, Term};
use sustain_store::{Appended, Fragments, Store, StoredSheet};

use crate::keeper::{Catalog, Claim, Kept, Pack, Part, Which};
use crate::lists::Lists;
use crate::transport::links::lock;
pub(crate) use coming::{PartList, PartReceiver};
pub(crate) use error::DepotError;
use files::Folder;
use known::Known;
use records::Records;
pub(crate) use syncing::SyncReport;

/// A node's depot. One process has one.
pub(crate) struct Depot {
    me: NodeId,
    store: Store,
    fragments: Fragments,
    folder: Folder,
    known: Mutex<Arc<Known>>,
    /// Parts that are on their way in.
    coming: Mutex<BTreeMap<Part, Arc<PartReceiver>>>,
    /// Fragments that were appended, or made, and are not synced.
    appended: Mutex<BTreeMap<Part, Appended>>,
    /// Sheets of packs that are on their way in.
    sheets: Mutex<BTreeMap<PackId, StoredSheet>>,
    /// Packs that are here and wait for others of their snapshots.
    waiting: Mutex<BTreeSet<Part>>,
    /// What was said to be synced.
    synced: Mutex<BTreeSet<Part>>,
    /// Snapshots that the store does not take, whatever comes.
    refused: Mutex<BTreeSet<SnapshotId>>,
    /// Snapshots of which it was said that they are not imported for now.
    delayed: Mutex<BTreeSet<SnapshotId>>,
    /// Whole packs that were dropped and that snapshots in the store list.
    dropped: Mutex<BTreeSet<PackId>>,
    lists: Lists<Part>,
    /// One imports at a time.
    importing: Mutex<()>,
}

/// What came of taking note of a catalog.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Snapshots that were imported by that: all their packs were here.
    pub(crate) imported: Vec<SnapshotId>,
    /// Snapshots that were listed and are no more.
    pub(crate) unlisted: usize,
}

impl Depot {
    /// Opens the depot of a node: what is kept beside the store is in this folder. Snapshots all of whose packs are
    /// here are imported; then it says what is here of what the catalogs list.
    pub(crate) fn open(store: Store, me: NodeId, folder: &Path) -> Result<(Self, Kept), DepotError> {
        let folder = Folder::open(store.disk().clone(), folder)?;
        let Records { claim, catalogs, damaged } = Records::read(&folder)?;
        let fragments = store.fragments()?;
        let depot = Self {
            me,
            store,
            fragments,
            folder,
            known: Mutex::new(Arc::new(Known::new(me, &catalogs, damaged))),
            coming: Mutex::default(),
            appended: Mutex::default(),
            sheets: Mutex::default(),
            waiting: Mutex::default(),
            synced: Mutex::default(),
            refused: Mutex::default(),
            delayed: Mutex::default(),
            dropped: Mutex::default(),
            lists: Lists::default(),
            importing: Mutex::default(),
        };
        let services: BTreeSet<&ServiceName> = catalogs.iter().map(|catalog| &catalog.service).collect();
        for service in services {
            depot.count_on(service);
            depot.keep_manifests(&depot.known(), service)?;
        }
        depot.import_complete();
        let parts = depot.here();
        lock(&depot.synced).extend(parts.iter().map(|(part, _)| *part));
        Ok((depot, Kept { claim, catalogs, parts }))
    }

    /// Keeps the node's claim. It lasts when this returns.
    pub(crate) fn keep(&self, claim: &Claim) -> Result<(), DepotError> {
        records::write_claim(&self.folder, claim)
    }

    /// Keeps a line's catalog, instead of an older one. It lasts when this returns.
    pub(crate) fn remember(&self, catalog: &Arc<Catalog>) -> Result<Remembered, DepotError> {
        let (service, line) = (&catalog.service, catalog.line());
        let before = self.known();
        let known = before.with(catalog);
        // Before the catalog: fragments of packs that it lists may come as soon as it is known.
        self.keep_manifests(&known, service)?;
        records::write_catalog(&self.folder, catalog)?;
        *lock(&self.known) = Arc::new(known);
        let listed: BTreeSet<SnapshotId> = catalog.entries.iter().map(|entry| entry.id).collect();
        let entries = before.catalog(&line).into_iter().flat_map(|before| &before.entries);
        let unlisted = entries.filter(|entry| !listed.contains(&entry.id)).count();
        self.settle(service);
        Ok(Remembered { imported: self.import_complete(), unlisted })
    }

    /// Keeps a line's catalog no longer.
    pub(crate) fn forget(&self, service: &ServiceName, term: Term) -> Result<(), DepotError> {
        let line = crate::keeper::Line { service: service.clone(), term };
        records::remove_catalog(&self.folder, &line)?;
        let known = self.known().without(&line);
        *lock(&self.known) = Arc::new(known);
        self.settle(service);
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        lock(&self.known).clone()
    }

    /// After catalogs of a service have changed: what the store is to keep for them, and what need not be kept.
    fn settle(&self, service: &ServiceName) {
        self.count_on(service);
        let known = self.known();
        lock(&self.synced).retain(|part| known.pack(&part.pack).is_some());
        for snapshots in [&self.refused, &self.delayed] {
            lock(snapshots).retain(|id| known.lists(id));
        }
        if let Err(error) = self.release_manifests(service) {
            // What they list takes room until the next time.
            let error = sustain_store::error_chain(&error);
            tracing::warn!(%service, error, "manifests that are not needed stay for now");
        }
    }

    fn count_on(&self, service: &ServiceName) {
        let (snapshots, packs) = self.known().expected(service);
        self.store.expect(service, snapshots, packs);
    }

    /// Parts of packs that catalogs list and that are here and synced, with their bytes.
    fn here(&self) -> Vec<(Part, u64)> {
        let known = self.known();
        let is_settled = self.settled(&known);
        let mut parts = BTreeMap::new();
        for catalog in known.catalogs() {
            for pack in catalog.packs() {
                let whole = pack.whole();
                if !parts.contains_key(&whole) && is_settled(&pack.id) {
                    parts.insert(whole, pack.bytes);
                }
                if let Some(cut) = pack.cut {
                    let held = self.held(&catalog.service, &pack, cut);
                    parts.extend(held.map(|index| (pack.share(index), cut.fragment_bytes(pack.bytes))));
                }
            }
        }
        parts.into_iter().collect()
    }

    /// The numbers of the fragments of a pack that are held, which its sheet names.
    fn held(&self, service: &ServiceName, pack: &Pack, cut: Cut) -> impl Iterator<Item = u8> {
        let sheet = pack.sheet.unwrap_or_default();
        let held = self.fragments.of_pack(service, &pack.id).into_iter();
        held.filter(move |held| held.cut == cut && sheet.starts_with(&held.sheet_check))
            .filter_map(|held| held.index)
    }

    /// What was said to be synced and is not here any more: found to be damaged, or dropped from the store by somebody.
    /// It counts as not synced from then on.
    pub(crate) fn lost(&self) -> Vec<Part> {
        let known = self.known();
        let is_settled = self.settled(&known);
        let is_here = |part: &Part| match (part.which, known.pack(&part.pack)) {
            (_, None) => true,
            (Which::Whole, _) => is_settled(&part.pack),
            (Which::Fragment(index), Some((service, pack))) => {
                pack.cut.is_some_and(|cut| self.held(service, &pack, cut).any(|held| held == index))
            }
        };
        let mut synced = lock(&self.synced);
        let lost: Vec<Part> = synced.iter().filter(|part| !is_here(part)).copied().collect();
        lost.iter().for_each(|part| _ = synced.remove(part));
        lost
    }
}
