//! Dropping: what no kept manifest and no snapshot lists goes. First it is said in the records, and synced; then the
//! room is freed. So a power cut leaves each record whole or dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use serde::Serialize;
use sustain_proto::{PackId, ServiceName, SnapshotId};

use super::record::{Key, RECORD_HEADER_BYTES, State};
use super::settle::write_state;
use super::table::{Place, Shelf};
use super::{FragmentError, Fragments, Inner};
use crate::Fault;
use crate::error::DiskContext;
use crate::store::Store;

/// What was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FragmentsFreed {
    /// Fragments, and sheets alone.
    pub fragments: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Services of which a manifest can't be read, or a base is not known: of these nothing is taken for unneeded.
    pub uncertain: BTreeSet<ServiceName>,
}

/// What is to be dropped of a service, by segment.
type Going = BTreeMap<u32, Vec<(Key, Place)>>;

impl Fragments {
    /// Drops what no manifest lists any more that is kept here, and no snapshot of the store.
    ///
    /// # Errors
    /// If the disk fails. What was not dropped is by the next sweep.
    pub fn sweep(&self) -> Result<FragmentsFreed, FragmentError> {
        let inner = &self.0;
        inner.must_keep()?;
        let _one = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sweep()
    }

    /// Drops fragments of packs of a service, whether something lists them or not: this node is to hold other ones.
    /// Each is named by its pack and its number there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard(
        &self,
        service: &ServiceName,
        fragments: &BTreeSet<(PackId, u8)>,
    ) -> Result<FragmentsFreed, FragmentError> {
        let inner = &self.0;
        inner.must_keep()?;
        let goes = |key: &Key| key.index.is_some_and(|index| fragments.contains(&(key.pack, index)));
        let _one = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_pending = |shelf: &Shelf| shelf.pending.keys().any(goes);
        if inner.shelves().get(service).is_some_and(is_pending) {
            inner.sync_all()?;
        }
        let mut freed = FragmentsFreed::default();
        inner.drop_those(service, &goes, &mut freed)?;
        Ok(freed)
    }

    /// What a sweep would drop.
    #[must_use]
    pub fn unlisted(&self) -> FragmentsFreed {
        let inner = &self.0;
        let mut freed = FragmentsFreed::default();
        for service in self.services() {
            let Some(listed) = inner.listed(&service) else {
                freed.uncertain.insert(service);
                continue;
            };
            let shelves = inner.shelves();
            let records = shelves.get(&service).into_iter().flat_map(|shelf| &shelf.records);
            for (key, place) in records.filter(|(key, _)| !listed.contains(&key.pack)) {
                freed.fragments += 1;
                freed.bytes += place.header(key).record_bytes();
            }
        }
        freed
    }

    /// Packs that kept manifests or snapshots of a service list. None if that is uncertain.
    #[must_use]
    pub fn listed(&self, service: &ServiceName) -> Option<BTreeSet<PackId>> {
        self.0.listed(service)
    }
}

impl Store {
    /// Drops fragments that no kept manifest and no snapshot lists, or says which would go. None if there are none, or
    /// another process keeps them, which does it by itself.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sweep_fragments(&self, dry_run: bool) -> Result<Option<FragmentsFreed>, FragmentError> {
        let Some(looked) = self.look_at_fragments()? else { return Ok(None) };
        if dry_run {
            return Ok(Some(looked.unlisted()));
        }
        drop(looked);
        match self.fragments() {
            Err(FragmentError::Busy { .. }) => Ok(None),
            fragments => fragments?.sweep().map(Some),
        }
    }
}

impl Inner {
    /// The caller has `syncing`.
    pub(super) fn sweep(&self) -> Result<FragmentsFreed, FragmentError> {
        self.sync_all()?;
        let mut freed = FragmentsFreed::default();
        let services: Vec<ServiceName> = self.shelves().keys().cloned().collect();
        for service in services {
            let Some(listed) = self.listed(&service) else {
                freed.uncertain.insert(service);
                continue;
            };
            self.drop_those(&service, &|key| !listed.contains(&key.pack), &mut freed)?;
        }
        Ok(freed)
    }

    fn listed(&self, service: &ServiceName) -> Option<BTreeSet<PackId>> {
        let (snapshots, mut listed) = {
            let state = self.shared.state();
            if !self.shared.lost(&state, service).is_empty() {
                return None;
            }
            let snapshots: BTreeSet<SnapshotId> = state.snapshots.keys().copied().collect();
            (snapshots, state.listed_packs())
        };
        let shelves = self.shelves();
        let Some(shelf) = shelves.get(service) else { return Some(listed) };
        let is_known = |base: &SnapshotId| shelf.manifests.contains_key(base) || snapshots.contains(base);
        let mut bases = shelf.manifests.values().filter_map(|kept| kept.manifest.base());
        if !shelf.unreadable.is_empty() || !bases.all(|base| is_known(&base)) {
            return None;
        }
        listed.extend(shelf.manifests.values().flat_map(|kept| kept.manifest.packs.iter().map(|p| p.id)));
        Some(listed)
    }

    /// The caller has `syncing`.
    fn drop_those(
        &self,
        service: &ServiceName,
        goes: &dyn Fn(&Key) -> bool,
        freed: &mut FragmentsFreed,
    ) -> Result<(), FragmentError> {
        let (going, whole) = self.hide(service, goes);
        if going.is_empty() {
            return Ok(());
        }
        for (number, records) in &going {
            let outcome = if whole.contains(number) {
                let path = self.shared.layout.segment(service, *number);
                self.shared.disk.remove(&path).during("remove", &path)
            } else {
                self.drop_from(service, *number, records)
            };
            if let Err(fault) = outcome {
                // Files with records on their way to the disk may be among those whose sync has failed.
                self.abandon(service, Vec::new());
                return Err(fault.into());
            }
            freed.fragments += records.len();
            freed.bytes += records.iter().map(|(key, place)| place.header(key).record_bytes()).sum::<u64>();
        }
        if !whole.is_empty() {
            let folder = self.shared.layout.fragments_of(service);
            self.shared.disk.sync_folder(&folder).during("sync", &folder)?;
        }
        Ok(())
    }

    /// Takes what goes out of sight: nobody begins to read it from now on. And which segments have nothing else.
    fn hide(&self, service: &ServiceName, goes: &dyn Fn(&Key) -> bool) -> (Going, BTreeSet<u32>) {
        let (mut going, mut whole) = (Going::new(), BTreeSet::new());
        let mut shelves = self.shelves();
        let Some(shelf) = shelves.get_mut(service) else { return (going, whole) };
        let gone: Vec<Key> = shelf.records.keys().filter(|key| goes(key)).copied().collect();
        let gone = gone.into_iter().filter_map(|key| shelf.hide(&key).map(|place| (key, place)));
        let mut gone: Vec<(Key, Place)> = gone.collect();
        let Shelf { aside, records, .. } = shelf;
        // What is damaged goes also when it is here again.
        aside.retain(|(key, place)| {
            let stays = !goes(key) && !records.contains_key(key);
            if !stays {
                gone.push((*key, *place));
            }
            stays
        });
        for (key, place) in gone {
            if shelf.release(place.segment) {
                whole.insert(place.segment);
            }
            going.entry(place.segment).or_default().push((key, place));
        }
        for number in &whole {
            shelf.segments.remove(number);
            if shelf.current.as_ref().is_some_and(|current| current.number == *number) {
                shelf.current = None;
            }
        }
        (going, whole)
    }

    fn drop_from(&self, service: &ServiceName, number: u32, records: &[(Key, Place)]) -> Result<(), Fault> {
        let path = self.shared.layout.segment(service, number);
        let file = self.shared.disk.open(&path, true).during("open", &path)?;
        for (_, place) in records {
            write_state(&path, file.as_ref(), place.at, State::Dropped)?;
        }
        file.sync().during("sync", &path)?;
        for (key, place) in records {
            let body = place.at + RECORD_HEADER_BYTES as u64;
            let bytes = place.header(key).record_bytes() - RECORD_HEADER_BYTES as u64;
            file.punch(body, bytes).during("free room in", &path)?;
            // It says only that there is nothing left to be freed.
            write_state(&path, file.as_ref(), place.at, State::Free)?;
        }
        Ok(())
    }
}
