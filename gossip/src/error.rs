//! Errors of the cluster's operations, and their coarse kinds.

use std::io;
use std::net::SocketAddr;

use sustain_proto::{ChunkId, NodeId, PackId, SnapshotId};

use crate::membership::RosterError;
use crate::roster_file::RosterFileError;
use crate::tls::TlsError;
use crate::tuning::TuningError;

/// What sort of failure an error is; the command line's exit codes go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such node, snapshot or file.
    NotFound,
    /// A node can't be reached, or too few can.
    Unreachable,
    /// Data that is not what it should be.
    Corrupt,
    /// Asked for something that is not allowed, or the peer won't.
    Refused,
    /// Something is in use.
    Busy,
    /// The disk is full.
    NoSpace,
    /// Given up on request.
    Cancelled,
    /// Anything else.
    Failed,
}

impl From<sustain_store::ErrorKind> for ErrorKind {
    fn from(kind: sustain_store::ErrorKind) -> Self {
        match kind {
            sustain_store::ErrorKind::NotFound => Self::NotFound,
            sustain_store::ErrorKind::Busy => Self::Busy,
            sustain_store::ErrorKind::Corrupt => Self::Corrupt,
            sustain_store::ErrorKind::NoSpace => Self::NoSpace,
            sustain_store::ErrorKind::Refused | sustain_store::ErrorKind::Key => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// Why a node can't join its cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting can't work.
    #[error("the cluster's settings can't work")]
    Tuning(#[from] TuningError),
    /// The list of peers contradicts itself.
    #[error("peer {name} can't be used: {reason}")]
    Peer {
        /// The peer's name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Too many peers.
    #[error("a cluster has at most {max} peers, this one has {found}")]
    TooManyPeers {
        /// The limit.
        max: usize,
        /// What was found.
        found: usize,
    },
    /// The UDP port can't be had.
    #[error("can't listen on UDP {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS can't be set up.
    #[error("can't set up the node's identity")]
    Tls(#[from] TlsError),
    /// The roster can't be read.
    #[error("can't use the node's roster")]
    RosterFile(#[from] RosterFileError),
    /// What the node says of itself is refused.
    #[error("can't make the node's roster")]
    Roster(#[from] RosterError),
    /// The node was removed from the cluster.
    #[error("this node was removed from the cluster by {by}")]
    Removed {
        /// The name of the one who did it, or its id.
        by: String,
    },
    /// There is no tokio runtime.
    #[error("a cluster must be started inside a tokio runtime")]
    NoRuntime,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// What the node keeps for its cluster can't be read.
    #[error("can't use what the node keeps for its cluster")]
    Depot(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => ErrorKind::Busy,
            Self::Tuning(_) | Self::Peer { .. } | Self::TooManyPeers { .. } | Self::Removed { .. } => {
                ErrorKind::Refused
            }
            Self::RosterFile(RosterFileError::Damaged { .. }) => ErrorKind::Corrupt,
            _ => ErrorKind::Failed,
        }
    }
}

/// Why the members can't be changed as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The roster refuses it.
    #[error(transparent)]
    Roster(RosterError),
    /// It can't be kept.
    #[error("can't keep what has changed")]
    File(#[from] RosterFileError),
    /// A peer can't be begun with.
    #[error("can't begin with a node")]
    Start(#[from] StartError),
    /// There are too many invitations.
    #[error("{max} invitations are open already; they end when they are used or expire")]
    TooManyInvitations {
        /// The limit.
        max: usize,
    },
    /// This node is shutting down.
    #[error("this node is stopping")]
    Stopped,
}

impl MembershipError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Roster(RosterError::NoMember { .. }) => ErrorKind::NotFound,
            Self::Roster(_) | Self::TooManyInvitations { .. } => ErrorKind::Refused,
            Self::Stopped => ErrorKind::Cancelled,
            Self::Start(error) => error.kind(),
            Self::File(_) => ErrorKind::Failed,
        }
    }
}

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The node is not in the cluster.
    #[error("node {} is not in this cluster", node.short())]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// This node is shutting down.
    #[error("this node is leaving the cluster")]
    Stopped,
    /// No connection.
    #[error("can't reach node {}: {reason}", node.short())]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Why, as QUIC says.
        reason: String,
    },
    /// The two have no version of the wire in common.
    #[error("node {} {mismatch}", node.short())]
    Version {
        /// The node.
        node: NodeId,
        /// What each speaks, and what to do.
        mismatch: String,
    },
    /// The peer speaks an older version of the wire, which has no such request.
    #[error("node {} speaks version {version} of the wire, which has no {what}", node.short())]
    Unspoken {
        /// The node.
        node: NodeId,
        /// What was to be asked.
        what: &'static str,
        /// What the connection speaks.
        version: u16,
    },
    /// No answer in time.
    #[error("node {} gave no answer to {what} in {timeout_ms} ms", node.short())]
    Timeout {
        /// The node.
        node: NodeId,
        /// What was asked.
        what: &'static str,
        /// How long it had.
        timeout_ms: u64,
    },
    /// The connection broke on the way.
    #[error("the connection to node {} broke during {what}: {reason}", node.short())]
    Broken {
        /// The node.
        node: NodeId,
        /// What was asked.
        what: &'static str,
        /// Why, as QUIC says.
        reason: String,
    },
    /// The peer says no.
    #[error("node {} refuses {what}: {reason}", node.short())]
    Refused {
        /// The node.
        node: NodeId,
        /// What was asked.
        what: &'static str,
        /// Its reason.
        reason: String,
    },
    /// What came is no answer to what was asked.
    #[error("node {} gave no proper answer to {what}: {reason}", node.short())]
    Improper {
        /// The node.
        node: NodeId,
        /// What was asked.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The request doesn't fit a frame.
    #[error("{what} can't be sent")]
    Unsendable {
        /// What was asked.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Requests that raw bytes follow have calls of their own.
    #[error("{what} can't be sent as a plain request: raw bytes belong to it")]
    Raw {
        /// What was asked.
        what: &'static str,
    },
    /// This node's own disk fails while it sends.
    #[error("can't read what {what} needs from this node's store")]
    Store {
        /// What was asked.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RequestError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownNode { .. } => ErrorKind::NotFound,
            Self::Unreachable { .. } | Self::Version { .. } | Self::Timeout { .. } | Self::Broken { .. } => {
                ErrorKind::Unreachable
            }
            Self::Refused { .. } | Self::Unspoken { .. } => ErrorKind::Refused,
            Self::Improper { .. } => ErrorKind::Corrupt,
            Self::Stopped => ErrorKind::Cancelled,
            Self::Unsendable { .. } | Self::Raw { .. } | Self::Store { .. } => ErrorKind::Failed,
        }
    }
}

/// Why a snapshot can't be gathered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatherError {
    /// No node could be asked.
    #[error("can't gather snapshot {}: no other node can be reached", id.short())]
    NoPeers {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Nodes answered, and none knows it.
    #[error("none of {asked} reachable nodes knows snapshot {}", id.short())]
    Unknown {
        /// The snapshot, or the base that it needs.
        id: SnapshotId,
        /// How many nodes answered.
        asked: usize,
    },
    /// Packs that no node which answered has.
    #[error(
        "{} of the packs of snapshot {} are on none of {asked} reachable nodes, the first is {}",
        missing.len(), id.short(), missing.first().map_or_else(String::new, PackId::short)
    )]
    Missing {
        /// The snapshot.
        id: SnapshotId,
        /// The packs.
        missing: Vec<PackId>,
        /// How many nodes answered.
        asked: usize,
    },
    /// Packs whose holders went away or stalled again and again.
    #[error(
        "{} of the packs of snapshot {} could not be fetched, the first is {}: {reason}",
        missing.len(), id.short(), missing.first().map_or_else(String::new, PackId::short)
    )]
    Unreachable {
        /// The snapshot.
        id: SnapshotId,
        /// The packs.
        missing: Vec<PackId>,
        /// The last failure.
        reason: String,
    },
    /// Packs of which every node that has them sends wrong bytes.
    #[error(
        "{} of the packs of snapshot {} are damaged on every reachable node, the first is {}",
        damaged.len(), id.short(), damaged.first().map_or_else(String::new, PackId::short)
    )]
    Damaged {
        /// The snapshot.
        id: SnapshotId,
        /// The packs.
        damaged: Vec<PackId>,
    },
    /// A pack that no node which answered has whole, and of which there are too few fragments.
    #[error(
        "pack {} of snapshot {} is on none of {asked} reachable nodes, and {found} different fragments of it are, \
         where {} are needed",
        pack.short(), id.short(), needed.map_or_else(|| "some".to_owned(), |needed| needed.to_string())
    )]
    TooFew {
        /// The snapshot.
        id: SnapshotId,
        /// The pack.
        pack: PackId,
        /// Different fragments that can be had.
        found: usize,
        /// Fragments that rebuild it, if a sheet says so.
        needed: Option<usize>,
        /// How many nodes answered.
        asked: usize,
    },
    /// The store here can't take it.
    #[error("can't {action} of snapshot {}", id.short())]
    Store {
        /// The snapshot.
        id: SnapshotId,
        /// What was being done.
        action: &'static str,
        /// The store's error.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Its kind.
        kind: ErrorKind,
    },
    /// Given up on request.
    #[error("gathering snapshot {} was cancelled", id.short())]
    Cancelled {
        /// The snapshot.
        id: SnapshotId,
    },
}

impl GatherError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPeers { .. } | Self::Missing { .. } | Self::Unreachable { .. } | Self::TooFew { .. } => {
                ErrorKind::Unreachable
            }
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Store { kind, .. } => *kind,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
        }
    }
}

/// Why a chunk can't be had now.
#[derive(Debug, thiserror::Error)]
#[error("no peer gives chunk {} of pack {}: {reason}", chunk.short(), pack.short())]
pub struct ChunkError {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its pack.
    pub pack: PackId,
    /// The last failure.
    pub reason: String,
}
