//! Looking: snapshots, services, selectors, manifests and packs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use sustain_proto::{PackId, ServiceName, SnapshotId, Term, TermOrigin};

use crate::{ErrorKind, Fault};

/// A snapshot that is whole here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Whose state it is.
    pub service: ServiceName,
    /// Its base; none if it is one itself.
    pub base: Option<SnapshotId>,
    /// The snapshots that it continues.
    pub parents: Vec<SnapshotId>,
    /// The reign in which it was taken.
    pub term: Term,
    /// Where that reign branched off.
    pub origin: Option<TermOrigin>,
    /// Its number along the lineage.
    pub seq: u64,
    /// Wall clock when it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of its regions.
    pub bytes: u64,
    /// Bytes of the packs that it lists and no older snapshot of this store does.
    pub bytes_new: u64,
    /// Whether enough other nodes have it.
    pub durable: bool,
    /// How many losses it survives, if it is durable.
    pub level: Option<u32>,
    /// For a base: the snapshots that it was made of by a rebase.
    pub came_from: Vec<SnapshotId>,
}

/// Why something can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No such snapshot.
    #[error("there is no snapshot {selector} here")]
    NotFound {
        /// What was asked for.
        selector: String,
    },
    /// No such pack.
    #[error("there is no pack {id} here")]
    PackNotFound {
        /// Its id.
        id: PackId,
    },
    /// A prefix of several ids.
    #[error("{selector} is the beginning of {count} snapshots' ids")]
    Ambiguous {
        /// What was asked for.
        selector: String,
        /// How many it fits.
        count: usize,
    },
    /// Neither an id nor `SERVICE@latest` nor `SERVICE@-1`.
    #[error("{selector:?} names no snapshot: {reason}")]
    Selector {
        /// What was asked for.
        selector: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The packs hold something else than the manifest says.
    #[error("snapshot {id} can't be put together from {}: {reason}", path.display())]
    Inconsistent {
        /// The snapshot.
        id: SnapshotId,
        /// Its manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ReadError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::PackNotFound { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } | Self::Selector { .. } => ErrorKind::Refused,
            Self::Inconsistent { .. } => ErrorKind::Corrupt,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// A pack opened for reading, as raw bytes. It stays readable while it is held, whatever is dropped.
pub struct PackReader {}

impl fmt::Debug for PackReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackReader").finish_non_exhaustive()
    }
}
#[allow(clippy::len_without_is_empty)]
impl PackReader {
    /// Bytes of the pack.
    #[must_use]
    pub fn len(&self) -> u64 {
        0
    }
    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// If the pack ends before, or the disk fails.
    pub fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> Result<(), ReadError> {
        Ok(())
    }
}
