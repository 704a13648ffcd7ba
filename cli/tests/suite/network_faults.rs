//! Daemons in network namespaces, and what networks and machines do to them. After each fault every snapshot that was
//! durable is gathered at every node, bit for bit.

#![expect(clippy::print_stdout, reason = "what was skipped, and why, shown by --nocapture")]

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::support::{Bench, noise};

/// A cluster in a network, and what was pushed into it.
struct World {
    cluster: Cluster,
    bench: Bench,
    pushed: Vec<Pushed>,
}

struct Pushed {
    service: String,
    id: String,
    bytes: Vec<u8>,
}

impl World {
    /// None, and a line that says why, where namespaces can't be had.
    fn new(nodes: u8) -> Option<Self> {
        match Cluster::start_in_network(nodes) {
            Ok(cluster) => {
                let world = Self { cluster, bench: Bench::new(), pushed: Vec::new() };
                (0..nodes.into()).for_each(|node| world.hears(node, usize::from(nodes) - 1));
                Some(world)
            }
            Err(reason) => {
                println!("skipped: network namespaces can't be had here: {reason}");
                None
            }
        }
    }

    /// Peers that a node reaches.
    fn reached(&self, node: usize) -> Option<usize> {
        let status = self.cluster.status(node)?;
        Some(status["peers"].as_array()?.iter().filter(|peer| peer["reachable"] == true).count())
    }

    /// Waits until a node reaches exactly so many peers.
    fn hears(&self, node: usize, peers: usize) {
        self.cluster.wait("the peers", || self.reached(node).filter(|reached| *reached == peers).map(drop));
    }

    /// Waits until a node takes exactly so many of its peers for alive, by what all nodes say.
    fn calls_alive(&self, node: usize, peers: usize) {
        self.cluster.wait("the living", || {
            let status = self.cluster.status(node)?;
            let alive = status["peers"].as_array()?.iter().filter(|peer| peer["health"] == "alive").count();
            (alive == peers).then_some(())
        });
    }

    /// Pushes noise at a node, as the newest state of a service.
    fn push(&mut self, node: usize, service: &str, bytes: usize) {
        let bytes = noise(self.pushed.len() as u64 + 1, bytes);
        let file = self.bench.write("state", &bytes);
        let region = format!("state={}", file.display());
        let pushed = self.cluster.at(node, &["push", service, "--region", &region]).unwrap();
        let id = pushed["snapshot"].as_str().unwrap().to_owned();
        self.pushed.push(Pushed { service: service.to_owned(), id, bytes });
    }

    /// Waits until the newest push is durable, as the node knows at which it was made.
    fn wait_durable(&self, node: usize) {
        let newest = self.pushed.last().unwrap();
        self.cluster.wait("durability", || {
            let log = self.cluster.at(node, &["log", &newest.service])?;
            let is =
                |found: &&serde_json::Value| found["id"] == newest.id.as_str() && found["durable"] == true;
            log.as_array()?.iter().find(is).map(drop)
        });
    }

    /// Waits until a node lists everything that was pushed.
    fn wait_listed(&self, node: usize) {
        for Pushed { service, id, .. } in &self.pushed {
            self.cluster.wait("a snapshot in the list", || {
                let log = self.cluster.at(node, &["log", service])?;
                log.as_array()?.iter().any(|found| found["id"] == id.as_str()).then_some(())
            });
        }
    }

    /// Waits until a node has all that it is to hold: whole packs, or fragments of them.
    fn wait_kept(&self, node: usize) {
        self.cluster.wait("what is kept", || {
            let keeping = self.cluster.status(node)?["keeping"].clone();
            let bytes = keeping["pack_bytes"].as_u64()? + keeping["fragment_bytes"].as_u64()?;
            (keeping["missing_parts"] == 0 && bytes > 0).then_some(())
        });
    }

    /// Gathers everything that was pushed at these nodes, and compares it.
    fn gather_everything(&self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            for (number, Pushed { id, bytes, .. }) in self.pushed.iter().enumerate() {
                let to = self.bench.path(&format!("gathered-{node}-{number}"));
                let arguments = ["gather", id, "--to", to.to_str().unwrap()];
                self.cluster.wait("a gather", || self.cluster.at(node, &arguments));
                assert!(fs::read(to.join("state")).unwrap() == *bytes, "node {node} gathered something else");
                fs::remove_dir_all(to).unwrap();
            }
        }
    }

    /// Whether any node has lost sight of a peer since it started.
    fn lost_sight(&self) -> bool {
        let is = |line: &str| line.contains("a peer has changed") && line.contains("reachable=false");
        (0..self.cluster.nodes.len()).any(|node| self.cluster.log(node).lines().any(is))
    }
}

/// Nodes that can reach each other again are one cluster within this time.
const REUNION: Duration = Duration::from_secs(10);

#[test]
fn halves_of_a_cluster_that_meet_again_have_what_both_took() {
    let Some(mut world) = World::new(6) else { return };
    world.push(0, "before", 400_000);
    world.wait_durable(0);
    world.cluster.network().part(&[&[0, 1, 2], &[3, 4, 5]]);
    (0..6).for_each(|node| world.hears(node, 2));
    world.push(1, "north", 400_000);
    world.wait_durable(1);
    world.push(4, "south", 400_000);
    world.wait_durable(4);
    world.cluster.network().heal();
    let healed = Instant::now();
    (0..6).for_each(|node| world.hears(node, 5));
    (0..6).for_each(|node| world.calls_alive(node, 5));
    assert!(healed.elapsed() < REUNION, "the halves took {:?} to meet", healed.elapsed());
    (0..6).for_each(|node| world.wait_listed(node));
    world.gather_everything(0..6);
}

#[test]
fn who_was_removed_by_one_half_is_out_in_both_once_they_meet() {
    let Some(mut world) = World::new(5) else { return };
    world.cluster.network().part(&[&[0, 1], &[2, 3, 4]]);
    (0..2).for_each(|node| world.hears(node, 1));
    (2..5).for_each(|node| world.hears(node, 2));
    // The other half is dead for this one, and the removed node is in it.
    (0..2).for_each(|node| world.calls_alive(node, 1));
    assert!(world.cluster.at(0, &["remove", "node-5", "--yes"]).is_some());
    assert!(world.cluster.status(4).is_some(), "it can't know yet");
    world.cluster.network().heal();
    let mut process = world.cluster.nodes[4].take().unwrap();
    let ended = world.cluster.wait("its end", || process.try_wait().unwrap());
    assert_eq!(ended.code(), Some(15), "{}", world.cluster.log(4));
    (0..4).for_each(|node| world.hears(node, 3));
    for node in 0..4 {
        world.cluster.wait("the removal", || {
            let status = world.cluster.status(node)?;
            (status["removed"][0]["name"] == "node-5" && status["peers"].as_array()?.len() == 3).then_some(())
        });
    }
}

#[test]
fn a_node_that_does_not_hear_the_server_gets_its_data_from_the_others() {
    let Some(mut world) = World::new(5) else { return };
    world.cluster.network().cut(0, 4);
    world.hears(4, 3);
    // One that only this node does not hear is no dead one.
    (0..5).for_each(|node| world.calls_alive(node, 4));
    world.push(0, "files", 400_000);
    world.wait_durable(0);
    world.gather_everything(0..5);
    world.cluster.network().heal();
    (0..5).for_each(|node| world.hears(node, 4));
    (0..5).for_each(|node| world.wait_listed(node));
}

#[test]
fn heartbeats_are_not_delayed_by_data_on_slow_links() {
    let Some(mut world) = World::new(4) else { return };
    (0..4).for_each(|node| world.cluster.network().slow(node, 10));
    // Three copies of this keep the link busy for some 10 s.
    world.push(0, "files", 4_000_000);
    world.wait_durable(0);
    (0..4).for_each(|node| world.wait_listed(node));
    assert!(!world.lost_sight(), "a busy link was taken for a dead one");
    world.gather_everything(0..4);
}

#[test]
fn links_that_lose_packets_delay_and_lose_nothing() {
    let Some(mut world) = World::new(5) else { return };
    world.cluster.network().lose(5);
    for node in 0..3 {
        world.push(node, "files", 1_000_000);
        world.wait_durable(node);
    }
    (0..5).for_each(|node| world.wait_listed(node));
    assert!(!world.lost_sight(), "a peer that loses some packets was taken for dead");
    world.gather_everything(0..5);
}

#[test]
fn a_process_that_was_frozen_catches_up() {
    let Some(mut world) = World::new(4) else { return };
    world.push(0, "files", 400_000);
    world.wait_durable(0);
    world.cluster.signal(2, Signal::STOP);
    world.hears(0, 2);
    world.push(0, "files", 400_000);
    world.wait_durable(0);
    world.cluster.signal(2, Signal::CONT);
    (0..4).for_each(|node| world.hears(node, 3));
    (0..4).for_each(|node| world.wait_listed(node));
    world.gather_everything(0..4);
}

/// The server and eight of those that have no part in it: what each neighbourhood holds is enough.
#[test]
fn nine_of_twenty_nodes_die_at_once() {
    let Some(mut world) = World::new(20) else { return };
    world.push(0, "files", 400_000);
    world.wait_durable(0);
    let status = world.cluster.status(0).unwrap();
    let is_neighbour = |node: &usize| {
        let name = format!("node-{}", node + 1);
        status["peers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["name"] == name.as_str() && peer["neighbour"] == true)
    };
    let holders: Vec<usize> = (1..20).filter(is_neighbour).collect();
    (1..20).for_each(|node| world.wait_kept(node));
    // All but two of its neighbours, and others: each of those that are left has a fragment of each pack.
    let (left, lost) = holders.split_at(2);
    let mut dead: Vec<usize> = [&[0], lost].concat();
    dead.extend((1..20).filter(|node| !left.contains(node) && !lost.contains(node)).take(9 - dead.len()));
    assert_eq!(dead.len(), 9);
    dead.iter().for_each(|node| world.cluster.kill(*node));
    world.gather_everything((0..20).filter(|node| !dead.contains(node)));
    dead.iter().for_each(|node| world.cluster.spawn(*node as u8));
    (0..20).for_each(|node| world.hears(node, 19));
    world.gather_everything(dead);
}

#[test]
fn nodes_are_restarted_one_by_one() {
    let Some(mut world) = World::new(4) else { return };
    for node in 0..4 {
        world.push((node + 1) % 4, "files", 200_000);
        world.wait_durable((node + 1) % 4);
        world.cluster.signal(node, Signal::TERM);
        let process = world.cluster.nodes[node].as_mut().unwrap();
        let status = process.wait().unwrap();
        assert!(status.success(), "{status}: {}", world.cluster.log(node));
        world.push((node + 1) % 4, "files", 200_000);
        world.wait_durable((node + 1) % 4);
        world.cluster.spawn(node as u8);
        (0..4).for_each(|node| world.hears(node, 3));
    }
    (0..4).for_each(|node| world.wait_listed(node));
    world.gather_everything(0..4);
}
