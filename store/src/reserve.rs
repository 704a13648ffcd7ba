//! A little room that is kept for a full disk: what makes space needs some to note what it has done.
//!
//! A file of random bytes, since some file systems store others in no room. It is given up when a process can't be
//! registered or a commit that drops something can't be written, and made again by an opening that finds room.

use crate::disk::Disk;
use crate::layout::Layout;
use crate::{ErrorKind, Fault, limits};

/// Makes the file if it is missing or short, as a power cut may leave it. One that finds no room is left out. The
/// caller holds the commit lock.
pub(crate) fn keep(disk: &dyn Disk, layout: &Layout) {
    let path = layout.reserve();
    if disk.stamp(&path).is_ok_and(|found| found.bytes < limits::RESERVE_BYTES as u64) {
        // A new one: the name may be a link to somebody's file.
        let _ = disk.remove(&path);
    }
    // A part of one is of no less use than none.
    let Ok(file) = disk.create(&path) else { return };
    let mut bytes = vec![0; limits::RESERVE_BYTES];
    if getrandom::fill(&mut bytes).is_err() || file.write_at(0, &bytes).is_err() {
        let _ = disk.remove(&path);
    }
}

/// Does something, and once more without the reserve if the disk is full.
pub(crate) fn with_reserve<T>(
    disk: &dyn Disk,
    layout: &Layout,
    mut work: impl FnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    match work() {
        Err(fault) if fault.kind() == ErrorKind::NoSpace && disk.remove(&layout.reserve()).is_ok() => work(),
        outcome => outcome,
    }
}
