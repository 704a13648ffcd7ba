//! Restoring: every chunk is checked against its id before it counts.

use serde::Serialize;
use sustain_proto::{RegionName, SnapshotId};

use crate::error::io_kind;
use crate::{ErrorKind, Fault, ReadError};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Bytes of its regions, zeros included.
    pub bytes_out: u64,
    /// Bytes that were written; the rest are holes.
    pub bytes_written: u64,
    /// Chunks that were written.
    pub chunks: u64,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The target can't be written.
    #[error("could not write region {region}")]
    Target {
        /// Which region.
        region: RegionName,
        /// What the system says.
        source: std::io::Error,
    },
    /// The target's files are complete but can't be made visible.
    #[error("could not finish the restored files")]
    Finish {
        /// What the system says.
        source: std::io::Error,
    },
    /// Stopped on request.
    #[error("the restore was stopped")]
    Cancelled,
    /// The snapshot is not here, or can't be put together.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RestoreError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Target { source, .. } | Self::Finish { source } => io_kind(source),
            Self::Cancelled => ErrorKind::Failed,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}
