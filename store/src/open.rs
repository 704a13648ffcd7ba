//! Opening a store: options, what was found, and what is refused.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};
use crate::key::KeySource;
use crate::limits;
use crate::{BadFile, ErrorKind, Fault};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where the key comes from.
    pub key: KeySource,
    /// Make the folder if it does not exist.
    pub create: bool,
    /// What to read and write through.
    pub disk: Arc<dyn Disk>,
    /// Level of zstd.
    pub zstd_level: i32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { key: KeySource::Own, create: false, disk: Arc::new(RealDisk), zstd_level: limits::ZSTD_LEVEL }
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
    /// Somebody has it open.
    #[error("the store at {} is in use by another process", path.display())]
    Busy {
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
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Foreign { .. } | Self::WrongKey { .. } | Self::ClusterKey { .. } => ErrorKind::Refused,
            Self::Fault(fault) => fault.kind(),
        }
    }
}
