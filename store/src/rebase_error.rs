//! Why a rebase fails.

use sustain_proto::{ManifestError, ServiceName, SnapshotId};

use crate::{ErrorKind, Fault, ReadError};

/// Why a rebase failed. The store is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebaseError {
    /// A push or another rebase of the service is going on.
    #[error("a push or another rebase of {service} is going on")]
    Busy {
        /// The service.
        service: ServiceName,
    },
    /// Stopped on request.
    #[error("the rebase was stopped")]
    Cancelled,
    /// The snapshot to promote belongs to another service.
    #[error("snapshot {id} is not of {service}")]
    OtherService {
        /// The snapshot.
        id: SnapshotId,
        /// The service.
        service: ServiceName,
    },
    /// Only bases came from other snapshots.
    #[error("snapshot {id} is no base")]
    NoBase {
        /// The snapshot.
        id: SnapshotId,
    },
    /// A manifest breaks a limit.
    #[error("could not describe a snapshot of the new generation")]
    Manifest(#[from] ManifestError),
    /// An index breaks a limit.
    #[error("could not encode an index of the new generation")]
    Index(#[source] sustain_proto::CodecError),
    /// A snapshot is not here, or can't be put together.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RebaseError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Busy,
            Self::OtherService { .. } | Self::NoBase { .. } | Self::Manifest(_) | Self::Index(_) => {
                ErrorKind::Refused
            }
            Self::Cancelled => ErrorKind::Failed,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}
