//! A store on a read-only file system can be read: what opening would put right on the disk is put right in memory.
//!
//! Every call goes to the disk first. Only what that refuses as read-only happens here, and only while the store is
//! being opened: afterwards the refusals are passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskStamp};
use crate::limits;

/// The number of files in memory. One replaces one on the disk once, and is then replaced by none.
const IN_MEMORY: u64 = u64::MAX;

/// What differs from the disk below.
#[derive(Debug, Default)]
struct Shadow {
    /// Files that are written to in memory; none is one that counts as removed.
    files: BTreeMap<PathBuf, Option<MemoryFile>>,
    folders: BTreeSet<PathBuf>,
}

/// A disk that makes up for being read-only until it is sealed.
#[derive(Debug)]
pub(crate) struct Lenient {
    below: Arc<dyn Disk>,
    shadow: Mutex<Shadow>,
    sealed: Arc<AtomicBool>,
}

impl Lenient {
    pub(crate) fn over(below: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { below, shadow: Mutex::default(), sealed: Arc::default() })
    }

    /// The store is open: from now on nothing changes that does not change on the disk.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    fn shadow(&self) -> MutexGuard<'_, Shadow> {
        self.shadow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this outcome is to be made up for.
    fn refused<T>(&self, outcome: &io::Result<T>) -> bool {
        let read_only =
            outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem);
        read_only && !self.sealed.load(Ordering::Acquire)
    }

    fn keep(&self, path: &Path, bytes: Vec<u8>) -> Box<dyn DiskFile> {
        let file = MemoryFile { bytes: Arc::new(Mutex::new(bytes)), sealed: self.sealed.clone() };
        self.shadow().files.insert(path.to_owned(), Some(file.clone()));
        Box::new(file)
    }
}

impl Disk for Lenient {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let outcome = self.below.create_folder(path);
        if !self.refused(&outcome) {
            return outcome;
        }
        self.shadow().folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        let outcome = self.below.list(folder);
        let shadow = self.shadow();
        let mut entries = match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound && shadow.folders.contains(folder) => {
                Vec::new()
            }
            outcome => outcome?,
        };
        entries.retain(|entry| !shadow.files.contains_key(&folder.join(&entry.name)));
        for (path, file) in shadow.files.iter().filter(|(path, _)| path.parent() == Some(folder)) {
            if let (Some(file), Some(name)) = (file, path.file_name().and_then(|name| name.to_str())) {
                entries.push(DiskEntry { name: name.to_owned(), folder: false, bytes: file.bytes()? });
            }
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let in_memory = path.parent().is_some_and(|folder| self.shadow().folders.contains(folder));
        let outcome = if in_memory { Err(rustix::io::Errno::ROFS.into()) } else { self.below.create(path) };
        if self.refused(&outcome) { Ok(self.keep(path, Vec::new())) } else { outcome }
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        match self.shadow().files.get(path) {
            Some(Some(file)) => return Ok(Box::new(file.clone())),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {}
        }
        let outcome = self.below.open(path, write);
        if !write || !self.refused(&outcome) {
            return outcome;
        }
        let file = self.below.open(path, false)?;
        let bytes = file.bytes()?;
        if bytes > limits::READ_ONLY_COPY_BYTES_MAX {
            return outcome;
        }
        let mut copy = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_at(0, &mut copy)?;
        Ok(self.keep(path, copy))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut shadow = self.shadow();
        if let Some(file) = shadow.files.remove(from) {
            shadow.files.insert(to.to_owned(), file);
            return Ok(());
        }
        drop(shadow);
        self.below.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if let Some(file) = self.shadow().files.get_mut(path) {
            return file.take().map(drop).ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let outcome = self.below.remove(path);
        if !self.refused(&outcome) {
            return outcome;
        }
        self.below.open(path, false)?;
        self.shadow().files.insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let outcome = self.below.sync_folder(path);
        if self.refused(&outcome) || self.shadow().folders.contains(path) { Ok(()) } else { outcome }
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if self.shadow().folders.remove(path) { Ok(()) } else { self.below.remove_folder(path) }
    }

    fn stamp(&self, path: &Path) -> io::Result<DiskStamp> {
        match self.shadow().files.get(path) {
            Some(Some(file)) => Ok(DiskStamp { number: IN_MEMORY, bytes: file.bytes()? }),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => self.below.stamp(path),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        match self.shadow().files.get(path) {
            // Nobody else knows of it.
            Some(Some(_)) => Ok(Box::new(NoLock)),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => self.below.lock(path),
        }
    }

    fn lock_holder(&self, path: &Path) -> Option<u32> {
        self.below.lock_holder(path)
    }
}

/// On a file that is in memory only.
#[derive(Debug)]
struct NoLock;

impl DiskLock for NoLock {}

/// A file that is written to in memory, while the store is being opened.
#[derive(Debug, Clone)]
struct MemoryFile {
    bytes: Arc<Mutex<Vec<u8>>>,
    sealed: Arc<AtomicBool>,
}

impl MemoryFile {
    fn all(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All bytes, to be changed, and a place in them as an index.
    fn change(&self, place: u64) -> io::Result<(MutexGuard<'_, Vec<u8>>, usize)> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if place > limits::READ_ONLY_COPY_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok((self.all(), usize::try_from(place).map_err(io::Error::other)?))
    }
}

impl DiskFile for MemoryFile {
    fn number(&self) -> io::Result<u64> {
        Ok(IN_MEMORY)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.all().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let all = self.all();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buf.len()).and_then(|end| all.get(start..end));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let (mut all, end) = self.change(offset.saturating_add(buf.len() as u64))?;
        if all.len() < end {
            all.resize(end, 0);
        }
        all[end - buf.len()..end].copy_from_slice(buf);
        Ok(())
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let (mut all, length) = self.change(bytes)?;
        all.resize(length, 0);
        Ok(())
    }

    fn punch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        if self.sealed.load(Ordering::Acquire) {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }
}
