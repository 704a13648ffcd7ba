//! Logic: what has changed among the members since the keeper was last told.

use std::collections::BTreeMap;

use sustain_proto::NodeId;

use crate::keeper::Event;

/// Each member's failure domain, and whether it is alive.
pub(super) type Standing = BTreeMap<NodeId, (String, bool)>;

/// What the keeper knows of the members.
#[derive(Debug, Default)]
pub(super) struct Roll {
    known: Standing,
}

impl Roll {
    /// What to tell the keeper. A member that was not heard of yet counts as one that has just died, so that a node
    /// that starts does not take its cluster for a small one.
    pub(super) fn changes(&mut self, now: Standing) -> Vec<Event> {
        let mut events = Vec::new();
        let gone = self.known.keys().filter(|node| !now.contains_key(node));
        events.extend(gone.map(|node| Event::Removed { node: *node }));
        let is_told = |(node, (label, is_alive)): &(&NodeId, &(String, bool))| match self.known.get(node) {
            None => true,
            Some((old, was_alive)) => *is_alive && !(*was_alive && old == label),
        };
        let told = now.iter().filter(is_told).map(|(node, (label, _))| (*node, label.clone()));
        let nodes: Vec<_> = told.collect();
        if !nodes.is_empty() {
            events.push(Event::Alive { nodes });
        }
        let was_alive = |node: &NodeId| self.known.get(node).is_none_or(|(_, was_alive)| *was_alive);
        let dead = now.iter().filter(|(node, (_, is_alive))| !is_alive && was_alive(node));
        events.extend(dead.map(|(node, _)| Event::Dead { node: *node }));
        self.known = now;
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn standing(nodes: &[(u8, bool)]) -> Standing {
        nodes.iter().map(|(number, is_alive)| (node(*number), (String::new(), *is_alive))).collect()
    }

    fn told(events: &[Event]) -> Vec<(&'static str, u8)> {
        let first = |node: &NodeId| node.as_bytes()[0];
        let one = |event: &Event| match event {
            Event::Alive { nodes } => nodes.iter().map(|(node, _)| ("alive", first(node))).collect(),
            Event::Dead { node } => vec![("dead", first(node))],
            Event::Removed { node } => vec![("removed", first(node))],
            _ => Vec::new(),
        };
        events.iter().flat_map(one).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let mut roll = Roll::default();
        let first = standing(&[(1, true), (2, false)]);
        let expected = [("alive", 1), ("alive", 2), ("dead", 2)];
        assert_eq!(
            told(&roll.changes(first.clone())),
            expected,
            "a member that is silent counts for a while"
        );
        assert_eq!(told(&roll.changes(first)), []);
        assert_eq!(told(&roll.changes(standing(&[(1, true), (2, true)]))), [("alive", 2)]);
        assert_eq!(told(&roll.changes(standing(&[(1, true), (2, false)]))), [("dead", 2)]);
        assert_eq!(told(&roll.changes(standing(&[(1, true)]))), [("removed", 2)]);
        let mut moved = standing(&[(1, true)]);
        moved.values_mut().for_each(|(label, _)| *label = "attic".to_owned());
        assert_eq!(told(&roll.changes(moved)), [("alive", 1)]);
    }
}
