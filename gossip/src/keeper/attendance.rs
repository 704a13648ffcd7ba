//! Logic: which members count for the overlay. One that is dead counts on for a while (the hold-off), so that neither a
//! restart nor a short partition has anybody move what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use sustain_proto::NodeId;

use crate::overlay::{Members, Overlay};

/// Overlays kept of the last memberships.
const OVERLAYS_KEPT: usize = 64;

/// The members, each alive or dead since some time.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    labels: Members,
    dead: BTreeMap<NodeId, u64>,
    /// Those that are dead and count, by the time since when.
    ending: BTreeSet<(u64, NodeId)>,
    counting: Members,
    has_changed: bool,
}

impl Attendance {
    /// A member is alive. True if that is news.
    pub fn alive(&mut self, node: NodeId, label: &str) -> bool {
        let since_ms = self.dead.remove(&node);
        let was_dead = since_ms.is_some_and(|since_ms| {
            self.ending.remove(&(since_ms, node));
            true
        });
        let is_same = self.labels.get(&node).is_some_and(|old| old == label);
        if !is_same {
            self.labels.insert(node, label.to_owned());
        }
        if self.counting.get(&node).is_none_or(|old| old != label) {
            self.counting.insert(node, label.to_owned());
            self.has_changed = true;
        }
        was_dead || !is_same
    }

    /// A member is dead. True if that is news.
    pub fn dead(&mut self, now_ms: u64, node: &NodeId) -> bool {
        let is_news = self.labels.contains_key(node) && !self.dead.contains_key(node);
        if is_news {
            self.dead.insert(*node, now_ms);
            self.ending.insert((now_ms, *node));
        }
        is_news
    }

    /// A member was removed for ever.
    pub fn removed(&mut self, node: &NodeId) {
        self.labels.remove(node);
        if let Some(since_ms) = self.dead.remove(node) {
            self.ending.remove(&(since_ms, *node));
        }
        self.has_changed |= self.counting.remove(node).is_some();
    }

    /// Whether a member is alive.
    #[must_use]
    pub fn is_alive(&self, node: &NodeId) -> bool {
        self.labels.contains_key(node) && !self.dead.contains_key(node)
    }

    /// Those that are alive.
    pub fn all_alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.labels.keys().filter(|node| !self.dead.contains_key(*node)).copied()
    }

    /// Has those count no more that have been dead for as long as this. True if anything has changed since the last
    /// call.
    pub fn count(&mut self, now_ms: u64, hold_off_ms: u64) -> bool {
        while let Some((since_ms, node)) = self.ending.first().copied() {
            if now_ms < since_ms.saturating_add(hold_off_ms) {
                break;
            }
            self.ending.pop_first();
            self.has_changed |= self.counting.remove(&node).is_some();
        }
        std::mem::take(&mut self.has_changed)
    }

    /// When a dead member ceases to count.
    #[must_use]
    pub fn next_ms(&self, hold_off_ms: u64) -> Option<u64> {
        self.ending.first().map(|(since_ms, _)| since_ms.saturating_add(hold_off_ms))
    }

    /// Those that count, each with its label.
    #[must_use]
    pub fn counting(&self) -> &Members {
        &self.counting
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
