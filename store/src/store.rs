//! The handle of an open store, and what all operations share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use sustain_proto::ChunkKey;

use crate::block_cache::BlockCache;
use crate::catalogue::DirectoryCache;
use crate::database::{Changes, Database};
use crate::disk::{Disk, DiskLock};
use crate::error::DiskContext;
use crate::gate::Gates;
use crate::key::{KeyFile, new_secret};
use crate::layout::Layout;
use crate::pins::Pins;
use crate::recent::Recents;
use crate::state::State;
use crate::{Fault, OpenReport};

/// An open store. Cheap to clone; all clones are one store, which closes when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.layout.root()
    }

    /// What opening found.
    #[must_use]
    pub fn opened(&self) -> &OpenReport {
        &self.shared.report
    }
}

/// The key, and whether the store's folder has a file about it.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) key: Option<ChunkKey>,
    pub(crate) on_disk: bool,
}

/// What all handles and operations of a store share.
///
/// Locks are taken in this order: database (held while anything visible changes), key, state, and the
/// small ones of pins, gates and caches, which are never held while another is taken.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) zstd_level: i32,
    pub(crate) key: Mutex<Key>,
    pub(crate) database: Mutex<Database>,
    pub(crate) state: RwLock<State>,
    pub(crate) directories: DirectoryCache,
    pub(crate) blocks: BlockCache,
    pub(crate) recents: Recents,
    pub(crate) pins: Arc<Pins>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) pack_folders: Mutex<BTreeSet<PathBuf>>,
    pub(crate) report: OpenReport,
    // Last, so that the database is closed before another process may open it.
    pub(crate) _lock: Box<dyn DiskLock>,
}

impl Shared {
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the commit lock: who holds it is the only one to change what is visible.
    pub(crate) fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change durable, then visible.
    pub(crate) fn commit(
        &self,
        database: &mut Database,
        changes: &Changes,
        update: impl FnOnce(&mut State),
    ) -> Result<(), Fault> {
        database.apply(changes)?;
        update(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// The key, if there is one.
    pub(crate) fn key(&self) -> Option<ChunkKey> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).key.clone()
    }

    /// The key for reading chunks that are here.
    pub(crate) fn key_to_read(&self) -> Result<ChunkKey, Fault> {
        self.key().ok_or_else(|| Fault::KeyMissing { path: self.layout.key() })
    }

    /// The key for writing chunks: makes the store's own one if it has none yet, and makes sure that the
    /// folder says which key it is.
    pub(crate) fn key_to_write(&self) -> Result<ChunkKey, Fault> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if key.key.is_none() {
            let state = self.state();
            if !state.snapshots.is_empty() || !state.packs.is_empty() {
                return Err(Fault::KeyMissing { path: self.layout.key() });
            }
            drop(state);
            let secret = new_secret()?;
            KeyFile::Secret(secret).write(&self.disk, &self.layout)?;
            key.key = Some(ChunkKey::derive(&secret));
            key.on_disk = true;
        }
        let chunk_key = key.key.clone().ok_or_else(|| Fault::KeyMissing { path: self.layout.key() })?;
        if !key.on_disk {
            KeyFile::Fingerprint(chunk_key.fingerprint()).write(&self.disk, &self.layout)?;
            key.on_disk = true;
        }
        Ok(chunk_key)
    }

    /// Makes a folder of packs, and makes it stay.
    pub(crate) fn ensure_pack_folder(&self, folder: &Path) -> Result<(), Fault> {
        let mut known = self.pack_folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(folder) {
            self.disk.create_folder(folder).during("create", folder)?;
            let packs = self.layout.packs();
            self.disk.sync_folder(&packs).during("sync", &packs)?;
            known.insert(folder.to_owned());
        }
        Ok(())
    }
}
