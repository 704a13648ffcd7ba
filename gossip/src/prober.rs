//! Drives the node table: sends probes, takes answers, tells who came and went.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sustain_proto::NodeId;
use sustain_proto::wire::Message;
use tokio::sync::{mpsc, watch};

use crate::member::Member;
use crate::probe::{PeerState, ProbeAction, ProbeTable};
use crate::transport::links::lock;

/// What connections tell the prober.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProbeEvent {
    /// A peer answered a probe.
    Answered { peer: NodeId, nonce: u64, at_ms: u64 },
    /// A peer said that it leaves.
    Left { peer: NodeId },
}

/// How one peer stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeerView {
    pub(crate) reachable: bool,
    pub(crate) since_ms: u64,
    pub(crate) rtt_ms: Option<u64>,
}

/// How the peers stand, for all who want to know or to wait.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    views: Mutex<BTreeMap<NodeId, watch::Sender<PeerView>>>,
}

impl Reach {
    /// Begins with a peer, as lost.
    pub(crate) fn add(&self, peer: NodeId) {
        lock(&self.views).entry(peer).or_insert_with(|| watch::Sender::new(PeerView::default()));
    }

    /// Forgets a peer. Whoever waits for it waits for ever.
    pub(crate) fn remove(&self, peer: &NodeId) {
        lock(&self.views).remove(peer);
    }

    pub(crate) fn view(&self, peer: &NodeId) -> PeerView {
        lock(&self.views).get(peer).map_or_else(PeerView::default, |view| *view.borrow())
    }

    fn publish(&self, peer: &NodeId, now: PeerView) {
        if let Some(view) = lock(&self.views).get(peer) {
            view.send_replace(now);
        }
    }

    pub(crate) fn reachable(&self, peer: &NodeId) -> bool {
        self.view(peer).reachable
    }
}

/// Probes until the cluster stops.
pub(crate) async fn run(member: Arc<Member>, mut events: mpsc::Receiver<ProbeEvent>, mut table: ProbeTable) {
    loop {
        let pause_ms = table.wake_ms().saturating_sub(member.now_ms());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {
                for action in table.tick(member.now_ms()) {
                    act(&member, &table, action);
                }
            }
            event = events.recv() => {
                let Some(event) = event else { return };
                take(&member, &mut table, event);
            }
            () = member.peers.changed.notified() => {
                for peer in table.set_peers(&member.peers.ids(), member.now_ms()) {
                    tell(&member, peer, false);
                }
            }
        }
    }
}

fn act(member: &Member, table: &ProbeTable, action: ProbeAction) {
    match action {
        ProbeAction::Probe { peer, nonce } => {
            // An unconnected peer can't be probed; that counts as no answer.
            member.send(peer, Message::Probe { nonce });
        }
        ProbeAction::Lost { peer } => changed(member, table, peer),
    }
}

fn take(member: &Member, table: &mut ProbeTable, event: ProbeEvent) {
    match event {
        ProbeEvent::Answered { peer, nonce, at_ms } => {
            if table.answered(peer, nonce, at_ms) {
                member.links.answered(peer);
                changed(member, table, peer);
            } else {
                publish(member, table, peer);
            }
        }
        ProbeEvent::Left { peer } => {
            if table.left(peer, member.now_ms()) {
                changed(member, table, peer);
            }
        }
    }
}

fn changed(member: &Member, table: &ProbeTable, peer: NodeId) {
    publish(member, table, peer);
    tell(member, peer, member.reach.reachable(&peer));
}

fn tell(member: &Member, peer: NodeId, reachable: bool) {
    // The handler knows its name, and tells people.
    tracing::debug!(cluster = member.cluster, peer = %peer.short(), reachable, "a peer has changed");
    member.handler.peer_changed(peer, reachable);
    member.keeping.members.notify_one();
}

fn publish(member: &Member, table: &ProbeTable, peer: NodeId) {
    if let Some(state) = table.peer(&peer) {
        let &PeerState { reachable, since_ms, rtt_ms, .. } = state;
        member.reach.publish(&peer, PeerView { reachable, since_ms, rtt_ms });
    }
}
