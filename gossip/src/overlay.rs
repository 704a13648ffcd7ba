//! Logic: who is whose neighbour (P1, P11).
//!
//! Nodes stand on several rings, on each in another order, which a hash decides. Who stands next to a node
//! on any ring is its neighbour. So the rule is symmetric, needs no talk, connects everyone, gives nobody
//! more than d neighbours, and a node that comes or goes changes only its own neighbours' lists.

use std::collections::BTreeSet;

use sustain_proto::NodeId;

/// The neighbours of `me` among `others`, at most `degree`; in a cluster that is no larger, everyone.
#[must_use]
pub fn neighbours(me: NodeId, others: &BTreeSet<NodeId>, degree: usize) -> BTreeSet<NodeId> {
    let mut all = others.clone();
    all.insert(me);
    if all.len() <= degree + 1 {
        all.remove(&me);
        return all;
    }
    let mut found = BTreeSet::new();
    for ring in 0..(degree / 2).max(1) as u64 {
        let mut places: Vec<([u8; 32], NodeId)> = all.iter().map(|node| (place(ring, node), *node)).collect();
        places.sort_unstable();
        let Some(mine) = places.iter().position(|(_, node)| *node == me) else {
            continue;
        };
        let count = places.len();
        found.insert(places[(mine + 1) % count].1);
        found.insert(places[(mine + count - 1) % count].1);
    }
    found
}

/// Where a node stands on a ring.
fn place(ring: u64, node: &NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 overlay ring v1");
    hasher.update(&ring.to_le_bytes());
    hasher.update(node.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Graph = BTreeMap<NodeId, BTreeSet<NodeId>>;

    fn graph(nodes: &BTreeSet<NodeId>, degree: usize) -> Graph {
        nodes
            .iter()
            .map(|me| {
                let others = nodes.iter().copied().filter(|node| node != me).collect();
                (*me, neighbours(*me, &others, degree))
            })
            .collect()
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
        fn who_leaves_changes_only_its_neighbours(nodes in cluster(), degree in 2_usize..12) {
            prop_assume!(nodes.len() > degree + 2);
            let before = graph(&nodes, degree);
            let leaver = *nodes.iter().next().unwrap();
            let rest = nodes.iter().copied().filter(|node| *node != leaver).collect();
            for (node, near) in graph(&rest, degree) {
                if !before[&leaver].contains(&node) {
                    prop_assert_eq!(&near, &before[&node]);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_mostly_distinct() {
        let nodes: BTreeSet<NodeId> = (0..100).map(|number| NodeId::from_bytes([number; 32])).collect();
        let links: usize = graph(&nodes, 8).values().map(BTreeSet::len).sum();
        assert!(links > 100 * 7, "{links} of 800");
    }
}
