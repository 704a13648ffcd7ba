//! Logic: what a cluster of some size would cost and survive, found by playing it through from a seed: nodes leave and
//! join one by one, and catastrophes take a share of them at once.
//!
//! Shares are of all the data that a service keeps. What is downloaded counts in full: a fragment that nobody holds
//! any more is made from k others, which are as much as the data.

use std::collections::BTreeSet;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use serde::Serialize;
use sustain_proto::NodeId;

use crate::code::Code;
use crate::copies_rule::Copies;
use crate::fragments_rule::Fragments;
use crate::overlay::{Members, Overlay};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Nodes.
    pub nodes: usize,
    /// Neighbours of each.
    pub degree: usize,
    /// Losses that each neighbourhood must survive.
    pub tolerance: usize,
    /// Nodes that leave, and others that join, in all.
    pub changes: usize,
    /// Catastrophes of each size.
    pub catastrophes: usize,
    /// Where chance begins.
    pub seed: u64,
}

/// A rule for who stores what, as the study plays it.
pub(crate) trait Rule {
    /// Nodes have left or joined. What is fetched until every neighbourhood has what it should.
    fn changed(&mut self, overlay: &Overlay) -> f64;

    /// Neighbourhoods that lack something now.
    fn short(&self, overlay: &Overlay) -> usize;

    /// The share of the data that the fullest node, and the average one, stores.
    fn stored(&self) -> (f64, f64);

    /// Whether these nodes can rebuild everything together.
    fn rebuild(&self, nodes: &BTreeSet<NodeId>) -> bool;
}

/// What a rule costs and survives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Share of the data that a node stores, on average.
    pub stored: f64,
    /// The same of the fullest node.
    pub stored_most: f64,
    /// Share of the data that is downloaded for one node that leaves and one that joins, on average.
    pub moved: f64,
    /// What 95 of 100 such changes stay below.
    pub moved_p95: f64,
    /// Neighbourhoods that are short after a loss until that is mended, on average.
    pub short: f64,
    /// Neighbourhoods that are short after all was mended; more than none means that the degree is too small.
    pub short_for_good: usize,
    /// For catastrophes that take 10, 20 … 90 of 100 nodes at once: the share of them after which the nodes that are
    /// left can rebuild everything together.
    pub survived: Vec<f64>,
    /// The same for what a node that is left and its neighbours can rebuild by themselves, over all such nodes.
    pub survived_nearby: Vec<f64>,
}

/// Both rules for the same question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Study {
    /// Fragments that rebuild the data.
    pub needed: usize,
    /// Different fragments.
    pub total: usize,
    /// With fragments, which is what nodes do.
    pub coded: Answer,
    /// With whole packs, chosen by rendezvous hashing, for comparison.
    pub copies: Answer,
}

impl Question {
    /// Plays it through.
    #[must_use]
    pub fn answer(&self) -> Study {
        let code = Code::for_cluster(self.nodes, self.degree, self.tolerance);
        Study {
            needed: code.needed,
            total: code.total,
            coded: self.play(Fragments::new(code, self.tolerance)),
            copies: self.play(Copies::new(self.tolerance)),
        }
    }

    fn play(&self, mut rule: impl Rule) -> Answer {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut members: Members = (0..self.nodes).map(|_| new_node(&mut random)).collect();
        let mut overlay = Overlay::new(&members, self.degree);
        rule.changed(&overlay);
        let (mut moved, mut short) = (Vec::new(), 0);
        for _ in 0..self.changes {
            if let Some(leaver) = members.keys().copied().choose(&mut random) {
                members.remove(&leaver);
            }
            overlay = Overlay::new(&members, self.degree);
            short += rule.short(&overlay);
            let mut fetched = rule.changed(&overlay);
            members.extend([new_node(&mut random)]);
            overlay = Overlay::new(&members, self.degree);
            fetched += rule.changed(&overlay);
            moved.push(fetched);
        }
        moved.sort_unstable_by(f64::total_cmp);
        let (stored_most, stored) = rule.stored();
        let (survived, survived_nearby) =
            (1..10).map(|tenths| self.catastrophes(&rule, &overlay, tenths, &mut random)).unzip();
        let events = moved.len().max(1) as f64;
        Answer {
            stored,
            stored_most,
            moved: moved.iter().sum::<f64>() / events,
            moved_p95: moved.get(moved.len() * 95 / 100).copied().unwrap_or(0.0),
            short: short as f64 / events,
            short_for_good: rule.short(&overlay),
            survived,
            survived_nearby,
        }
    }

    /// Shares of catastrophes, and of nodes left by them, after which everything can be rebuilt.
    fn catastrophes(
        &self,
        rule: &impl Rule,
        overlay: &Overlay,
        tenths: usize,
        random: &mut StdRng,
    ) -> (f64, f64) {
        let all: Vec<NodeId> = overlay.members().collect();
        let left = all.len() - all.len() * tenths / 10;
        let (mut survived, mut nearby) = (0, 0);
        for _ in 0..self.catastrophes {
            let left: BTreeSet<NodeId> =
                all.iter().copied().choose_multiple(random, left).into_iter().collect();
            survived += usize::from(rule.rebuild(&left));
            let can = |node: &&NodeId| {
                rule.rebuild(&overlay.closed(**node).filter(|near| left.contains(near)).collect())
            };
            nearby += left.iter().filter(can).count();
        }
        let trials = self.catastrophes.max(1);
        (survived as f64 / trials as f64, nearby as f64 / (trials * left.max(1)) as f64)
    }
}

fn new_node(random: &mut StdRng) -> (NodeId, String) {
    (NodeId::from_bytes(random.random()), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(nodes: usize, degree: usize, tolerance: usize) -> Study {
        Question { nodes, degree, tolerance, changes: 60, catastrophes: 20, seed: 7 }.answer()
    }

    #[test]
    fn a_hundred_nodes_store_and_move_little() {
        let study = answer(100, 8, 1);
        assert_eq!((study.needed, study.total), (6, 24));
        let coded = &study.coded;
        assert!(coded.stored <= 0.18 && coded.moved <= 0.25, "{coded:?}");
        assert_eq!(coded.short_for_good, 0);
        assert!(study.copies.stored > 1.5 * coded.stored && study.copies.moved > coded.moved, "{study:?}");
        assert_eq!((coded.survived[0], coded.survived[4]), (1.0, 1.0), "half of all nodes gone");
    }

    #[test]
    fn every_neighbourhood_is_mended_whatever_the_size() {
        for (nodes, degree, tolerance) in
            [(5, 8, 1), (9, 8, 2), (10, 8, 1), (14, 8, 1), (25, 8, 2), (60, 16, 3)]
        {
            let study = answer(nodes, degree, tolerance);
            assert_eq!(study.coded.short_for_good, 0, "{nodes} {degree} {tolerance}: {study:?}");
        }
    }

    #[test]
    fn of_a_small_cluster_each_node_has_everything() {
        let study = answer(5, 8, 1);
        assert_eq!((study.needed, study.coded.stored, study.coded.moved), (1, 1.0, 1.0));
        assert_eq!(study.coded.survived_nearby, [1.0; 9]);
    }

    #[test]
    fn the_same_seed_gives_the_same_answer() {
        let question =
            Question { nodes: 30, degree: 8, tolerance: 1, changes: 20, catastrophes: 10, seed: 3 };
        assert_eq!(question.answer(), question.answer());
        assert_ne!(question.answer(), Question { seed: 4, ..question }.answer());
    }
}
