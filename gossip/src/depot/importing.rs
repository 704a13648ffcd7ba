//! Making snapshots of this node's store of what has come.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{PackId, SnapshotId};
use sustain_store::{ImportError, error_chain};

use super::Depot;
use super::error::is_lasting;
use super::known::{Known, Wanted};
use crate::transport::links::lock;

impl Depot {
    /// Imports every snapshot that is to be in the store and all of whose packs are here. Which ones are new.
    pub(super) fn import_complete(&self) -> Vec<SnapshotId> {
        let _one = lock(&self.importing);
        let known = self.known();
        let complete: Vec<Wanted<'_>> = self.complete(&known);
        if complete.is_empty() {
            return Vec::new();
        }
        let mut imported = Vec::new();
        match self.import(&complete) {
            Ok(()) => imported.extend(complete.iter().map(|wanted| wanted.entry.id)),
            Err(_) if complete.len() > 1 => {
                // Bases first: deltas that come with a base which is refused are refused for that.
                let (bases, deltas): (Vec<_>, Vec<_>) =
                    complete.into_iter().partition(|wanted| wanted.base.is_none());
                for wanted in bases.into_iter().chain(deltas) {
                    match self.import(std::slice::from_ref(&wanted)) {
                        Ok(()) => imported.push(wanted.entry.id),
                        Err(error) => self.refuse(wanted.entry.id, &error),
                    }
                }
            }
            Err(error) => complete.iter().for_each(|wanted| self.refuse(wanted.entry.id, &error)),
        }
        let mut delayed = lock(&self.delayed);
        imported.iter().for_each(|id| _ = delayed.remove(id));
        imported
    }

    /// What can be imported and was not.
    fn complete<'a>(&self, known: &'a Known) -> Vec<Wanted<'a>> {
        let refused = lock(&self.refused).clone();
        let mut here: BTreeMap<PackId, bool> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut complete = Vec::new();
        for wanted in known.to_import() {
            let id = wanted.entry.id;
            if refused.contains(&id) || !seen.insert(id) || self.store.has_snapshot(&id) {
                continue;
            }
            let is_here = |id: PackId| *here.entry(id).or_insert_with(|| self.store.has_pack(&id));
            if wanted.packs().map(|pack| pack.id).all(is_here) {
                complete.push(wanted);
            }
        }
        complete
    }

    fn import(&self, wanted: &[Wanted<'_>]) -> Result<(), ImportError> {
        let mut manifests: Vec<Vec<u8>> = Vec::new();
        let mut seen = BTreeSet::new();
        for (id, manifest) in wanted.iter().flat_map(Wanted::manifests) {
            if seen.insert(id) {
                manifests.push(manifest.to_vec());
            }
        }
        self.store.import(&manifests).map(|_| ())
    }

    /// A snapshot was not imported. What is for good is not tried again; both are said once.
    fn refuse(&self, id: SnapshotId, error: &ImportError) {
        let why = error_chain(error);
        if is_lasting(error) {
            if lock(&self.refused).insert(id) {
                tracing::warn!(snapshot = %id, why, "a snapshot is not what its packs hold: it is not imported here");
            }
        } else if lock(&self.delayed).insert(id) {
            tracing::warn!(snapshot = %id, why, "a snapshot is not imported for now");
        }
    }

    /// Says of a whole pack whether it is here so that it counts: a snapshot in the store lists it; or it is here, and
    /// nothing that lists it is to be in the store.
    pub(super) fn settled<'a>(&'a self, known: &'a Known) -> impl Fn(&PackId) -> bool + 'a {
        let listed = self.store.packs_listed();
        move |pack| {
            let is_awaited = || known.listing(pack).any(|(catalog, entry, _)| known.is_whole(catalog, entry));
            listed.contains(pack) || (self.store.has_pack(pack) && !is_awaited())
        }
    }

    /// A snapshot that keeps a pack from counting, if that is for good: nothing else that lists it may be imported.
    pub(super) fn refused_for(&self, known: &Known, pack: &PackId) -> Option<SnapshotId> {
        let refused = lock(&self.refused);
        let whole = known.listing(pack).filter(|(catalog, entry, _)| known.is_whole(catalog, entry));
        let mut ids = whole.map(|(_, entry, _)| entry.id);
        let first = ids.next().filter(|id| refused.contains(id))?;
        ids.all(|id| refused.contains(&id)).then_some(first)
    }
}
