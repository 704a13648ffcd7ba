//! What is done with the end of a segment of which nobody knows whether it is on the disk, when its keeper is gone.

use std::path::Path;

use sustain_proto::ServiceName;

use super::record::{Header, RECORD_HEADER_BYTES, STATE_AT, State};
use super::scan::{Found, Scanned};
use super::table::{Place, Shelf};
use crate::Fault;
use crate::disk::DiskFile;
use crate::error::DiskContext;
use crate::fragments::reader::check_record;
use crate::store::Shared;

/// Cuts off what was not written whole. What was is written once more: it may be in the system's memory only, and a
/// sync that has failed before would not fail again.
pub(super) fn settle(path: &Path, file: &dyn DiskFile, scanned: &mut Scanned) -> Result<(), Fault> {
    let is_known = |record: &Found| record.place < scanned.synced;
    let known = scanned.records.iter().take_while(|record| is_known(record)).count();
    let mut doubtful = scanned.records.split_off(known);
    for record in doubtful.iter_mut().filter(|record| record.state < State::Dropped) {
        // What goes wrong on the way from the disk once must not cost a record.
        match check_record(path, file, record).or_else(|_| check_record(path, file, record)) {
            Ok(()) => rewrite(path, file, record)?,
            Err(fault) if fault.is_unreadable() => record.state = State::Aside,
            Err(fault) => return Err(fault),
        }
    }
    let gaps = scanned.gaps.iter().filter(|gap| gap.start >= scanned.synced).cloned();
    let gaps: Vec<_> = gaps.collect();
    if doubtful.is_empty() && scanned.bytes == scanned.end {
        return Ok(());
    }
    // Of a power cut in the middle of writing, the last ones are damaged.
    let whole = doubtful.iter().rposition(|record| record.state != State::Aside).map_or(0, |last| last + 1);
    doubtful.truncate(whole);
    if !(doubtful.is_empty() && scanned.marked) {
        let end = doubtful.last().or(scanned.records.last()).map_or(scanned.synced, Found::end);
        (scanned.end, scanned.marked) = (end.max(scanned.synced), false);
    }
    for record in doubtful.iter().filter(|record| record.state == State::Aside) {
        write_state(path, file, record.place, State::Aside)?;
    }
    for gap in gaps.iter().filter(|gap| gap.end <= scanned.end) {
        // Something was to be here, and is not: the next one to read this is not to look for it.
        let bytes = (gap.end - gap.start).saturating_sub(RECORD_HEADER_BYTES as u64);
        let mark = Header::mark(scanned.synced, bytes).encode(scanned.salt, gap.start);
        file.write_at(gap.start, &mark).during("write", path)?;
    }
    scanned.records.append(&mut doubtful);
    if scanned.bytes > scanned.end && scanned.damaged().next().is_none() {
        file.set_bytes(scanned.end).during("cut", path)?;
    }
    file.sync().during("sync", path)?;
    scanned.synced = scanned.synced.max(scanned.end);
    Ok(())
}

/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;

fn rewrite(path: &Path, file: &dyn DiskFile, record: &Found) -> Result<(), Fault> {
    let mut buffer = Vec::new();
    let mut at = record.place;
    while at < record.end() {
        let part = (record.end() - at).min(COPY_BYTES);
        buffer.resize(part as usize, 0);
        file.read_at(at, &mut buffer).map_err(|error| Fault::reading(path, error))?;
        file.write_at(at, &buffer).during("write", path)?;
        at += part;
    }
    Ok(())
}

/// Writes what became of a record into its header. The caller syncs.
pub(super) fn write_state(path: &Path, file: &dyn DiskFile, place: u64, state: State) -> Result<(), Fault> {
    file.write_at(place + STATE_AT as u64, &[state.byte()]).during("write", path)
}

/// Drops records of what is here twice, as after a failed sync.
pub(super) fn drop_doubles(
    shared: &Shared,
    service: &ServiceName,
    shelf: &mut Shelf,
    doubles: Vec<Place>,
) -> Result<(), Fault> {
    for place in doubles {
        let path = shared.layout.segment(service, place.segment);
        let file = shared.disk.open(&path, true).during("open", &path)?;
        write_state(&path, file.as_ref(), place.at, State::Dropped)?;
        // Or it would be found again when the other one was dropped.
        file.sync().during("sync", &path)?;
        shelf.release(place.segment);
    }
    Ok(())
}
