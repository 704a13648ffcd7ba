//! The disk as the store sees it: few calls, so that tests can fail or cut the power at any of them.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskEntry {
    /// Its name, without the folder. Names that are no UTF-8 are never the store's and are left out.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes, if it is a file.
    pub bytes: u64,
}

/// Which file a name stands for, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskStamp {
    /// The file's number. No other file has it while this one has a name or is open.
    pub number: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keeps a file or folder locked as long as it lives, and no longer than its process.
pub trait DiskLock: Debug + Send + Sync {}

/// Every way in which the store touches its files.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder and those above it; it may exist.
    ///
    /// # Errors
    /// As the system says.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// What is in a folder, in no particular order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>>;

    /// Makes a file that may not exist yet, readable by its owner only.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file, to read and if so wanted to write.
    ///
    /// # Errors
    /// ENXIO if it is a pipe, a socket or a device, of which none is waited for; else as the system says.
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder survive a power cut.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder, which must be empty.
    ///
    /// # Errors
    /// As the system says.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    /// Which file has this name now.
    ///
    /// # Errors
    /// As the system says.
    fn stamp(&self, path: &Path) -> io::Result<DiskStamp>;

    /// Locks a file or folder against other processes and other handles.
    ///
    /// # Errors
    /// `WouldBlock` if somebody holds it, and as for [`Disk::open`].
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// The process that holds a lock, if that can be told.
    fn lock_holder(&self, path: &Path) -> Option<u32>;
}

/// An open file. Usable from several threads.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Debug + Send + Sync {
    /// Its number, as in [`DiskStamp`].
    ///
    /// # Errors
    /// As the system says.
    fn number(&self) -> io::Result<u64>;

    /// Its size.
    ///
    /// # Errors
    /// As the system says.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of the buffer at this offset.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// As the system says.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Makes these bytes zeros and their room free, as far as the file system can: one that can't leaves them.
    ///
    /// # Errors
    /// As the system says.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Makes its bytes survive a power cut.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealLock {
    // Closing the file frees the lock, also when the process is killed.
    _locked: File,
}

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // A file may vanish between the listing and this.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            entries.push(DiskEntry { name, folder: metadata.is_dir(), bytes: metadata.len() });
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(open_here(path, write)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        open_here(path, false)?.sync_all()
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<DiskStamp> {
        let metadata = fs::metadata(path)?;
        Ok(DiskStamp { number: metadata.ino(), bytes: metadata.len() })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = open_here(path, false)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _locked: file }))
    }

    fn lock_holder(&self, path: &Path) -> Option<u32> {
        let number = fs::metadata(path).ok()?.ino();
        holder_in(&fs::read_to_string("/proc/locks").ok()?, number)
    }
}

/// Opens a file or folder. Of pipes, the other end is not waited for, and nothing is done with what is neither.
fn open_here(path: &Path, write: bool) -> io::Result<File> {
    let open =
        |flags: OFlags| File::options().read(true).write(write).custom_flags(flags.bits() as i32).open(path);
    let file = match open(OFlags::NONBLOCK) {
        // Somebody has a lease on a file (fcntl(2)), which is taken from him while this waits.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => open(OFlags::empty())?,
        outcome => outcome?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() { Ok(file) } else { Err(rustix::io::Errno::NXIO.into()) }
}

/// The process that holds the flock on the file of this number, from the system's list: proc_locks(5). Devices are not
/// compared, as some file systems give another one there than by `stat`.
fn holder_in(locks: &str, number: u64) -> Option<u32> {
    let holds = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, file, ..] = words.as_slice() else { return None };
        let same = file.rsplit(':').next().and_then(|text| text.parse().ok()) == Some(number);
        process.parse().ok().filter(|process| same && *process > 0)
    };
    locks.lines().find_map(holds)
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn number(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.ino())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        if bytes == 0 {
            return Ok(());
        }
        match fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_told() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 78 fe:00:5 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 79 fe:00:6 0 EOF\n";
        assert_eq!(holder_in(locks, 5), Some(78));
        assert_eq!((holder_in(locks, 6), holder_in(locks, 7)), (None, None), "one that waits holds nothing");
        let folder = tempfile::tempdir().unwrap();
        let lock = RealDisk.lock(folder.path()).unwrap();
        assert_eq!(RealDisk.lock(folder.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(RealDisk.lock_holder(folder.path()), Some(std::process::id()));
        drop(lock);
        assert_eq!(RealDisk.lock_holder(folder.path()), None);
    }
}
