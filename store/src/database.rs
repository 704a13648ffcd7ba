//! The database: which snapshots are visible, durable marks, received packs, aliases, and what an
//! interrupted rebase left to do. Nothing reads from it but [`Database::open`]; it is written through.

mod backend;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sustain_proto::{PackId, SnapshotId};

use crate::Fault;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::guard::quietly;
use crate::publish::{TemporaryFile, new_name};
use backend::Backend;

/// Everything that the database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Visible snapshots, each with its durable level.
    pub(crate) snapshots: BTreeMap<SnapshotId, Option<u32>>,
    /// Received packs that no manifest lists yet, in the order in which they came.
    pub(crate) received: BTreeMap<PackId, u64>,
    /// Former ids of re-expressed snapshots.
    pub(crate) aliases: BTreeMap<SnapshotId, SnapshotId>,
    /// Snapshots that were dropped and whose files may still be there.
    pub(crate) gone: BTreeMap<SnapshotId, ()>,
    /// Snapshots that a rebase is about to make, each with those that it replaces.
    pub(crate) intents: BTreeMap<SnapshotId, Vec<SnapshotId>>,
}

/// What one transaction changes: removals first, then additions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) remove: Contents,
    pub(crate) add: Contents,
}

impl Contents {
    fn change(&mut self, Changes { remove, add }: &Changes) {
        self.snapshots.retain(|id, _| !remove.snapshots.contains_key(id));
        self.received.retain(|id, _| !remove.received.contains_key(id));
        self.aliases.retain(|id, _| !remove.aliases.contains_key(id));
        self.gone.retain(|id, ()| !remove.gone.contains_key(id));
        self.intents.retain(|id, _| !remove.intents.contains_key(id));
        self.snapshots.extend(&add.snapshots);
        self.received.extend(&add.received);
        self.aliases.extend(&add.aliases);
        self.gone.extend(&add.gone);
        self.intents.extend(add.intents.clone());
    }
}

/// Why the database was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Found whole.
    Whole,
    /// There was none, and nothing else either.
    Fresh,
    /// Lost; this is why.
    Rebuilt(String),
}

/// The open database.
///
/// After a failed write nobody knows what the file holds: the write may be in it or not, and a later sync says nothing
/// about what an earlier one lost. So the next write makes a new file of what was acknowledged, in place of the old.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    handle: Option<redb::Database>,
    /// What was acknowledged.
    contents: Contents,
}

impl Database {
    /// Opens the database and reads it all; if it is damaged, makes an empty one.
    pub(crate) fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<(Self, Contents, Trust), Fault> {
        let reason = match attempt(disk, path, false) {
            Ok((handle, contents)) => {
                return Ok((Self::new(disk, path, handle, &contents), contents, Trust::Whole));
            }
            Err(Failure::Missing) => None,
            Err(Failure::Damaged(reason)) => Some(reason),
            Err(Failure::Fault(fault)) => return Err(fault),
        };
        let (handle, contents) = match attempt(disk, path, true) {
            Ok(opened) => opened,
            Err(Failure::Fault(fault)) => return Err(fault),
            Err(Failure::Missing) => return Err(Fault::damaged(path, "the file is missing")),
            Err(Failure::Damaged(reason)) => return Err(Fault::damaged(path, reason)),
        };
        let database = Self::new(disk, path, handle, &contents);
        Ok((database, contents, reason.map_or(Trust::Fresh, Trust::Rebuilt)))
    }

    fn new(disk: &Arc<dyn Disk>, path: &Path, handle: redb::Database, contents: &Contents) -> Self {
        let (disk, path) = (disk.clone(), path.to_owned());
        Self { disk, path, handle: Some(handle), contents: contents.clone() }
    }

    /// A new file with what was acknowledged.
    fn renew(&self) -> Result<redb::Database, Fault> {
        let (folder, name) = (self.path.with_file_name("tmp"), new_name("database")?);
        let file = TemporaryFile::create(&self.disk, folder.join(name))?;
        let backend = Backend::open_empty(self.disk.as_ref(), file.path()).during("open", file.path())?;
        let damaged = |reason| Fault::damaged(&self.path, reason);
        let handle =
            attempt_with(backend, &self.path, true).map_err(|failure| failure.into_fault(&self.path));
        let (handle, _) = handle?;
        let all = Changes { add: self.contents.clone(), ..Changes::default() };
        quietly(|| rows::write(&handle, &all))
            .map_err(damaged)?
            .map_err(|source| Fault::Database { doing: "write", source })?;
        file.rename(&self.path)?;
        if let Some(folder) = self.path.parent() {
            self.disk.sync_folder(folder).during("sync", folder)?;
        }
        Ok(handle)
    }

    /// Applies changes in one transaction, on stable storage when it returns.
    pub(crate) fn apply(&mut self, changes: &Changes) -> Result<(), Fault> {
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None => self.renew()?,
        };
        let source = match quietly(|| rows::write(&handle, changes)) {
            Ok(Ok(())) => {
                self.handle = Some(handle);
                self.contents.change(changes);
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(panic) => panic.into(),
        };
        close(handle);
        // What was to be made visible is gone, whatever the file says and whatever files there are of it.
        let new = changes.add.snapshots.keys().filter(|id| !self.contents.snapshots.contains_key(id));
        self.contents.gone.extend(new.map(|id| (*id, ())));
        Err(Fault::Database { doing: "write", source })
    }

    /// Reads everything again, for comparing.
    pub(crate) fn load(&self) -> Result<Contents, String> {
        let handle = self.handle.as_ref().ok_or("an earlier write failed")?;
        quietly(|| rows::read(handle))?.map_err(|error| error.to_string())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            close(handle);
        }
    }
}

fn close(handle: redb::Database) {
    // Closing writes; if that fails or panics, the next opening repairs.
    if let Err(panic) = quietly(|| drop(handle)) {
        tracing::warn!(%panic, "the database could not be closed");
    }
}

enum Failure {
    Missing,
    Damaged(String),
    Fault(Fault),
}

impl Failure {
    fn into_fault(self, path: &Path) -> Fault {
        match self {
            Self::Missing => Fault::damaged(path, "the file is missing"),
            Self::Damaged(reason) => Fault::damaged(path, reason),
            Self::Fault(fault) => fault,
        }
    }
}

fn attempt(disk: &Arc<dyn Disk>, path: &Path, anew: bool) -> Result<(redb::Database, Contents), Failure> {
    let backend = Backend::open(disk, path, anew).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Failure::Missing,
        std::io::ErrorKind::IsADirectory => Failure::Fault(Fault::damaged(path, "this is a folder")),
        _ => Failure::Fault(Fault::Disk { doing: "open", path: path.to_owned(), source }),
    })?;
    attempt_with(backend, path, anew)
}

fn attempt_with(backend: Backend, path: &Path, anew: bool) -> Result<(redb::Database, Contents), Failure> {
    let trouble = backend.trouble();
    let outcome = quietly(|| open_checked(backend, anew));
    // A failing disk is no damage: making the database anew on it would lose the durable marks.
    if let Some(source) = trouble.take() {
        return Err(Failure::Fault(Fault::Disk { doing: "use", path: path.to_owned(), source }));
    }
    match outcome {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(reason)) | Err(reason) => Err(Failure::Damaged(reason)),
    }
}

fn open_checked(backend: Backend, anew: bool) -> Result<(redb::Database, Contents), String> {
    let mut handle = redb::Builder::new()
        .set_cache_size(crate::limits::DATABASE_CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(|error| error.to_string())?;
    if anew {
        rows::write(&handle, &Changes::default()).map_err(|error| error.to_string())?;
    } else if !handle.check_integrity().map_err(|error| error.to_string())? {
        // It has fallen back to an older state, which may lack what was acknowledged since.
        return Err("its checksums do not match".to_owned());
    }
    let contents = rows::read(&handle).map_err(|error| error.to_string())?;
    Ok((handle, contents))
}
