//! Group commit: what was appended by anybody is synced together, and counts then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use sustain_proto::ServiceName;

use super::append::Appended;
use super::record::Key;
use super::table::{Pending, Shelf};
use super::{FragmentError, Fragments, Inner};
use crate::Fault;
use crate::disk::DiskFile;
use crate::error::DiskContext;
use crate::parallel::all_at_once;

/// A segment that was appended to, and where it ended when it was taken to be synced.
struct Written {
    service: ServiceName,
    number: u32,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
}

/// What one sync is about.
#[derive(Default)]
struct Batch {
    files: Vec<Written>,
    folders: Vec<PathBuf>,
    services: Vec<ServiceName>,
    pending: BTreeMap<ServiceName, BTreeMap<Key, Pending>>,
}

impl Fragments {
    /// Makes what was appended survive a power cut, whoever appended it, and counts it as held. When it returns, these
    /// are. Many fragments cost hardly more than one.
    ///
    /// # Errors
    /// If the disk fails, or has failed under another caller who has synced these.
    pub fn sync(&self, appended: &[Appended]) -> Result<(), FragmentError> {
        let inner = &self.0;
        inner.must_keep()?;
        let one = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sync_all()?;
        drop(one);
        let shelves = inner.shelves();
        let is_here = |appended: &&Appended| {
            !shelves.get(&appended.service).is_some_and(|shelf| shelf.records.contains_key(&appended.key))
        };
        match appended.iter().find(is_here) {
            Some(lost) => Err(FragmentError::NotDurable { id: lost.fragment }),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// The caller has `syncing`.
    pub(super) fn sync_all(&self) -> Result<(), Fault> {
        let batch = self.take_batch();
        let disk = self.shared.disk.as_ref();
        let outcome = all_at_once(&batch.files, |written| written.file.sync().during("sync", &written.path))
            .and_then(|()| {
                all_at_once(&batch.folders, |folder| disk.sync_folder(folder).during("sync", folder))
            });
        match outcome {
            Ok(()) => {
                self.finish(batch);
                Ok(())
            }
            Err(fault) => {
                self.give_up(&batch);
                Err(fault)
            }
        }
    }

    fn take_batch(&self) -> Batch {
        let mut batch = Batch::default();
        for (service, shelf) in self.shelves().iter_mut() {
            let pending = std::mem::take(&mut shelf.pending);
            if pending.is_empty() {
                continue;
            }
            for current in shelf.full.iter().chain(&shelf.current) {
                if current.synced < current.end && !current.marked {
                    batch.files.push(Written {
                        service: service.clone(),
                        number: current.number,
                        path: self.shared.layout.segment(service, current.number),
                        file: current.file.clone(),
                        end: current.end,
                    });
                }
            }
            // One that is made from now on is the next sync's.
            if std::mem::take(&mut shelf.new_names) {
                batch.folders.push(self.shared.layout.fragments_of(service));
            }
            batch.services.push(service.clone());
            batch.pending.insert(service.clone(), pending);
        }
        batch
    }

    fn finish(&self, batch: Batch) {
        let mut parts = Vec::new();
        let mut shelves = self.shelves();
        for Written { service, number, end, .. } in &batch.files {
            let Some(shelf) = shelves.get_mut(service) else { continue };
            for current in shelf.full.iter_mut().chain(&mut shelf.current) {
                if current.number == *number {
                    current.synced = current.synced.max(*end);
                }
            }
            for mut full in std::mem::take(&mut shelf.full) {
                if full.synced < full.end {
                    shelf.full.push(full);
                } else {
                    self.mark(service, &mut full);
                }
            }
        }
        for (service, pending) in batch.pending {
            let Some(shelf) = shelves.get_mut(&service) else { continue };
            for (key, Pending { place, from_part }) in pending {
                shelf.show(key, place);
                if from_part && shelf.parts.remove(&place.fragment) {
                    parts.push(self.shared.layout.fragment_part(&service, &place.fragment));
                }
            }
        }
        drop(shelves);
        for path in parts {
            // What stays is removed by the next opening.
            let _ = self.shared.disk.remove(&path);
        }
    }

    /// What was taken to be synced does not count.
    fn give_up(&self, batch: &Batch) {
        for service in &batch.services {
            let lost = batch.pending.get(service).into_iter().flat_map(BTreeMap::values);
            self.abandon(service, lost.map(|pending| pending.place.segment).collect());
        }
    }

    /// A sync has failed. Nobody knows what is on the disk, and a later sync of the same file would not tell: what was
    /// appended does not count, and nothing more is appended to these files. `lost` has the segments of what did not
    /// count before.
    pub(super) fn abandon(&self, service: &ServiceName, lost: Vec<u32>) {
        let mut shelves = self.shelves();
        let Some(shelf) = shelves.get_mut(service) else { return };
        shelf.new_names = true;
        let pending = std::mem::take(&mut shelf.pending);
        let lost = lost.into_iter().chain(pending.values().map(|pending| pending.place.segment));
        lost.for_each(|segment| {
            shelf.release(segment);
        });
        for left in std::mem::take(&mut shelf.full).into_iter().chain(shelf.current.take()) {
            // As far as it goes: what stays is found by the next opening, which looks at all of it.
            let _ = left.file.set_bytes(left.synced);
        }
    }

    /// What was synced is marked, so that the next opening need not look at it.
    pub(super) fn close(&self) {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        for (service, shelf) in self.shelves().iter_mut() {
            let Shelf { current, full, .. } = shelf;
            full.iter_mut().chain(current).for_each(|current| self.mark(service, current));
        }
    }
}
