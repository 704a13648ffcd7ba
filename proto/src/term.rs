//! Terms: every take-over starts a new one, without a quorum, and no two are ever equal (P13).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// The reign of one server over one service.
///
/// The counter is one more than that of the term taken over; node and nonce tell apart two servers that
/// took over at the same time on two sides of a partition. The order is total, so that two servers that
/// meet agree on which one yields, but it says nothing about ancestry: that is [`Lineage`](crate::Lineage)'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term {
    /// One more than the counter of the term that was taken over; the first term has 1.
    pub counter: u64,
    /// The server.
    pub node: NodeId,
    /// Random: one node may take over twice from the same term (crash, partition).
    pub nonce: u64,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:08x}", self.counter, self.node.short(), self.nonce as u32)
    }
}

/// Where a term branched off: its first snapshot continues this one. Kept in every manifest of the term,
/// so that ancestry can still be decided when the manifests in between are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TermOrigin {
    /// The term that was taken over.
    pub parent: Term,
    /// The sequence number of the snapshot that was restored.
    pub seq: u64,
}
