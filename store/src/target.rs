//! Where a restore writes to: files, one a region.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sustain_proto::{Region, RegionName};

/// Gives the file for each region.
pub trait RestoreTarget: Sync {
    /// A file to fill at fixed offsets. The store empties it, sets its length (see
    /// [`RestoreTarget::is_blank`]) and leaves holes for zeros.
    /// None: this region is not wanted, and is left out.
    ///
    /// # Errors
    /// If there is no file for this region.
    fn open(&self, region: &Region) -> io::Result<Option<File>>;

    /// Whether the file that [`RestoreTarget::open`] gives for this region has its length already and nothing
    /// but zeros in it, so that the store leaves both alone: a file that is mapped may not shrink.
    fn is_blank(&self, region: &Region) -> bool {
        let _ = region;
        false
    }

    /// All regions are complete and verified.
    ///
    /// # Errors
    /// If they can't be made visible; the restore then fails.
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    /// The restore failed: what was written is worth nothing.
    fn abandon(&self) {}
}

/// Writes `DIR/<region>`, all or nothing: files get their names when all are complete and synced.
#[derive(Debug)]
pub struct DirectoryTarget {
    folder: PathBuf,
    open: Mutex<BTreeMap<RegionName, (PathBuf, File)>>,
}

impl DirectoryTarget {
    /// Restores into this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: Mutex::new(BTreeMap::new()) }
    }

    fn temporary(&self, name: &RegionName) -> PathBuf {
        // A dot can't begin a region's name, so this can't be another region's file; the process id
        // keeps two restores into one folder apart.
        self.folder.join(format!(".{name}.{}.part", std::process::id()))
    }

    fn take(&self) -> BTreeMap<RegionName, (PathBuf, File)> {
        std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RestoreTarget for DirectoryTarget {
    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.folder)?;
        let place = self.folder.join(region.name.as_str());
        if place.is_dir() {
            let reason = format!("{} is a folder", place.display());
            return Err(io::Error::new(io::ErrorKind::IsADirectory, reason));
        }
        let path = self.temporary(&region.name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let kept = file.try_clone()?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(region.name.clone(), (path, kept));
        Ok(Some(file))
    }

    fn finish(&self) -> io::Result<()> {
        let open = self.take();
        let result = publish(&self.folder, &open);
        if result.is_err() {
            remove(&open);
        }
        result
    }

    fn abandon(&self) {
        remove(&self.take());
    }
}

impl Drop for DirectoryTarget {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn publish(folder: &Path, open: &BTreeMap<RegionName, (PathBuf, File)>) -> io::Result<()> {
    for (_, file) in open.values() {
        file.sync_all()?;
    }
    for (name, (path, _)) in open {
        fs::rename(path, folder.join(name.as_str()))?;
    }
    File::open(folder)?.sync_all()
}

fn remove(open: &BTreeMap<RegionName, (PathBuf, File)>) {
    for (path, _) in open.values() {
        // Nothing better can be done about a file that can't be removed.
        let _ = fs::remove_file(path);
    }
}
