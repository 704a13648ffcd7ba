//! Opening a store: options, what was found, and what is refused.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use crate::block_cache::BlockCache;
use crate::catalogue::DirectoryCache;
use crate::coding::Codes;
use crate::commit_lock::lock_folder;
use crate::database::{Database, Trust};
use crate::disk::{Disk, DiskLock, RealDisk};
use crate::error::DiskContext;
use crate::expected::Expected;
use crate::gate::Gates;
use crate::incoming::{Incoming, sweep_incoming};
use crate::join::join;
use crate::key::{KeySource, compare_keys, read_keys};
use crate::keys::Keys;
use crate::layout::Layout;
use crate::pins::Pins;
use crate::processes::{Others, Registration, new_process};
use crate::read_only::Lenient;
use crate::recent::Recents;
use crate::state::State;
use crate::store::{Shared, Store};
use crate::sweep::{reconcile, sweep_temporaries};
use crate::{BadFile, ErrorKind, Fault, limits, reserve};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where the keys come from that services are sealed under.
    pub key: KeySource,
    /// Make the folder if it does not exist.
    pub create: bool,
    /// What to read and write through.
    pub disk: Arc<dyn Disk>,
    /// Level of zstd.
    pub zstd_level: i32,
    /// Whether this is a cluster's node, whose store counts as a copy: two can't have the same.
    pub node: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            key: KeySource::Own,
            create: false,
            disk: Arc::new(RealDisk),
            zstd_level: limits::ZSTD_LEVEL,
            node: false,
        }
    }
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Why the database was made anew from packs and manifests, if it was.
    pub rebuilt: Option<String>,
    /// Files that are missing or damaged. What needs them can't be restored; everything else works.
    pub bad: Vec<BadFile>,
    /// Leftovers of interrupted work that were removed.
    pub swept: usize,
    /// Complete snapshots that the database did not know and knows now.
    pub adopted: usize,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is none.
    #[error("there is no store at {}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A node has it.
    #[error("the store at {} is another node's, which is running", path.display())]
    Node {
        /// Where it is.
        path: PathBuf,
    },
    /// The folder holds things that are no store's.
    #[error("{} is no store, and it is not empty", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The key is not the one that the store was made with.
    #[error("the store at {} was made with another key", path.display())]
    WrongKey {
        /// Where it is.
        path: PathBuf,
    },
    /// The store holds no key of its own: it belongs to a cluster.
    #[error("the store at {} belongs to a cluster, which keeps its key", path.display())]
    ClusterKey {
        /// Where it is.
        path: PathBuf,
    },
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl OpenError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Node { .. } => ErrorKind::Busy,
            Self::Foreign { .. } => ErrorKind::Refused,
            Self::WrongKey { .. } | Self::ClusterKey { .. } => ErrorKind::Key,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

impl Store {
    /// Opens a store, beside other processes that have it open. What dead ones left is removed; a database that is
    /// lost or damaged is made anew from packs and manifests, which [`Store::opened`] then says. On a read-only file
    /// system both happen in memory only, and what would change the store fails.
    ///
    /// # Errors
    /// If there is none, if the key is not its key, if another process does not come to the end of a commit, or if
    /// the disk fails.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let StoreOptions { key, create, disk, zstd_level, node } = options;
        let lenient = Lenient::over(disk);
        let disk: Arc<dyn Disk> = lenient.clone();
        let layout = Layout::new(dir, new_process(node)?);
        let lock = prepare(&disk, &layout, create)?;
        let (mut ring, note) = read_keys(disk.as_ref(), &layout, key)?;
        let mut report = OpenReport::default();
        let others = Others::look(disk.as_ref(), &layout)?;
        if node && others.have_node() {
            return Err(OpenError::Node { path: dir.to_owned() });
        }
        let registration = Registration::new(&disk, &layout)?;
        // Two nodes that don't see each other would count as two copies.
        if node {
            registration.enter()?;
        }
        reserve::keep(disk.as_ref(), &layout);
        let (database, state) = settle(&disk, &layout, others, lock, &mut report)?;
        state.services().iter().for_each(|service| ring.learn(service));
        state.snapshots.values().for_each(|s| ring.note_owner(&s.manifest.service, s.manifest.key));
        if !note.on_disk {
            compare_keys(&layout, &state, &ring)?;
        }
        if let Some(reason) = &report.rebuilt {
            tracing::warn!(store = %dir.display(), reason, "the database was made anew from packs and manifests");
        }
        for bad in &report.bad {
            tracing::warn!(path = %bad.path.display(), reason = bad.reason, "a file of the store is bad");
        }
        lenient.seal();
        let keys = Keys::new(ring, note.own.then(|| (disk.clone(), layout.clone())));
        let shared = Shared {
            disk,
            layout,
            zstd_level,
            keys,
            key_note: Mutex::new(note),
            committing: Mutex::default(),
            database: Mutex::new(database),
            state: RwLock::new(state),
            directories: DirectoryCache::default(),
            blocks: BlockCache::default(),
            recents: Recents::default(),
            codes: Codes::default(),
            fragments: Mutex::default(),
            incoming: Incoming::default(),
            expected: Expected::default(),
            pins: Pins::new(registration),
            gates: Arc::new(Gates::default()),
            pack_folders: Mutex::new(BTreeSet::new()),
            report,
        };
        shared.forget_all_unused_keys();
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// Reads the database and what it speaks of. Who is alone, or finds that somebody died, puts right what was left, which
/// takes the commit lock: who holds it is in the middle of nothing, so nothing is taken from the living.
fn settle(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    mut others: Others,
    mut lock: Box<dyn DiskLock>,
    report: &mut OpenReport,
) -> Result<(Database, State), Fault> {
    let (mut database, mut trust) = Database::open(disk, layout)?;
    if !others.living.is_empty() && others.dead.is_empty() && trust == Trust::Whole {
        drop(lock);
        if let Some(state) = join(disk.as_ref(), layout, &mut database)? {
            return Ok((database, state));
        }
        lock = lock_folder(disk.as_ref(), layout.root(), limits::COMMIT_LOCK_PATIENCE)?;
        others = Others::look(disk.as_ref(), layout)?;
        (database, trust) = Database::open(disk, layout)?;
    }
    report.swept = sweep_temporaries(disk.as_ref(), layout, &others)?;
    let pins = others.pins(disk.as_ref(), layout);
    let state = reconcile(disk, layout, &mut database, (trust, &pins), report)?;
    report.swept += sweep_incoming(disk.as_ref(), layout, &state);
    // Last: until then the next opening does it all again.
    for dead in &others.dead {
        let path = layout.process_file(dead);
        match disk.remove(&path) {
            // It ended in peace, between the look at its file and at its lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.during("remove", &path)?,
        }
    }
    drop(lock);
    Ok((database, state))
}

/// Names of which a store's folder has at least one.
const MARKS: [&str; 5] = ["packs", "manifests", "journal", "tmp", "processes"];
/// What a folder may hold in which a store is made: file systems put the one at their root, and the other is what
/// somebody has kept of an earlier store.
const HARMLESS: [&str; 2] = ["lost+found", "keys"];

/// Has a folder's name last, also of one that was here: whoever made it may have failed to do that. Somebody who may
/// not look into the folder above has not made it.
fn sync_name(disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
    let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    match disk.sync_folder(parent) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome.during("sync", parent),
    }
}

/// Makes sure that there is a store, locks it, and makes its folders.
fn prepare(disk: &Arc<dyn Disk>, layout: &Layout, create: bool) -> Result<Box<dyn DiskLock>, OpenError> {
    let root = layout.root();
    let not_found = || OpenError::NotFound { path: root.to_owned() };
    let entries = match disk.list(root) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            if !create {
                return Err(not_found());
            }
            disk.create_folder(root).during("create", root)?;
            Vec::new()
        }
        Err(error) => {
            return Err(OpenError::Fault(Fault::Disk {
                doing: "list",
                path: root.to_owned(),
                source: error,
            }));
        }
    };
    if !entries.iter().any(|entry| MARKS.contains(&entry.name.as_str())) {
        if entries.iter().any(|entry| !HARMLESS.contains(&entry.name.as_str())) {
            return Err(OpenError::Foreign { path: root.to_owned() });
        }
        if !create {
            return Err(not_found());
        }
        sync_name(disk.as_ref(), root)?;
    }
    let lock = lock_folder(disk.as_ref(), root, limits::COMMIT_LOCK_PATIENCE)?;
    for folder in [layout.packs(), layout.manifests(), layout.all_temporaries(), layout.processes()] {
        disk.create_folder(&folder).map_err(|error| match Fault::listing(&folder, error) {
            Fault::Disk { path, source, .. } => Fault::Disk { doing: "create", path, source },
            damage => damage,
        })?;
    }
    // Before anything else is in it: by these the next opening knows it for a store.
    disk.sync_folder(root).during("sync", root)?;
    Ok(lock)
}
