//! What a service's state machine wants done.

use sustain_proto::wire::{Heartbeat, SnapshotSummary};
use sustain_proto::{SnapshotId, Term, TermOrigin};

use super::Role;

/// Something for the driver to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a heartbeat to every node.
    Heartbeat(Heartbeat),
    /// Ask every node who would stand; answers come back as [`Event::Ballot`](super::Event::Ballot).
    Poll {
        /// Number of the poll, to tell late answers.
        round: u64,
        /// The term that is missed.
        lost: Option<Term>,
    },
    /// Tell every node that this one takes over (P21).
    Claim {
        /// The new term.
        term: Term,
        /// Where it branches off.
        origin: Option<TermOrigin>,
    },
    /// Say that a snapshot failed on every node that could run it, and that the service goes on from an older one.
    PassedOver {
        /// The one that failed. It stays in the stores, as a head.
        passed: SnapshotSummary,
        /// The one that is restored.
        instead: SnapshotSummary,
    },
    /// Make a snapshot whole in the own store.
    Gather {
        /// The term for which.
        term: Term,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Fill a VM from a snapshot, but don't start it.
    Prepare {
        /// The term for which.
        term: Term,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Start the VM that was prepared.
    Resume {
        /// The term.
        term: Term,
        /// Where it branches off.
        origin: Option<TermOrigin>,
        /// The restored snapshot, parent of the term's first one.
        parent: SnapshotId,
    },
    /// Boot the service's VM for the very first time.
    Boot {
        /// The term.
        term: Term,
    },
    /// Stop the VM, prepared or running, and drop what is under way for it.
    Stop,
    /// Send the clients to this node from now on.
    Follow {
        /// The server's term; none while there is no server.
        term: Option<Term>,
    },
    /// The role changed. For logs, status and events.
    Changed {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The term concerned.
        term: Option<Term>,
        /// Why, for people.
        why: &'static str,
    },
}
