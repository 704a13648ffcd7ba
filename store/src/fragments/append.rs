//! Appending: a record is written to the end of a segment. It counts when it was synced.

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{FragmentId, GroupHasher, GroupList, ServiceName};

use super::record::{Header, Key, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Salt, segment_header};
use super::scan::Found;
use super::table::{Current, Pending, Place, Shelf};
use super::{FragmentError, Fragments, Inner, StoredSheet};
use crate::error::DiskContext;
use crate::publish::{TemporaryFile, new_name};
use crate::{Fault, limits};

/// A fragment, or a sheet, that was appended. Give it to [`Fragments::sync`]; until then it does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Appended {
    pub(super) service: ServiceName,
    pub(super) key: Key,
    pub(super) fragment: FragmentId,
}

impl Appended {
    /// The fragment; of a sheet alone, one that there is not.
    #[must_use]
    pub fn fragment(&self) -> FragmentId {
        self.fragment
    }
}

/// Fills a buffer from an offset of a fragment.
pub(super) type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), Fault> + 'a;

/// What is appended.
pub(super) struct Record<'a> {
    pub(super) sheet: &'a StoredSheet,
    pub(super) index: Option<u8>,
    pub(super) list: Option<&'a GroupList>,
    /// Gives the fragment's bytes.
    pub(super) read: &'a ReadAt<'a>,
    pub(super) from_part: bool,
}

/// Fragment bytes that are read and written at a time.
const COPY_BYTES: usize = 1 << 20;

impl Fragments {
    /// Appends a fragment that is in memory.
    ///
    /// # Errors
    /// If the sheet does not name it, or the disk is full or fails.
    pub fn put(&self, sheet: &StoredSheet, index: u8, bytes: &[u8]) -> Result<Appended, FragmentError> {
        let id = named(sheet, index)?;
        let mut hasher = GroupHasher::default();
        hasher.update(bytes);
        let list = hasher.finish();
        if list.root() != id.as_bytes()
            || list.bytes() != sheet.sheet.cut.fragment_bytes(sheet.sheet.pack.bytes)
        {
            return Err(FragmentError::Wrong { id });
        }
        let read = |offset: u64, buf: &mut [u8]| {
            buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]);
            Ok(())
        };
        let (index, list) = (Some(index), Some(&list));
        self.0.append(&Record { sheet, index, list, read: &read, from_part: false })
    }

    /// Appends a pack's sheet alone, for whoever has the pack itself.
    ///
    /// # Errors
    /// If it contradicts itself, or the disk is full or fails.
    pub fn put_sheet(&self, sheet: &StoredSheet) -> Result<Appended, FragmentError> {
        check_sheet(sheet)?;
        let read = |_: u64, _: &mut [u8]| Ok(());
        self.0.append(&Record { sheet, index: None, list: None, read: &read, from_part: false })
    }
}

pub(super) fn check_sheet(sheet: &StoredSheet) -> Result<(), FragmentError> {
    sheet.sheet.check()?;
    if sheet.bytes.len() > limits::STORED_SHEET_BYTES_MAX {
        return Err(FragmentError::SheetTooLarge { bytes: sheet.bytes.len() });
    }
    Ok(())
}

/// The id of a fragment, from its sheet.
pub(super) fn named(sheet: &StoredSheet, index: u8) -> Result<FragmentId, FragmentError> {
    check_sheet(sheet)?;
    let found = sheet.sheet.fragments.get(usize::from(index));
    found.copied().ok_or(FragmentError::NoIndex { index, total: sheet.sheet.cut.total })
}

impl Inner {
    /// Appends a record, unless it is here.
    pub(super) fn append(&self, record: &Record<'_>) -> Result<Appended, FragmentError> {
        self.must_keep()?;
        let sheet = &record.sheet.sheet;
        let header = Header::of(sheet, record.index, &record.sheet.bytes, 0);
        let (service, key) = (sheet.service.clone(), header.key());
        let appended = Appended { service: service.clone(), key, fragment: header.fragment };
        let mut shelves = self.shelves();
        let count: usize = shelves.values().map(|shelf| shelf.records.len() + shelf.pending.len()).sum();
        if !shelves.contains_key(&service) {
            self.make_shelf(&service)?;
        }
        let shelf = shelves.entry(service.clone()).or_default();
        if shelf.has(&key) {
            return Ok(appended);
        }
        if count >= limits::FRAGMENTS_MAX {
            return Err(FragmentError::TooMany);
        }
        self.make_room(&service, shelf)?;
        let place = self.write(&service, shelf, header, record)?;
        shelf.pending.insert(key, Pending { place, from_part: record.from_part });
        Ok(appended)
    }

    /// Makes a service's folder, which stays.
    pub(super) fn make_shelf(&self, service: &ServiceName) -> Result<(), Fault> {
        let (disk, folder) = (self.shared.disk.as_ref(), self.shared.layout.fragments_of(service));
        disk.create_folder(&folder).during("create", &folder)?;
        let parent = self.shared.layout.fragments();
        disk.sync_folder(&parent).during("sync", &parent)
    }

    /// Begins a segment, unless there is one that has room.
    fn make_room(&self, service: &ServiceName, shelf: &mut Shelf) -> Result<(), Fault> {
        if shelf.current.as_ref().is_some_and(|current| current.end < limits::SEGMENT_BYTES) {
            return Ok(());
        }
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| Fault::Random { reason: error.to_string() })?;
        let salt = Salt(salt);
        let temporary = self.shared.layout.temporaries().join(new_name("segment")?);
        let temporary = TemporaryFile::create(&self.shared.disk, temporary)?;
        // Whole before it has its name: a segment without a header could not be read.
        temporary.file().write_at(0, &segment_header(salt)).during("write", temporary.path())?;
        temporary.file().sync().during("sync", temporary.path())?;
        let number = shelf.next_number();
        let file = temporary.share();
        temporary.rename(&self.shared.layout.segment(service, number))?;
        let end = SEGMENT_HEADER_BYTES as u64;
        let next = Current { number, file, salt, end, synced: end, marked: true };
        shelf.full.extend(shelf.current.replace(next));
        shelf.segments.insert(number, 0);
        shelf.new_names = true;
        Ok(())
    }

    fn write(
        &self,
        service: &ServiceName,
        shelf: &mut Shelf,
        header: Header,
        record: &Record<'_>,
    ) -> Result<Place, FragmentError> {
        let Some(current) = &mut shelf.current else { return Err(FragmentError::ReadOnly) };
        let path = self.shared.layout.segment(service, current.number);
        let (header, at) = (Header { synced: current.synced, ..header }, current.end);
        let found = Found { place: at, header, state: super::record::State::Here };
        let file = current.file.clone();
        let outcome = write_record(current.salt, &found, record, &mut |at, bytes| {
            file.write_at(at, bytes).during("write", &path)
        });
        if let Err(error) = outcome {
            // What was written of it is written over. If it can't be, the segment is left alone.
            if current.file.set_bytes(at).is_err() {
                shelf.current = None;
            }
            return Err(error.into());
        }
        (current.end, current.marked) = (found.end(), false);
        let number = current.number;
        *shelf.segments.entry(number).or_default() += 1;
        Ok(Place::of(number, &found))
    }

    /// The bytes of a segment's end as they are written when nothing is in doubt.
    pub(super) fn mark(&self, service: &ServiceName, current: &mut Current) {
        if current.marked || current.synced < current.end {
            return;
        }
        let mark = Header::mark(current.end, 0).encode(current.salt, current.end);
        // Without it the next opening reads the last records whole.
        if let Err(error) = current.file.write_at(current.end, &mark) {
            let path = self.shared.layout.segment(service, current.number);
            tracing::debug!(path = %path.display(), %error, "the end of a segment is not marked");
            return;
        }
        current.end += RECORD_HEADER_BYTES as u64;
        current.marked = true;
    }
}

/// Takes bytes for a place of a segment.
type WriteAt<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Fault> + 'a;

/// Writes a record's bytes, part by part, each with its place.
fn write_record(
    salt: Salt,
    found: &Found,
    record: &Record<'_>,
    write: &mut WriteAt<'_>,
) -> Result<(), Fault> {
    let mut bytes = found.header.encode(salt, found.place).to_vec();
    bytes.extend_from_slice(&record.sheet.bytes);
    record.list.into_iter().flat_map(GroupList::values).for_each(|value| bytes.extend_from_slice(value));
    let mut at = found.place;
    let fragment_bytes = found.header.fragment_bytes;
    let mut offset = 0;
    loop {
        let start = bytes.len();
        let part = (fragment_bytes - offset).min(COPY_BYTES as u64);
        bytes.resize(start + part as usize, 0);
        (record.read)(offset, &mut bytes[start..])?;
        offset += part;
        if offset == fragment_bytes {
            bytes.resize((found.end() - at) as usize, 0);
        }
        write(at, &bytes)?;
        at += bytes.len() as u64;
        bytes.clear();
        if offset == fragment_bytes {
            return Ok(());
        }
    }
}

/// A segment with a fragment and a mark, in memory.
pub(crate) fn example(
    salt: [u8; 16],
    sheet: &StoredSheet,
    index: u8,
    fragment: &[u8],
) -> Result<Vec<u8>, FragmentError> {
    named(sheet, index)?;
    let (salt, place) = (Salt(salt), SEGMENT_HEADER_BYTES as u64);
    let mut segment = segment_header(salt).to_vec();
    let mut hasher = GroupHasher::default();
    hasher.update(fragment);
    let list = hasher.finish();
    let header = Header::of(&sheet.sheet, Some(index), &sheet.bytes, place);
    let found = Found { place, header, state: super::record::State::Here };
    let read = |offset: u64, buf: &mut [u8]| {
        let start = fragment.len().min(offset as usize);
        let end = fragment.len().min(start + buf.len());
        buf[..end - start].copy_from_slice(&fragment[start..end]);
        Ok(())
    };
    let record = Record { sheet, index: Some(index), list: Some(&list), read: &read, from_part: false };
    write_record(salt, &found, &record, &mut |_, bytes| {
        segment.extend_from_slice(bytes);
        Ok(())
    })?;
    let end = found.end();
    segment.extend_from_slice(&Header::mark(end, 0).encode(salt, end));
    Ok(segment)
}

const _: () = assert!(COPY_BYTES as u64 % GROUP_BYTES == 0);
