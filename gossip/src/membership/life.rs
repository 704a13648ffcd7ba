//! Logic: a node as SWIM knows it. Who was taken for dead, or starts again, goes on with a new life.

use sustain_proto::NodeId;

use serde::{Deserialize, Serialize};

/// Lives that one step may skip. Each is a start or a false alarm, so nobody ever has as many; a greater step is a
/// lie that would leave its victim without lives.
const SKIPPED_MAX: u64 = 1 << 20;

/// One life of a node. The greater number wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The node.
    pub(crate) node: NodeId,
    /// Which of its lives.
    pub(crate) number: u64,
}

impl Life {
    /// Whether this number may follow one that is known.
    pub(crate) fn is_plausible(&self, known: u64) -> bool {
        self.number <= known.saturating_add(SKIPPED_MAX)
    }
}

impl foca::Identity for Life {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { node: self.node, number: self.number.checked_add(1)? })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.number > other.number
    }
}
