//! Logic: what a keeper is told, and what it has its driver do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{Held, NodeId, ServiceName, SnapshotId, Term, TermOrigin};

use super::catalog::{Catalog, Entry};
use super::claims::Claim;
use super::message::{Message, Request};
use super::part::Part;

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The time that [`Keeper::wakes_ms`](super::Keeper::wakes_ms) named has come.
    Wake,
    /// Members are alive, each with the label of its failure domain, which is empty for none.
    Alive {
        /// The members.
        nodes: Vec<(NodeId, String)>,
    },
    /// A member is dead.
    Dead {
        /// The member.
        node: NodeId,
    },
    /// A member was removed for ever.
    Removed {
        /// The member.
        node: NodeId,
    },
    /// What these nodes say that they have does not count for durability, what all others say does: an audit has shown
    /// that they do not have it.
    Doubted {
        /// All such nodes.
        nodes: BTreeSet<NodeId>,
    },
    /// This node is the service's server, and its store retains this. Everything listed is synced here.
    Retained {
        /// The service.
        service: ServiceName,
        /// The server's term: its node is this one.
        term: Term,
        /// Losses of nodes that everything is to survive (f).
        tolerance: u8,
        /// Candidates that are to hold everything.
        warm: Vec<NodeId>,
        /// Term records that are known besides those of the snapshots, the term's own among them.
        terms: BTreeMap<Term, Option<TermOrigin>>,
        /// Heads of other lines that were merged into this one, or released.
        merged: BTreeSet<Held>,
        /// The snapshots; `added` is filled in here.
        entries: Vec<Entry>,
    },
    /// A message came.
    Message {
        /// From this node, for sure.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Bytes that were asked for came, were verified, and stand in the part's file, not yet synced.
    Fetched {
        /// The request.
        request: Request,
        /// What came.
        range: (u64, u64),
        /// Whether the answer is complete.
        is_last: bool,
    },
    /// A request came to nothing: the connection broke, or nothing came for too long.
    Failed {
        /// The request.
        request: Request,
    },
    /// A request brought wrong bytes.
    Wrong {
        /// The request.
        request: Request,
    },
    /// A part is synced.
    Synced {
        /// The part.
        part: Part,
    },
    /// A part that was here is damaged or gone: it is wanted again.
    Lost {
        /// The part.
        part: Part,
    },
    /// A part was made of others, and stands in its file, not yet synced.
    Made {
        /// The part.
        part: Part,
    },
    /// A part could not be made of others.
    NotMade {
        /// The part.
        part: Part,
    },
    /// Bytes that were to be served are sent, or can't be.
    Served {
        /// To this node.
        to: NodeId,
        /// Its request.
        request: Request,
    },
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message. It may get lost.
    Send {
        /// To this node.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Send bytes of a part, of which this node has the range, or the whole pack; then [`Event::Served`].
    Serve {
        /// To this node.
        to: NodeId,
        /// Its request.
        request: Request,
        /// The part.
        part: Part,
        /// What of it.
        range: (u64, u64),
    },
    /// Sync a part's file and its folder; then [`Event::Synced`].
    Sync {
        /// The part.
        part: Part,
    },
    /// Make a part of others, which are all here; then [`Event::Made`].
    Make {
        /// The part.
        part: Part,
        /// Of these: the whole pack, or enough of its fragments.
        from: Vec<Part>,
    },
    /// Remove a part's file, synced or not. Nothing that is asked of it later is done.
    Drop {
        /// The part.
        part: Part,
    },
    /// Keep this node's claim over a restart, before anything that follows is done.
    Keep {
        /// The claim.
        claim: Claim,
    },
    /// Keep a catalog over a restart, before anything that follows is done: what is here and stands in none is dropped.
    Remember {
        /// The catalog.
        catalog: Arc<Catalog>,
    },
    /// On the server: this is how many losses of nodes a snapshot survives now, besides this node's; none if it does
    /// not survive even now.
    Level {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        id: SnapshotId,
        /// Losses.
        level: Option<usize>,
    },
    /// A line's catalog is needed no more, since another one covers all that it lists: it is kept no longer.
    Forget {
        /// The service.
        service: ServiceName,
        /// The line.
        term: Term,
    },
    /// A node sent what can't be true.
    Misbehaved {
        /// The node.
        node: NodeId,
        /// What was wrong.
        what: &'static str,
    },
    /// A catalog is too large, or one too many: it is not made known, or not taken.
    TooMuch {
        /// The service.
        service: ServiceName,
        /// The line.
        term: Term,
        /// What there is too much of.
        what: &'static str,
    },
}
