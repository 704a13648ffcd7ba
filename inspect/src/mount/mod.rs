//! A store as a read-only file system: `SERVICE/SNAPSHOT/{manifest.json,ram,…}` and `SERVICE/latest`.
//!
//! The kernel asks over its FUSE channel, some threads answer. What a file holds is decoded chunk by chunk as it is
//! read, and checked; what can't be had is an input/output error and a line in the log, never wrong bytes. Folders
//! follow the store, and what is open stays readable through rebases.

mod device;
mod error;
mod filesystem;
mod handles;
mod helper;
mod inodes;
mod janitor;
mod node;
mod point;
mod tree;
mod unmount;
mod watcher;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use sustain_store::Store;

pub use self::error::MountError;
use self::filesystem::{Owner, StoreFiles};
use self::janitor::Janitor;
use self::watcher::Watcher;
use crate::limits;
use crate::readers::Readers;
use crate::view::Chunks;

/// A mounted store. Dropped without [`unmount`](Self::unmount) it is unmounted too, and nobody is told of errors.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    session: Option<BackgroundSession>,
    watcher: Option<Watcher>,
    chunks: Arc<Chunks>,
    _janitor: Janitor,
}

/// How an unmount went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Clean,
    /// It is gone from the tree of files; some were open, and end with errors when this process ends.
    Detached,
}

impl Mount {
    /// Mounts a store on an empty folder. With `allow_other` all users may read, else only the one who mounts.
    ///
    /// # Errors
    /// If the folder can't be mounted on, or the system does not let this user mount.
    pub fn new(store: Store, folder: &Path, allow_other: bool) -> Result<Self, MountError> {
        let path = point::prepare(folder)?;
        let failed = |source| MountError::System { doing: "mount on", path: path.clone(), source };
        let readers = Arc::new(Readers::new(store));
        let chunks = Arc::new(Chunks::new(limits::CHUNK_CACHE_BYTES));
        let janitor = Janitor::start(readers.clone()).map_err(failed)?;
        let owner = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            open_to_all: allow_other,
        };
        let files = StoreFiles::new(readers, chunks.clone(), owner);
        let channel = device::mount(&path, allow_other)?;
        let mut mount = Self { path: path.clone(), session: None, watcher: None, chunks, _janitor: janitor };
        // Without the watcher all works but the end by kill -9, which the next mount here sets right.
        match Watcher::start(&path) {
            Ok(watcher) => mount.watcher = Some(watcher),
            Err(error) => tracing::warn!(%error, "no watcher: a killed mount has to be unmounted by hand"),
        }
        let mut config = Config::default();
        config.n_threads = Some(
            std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().min(limits::MOUNT_THREADS_MAX)),
        );
        config.clone_fd = true;
        // Who may ask is the kernel's to decide, by the mount's options.
        let session = Session::from_fd(files, channel, SessionACL::All, config).and_then(Session::spawn);
        match session {
            Ok(session) => {
                mount.session = Some(session);
                Ok(mount)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// The folder, as a whole path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is mounted still. Somebody may have unmounted it from outside.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.guard.is_finished())
    }

    /// Bytes of decoded chunks that are kept at present.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.chunks.bytes()
    }

    /// Unmounts. Where files are open, it is taken out of the tree of files all the same.
    ///
    /// # Errors
    /// If the system does not let it go.
    pub fn unmount(mut self) -> Result<Unmounted, MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<Unmounted, MountError> {
        let alive = self.session.as_ref().is_none_or(|session| !session.guard.is_finished());
        let mut outcome = Ok(Unmounted::Clean);
        if alive {
            outcome = match unmount::unmount(&self.path, false) {
                Err(error) if unmount::is_busy(&error) => {
                    unmount::unmount(&self.path, true).map(|()| Unmounted::Detached)
                }
                other => other.map(|()| Unmounted::Clean),
            };
        }
        if outcome.is_ok() {
            if let Some(watcher) = self.watcher.take() {
                watcher.dismiss();
            }
        }
        if let (Some(session), Ok(Unmounted::Clean)) = (self.session.take(), &outcome) {
            // The threads end with the mount. How they did matters to nobody any more.
            let ended: io::Result<()> = session.join();
            if let Err(error) = ended {
                tracing::debug!(%error, "the mount's threads");
            }
        }
        outcome
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.session.is_some() || self.watcher.is_some() {
            if let Err(error) = self.end() {
                tracing::warn!(error = sustain_store::error_chain(&error), "could not unmount");
            }
        }
    }
}
