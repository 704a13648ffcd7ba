//! Logic: which fragment each node holds, and which one it should fetch so that every neighbourhood can rebuild
//! everything (P11).
//!
//! The rule that is to hold for every node: its closed neighbourhood (itself and its neighbours) has at least k + f
//! different fragments, so that it can rebuild the data with any f of it gone. A node that joins takes the fragment
//! that is rarest within two steps. Where a change leaves a neighbourhood short, one of its nodes that holds what
//! another holds, too, moves to another fragment. All nodes know who holds what, and compute the same moves from the
//! same knowledge; from different knowledge they may move both, which costs a transfer and harms nothing.
//!
//! A fragment that any node holds is copied from it. One that nobody holds must be made from k others, which costs as
//! much as all the data: so what exists goes before what is rarer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::NodeId;

use crate::code::Code;
use crate::overlay::Overlay;

/// The number of a fragment, from 0.
pub type Fragment = u8;

/// Who holds what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    held: BTreeMap<NodeId, Fragment>,
    /// How many hold each fragment.
    counts: BTreeMap<Fragment, usize>,
}

/// What a node does to get a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The node.
    pub node: NodeId,
    /// What it will hold.
    pub to: Fragment,
    /// Whether some node holds it, so that it can be copied. Otherwise it must be made from k others.
    pub is_copy: bool,
}

/// Who holds what, seen together with who is whose neighbour and what has to hold.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Who is whose neighbour.
    pub overlay: &'a Overlay,
    /// Who holds what.
    pub holdings: &'a Holdings,
    /// How data are cut.
    pub code: Code,
    /// Losses that each neighbourhood must survive (f).
    pub tolerance: usize,
}

impl Holdings {
    /// Notes what a node holds.
    pub fn set(&mut self, node: NodeId, fragment: Fragment) {
        self.remove(&node);
        self.held.insert(node, fragment);
        *self.counts.entry(fragment).or_default() += 1;
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: &NodeId) {
        let Some(fragment) = self.held.remove(node) else { return };
        if let Some(count) = self.counts.get_mut(&fragment) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&fragment);
            }
        }
    }

    /// What a node holds.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Fragment> {
        self.held.get(node).copied()
    }

    fn is_held_by_another(&self, node: NodeId, fragment: Fragment) -> bool {
        let is_its = self.of(&node) == Some(fragment);
        self.counts.get(&fragment).copied().unwrap_or(0) > usize::from(is_its)
    }
}

impl View<'_> {
    /// How many fragments beyond k + f a node's closed neighbourhood has; below zero it is short. Where every
    /// fragment is a copy, copies are counted. A neighbourhood of few nodes need not have more than it has nodes.
    #[must_use]
    pub fn margin(&self, node: NodeId) -> i64 {
        let distinct = self.around(node, None).count(self.code);
        distinct as i64 - self.wanted(node) as i64
    }

    /// How many losses a node's closed neighbourhood survives for sure; none if it can't rebuild the data even now.
    #[must_use]
    pub fn survives(&self, node: NodeId) -> Option<usize> {
        self.around(node, None).count(self.code).checked_sub(self.code.needed)
    }

    fn wanted(&self, node: NodeId) -> usize {
        (self.code.needed + self.tolerance).min(self.overlay.near(&node).len() + 1)
    }

    /// What the others in a closed neighbourhood hold, if one of them is left out.
    fn around(&self, centre: NodeId, except: Option<NodeId>) -> Around {
        let others = self.overlay.closed(centre).filter(|node| Some(*node) != except);
        let mut around = Around::default();
        for fragment in others.filter_map(|node| self.holdings.of(&node)) {
            around.add(fragment);
        }
        around
    }

    /// What each neighbourhood of which a node is a part lacks without it, and what it has.
    fn without(&self, node: NodeId) -> Vec<(usize, Around)> {
        self.overlay
            .closed(node)
            .map(|centre| (self.wanted(centre), self.around(centre, Some(node))))
            .collect()
    }

    /// How many fragments these neighbourhoods lack if the node that they are without held this one.
    fn lacking(&self, without: &[(usize, Around)], fragment: Fragment) -> usize {
        let of = |(wanted, around): &(usize, Around)| {
            let mut around = *around;
            around.add(fragment);
            wanted.saturating_sub(around.count(self.code))
        };
        without.iter().map(of).sum()
    }

    /// The fragment that a node should take: one with which no neighbourhood is short; of these one that can be copied;
    /// of these the one that is rarest within two steps.
    #[must_use]
    pub fn choose(&self, node: NodeId) -> Move {
        let near: BTreeSet<NodeId> =
            self.overlay.closed(node).flat_map(|near| self.overlay.closed(near)).collect();
        let mut counts = vec![0_usize; self.code.total];
        for held in near.iter().filter(|other| **other != node).filter_map(|other| self.holdings.of(other)) {
            if let Some(count) = counts.get_mut(usize::from(held)) {
                *count += 1;
            }
        }
        let without = self.without(node);
        let total = Fragment::try_from(self.code.total.max(1) - 1).unwrap_or(Fragment::MAX);
        let ranked = (0..=total).map(|fragment| {
            let is_copy = self.holdings.is_held_by_another(node, fragment);
            let rank = (self.lacking(&without, fragment), !is_copy, counts[usize::from(fragment)]);
            (rank, chance(node, fragment), Move { node, to: fragment, is_copy })
        });
        let best = ranked.min_by_key(|(rank, chance, _)| (*rank, *chance));
        best.map_or(Move { node, to: 0, is_copy: false }, |(_, _, best)| best)
    }

    /// The move that does the most for a node's closed neighbourhood; none if it is not short, or nothing helps.
    #[must_use]
    pub fn mend(&self, centre: NodeId) -> Option<Move> {
        if self.margin(centre) >= 0 {
            return None;
        }
        let members: Vec<NodeId> = self.overlay.closed(centre).collect();
        // Who holds nothing yet comes first; then who holds what another of them has.
        let idle = members.iter().find(|node| self.holdings.of(node).is_none());
        if let Some(node) = idle {
            return Some(self.choose(*node));
        }
        let is_twice = |node: &&NodeId| {
            let held = self.holdings.of(node);
            members.iter().filter(|other| self.holdings.of(other) == held).count() > 1
        };
        let moves = members.iter().filter(is_twice).map(|node| {
            let to = self.choose(*node);
            let without = self.without(*node);
            let before = self.holdings.of(node).map_or(0, |held| self.lacking(&without, held));
            let gain = before.saturating_sub(self.lacking(&without, to.to));
            ((Reverse(gain), !to.is_copy, chance(*node, to.to)), to)
        });
        moves.min_by_key(|(rank, _)| *rank).filter(|((gain, _, _), _)| gain.0 > 0).map(|(_, to)| to)
    }
}

impl View<'_> {
    /// A move of this very node after which its neighbourhoods lack less.
    #[must_use]
    pub fn improve(&self, node: NodeId) -> Option<Move> {
        let held = self.holdings.of(&node)?;
        let (without, to) = (self.without(node), self.choose(node));
        (self.lacking(&without, to.to) < self.lacking(&without, held)).then_some(to)
    }

    /// For a node that is in a short neighbourhood where no move of anybody does any good: another fragment with
    /// which its neighbourhoods lack no more than now. After some such steps there may be a move that helps. `salt`
    /// decides between equals.
    #[must_use]
    pub fn sidestep(&self, node: NodeId, salt: u64) -> Option<Move> {
        let held = self.holdings.of(&node)?;
        let without = self.without(node);
        let now = self.lacking(&without, held);
        let total = Fragment::try_from(self.code.total.max(1) - 1).unwrap_or(Fragment::MAX);
        let fits = |fragment: &Fragment| {
            let is_copy = self.holdings.is_held_by_another(node, *fragment);
            *fragment != held && is_copy && self.lacking(&without, *fragment) <= now
        };
        let rank =
            |fragment: &Fragment| chance(node, *fragment) ^ salt.wrapping_mul(u64::from(*fragment) * 2 + 1);
        let to = (0..=total).filter(fits).min_by_key(rank)?;
        Some(Move { node, to, is_copy: true })
    }
}

/// What is held around a node.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    different: [u64; 4],
    copies: usize,
}

impl Around {
    fn add(&mut self, fragment: Fragment) {
        self.different[usize::from(fragment / 64)] |= 1 << (fragment % 64);
        self.copies += 1;
    }

    /// How many different fragments; where each is a copy of the whole, how many copies.
    fn count(&self, code: Code) -> usize {
        if code.is_whole() {
            return self.copies;
        }
        self.different.iter().map(|bits| bits.count_ones() as usize).sum()
    }
}

/// What decides between equals: the same for everyone, and another for each node and fragment.
fn chance(node: NodeId, fragment: Fragment) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 fragment choice v1");
    hasher.update(node.as_bytes());
    hasher.update(&[fragment]);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
