//! Logic: which fragments of a pack are fetched from which peers, so that all of them are done at about the same time.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::NodeId;

use super::survey::Holders;

/// What a peer of which nothing is known is taken to send. A guess: a home connection's uplink.
const RATE_UNKNOWN: f64 = 2_000.0;
/// Transfers that broke off, one after the other, after which a peer is asked for nothing any more.
const FAILURES_MAX: u32 = 2;

#[derive(Debug, Clone, Default)]
struct Lane {
    /// Bytes that it was asked for and that have not come.
    owed: u64,
    /// Bytes a millisecond.
    rate: Option<f64>,
    failures: u32,
    lied: bool,
}

/// What is known of the peers.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    peers: BTreeMap<NodeId, Lane>,
}

impl Lanes {
    fn lane(&mut self, peer: NodeId) -> &mut Lane {
        self.peers.entry(peer).or_default()
    }

    /// Whether a peer is asked for anything.
    pub(super) fn is_fit(&self, peer: &NodeId) -> bool {
        self.peers.get(peer).is_none_or(|lane| !lane.lied && lane.failures < FAILURES_MAX)
    }

    /// A peer is asked for so many bytes.
    pub(super) fn asked(&mut self, peer: NodeId, bytes: u64) {
        self.lane(peer).owed += bytes;
    }

    /// So many bytes came.
    pub(super) fn came(&mut self, peer: NodeId, bytes: u64) {
        let lane = self.lane(peer);
        lane.owed = lane.owed.saturating_sub(bytes);
        lane.failures = 0;
    }

    /// It owes so many bytes no more.
    pub(super) fn released(&mut self, peer: NodeId, bytes: u64) {
        let lane = self.lane(peer);
        lane.owed = lane.owed.saturating_sub(bytes);
    }

    /// So many bytes took so long.
    pub(super) fn measured(&mut self, peer: NodeId, bytes: u64, took_ms: u64) {
        if bytes > 0 {
            let rate = bytes as f64 / took_ms.max(1) as f64;
            let lane = self.lane(peer);
            // Half of it is the last one: a peer that becomes busy is soon not the quickest any more.
            lane.rate = Some(lane.rate.map_or(rate, |before| (before + rate) / 2.0));
        }
    }

    pub(super) fn failed(&mut self, peer: NodeId) {
        self.lane(peer).failures += 1;
    }

    pub(super) fn lied(&mut self, peer: NodeId) {
        self.lane(peer).lied = true;
    }

    pub(super) fn liars(&self) -> BTreeSet<NodeId> {
        self.peers.iter().filter(|(_, lane)| lane.lied).map(|(peer, _)| *peer).collect()
    }

    /// When a peer would be done with so many bytes more, in milliseconds.
    pub(super) fn done_ms(&self, peer: &NodeId, bytes: u64) -> f64 {
        let known = self
            .peers
            .values()
            .filter_map(|lane| lane.rate)
            .fold(None, |best: Option<f64>, rate| Some(best.map_or(rate, |best| best.max(rate))));
        // Who was never asked may be as quick as the quickest.
        let unknown = known.unwrap_or(RATE_UNKNOWN);
        let lane = self.peers.get(peer);
        let owed = lane.map_or(0, |lane| lane.owed);
        (owed + bytes) as f64 / lane.and_then(|lane| lane.rate).unwrap_or(unknown).max(0.001)
    }

    /// So many fragments of a pack, each of a peer that has it and is fit, the ones that would be done first; fewer
    /// where there are not so many. Those that are left out are not among them, and no peer for a fragment that it
    /// failed at.
    pub(super) fn choose(
        &self,
        holders: &Holders,
        (count, bytes): (usize, u64),
        without: impl Fn(u8) -> bool,
        failed: impl Fn(u8, &NodeId) -> bool,
    ) -> Vec<(u8, NodeId)> {
        let mut best: Vec<(f64, u8, NodeId)> = Vec::new();
        for (index, peers) in holders.iter().filter(|(index, _)| !without(**index)) {
            let fit = peers.iter().filter(|peer| self.is_fit(peer) && !failed(*index, peer));
            let first = fit.map(|peer| (self.done_ms(peer, bytes), *index, *peer));
            best.extend(first.min_by(|one, other| one.0.total_cmp(&other.0).then(one.2.cmp(&other.2))));
        }
        best.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        let mut taken = BTreeSet::new();
        // Each of another peer, as far as there are so many: one that holds several would be waited for.
        let (first, second): (Vec<_>, Vec<_>) = best.into_iter().partition(|(.., peer)| taken.insert(*peer));
        first.into_iter().chain(second).take(count).map(|(_, index, peer)| (index, peer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn holders(list: &[(u8, &[u8])]) -> Holders {
        list.iter().map(|(index, peers)| (*index, peers.iter().map(|peer| node(*peer)).collect())).collect()
    }

    fn chosen(lanes: &Lanes, holders: &Holders, count: usize) -> Vec<(u8, u8)> {
        let chosen = lanes.choose(holders, (count, 1_000), |_| false, |_, _| false);
        chosen.into_iter().map(|(index, peer)| (index, peer.as_bytes()[0])).collect()
    }

    #[test]
    fn the_quick_and_idle_are_asked_and_liars_are_not() {
        let mut lanes = Lanes::default();
        let all = holders(&[(0, &[1]), (1, &[2, 3]), (2, &[4]), (3, &[5])]);
        assert_eq!(chosen(&lanes, &all, 2), [(0, 1), (1, 2)]);
        lanes.asked(node(1), 50_000);
        lanes.measured(node(2), 1_000, 1_000);
        lanes.measured(node(3), 1_000, 1);
        assert_eq!(chosen(&lanes, &all, 3), [(1, 3), (2, 4), (3, 5)]);
        lanes.lied(node(4));
        lanes.failed(node(5));
        lanes.failed(node(5));
        assert_eq!(chosen(&lanes, &all, 3), [(1, 3), (0, 1)], "only two are left");
        lanes.came(node(5), 1);
        assert_eq!(chosen(&lanes, &all, 9).len(), 3, "it answers again");
    }

    #[test]
    fn one_peer_with_all_fragments_is_asked_for_all_if_there_is_no_other() {
        let lanes = Lanes::default();
        assert_eq!(chosen(&lanes, &holders(&[(0, &[1]), (1, &[1]), (2, &[1, 2])]), 3).len(), 3);
    }
}
