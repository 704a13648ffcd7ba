//! Logic: plain copies by rendezvous hashing, as a study plays it, to compare fragments with.
//!
//! The data are some packs. Each closed neighbourhood picks the f + 1 of its nodes for each pack that a hash of node
//! and pack ranks highest; a node keeps what any of the neighbourhoods that it is in has picked it for. So every
//! neighbourhood holds every pack f + 1 times. Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings
//! to increase hit rates", 1998.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::NodeId;

use crate::overlay::Overlay;
use crate::study::Rule;

/// Packs that stand for all data.
const PACKS: u64 = 64;

/// Whole packs.
pub(crate) struct Copies {
    tolerance: usize,
    kept: BTreeMap<NodeId, BTreeSet<u64>>,
}

impl Copies {
    pub(crate) fn new(tolerance: usize) -> Self {
        Self { tolerance, kept: BTreeMap::new() }
    }
}

impl Rule for Copies {
    fn changed(&mut self, overlay: &Overlay) -> f64 {
        let mut kept: BTreeMap<NodeId, BTreeSet<u64>> =
            overlay.members().map(|node| (node, BTreeSet::new())).collect();
        for centre in overlay.members() {
            for pack in 0..PACKS {
                let mut ranked: Vec<(u64, NodeId)> =
                    overlay.closed(centre).map(|node| (rank(node, pack), node)).collect();
                ranked.sort_unstable();
                for (_, node) in ranked.iter().take(self.tolerance + 1) {
                    kept.entry(*node).or_default().insert(pack);
                }
            }
        }
        let nothing = BTreeSet::new();
        let new = |(node, packs): (&NodeId, &BTreeSet<u64>)| {
            packs.difference(self.kept.get(node).unwrap_or(&nothing)).count()
        };
        let fetched: usize = kept.iter().map(new).sum();
        self.kept = kept;
        fetched as f64 / PACKS as f64
    }

    fn short(&self, overlay: &Overlay) -> usize {
        let is_short = |centre: &NodeId| {
            let members: Vec<NodeId> = overlay.closed(*centre).collect();
            let wanted = members.len().min(self.tolerance + 1);
            let has =
                |node: &&NodeId, pack: u64| self.kept.get(node).is_some_and(|kept| kept.contains(&pack));
            (0..PACKS).any(|pack| members.iter().filter(|node| has(node, pack)).count() < wanted)
        };
        overlay.members().filter(is_short).count()
    }

    fn stored(&self) -> (f64, f64) {
        let shares = self.kept.values().map(|packs| packs.len() as f64 / PACKS as f64);
        let average = shares.clone().sum::<f64>() / self.kept.len().max(1) as f64;
        (shares.fold(0.0, f64::max), average)
    }

    fn rebuild(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let held: BTreeSet<u64> =
            nodes.iter().filter_map(|node| self.kept.get(node)).flatten().copied().collect();
        held.len() as u64 == PACKS
    }
}

fn rank(node: NodeId, pack: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 rendezvous rank v1");
    hasher.update(node.as_bytes());
    hasher.update(&pack.to_le_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
