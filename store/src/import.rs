//! Importing: manifests whose packs were received become snapshots of this store.

use sustain_proto::{ManifestError, PackId, SnapshotId};

use crate::error::io_kind;
use crate::{ErrorKind, Fault, ReadError};

/// Why something that came from elsewhere is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no manifest.
    #[error("this is no manifest")]
    Manifest(#[from] ManifestError),
    /// A delta came without its base, which is not here either.
    #[error("snapshot {snapshot} needs the base {base}, which is neither given nor here")]
    BaseUnknown {
        /// The delta.
        snapshot: SnapshotId,
        /// Its base.
        base: SnapshotId,
    },
    /// A delta refers to something that can't be its base.
    #[error("snapshot {snapshot} can't be a delta against {base}: {reason}")]
    WrongBase {
        /// The delta.
        snapshot: SnapshotId,
        /// What it calls its base.
        base: SnapshotId,
        /// Why not.
        reason: &'static str,
    },
    /// A pack that a manifest lists is not here.
    #[error("pack {id} is not here yet")]
    PackMissing {
        /// Its id.
        id: PackId,
    },
    /// The packs do not hold what the manifest says.
    #[error("snapshot {snapshot} is not what its packs hold: {reason}")]
    Contradiction {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What is wrong.
        reason: String,
    },
    /// A pack that is larger than packs may be, or that has more bytes than announced.
    #[error("pack {id} has {bytes} bytes, at most {bytes_max} are allowed")]
    PackTooLarge {
        /// Its id.
        id: PackId,
        /// Bytes announced or received.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The bytes received are not the pack's.
    #[error("what was received is not pack {id}: {reason}")]
    PackDamaged {
        /// Its id.
        id: PackId,
        /// What is wrong.
        reason: String,
    },
    /// What is here already can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Another operation of the service is going on.
    #[error("could not write a received pack")]
    Write(#[source] std::io::Error),
}

impl ImportError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BaseUnknown { .. } | Self::PackMissing { .. } => ErrorKind::NotFound,
            Self::PackTooLarge { .. } => ErrorKind::Refused,
            Self::Manifest(_)
            | Self::WrongBase { .. }
            | Self::Contradiction { .. }
            | Self::PackDamaged { .. } => ErrorKind::Corrupt,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
            Self::Write(source) => io_kind(source),
        }
    }
}
