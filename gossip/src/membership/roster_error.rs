//! Why a roster is not changed as asked, or a fact not believed.

use sustain_proto::{DetailsError, NodeId};

use super::statement::StatementError;

/// Why a roster is not changed as asked, or a fact not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// It can't be signed, or is signed wrongly.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The details that it gives are none.
    #[error("a node's details are refused")]
    Details(#[from] DetailsError),
    /// It is signed by a node that nobody has admitted.
    #[error("a statement is signed by {signer}, which nobody has admitted", signer = signer.short())]
    Stranger {
        /// The signer.
        signer: NodeId,
    },
    /// The roster has no room.
    #[error("the roster is full: it has {count} {what}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The node was removed, which is for ever.
    #[error("node {node} was removed from the cluster", node = node.short())]
    Removed {
        /// The node.
        node: NodeId,
    },
    /// A node can't remove itself: whom it has admitted would go with it.
    #[error("a node can't remove itself from the cluster")]
    Itself,
    /// The node is no member.
    #[error("node {node} is no member of the cluster", node = node.short())]
    NoMember {
        /// The node.
        node: NodeId,
    },
}
