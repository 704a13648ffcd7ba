//! Logic: which nodes hold what, and when that is enough (P11, P12).

use std::collections::BTreeSet;

use sustain_proto::{NodeId, SnapshotId};

/// A rule for spreading a snapshot.
pub trait Placement: Send + Sync + 'static {
    /// The nodes to which this node sends the snapshot, of these neighbours.
    fn holders(&self, snapshot: SnapshotId, neighbours: &BTreeSet<NodeId>) -> BTreeSet<NodeId>;

    /// How many nodes, other than the one that took it, must have synced a snapshot so that it survives
    /// the loss of any `tolerance` of them.
    fn copies_needed(&self, tolerance: u32) -> usize;
}

/// Every neighbour holds everything: erasure coding's special case of one data fragment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replicate;

impl Placement for Replicate {
    fn holders(&self, _snapshot: SnapshotId, neighbours: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        neighbours.clone()
    }

    fn copies_needed(&self, tolerance: u32) -> usize {
        usize::try_from(tolerance).unwrap_or(usize::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_needs_one_copy_more_than_may_be_lost() {
        assert_eq!(Replicate.copies_needed(0), 1);
        assert_eq!(Replicate.copies_needed(2), 3);
        let near: BTreeSet<NodeId> = (0..4).map(|number| NodeId::from_bytes([number; 32])).collect();
        assert_eq!(Replicate.holders(SnapshotId::from_bytes([9; 32]), &near), near);
    }
}
