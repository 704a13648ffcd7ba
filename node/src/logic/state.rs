//! The states of P2 (Fig. 1 of the paper).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sustain_proto::wire::Ballot;
use sustain_proto::{NodeId, SnapshotId, Term, TermOrigin};

/// A node's role for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Follows a server, or waits for one.
    Candidate,
    /// Misses the server and asks the others.
    Electing,
    /// Has claimed the service and gathers the snapshot to restore.
    Gathering,
    /// Fills and starts the VM.
    Restoring,
    /// Runs the VM.
    Server,
    /// Stops its VM because a greater server was met.
    Yielding,
}

impl Role {
    /// The role's name as in status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Electing => "electing",
            Self::Gathering => "gathering",
            Self::Restoring => "restoring",
            Self::Server => "server",
            Self::Yielding => "yielding",
        }
    }
}

/// A reign that this node has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// Its term.
    pub term: Term,
    /// Where it branches off; none for a service's first start.
    pub origin: Option<TermOrigin>,
    /// The snapshot that it continues; none for a service's first start.
    pub parent: Option<SnapshotId>,
}

impl Reign {
    /// Number of the snapshot that it continues.
    #[must_use]
    pub fn begun_seq(&self) -> u64 {
        self.origin.map_or(0, |origin| origin.seq)
    }
}

/// A state and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// See [`Role::Candidate`].
    Candidate {
        /// No election is called before this time.
        patient_until_ms: u64,
    },
    /// See [`Role::Electing`].
    Electing {
        /// The poll's number.
        round: u64,
        /// The term that is missed.
        lost: Option<Term>,
        /// Reachable peers that have not answered yet.
        awaited: BTreeSet<NodeId>,
        /// The answers.
        ballots: BTreeMap<NodeId, Ballot>,
        /// The count is made now, whoever is still awaited.
        deadline_ms: u64,
    },
    /// See [`Role::Gathering`].
    Gathering(Reign),
    /// See [`Role::Restoring`].
    Restoring(Reign),
    /// See [`Role::Server`].
    Server(Reign),
    /// See [`Role::Yielding`].
    Yielding,
}

impl State {
    /// The role that this state is a case of.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Candidate { .. } => Role::Candidate,
            Self::Electing { .. } => Role::Electing,
            Self::Gathering(_) => Role::Gathering,
            Self::Restoring(_) => Role::Restoring,
            Self::Server(_) => Role::Server,
            Self::Yielding => Role::Yielding,
        }
    }

    /// The reign that this node has claimed, if it has.
    #[must_use]
    pub const fn reign(&self) -> Option<&Reign> {
        match self {
            Self::Gathering(reign) | Self::Restoring(reign) | Self::Server(reign) => Some(reign),
            Self::Candidate { .. } | Self::Electing { .. } | Self::Yielding => None,
        }
    }
}

/// Which role may follow which. The diagram is in `machine.rs`.
#[must_use]
pub(super) const fn is_legal(from: Role, to: Role) -> bool {
    use Role::{Candidate, Electing, Gathering, Restoring, Server, Yielding};
    matches!(
        (from, to),
        (Candidate, Electing)
            | (Electing, Candidate | Gathering | Restoring)
            | (Gathering, Restoring | Electing | Yielding)
            | (Restoring, Server | Electing | Yielding)
            | (Server, Electing | Yielding)
            | (Yielding, Candidate)
    )
}
