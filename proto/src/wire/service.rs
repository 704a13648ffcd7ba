//! What nodes say of a service: its snapshots, how its server stands, who would take over.

use serde::{Deserialize, Serialize};

use crate::{ServiceName, SnapshotId, Term, TermOrigin, bounded, limits};

/// A snapshot as peers speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotSummary {
    /// Its id.
    pub id: SnapshotId,
    /// The term in which it was taken.
    pub term: Term,
    /// Where that term branched off.
    pub origin: Option<TermOrigin>,
    /// Its number along the lineage.
    pub seq: u64,
    /// Whether the speaker knows it to be durable.
    pub durable: bool,
    /// Whether the speaker holds all of it.
    pub whole: bool,
}

/// What the server of a service tells every candidate at intervals (P16). It carries the watermark: what
/// clients may rely on (P34).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The service.
    pub service: ServiceName,
    /// The server's term; its node is the server.
    pub term: Term,
    /// Where the term branched off.
    pub origin: Option<TermOrigin>,
    /// Number of the newest snapshot taken.
    pub running_seq: u64,
    /// The newest durable snapshot and its number.
    pub durable: Option<(SnapshotId, u64)>,
    /// Losses that the newest durable snapshot survives.
    pub level: u32,
}

/// A candidate's answer in an election.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The term of the server that the voter hears, if it hears one. The election is off then.
    pub hears: Option<Term>,
    /// The greatest term that the voter knows of, heard or not.
    pub term_known: Option<Term>,
    /// The voter's static priority; greater is better (P20).
    pub priority: u32,
    /// Whether the voter may and can run the service now. One that has just failed pauses.
    pub eligible: bool,
    /// Whether the voter may and can run the service at all.
    pub able: bool,
    /// Snapshots with which the voter's VM could not be started, or soon ended, since the service last lived; at most
    /// [`limits::CONTROL_FAILED_MAX`].
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::CONTROL_FAILED_MAX }>")]
    pub failed: Vec<SnapshotId>,
    /// The snapshots that the voter knows, newest last, at most [`limits::CONTROL_SNAPSHOTS_MAX`].
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::CONTROL_SNAPSHOTS_MAX }>")]
    pub snapshots: Vec<SnapshotSummary>,
}
