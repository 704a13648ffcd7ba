//! Logic: which nodes can be reached (P3, P15).
//!
//! ```text
//!            answer to a probe
//!   ┌────────────────────────────────┐
//!   │                                ▼
//! lost                           reachable
//!   ▲                                │
//!   └────────────────────────────────┘
//!     no answer for the timeout, or the peer said that it leaves
//! ```
//!
//! Both lists are probed for ever, at the same interval.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sustain_proto::NodeId;

/// Probes per peer whose answer still counts. At the default interval and timeout six can be under way.
const PROBES_AWAITED_MAX: usize = 16;

/// What the driver has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeAction {
    /// Send a probe with this number.
    Probe { peer: NodeId, nonce: u64 },
    /// Say that the peer is lost.
    Lost { peer: NodeId },
}

/// What is known of one peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerState {
    /// Whether it is in the node table; else it is on the lost list.
    pub(crate) reachable: bool,
    /// When that last changed.
    pub(crate) since_ms: u64,
    /// From the last answered probe to its answer.
    pub(crate) rtt_ms: Option<u64>,
    heard_ms: u64,
    probe_ms: u64,
    awaited: VecDeque<(u64, u64)>,
}

/// The node table and the lost list.
#[derive(Debug)]
pub(crate) struct ProbeTable {
    interval_ms: u64,
    timeout_ms: u64,
    ticked_ms: u64,
    nonce: u64,
    peers: BTreeMap<NodeId, PeerState>,
}

impl ProbeTable {
    /// A table in which every peer is lost. First probes are spread over one interval; `nonce` is random,
    /// so that late answers to an earlier run are not taken for answers to this one.
    pub(crate) fn new(
        interval_ms: u64,
        timeout_ms: u64,
        now_ms: u64,
        nonce: u64,
        peers: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let ids: Vec<NodeId> = peers.into_iter().collect();
        let count = ids.len().max(1) as u64;
        let states = ids.into_iter().zip(0_u64..).map(|(id, position)| {
            let state = PeerState {
                reachable: false,
                since_ms: now_ms,
                rtt_ms: None,
                heard_ms: now_ms,
                probe_ms: now_ms + interval_ms * position / count,
                awaited: VecDeque::new(),
            };
            (id, state)
        });
        Self { interval_ms, timeout_ms, ticked_ms: now_ms, nonce, peers: states.collect() }
    }

    /// Who there is now. Those that were reachable and are gone.
    pub(crate) fn set_peers(&mut self, peers: &BTreeSet<NodeId>, now_ms: u64) -> Vec<NodeId> {
        for peer in peers {
            self.peers.entry(*peer).or_insert_with(|| PeerState {
                reachable: false,
                since_ms: now_ms,
                rtt_ms: None,
                heard_ms: now_ms,
                probe_ms: now_ms,
                awaited: VecDeque::new(),
            });
        }
        let gone = self.peers.iter().filter(|(peer, state)| state.reachable && !peers.contains(*peer));
        let gone = gone.map(|(peer, _)| *peer).collect();
        self.peers.retain(|peer, _| peers.contains(peer));
        gone
    }

    /// Time has passed: what is due.
    pub(crate) fn tick(&mut self, now_ms: u64) -> Vec<ProbeAction> {
        // Who was stalled itself can't know who answered meanwhile, and accuses nobody.
        let stalled = now_ms.saturating_sub(self.ticked_ms) > self.interval_ms + self.timeout_ms / 2;
        self.ticked_ms = now_ms;
        let mut actions = Vec::new();
        for (peer, state) in &mut self.peers {
            if stalled {
                state.heard_ms = now_ms;
            }
            if state.reachable && now_ms.saturating_sub(state.heard_ms) > self.timeout_ms {
                state.change(false, now_ms);
                actions.push(ProbeAction::Lost { peer: *peer });
            }
            if state.probe_ms <= now_ms {
                self.nonce = self.nonce.wrapping_add(1);
                if state.awaited.len() == PROBES_AWAITED_MAX {
                    state.awaited.pop_front();
                }
                state.awaited.push_back((self.nonce, now_ms));
                // On the beat where possible; after a stall one probe stands for all that were missed.
                state.probe_ms = (state.probe_ms + self.interval_ms).max(now_ms + self.interval_ms / 2 + 1);
                actions.push(ProbeAction::Probe { peer: *peer, nonce: self.nonce });
            }
        }
        actions
    }

    /// When `tick` is to be called next.
    pub(crate) fn wake_ms(&self) -> u64 {
        let next = self.peers.values().map(|state| state.probe_ms).min();
        next.unwrap_or(self.ticked_ms + self.interval_ms)
    }

    /// A peer answered a probe. True if it became reachable by that. Answers to probes that were never
    /// sent to it count for nothing.
    pub(crate) fn answered(&mut self, peer: NodeId, nonce: u64, now_ms: u64) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else {
            return false;
        };
        let Some(position) = state.awaited.iter().position(|(sent, _)| *sent == nonce) else {
            return false;
        };
        let sent_ms = state.awaited[position].1;
        state.awaited.drain(..=position);
        state.rtt_ms = Some(now_ms.saturating_sub(sent_ms));
        state.heard_ms = now_ms;
        if state.reachable {
            return false;
        }
        state.change(true, now_ms);
        true
    }

    /// A peer said that it leaves. True if it was reachable until now.
    pub(crate) fn left(&mut self, peer: NodeId, now_ms: u64) -> bool {
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.reachable) else {
            return false;
        };
        // Answers that are still on their way were sent before it left.
        state.awaited.clear();
        state.change(false, now_ms);
        true
    }

    /// What is known of a peer.
    pub(crate) fn peer(&self, peer: &NodeId) -> Option<&PeerState> {
        self.peers.get(peer)
    }
}

impl PeerState {
    fn change(&mut self, reachable: bool, now_ms: u64) {
        self.reachable = reachable;
        self.since_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn probes(actions: &[ProbeAction]) -> Vec<(NodeId, u64)> {
        let probe = |action: &ProbeAction| match action {
            ProbeAction::Probe { peer, nonce } => Some((*peer, *nonce)),
            ProbeAction::Lost { .. } => None,
        };
        actions.iter().filter_map(probe).collect()
    }

    fn lost(actions: &[ProbeAction]) -> Vec<NodeId> {
        let lost = |action: &ProbeAction| match action {
            ProbeAction::Lost { peer } => Some(*peer),
            ProbeAction::Probe { .. } => None,
        };
        actions.iter().filter_map(lost).collect()
    }

    #[test]
    fn an_answer_makes_reachable_and_silence_makes_lost_and_probes_go_on() {
        let mut table = ProbeTable::new(100, 300, 0, 7, [node(1)]);
        let sent = probes(&table.tick(0));
        assert_eq!(sent.len(), 1);
        assert!(!table.answered(node(1), sent[0].1 + 1, 5), "a number that was never sent");
        assert!(!table.answered(node(2), sent[0].1, 5), "a stranger");
        assert!(table.answered(node(1), sent[0].1, 5));
        assert!(!table.answered(node(1), sent[0].1, 6), "the same answer again");
        assert_eq!(table.peer(&node(1)).unwrap().rtt_ms, Some(5));
        let mut lost_ms = None;
        for now_ms in (10..2_000).step_by(10) {
            let actions = table.tick(now_ms);
            if !lost(&actions).is_empty() {
                assert_eq!(lost_ms.replace(now_ms), None, "lost once");
            }
        }
        assert_eq!(lost_ms, Some(310));
        let late = (2_000..2_200).step_by(10).flat_map(|now_ms| probes(&table.tick(now_ms))).last().unwrap();
        assert!(table.answered(node(1), late.1, 2_200), "a lost node is probed on");
    }

    #[test]
    fn who_leaves_is_lost_at_once_and_its_late_answers_are_void() {
        let mut table = ProbeTable::new(100, 300, 0, 7, [node(1)]);
        let first = probes(&table.tick(0))[0];
        assert!(!table.left(node(1), 1), "it never was reachable");
        assert!(table.answered(node(1), first.1, 1));
        let second = probes(&table.tick(100))[0];
        assert!(table.left(node(1), 101));
        assert!(!table.left(node(1), 102));
        assert!(!table.answered(node(1), second.1, 103));
    }

    #[test]
    fn a_node_that_was_stalled_accuses_nobody() {
        let mut table = ProbeTable::new(100, 300, 0, 7, [node(1), node(2)]);
        for sent in (0..100).step_by(10).flat_map(|now_ms| probes(&table.tick(now_ms))).collect::<Vec<_>>() {
            assert!(table.answered(sent.0, sent.1, 100));
        }
        assert_eq!(lost(&table.tick(60_000)), []);
        for now_ms in (60_050..=60_300).step_by(50) {
            assert_eq!(lost(&table.tick(now_ms)), []);
        }
        assert_eq!(lost(&table.tick(60_301)), [node(1), node(2)], "but silence after that counts");
    }

    #[test]
    fn peers_come_and_go() {
        let mut table = ProbeTable::new(100, 300, 0, 7, [node(1), node(2)]);
        for sent in (0..100).step_by(10).flat_map(|now_ms| probes(&table.tick(now_ms))).collect::<Vec<_>>() {
            table.answered(sent.0, sent.1, 100);
        }
        assert_eq!(table.set_peers(&BTreeSet::from([node(2), node(3)]), 100), [node(1)]);
        assert!(table.peer(&node(1)).is_none());
        let sent: Vec<NodeId> =
            (100..200).step_by(10).flat_map(|now_ms| probes(&table.tick(now_ms))).map(|it| it.0).collect();
        assert!(sent.contains(&node(3)) && !sent.contains(&node(1)), "{sent:?}");
        assert_eq!(table.set_peers(&BTreeSet::from([node(2)]), 200), [], "it never was reachable");
    }

    #[test]
    fn first_probes_are_spread_over_an_interval() {
        let mut table = ProbeTable::new(100, 300, 0, 7, (0..10).map(node));
        for now_ms in (0..100).step_by(10) {
            assert_eq!(probes(&table.tick(now_ms)).len(), 1);
        }
    }

    proptest! {
        /// Whatever answers and pauses there are: changes alternate, and the table says the same as they.
        #[test]
        fn changes_alternate(steps in prop::collection::vec((0_u8..3, 0_u64..400, any::<bool>()), 1..200)) {
            let mut table = ProbeTable::new(100, 300, 0, 7, (0..3).map(node));
            let mut reachable = BTreeMap::from([(node(0), false), (node(1), false), (node(2), false)]);
            let mut now_ms = 0;
            for (peer, pause_ms, answers) in steps {
                now_ms += pause_ms;
                let actions = table.tick(now_ms);
                for peer in lost(&actions) {
                    prop_assert_eq!(reachable.insert(peer, false), Some(true));
                }
                for (to, nonce) in probes(&actions) {
                    if to == node(peer) && answers && table.answered(to, nonce, now_ms) {
                        prop_assert_eq!(reachable.insert(to, true), Some(false));
                    }
                }
                for (peer, reachable) in &reachable {
                    let state = table.peer(peer).unwrap();
                    prop_assert_eq!(state.reachable, *reachable);
                    prop_assert!(state.awaited.len() <= PROBES_AWAITED_MAX);
                }
                prop_assert!(table.wake_ms() > now_ms);
            }
        }
    }
}
