//! What is done with the end of a segment of which nobody knows whether it is on the disk, when its keeper is gone.

use std::path::Path;

use sustain_proto::ServiceName;

use super::record::{STATE_AT, State};
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
    let doubtful = scanned.records.iter().position(|record| record.place >= scanned.synced);
    let doubtful = scanned.records.split_off(doubtful.unwrap_or(scanned.records.len()));
    let mut changed = false;
    let mut whole = Vec::new();
    for mut record in doubtful {
        if record.state >= State::Dropped {
            whole.push(record);
            continue;
        }
        match check_record(path, file, &record) {
            Ok(()) => {
                rewrite(path, file, &record)?;
                changed = true;
            }
            Err(Fault::Damaged { .. }) => {
                write_state(path, file, record.place, State::Aside)?;
                record.state = State::Aside;
                changed = true;
            }
            Err(fault) => return Err(fault),
        }
        whole.push(record);
    }
    // Of a power cut in the middle of writing, the last ones are damaged.
    while whole.last().is_some_and(|record| record.state == State::Aside) {
        let Some(record) = whole.pop() else { break };
        scanned.end = record.place;
        scanned.marked = false;
    }
    scanned.records.append(&mut whole);
    if scanned.bytes > scanned.end && scanned.damaged.is_empty() {
        file.set_bytes(scanned.end).during("cut", path)?;
        changed = true;
    }
    if changed {
        file.sync().during("sync", path)?;
    }
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
        // Without a sync: whoever finds it again drops it again.
        write_state(&path, file.as_ref(), place.at, State::Dropped)?;
        shelf.release(place.segment);
    }
    Ok(())
}
