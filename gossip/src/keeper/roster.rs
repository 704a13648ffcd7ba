//! Logic: which members count for the overlay. One that is dead counts on for a while (the hold-off), so that neither a
//! restart nor a short partition has anybody move what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use sustain_proto::NodeId;

use crate::overlay::{Members, Overlay};

/// Overlays kept of the last memberships.
const OVERLAYS_KEPT: usize = 64;

#[derive(Debug, Clone)]
struct Member {
    label: String,
    dead_since_ms: Option<u64>,
}

/// The members, each alive or dead since some time.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    members: BTreeMap<NodeId, Member>,
    counting: Members,
}

impl Roster {
    /// A member is alive. True if that is news.
    pub fn alive(&mut self, node: NodeId, label: &str) -> bool {
        let member = Member { label: label.to_owned(), dead_since_ms: None };
        let old = self.members.insert(node, member);
        old.is_none_or(|old| old.dead_since_ms.is_some() || old.label != label)
    }

    /// A member is dead. True if that is news.
    pub fn dead(&mut self, now_ms: u64, node: &NodeId) -> bool {
        match self.members.get_mut(node) {
            Some(member) if member.dead_since_ms.is_none() => {
                member.dead_since_ms = Some(now_ms);
                true
            }
            _ => false,
        }
    }

    /// A member was removed for ever.
    pub fn removed(&mut self, node: &NodeId) -> bool {
        self.members.remove(node).is_some()
    }

    /// Whether a member is alive.
    #[must_use]
    pub fn is_alive(&self, node: &NodeId) -> bool {
        self.members.get(node).is_some_and(|member| member.dead_since_ms.is_none())
    }

    /// Those that are alive.
    pub fn all_alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|(_, member)| member.dead_since_ms.is_none()).map(|(node, _)| *node)
    }

    /// How many members there are, dead or alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Works out anew who counts. True if that has changed.
    pub fn count(&mut self, now_ms: u64, hold_off_ms: u64) -> bool {
        let counts = |member: &&Member| member.dead_since_ms.is_none_or(|since| now_ms < since + hold_off_ms);
        let counting: Members = self
            .members
            .iter()
            .filter(|(_, member)| counts(member))
            .map(|(node, member)| (*node, member.label.clone()))
            .collect();
        let has_changed = counting != self.counting;
        self.counting = counting;
        has_changed
    }

    /// When a dead member ceases to count.
    #[must_use]
    pub fn next_ms(&self, hold_off_ms: u64) -> Option<u64> {
        let ends = self.counting.keys().filter_map(|node| self.members.get(node)?.dead_since_ms);
        ends.map(|since| since + hold_off_ms).min()
    }

    /// Those that count, each with its label.
    #[must_use]
    pub fn counting(&self) -> &Members {
        &self.counting
    }

    /// Which nodes of these count.
    #[must_use]
    pub fn of(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        nodes.iter().filter(|node| self.counting.contains_key(*node)).copied().collect()
    }
}

/// Members, a degree, and the overlay that they make.
type Kept = (Members, usize, Arc<Overlay>);

/// Overlays by the memberships that they are of: nodes of one process share them. An overlay follows from its members,
/// so that who worked it out makes no difference.
#[derive(Debug, Clone, Default)]
pub struct Overlays {
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl Overlays {
    /// The overlay of these members.
    #[must_use]
    pub fn get(&self, members: &Members, degree: usize) -> Arc<Overlay> {
        let Ok(mut kept) = self.kept.lock() else { return Arc::new(Overlay::new(members, degree)) };
        let is_of = |(of, at, _): &&Kept| *at == degree && of == members;
        if let Some((_, _, overlay)) = kept.iter().rev().find(is_of) {
            return Arc::clone(overlay);
        }
        if kept.len() >= OVERLAYS_KEPT {
            kept.drain(..OVERLAYS_KEPT / 2);
        }
        let overlay = Arc::new(Overlay::new(members, degree));
        kept.push((members.clone(), degree, Arc::clone(&overlay)));
        overlay
    }
}
