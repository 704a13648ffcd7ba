//! The handle of an open store, and what all operations share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use sustain_proto::ServiceName;

use crate::block_cache::BlockCache;
use crate::catalogue::DirectoryCache;
use crate::database::{Changes, Database};
use crate::disk::{Disk, DiskLock};
use crate::error::DiskContext;
use crate::gate::Gates;
use crate::key::write_note;
use crate::keys::{Keys, Ring};
use crate::layout::Layout;
use crate::pins::Pins;
use crate::recent::Recents;
use crate::service_key::ServiceKey;
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

/// What the store's folder says of its keys.
#[derive(Debug)]
pub(crate) struct KeyNote {
    /// Whether the store makes keys of its own.
    pub(crate) own: bool,
    /// Whether there is nothing to note.
    pub(crate) on_disk: bool,
}

/// What all handles and operations of a store share.
///
/// Locks are taken in this order: database (held while anything visible changes), key's note, state, and the
/// small ones of keys, pins, gates and caches, which are never held while another is taken.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) zstd_level: i32,
    pub(crate) keys: Keys,
    pub(crate) key_note: Mutex<KeyNote>,
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

    /// The key for a service's new base: makes the store's own one if it has none yet, and makes sure that the
    /// folder says whose secret it was given.
    pub(crate) fn key_to_write(&self, service: &ServiceName) -> Result<ServiceKey, Fault> {
        let mut note = self.key_note.lock().unwrap_or_else(PoisonError::into_inner);
        if note.own {
            self.read_own_key(service)?;
        }
        self.note_key(&mut note)?;
        let key = self.keys.of_service(service);
        key.ok_or_else(|| Fault::ServiceKeyMissing { service: service.clone() })
    }

    /// Makes sure that the folder says whose secret it was given.
    pub(crate) fn note_given_key(&self) -> Result<(), Fault> {
        self.note_key(&mut self.key_note.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_key(&self, note: &mut KeyNote) -> Result<(), Fault> {
        if let (Some(id), false) = (self.keys.with(Ring::newest_root), note.on_disk) {
            write_note(&self.disk, &self.layout, id)?;
            note.on_disk = true;
        }
        Ok(())
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
