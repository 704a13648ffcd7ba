//! The node's recent events, for people and for the demo: a bounded ring that readers follow by number.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sustain_proto::human::{Size, counted};
use sustain_proto::{NodeId, PackId, ServiceName, SnapshotId, Term};
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
    /// A bad pack was sent again by another node.
    Mended {
        /// A service whose snapshots need it.
        service: Option<ServiceName>,
        /// The pack.
        pack: PackId,
        /// What was wrong with it.
        reason: String,
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
    /// A peer misbehaves, and this node has nothing to do with it for a while.
    ShutOut {
        /// The peer.
        node: NodeId,
        /// Its name.
        name: String,
        /// What it does.
        reason: String,
        /// For how long.
        for_ms: u64,
    },
    /// Something went wrong.
    Problem {
        /// The service concerned.
        service: Option<ServiceName>,
        /// What, with its causes.
        what: String,
    },
}

impl Happening {
    /// The service concerned.
    #[must_use]
    pub const fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Role { service, .. }
            | Self::Snapshot { service, .. }
            | Self::Durable { service, .. }
            | Self::Startable { service, .. }
            | Self::Gathered { service, .. }
            | Self::PassedOver { service, .. }
            | Self::Restored { service, .. }
            | Self::Woken { service, .. }
            | Self::Rebased { service, .. } => Some(service),
            Self::Mended { service, .. } | Self::Problem { service, .. } => service.as_ref(),
            Self::Peer { .. } | Self::ShutOut { .. } => None,
        }
    }

    /// What happened, in one line for people; the service is left out.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Role { from, to, why, .. } if from == to => format!("{} still ({why})", to.as_str()),
            Self::Role { from, to, why, .. } => format!("{} → {} ({why})", from.as_str(), to.as_str()),
            Self::Snapshot { seq, pause_ms, bytes_new, chunks_changed, .. } => {
                let (chunks, new) = (counted(*chunks_changed, "chunk", "chunks"), Size(*bytes_new));
                format!("snapshot {seq}: {chunks} changed, {new} new, the guest paused {pause_ms:.0} ms")
            }
            Self::Durable { seq, copies, .. } => {
                let copies = counted(*copies as u64, "other node", "other nodes");
                format!("snapshot {seq} is durable, on {copies}")
            }
            Self::Startable { snapshot, bytes_fetched, bytes_left, .. } => {
                let (fetched, left) = (Size(*bytes_fetched), Size(*bytes_left));
                format!(
                    "snapshot {} can be restored, {fetched} fetched, {left} to come later",
                    snapshot.short()
                )
            }
            Self::Gathered { snapshot, bytes_fetched, .. } => {
                format!("snapshot {} is whole, {} fetched", snapshot.short(), Size(*bytes_fetched))
            }
            Self::PassedOver { seq, instead_seq, .. } => {
                format!("snapshot {seq} failed everywhere, {instead_seq} is restored instead")
            }
            Self::Restored { seq, .. } => format!("the VM goes on from snapshot {seq}"),
            Self::Woken { report, .. } => {
                let clock = match report.clock_before_ms {
                    Some(off_ms) => {
                        format!("the restored guest's clock was {off_ms:.0} ms off, and is set")
                    }
                    None => "the restored guest's clock was not set".to_owned(),
                };
                let undone: String = report.undone.iter().map(|what| format!("; not done: {what}")).collect();
                clock + &undone
            }
            Self::Rebased { base, dropped, .. } => {
                let dropped = counted(*dropped as u64, "snapshot", "snapshots");
                format!("{} is the base now, {dropped} dropped", base.short())
            }
            Self::Mended { pack, reason, .. } => {
                format!("pack {} was bad ({reason}), and was sent again", pack.short())
            }
            Self::Peer { name, reachable: true, .. } => format!("{name} can be reached"),
            Self::Peer { name, reachable: false, .. } => format!("{name} can't be reached"),
            Self::ShutOut { name, reason, for_ms, .. } => {
                format!("{name} is shut out for {} s: {reason}", for_ms / 1_000)
            }
            Self::Problem { what, .. } => what.clone(),
        }
    }
}

/// One line for a log.
impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service() {
            Some(service) => write!(f, "{service}: {}", self.words()),
            None => f.write_str(&self.words()),
        }
    }
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
            Happening::Problem { .. } => tracing::warn!("{what}"),
            Happening::Snapshot { .. } | Happening::Durable { .. } => tracing::debug!("{what}"),
            _ => tracing::info!("{what}"),
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

    /// Logs once showed events as the compiler prints them, with braces, quotes and ten digits after the point.
    #[test]
    fn an_event_is_one_line_for_people() {
        let service: ServiceName = "wiki".parse().unwrap();
        let snapshot = SnapshotId::from_bytes([7; 32]);
        let role = |to| Happening::Role {
            service: service.clone(),
            from: Role::Candidate,
            to,
            term: None,
            why: "the server's heartbeats stay out".to_owned(),
        };
        let taken = Happening::Snapshot {
            service: service.clone(),
            snapshot,
            seq: 6,
            pause_ms: 3.724_418,
            bytes_in: 1 << 30,
            bytes_new: 635_600,
            chunks_changed: 1,
            seconds: 0.123_456,
        };
        let woken = Woken {
            clock_before_ms: Some(-1_234.567),
            clock_after_ms: Some(0.2),
            host_name: None,
            undone: vec!["reading the host name: the guest has no agent".to_owned()],
        };
        for (event, line) in [
            (role(Role::Electing), "wiki: candidate → electing (the server's heartbeats stay out)"),
            (role(Role::Candidate), "wiki: candidate still (the server's heartbeats stay out)"),
            (taken, "wiki: snapshot 6: 1 chunk changed, 620.7 KiB new, the guest paused 4 ms"),
            (
                Happening::Woken { service: service.clone(), report: woken },
                "wiki: the restored guest's clock was -1235 ms off, and is set; \
                 not done: reading the host name: the guest has no agent",
            ),
            (
                Happening::Rebased { service, base: snapshot, dropped: 1 },
                "wiki: 070707070707 is the base now, 1 snapshot dropped",
            ),
            (
                Happening::Peer {
                    node: NodeId::from_bytes([1; 32]),
                    name: "cellar".to_owned(),
                    reachable: false,
                },
                "cellar can't be reached",
            ),
        ] {
            assert_eq!(event.to_string(), line);
        }
    }

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
