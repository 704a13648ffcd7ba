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
use crate::key::{KeyFile, new_secret};
use crate::keys::Keys;
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

/// What the store's folder says of the key that was not given for one service.
#[derive(Debug)]
pub(crate) struct KeyNote {
    /// Whether the store makes a key of its own if it has none.
    pub(crate) own: bool,
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
    /// folder says which key it is.
    pub(crate) fn key_to_write(&self, service: &ServiceName) -> Result<ServiceKey, Fault> {
        let mut note = self.key_note.lock().unwrap_or_else(PoisonError::into_inner);
        let has_own_entry = self.keys.with(|ring| ring.services.contains_key(service));
        if self.keys.of_service(service).is_none() && !has_own_entry && note.own {
            let state = self.state();
            if let Some(snapshot) = state.snapshots.values().next() {
                return Err(Fault::KeyMissing { key: snapshot.manifest.key });
            }
            if !state.packs.is_empty() {
                return Err(Fault::ServiceKeyMissing { service: service.clone() });
            }
            drop(state);
            let secret = new_secret()?;
            KeyFile::Secret(secret).write(&self.disk, &self.layout)?;
            self.keys.change(|ring| ring.default = Some(ServiceKey::derive(&secret)));
            note.on_disk = true;
        }
        self.note_key(&mut note)?;
        let key = self.keys.of_service(service);
        key.ok_or_else(|| Fault::ServiceKeyMissing { service: service.clone() })
    }

    /// Makes sure that the folder says which key it was given.
    pub(crate) fn note_given_key(&self) -> Result<(), Fault> {
        self.note_key(&mut self.key_note.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_key(&self, note: &mut KeyNote) -> Result<(), Fault> {
        let given = self.keys.with(|ring| ring.default.as_ref().map(ServiceKey::id));
        if let (Some(id), false) = (given, note.on_disk) {
            KeyFile::Fingerprint(id).write(&self.disk, &self.layout)?;
            note.on_disk = true;
        }
        Ok(())
    }

    /// Makes folders of packs, and makes them stay.
    pub(crate) fn ensure_pack_folders(&self, folders: &BTreeSet<PathBuf>) -> Result<(), Fault> {
        let mut known = self.pack_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<PathBuf> = folders.difference(&known).cloned().collect();
        for folder in &new {
            self.disk.create_folder(folder).during("create", folder)?;
        }
        if !new.is_empty() {
            let packs = self.layout.packs();
            self.disk.sync_folder(&packs).during("sync", &packs)?;
        }
        known.extend(new);
        Ok(())
    }
}
