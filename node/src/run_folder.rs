//! The folder of a node's VMs: their disks, sockets and logs. It belongs to one node at a time.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Keeps other nodes out of the folder: at its start, a node removes the disks that it finds there.
#[derive(Debug)]
pub(crate) struct RunFolder {
    // Closing the file frees the lock, also when the process is killed.
    _folder: File,
}

impl RunFolder {
    /// Makes the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// Of kind [`io::ErrorKind::ResourceBusy`] if another node has it; else as the system says.
    pub(crate) fn lock(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let folder = File::open(path)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: folder }),
            Err(Errno::WOULDBLOCK) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another node keeps its VMs there"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DaemonError;

    /// The second node with the same `run` folder removed the disk under the first one's running VM.
    #[test]
    fn a_run_folder_belongs_to_one_node_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = RunFolder::lock(&path).unwrap();
        let source = RunFolder::lock(&path).unwrap_err();
        let refused =
            DaemonError::Bind { doing: "take the folder", what: path.display().to_string(), source };
        // As for a store that another program holds.
        assert_eq!(refused.exit_code(), 11);
        drop(first);
        RunFolder::lock(&path).unwrap();
    }
}
