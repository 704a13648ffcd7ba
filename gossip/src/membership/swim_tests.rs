//! Many nodes in one process, in virtual time from a seed.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sustain_proto::NodeId;

use super::swim::{Health, Swim, SwimAction};
use super::swim_config::{PACKET_BYTES_MAX, SwimConfig};

/// A network with delay and loss, and the nodes on it.
struct World {
    nodes: BTreeMap<NodeId, Swim>,
    members: BTreeSet<NodeId>,
    /// Packets on their way.
    packets: BTreeMap<(u64, u64), (NodeId, NodeId, Vec<u8>)>,
    number: u64,
    now_ms: u64,
    random: StdRng,
    loss_percent: u32,
    /// Those that can talk to one another only.
    island: BTreeSet<NodeId>,
    /// Every change that a node has seen.
    changes: Vec<(u64, NodeId, NodeId, Health)>,
}

fn node(number: u16) -> NodeId {
    NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

impl World {
    fn new(count: u16, seed: u64) -> Self {
        let members: BTreeSet<NodeId> = (0..count).map(node).collect();
        let mut world = Self {
            nodes: BTreeMap::new(),
            members: members.clone(),
            packets: BTreeMap::new(),
            number: 0,
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            loss_percent: 0,
            island: BTreeSet::new(),
            changes: Vec::new(),
        };
        members.iter().for_each(|node| world.start(*node));
        world
    }

    fn start(&mut self, node: NodeId) {
        let seed = self.random.random();
        self.nodes.insert(node, Swim::new(node, &self.members, SwimConfig::default(), self.now_ms, seed));
    }

    fn act(&mut self, from: NodeId, actions: Vec<SwimAction>) {
        for action in actions {
            match action {
                SwimAction::Send { to, datagram } => {
                    assert!(datagram.len() <= PACKET_BYTES_MAX);
                    let is_cut = self.island.contains(&from) != self.island.contains(&to);
                    if !is_cut && self.random.random_range(0..100) >= self.loss_percent {
                        self.number += 1;
                        let at_ms = self.now_ms + self.random.random_range(1..=20);
                        self.packets.insert((at_ms, self.number), (from, to, datagram));
                    }
                }
                SwimAction::Changed { node, health } => self.changes.push((self.now_ms, from, node, health)),
            }
        }
    }

    fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        loop {
            let packet_ms = self.packets.keys().next().map_or(u64::MAX, |(at_ms, _)| *at_ms);
            let next = self.nodes.iter().map(|(node, swim)| (swim.wake_ms(), *node)).min();
            let Some((wake_ms, waking)) = next else { return };
            let next_ms = packet_ms.min(wake_ms);
            if next_ms > end_ms {
                self.now_ms = end_ms;
                return;
            }
            self.now_ms = self.now_ms.max(next_ms);
            if packet_ms <= wake_ms {
                let Some((_, (from, to, datagram))) = self.packets.pop_first() else { return };
                let now_ms = self.now_ms;
                let actions = self.nodes.get_mut(&to).map(|swim| swim.datagram(from, &datagram, now_ms));
                self.act(to, actions.unwrap_or_default());
            } else {
                let now_ms = self.now_ms;
                let actions = self.nodes.get_mut(&waking).map(|swim| swim.tick(now_ms));
                self.act(waking, actions.unwrap_or_default());
            }
        }
    }

    /// Pairs of which the first does not see the second so.
    fn unlike(&self, health: Health, seen: impl Fn(&NodeId) -> bool) -> usize {
        let mut count = 0;
        for (by, swim) in &self.nodes {
            let others = self.members.iter().filter(|node| *node != by && seen(node));
            count += others.filter(|node| swim.health(node).is_none_or(|(it, _)| it != health)).count();
        }
        count
    }

    fn until_all_alive(&mut self, patience_ms: u64) -> u64 {
        let begun_ms = self.now_ms;
        while self.unlike(Health::Alive, |_| true) > 0 {
            self.run(100);
            let took_ms = self.now_ms - begun_ms;
            let left = self.unlike(Health::Alive, |_| true);
            assert!(took_ms <= patience_ms, "{left} pairs are not well after {took_ms} ms");
        }
        self.now_ms - begun_ms
    }

    fn deaths_since(&self, since_ms: u64) -> usize {
        self.changes.iter().filter(|change| change.0 >= since_ms && change.3 == Health::Down).count()
    }
}

#[test]
fn fifty_nodes_find_one_another_agree_on_a_crash_and_on_a_return() {
    for seed in 0..3 {
        let mut world = World::new(50, seed);
        world.until_all_alive(6_000);
        let (settled_ms, crashed) = (world.now_ms, node(7));
        world.run(60_000);
        assert_eq!(world.deaths_since(settled_ms), 0, "seed {seed}: nobody is dead");
        world.nodes.remove(&crashed);
        let crashed_ms = world.now_ms;
        while world.unlike(Health::Down, |node| *node == crashed) > 0 {
            world.run(100);
            assert!(world.now_ms < crashed_ms + 15_000, "seed {seed}: it is not agreed that it is dead");
        }
        assert_eq!(world.deaths_since(settled_ms), 49, "seed {seed}: and nobody else");
        world.start(crashed);
        world.until_all_alive(6_000);
    }
}

/// A node that is started again at once, with nothing remembered, is the same node in a new life.
#[test]
fn a_quick_restart_is_noticed_by_nobody() {
    let mut world = World::new(20, 4);
    world.until_all_alive(6_000);
    world.run(5_000);
    let restarted_ms = world.now_ms;
    for round in 0..3 {
        world.start(node(round));
        world.run(3_000);
    }
    world.until_all_alive(3_000);
    world.run(30_000);
    assert_eq!(world.deaths_since(restarted_ms), 0);
}

#[test]
fn halves_that_meet_again_are_one_cluster_within_ten_seconds() {
    for seed in 0..3 {
        let mut world = World::new(50, seed);
        world.until_all_alive(6_000);
        world.island = (0..25).map(node).collect();
        world.run(120_000);
        let island = world.island.clone();
        for (by, swim) in &world.nodes {
            for other in world.members.iter().filter(|other| *other != by) {
                let is_near = island.contains(by) == island.contains(other);
                let expected = if is_near { Health::Alive } else { Health::Down };
                assert_eq!(swim.health(other).unwrap().0, expected, "seed {seed}");
            }
        }
        world.island.clear();
        world.until_all_alive(10_000);
        let healed_ms = world.now_ms;
        world.run(60_000);
        assert_eq!(world.deaths_since(healed_ms), 0, "seed {seed}: and it stays so");
    }
}

/// With the first seed a node once fell silent for good: it was told that it is dead (every suspect was, even one that
/// had denied it in time), took a new life, told three others, and those three packets were lost.
#[test]
fn lost_packets_kill_nobody() {
    for (seed, loss_percent, minutes) in [(103, 10, 10), (7, 20, 2)] {
        let mut world = World::new(50, seed);
        world.loss_percent = loss_percent;
        world.until_all_alive(10_000);
        let settled_ms = world.now_ms;
        world.run(minutes * 60_000);
        assert_eq!(world.deaths_since(settled_ms), 0, "{loss_percent} % lost, {minutes} min");
    }
}

#[test]
fn a_node_that_was_stalled_accuses_nobody() {
    let mut world = World::new(10, 5);
    world.until_all_alive(6_000);
    let stalled = node(3);
    let mut swim = world.nodes.remove(&stalled).unwrap();
    let before_ms = world.now_ms;
    world.run(60_000);
    let now_ms = world.now_ms;
    let actions = swim.tick(now_ms);
    world.nodes.insert(stalled, swim);
    world.act(stalled, actions);
    world.until_all_alive(6_000);
    let accused = world.changes.iter().filter(|change| change.0 > before_ms && change.1 == stalled);
    assert_eq!(accused.filter(|change| change.3 == Health::Down).count(), 0);
}

#[test]
fn who_does_not_belong_is_not_heard_and_who_was_removed_is_forgotten() {
    let mut world = World::new(5, 6);
    world.until_all_alive(6_000);
    let (removed, stranger) = (node(4), node(99));
    world.members.remove(&removed);
    let (members, now_ms) = (world.members.clone(), world.now_ms);
    for number in 0..4 {
        let actions = world.nodes.get_mut(&node(number)).map(|swim| swim.set_members(&members, now_ms));
        world.act(node(number), actions.unwrap());
    }
    // They still talk: the removed node does not know it, and the stranger tries.
    let all = members.iter().copied().chain([stranger, removed]).collect();
    world.nodes.insert(stranger, Swim::new(stranger, &all, SwimConfig::default(), now_ms, 1));
    world.run(30_000);
    for number in 0..4 {
        let swim = &world.nodes[&node(number)];
        assert_eq!(swim.health(&removed), None);
        assert_eq!(swim.health(&stranger), None);
        assert!(
            members
                .iter()
                .filter(|id| **id != node(number))
                .all(|id| swim.health(id).unwrap().0 == Health::Alive)
        );
    }
    assert!(all.iter().all(|id| {
        world.nodes[&stranger].health(id).is_none_or(|(health, _)| health == Health::Down || *id == removed)
    }));
}

/// Garbage, and a life so great that its owner could never outlive it, are ignored.
#[test]
fn lies_about_lives_are_ignored() {
    use foca::{Header, Member, Message, State};

    use super::life::Life;
    use super::packet::Packet;

    let mut world = World::new(4, 8);
    world.until_all_alive(6_000);
    let (liar, victim) = (node(1), node(2));
    for target in [node(0), victim] {
        let header = Header {
            src: Life { node: liar, number: 0 },
            src_incarnation: 0,
            dst: Life { node: target, number: 0 },
            message: Message::Gossip,
        };
        let lie = Member::new(Life { node: victim, number: u64::MAX }, 0, State::Down);
        let datagram = Packet { header, updates: Some(vec![lie]) }.encode().unwrap();
        let now_ms = world.now_ms;
        for bytes in [&datagram[..], &datagram[..40], &[0xff; 64], &[]] {
            let actions = world.nodes.get_mut(&target).unwrap().datagram(liar, bytes, now_ms);
            world.act(target, actions);
        }
    }
    let lied_ms = world.now_ms;
    world.run(30_000);
    assert_eq!(world.deaths_since(lied_ms), 0);
    world.until_all_alive(1_000);
}

/// Who suspects a node and is told to be dead itself begins another life, in which the suspicion has no end; and the
/// node did not hear of it. So it was suspected for ever, by all of a half.
#[test]
fn nobody_who_answers_stays_suspect_after_a_cut() {
    for seed in 0..60 {
        let mut world = World::new(6, seed);
        world.until_all_alive(5_000);
        world.island = (0..3).map(node).collect();
        world.run(1_500 + seed * 150);
        world.island.clear();
        world.until_all_alive(20_000);
    }
}
