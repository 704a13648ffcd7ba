//! Logic: who is whose neighbour (P1, P11).
//!
//! Nodes stand on several rings, on each in another order, which a hash decides. Who stands next to a node
//! on any ring is its neighbour. So the rule is symmetric, needs no talk, connects everyone, gives nobody
//! more than d neighbours, and a node that comes or goes changes only the lists of those next to it.
//!
//! Two nodes may be next to each other on several rings, and have fewer neighbours by that: such nodes stand on more
//! rings, of their own. Nodes of one failure domain (a site, a power line) avoid each other: each ring is cut where the
//! hash of a node says so, about every fourth node, and within such a run no two of a domain follow each other if that
//! can be had. A cut moves with its node only, so that this, too, stays where something changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sustain_proto::NodeId;

/// Rings for nodes that lack neighbours.
const SPARE_RINGS: u64 = 6;
/// A run of a ring ends with a node of which so many bits are zero: every fourth.
const CUT_BITS: u8 = 0b11;

/// The members of a cluster, each with the label of its failure domain. An empty label is a domain of one.
pub type Members = BTreeMap<NodeId, String>;

/// All neighbours of all members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    near: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Overlay {
    /// At most `degree` neighbours each; in a cluster that is no larger, everyone. A degree below 2 counts as 2.
    #[must_use]
    pub fn new(members: &Members, degree: usize) -> Self {
        let degree = degree.max(2);
        let all: BTreeSet<NodeId> = members.keys().copied().collect();
        if all.len() <= degree + 1 {
            let others = |node: &NodeId| all.iter().copied().filter(|other| other != node).collect();
            return Self { near: all.iter().map(|node| (*node, others(node))).collect() };
        }
        let nodes: Vec<Standing<'_>> =
            all.iter().zip(members.values()).enumerate().map(Standing::of).collect();
        let mut links = Links { near: vec![Vec::with_capacity(degree); nodes.len()], degree };
        let rings = degree as u64 / 2;
        for ring in 0..rings {
            links.close(&ordered(ring, nodes.iter().copied()));
        }
        for ring in rings..rings + SPARE_RINGS {
            let lacking = nodes.iter().filter(|node| links.near[node.number].len() < degree);
            let places = ordered(ring, lacking.copied());
            links.close(&places);
        }
        let near = |near: &Vec<usize>| near.iter().map(|other| nodes[*other].node).collect();
        Self { near: nodes.iter().zip(&links.near).map(|(node, others)| (node.node, near(others))).collect() }
    }

    /// A member's neighbours.
    #[must_use]
    pub fn near(&self, node: &NodeId) -> &BTreeSet<NodeId> {
        static NOBODY: BTreeSet<NodeId> = BTreeSet::new();
        self.near.get(node).unwrap_or(&NOBODY)
    }

    /// A member and its neighbours: its closed neighbourhood, which together must be able to rebuild everything.
    pub fn closed(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.near(&node).iter().copied().chain([node])
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.near.keys().copied()
    }
}

/// The neighbours of `me` among `others`.
#[must_use]
pub fn neighbours(me: NodeId, others: &BTreeSet<NodeId>, degree: usize) -> BTreeSet<NodeId> {
    let members = others.iter().copied().chain([me]).map(|node| (node, String::new())).collect();
    Overlay::new(&members, degree).near(&me).clone()
}

/// A node as it is put on rings: by its place in the list of all.
#[derive(Debug, Clone, Copy)]
struct Standing<'a> {
    number: usize,
    node: NodeId,
    /// None is a domain of one.
    domain: Option<&'a str>,
}

impl<'a> Standing<'a> {
    fn of((number, (node, label)): (usize, (&NodeId, &'a String))) -> Self {
        Self { number, node: *node, domain: Some(label.as_str()).filter(|label| !label.is_empty()) }
    }
}

/// Who is whose neighbour, by their places in the list of all.
struct Links {
    near: Vec<Vec<usize>>,
    degree: usize,
}

impl Links {
    /// Has each be the next one's neighbour, and the last the first's.
    fn close(&mut self, places: &[usize]) {
        for (one, other) in places.iter().zip(places.iter().cycle().skip(1)) {
            let has_room = |node: &usize| self.near[*node].len() < self.degree;
            if one == other || self.near[*one].contains(other) || !has_room(one) || !has_room(other) {
                continue;
            }
            self.near[*one].push(*other);
            self.near[*other].push(*one);
        }
    }
}

/// The nodes in the order in which they stand on a ring.
fn ordered<'a>(ring: u64, nodes: impl Iterator<Item = Standing<'a>>) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 overlay ring v1");
    hasher.update(&ring.to_le_bytes());
    let mut places: Vec<([u8; 32], Standing<'_>)> = nodes
        .map(|node| (*hasher.clone().update(node.node.as_bytes()).finalize().as_bytes(), node))
        .collect();
    places.sort_unstable_by_key(|(place, _)| *place);
    let mut order: Vec<usize> = Vec::with_capacity(places.len());
    // Every byte of a place is chance; the last one does not take part in the order.
    for run in places.split_inclusive(|(place, _)| place[31] & CUT_BITS == 0) {
        let mut waiting: VecDeque<&Standing<'_>> = run.iter().map(|(_, node)| node).collect();
        let mut before = None;
        while !waiting.is_empty() {
            let next = waiting.iter().position(|node| before.is_none() || node.domain != before);
            let Some(node) = waiting.remove(next.unwrap_or(0)) else { break };
            before = node.domain;
            order.push(node.number);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Graph = BTreeMap<NodeId, BTreeSet<NodeId>>;

    fn graph(nodes: &BTreeSet<NodeId>, degree: usize) -> Graph {
        Overlay::new(&nodes.iter().map(|node| (*node, String::new())).collect(), degree).near
    }

    /// Of so many nodes, in so many domains.
    fn members(count: u16, domains: u16) -> Members {
        let label = |number: u16| if domains == 0 { String::new() } else { (number % domains).to_string() };
        (0..count).map(|number| (node(number), label(number))).collect()
    }

    fn node(number: u16) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn cluster() -> impl Strategy<Value = BTreeSet<NodeId>> {
        prop::collection::btree_set(any::<[u8; 32]>().prop_map(NodeId::from_bytes), 1..60)
    }

    fn reached(graph: &Graph) -> usize {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<NodeId> = graph.keys().take(1).copied().collect();
        while let Some(node) = todo.pop() {
            if seen.insert(node) {
                todo.extend(&graph[&node]);
            }
        }
        seen.len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn symmetric_connected_and_bounded(nodes in cluster(), degree in 2_usize..12) {
            let graph = graph(&nodes, degree);
            prop_assert_eq!(reached(&graph), nodes.len());
            for (node, near) in &graph {
                prop_assert!(!near.contains(node));
                prop_assert!(near.len() <= degree);
                prop_assert!(near.len() >= (nodes.len() - 1).min(2));
                for other in near {
                    prop_assert!(graph[other].contains(node), "symmetric");
                }
                if nodes.len() <= degree + 1 {
                    prop_assert_eq!(near.len(), nodes.len() - 1, "small clusters: everyone");
                }
            }
        }

        #[test]
        fn who_asks_does_not_matter(nodes in cluster(), degree in 2_usize..12) {
            let graph = graph(&nodes, degree);
            for me in &nodes {
                let others = nodes.iter().copied().filter(|node| node != me).collect();
                prop_assert_eq!(&neighbours(*me, &others, degree), &graph[me]);
            }
        }
    }

    #[test]
    fn nearly_all_have_as_many_neighbours_as_they_may() {
        let links: usize = Overlay::new(&members(100, 0), 8).near.values().map(BTreeSet::len).sum();
        assert!(links >= 100 * 8 - 4, "{links} of 800");
    }

    /// Link ends that change for each node that leaves, beside those that led to it.
    fn changed_by_leaving(count: u16, domains: u16) -> f64 {
        let all = members(count, domains);
        let before = Overlay::new(&all, 8);
        let mut changed = 0;
        for leaver in all.keys() {
            let mut rest = all.clone();
            rest.remove(leaver);
            let after = Overlay::new(&rest, 8);
            for node in rest.keys() {
                let mut old = before.near(node).clone();
                old.remove(leaver);
                changed += after.near(node).symmetric_difference(&old).count();
            }
        }
        changed as f64 / f64::from(count)
    }

    #[test]
    fn who_leaves_changes_little() {
        // Four rings are closed where it stood, which makes eight link ends.
        for count in [30, 100, 300] {
            let (plain, labelled) = (changed_by_leaving(count, 0), changed_by_leaving(count, 3));
            assert!(plain < 18.0 && labelled < 40.0, "{count}: {plain}, in three domains {labelled}");
        }
    }

    /// The links between nodes of one domain, as a share of all.
    fn within(members: &Members) -> f64 {
        let overlay = Overlay::new(members, 8);
        let links =
            overlay.members().flat_map(|node| overlay.near(&node).iter().map(move |near| (node, *near)));
        let links: Vec<bool> = links.map(|(one, other)| members[&one] == members[&other]).collect();
        links.iter().filter(|is_within| **is_within).count() as f64 / links.len() as f64
    }

    #[test]
    fn nodes_of_a_domain_avoid_each_other() {
        for domains in [3, 5] {
            let share = within(&members(120, domains));
            assert!(share < 0.6 / f64::from(domains), "{domains} domains: {share}");
        }
    }
}
