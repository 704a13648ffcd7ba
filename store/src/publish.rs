//! How files come into being: under a unique temporary name, synced, renamed, folder synced.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sustain_proto::{PackRef, SnapshotId};

use crate::Fault;
use crate::commit::Commit;
use crate::database::{Changes, Contents};
use crate::disk::{Disk, DiskFile};
use crate::error::DiskContext;
use crate::pack_writer::FinishedPack;
use crate::state::Snapshot;
use crate::store::Shared;

/// A name that no other temporary file has or had.
pub(crate) fn new_name(prefix: &str) -> Result<String, Fault> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Fault::Random { reason: error.to_string() })?;
    Ok(format!("{prefix}-{:016x}", u64::from_le_bytes(random)))
}

/// A file that goes away when dropped, unless it was renamed.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    armed: AtomicBool,
}

impl TemporaryFile {
    pub(crate) fn create(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, Fault> {
        let file = match disk.create(&path) {
            // There was no room for the process's folder when it began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(&path);
                disk.create_folder(folder).during("create", folder)?;
                disk.create(&path)
            }
            outcome => outcome,
        };
        let file = file.during("create", &path)?;
        Ok(Self { disk: disk.clone(), path, file: file.into(), armed: AtomicBool::new(true) })
    }

    pub(crate) fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for a thread that syncs it.
    pub(crate) fn share(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    /// Gives the file its final name. The caller syncs the folder.
    pub(crate) fn rename(self, to: &Path) -> Result<(), Fault> {
        self.rename_to(to)
    }

    /// The same, for one that is shared.
    pub(crate) fn rename_to(&self, to: &Path) -> Result<(), Fault> {
        self.disk.rename(&self.path, to).during("rename to", to)?;
        self.armed.store(false, Ordering::Release);
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.armed.load(Ordering::Acquire) {
            // Opening the store sweeps what stays here.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Files that were renamed and are not visible yet; dropping removes them again.
#[derive(Debug)]
pub(crate) struct Unpublished {
    disk: Arc<dyn Disk>,
    paths: Vec<PathBuf>,
}

impl Unpublished {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { disk: shared.disk.clone(), paths: Vec::new() }
    }

    /// From here on the database decides.
    pub(crate) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Manifests came last and go first, so that no manifest ever lacks its packs.
        for path in self.paths.iter().rev() {
            let _ = self.disk.remove(path);
        }
    }
}

/// Waits until packs that were written are synced; long work that needs no lock.
pub(crate) fn sync_packs(packs: &[FinishedPack]) -> Result<(), Fault> {
    packs.iter().try_for_each(FinishedPack::sync)
}

/// Gives synced packs their names. The caller holds the commit lock.
pub(crate) fn rename_packs(
    shared: &Shared,
    packs: Vec<FinishedPack>,
    undo: &mut Unpublished,
) -> Result<Vec<PackRef>, Fault> {
    let folders: BTreeSet<PathBuf> =
        packs.iter().map(|pack| shared.layout.pack_folder(&pack.reference.id)).collect();
    shared.make_pack_folders(&folders)?;
    let mut refs = Vec::with_capacity(packs.len());
    for pack in packs {
        let path = shared.layout.pack(&pack.reference.id);
        let known = shared.state().packs.contains_key(&pack.reference.id);
        pack.file.rename(&path)?;
        if !known {
            undo.paths.push(path);
        }
        refs.push(pack.reference);
        shared.directories.put(pack.reference.id, Arc::new(pack.directory));
    }
    shared.sync_pack_folders(folders)?;
    Ok(refs)
}

/// Writes manifests under their names and syncs them. The caller holds the commit lock.
pub(crate) fn write_manifests<'a>(
    shared: &Shared,
    manifests: impl Iterator<Item = (SnapshotId, &'a [u8])>,
    undo: &mut Unpublished,
) -> Result<(), Fault> {
    for (id, encoded) in manifests {
        let temporary =
            TemporaryFile::create(&shared.disk, shared.layout.temporaries().join(new_name("manifest")?))?;
        temporary.file().write_at(0, encoded).during("write", temporary.path())?;
        temporary.file().sync().during("sync", temporary.path())?;
        let path = shared.layout.manifest(&id);
        temporary.rename(&path)?;
        if !shared.state().snapshots.contains_key(&id) {
            undo.paths.push(path);
        }
    }
    let folder = shared.layout.manifests();
    shared.disk.sync_folder(&folder).during("sync", &folder)
}

/// Notes manifests that are about to be written, each with the snapshots that it is to replace, if any: after an
/// interruption before the commit those that are still here count, and it does not.
pub(crate) fn intend(
    commit: &mut Commit<'_>,
    intents: impl Iterator<Item = (SnapshotId, Vec<SnapshotId>)>,
) -> Result<(), Fault> {
    let add = Contents { intents: intents.collect(), ..Contents::default() };
    if add.intents.is_empty() {
        return Ok(());
    }
    commit.apply(&Changes { add, ..Changes::default() }, Vec::new())
}

/// The intents of describing snapshots anew, from former ids and new ones: all of them together, or none.
pub(crate) fn instead_of(
    kept: &[(SnapshotId, SnapshotId)],
) -> impl Iterator<Item = (SnapshotId, Vec<SnapshotId>)> {
    let replaced: Vec<SnapshotId> = kept.iter().map(|(old, _)| *old).collect();
    kept.iter().map(move |(_, new)| (*new, replaced.clone()))
}

/// Makes snapshots visible whose files are on stable storage.
pub(crate) fn add_snapshots(
    commit: &mut Commit<'_>,
    snapshots: Vec<Arc<Snapshot>>,
    new_packs: &[PackRef],
) -> Result<(), Fault> {
    let mut add = Contents::default();
    let mut remove = Contents::default();
    for snapshot in &snapshots {
        add.snapshots.insert(snapshot.id, snapshot.level);
        remove.gone.insert(snapshot.id, ());
        remove.intents.insert(snapshot.id, Vec::new());
        remove.received.extend(snapshot.manifest.packs.iter().map(|pack| (pack.id, 0)));
    }
    add.packs.extend(new_packs.iter().map(|pack| (pack.id, pack.bytes)));
    commit.apply(&Changes { remove, add }, snapshots)?;
    commit.settle_aside();
    Ok(())
}
