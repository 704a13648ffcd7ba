//! Reading fragments that are held. Nothing is given out that was not compared with the fragment's id.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{GROUP_VALUE_BYTES, GroupList, ServiceName};

use super::record::{Header, Key, half_hash};
use super::scan::Found;
use super::table::Place;
use super::{FragmentError, Inner};
use crate::Fault;
use crate::disk::DiskFile;

/// A held fragment opened for reading.
pub struct FragmentReader {
    inner: Arc<Inner>,
    service: ServiceName,
    key: Key,
    place: Place,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    list: GroupList,
}

impl fmt::Debug for FragmentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragmentReader").field("fragment", &self.place.fragment).finish_non_exhaustive()
    }
}

impl FragmentReader {
    pub(super) fn open(
        inner: &Arc<Inner>,
        service: &ServiceName,
        (key, place): (Key, Place),
    ) -> Result<Self, FragmentError> {
        let path = inner.shared.layout.segment(service, place.segment);
        let opened = inner.shared.disk.open(&path, false).map_err(|error| Fault::reading(&path, error));
        let read = opened.and_then(|file| {
            let list = read_list(&path, file.as_ref(), &place.header(&key), place.at)?;
            Ok((file, list))
        });
        match read {
            Ok((file, list)) => {
                Ok(Self { inner: inner.clone(), service: service.clone(), key, place, path, file, list })
            }
            Err(fault) => Err(inner.doubt(service, (key, place), fault)),
        }
    }

    /// Bytes of the fragment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.place.fragment_bytes
    }

    /// The list of its groups, which was compared with its id.
    #[must_use]
    pub fn groups(&self) -> &GroupList {
        &self.list
    }

    /// Its number among the fragments of its pack.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.key.index.unwrap_or_default()
    }

    /// Fills the buffer from this offset, after comparing the groups that are touched with the list.
    ///
    /// # Errors
    /// If it is damaged, which sets it aside, was dropped meanwhile, or ends before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FragmentError> {
        let ends = offset.checked_add(buf.len() as u64);
        if ends.is_none_or(|end| end > self.bytes()) {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Fault::Disk { doing: "read", path: self.path.clone(), source }.into());
        }
        self.try_read(offset, buf)
            .map_err(|fault| self.inner.doubt(&self.service, (self.key, self.place), fault))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let end = offset + buf.len() as u64;
        let start = self.place.header(&self.key).fragment_at(self.place.at);
        let mut scratch = Vec::new();
        let mut at = offset;
        while at < end {
            let group = (at / GROUP_BYTES) as usize;
            let range = self.list.range(group);
            let wanted = at..end.min(range.end);
            let place = (wanted.start - offset) as usize..(wanted.end - offset) as usize;
            if wanted == range {
                // All of it is wanted: it is checked where it goes.
                read_group(&self.path, self.file.as_ref(), start, &self.list, group, &mut buf[place])?;
            } else {
                scratch.resize((range.end - range.start) as usize, 0);
                read_group(&self.path, self.file.as_ref(), start, &self.list, group, &mut scratch)?;
                let inside = (wanted.start - range.start) as usize..(wanted.end - range.start) as usize;
                buf[place].copy_from_slice(&scratch[inside]);
            }
            at = wanted.end;
        }
        Ok(())
    }
}

fn read_group(
    path: &Path,
    file: &dyn DiskFile,
    start: u64,
    list: &GroupList,
    group: usize,
    buf: &mut [u8],
) -> Result<(), Fault> {
    file.read_at(start + list.range(group).start, buf).map_err(|error| Fault::reading(path, error))?;
    if list.verify(group, buf) {
        Ok(())
    } else {
        Err(Fault::damaged(path, "a fragment is not what its id says"))
    }
}

/// Reads the list of groups of a record, and compares it with the fragment's id.
fn read_list(path: &Path, file: &dyn DiskFile, header: &Header, place: u64) -> Result<GroupList, Fault> {
    let mut bytes = vec![0; header.groups_bytes() as usize];
    file.read_at(header.groups_at(place), &mut bytes).map_err(|error| Fault::reading(path, error))?;
    let mut values = vec![[0; GROUP_VALUE_BYTES]; bytes.len() / GROUP_VALUE_BYTES];
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(GROUP_VALUE_BYTES)) {
        value.copy_from_slice(bytes);
    }
    let list = GroupList::check(*header.fragment.as_bytes(), header.fragment_bytes, values);
    list.map_err(|error| Fault::damaged(path, error))
}

/// Reads the sheet of a record.
pub(super) fn read_sheet(
    path: &Path,
    file: &dyn DiskFile,
    header: &Header,
    place: u64,
) -> Result<Vec<u8>, Fault> {
    let mut sheet = vec![0; header.sheet_bytes as usize];
    let at = header.groups_at(place) - u64::from(header.sheet_bytes);
    file.read_at(at, &mut sheet).map_err(|error| Fault::reading(path, error))?;
    if half_hash(&sheet) == header.sheet_check {
        Ok(sheet)
    } else {
        Err(Fault::damaged(path, "a sheet is not what its record's header says"))
    }
}

/// Reads all of a record. `done` is told of each part, and may stop it.
pub(super) fn check_all<E: From<Fault>>(
    path: &Path,
    file: &dyn DiskFile,
    header: &Header,
    place: u64,
    mut done: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    read_sheet(path, file, header, place)?;
    if header.key().index.is_none() {
        return done(u64::from(header.sheet_bytes));
    }
    let list = read_list(path, file, header, place)?;
    let mut buffer = vec![0; GROUP_BYTES as usize];
    for group in 0..list.count() {
        let range = list.range(group);
        let buffer = &mut buffer[..(range.end - range.start) as usize];
        read_group(path, file, header.fragment_at(place), &list, group, buffer)?;
        done(range.end - range.start)?;
    }
    Ok(())
}

/// Reads all of a record that was found.
pub(crate) fn check_record(path: &Path, file: &dyn DiskFile, record: &Found) -> Result<(), Fault> {
    check_all(path, file, &record.header, record.place, |_| Ok(()))
}
