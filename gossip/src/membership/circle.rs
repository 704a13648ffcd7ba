//! Logic: whom the overlay is made of.
//!
//! Everyone who belongs to the cluster, but for those that have been down for longer than a hold-off: a short absence
//! must not move data about. Who comes back is in again at once.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::NodeId;

use super::swim::Health;
use crate::overlay::{Members, Overlay};

/// The members, as one node sees them. Time comes as an argument, in milliseconds of any clock that never goes back.
#[derive(Debug, Clone)]
pub struct Circle {
    me: NodeId,
    degree: usize,
    hold_off_ms: u64,
    members: Members,
    down_since_ms: BTreeMap<NodeId, u64>,
    out: BTreeSet<NodeId>,
}

impl Circle {
    /// A circle of all members, this node among them. Nobody has been heard yet: who stays silent leaves it after the
    /// hold-off.
    #[must_use]
    pub fn new(me: NodeId, members: Members, degree: usize, hold_off_ms: u64, now_ms: u64) -> Self {
        let (down_since_ms, out) = (BTreeMap::new(), BTreeSet::new());
        let mut circle = Self { me, degree, hold_off_ms, members: Members::new(), down_since_ms, out };
        circle.set_members(members, now_ms);
        circle
    }

    /// Who belongs to the cluster now. True if that changes the circle.
    pub fn set_members(&mut self, members: Members, now_ms: u64) -> bool {
        let before = std::mem::replace(&mut self.members, members);
        for node in self.members.keys().filter(|node| **node != self.me && !before.contains_key(node)) {
            self.down_since_ms.insert(*node, now_ms);
        }
        self.down_since_ms.retain(|node, _| self.members.contains_key(node));
        self.out.retain(|node| self.members.contains_key(node));
        before != self.members
    }

    /// A member stands differently. True if that changes the circle.
    pub fn changed(&mut self, node: NodeId, health: Health, now_ms: u64) -> bool {
        if node == self.me || !self.members.contains_key(&node) {
            return false;
        }
        match health {
            Health::Down => {
                self.down_since_ms.entry(node).or_insert(now_ms);
                false
            }
            Health::Alive | Health::Suspect => {
                self.down_since_ms.remove(&node);
                self.out.remove(&node)
            }
        }
    }

    /// Time has passed. True if that changes the circle. A node that this one reaches is not left out, even if nobody
    /// calls it alive: it may be of a version that does not take part in that.
    pub fn tick(&mut self, now_ms: u64, is_reachable: impl Fn(&NodeId) -> bool) -> bool {
        let mut is_new = false;
        for (node, since_ms) in &mut self.down_since_ms {
            if is_reachable(node) {
                *since_ms = now_ms;
                is_new |= self.out.remove(node);
            } else if since_ms.saturating_add(self.hold_off_ms) <= now_ms {
                is_new |= self.out.insert(*node);
            }
        }
        is_new
    }

    /// When `tick` is to be called next, if it is.
    #[must_use]
    pub fn wake_ms(&self) -> Option<u64> {
        let waiting = self.down_since_ms.iter().filter(|(node, _)| !self.out.contains(*node));
        waiting.map(|(_, since_ms)| since_ms.saturating_add(self.hold_off_ms)).min()
    }

    /// Those in it, with their failure domains.
    #[must_use]
    pub fn inside(&self) -> Members {
        let inside = self.members.iter().filter(|(node, _)| !self.out.contains(*node));
        inside.map(|(node, domain)| (*node, domain.clone())).collect()
    }

    /// This node's neighbours.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<NodeId> {
        Overlay::new(&self.inside(), self.degree).near(&self.me).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&[number]).as_bytes())
    }

    fn members(count: u8) -> Members {
        (0..count).map(|number| (node(number), String::new())).collect()
    }

    /// Nobody can be reached.
    fn lost(_: &NodeId) -> bool {
        false
    }

    fn alive(count: u8) -> Circle {
        let mut circle = Circle::new(node(0), members(count), 4, 60_000, 0);
        for number in 1..count {
            assert!(!circle.changed(node(number), Health::Alive, 10));
        }
        assert_eq!(circle.wake_ms(), None);
        circle
    }

    #[test]
    fn a_short_absence_changes_nothing_and_a_long_one_does_until_it_ends() {
        let mut circle = alive(20);
        let before = circle.neighbours();
        let gone = *before.first().unwrap();
        assert!(!circle.changed(gone, Health::Suspect, 1_000));
        assert!(!circle.changed(gone, Health::Down, 5_000));
        assert!(!circle.changed(gone, Health::Down, 9_000), "it is down since the first time");
        assert_eq!(circle.wake_ms(), Some(65_000));
        assert!(!circle.tick(64_999, lost));
        assert_eq!(circle.neighbours(), before);
        assert!(circle.tick(65_000, lost));
        assert!(!circle.tick(65_001, lost), "once");
        assert_eq!(circle.wake_ms(), None);
        assert!(!circle.neighbours().contains(&gone));
        assert_eq!(circle.neighbours().len(), before.len());
        assert!(circle.changed(gone, Health::Alive, 70_000), "in again at once");
        assert_eq!(circle.neighbours(), before);
    }

    #[test]
    fn who_comes_back_within_the_hold_off_begins_it_anew() {
        let mut circle = alive(5);
        circle.changed(node(1), Health::Down, 1_000);
        circle.changed(node(1), Health::Alive, 50_000);
        assert!(!circle.tick(61_000, lost));
        circle.changed(node(1), Health::Down, 62_000);
        assert!(!circle.tick(121_999, lost));
        assert!(circle.tick(122_000, lost));
    }

    #[test]
    fn joining_and_removal_count_at_once_and_a_newcomer_that_is_never_heard_leaves() {
        let mut circle = alive(5);
        assert!(circle.set_members(members(6), 1_000));
        assert!(!circle.set_members(members(6), 1_001));
        assert!(circle.inside().contains_key(&node(5)));
        assert!(circle.tick(61_000, lost));
        assert!(!circle.inside().contains_key(&node(5)));
        assert!(circle.set_members(members(4), 62_000));
        assert_eq!(circle.neighbours(), (1..4).map(node).collect());
        assert!(!circle.changed(node(4), Health::Alive, 63_000), "no member any more");
    }

    #[test]
    fn who_is_reached_stays_though_nobody_calls_it_alive() {
        let mut circle = alive(5);
        circle.changed(node(1), Health::Down, 1_000);
        assert!(!circle.tick(61_000, |it| *it == node(1)));
        assert!(!circle.tick(120_999, lost), "it was reached until then");
        assert!(circle.tick(121_000, lost));
        assert!(circle.tick(122_000, |it| *it == node(1)), "and is in again");
    }

    /// Whoever sees the same members and the same deaths makes the same overlay.
    #[test]
    fn two_that_see_the_same_are_neighbours_or_not_to_both() {
        let count = 30;
        let circles: Vec<Circle> = (0..count)
            .map(|me| {
                let mut circle = Circle::new(node(me), members(count), 8, 60_000, 0);
                for number in 0..count {
                    let health = if number % 7 == 3 { Health::Down } else { Health::Alive };
                    circle.changed(node(number), health, 1);
                }
                circle.tick(100_000, lost);
                circle
            })
            .collect();
        for (one, circle) in (0..).zip(&circles) {
            for (other, theirs) in (0..).zip(&circles) {
                let are_in = one % 7 != 3 && other % 7 != 3;
                if are_in {
                    let near = circle.neighbours().contains(&node(other));
                    assert_eq!(near, theirs.neighbours().contains(&node(one)));
                }
            }
        }
    }
}
