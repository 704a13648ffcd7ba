//! Reading a segment: which records it has, where it ends, and what in it is damaged. Changes nothing.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::record::{
    ALIGNMENT, Header, Kind, RECORD_HEADER_BYTES, RECORD_MAGIC, SEGMENT_HEADER_BYTES, Salt, State,
    read_segment_header,
};
use crate::Fault;
use crate::disk::DiskFile;

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) place: u64,
    pub(crate) header: Header,
    pub(crate) state: State,
}

impl Scanned {
    /// Gaps in what was on the disk once: it is damaged. Other gaps were never acknowledged.
    pub(crate) fn damaged(&self) -> impl Iterator<Item = &Range<u64>> {
        self.gaps.iter().filter(|gap| gap.start < self.synced)
    }
}

impl Found {
    pub(crate) fn end(&self) -> u64 {
        self.place + self.header.record_bytes()
    }
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) salt: Salt,
    /// Fragments and sheets, in the order of their places.
    pub(crate) records: Vec<Found>,
    /// All bytes before this place were on the disk once.
    pub(crate) synced: u64,
    /// Where the last record ends: what is behind it was not whole.
    pub(crate) end: u64,
    /// Whether a mark says of all of it that it was on the disk.
    pub(crate) marked: bool,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Places where something was and can't be read, though what is behind them can.
    pub(crate) gaps: Vec<Range<u64>>,
}

/// What is read at a time when a record is looked for.
const SEARCH_BYTES: usize = 1 << 20;

/// Reads the headers of a segment.
pub(crate) fn scan(path: &Path, file: &dyn DiskFile) -> Result<Scanned, Fault> {
    let reading = |error| Fault::reading(path, error);
    let bytes = file.bytes().map_err(reading)?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    file.read_at(0, &mut header).map_err(reading)?;
    let salt = read_segment_header(&header).map_err(|reason| Fault::damaged(path, reason))?;
    let start = SEGMENT_HEADER_BYTES as u64;
    let mut scanned = Scanned {
        salt,
        records: Vec::new(),
        synced: start,
        end: start,
        marked: true,
        bytes,
        gaps: Vec::new(),
    };
    let mut at = start;
    while at < bytes {
        let record = match read_record(file, salt, at, bytes).map_err(reading)? {
            Some(record) => record,
            None => match search(file, salt, at, bytes).map_err(reading)? {
                Some(record) => {
                    scanned.gaps.push(at..record.place);
                    record
                }
                None => break,
            },
        };
        at = record.end();
        scanned.end = at;
        scanned.synced = scanned.synced.max(record.header.synced.min(record.place));
        scanned.marked = record.header.kind == Kind::Mark;
        if !scanned.marked {
            scanned.records.push(record);
        }
    }
    Ok(scanned)
}

/// The record at a place, if there is one and the file has all of it.
fn read_record(file: &dyn DiskFile, salt: Salt, place: u64, bytes: u64) -> io::Result<Option<Found>> {
    if bytes - place < RECORD_HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut header = [0; RECORD_HEADER_BYTES];
    file.read_at(place, &mut header)?;
    let found = Header::decode(salt, place, &header);
    Ok(found.map(|(header, state)| Found { place, header, state }).filter(|found| found.end() <= bytes))
}

/// The next record behind a place where there is none.
fn search(file: &dyn DiskFile, salt: Salt, from: u64, bytes: u64) -> io::Result<Option<Found>> {
    let mut buffer = Vec::new();
    let mut at = from + ALIGNMENT;
    while bytes.saturating_sub(at) >= RECORD_HEADER_BYTES as u64 {
        let length = (bytes - at).min(SEARCH_BYTES as u64) as usize;
        buffer.resize(length, 0);
        file.read_at(at, &mut buffer)?;
        let last = length - RECORD_HEADER_BYTES;
        for start in (0..=last).step_by(ALIGNMENT as usize) {
            // Most places are no record's by their first bytes.
            if !buffer[start..].starts_with(&RECORD_MAGIC) {
                continue;
            }
            let found = read_record(file, salt, at + start as u64, bytes)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        at += (last as u64 / ALIGNMENT + 1) * ALIGNMENT;
    }
    Ok(None)
}
