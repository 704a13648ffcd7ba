//! Fragments on their way in, group by group, in any order and from any number of peers at once. What came survives the
//! process: each group is compared with the list before it counts, also what an earlier process wrote.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{FragmentId, GroupList, ServiceName};

use super::append::{Appended, Record, named};
use super::{FragmentError, Fragments, Inner, StoredSheet};
use crate::disk::DiskFile;
use crate::error::DiskContext;
use crate::{Fault, Received, limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Lacking,
    Written,
    Here,
}

/// A file with the groups of a fragment that have come. Dropping it keeps the file.
pub(super) struct Part {
    inner: Arc<Inner>,
    service: ServiceName,
    id: FragmentId,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    list: GroupList,
    groups: Mutex<Vec<Group>>,
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(shelf) = self.inner.shelves().get_mut(&self.service) {
            shelf.receiving.remove(&self.id);
        }
    }
}

impl Part {
    /// Opens the file of a fragment, with what has come of it.
    pub(super) fn open(
        inner: &Arc<Inner>,
        service: &ServiceName,
        id: FragmentId,
        list: GroupList,
    ) -> Result<Self, FragmentError> {
        inner.must_keep()?;
        inner.claim(service, id)?;
        let path = inner.shared.layout.fragment_part(service, &id);
        let opened = match inner.shared.disk.open(&path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => inner.shared.disk.create(&path),
            outcome => outcome,
        };
        let file = match opened.during("open", &path) {
            Ok(file) => file,
            Err(fault) => {
                if let Some(shelf) = inner.shelves().get_mut(service) {
                    shelf.receiving.remove(&id);
                }
                return Err(fault.into());
            }
        };
        let groups = Mutex::new(vec![Group::Lacking; list.count()]);
        let part = Self { inner: inner.clone(), service: service.clone(), id, path, file, list, groups };
        part.look()?;
        Ok(part)
    }

    /// Finds out which groups are here.
    fn look(&self) -> Result<(), FragmentError> {
        let here = self.file.bytes().during("measure", &self.path)?;
        let mut buffer = vec![0; GROUP_BYTES as usize];
        for (number, group) in self.lock().iter_mut().enumerate() {
            let range = self.list.range(number);
            if range.end > here {
                break;
            }
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            // What can't be read comes again.
            if self.file.read_at(range.start, buffer).is_ok() && self.list.verify(number, buffer) {
                *group = Group::Here;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> FragmentId {
        self.id
    }

    pub(super) fn here(&self) -> Vec<bool> {
        self.lock().iter().map(|group| *group == Group::Here).collect()
    }

    /// Whether all groups that a range touches are here.
    pub(super) fn has(&self, range: &std::ops::Range<u64>) -> bool {
        let groups = (range.start / GROUP_BYTES) as usize..range.end.div_ceil(GROUP_BYTES) as usize;
        self.lock().get(groups).is_some_and(|groups| groups.iter().all(|group| *group == Group::Here))
    }

    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.file.read_at(offset, buf).map_err(|error| Fault::reading(&self.path, error))
    }

    pub(super) fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, FragmentError> {
        if self.lock().get(group) == Some(&Group::Here) {
            return Ok(Received::Known);
        }
        if !self.list.verify(group, bytes) {
            return Ok(Received::Wrong);
        }
        match self.lock().get_mut(group) {
            Some(state @ Group::Lacking) => *state = Group::Written,
            _ => return Ok(Received::Known),
        }
        let written = self.file.write_at(self.list.range(group).start, bytes);
        if let Some(state) = self.lock().get_mut(group) {
            *state = if written.is_ok() { Group::Here } else { Group::Lacking };
        }
        written.during("write", &self.path)?;
        Ok(Received::New)
    }

    fn lacking(&self) -> usize {
        self.lock().iter().filter(|group| **group != Group::Here).count()
    }

    /// Removes the file.
    pub(super) fn remove(&self) {
        // What stays is removed by a sweep.
        if self.inner.shared.disk.remove(&self.path).is_ok() {
            if let Some(shelf) = self.inner.shelves().get_mut(&self.service) {
                shelf.parts.remove(&self.id);
            }
        }
    }
}

/// A fragment on its way in. Dropping it keeps what came: who receives it again goes on from there.
pub struct FragmentReceiver {
    pub(super) part: Arc<Part>,
    sheet: StoredSheet,
    index: u8,
}

impl fmt::Debug for FragmentReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragmentReceiver").field("fragment", &self.part.id).finish_non_exhaustive()
    }
}

impl Fragments {
    /// Begins to receive a fragment whose groups are known, or goes on where somebody has stopped, be it an earlier
    /// process.
    ///
    /// # Errors
    /// If the sheet does not name it, the list is another piece's, it is being received already, or the disk fails.
    pub fn receive(
        &self,
        sheet: StoredSheet,
        index: u8,
        list: GroupList,
    ) -> Result<FragmentReceiver, FragmentError> {
        let id = named(&sheet, index)?;
        if list.root() != id.as_bytes()
            || list.bytes() != sheet.sheet.cut.fragment_bytes(sheet.sheet.pack.bytes)
        {
            return Err(FragmentError::Wrong { id });
        }
        let part = Part::open(&self.0, &sheet.sheet.service, id, list)?;
        Ok(FragmentReceiver { part: Arc::new(part), sheet, index })
    }
}

impl Fragments {
    /// Removes what came of fragments that nobody receives at present.
    pub fn remove_incoming(&self) {
        self.0.remove_parts();
    }
}

impl FragmentReceiver {
    /// Whether each group is here.
    #[must_use]
    pub fn here(&self) -> Vec<bool> {
        self.part.here()
    }

    /// Takes a group, if its bytes are the right ones. From several threads, in any order.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, FragmentError> {
        self.part.write(group, bytes)
    }

    /// The list of its groups.
    #[must_use]
    pub fn list(&self) -> &GroupList {
        &self.part.list
    }

    /// Its number among the fragments of its pack.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Whether all of it is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.part.lacking() == 0
    }

    /// Fills the buffer from this offset, if all groups that it touches are here. Whether they are.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, FragmentError> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.part.list.bytes());
        let is_here = end.is_some_and(|end| self.part.has(&(offset..end)));
        if is_here {
            self.part.read_at(offset, buf)?;
        }
        Ok(is_here)
    }

    /// Removes what came: nobody wants it any more.
    pub fn discard(&self) {
        self.part.remove();
    }

    /// Appends it to a segment. It is held when that was synced. May be repeated.
    ///
    /// # Errors
    /// If groups are lacking, or the disk is full or fails.
    pub fn finish(&self) -> Result<Appended, FragmentError> {
        let groups = self.part.lacking();
        if groups > 0 {
            return Err(FragmentError::Incomplete { groups });
        }
        let read = |offset: u64, buf: &mut [u8]| self.part.read_at(offset, buf);
        self.part.inner.append(&Record {
            sheet: &self.sheet,
            index: Some(self.index),
            list: Some(&self.part.list),
            read: &read,
            from_part: true,
        })
    }
}

impl Inner {
    /// Makes this the only one to receive a fragment here.
    fn claim(&self, service: &ServiceName, id: FragmentId) -> Result<(), FragmentError> {
        let mut shelves = self.shelves();
        if !shelves.contains_key(service) {
            self.make_shelf(service)?;
        }
        let folder = self.shared.layout.fragment_parts(service);
        self.shared.disk.create_folder(&folder).during("create", &folder)?;
        let shelf = shelves.entry(service.clone()).or_default();
        if !shelf.receiving.insert(id) {
            return Err(FragmentError::Receiving { id });
        }
        shelf.parts.insert(id);
        let many =
            shelves.values().map(|shelf| shelf.parts.len()).sum::<usize>() > limits::FRAGMENT_PARTS_MAX;
        drop(shelves);
        if many {
            self.remove_parts();
        }
        Ok(())
    }

    /// Removes what came of fragments that nobody receives.
    pub(super) fn remove_parts(&self) {
        for (service, shelf) in self.shelves().iter_mut() {
            let pending: BTreeSet<FragmentId> =
                shelf.pending.values().map(|pending| pending.place.fragment).collect();
            let receiving = &shelf.receiving;
            shelf.parts.retain(|id| {
                let path = self.shared.layout.fragment_part(service, id);
                receiving.contains(id) || pending.contains(id) || self.shared.disk.remove(&path).is_err()
            });
        }
    }
}
