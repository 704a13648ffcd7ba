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
        self.held.insert(node, fragment);
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: &NodeId) {
        self.held.remove(node);
    }

    /// What a node holds.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<Fragment> {
        self.held.get(node).copied()
    }

    fn is_held_by_another(&self, node: NodeId, fragment: Fragment) -> bool {
        self.held.iter().any(|(other, held)| *other != node && *held == fragment)
    }
}

impl View<'_> {
    /// How many fragments beyond k + f a node's closed neighbourhood has; below zero it is short. Where every
    /// fragment is a copy, copies are counted. A neighbourhood of few nodes need not have more than it has nodes.
    #[must_use]
    pub fn margin(&self, node: NodeId) -> i64 {
        let distinct = self.distinct(node, None);
        distinct as i64 - self.wanted(node) as i64
    }

    /// How many losses a node's closed neighbourhood survives for sure; none if it can't rebuild the data even now.
    #[must_use]
    pub fn survives(&self, node: NodeId) -> Option<usize> {
        self.distinct(node, None).checked_sub(self.code.needed)
    }

    fn wanted(&self, node: NodeId) -> usize {
        (self.code.needed + self.tolerance).min(self.overlay.near(&node).len() + 1)
    }

    /// Different fragments in a closed neighbourhood, with one node's replaced.
    fn distinct(&self, node: NodeId, replaced: Option<(NodeId, Fragment)>) -> usize {
        let held = |member: NodeId| match replaced {
            Some((node, fragment)) if node == member => Some(fragment),
            _ => self.holdings.of(&member),
        };
        let held = self.overlay.closed(node).filter_map(held);
        if self.code.is_whole() { held.count() } else { held.collect::<BTreeSet<_>>().len() }
    }

    /// How many fragments the neighbourhoods of which a node is a part lack, if it held this one.
    fn lacking(&self, node: NodeId, fragment: Fragment) -> usize {
        let of = |centre| self.wanted(centre).saturating_sub(self.distinct(centre, Some((node, fragment))));
        self.overlay.closed(node).map(of).sum()
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
        let total = Fragment::try_from(self.code.total.max(1) - 1).unwrap_or(Fragment::MAX);
        let ranked = (0..=total).map(|fragment| {
            let is_copy = self.holdings.is_held_by_another(node, fragment);
            let rank = (self.lacking(node, fragment), !is_copy, counts[usize::from(fragment)]);
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
            let before = self.holdings.of(node).map_or(0, |held| self.lacking(*node, held));
            let gain = before.saturating_sub(self.lacking(*node, to.to));
            ((Reverse(gain), !to.is_copy, chance(*node, to.to)), to)
        });
        moves.min_by_key(|(rank, _)| *rank).filter(|((gain, _, _), _)| gain.0 > 0).map(|(_, to)| to)
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
