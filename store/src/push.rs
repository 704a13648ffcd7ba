//! Pushing: a snapshot from the bytes of its regions, stored as what differs from the base.

use serde::Serialize;
use sustain_proto::{ManifestError, NodeId, PackRef, RegionName, ServiceName, SnapshotId, Term, TermOrigin};

use crate::{ErrorKind, Fault, ReadError, RegionSource};

/// What is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRequest {
    /// Whose state it is.
    pub service: ServiceName,
    /// What it continues.
    pub lineage: PushLineage,
    /// Wall clock in milliseconds since 1970, for display only.
    pub time_ms: u64,
}

/// What a snapshot continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushLineage {
    /// The newest snapshot of the service in this store.
    ContinueNewest {
        /// For the first snapshot: the node of its term.
        node: NodeId,
        /// For the first snapshot: the nonce of its term.
        nonce: u64,
    },
    /// As the cluster says.
    Explicit {
        /// The term.
        term: Term,
        /// Where the term branched off.
        origin: Option<TermOrigin>,
        /// The snapshots that it continues. The first one that is held here decides the generation;
        /// if none is, the snapshot becomes a base.
        parents: Vec<SnapshotId>,
        /// Its number.
        seq: u64,
    },
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushReport {
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// Its base; none if it is one itself.
    pub base: Option<SnapshotId>,
    /// Its number.
    pub seq: u64,
    /// Bytes of its regions.
    pub bytes_in: u64,
    /// Bytes of the packs that were written.
    pub bytes_new: u64,
    /// Grid positions that differ from the parent, or that are not zero if there is none.
    pub chunks_changed: u64,
    /// Chunks that were stored.
    pub chunks_new: u64,
    /// The packs that the snapshot lists.
    pub packs: Vec<PackRef>,
}

/// Why a push failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// Another push or a rebase of the service is going on.
    #[error("another push or rebase of {service} is going on")]
    Busy {
        /// The service.
        service: ServiceName,
    },
    /// A region was pushed twice.
    #[error("region {region} is given twice")]
    DuplicateRegion {
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
            Self::Busy { .. } => ErrorKind::Busy,
            Self::DuplicateRegion { .. }
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

/// A push under way. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Push {}
impl Push {
    /// Reads, hashes, compresses and writes a region; syncs nothing, so it may run while a VM is paused.
    ///
    /// # Errors
    /// If the source can't be read, or the disk is full or fails. The push is then broken.
    pub fn ingest(&mut self, _name: &RegionName, _source: &dyn RegionSource) -> Result<(), PushError> {
        Err(PushError::Broken)
    }
    /// Makes the snapshot durable and visible.
    ///
    /// # Errors
    /// If the disk is full or fails, or a limit is exceeded.
    pub fn commit(self) -> Result<PushReport, PushError> {
        Err(PushError::Broken)
    }
}
