//! Small files that are replaced whole, and synced, in a folder of their own. Each ends in a check, so that a flipped
//! bit is noticed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sustain_store::disk::{Disk, DiskFile};

use super::error::DepotError;

/// Bytes of the check: the first half of the BLAKE3 of what is before it.
const CHECK_BYTES: usize = 16;
/// The ends of the names of files that are being written, and of those that are damaged.
const NEW: &str = ".new";
const DAMAGED: &str = ".damaged";

/// The folder.
pub(super) struct Folder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// What a file holds.
pub(super) enum Found {
    /// Its bytes, without the check.
    Bytes(Vec<u8>),
    /// It is damaged, and why.
    Damaged(String),
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|at| hash.as_bytes()[at])
}

impl Folder {
    /// Opens it, or makes it. What is in it then lasts.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, DepotError> {
        let folder = Self { disk, path: path.to_owned() };
        let prepare = || {
            folder.disk.create_folder(path)?;
            if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                folder.disk.sync_folder(above)?;
            }
            for entry in folder.disk.list(path)?.iter().filter(|entry| entry.name.ends_with(NEW)) {
                folder.disk.remove(&path.join(&entry.name))?;
            }
            folder.disk.sync_folder(path)
        };
        prepare().map_err(|source| folder.failed("open", "", source))?;
        Ok(folder)
    }

    fn failed(&self, doing: &'static str, name: &str, source: io::Error) -> DepotError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        DepotError::File { doing, path, source }
    }

    /// The names of the files, and of those that were set aside.
    pub(super) fn names(&self) -> Result<(Vec<String>, Vec<String>), DepotError> {
        let entries = self.disk.list(&self.path).map_err(|source| self.failed("list", "", source))?;
        let mut names: Vec<String> =
            entries.into_iter().filter(|entry| !entry.folder).map(|entry| entry.name).collect();
        names.sort_unstable();
        let aside = names.iter().filter_map(|name| name.strip_suffix(DAMAGED).map(str::to_owned)).collect();
        names.retain(|name| !name.ends_with(DAMAGED) && !name.ends_with(NEW));
        Ok((names, aside))
    }

    /// Reads a file that may have so many bytes.
    pub(super) fn read(&self, name: &str, bytes_max: usize) -> Result<Found, DepotError> {
        let failed = |source| self.failed("read", name, source);
        let file = self.disk.open(&self.path.join(name), false).map_err(failed)?;
        let bytes = file.bytes().map_err(failed)?;
        if bytes > (bytes_max + CHECK_BYTES) as u64 {
            return Ok(Found::Damaged(format!("it has {bytes} bytes")));
        }
        let mut all = vec![0; bytes as usize];
        match file.read_at(0, &mut all) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Found::Damaged("it is cut short".to_owned()));
            }
            outcome => outcome.map_err(failed)?,
        }
        let Some((body, found)) = all.split_last_chunk::<CHECK_BYTES>() else {
            return Ok(Found::Damaged("it is cut short".to_owned()));
        };
        if check(body) != *found {
            return Ok(Found::Damaged("its check does not match".to_owned()));
        }
        all.truncate(all.len() - CHECK_BYTES);
        Ok(Found::Bytes(all))
    }

    /// Replaces a file, all or nothing. It lasts when this returns.
    pub(super) fn replace(&self, name: &str, mut bytes: Vec<u8>) -> Result<(), DepotError> {
        bytes.extend(check(&bytes));
        let new = self.path.join(format!("{name}{NEW}"));
        let write = || {
            match self.disk.remove(&new) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
            let file: Box<dyn DiskFile> = self.disk.create(&new)?;
            file.write_at(0, &bytes)?;
            file.sync()?;
            self.disk.rename(&new, &self.path.join(name))?;
            self.disk.sync_folder(&self.path)
        };
        write().map_err(|source| self.failed("write", name, source))
    }

    /// Removes a file, and what was set aside of it, for good.
    pub(super) fn remove(&self, name: &str) -> Result<(), DepotError> {
        let remove = || {
            for name in [name.to_owned(), format!("{name}{DAMAGED}")] {
                match self.disk.remove(&self.path.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
            }
            self.disk.sync_folder(&self.path)
        };
        remove().map_err(|source| self.failed("remove", name, source))
    }

    /// Sets a damaged file aside, for people to look at.
    pub(super) fn set_aside(&self, name: &str, reason: &str) -> Result<(), DepotError> {
        let path = self.path.join(name);
        let aside = self.path.join(format!("{name}{DAMAGED}"));
        tracing::warn!(path = %path.display(), reason, aside = %aside.display(), "a damaged file is set aside");
        let rename = || {
            self.disk.rename(&path, &aside)?;
            self.disk.sync_folder(&self.path)
        };
        rename().map_err(|source| self.failed("set aside", name, source))
    }
}
