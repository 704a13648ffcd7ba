//! What a push is told, and what it tells.

use serde::Serialize;
use sustain_proto::{NodeId, PackRef, ServiceName, SnapshotId, Term, TermOrigin};

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
    /// The newest snapshot of the service in this store, in its term. Where that is another node's, or there is none, a
    /// new term begins: two nodes that go on from one snapshot never give the same number in the same term.
    ContinueNewest {
        /// The node that pushes.
        node: NodeId,
        /// The nonce of a new term.
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
