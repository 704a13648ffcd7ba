//! Drives SWIM and the circle: carries packets, and tells who is alive and who is a neighbour.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sustain_proto::NodeId;
use sustain_proto::wire::Lane;
use tokio::sync::mpsc;

use crate::member::Member;
use crate::membership::{Circle, Health, Swim, SwimAction};
use crate::overlay::Members;
use crate::transport::links::lock;

/// What others tell the driver.
#[derive(Debug)]
pub(crate) enum HealthEvent {
    /// A packet came from a peer, over its own connection.
    Datagram {
        /// The peer.
        from: NodeId,
        /// The packet.
        datagram: bytes::Bytes,
    },
    /// There is a connection to a peer anew.
    Connected {
        /// The peer.
        peer: NodeId,
    },
    /// The roster has other members now.
    Members,
    /// The node stops.
    Leaving,
}

/// How the members stand, for all who want to know.
pub(crate) struct Healths {
    views: Mutex<BTreeMap<NodeId, (Health, u64)>>,
    events: mpsc::Sender<HealthEvent>,
}

impl Healths {
    pub(crate) fn new(events: mpsc::Sender<HealthEvent>) -> Self {
        Self { views: Mutex::default(), events }
    }

    /// Tells the driver something. Where too much waits it is dropped, as a packet on the way might be.
    pub(crate) fn tell(&self, event: HealthEvent) {
        // It fails where the queue is full, or the node stops.
        let _ = self.events.try_send(event);
    }

    /// Tells the driver something that must not be lost.
    pub(crate) async fn insist(&self, event: HealthEvent) {
        // It fails where the node stops.
        let _ = self.events.send(event).await;
    }

    /// How a member stands, and since when (milliseconds since the node's start).
    pub(crate) fn view(&self, node: &NodeId) -> Option<(Health, u64)> {
        lock(&self.views).get(node).copied()
    }
}

/// The members of the roster with their failure domains, this node among them.
pub(crate) fn members_of(member: &Member) -> Members {
    member.registry.members().into_iter().map(|(node, details)| (node, details.domain)).collect()
}

/// Runs until the cluster stops.
pub(crate) async fn run(
    member: Arc<Member>,
    mut events: mpsc::Receiver<HealthEvent>,
    mut swim: Swim,
    mut circle: Circle,
) {
    publish_neighbours(&member, &circle);
    loop {
        // SWIM wakes every second or two, which is often enough for the circle.
        let pause = Duration::from_millis(swim.wake_ms().saturating_sub(member.now_ms()));
        let (actions, is_new) = tokio::select! {
            () = tokio::time::sleep(pause) => {
                let is_new = circle.tick(member.now_ms(), |node| member.reach.reachable(node));
                (swim.tick(member.now_ms()), is_new)
            }
            event = events.recv() => {
                let Some(event) = event else { return };
                take(&member, event, &mut swim, &mut circle)
            }
        };
        let is_new = act(&member, actions, &mut circle) || is_new;
        if is_new {
            publish_neighbours(&member, &circle);
        }
    }
}

fn take(
    member: &Member,
    event: HealthEvent,
    swim: &mut Swim,
    circle: &mut Circle,
) -> (Vec<SwimAction>, bool) {
    let now_ms = member.now_ms();
    match event {
        HealthEvent::Datagram { from, datagram } => (swim.datagram(from, &datagram, now_ms), false),
        HealthEvent::Connected { peer } => (swim.connected(peer, now_ms), false),
        HealthEvent::Leaving => (swim.leave(now_ms), false),
        HealthEvent::Members => {
            let members = members_of(member);
            let actions = swim.set_members(&members.keys().copied().collect(), now_ms);
            lock(&member.healths.views).retain(|node, _| members.contains_key(node));
            member.keeping.members.notify_one();
            (actions, circle.set_members(members, now_ms))
        }
    }
}

fn act(member: &Member, actions: Vec<SwimAction>, circle: &mut Circle) -> bool {
    let mut is_new = false;
    for action in actions {
        match action {
            SwimAction::Send { to, datagram } => {
                if let Some(connection) = member.links.live(to, Lane::Control) {
                    // It fails where the connection has just ended: the packet is lost, as any may be.
                    let _ = connection.send_datagram(datagram.into());
                }
            }
            SwimAction::Changed { node, health } => {
                let now_ms = member.now_ms();
                let (short, state) = (node.short(), health.as_str());
                tracing::debug!(node = short, state, "a node has changed");
                lock(&member.healths.views).insert(node, (health, now_ms));
                member.keeping.members.notify_one();
                is_new |= circle.changed(node, health, now_ms);
            }
        }
    }
    is_new
}

fn publish_neighbours(member: &Member, circle: &Circle) {
    let now = circle.neighbours();
    let before = std::mem::replace(&mut *lock(&member.near), now.clone());
    if before != now {
        tracing::debug!(cluster = member.cluster, neighbours = now.len(), "the overlay has changed");
    }
}
