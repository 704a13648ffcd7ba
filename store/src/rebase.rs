//! Rebasing: a snapshot becomes the base of a new generation, and what nobody needs any more goes (P10).

use serde::Serialize;
use sustain_proto::{ManifestError, ServiceName, SnapshotId};

use crate::{ErrorKind, Fault, ReadError};

/// What a rebase did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebaseReport {
    /// The new base.
    pub base: SnapshotId,
    /// The base of the generation that is gone; none if nothing had to be done.
    pub generation_dropped: Option<SnapshotId>,
    /// Snapshots that are gone.
    pub dropped: Vec<SnapshotId>,
    /// Snapshots that live on under another id, old and new; the promoted one is among them.
    pub kept: Vec<(SnapshotId, SnapshotId)>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
    /// Bytes of packs that were written.
    pub bytes_rewritten: u64,
}

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
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

impl crate::Store {
    /// stub
    pub fn rebase(
        &self,
        _service: &ServiceName,
        _promote: Option<SnapshotId>,
    ) -> Result<RebaseReport, RebaseError> {
        Err(RebaseError::Read(ReadError::NotFound { selector: String::new() }))
    }
    /// stub
    pub fn retire_superseded(&self, _base: SnapshotId) -> Result<crate::RetireReport, RebaseError> {
        Err(RebaseError::Read(ReadError::NotFound { selector: String::new() }))
    }
    /// stub
    pub fn verify(&self, _progress: &dyn crate::Progress) -> Result<crate::VerifyReport, crate::VerifyError> {
        Err(crate::VerifyError::Cancelled)
    }
}
