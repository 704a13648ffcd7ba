//! Logic: what goes wrong in a simulation, and when.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::NodeNumber;
use super::world::{Coming, World};

/// How many faults there are, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Faults in all.
    pub count: usize,
    /// Nodes that a fault of many takes at once, at most.
    pub many: usize,
    /// Whether members leave and join only, one at a time.
    pub is_churn: bool,
    /// Whether servers are cut off only, and succeeded.
    pub is_split: bool,
}

impl Mix {
    /// So many faults, in a cluster of so many nodes.
    #[must_use]
    pub const fn new(count: usize, nodes: usize) -> Self {
        let many = if nodes > 300 { nodes / 20 } else { nodes / 4 };
        Self { count, many, is_churn: false, is_split: false }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A node ends and starts again after a while.
    Restart { down_ms: u64 },
    /// A node is lost with its disk, for ever.
    Loss,
    /// A node joins.
    Join,
    /// A node stands still for a while.
    Stall { for_ms: u64 },
    /// A part of the nodes is cut off from the others.
    Partition { for_ms: u64 },
    /// The server is cut off with others, and goes on; on the other side another one takes over.
    Split { for_ms: u64 },
    /// Nothing gets from one node to another, but back it does.
    OneWay { for_ms: u64 },
    /// Several nodes end at once, and start again.
    Many { down_ms: u64 },
    /// Another node is to hold everything, or one no more.
    Warm,
    /// The server ends; the same node or a warm candidate goes on.
    Server { down_ms: u64 },
}

impl Fault {
    fn draw(random: &mut StdRng, mix: Mix) -> Self {
        let long_ms = random.random_range(500..25_000);
        if mix.is_split {
            return Self::Split { for_ms: random.random_range(20_000..30_000) };
        }
        let kinds = if mix.is_churn { 2 } else { 9 };
        match random.random_range(0..kinds) {
            0 => Self::Loss,
            1 | 2 => Self::Join,
            3 | 4 => Self::Restart { down_ms: long_ms },
            5 => Self::Stall { for_ms: long_ms },
            6 if random.random_bool(0.5) => Self::Partition { for_ms: long_ms },
            6 => Self::Split { for_ms: long_ms + 12_000 },
            7 if random.random_bool(0.3) => Self::Warm,
            7 if random.random_bool(0.5) => Self::OneWay { for_ms: long_ms },
            7 => Self::Many { down_ms: long_ms },
            _ => Self::Server { down_ms: long_ms },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Restart { .. } => "crashes, to start again",
            Self::Loss => "is lost with its disk",
            Self::Join => "joins",
            Self::Stall { .. } => "stands still",
            Self::Partition { .. } => "is cut off, with others",
            Self::Split { .. } => "is cut off as the server, with others",
            Self::OneWay { .. } => "is not heard by another",
            Self::Many { .. } => "crashes with others",
            Self::Warm => "is warm from now on, or no more",
            Self::Server { .. } => "crashes as the server",
        }
    }
}

/// The end of a fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Partition,
    OneWay(NodeNumber, NodeNumber),
}

impl World {
    /// The faults of this run, each with its time.
    pub(super) fn plan_faults(&mut self) -> Vec<(u64, Fault)> {
        let (mix, faults_ms) = (self.scenario.mix, self.scenario.faults_ms);
        let random = &mut self.random;
        (0..mix.count)
            .map(|_| (random.random_range(faults_ms / 10..faults_ms), Fault::draw(random, mix)))
            .collect()
    }

    /// Some node that runs, no server, and may fail.
    pub(super) fn victim(&mut self) -> Option<NodeNumber> {
        let server = self.main.server;
        let running = self.nodes.iter().filter(|(number, node)| **number != server && node.keeper.is_some());
        running.map(|(number, _)| *number).choose(&mut self.random)
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        self.faults += 1;
        let Some(victim) = self.victim() else { return };
        let victim = if matches!(fault, Fault::Server { .. }) { self.main.server } else { victim };
        self.note_fault(victim, fault.name());
        match fault {
            Fault::Restart { down_ms } => {
                self.crash(victim);
                self.restart_after(victim, down_ms);
            }
            // No more at once than what durable means, as long as the others have not made up for it.
            Fault::Loss if self.may_lose() => self.lose(victim),
            Fault::Loss => {
                self.crash(victim);
                self.restart_after(victim, 2_000);
            }
            Fault::Join => self.join(),
            Fault::Stall { for_ms } => self.stall(victim, for_ms),
            Fault::Partition { for_ms } => self.partition(for_ms, None),
            Fault::Split { for_ms } => {
                let successor = self.island_of_server();
                self.partition(for_ms, successor);
            }
            Fault::OneWay { for_ms } => self.cut_one_way(victim, for_ms),
            Fault::Many { down_ms } => {
                for _ in 0..self.scenario.mix.many {
                    if let Some(victim) = self.victim() {
                        self.crash(victim);
                        self.restart_after(victim, down_ms);
                    }
                }
            }
            Fault::Warm => {
                let was_warm = self.warm.len();
                self.warm.retain(|node| *node != victim);
                if self.warm.len() >= 2 {
                    self.warm.remove(0);
                } else if self.warm.len() == was_warm {
                    self.warm.push(victim);
                }
            }
            Fault::Server { down_ms } => {
                self.crash(victim);
                self.restart_after(victim, down_ms);
            }
        }
    }

    /// Some nodes are cut off; the server among them, and its successor not, if one is named.
    fn partition(&mut self, for_ms: u64, successor: Option<NodeNumber>) {
        if !self.net.island.is_empty() {
            return;
        }
        let size = self.random.random_range(1..=self.nodes.len() / 2);
        let all: Vec<NodeNumber> = self.nodes.keys().copied().collect();
        self.net.island = all.into_iter().choose_multiple(&mut self.random, size).into_iter().collect();
        if let Some(successor) = successor {
            self.net.island.insert(self.main.server);
            self.net.island.remove(&successor);
            self.after(6_000, Coming::Usurp);
        }
        self.cut_ms = Some(self.now_ms);
        self.detect_all();
        self.end_after(End::Partition, for_ms);
    }

    fn cut_one_way(&mut self, victim: NodeNumber, for_ms: u64) {
        let others = self.nodes.keys().filter(|number| **number != victim).copied();
        let Some(other) = others.choose(&mut self.random) else { return };
        self.net.one_way.insert((victim, other));
        self.end_after(End::OneWay(victim, other), for_ms);
    }

    pub(super) fn end_fault(&mut self, end: End) {
        match end {
            End::Partition => {
                self.net.island.clear();
                self.reunite();
                self.cut_ms = Some(self.now_ms);
                self.detect_all();
            }
            End::OneWay(from, to) => {
                self.net.one_way.remove(&(from, to));
            }
        }
        self.note_fault(self.main.server, "a fault has ended");
    }
}
