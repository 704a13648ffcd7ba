//! What a service's state machine is told.

use std::collections::BTreeSet;

use sustain_proto::wire::{Ballot, Heartbeat, SnapshotSummary};
use sustain_proto::{NodeId, SnapshotId, Term, TermOrigin};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. Sent at least every half heartbeat interval.
    Tick,
    /// A server's heartbeat arrived.
    Heartbeat(Heartbeat),
    /// A peer can be reached, or no longer.
    Peer {
        /// The peer.
        node: NodeId,
        /// Whether it answers.
        reachable: bool,
    },
    /// These are all the other members of the cluster now: joined, and not removed.
    Members(BTreeSet<NodeId>),
    /// A peer asks who would stand, since it misses this term's server.
    Polled {
        /// The peer.
        from: NodeId,
        /// The term that the peer misses; none if it never heard a server.
        lost: Option<Term>,
    },
    /// A peer answered this node's poll.
    Ballot {
        /// The peer.
        from: NodeId,
        /// The poll's number.
        round: u64,
        /// Its answer; none if it could not be had.
        ballot: Option<Ballot>,
    },
    /// A peer takes over, or answers this node's own claim with the greatest term that it knows.
    Claimed {
        /// The term.
        term: Term,
        /// Where it branched off; none if unknown or a service's first.
        origin: Option<TermOrigin>,
    },
    /// The snapshots of the service in this node's own store, oldest first.
    Known(Vec<SnapshotSummary>),
    /// Whether the key is here that the newest snapshot in this node's own store is sealed under. Without it the
    /// service can't be run here.
    Readable(bool),
    /// What restoring the snapshot takes is in this node's store.
    Gathered {
        /// The term for which it was gathered.
        term: Term,
    },
    /// It could not be gathered.
    GatherFailed {
        /// The term for which it was wanted.
        term: Term,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The VM is filled in and could start.
    Prepared {
        /// The term for which it was prepared.
        term: Term,
    },
    /// The VM runs.
    Running {
        /// The term in which it was started.
        term: Term,
    },
    /// The VM could not be restored or started.
    StartFailed {
        /// The term.
        term: Term,
    },
    /// The VM of this term is gone without having been told to.
    Exited {
        /// The term.
        term: Term,
    },
    /// The VM has been stopped, as told.
    Stopped,
    /// A snapshot was taken and committed to the node's own store.
    Taken {
        /// Its number.
        seq: u64,
    },
    /// A snapshot became durable.
    Durable {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its number.
        seq: u64,
        /// Losses that it survives.
        level: u32,
    },
}
