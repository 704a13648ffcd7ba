//! Logic: whom to ask first for what a guest waits for.

use std::collections::BTreeMap;

use sustain_proto::NodeId;

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    /// What it took lately; none if it never answered.
    latency_ms: Option<u64>,
    /// Failures since it last answered.
    failures: u32,
    lied: bool,
}

/// What became of earlier requests.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    peers: BTreeMap<NodeId, Source>,
}

impl Sources {
    /// The peers to ask, in turn: those that can be reached and neither lied nor failed, of them the quickest. Who lied
    /// comes last: what it has besides may be good, and is checked all the same. Among equals the given order stays.
    pub(crate) fn order(&self, peers: Vec<NodeId>, is_lost: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let source = |peer: &NodeId| self.peers.get(peer).copied().unwrap_or_default();
        let mut peers = peers;
        peers.sort_by_key(|peer| {
            let Source { latency_ms, failures, lied } = source(peer);
            (is_lost(peer), lied, failures, latency_ms.is_none(), latency_ms)
        });
        peers
    }

    /// It sent what was asked for.
    pub(crate) fn answered(&mut self, peer: NodeId, took_ms: u64) {
        let source = self.peers.entry(peer).or_default();
        // Half of it is the last one: a peer that becomes busy is soon not the quickest any more.
        source.latency_ms = Some(source.latency_ms.map_or(took_ms, |before| (before + took_ms) / 2));
        source.failures = 0;
    }

    /// It could not be reached, was too slow, or does not have it.
    pub(crate) fn failed(&mut self, peer: NodeId) {
        let source = self.peers.entry(peer).or_default();
        source.failures = source.failures.saturating_add(1);
    }

    /// It sent something else.
    pub(crate) fn lied(&mut self, peer: NodeId) {
        self.peers.entry(peer).or_default().lied = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn the_quick_and_steady_come_first_and_liars_last() {
        let all: Vec<NodeId> = (0..5).map(node).collect();
        let mut sources = Sources::default();
        let order = |sources: &Sources, lost: Option<u8>| {
            let order = sources.order(all.clone(), |peer| Some(peer.as_bytes()[0]) == lost);
            order.iter().map(|peer| peer.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!(order(&sources, Some(0)), [1, 2, 3, 4, 0]);
        sources.answered(node(2), 80);
        sources.answered(node(3), 20);
        sources.failed(node(0));
        assert_eq!(order(&sources, None), [3, 2, 1, 4, 0]);
        sources.answered(node(3), 400);
        sources.answered(node(0), 1);
        sources.lied(node(1));
        assert_eq!(order(&sources, None), [0, 2, 3, 4, 1], "210 ms now, and what failed has answered since");
    }
}
