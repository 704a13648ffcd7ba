//! Why a push fails.

use sustain_proto::{ManifestError, RegionName, ServiceName};

use crate::{ErrorKind, Fault, ReadError};

/// Why a push failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// Another push of the service is going on, or a rebase is being committed.
    #[error("another push of {service} is going on, or a rebase is being committed")]
    Busy {
        /// The service.
        service: ServiceName,
    },
    /// What it continues was replaced meanwhile by another process: its generation has ended or, if it relies on what
    /// was the newest snapshot, there is a newer one.
    #[error("another process has pushed or rebased {service} meanwhile")]
    Overtaken {
        /// The service.
        service: ServiceName,
    },
    /// A region was pushed twice.
    #[error("region {region} is given twice")]
    DuplicateRegion {
        /// The region.
        region: RegionName,
    },
    /// Changes of a region that the snapshot to continue does not have, or has in another size.
    #[error("there is no region {region} of this size yet that could be changed")]
    NothingToContinue {
        /// The region.
        region: RegionName,
    },
    /// A region is larger than regions may be, or has grown too large for the index.
    #[error("region {region} has {bytes} bytes, at most {bytes_max} are allowed")]
    RegionTooLarge {
        /// The region.
        region: RegionName,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The snapshot needs more packs than a manifest can list.
    #[error("{service} has too many packs in this generation for another snapshot: rebase it first")]
    TooManyPacks {
        /// The service.
        service: ServiceName,
    },
    /// The region's bytes can't be read.
    #[error("could not read region {region}")]
    Source {
        /// The region.
        region: RegionName,
        /// What its source says.
        source: std::io::Error,
    },
    /// An ingest failed before, so that the snapshot is not whole.
    #[error("a region of this push failed before")]
    Broken,
    /// The manifest breaks a limit.
    #[error("could not describe the snapshot")]
    Manifest(#[from] ManifestError),
    /// The index breaks a limit.
    #[error("could not encode the snapshot's index")]
    Index(#[source] sustain_proto::CodecError),
    /// What it continues can't be read.
    #[error(transparent)]
    Parent(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl PushError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } | Self::Overtaken { .. } => ErrorKind::Busy,
            Self::DuplicateRegion { .. }
            | Self::NothingToContinue { .. }
            | Self::RegionTooLarge { .. }
            | Self::TooManyPacks { .. }
            | Self::Manifest(_)
            | Self::Index(_) => ErrorKind::Refused,
            Self::Source { .. } | Self::Broken => ErrorKind::Failed,
            Self::Parent(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}
