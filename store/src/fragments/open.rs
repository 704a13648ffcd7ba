//! Opening the fragments of a store.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::ServiceName;

use super::record::State;
use super::scan::{Found, scan};
use super::settle::{drop_doubles, settle};
use super::table::{Current, Place, Shelf};
use super::{FragmentError, Fragments, Inner, kept};
use crate::disk::{Disk, DiskEntry, DiskLock};
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::store::{Shared, Store};
use crate::{BadFile, Fault, error_chain, limits};

impl Store {
    /// The fragments of this store, which this process keeps from now on, until the last handle is dropped. What an
    /// interruption has left half written is removed.
    ///
    /// # Errors
    /// [`FragmentError::Busy`] if another process keeps them; else if the disk fails.
    pub fn fragments(&self) -> Result<Fragments, FragmentError> {
        let shared = &self.shared;
        let mut known = shared.fragments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = known.upgrade() {
            return Ok(Fragments(inner));
        }
        let folder = shared.layout.fragments();
        shared.disk.create_folder(&folder).during("create", &folder)?;
        let root = shared.layout.root();
        shared.disk.sync_folder(root).during("sync", root)?;
        let lock = match shared.disk.lock(&folder) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(FragmentError::Busy { path: folder });
            }
            Err(error) => return Err(crate::commit_lock::fault(&folder, error).into()),
        };
        let inner = Arc::new(open(shared, Some(lock))?);
        *known = Arc::downgrade(&inner);
        Ok(Fragments(inner))
    }

    /// The fragments of this store as they are now, only to be looked at: another process may keep them. What it drops
    /// later is found to be gone when it is read. None if there never were any.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn look_at_fragments(&self) -> Result<Option<Fragments>, FragmentError> {
        let shared = &self.shared;
        let known = shared.fragments.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(inner) = known {
            return Ok(Some(Fragments(inner)));
        }
        if list(shared.disk.as_ref(), &shared.layout.fragments())?.is_none() {
            return Ok(None);
        }
        Ok(Some(Fragments(Arc::new(open(shared, None)?))))
    }
}

/// A file that can't be read.
pub(crate) fn bad_file(path: PathBuf, fault: &Fault) -> BadFile {
    let reason = match fault {
        Fault::Damaged { reason, .. } => reason.clone(),
        other => error_chain(other),
    };
    BadFile { path, reason }
}

/// What is in a folder; none if there is no such folder.
pub(crate) fn list(disk: &dyn Disk, folder: &std::path::Path) -> Result<Option<Vec<DiskEntry>>, Fault> {
    match disk.list(folder) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::listing(folder, error)),
    }
}

fn open(shared: &Arc<Shared>, lock: Option<Box<dyn DiskLock>>) -> Result<Inner, FragmentError> {
    let disk = shared.disk.as_ref();
    let (mut shelves, mut bad) = (BTreeMap::new(), Vec::new());
    for entry in list(disk, &shared.layout.fragments())?.unwrap_or_default() {
        let Ok(service) = ServiceName::new(&entry.name) else { continue };
        if entry.folder {
            let shelf = open_shelf(shared, &service, lock.is_some(), &mut bad)?;
            shelves.insert(service, shelf);
        }
    }
    if lock.is_some() {
        let folder = shared.layout.fragments();
        disk.sync_folder(&folder).during("sync", &folder)?;
    }
    for bad in &bad {
        tracing::warn!(path = %bad.path.display(), reason = bad.reason, "fragments are damaged");
    }
    Ok(Inner { shared: shared.clone(), shelves: Mutex::new(shelves), syncing: Mutex::default(), bad, lock })
}

fn open_shelf(
    shared: &Arc<Shared>,
    service: &ServiceName,
    keeps: bool,
    bad: &mut Vec<BadFile>,
) -> Result<Shelf, FragmentError> {
    let (disk, layout) = (shared.disk.as_ref(), &shared.layout);
    let mut shelf = Shelf::default();
    kept::read(shared, service, keeps, &mut shelf, bad)?;
    let folder = layout.fragments_of(service);
    let entries = list(disk, &folder)?.unwrap_or_default();
    let mut numbers: Vec<u32> =
        entries.iter().filter(|entry| !entry.folder).filter_map(|e| Layout::parse_segment(&e.name)).collect();
    numbers.sort_unstable();
    shelf.last_number = numbers.last().copied().unwrap_or_default();
    let mut doubles = Vec::new();
    for number in &numbers {
        let path = layout.segment(service, *number);
        // What goes wrong on the way from the disk once must not cost a segment.
        let open = |bad: &mut Vec<BadFile>| open_segment(shared, service, *number, keeps, bad);
        match open(bad).or_else(|fault| if fault.is_unreadable() { open(bad) } else { Err(fault) }) {
            // Nothing of it counts. It is gone for good, or what an earlier sync has lost might be found again.
            Ok((records, Some(_))) if records.is_empty() => {
                disk.remove(&path).during("remove", &path)?;
                shelf.current = None;
            }
            Ok((records, current)) => {
                shelf.segments.insert(*number, records.len());
                for record in records {
                    take(&mut shelf, *number, &record, &mut doubles);
                }
                shelf.current = current;
            }
            // Whoever keeps them has removed it in this moment.
            Err(fault) if fault.is_unreadable() && !keeps && disk.stamp(&path).is_err() => {}
            // It stays: what can't be read now may be readable again.
            Err(fault) if fault.is_unreadable() => {
                bad.push(bad_file(path, &fault));
                shelf.segments.insert(*number, usize::MAX);
                shelf.current = None;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    if keeps {
        // Names may be there that have not lasted.
        disk.sync_folder(&folder).during("sync", &folder)?;
        drop_doubles(shared, service, &mut shelf, doubles)?;
        find_parts(shared, service, &mut shelf)?;
    }
    Ok(shelf)
}

/// Reads a segment, and puts right what is at its end. It can be appended to if it is whole.
fn open_segment(
    shared: &Shared,
    service: &ServiceName,
    number: u32,
    keeps: bool,
    bad: &mut Vec<BadFile>,
) -> Result<(Vec<Found>, Option<Current>), Fault> {
    let path = shared.layout.segment(service, number);
    let file = shared.disk.open(&path, keeps).map_err(|error| Fault::reading(&path, error))?;
    let mut scanned = scan(&path, file.as_ref())?;
    for gap in scanned.damaged() {
        let reason = format!("what begins at byte {} is damaged", gap.start);
        bad.push(BadFile { path: path.clone(), reason });
    }
    let is_whole = scanned.damaged().next().is_none();
    if keeps {
        settle(&path, file.as_ref(), &mut scanned)?;
    }
    let current = (keeps && is_whole && scanned.end < limits::SEGMENT_BYTES).then(|| Current {
        number,
        file: file.into(),
        salt: scanned.salt,
        end: scanned.end,
        synced: scanned.synced,
        marked: scanned.marked,
    });
    let mut records = scanned.records;
    records.retain(|record| record.state < State::Dropped);
    Ok((records, current))
}

fn take(shelf: &mut Shelf, number: u32, record: &Found, doubles: &mut Vec<Place>) {
    let (key, place) = (record.header.key(), Place::of(number, record));
    if record.state == State::Aside {
        shelf.aside.push((key, place));
    } else if shelf.has(&key) {
        doubles.push(place);
    } else {
        shelf.show(key, place);
    }
}

/// Finds what came of fragments that were being received, and removes what is of use no more.
fn find_parts(shared: &Shared, service: &ServiceName, shelf: &mut Shelf) -> Result<(), Fault> {
    let (disk, layout) = (shared.disk.as_ref(), &shared.layout);
    for entry in list(disk, &layout.fragment_parts(service))?.unwrap_or_default() {
        match Layout::parse_fragment_part(&entry.name) {
            Some(id) if !shelf.names.contains_key(&id) => {
                shelf.parts.insert(id);
            }
            _ if !entry.folder => {
                let path = layout.fragment_parts(service).join(&entry.name);
                disk.remove(&path).during("remove", &path)?;
            }
            _ => {}
        }
    }
    Ok(())
}
