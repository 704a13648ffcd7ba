//! Logic: which pack is fetched from which peer next, and when gathering is hopeless.
//!
//! A pack that one peer began may go on with another, from the byte where it stopped. If the whole then
//! has the wrong hash, nobody knows which of them lied: the pack is fetched again, from one peer alone.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{NodeId, PackId};

/// How much may be under way at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanLimits {
    /// Packs from one peer.
    pub(crate) per_peer: usize,
    /// Packs from all peers.
    pub(crate) total: usize,
    /// Failed tries of one pack on one peer.
    pub(crate) tries: u32,
}

/// Fetch this pack from this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) pack: PackId,
    pub(crate) peer: NodeId,
    /// Whether what was received before must be thrown away.
    pub(crate) afresh: bool,
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something is under way, or can be.
    Going,
    /// Every pack is here.
    Finished,
    /// Nothing more can be fetched from the peers known so far.
    Stuck(Stuck),
}

/// What can't be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stuck {
    /// Packs that no peer has.
    pub(crate) missing: Vec<PackId>,
    /// Packs whose holders failed too often.
    pub(crate) unreachable: Vec<PackId>,
    /// Packs of which every holder sends wrong bytes.
    pub(crate) damaged: Vec<PackId>,
}

#[derive(Debug, Default)]
struct PackState {
    done: bool,
    fetching: Option<NodeId>,
    /// Who has it, and how often fetching it there failed.
    holders: BTreeMap<NodeId, u32>,
    liars: BTreeSet<NodeId>,
    /// Whose bytes are in what was received so far.
    sources: BTreeSet<NodeId>,
    /// Whether bytes of several peers may be put together.
    alone: bool,
}

#[derive(Debug, Default)]
struct PeerLoad {
    fetching: usize,
    lied: bool,
}

/// The state of one gathering.
#[derive(Debug)]
pub(crate) struct Plan {
    limits: PlanLimits,
    packs: BTreeMap<PackId, PackState>,
    peers: BTreeMap<NodeId, PeerLoad>,
}

impl Plan {
    pub(crate) fn new(limits: PlanLimits, packs: impl IntoIterator<Item = PackId>) -> Self {
        let packs = packs.into_iter().map(|pack| (pack, PackState::default())).collect();
        Self { limits, packs, peers: BTreeMap::new() }
    }

    /// A peer says that it has these packs. Those that nobody wants are passed over.
    pub(crate) fn holds(&mut self, peer: NodeId, packs: &[PackId]) {
        self.peers.entry(peer).or_default();
        for pack in packs {
            if let Some(state) = self.packs.get_mut(pack) {
                state.holders.entry(peer).or_insert(0);
            }
        }
    }

    /// The next fetch to begin, if there is one: the pack that the fewest can give, from the peer that is
    /// least busy; peers that lied about any pack come last.
    pub(crate) fn next(&mut self) -> Option<Assignment> {
        let under_way: usize = self.peers.values().map(|load| load.fetching).sum();
        if under_way >= self.limits.total {
            return None;
        }
        let mut best: Option<(usize, PackId, NodeId)> = None;
        for (pack, state) in &self.packs {
            if state.done || state.fetching.is_some() {
                continue;
            }
            let usable = || self.usable(state);
            let free = usable().filter(|peer| self.load(peer).0 < self.limits.per_peer);
            let count = usable().count();
            if best.is_some_and(|(fewest, ..)| fewest <= count) {
                continue;
            }
            let tries = |peer: &NodeId| state.holders.get(peer).copied().unwrap_or(0);
            let peer = free.min_by_key(|peer| (self.load(peer).1, tries(peer), self.load(peer).0, *peer));
            if let Some(peer) = peer {
                best = Some((count, *pack, peer));
            }
        }
        let (_, pack, peer) = best?;
        self.peers.entry(peer).or_default().fetching += 1;
        let state = self.packs.get_mut(&pack)?;
        let afresh = state.alone && !state.sources.is_empty();
        if afresh {
            state.sources.clear();
        }
        state.fetching = Some(peer);
        Some(Assignment { pack, peer, afresh })
    }

    /// The whole pack came and its hash is right.
    pub(crate) fn fetched(&mut self, pack: PackId) {
        if let Some((state, _)) = self.ended(pack) {
            state.done = true;
        }
    }

    /// The transfer broke off, stalled or was refused.
    pub(crate) fn failed(&mut self, pack: PackId, bytes_received: bool) {
        if let Some((state, peer)) = self.ended(pack) {
            *state.holders.entry(peer).or_insert(0) += 1;
            if bytes_received {
                state.sources.insert(peer);
            }
        }
    }

    /// The whole pack came and its hash is wrong; what was received is thrown away. True if it is clear
    /// that the last peer lied.
    pub(crate) fn lied(&mut self, pack: PackId) -> bool {
        let Some((state, peer)) = self.ended(pack) else {
            return false;
        };
        state.sources.insert(peer);
        let guilty = state.sources.len() == 1;
        state.sources.clear();
        state.alone = true;
        if guilty {
            state.liars.insert(peer);
            self.peers.entry(peer).or_default().lied = true;
        }
        guilty
    }

    /// How things stand. `Stuck` is final only when no more peers will say what they hold.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut stuck = Stuck::default();
        let mut finished = true;
        for (pack, state) in self.packs.iter().filter(|(_, state)| !state.done) {
            finished = false;
            if state.fetching.is_some() || self.usable(state).next().is_some() {
                return Verdict::Going;
            }
            let list = if state.holders.is_empty() {
                &mut stuck.missing
            } else if state.holders.keys().all(|peer| state.liars.contains(peer)) {
                &mut stuck.damaged
            } else {
                &mut stuck.unreachable
            };
            list.push(*pack);
        }
        if finished { Verdict::Finished } else { Verdict::Stuck(stuck) }
    }

    fn usable<'a>(&'a self, state: &'a PackState) -> impl Iterator<Item = NodeId> + 'a {
        let tries = self.limits.tries;
        let fit = move |(peer, failed): &(&NodeId, &u32)| **failed < tries && !state.liars.contains(*peer);
        state.holders.iter().filter(fit).map(|(peer, _)| *peer)
    }

    /// How many packs are being fetched from a peer, and whether it lied.
    fn load(&self, peer: &NodeId) -> (usize, bool) {
        self.peers.get(peer).map_or((0, false), |load| (load.fetching, load.lied))
    }

    fn ended(&mut self, pack: PackId) -> Option<(&mut PackState, NodeId)> {
        let state = self.packs.get_mut(&pack)?;
        let peer = state.fetching.take()?;
        let load = self.peers.entry(peer).or_default();
        load.fetching = load.fetching.saturating_sub(1);
        Some((state, peer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: PlanLimits = PlanLimits { per_peer: 2, total: 5, tries: 3 };

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn pack(number: u8) -> PackId {
        PackId::from_bytes([number; 32])
    }

    #[test]
    fn load_is_shared_and_bounded() {
        let all: Vec<PackId> = (0..10).map(pack).collect();
        let mut plan = Plan::new(LIMITS, all.clone());
        for number in 0..3 {
            plan.holds(node(number), &all);
        }
        let mut loads = BTreeMap::new();
        while let Some(next) = plan.next() {
            *loads.entry(next.peer).or_insert(0) += 1;
        }
        assert_eq!(loads, BTreeMap::from([(node(0), 2), (node(1), 2), (node(2), 1)]));
    }

    #[test]
    fn the_rarest_pack_goes_first() {
        let mut plan = Plan::new(LIMITS, [pack(0), pack(1)]);
        plan.holds(node(0), &[pack(0), pack(1)]);
        plan.holds(node(1), &[pack(0)]);
        assert_eq!(plan.next(), Some(Assignment { pack: pack(1), peer: node(0), afresh: false }));
        assert_eq!(plan.next(), Some(Assignment { pack: pack(0), peer: node(1), afresh: false }));
    }

    #[test]
    fn a_broken_transfer_goes_on_with_another_peer() {
        let mut plan = Plan::new(LIMITS, [pack(0)]);
        plan.holds(node(0), &[pack(0)]);
        plan.holds(node(1), &[pack(0)]);
        assert_eq!(plan.next().unwrap().peer, node(0));
        plan.failed(pack(0), true);
        assert_eq!(plan.next(), Some(Assignment { pack: pack(0), peer: node(1), afresh: false }));
        plan.fetched(pack(0));
        assert_eq!(plan.verdict(), Verdict::Finished);
    }

    #[test]
    fn who_lied_alone_is_not_asked_for_that_pack_again() {
        let mut plan = Plan::new(LIMITS, [pack(0), pack(1)]);
        plan.holds(node(0), &[pack(0), pack(1)]);
        assert_eq!(plan.next().unwrap().pack, pack(0));
        plan.lied(pack(0));
        assert_eq!(plan.next().unwrap().pack, pack(1), "its other packs may be good");
        plan.fetched(pack(1));
        let stuck = Stuck { damaged: vec![pack(0)], ..Stuck::default() };
        assert_eq!(plan.verdict(), Verdict::Stuck(stuck));
        plan.holds(node(1), &[pack(0)]);
        assert_eq!(plan.next().unwrap().peer, node(1));
    }

    #[test]
    fn a_mixed_pack_with_a_wrong_hash_is_fetched_from_one_peer_alone() {
        let mut plan = Plan::new(LIMITS, [pack(0)]);
        plan.holds(node(0), &[pack(0)]);
        plan.holds(node(1), &[pack(0)]);
        plan.next();
        plan.failed(pack(0), true);
        plan.next();
        plan.lied(pack(0));
        let again = plan.next().unwrap();
        assert_eq!(again.peer, node(1), "nobody is accused, the one with fewer failures is asked");
        plan.failed(pack(0), true);
        assert!(plan.next().unwrap().afresh, "no mixing a second time");
    }

    #[test]
    fn reasons_are_told_apart() {
        let mut plan = Plan::new(LIMITS, [pack(0), pack(1)]);
        assert!(matches!(plan.verdict(), Verdict::Stuck(stuck) if stuck.missing.len() == 2));
        plan.holds(node(0), &[pack(1), pack(9)]);
        for _ in 0..LIMITS.tries {
            assert_eq!(plan.next().unwrap().pack, pack(1));
            plan.failed(pack(1), false);
        }
        assert_eq!(plan.next(), None);
        let stuck = Stuck { missing: vec![pack(0)], unreachable: vec![pack(1)], damaged: vec![] };
        assert_eq!(plan.verdict(), Verdict::Stuck(stuck));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Peers that are honest, that lie, and that break off as chance wills: it always ends, within the
        /// limits; every pack that an honest and steady peer has is fetched, and no wrong one is taken.
        #[test]
        fn honest_steady_holders_are_enough(
            holders in prop::collection::vec(prop::collection::btree_set(0_u8..6, 0..5), 1..12),
            liars in prop::collection::btree_set(0_u8..6, 0..3),
            shaky in prop::collection::btree_set(0_u8..6, 0..3),
            mut dice in any::<u64>(),
        ) {
            let packs: Vec<PackId> = (0..holders.len() as u8).map(pack).collect();
            let mut plan = Plan::new(LIMITS, packs.clone());
            for peer in 0..6_u8 {
                let has = |number: &u8| holders[*number as usize].contains(&peer);
                plan.holds(node(peer), &(0..packs.len() as u8).filter(has).map(pack).collect::<Vec<_>>());
            }
            let mut under_way: Vec<Assignment> = Vec::new();
            let mut mixed: BTreeMap<PackId, BTreeSet<u8>> = BTreeMap::new();
            for step in 0.. {
                prop_assert!(step < 5_000, "it ends");
                while let Some(next) = plan.next() {
                    let number = next.pack.as_bytes()[0];
                    prop_assert!(holders[number as usize].contains(&next.peer.as_bytes()[0]));
                    prop_assert!(!under_way.iter().any(|other| other.pack == next.pack));
                    if next.afresh {
                        mixed.remove(&next.pack);
                    }
                    under_way.push(next);
                    prop_assert!(under_way.len() <= LIMITS.total);
                    let same = under_way.iter().filter(|other| other.peer == next.peer).count();
                    prop_assert!(same <= LIMITS.per_peer);
                }
                if under_way.is_empty() {
                    break;
                }
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let ended = under_way.swap_remove((dice >> 33) as usize % under_way.len());
                let peer = ended.peer.as_bytes()[0];
                let sources = mixed.entry(ended.pack).or_default();
                if shaky.contains(&peer) {
                    let some = dice & (1 << 20) != 0;
                    if some {
                        sources.insert(peer);
                    }
                    plan.failed(ended.pack, some);
                    continue;
                }
                sources.insert(peer);
                if sources.iter().any(|source| liars.contains(source)) {
                    sources.clear();
                    plan.lied(ended.pack);
                } else {
                    plan.fetched(ended.pack);
                }
            }
            let stuck = match plan.verdict() {
                Verdict::Finished => Stuck::default(),
                Verdict::Stuck(stuck) => stuck,
                Verdict::Going => return Err(TestCaseError::fail("nothing is under way")),
            };
            let left: BTreeSet<PackId> =
                stuck.missing.iter().chain(&stuck.unreachable).chain(&stuck.damaged).copied().collect();
            for (number, holders) in holders.iter().enumerate() {
                let good = holders.iter().any(|peer| !liars.contains(peer) && !shaky.contains(peer));
                let here = !left.contains(&pack(number as u8));
                prop_assert_eq!(here, good, "pack {} of {:?}", number, holders);
            }
        }
    }
}
