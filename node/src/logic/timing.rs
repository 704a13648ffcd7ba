//! The waits and intervals of a service's state machine.

use serde::{Deserialize, Serialize};

/// Intervals and time-outs in milliseconds. The defaults suit a LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timing {
    /// Between two heartbeats of a server (P16).
    pub heartbeat_ms: u64,
    /// A heartbeat that stays out for longer makes its server suspect: six intervals, so that a few
    /// late ones in a row raise no false alarm.
    pub suspect_ms: u64,
    /// A node that heard a heartbeat within this time objects to an election. Less than
    /// `suspect_ms` by more than one interval: all candidates hear the last heartbeat at about the
    /// same time, and none of them may veto the first that notices.
    pub fresh_ms: u64,
    /// How long an election waits for ballots of nodes that don't answer.
    pub poll_ms: u64,
    /// How long a loser waits for the winner's first heartbeat before it calls another election.
    pub claim_ms: u64,
    /// How long a node that has just started listens for a server before it calls an election, unless
    /// it reaches all nodes earlier.
    pub quiet_ms: u64,
    /// How long a node that has just started, and hears no server, waits for a majority of the nodes
    /// before it restores the newest state that it can find without them.
    pub lonely_ms: u64,
    /// A node whose own timer ran later than this was stalled, and suspects nobody until it has
    /// listened for `suspect_ms` again.
    pub stall_ms: u64,
    /// How long a node that failed to restore stands in no election.
    pub penalty_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 200,
            suspect_ms: 1_200,
            fresh_ms: 700,
            poll_ms: 400,
            claim_ms: 1_500,
            quiet_ms: 3_000,
            lonely_ms: 60_000,
            stall_ms: 600,
            penalty_ms: 30_000,
        }
    }
}
