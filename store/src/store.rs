//! The handle of an open store, and what all operations share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use sustain_proto::ServiceName;

use crate::block_cache::BlockCache;
use crate::catalogue::DirectoryCache;
use crate::coding::Codes;
use crate::database::Database;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::expected::Expected;
use crate::fragments::Inner as FragmentsOpen;
use crate::gate::Gates;
use crate::incoming::Incoming;
use crate::key::write_note;
use crate::keys::{Keys, Ring};
use crate::layout::Layout;
use crate::parallel::all_at_once;
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

    /// The disk that it is on, for what is to be kept beside it.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
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
/// Locks are taken in this order: committing and the folder's (held while anything visible changes), database (held
/// for that, too, and while others' changes are read), key's note, state, and the small ones of keys, pins, gates and
/// caches, which are never held while another is taken.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) zstd_level: i32,
    pub(crate) keys: Keys,
    pub(crate) key_note: Mutex<KeyNote>,
    pub(crate) committing: Mutex<()>,
    pub(crate) database: Mutex<Database>,
    pub(crate) state: RwLock<State>,
    pub(crate) directories: DirectoryCache,
    pub(crate) blocks: BlockCache,
    pub(crate) recents: Recents,
    pub(crate) codes: Codes,
    pub(crate) fragments: Mutex<Weak<FragmentsOpen>>,
    pub(crate) incoming: Incoming,
    pub(crate) expected: Expected,
    // Takes the process off the list when the last handle is dropped.
    pub(crate) pins: Pins,
    pub(crate) gates: Arc<Gates>,
    pub(crate) pack_folders: Mutex<BTreeSet<PathBuf>>,
    pub(crate) report: OpenReport,
}

impl Shared {
    /// The key for a service's new base: makes the service's own one if it has none yet, and makes sure that the
    /// folder says whose secret it was given. The caller holds no commit lock.
    pub(crate) fn key_to_write(&self, service: &ServiceName) -> Result<ServiceKey, Fault> {
        if self.makes_keys() {
            self.begin_own_key(service)?;
        }
        self.note_given_key()?;
        let key = self.keys.of_service(service);
        key.ok_or_else(|| Fault::ServiceKeyMissing { service: service.clone() })
    }

    /// Whether the store has its services' keys in files of its own.
    pub(crate) fn makes_keys(&self) -> bool {
        self.key_note.lock().unwrap_or_else(PoisonError::into_inner).own
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

    /// Makes folders of packs, if they are not there. They stay once they are synced.
    pub(crate) fn make_pack_folders(&self, folders: &BTreeSet<PathBuf>) -> Result<(), Fault> {
        let known = self.pack_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = folders.difference(&known);
        new.try_for_each(|folder| self.disk.create_folder(folder).during("create", folder))
    }

    /// Makes what was put into folders of packs survive a power cut, and the folders themselves.
    pub(crate) fn sync_pack_folders(&self, folders: BTreeSet<PathBuf>) -> Result<(), Fault> {
        let mut known = self.pack_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !folders.is_subset(&known);
        let all: Vec<PathBuf> = folders.iter().cloned().chain(is_new.then(|| self.layout.packs())).collect();
        all_at_once(&all, |folder| self.disk.sync_folder(folder).during("sync", folder))?;
        known.extend(folders);
        Ok(())
    }
}
