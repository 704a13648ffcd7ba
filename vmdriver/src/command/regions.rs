//! The files of a snapshot, as regions.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use sustain_proto::limits::{REGION_BYTES_MAX, REGIONS_MAX};
use sustain_proto::{Region, RegionName};
use sustain_store::{FileSource, RegionSource, RestoreTarget};

use super::error::ProgramError;
use crate::disk::Stamp;

/// A file of a snapshot.
#[derive(Debug)]
pub(super) struct RegionFile {
    pub(super) name: RegionName,
    pub(super) source: FileSource,
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl RegionFile {
    fn open(name: RegionName, path: PathBuf) -> Result<Self, ProgramError> {
        let refused = |reason: String| ProgramError::Region { path: path.clone(), reason };
        let file = open(&path).map_err(|error| refused(error.to_string()))?;
        let stamp = file.metadata().map(|metadata| Stamp::of(&metadata));
        let stamp = stamp.map_err(|error| refused(error.to_string()))?;
        let source = file.try_clone().and_then(FileSource::from_file);
        let source = source.map_err(|error| refused(error.to_string()))?;
        if source.bytes() > REGION_BYTES_MAX {
            return Err(refused(format!("it has {} bytes, at most {REGION_BYTES_MAX} fit", source.bytes())));
        }
        Ok(Self { name, source, path, file, stamp })
    }

    /// After it was read: whether it was the same file with the same bytes all the time.
    pub(super) fn check_unchanged(&self) -> Result<(), ProgramError> {
        match self.file.metadata() {
            Ok(metadata) if Stamp::of(&metadata) == self.stamp => Ok(()),
            _ => {
                let reason = "it changed while it was read, after `snapshot` had ended".to_owned();
                Err(ProgramError::Region { path: self.path.clone(), reason })
            }
        }
    }
}

/// The files in a snapshot's folder, in order. Anything but plain files with names of regions in a folder is refused:
/// a link could lead to a file of the host that is nobody's business.
pub(super) fn list(folder: &Path) -> Result<Vec<RegionFile>, ProgramError> {
    let unreadable =
        |source: io::Error| ProgramError::Folder { doing: "read", path: folder.to_owned(), source };
    // Held open, so that all are of one folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let mut regions = Vec::new();
    let mut found = 0;
    for entry in fs::read_dir(format!("/proc/self/fd/{}", held.as_raw_fd())).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        found += 1;
        if found > REGIONS_MAX {
            break;
        }
        let name = entry.file_name().to_string_lossy().parse::<RegionName>();
        let name = name.map_err(|error| ProgramError::Region {
            path: folder.join(entry.file_name()),
            reason: error.to_string(),
        })?;
        regions.push(RegionFile::open(name, entry.path()).map_err(|error| named(error, folder))?);
    }
    if found == 0 || found > REGIONS_MAX {
        return Err(ProgramError::Regions { path: folder.to_owned(), found, max: REGIONS_MAX });
    }
    regions.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(regions)
}

/// The error with the name by which the user knows the file.
fn named(error: ProgramError, folder: &Path) -> ProgramError {
    match error {
        ProgramError::Region { path, reason } => {
            ProgramError::Region { path: folder.join(path.file_name().unwrap_or_default()), reason }
        }
        other => other,
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe without a writer must not wait for one.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
}

/// What is in the folder, and when each file was touched last; the same again if no file was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks(BTreeMap<OsString, (u64, u64, i64, i64)>);

impl Marks {
    pub(super) fn of(folder: &Path) -> Result<Self, ProgramError> {
        let unreadable = |source| ProgramError::Folder { doing: "read", path: folder.to_owned(), source };
        let mut marks = BTreeMap::new();
        // One more than may be there is one more than is looked at.
        for entry in fs::read_dir(folder).map_err(unreadable)?.take(REGIONS_MAX + 1) {
            let entry = entry.map_err(unreadable)?;
            let found = entry.metadata().map_err(unreadable)?;
            marks.insert(entry.file_name(), (found.ino(), found.len(), found.ctime(), found.ctime_nsec()));
        }
        Ok(Self(marks))
    }
}

/// The folder that a snapshot is restored into.
#[derive(Debug)]
pub(super) struct FolderTarget {
    folder: PathBuf,
    complete: AtomicBool,
}

impl FolderTarget {
    /// Restores into this folder, which is there and empty.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, complete: AtomicBool::new(false) }
    }

    /// Whether all regions are there.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

impl RestoreTarget for FolderTarget {
    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        self.complete.store(false, Ordering::Release);
        // Not synced ever: should this machine fail, the snapshot is restored on another one.
        let path = self.folder.join(region.name.as_str());
        File::options().read(true).write(true).create(true).truncate(true).open(path).map(Some)
    }

    fn finish(&self) -> io::Result<()> {
        self.complete.store(true, Ordering::Release);
        Ok(())
    }

    fn abandon(&self) {
        self.complete.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(make: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state"), b"good").unwrap();
        make(folder.path());
        list(folder.path()).unwrap_err().to_string()
    }

    #[test]
    fn only_plain_files_with_names_of_regions_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list(folder.path()).unwrap_err().to_string().contains("left 0 files"));
        fs::write(folder.path().join("state"), b"bytes").unwrap();
        fs::write(folder.path().join("empty"), b"").unwrap();
        let sizes: Vec<_> = list(folder.path())
            .unwrap()
            .iter()
            .map(|file| (file.name.to_string(), file.source.bytes()))
            .collect();
        assert_eq!(sizes, [("empty".to_owned(), 0), ("state".to_owned(), 5)]);

        let link = folder.path().join("linked");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(list(&link).is_err(), "a link to a folder is none");
        fs::remove_file(link).unwrap();
        assert!(refusal(|at| fs::write(at.join("State"), b"").unwrap()).contains("'S' is not allowed"));
        assert!(refusal(|at| fs::create_dir(at.join("folder")).unwrap()).contains("no plain file"));
        assert!(
            refusal(|at| std::os::unix::fs::symlink("/etc/passwd", at.join("link")).unwrap())
                .contains("link")
        );
        let pipe = |at: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, at.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
        };
        assert!(refusal(|at| pipe(at).unwrap()).contains("no plain file"));
        let many =
            |at: &Path| (0..REGIONS_MAX).for_each(|n| fs::write(at.join(format!("r{n}")), b"").unwrap());
        assert!(refusal(many).contains("left 33 files"));
        let large = |at: &Path| File::create(at.join("large")).unwrap().set_len(REGION_BYTES_MAX + 1);
        let folder = tempfile::tempdir().unwrap();
        // Not every file system has files that large.
        if large(folder.path()).is_ok() {
            assert!(refusal(|at| large(at).unwrap()).contains("at most"));
        }
    }
}
