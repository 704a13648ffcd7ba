//! Who takes over: the replaceable rule of P20.

use sustain_proto::NodeId;

/// A node that stands in an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stand {
    /// Its static priority; greater is better.
    pub priority: u32,
    /// Its id.
    pub node: NodeId,
}

/// Picks the next server among the nodes that stand. Every node that sees the same stands must pick the
/// same one. *What* is restored is not the rule's to choose.
pub trait ElectionRule: Send + Sync {
    /// The winner, or none if nobody stands.
    fn pick(&self, stands: &[Stand]) -> Option<NodeId>;
}

/// The paper's rule: greatest static priority; of equals, the greatest node id.
#[derive(Debug, Clone, Copy, Default)]
pub struct StaticPriority;

impl ElectionRule for StaticPriority {
    fn pick(&self, stands: &[Stand]) -> Option<NodeId> {
        stands.iter().max().map(|stand| stand.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_priority_wins_and_the_id_breaks_ties() {
        let node = |byte| NodeId::from_bytes([byte; 32]);
        let stand = |priority, byte| Stand { priority, node: node(byte) };
        assert_eq!(StaticPriority.pick(&[]), None);
        assert_eq!(StaticPriority.pick(&[stand(1, 9), stand(2, 1)]), Some(node(1)));
        assert_eq!(StaticPriority.pick(&[stand(2, 9), stand(2, 1)]), Some(node(9)));
    }
}
