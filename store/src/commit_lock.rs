//! The commit lock: whoever holds it is the only one to change what is visible, among threads and processes. It is
//! held for a commit and never for an operation, and goes with its process.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::disk::{Disk, DiskLock};
use crate::{Fault, limits};

/// Locks the store's folder once nobody else has it.
pub(crate) fn lock_folder(
    disk: &dyn Disk,
    folder: &Path,
    patience: Duration,
) -> Result<Box<dyn DiskLock>, Fault> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(50);
    loop {
        match disk.lock(folder) {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(fault(folder, error)),
        }
        if started.elapsed() >= patience {
            return Err(Fault::Busy { path: folder.to_owned(), process: disk.lock_holder(folder) });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(limits::LOCK_POLL_MAX);
    }
}

/// What it means that a lock can't be had, other than that somebody has it.
pub(crate) fn fault(path: &Path, source: io::Error) -> Fault {
    use rustix::io::Errno;
    // As network file systems answer: flock(2), and EBADF for those that emulate it by locks of open files.
    let none = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::BADF];
    if none.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) {
        return Fault::NoLocks { path: path.to_owned(), source };
    }
    Fault::Disk { doing: "lock", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::disk::RealDisk;

    #[test]
    fn who_holds_the_lock_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let held = RealDisk.lock(folder.path()).unwrap();
        let busy = lock_folder(&RealDisk, folder.path(), Duration::from_millis(20)).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().contains(&format!("process {}", std::process::id())), "{busy}");
        drop(held);
        lock_folder(&RealDisk, folder.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_one_that_fails() {
        let code = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let said = fault(Path::new("/s"), code(rustix::io::Errno::NOLCK)).to_string();
        assert!(said.contains("no locks"), "{said}");
        assert!(matches!(fault(Path::new("/s"), code(rustix::io::Errno::IO)), Fault::Disk { .. }));
    }
}
