//! The other members, as they come and go while the node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use sustain_proto::NodeId;
use sustain_proto::wire::Message;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Peer;
use crate::transport::links::lock;

/// The table of peers.
#[derive(Default)]
pub(crate) struct Peers {
    table: Mutex<BTreeMap<NodeId, Slot>>,
    /// Told when somebody came or went. One waits.
    pub(crate) changed: Notify,
}

struct Slot {
    peer: Peer,
    outbox: mpsc::Sender<Message>,
    /// Ends the peer's tasks.
    end: CancellationToken,
}

impl Peers {
    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        lock(&self.table).contains_key(node)
    }

    pub(crate) fn ids(&self) -> BTreeSet<NodeId> {
        lock(&self.table).keys().copied().collect()
    }

    /// All of them, by id.
    pub(crate) fn list(&self) -> Vec<Peer> {
        lock(&self.table).values().map(|slot| slot.peer.clone()).collect()
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<Peer> {
        lock(&self.table).get(node).map(|slot| slot.peer.clone())
    }

    pub(crate) fn outbox(&self, node: &NodeId) -> Option<mpsc::Sender<Message>> {
        lock(&self.table).get(node).map(|slot| slot.outbox.clone())
    }

    /// Adds a peer. What ends its tasks.
    pub(crate) fn add(&self, peer: Peer, outbox: mpsc::Sender<Message>) -> CancellationToken {
        let end = CancellationToken::new();
        lock(&self.table).insert(peer.id, Slot { peer, outbox, end: end.clone() });
        self.changed.notify_one();
        end
    }

    /// What is known of a peer is different now.
    pub(crate) fn update(&self, peer: Peer) {
        if let Some(slot) = lock(&self.table).get_mut(&peer.id) {
            slot.peer = peer;
        }
    }

    /// Forgets a peer, and ends its tasks.
    pub(crate) fn remove(&self, node: &NodeId) {
        if let Some(slot) = lock(&self.table).remove(node) {
            slot.end.cancel();
        }
        self.changed.notify_one();
    }
}
