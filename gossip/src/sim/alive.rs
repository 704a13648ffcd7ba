//! Logic: simulated nodes find out by SWIM who is alive, in those scenarios that have it.

use std::collections::BTreeSet;

use rand::Rng;
use sustain_proto::NodeId;

use super::NodeNumber;
use super::check::Occasion;
use super::trace::Note;
use super::world::{Coming, World};
use crate::keeper::Event;
use crate::membership::{Health, Swim, SwimAction, SwimConfig};

impl World {
    /// All nodes that ever belonged to the cluster: one that is lost is not known to be.
    fn roster(&self) -> BTreeSet<NodeId> {
        self.numbers.keys().copied().collect()
    }

    /// A node that starts has heard of nobody.
    pub(super) fn start_swim(&mut self, number: NodeNumber) {
        if !self.scenario.has_swim {
            return;
        }
        let (roster, seed, now_ms) = (self.roster(), self.random.random(), self.now_ms);
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let usual = SwimConfig::default();
        let impatient = SwimConfig { direct_ms: 2, suspect_ms: 10, ..usual };
        let config = if self.mutant == Some(super::world::Mutant::Impatient) { impatient } else { usual };
        node.swim = Some(Swim::new(node.id, &roster, config, now_ms, seed));
        self.plan_tick(number);
    }

    /// All hear soon that a node belongs to the cluster.
    pub(super) fn admit(&mut self) {
        let numbers: Vec<NodeNumber> = self.nodes.keys().copied().collect();
        for number in numbers {
            let after_ms = self.random.random_range(10..1_000);
            self.after(after_ms, Coming::Admitted(number));
        }
    }

    pub(super) fn admitted(&mut self, number: NodeNumber) {
        let roster = self.roster();
        self.with_swim(number, |swim, now_ms| swim.set_members(&roster, now_ms));
    }

    pub(super) fn tick(&mut self, number: NodeNumber, life: u64) {
        if self.is_life(number, life) {
            self.with_swim(number, Swim::tick);
        }
    }

    pub(super) fn datagram(&mut self, number: NodeNumber, life: u64, from: NodeId, bytes: &[u8]) {
        if self.is_life(number, life) {
            self.with_swim(number, |swim, now_ms| swim.datagram(from, bytes, now_ms));
        }
    }

    fn with_swim(&mut self, number: NodeNumber, happens: impl FnOnce(&mut Swim, u64) -> Vec<SwimAction>) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.get_mut(&number).filter(|node| node.keeper.is_some()) else { return };
        let Some(swim) = node.swim.as_mut() else { return };
        let (actions, from) = (happens(swim, now_ms), node.id);
        for action in actions {
            match action {
                SwimAction::Send { to, datagram } => self.send_datagram(number, from, to, &datagram),
                SwimAction::Changed { node, health } => self.changed(number, node, health),
            }
        }
        self.plan_tick(number);
    }

    fn plan_tick(&mut self, number: NodeNumber) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let Some(wake_ms) = node.swim.as_ref().map(Swim::wake_ms) else { return };
        let (life, wake_ms) = (node.life, wake_ms.max(now_ms + 1));
        if wake_ms < node.tick_ms || node.tick_ms <= now_ms {
            node.tick_ms = wake_ms;
            self.after(wake_ms - now_ms, Coming::Tick(number, life));
        }
    }

    fn send_datagram(&mut self, number: NodeNumber, from: NodeId, to: NodeId, datagram: &[u8]) {
        let Some(receiver) = self.numbers.get(&to).copied() else { return };
        let Some(life) = self.nodes.get(&receiver).map(|node| node.life) else { return };
        let arrivals: Vec<u64> = self.net.message_ms(&mut self.random, number, receiver).collect();
        for after_ms in arrivals {
            self.after(after_ms, Coming::Datagram(receiver, life, from, datagram.to_vec()));
        }
    }

    /// A node takes another one for alive, or for dead.
    fn changed(&mut self, observer: NodeNumber, subject: NodeId, health: Health) {
        let Some(number) = self.numbers.get(&subject).copied() else { return };
        let label = self.nodes.get(&number).map(|node| node.label.clone()).unwrap_or_default();
        let Some(node) = self.nodes.get_mut(&observer) else { return };
        let event = match health {
            Health::Suspect => return,
            Health::Alive => {
                node.told_dead.remove(&number);
                Event::Alive { nodes: vec![(subject, label)] }
            }
            Health::Down => {
                node.told_dead.insert(number);
                Event::Dead { node: subject }
            }
        };
        self.note(observer, Note::Told(number, health == Health::Alive));
        self.check(&Occasion::Told(observer, number, health == Health::Alive));
        self.give(observer, event);
    }
}
