//! Logic: simulated nodes that start, crash, join and are lost, and who takes whom for dead.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use sustain_proto::NodeId;

use super::NodeNumber;
use super::check::Occasion;
use super::faults::End;
use super::stamp::Stamp;
use super::trace::Note;
use super::world::{Coming, Mutant, Node, World};
use crate::keeper::{Event, Keeper, KeeperConfig, Kept};

impl World {
    pub(super) fn add_node(&mut self) -> NodeNumber {
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let id = NodeId::from_bytes(self.random.random());
        let domains = self.scenario.domains;
        let label = if domains == 0 { String::new() } else { format!("site-{}", number as usize % domains) };
        let node = Node {
            id,
            label,
            keeper: None,
            life: 0,
            is_liar: false,
            stalled_until_ms: 0,
            told_dead: BTreeSet::new(),
            wake_ms: 0,
            swim: None,
            tick_ms: 0,
        };
        self.numbers.insert(id, number);
        self.nodes.insert(number, node);
        number
    }

    /// A node starts, if it is there and does not run; it knows who can be reached.
    pub(super) fn start(&mut self, number: NodeNumber) {
        if self.is_running(number) || !self.nodes.contains_key(&number) {
            return;
        }
        let others = self.nodes.iter().filter(|(other, _)| self.is_reachable(number, **other));
        let mut alive: Vec<(NodeId, String)> =
            others.map(|(_, node)| (node.id, node.label.clone())).collect();
        alive.extend(self.nodes.get(&number).map(|node| (node.id, node.label.clone())));
        self.check(&Occasion::Started(number));
        self.start_quietly(number, &alive);
        self.detect_one(number);
        if number == self.main.server {
            self.reign();
        }
    }

    /// A fault of the logic: a node forgets what it has, and fetches it anew.
    pub(super) fn forget_all(&mut self) {
        let Some(victim) = self.victim().filter(|_| self.mutant == Some(Mutant::ForgetsItsDisk)) else {
            return;
        };
        let others =
            self.nodes.iter().filter(|(other, _)| **other == victim || self.is_reachable(victim, **other));
        let alive: Vec<(NodeId, String)> = others.map(|(_, node)| (node.id, node.label.clone())).collect();
        self.start_quietly(victim, &alive);
    }

    /// A node starts, and nobody hears of it.
    pub(super) fn start_quietly(&mut self, number: NodeNumber, alive: &[(NodeId, String)]) {
        let me = self.nodes.get(&number).map(|node| (node.id, node.label.clone()));
        // With SWIM a node has heard of nobody at first.
        let alone: Vec<_> = me.into_iter().collect();
        let alive = if self.scenario.has_swim { &alone } else { alive };
        let disk = self.disks.of(number);
        let kept = Kept {
            claim: disk.claim,
            catalogs: disk.catalogs.values().cloned().collect(),
            parts: disk.synced().collect(),
        };
        let forgets = self.mutant == Some(Mutant::ForgetsItsDisk);
        let kept = if forgets { Kept::default() } else { kept };
        let config = self.keeper_config();
        let (now_ms, overlays) = (self.now_ms, self.overlays.clone());
        let known: BTreeSet<NodeNumber> =
            alive.iter().filter_map(|(id, _)| self.numbers.get(id).copied()).collect();
        let told_dead = self.nodes.keys().filter(|other| !known.contains(*other)).copied().collect();
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.life += 1;
        node.wake_ms = 0;
        node.tick_ms = 0;
        node.stalled_until_ms = 0;
        node.told_dead = told_dead;
        node.keeper = Some(Keeper::new(node.id, config, overlays, now_ms, kept, Arc::new(Stamp(node.id))));
        self.note(number, Note::Other("starts"));
        self.start_swim(number);
        self.give(number, Event::Alive { nodes: alive.to_vec() });
    }

    fn keeper_config(&self) -> KeeperConfig {
        let hold_off_ms = match self.mutant {
            Some(Mutant::NoHoldOff) => 0,
            Some(Mutant::NeverMends) => u64::MAX / 2,
            _ => self.scenario.hold_off_ms,
        };
        KeeperConfig {
            degree: self.scenario.degree,
            tolerance: self.scenario.tolerance,
            hold_off_ms,
            gives_once: self.mutant != Some(Mutant::GivesToAll),
            ..KeeperConfig::default()
        }
    }

    pub(super) fn crash(&mut self, number: NodeNumber) {
        self.disks.of(number).crash();
        if let Some(node) = self.nodes.get_mut(&number) {
            node.keeper = None;
        }
        self.detect_one(number);
        self.check(&Occasion::Crashed(number));
        if number == self.main.server {
            self.after(5_000, Coming::Lead { from_ms: self.now_ms });
        }
    }

    pub(super) fn restart_after(&mut self, number: NodeNumber, down_ms: u64) {
        self.after(down_ms, Coming::Start(number));
    }

    /// Whether another node may be lost for ever now: no more are lost, until that is made up for, than are tolerated.
    pub(super) fn may_lose(&self) -> bool {
        let recent = self.lost_ms.values().filter(|at_ms| **at_ms + 45_000 > self.now_ms).count();
        let liars = self.nodes.values().filter(|node| node.is_liar).count();
        self.nodes.len() > 5 && recent + liars < self.scenario.tolerance
    }

    pub(super) fn lose(&mut self, number: NodeNumber) {
        self.crash(number);
        self.disks.destroy(number);
        self.lost_ms.insert(number, self.now_ms);
        self.nodes.remove(&number);
        self.warm.retain(|node| *node != number);
        self.check(&Occasion::Lost(number));
    }

    pub(super) fn join(&mut self) {
        let number = self.add_node();
        self.note(number, Note::Fault("joins"));
        self.admit();
        self.start(number);
    }

    pub(super) fn stall(&mut self, number: NodeNumber, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        if let Some(node) = self.nodes.get_mut(&number) {
            node.stalled_until_ms = until_ms;
        }
        self.check(&Occasion::Stalled(number, until_ms));
        self.detect_one(number);
        let observers: Vec<NodeNumber> = self.nodes.keys().copied().collect();
        for observer in observers {
            let after_ms = for_ms + self.random.random_range(100..1_000);
            self.after(after_ms, Coming::Detect { observer, subject: number });
        }
    }

    pub(super) fn end_after(&mut self, end: End, for_ms: u64) {
        self.after(for_ms, Coming::End(end));
    }

    /// Whether one node takes another for alive, if it looks closely: one-way cuts are got around by others.
    pub(super) fn is_reachable(&self, observer: NodeNumber, subject: NodeNumber) -> bool {
        let is_up = |node: &Node| node.keeper.is_some() && node.stalled_until_ms <= self.now_ms;
        let cut = self.net.island.contains(&observer) != self.net.island.contains(&subject);
        self.nodes.get(&subject).is_some_and(is_up) && !cut
    }

    /// All will notice that a node has come or gone.
    pub(super) fn detect_one(&mut self, subject: NodeNumber) {
        let observers: Vec<NodeNumber> =
            self.nodes.keys().filter(|node| **node != subject).copied().collect();
        for observer in observers {
            self.detect_later(observer, subject);
        }
    }

    /// All will notice who can be reached now.
    pub(super) fn detect_all(&mut self) {
        let all: Vec<NodeNumber> = self.nodes.keys().copied().collect();
        for observer in &all {
            for subject in &all {
                let told_dead = self.nodes.get(observer).is_some_and(|node| node.told_dead.contains(subject));
                if observer != subject && self.is_reachable(*observer, *subject) == told_dead {
                    self.detect_later(*observer, *subject);
                }
            }
        }
    }

    fn detect_later(&mut self, observer: NodeNumber, subject: NodeNumber) {
        let (least_ms, most_ms) = self.scenario.detection_ms;
        let after_ms = if self.is_reachable(observer, subject) {
            self.random.random_range(100..1_000)
        } else {
            self.random.random_range(least_ms..most_ms)
        };
        self.after(after_ms, Coming::Detect { observer, subject });
    }

    pub(super) fn detect(&mut self, observer: NodeNumber, subject: NodeNumber) {
        let is_alive = self.is_reachable(observer, subject);
        let Some(other) = self.id_of(subject) else { return };
        let label = self.nodes.get(&subject).map(|node| node.label.clone()).unwrap_or_default();
        let Some(node) = self.nodes.get_mut(&observer).filter(|node| node.keeper.is_some()) else { return };
        if node.stalled_until_ms > self.now_ms || node.swim.is_some() {
            return;
        }
        let event = if is_alive {
            node.told_dead.remove(&subject);
            Event::Alive { nodes: vec![(other, label)] }
        } else {
            node.told_dead.insert(subject);
            Event::Dead { node: other }
        };
        self.note(observer, Note::Told(subject, is_alive));
        self.give(observer, event);
    }

    pub(super) fn id_of(&self, number: NodeNumber) -> Option<NodeId> {
        let known = self.nodes.get(&number).map(|node| node.id);
        known.or_else(|| self.numbers.iter().find(|(_, other)| **other == number).map(|(id, _)| *id))
    }
}
