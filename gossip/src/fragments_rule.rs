//! Logic: the rule of fragments, as a study plays it. See `holdings` for the rule itself.

use std::collections::BTreeSet;

use sustain_proto::NodeId;

use crate::code::Code;
use crate::holdings::{Holdings, Move, View};
use crate::overlay::Overlay;
use crate::study::Rule;

/// Moves for each node that are tried before a neighbourhood counts as short for good.
const ROUNDS_MAX: usize = 20;

/// A fragment for each node.
pub(crate) struct Fragments {
    code: Code,
    tolerance: usize,
    holdings: Holdings,
    nodes: BTreeSet<NodeId>,
}

impl Fragments {
    pub(crate) fn new(code: Code, tolerance: usize) -> Self {
        Self { code, tolerance, holdings: Holdings::default(), nodes: BTreeSet::new() }
    }

    fn view<'a>(&'a self, overlay: &'a Overlay) -> View<'a> {
        View { overlay, holdings: &self.holdings, code: self.code, tolerance: self.tolerance }
    }

    /// What a move costs; it is done with that.
    fn fetch(&mut self, to: Move) -> f64 {
        self.holdings.set(to.node, to.to);
        if to.is_copy || self.code.is_whole() { self.code.share() } else { 1.0 }
    }
}

impl Rule for Fragments {
    fn changed(&mut self, overlay: &Overlay) -> f64 {
        let now: BTreeSet<NodeId> = overlay.members().collect();
        self.nodes.difference(&now).for_each(|gone| self.holdings.remove(gone));
        let mut fetched = 0.0;
        for node in now.difference(&self.nodes.clone()) {
            let to = self.view(overlay).choose(*node);
            fetched += self.fetch(to);
        }
        self.nodes = now;
        for _ in 0..ROUNDS_MAX {
            let moves = self.nodes.clone().into_iter().filter_map(|node| {
                // One after the other: each sees the move before.
                let to = self.view(overlay).mend(node)?;
                Some(self.fetch(to))
            });
            let costs: Vec<f64> = moves.collect();
            if costs.is_empty() {
                break;
            }
            fetched += costs.iter().sum::<f64>();
        }
        fetched
    }

    fn short(&self, overlay: &Overlay) -> usize {
        let mut present = Holdings::default();
        for node in overlay.members() {
            if let Some(held) = self.holdings.of(&node) {
                present.set(node, held);
            }
        }
        let view = View { holdings: &present, ..self.view(overlay) };
        overlay.members().filter(|node| view.margin(*node) < 0).count()
    }

    fn stored(&self) -> (f64, f64) {
        (self.code.share(), self.code.share())
    }

    fn rebuild(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let held: BTreeSet<_> = nodes.iter().filter_map(|node| self.holdings.of(node)).collect();
        held.len() >= self.code.needed
    }
}
