//! Logic: the simulated network: how long things take, and what gets lost.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;

use super::NodeNumber;

/// What all links are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Least time from one node to another.
    pub delay_ms: u64,
    /// What comes on top, at most; it differs for each message, so that they overtake each other.
    pub jitter_ms: u64,
    /// The share of messages that get lost.
    pub loss: f64,
    /// The share that comes twice.
    pub duplicated: f64,
    /// The share of transfers that break off.
    pub broken: f64,
    /// What a node can send, and receive, in a second.
    pub bytes_per_s: u64,
}

/// The network: who can't reach whom, and when a node's line is free.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) link: Link,
    /// Nodes that are cut off from all others that are not in it.
    pub(super) island: BTreeSet<NodeNumber>,
    pub(super) one_way: BTreeSet<(NodeNumber, NodeNumber)>,
    sends_ms: BTreeMap<NodeNumber, u64>,
    receives_ms: BTreeMap<NodeNumber, u64>,
}

impl Net {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            island: BTreeSet::new(),
            one_way: BTreeSet::new(),
            sends_ms: BTreeMap::new(),
            receives_ms: BTreeMap::new(),
        }
    }

    /// Whether nothing gets from one to the other.
    pub(super) fn is_cut(&self, from: NodeNumber, to: NodeNumber) -> bool {
        self.island.contains(&from) != self.island.contains(&to) || self.one_way.contains(&(from, to))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.island.is_empty() && self.one_way.is_empty()
    }

    fn delay_ms(&self, random: &mut StdRng) -> u64 {
        self.link.delay_ms + random.random_range(0..=self.link.jitter_ms)
    }

    /// After which times a message arrives: none, one or two.
    pub(super) fn message_ms(
        &self,
        random: &mut StdRng,
        from: NodeNumber,
        to: NodeNumber,
    ) -> impl Iterator<Item = u64> + use<> {
        let is_lost = self.is_cut(from, to) || random.random_bool(self.link.loss);
        let is_double = !is_lost && random.random_bool(self.link.duplicated);
        let first = (!is_lost).then(|| self.delay_ms(random));
        let second = is_double.then(|| self.delay_ms(random));
        first.into_iter().chain(second)
    }

    /// When a transfer that begins now is sent, and when it has arrived.
    pub(super) fn transfer_ms(
        &mut self,
        random: &mut StdRng,
        now_ms: u64,
        (from, to): (NodeNumber, NodeNumber),
        bytes: u64,
    ) -> (u64, u64) {
        let takes_ms = (bytes * 1_000 / self.link.bytes_per_s.max(1)).max(1);
        let sent = self.sends_ms.get(&from).copied().unwrap_or(0).max(now_ms) + takes_ms;
        self.sends_ms.insert(from, sent);
        let begins = self.receives_ms.get(&to).copied().unwrap_or(0).max(sent - takes_ms);
        let received = (begins + takes_ms).max(sent);
        self.receives_ms.insert(to, received);
        (sent, received + self.delay_ms(random))
    }
}
