//! The node's recent events, for people and for the demo: a bounded ring that readers follow by number.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName, SnapshotId, Term};
use tokio::sync::Notify;

use crate::clock;
use crate::limits;
use crate::logic::Role;
use crate::woken::Woken;

/// Something that happened on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Counts up from 1; a gap says that older events were dropped.
    pub number: u64,
    /// Wall clock in milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// The node's role for a service changed.
    Role {
        /// The service.
        service: ServiceName,
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The term concerned.
        term: Option<Term>,
        /// Why.
        why: String,
    },
    /// A snapshot was taken and committed to the local store.
    Snapshot {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its number.
        seq: u64,
        /// How long the guest stood still.
        pause_ms: f64,
        /// Bytes of the snapshot's regions.
        bytes_in: u64,
        /// Bytes written to the store.
        bytes_new: u64,
        /// Chunks that differ from the parent's.
        chunks_changed: u64,
        /// From the beginning of the pause to the end of the commit.
        seconds: f64,
    },
    /// A snapshot reached enough other nodes.
    Durable {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its number.
        seq: u64,
        /// How many other nodes have synced it.
        copies: usize,
    },
    /// What a restore of a snapshot takes is here. The rest is fetched while its VM runs.
    Startable {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Bytes that came from other nodes.
        bytes_fetched: u64,
        /// Bytes that are still on other nodes.
        bytes_left: u64,
    },
    /// A snapshot was made whole in the local store.
    Gathered {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Bytes that came from other nodes.
        bytes_fetched: u64,
    },
    /// A snapshot failed on every node that could run it: the service goes on from an older one, and its work since
    /// then is lost to it. The snapshot stays in the stores.
    PassedOver {
        /// The service.
        service: ServiceName,
        /// The snapshot that failed.
        snapshot: SnapshotId,
        /// Its number.
        seq: u64,
        /// The one that is restored instead.
        instead: SnapshotId,
        /// Its number.
        instead_seq: u64,
    },
    /// A VM was restored from a snapshot.
    Restored {
        /// The service.
        service: ServiceName,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its number.
        seq: u64,
    },
    /// A restored guest was told where and when it is.
    Woken {
        /// The service.
        service: ServiceName,
        /// What was done.
        report: Woken,
    },
    /// A generation ended: a newer snapshot is the base now (P10).
    Rebased {
        /// The service.
        service: ServiceName,
        /// The new base.
        base: SnapshotId,
        /// Snapshots that were dropped.
        dropped: usize,
    },
    /// A peer can be reached, or no longer.
    Peer {
        /// The peer.
        node: NodeId,
        /// Its name.
        name: String,
        /// Whether it answers.
        reachable: bool,
    },
    /// Something went wrong.
    Problem {
        /// The service concerned.
        service: Option<ServiceName>,
        /// What, with its causes.
        what: String,
    },
}

/// The ring.
#[derive(Debug, Default)]
pub struct EventLog {
    ring: Mutex<(u64, VecDeque<NodeEvent>)>,
    added: Notify,
}

impl EventLog {
    /// Notes an event, at the current time, and logs it.
    pub fn add(&self, what: Happening) {
        match &what {
            Happening::Problem { what, .. } => tracing::warn!(problem = %what),
            Happening::Snapshot { .. } | Happening::Durable { .. } => tracing::debug!(event = ?what),
            _ => tracing::info!(event = ?what),
        }
        let mut guard = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (number, ring) = &mut *guard;
        *number += 1;
        if ring.len() == limits::EVENTS_KEPT {
            ring.pop_front();
        }
        ring.push_back(NodeEvent { number: *number, time_ms: clock::wall_ms(), what });
        drop(guard);
        self.added.notify_waiters();
    }

    /// The events after this number, oldest first.
    #[must_use]
    pub fn after(&self, number: u64) -> Vec<NodeEvent> {
        let guard = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        guard.1.iter().filter(|event| event.number > number).cloned().collect()
    }

    /// As [`EventLog::after`], but waits until there is at least one, or the time is over.
    pub async fn wait_after(&self, number: u64, patience: std::time::Duration) -> Vec<NodeEvent> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let added = self.added.notified();
            let events = self.after(number);
            if !events.is_empty() || tokio::time::timeout_at(deadline, added).await.is_err() {
                return events;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_numbers_go_on() {
        let log = EventLog::default();
        for _ in 0..limits::EVENTS_KEPT + 5 {
            log.add(Happening::Problem { service: None, what: "test".to_owned() });
        }
        let events = log.after(0);
        assert_eq!(events.len(), limits::EVENTS_KEPT);
        assert_eq!(events[0].number, 6);
        assert_eq!(log.after(events.last().unwrap().number), Vec::new());
    }
}
