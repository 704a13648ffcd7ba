//! What all parts of a running node share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::Connection;
use sustain_proto::wire::{Lane, Message};
use sustain_proto::{NodeId, Piece};
use sustain_store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::handler::Handler;
use crate::healths::Healths;
use crate::invitations::Invitations;
use crate::keeping::Keeping;
use crate::lists::Lists;
use crate::peers::Peers;
use crate::prober::{ProbeEvent, Reach};
use crate::registry::Registry;
use crate::share::Uplink;
use crate::tasks::Tasks;
use crate::tls::Pinned;
use crate::transport::accept::Served;
use crate::transport::links::{Links, lock};
use crate::tuning::Tuning;

/// A node as a member of its cluster.
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) cluster: String,
    pub(crate) peers: Peers,
    pub(crate) near: Mutex<BTreeSet<NodeId>>,
    pub(crate) registry: Registry,
    pub(crate) healths: Healths,
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) invitations: Invitations,
    /// Room for those that join at once.
    pub(crate) joins: Semaphore,
    pub(crate) tuning: Tuning,
    pub(crate) store: Store,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) tasks: Tasks,
    pub(crate) links: Links,
    pub(crate) served: Served,
    pub(crate) reach: Reach,
    pub(crate) probe_events: mpsc::Sender<ProbeEvent>,
    pub(crate) keeping: Keeping,
    pub(crate) bulk_served: Semaphore,
    pub(crate) uplink: Uplink,
    pub(crate) lists: Lists<Piece>,
    pub(crate) requests: AtomicU64,
    pub(crate) started: Instant,
}

impl Member {
    /// Milliseconds since the start, on a clock that never jumps back.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Queues a message. False if the peer is unknown or not connected, or too many messages wait.
    pub(crate) fn send(&self, to: NodeId, message: Message) -> bool {
        let connected = self.links.live(to, Lane::Control).is_some();
        connected && self.peers.outbox(&to).is_some_and(|outbox| outbox.try_send(message).is_ok())
    }

    /// This node's neighbours in the overlay, as it is now.
    pub(crate) fn neighbours(&self) -> BTreeSet<NodeId> {
        lock(&self.near).clone()
    }

    /// The peers in the order in which to ask them for data: neighbours first, lost ones last.
    pub(crate) fn asking_order(&self) -> Vec<NodeId> {
        let neighbours = self.neighbours();
        let mut order: Vec<NodeId> = self.peers.ids().into_iter().collect();
        order.sort_by_key(|peer| (!self.reach.reachable(peer), !neighbours.contains(peer), *peer));
        order
    }

    /// Counts a request that is sent.
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were sent since the start.
    #[cfg(test)]
    pub(crate) fn requests_sent(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.tuning.request_timeout_ms)
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.tuning.stall_timeout_ms)
    }
}

/// Whether a connection ended because the peer said that it leaves.
pub(crate) fn left(connection: &Connection) -> bool {
    matches!(
        connection.close_reason(),
        Some(quinn::ConnectionError::ApplicationClosed(close))
            if close.error_code == crate::transport::quic::CLOSE_LEAVING
    )
}
