//! Logic: whom to ask for a part, and in which order.
//!
//! Holders of one fragment pass it on along a tree of their own for each pack, whose root asks a node that makes
//! fragments. Whole packs are exchanged among those that hold them, who have each byte once from the server. Who gets
//! nothing for a while asks further ones; the server comes last, as its uplink is what is scarce.

use std::collections::BTreeSet;

use sustain_proto::NodeId;

use super::Keeper;
use super::catalog::Catalog;
use super::claims::mix;
use super::jobs::Source;
use super::part::{Pack, Part, Which};
use crate::holdings::Fragment;

/// How long nothing may come before further nodes are asked. Guesses: some round trips, and a few transfers.
const FURTHER_MS: u64 = 2_000;
const FAR_MS: u64 = 5_000;
const SERVER_MS: u64 = 10_000;
/// Holders beyond one's place in the tree that are asked, at most.
const OTHERS_MAX: usize = 6;

fn head(bytes: &[u8; 32]) -> u64 {
    let (head, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*head)
}

/// Where a node stands among others for a pack: the same for all who ask.
pub(super) fn rank(pack: &Pack, node: &NodeId) -> u64 {
    mix(head(pack.id.as_bytes()) ^ head(node.as_bytes()))
}

impl Keeper {
    /// Whom to ask for a part.
    pub(super) fn sources(&self, pack: &Pack, part: &Part) -> Vec<Source> {
        let mut sources = Sources { keeper: self, list: Vec::new(), seen: BTreeSet::from([self.me]) };
        for catalog in self.catalogs_of(pack) {
            match part.which {
                Which::Whole if pack.cut.is_none() => sources.copies(catalog),
                Which::Whole => sources.wholes(catalog, pack.added > self.spread_to(&catalog.line())),
                Which::Fragment(index) => sources.fragments(catalog, pack, index),
            }
        }
        sources.list
    }
}

struct Sources<'a> {
    keeper: &'a Keeper,
    list: Vec<Source>,
    seen: BTreeSet<NodeId>,
}

impl Sources<'_> {
    fn add(&mut self, node: NodeId, after_ms: u64, chooses: bool) {
        if self.keeper.attendance.is_alive(&node) && self.seen.insert(node) {
            self.list.push(Source { node, after_ms, chooses });
        }
    }

    /// Everybody holds all: the neighbours exchange what each of them has from the server.
    fn copies(&mut self, catalog: &Catalog) {
        self.add(catalog.server, 0, true);
        for near in self.keeper.overlay.near(&self.keeper.me) {
            self.add(*near, 0, false);
        }
        let others: Vec<NodeId> = self.keeper.attendance.all_alive().collect();
        for node in others.into_iter().take(2 * OTHERS_MAX) {
            self.add(node, FAR_MS, false);
        }
    }

    /// Whole holders, and those that hold what is new as a whole until it is spread.
    fn wholes(&mut self, catalog: &Catalog, is_new: bool) {
        if is_new {
            self.add(catalog.server, 0, true);
            catalog.encoders.iter().for_each(|node| self.add(*node, 0, false));
        }
        catalog.warm.iter().for_each(|node| self.add(*node, 0, false));
        self.add(catalog.server, FURTHER_MS, true);
    }

    /// Those that hold the same fragment, in a tree; who makes fragments; the server at last.
    fn fragments(&mut self, catalog: &Catalog, pack: &Pack, index: Fragment) {
        let keeper = self.keeper;
        let me = keeper.me;
        let alive =
            keeper.claims.holders(index).filter(|node| *node == me || keeper.attendance.is_alive(node));
        let mut group: Vec<(u64, NodeId)> =
            alive.filter(|node| *node != catalog.server).map(|node| (rank(pack, &node), node)).collect();
        group.sort_unstable();
        let mut makers: Vec<(u64, NodeId)> = catalog
            .warm
            .iter()
            .chain(&catalog.encoders)
            .map(|node| (mix(rank(pack, node) ^ u64::from(index)), *node))
            .collect();
        makers.sort_unstable();
        let makers: Vec<NodeId> = makers.into_iter().map(|(_, node)| node).collect();
        // Who only moves to this fragment is no part of the tree, and asks at its leaves.
        let mut at = group.iter().position(|(_, node)| *node == me).unwrap_or(group.len());
        let mut after_ms = 0;
        while at > 0 {
            at = (at - 1) / 2;
            self.add(group[at].1, after_ms, false);
            after_ms = if after_ms == 0 { FURTHER_MS } else { FAR_MS };
        }
        for node in makers {
            self.add(node, after_ms, false);
            after_ms = if after_ms == 0 { FURTHER_MS } else { FAR_MS };
        }
        for (_, node) in group.iter().take(OTHERS_MAX) {
            self.add(*node, FAR_MS, false);
        }
        self.add(catalog.server, SERVER_MS, false);
    }
}
