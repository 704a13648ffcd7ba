//! Where a restore writes to: files, one a region.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat};
use sustain_proto::{Region, RegionName};

use crate::write_back::WriteBack;

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
///
/// Until then they have no names at all, so that nothing stays behind when the process is killed. On file systems that
/// know no unnamed files they have hidden names, and the next restore of such a region removes those whose owner is
/// gone.
#[derive(Debug)]
pub struct DirectoryTarget {
    folder: PathBuf,
    open: Mutex<Open>,
}

/// What is on its way.
#[derive(Debug, Default)]
struct Open {
    parts: BTreeMap<RegionName, Part>,
    write_back: WriteBack,
}

/// A file on its way to its name.
#[derive(Debug)]
struct Part {
    /// Locked as long as somebody writes to it.
    file: File,
    /// Its hidden name, if it has one.
    path: Option<PathBuf>,
}

impl DirectoryTarget {
    /// Restores into this folder, which is made if need be.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: Mutex::default() }
    }

    fn take(&self) -> Open {
        std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A region's hidden name. A dot can't begin a region's name, so this can't be another region's file; the process id
/// keeps two restores into one folder apart.
fn hidden(folder: &Path, name: &RegionName) -> PathBuf {
    folder.join(format!(".{name}.{}.part", std::process::id()))
}

/// Removes hidden files of a region that nobody writes to any more.
fn remove_stale(folder: &Path, name: &RegionName) -> io::Result<()> {
    let prefix = format!(".{name}.");
    for entry in fs::read_dir(folder)? {
        let entry = entry?.file_name();
        let process = entry.to_str().and_then(|entry| entry.strip_prefix(&prefix)?.strip_suffix(".part"));
        let gone = |id: u32| !Path::new(&format!("/proc/{id}")).exists();
        if process.is_some_and(|id| id.parse().is_ok_and(gone)) {
            let path = folder.join(&entry);
            // The process may be of another container: whoever writes holds the lock, and the kernel frees it at the
            // end of the process, however that comes.
            let free = File::open(&path)
                .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            if free {
                let _ = fs::remove_file(path);
            }
        }
    }
    Ok(())
}

/// The name by which the kernel knows an open file of this process.
fn own_name(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A file without a name; none if the file system has no such thing.
fn unnamed(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok()?);
    // Without this it could not be given a name later.
    Path::new(&own_name(&file)).exists().then_some(file)
}

impl RestoreTarget for DirectoryTarget {
    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.folder)?;
        let place = self.folder.join(region.name.as_str());
        if place.is_dir() {
            let reason = format!("{} is a folder", place.display());
            return Err(io::Error::new(io::ErrorKind::IsADirectory, reason));
        }
        remove_stale(&self.folder, &region.name)?;
        let part = match unnamed(&self.folder) {
            Some(file) => Part { file, path: None },
            None => {
                let path = hidden(&self.folder, &region.name);
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
                Part { file, path: Some(path) }
            }
        };
        flock(&part.file, FlockOperation::NonBlockingLockExclusive)?;
        let [file, again] = [part.file.try_clone()?, part.file.try_clone()?];
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.parts.insert(region.name.clone(), part);
        open.write_back.add(again);
        Ok(Some(file))
    }

    fn finish(&self) -> io::Result<()> {
        let Open { mut parts, mut write_back } = self.take();
        let result = write_back.end().and_then(|()| publish(&self.folder, &mut parts));
        if result.is_err() {
            remove(&parts);
        }
        result
    }

    fn abandon(&self) {
        remove(&self.take().parts);
    }
}

impl Drop for DirectoryTarget {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn publish(folder: &Path, open: &mut BTreeMap<RegionName, Part>) -> io::Result<()> {
    for part in open.values() {
        part.file.sync_all()?;
    }
    for (name, part) in &mut *open {
        if part.path.is_none() {
            // By way of a hidden name, as a link can't replace a file.
            let path = hidden(folder, name);
            let _ = fs::remove_file(&path);
            linkat(CWD, own_name(&part.file), CWD, &path, AtFlags::SYMLINK_FOLLOW)?;
            part.path = Some(path);
        }
    }
    for (name, part) in &mut *open {
        if let Some(path) = part.path.take() {
            fs::rename(path, folder.join(name.as_str()))?;
        }
    }
    File::open(folder)?.sync_all()
}

fn remove(open: &BTreeMap<RegionName, Part>) {
    for path in open.values().filter_map(|part| part.path.as_ref()) {
        // Nothing better can be done about a file that can't be removed.
        let _ = fs::remove_file(path);
    }
}
