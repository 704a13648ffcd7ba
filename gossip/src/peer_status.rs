//! How peers stand, as people are shown.

use serde::Serialize;

use crate::config::Peer;
use crate::member::Member;
use crate::membership::Health;

/// How a peer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: Peer,
    /// Whether it answers probes; else it is on the lost list.
    pub reachable: bool,
    /// For how long that has been so.
    pub for_ms: u64,
    /// From the last answered probe to its answer.
    pub rtt_ms: Option<u64>,
    /// Whether it is a neighbour of this node in the overlay.
    pub neighbour: bool,
    /// How it stands by what all nodes tell one another.
    pub health: Health,
    /// For how long that has been so.
    pub health_for_ms: u64,
    /// Why it does not hold all that it is to hold of what this node is the server of; none if nothing keeps it from
    /// that, or it has not said so.
    pub refuses: Option<String>,
    /// Why this node has shut it out, and for how much longer (in milliseconds).
    pub shut_out: Option<(String, u64)>,
    /// Whether it fails audits: what it says that it holds does not count for durability then.
    pub fails_audits: bool,
    /// What keeps the two from talking, where that is known: another version, or that it has shut this node out.
    pub obstacle: Option<String>,
}

/// How all peers stand, by id.
pub(crate) fn all(member: &Member) -> Vec<PeerStatus> {
    let now_ms = member.now_ms();
    let neighbours = member.neighbours();
    let status = |peer: Peer| {
        let view = member.reach.view(&peer.id);
        let (health, since_ms) = member.healths.view(&peer.id).unwrap_or((Health::Down, 0));
        PeerStatus {
            reachable: view.reachable,
            for_ms: now_ms.saturating_sub(view.since_ms),
            rtt_ms: view.rtt_ms,
            neighbour: neighbours.contains(&peer.id),
            health,
            health_for_ms: now_ms.saturating_sub(since_ms),
            refuses: member.keeping.refusal(&peer.id),
            shut_out: member.shut_out(&peer.id).map(|it| it.status(now_ms)),
            fails_audits: !crate::transport::links::lock(&member.audits).counts(&peer.id),
            obstacle: member.standing.obstacle(&peer.id),
            peer,
        }
    };
    member.peers.list().into_iter().map(status).collect()
}
