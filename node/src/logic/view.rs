//! What others may know of a state machine: its answers to polls, and what status and clients are told.

use sustain_proto::wire::{Ballot, Heartbeat};
use sustain_proto::{Lineage, Term, TermOrigin, limits};

use super::machine::{Heard, Machine};
use super::{Role, State};

/// Why there is no server and this node makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A node that has just started awaits a majority, since the newest state may be elsewhere.
    TooFewAnswer {
        /// Nodes that answered, this one too.
        answered: usize,
        /// All nodes.
        nodes: usize,
    },
    /// No snapshot is to be had, and the service's first start is another node's, or is not allowed now.
    NothingToRestore,
    /// No node that answers may and can run the service now.
    NobodyStands,
}

impl Machine {
    /// This node's answer to a poll (P20).
    #[must_use]
    pub fn ballot(&self, now_ms: u64) -> Ballot {
        let fresh = |heard: &Heard| now_ms.saturating_sub(heard.at_ms) <= self.config.timing.fresh_ms;
        let first = self.known.len().saturating_sub(limits::CONTROL_SNAPSHOTS_MAX);
        Ballot {
            hears: self
                .state
                .reign()
                .map(|reign| reign.term)
                .or_else(|| self.heard.filter(fresh).map(|heard| heard.term)),
            term_known: self.greatest,
            priority: self.config.priority,
            eligible: self.eligible(now_ms),
            able: self.able(),
            failed: self.failures.list(),
            snapshots: self.known[first..].to_vec(),
        }
    }

    /// The greatest term known for the service.
    #[must_use]
    pub fn greatest(&self) -> Option<Term> {
        self.greatest
    }

    /// Where a term branched off, if that is known.
    #[must_use]
    pub fn origin(&self, term: &Term) -> Option<TermOrigin> {
        self.lineage.origin(term).flatten()
    }

    /// Term records that were heard.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The state, for status and tests.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The role, for status.
    #[must_use]
    pub fn role(&self) -> Role {
        self.state.role()
    }

    /// The term of the server that this node follows or is.
    #[must_use]
    pub fn following(&self) -> Option<Term> {
        match &self.state {
            State::Server(reign) => Some(reign.term),
            _ => self.heard.map(|heard| heard.term),
        }
    }

    /// What clients may rely on, as last heard or as said by this node itself (P34).
    #[must_use]
    pub fn watermark(&self) -> Option<&Heartbeat> {
        self.watermark.as_ref()
    }

    /// Why there is no server, as the last election here found; none while there is one.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.obstacle
    }
}
