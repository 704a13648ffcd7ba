//! Files that are memory: guest RAM and device state. They have no name, so nothing is left of them when
//! the last process that holds them is gone, however it went.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

/// Makes an empty one. The name only shows in `/proc`.
///
/// # Errors
/// If the system has none to give.
pub(crate) fn create(name: &str) -> io::Result<File> {
    // Closed on exec: a child gets it only where it is handed over on purpose.
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// Makes one of this size, all zero and without memory behind it yet.
///
/// # Errors
/// As for [`create`].
pub(crate) fn create_sized(name: &str, bytes: u64) -> io::Result<File> {
    let file = create(name)?;
    file.set_len(bytes)?;
    Ok(file)
}
