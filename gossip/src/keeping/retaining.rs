//! What this node is the server of.

use std::collections::BTreeSet;

use sustain_proto::{Held, NodeId, ServiceName, Term, TermOrigin};

/// A line whose server is this node: what its store retains of the service is to be kept by all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retain {
    /// The service.
    pub service: ServiceName,
    /// The server's term: its node is this one.
    pub term: Term,
    /// Where the term branched off.
    pub origin: Option<TermOrigin>,
    /// Losses of nodes that each snapshot is to survive (f).
    pub tolerance: u32,
    /// Nodes that are to hold everything.
    pub warm: Vec<NodeId>,
    /// Heads of other lines that were merged into this one, or released: nobody keeps them for their own sake.
    pub merged: BTreeSet<Held>,
}
