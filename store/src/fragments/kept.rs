//! Manifests that are kept whether their packs are here or not: so that every node knows of every snapshot, and which
//! fragments are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, PoisonError};

use sustain_proto::{Manifest, PackId, PackRef, ServiceName, SnapshotId};

use super::open::{bad_file, list};
use super::table::{KeptManifest, Shelf};
use super::{FragmentError, Fragments, FragmentsFreed, Inner};
use crate::BadFile;
use crate::Fault;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::store::Shared;
use crate::sweep::read_manifest;

impl Fragments {
    /// Keeps manifests, on the disk when it returns, all of them or none that was not kept before. A delta's base comes
    /// with it, before it or after it; until then nothing of the service is dropped.
    ///
    /// # Errors
    /// If they don't decode, or the disk is full or fails.
    pub fn keep_manifests(&self, manifests: &[Vec<u8>]) -> Result<Vec<SnapshotId>, FragmentError> {
        let inner = &self.0;
        inner.must_keep()?;
        let mut given = Vec::new();
        for encoded in manifests {
            let (id, manifest) = Manifest::decode(encoded)?;
            given.push(Arc::new(KeptManifest { id, manifest, encoded: encoded.clone() }));
        }
        let ids = given.iter().map(|kept| kept.id).collect();
        let _one = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let shelves = inner.shelves();
            given.retain(|kept| {
                let shelf = shelves.get(&kept.manifest.service);
                !shelf.is_some_and(|shelf| shelf.manifests.contains_key(&kept.id))
            });
        }
        let services: BTreeSet<&ServiceName> = given.iter().map(|kept| &kept.manifest.service).collect();
        for service in &services {
            inner.make_folder_of_manifests(service)?;
        }
        for kept in &given {
            write(&inner.shared, kept)?;
        }
        for service in &services {
            let folder = inner.shared.layout.kept_manifests(service);
            inner.shared.disk.sync_folder(&folder).during("sync", &folder)?;
        }
        let mut shelves = inner.shelves();
        for kept in &given {
            let shelf = shelves.entry(kept.manifest.service.clone()).or_default();
            shelf.unreadable.remove(&kept.id);
            shelf.manifests.insert(kept.id, kept.clone());
        }
        Ok(ids)
    }

    /// The manifests that are kept of a service.
    #[must_use]
    pub fn manifests(&self, service: &ServiceName) -> Vec<Arc<KeptManifest>> {
        let shelves = self.0.shelves();
        shelves.get(service).into_iter().flat_map(|shelf| shelf.manifests.values()).cloned().collect()
    }

    /// Services of which something is kept.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceName> {
        self.0.shelves().keys().cloned().collect()
    }

    /// Packs that kept manifests list and of which there is neither a fragment here nor the pack itself.
    #[must_use]
    pub fn packs_without(&self, service: &ServiceName) -> Vec<PackRef> {
        let here: BTreeSet<_> = self.0.shared.state().packs.keys().copied().collect();
        let shelves = self.0.shelves();
        let Some(shelf) = shelves.get(service) else { return Vec::new() };
        let held: BTreeSet<_> =
            shelf.records.keys().filter(|key| key.index.is_some()).map(|key| key.pack).collect();
        let packs = shelf.manifests.values().flat_map(|kept| &kept.manifest.packs);
        let lacking = packs.filter(|pack| !held.contains(&pack.id) && !here.contains(&pack.id));
        let lacking: BTreeMap<PackId, u64> = lacking.map(|pack| (pack.id, pack.bytes)).collect();
        lacking.into_iter().map(|(id, bytes)| PackRef { id, bytes }).collect()
    }

    /// Stops keeping manifests, and drops what only they list. Their snapshots, if they are here, stay.
    ///
    /// # Errors
    /// [`FragmentError::BaseNeeded`] if a delta that stays needs one; else if the disk fails.
    pub fn release(&self, ids: &BTreeSet<SnapshotId>) -> Result<FragmentsFreed, FragmentError> {
        let inner = &self.0;
        inner.must_keep()?;
        let _one = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let going = {
            let shelves = inner.shelves();
            for kept in shelves.values().flat_map(|shelf| shelf.manifests.values()) {
                let base = kept.manifest.base().filter(|base| ids.contains(base) && !ids.contains(&kept.id));
                if let Some(base) = base {
                    return Err(FragmentError::BaseNeeded { base, delta: kept.id });
                }
            }
            going(&shelves, ids)
        };
        for (service, ids) in going {
            inner.remove_manifests(&service, &ids)?;
        }
        inner.sweep()
    }
}

/// Which manifests of each service are to go: deltas, then bases and those that can't be read.
fn going(
    shelves: &BTreeMap<ServiceName, Shelf>,
    ids: &BTreeSet<SnapshotId>,
) -> BTreeMap<ServiceName, [Vec<SnapshotId>; 2]> {
    let mut going = BTreeMap::new();
    for (service, shelf) in shelves {
        let found = ids.iter().filter(|id| shelf.manifests.contains_key(id) || shelf.unreadable.contains(id));
        let is_delta = |id: &SnapshotId| shelf.manifests.get(id).is_some_and(|k| k.manifest.base().is_some());
        let (deltas, others): (Vec<_>, Vec<_>) = found.copied().partition(is_delta);
        if !(deltas.is_empty() && others.is_empty()) {
            going.insert(service.clone(), [deltas, others]);
        }
    }
    going
}

fn write(shared: &Shared, kept: &KeptManifest) -> Result<(), Fault> {
    let temporary = TemporaryFile::create(&shared.disk, shared.layout.temporaries().join(new_name("kept")?))?;
    temporary.file().write_at(0, &kept.encoded).during("write", temporary.path())?;
    temporary.file().sync().during("sync", temporary.path())?;
    temporary.rename(&shared.layout.kept_manifest(&kept.manifest.service, &kept.id))
}

impl Inner {
    fn make_folder_of_manifests(&self, service: &ServiceName) -> Result<(), Fault> {
        if self.shelves().get(service).is_some_and(|shelf| shelf.has_manifests) {
            return Ok(());
        }
        self.make_shelf(service)?;
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        let folder = layout.kept_manifests(service);
        disk.create_folder(&folder).during("create", &folder)?;
        // It may be there without having lasted.
        let above = layout.fragments_of(service);
        disk.sync_folder(&above).during("sync", &above)?;
        self.shelves().entry(service.clone()).or_default().has_manifests = true;
        Ok(())
    }

    /// Removes files of manifests in this order, so that no delta is ever without its base.
    fn remove_manifests(&self, service: &ServiceName, going: &[Vec<SnapshotId>; 2]) -> Result<(), Fault> {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        let folder = layout.kept_manifests(service);
        for ids in going.iter().filter(|ids| !ids.is_empty()) {
            for id in ids {
                let path = layout.kept_manifest(service, id);
                match disk.remove(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome.during("remove", &path)?,
                }
                if let Some(shelf) = self.shelves().get_mut(service) {
                    shelf.manifests.remove(id);
                    shelf.unreadable.remove(id);
                }
            }
            disk.sync_folder(&folder).during("sync", &folder)?;
        }
        Ok(())
    }
}

/// Reads what is kept of a service. Who keeps it makes sure that it lasts.
pub(super) fn read(
    shared: &Shared,
    service: &ServiceName,
    keeps: bool,
    shelf: &mut Shelf,
    bad: &mut Vec<BadFile>,
) -> Result<(), Fault> {
    let folder = shared.layout.kept_manifests(service);
    let Some(entries) = list(shared.disk.as_ref(), &folder)? else { return Ok(()) };
    if keeps {
        shared.disk.sync_folder(&folder).during("sync", &folder)?;
    }
    for entry in entries {
        let Some(id) = Layout::parse_manifest(&entry.name) else { continue };
        let path = folder.join(&entry.name);
        let read = || read_manifest(shared.disk.as_ref(), &path, id);
        // What goes wrong on the way from the disk once must not make its packs uncertain.
        match read().or_else(|fault| if fault.is_unreadable() { read() } else { Err(fault) }) {
            Ok((manifest, encoded)) if manifest.service == *service => {
                shelf.manifests.insert(id, Arc::new(KeptManifest { id, manifest, encoded }));
            }
            Ok(_) => bad.push(BadFile { path, reason: "it is another service's manifest".to_owned() }),
            Err(fault) if fault.is_unreadable() => {
                shelf.unreadable.insert(id);
                bad.push(bad_file(path, &fault));
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
