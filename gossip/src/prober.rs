//! Drives the node table: sends probes, takes answers, tells who came and went.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sustain_proto::NodeId;
use sustain_proto::wire::Message;
use tokio::sync::{mpsc, watch};

use crate::member::Member;
use crate::probe::{ProbeAction, ProbeTable};

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
#[derive(Debug)]
pub(crate) struct Reach {
    views: BTreeMap<NodeId, watch::Sender<PeerView>>,
}

impl Reach {
    pub(crate) fn new(peers: impl IntoIterator<Item = NodeId>) -> Self {
        let view = |peer| (peer, watch::Sender::new(PeerView::default()));
        Self { views: peers.into_iter().map(view).collect() }
    }

    pub(crate) fn view(&self, peer: &NodeId) -> PeerView {
        self.views.get(peer).map_or_else(PeerView::default, |view| *view.borrow())
    }

    pub(crate) fn reachable(&self, peer: &NodeId) -> bool {
        self.view(peer).reachable
    }

    /// Waits until the peer can be reached.
    pub(crate) async fn wait(&self, peer: &NodeId) {
        match self.views.get(peer) {
            // It fails only if the sender is gone, and that is `self`.
            Some(view) => drop(view.subscribe().wait_for(|view| view.reachable).await),
            None => std::future::pending().await,
        }
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
    let reachable = member.reach.reachable(&peer);
    // The handler knows its name, and tells people.
    tracing::debug!(cluster = member.cluster, peer = %peer.short(), reachable, "a peer has changed");
    member.handler.peer_changed(peer, reachable);
}

fn publish(member: &Member, table: &ProbeTable, peer: NodeId) {
    if let (Some(state), Some(view)) = (table.peer(&peer), member.reach.views.get(&peer)) {
        view.send_replace(PeerView {
            reachable: state.reachable,
            since_ms: state.since_ms,
            rtt_ms: state.rtt_ms,
        });
    }
}
