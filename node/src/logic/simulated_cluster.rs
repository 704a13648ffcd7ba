//! A whole cluster of machines in virtual time, from a seed: messages that take a while and get lost, nodes that are
//! killed and return, partitions, and VMs that take snapshots.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use sustain_proto::wire::SnapshotSummary;
use sustain_proto::{NodeId, ServiceName, SnapshotId, Term, TermOrigin};

use super::*;

pub(super) const NODES: usize = 5;

pub(super) enum Delivery {
    Event(Event),
    Poll { from: usize, round: u64, lost: Option<Term> },
    Claim { from: usize, term: Term, origin: Option<TermOrigin> },
    Snapshot(Term),
    PowerOff(Term),
}

pub(super) struct Node {
    pub(super) machine: Option<Machine>,
    /// Survives a kill, like a disk.
    pub(super) store: Vec<SnapshotSummary>,
    pub(super) vm: Option<(Term, Option<TermOrigin>, u64)>,
    /// Messages for an earlier life don't arrive.
    life: u64,
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    queue: BTreeMap<(u64, u64), (usize, u64, Delivery)>,
    sent: u64,
    pub(super) now_ms: u64,
    pub(super) random: StdRng,
    pub(super) loss: f64,
    side: [u8; NODES],
    pub(super) boots: usize,
    pub(super) durable_seq: u64,
    pub(super) restored: Vec<(Term, u64)>,
    /// Snapshots with which a VM ends soon after its restore, on these nodes.
    doomed: BTreeMap<SnapshotId, BTreeSet<usize>>,
    /// Their VM can't even be restored.
    pub(super) garbage: bool,
    pub(super) passed_over: Vec<(SnapshotId, u64)>,
}

pub(super) fn id(node: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(node).unwrap() + 1; 32])
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let node = || Node { machine: None, store: Vec::new(), vm: None, life: 0 };
        let mut cluster = Self {
            nodes: (0..NODES).map(|_| node()).collect(),
            queue: BTreeMap::new(),
            sent: 0,
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            loss: 0.0,
            side: [0; NODES],
            boots: 0,
            durable_seq: 0,
            restored: Vec::new(),
            doomed: BTreeMap::new(),
            garbage: false,
            passed_over: Vec::new(),
        };
        for node in 0..NODES {
            cluster.start(node);
        }
        cluster
    }

    pub(super) fn start(&mut self, node: usize) {
        let config = MachineConfig {
            service: ServiceName::new("counter").unwrap(),
            node: id(node),
            peers: (0..NODES).filter(|other| *other != node).map(id).collect(),
            priority: 100 - u32::try_from(node).unwrap(),
            eligible: true,
            first: node == 0,
            timing: Timing::default(),
        };
        let mut machine = Machine::new(config, Box::new(StaticPriority), self.now_ms);
        let known = Event::Known(self.nodes[node].store.clone());
        assert!(machine.handle(self.now_ms, known, &mut self.random).is_empty());
        self.nodes[node].machine = Some(machine);
        self.nodes[node].life += 1;
        self.send(node, 1, Delivery::Event(Event::Tick));
        self.tell_reachable();
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
        self.nodes[node].vm = None;
        self.nodes[node].life += 1;
        self.tell_reachable();
    }

    pub(super) fn partition(&mut self, side: [u8; NODES]) {
        self.side = side;
        self.tell_reachable();
    }

    /// What probes would find, half a second later.
    fn tell_reachable(&mut self) {
        for node in 0..NODES {
            for other in (0..NODES).filter(|other| *other != node) {
                let reachable = self.nodes[other].machine.is_some() && self.side[node] == self.side[other];
                self.send(node, 500, Delivery::Event(Event::Peer { node: id(other), reachable }));
            }
        }
    }

    pub(super) fn send(&mut self, to: usize, after_ms: u64, delivery: Delivery) {
        self.sent += 1;
        self.queue.insert((self.now_ms + after_ms, self.sent), (to, self.nodes[to].life, delivery));
    }

    /// Over the network: delayed, and lost at times.
    fn transmit(&mut self, from: usize, to: usize, delivery: Delivery) {
        let delay_ms = self.random.random_range(1..20);
        if self.side[from] == self.side[to] && !self.random.random_bool(self.loss) {
            self.send(to, delay_ms, delivery);
        }
    }

    pub(super) fn run(&mut self, duration_ms: u64) {
        let until_ms = self.now_ms + duration_ms;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until_ms {
                break;
            }
            self.now_ms = entry.key().0;
            let (node, life, delivery) = entry.remove();
            if self.nodes[node].life == life && self.nodes[node].machine.is_some() {
                self.deliver(node, delivery);
            }
        }
        self.now_ms = until_ms;
    }

    fn deliver(&mut self, node: usize, delivery: Delivery) {
        match delivery {
            Delivery::Event(event) => {
                if event == Event::Tick {
                    self.send(node, 50, Delivery::Event(Event::Tick));
                }
                self.handle(node, event);
            }
            Delivery::Poll { from, round, lost } => {
                let ballot = Some(self.machine(node).ballot(self.now_ms));
                self.transmit(node, from, Delivery::Event(Event::Ballot { from: id(node), round, ballot }));
                self.handle(node, Event::Polled { from: id(from), lost });
            }
            Delivery::Claim { from, term, origin } => {
                self.handle(node, Event::Claimed { term, origin });
                if let Some(greatest) = self.machine(node).greatest().filter(|greatest| *greatest > term) {
                    let answer = Event::Claimed { term: greatest, origin: None };
                    self.transmit(node, from, Delivery::Event(answer));
                }
            }
            Delivery::Snapshot(term) => self.take_snapshot(node, term),
            Delivery::PowerOff(term) => self.power_off(node, term),
        }
    }

    pub(super) fn machine(&self, node: usize) -> &Machine {
        self.nodes[node].machine.as_ref().unwrap()
    }

    fn keep(&mut self, node: usize, summary: SnapshotSummary) {
        if !self.nodes[node].store.contains(&summary) {
            self.nodes[node].store.push(summary);
        }
        let known = self.nodes[node].store.clone();
        self.handle(node, Event::Known(known));
    }

    pub(super) fn handle(&mut self, node: usize, event: Event) {
        let now_ms = self.now_ms;
        let machine = self.nodes[node].machine.as_mut().unwrap();
        for action in machine.handle(now_ms, event, &mut self.random) {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
        match action {
            Action::Heartbeat(heartbeat) => {
                for other in others {
                    self.transmit(node, other, Delivery::Event(Event::Heartbeat(heartbeat.clone())));
                }
            }
            Action::Poll { round, lost } => {
                for other in others {
                    self.transmit(node, other, Delivery::Poll { from: node, round, lost });
                }
            }
            Action::Claim { term, origin } => {
                for other in others {
                    self.transmit(node, other, Delivery::Claim { from: node, term, origin });
                }
            }
            Action::Gather { term, snapshot } => self.gather(node, term, snapshot),
            Action::Prepare { term, snapshot } => {
                let failed = self.garbage && self.is_doomed(node, snapshot);
                let event = if failed { Event::StartFailed { term } } else { Event::Prepared { term } };
                self.send(node, 100, Delivery::Event(event));
            }
            Action::Resume { term, origin, parent } => {
                self.restored.push((term, origin.unwrap().seq));
                self.run_vm(node, term, origin, origin.unwrap().seq);
                if self.is_doomed(node, parent) {
                    self.send(node, 300, Delivery::PowerOff(term));
                }
            }
            Action::PassedOver { passed, instead } => self.passed_over.push((passed.id, instead.seq)),
            Action::Boot { term } => {
                self.boots += 1;
                self.run_vm(node, term, None, 0);
            }
            Action::Stop => {
                self.nodes[node].vm = None;
                self.send(node, 30, Delivery::Event(Event::Stopped));
            }
            Action::Follow { .. } | Action::Changed { .. } => {}
        }
    }

    fn run_vm(&mut self, node: usize, term: Term, origin: Option<TermOrigin>, seq: u64) {
        assert!(self.nodes[node].vm.is_none(), "a second VM on one node");
        self.nodes[node].vm = Some((term, origin, seq));
        self.send(node, 50, Delivery::Event(Event::Running { term }));
        self.send(node, 1_000, Delivery::Snapshot(term));
    }

    fn gather(&mut self, node: usize, term: Term, snapshot: SnapshotId) {
        let holders = (0..NODES).filter(|other| {
            let node_is_up = self.nodes[*other].machine.is_some() && self.side[*other] == self.side[node];
            node_is_up && self.nodes[*other].store.iter().any(|summary| summary.id == snapshot)
        });
        let event = match holders.max() {
            Some(holder) => {
                let store = &self.nodes[holder].store;
                let summary = *store.iter().find(|summary| summary.id == snapshot).unwrap();
                self.keep(node, summary);
                Event::Gathered { term }
            }
            None => Event::GatherFailed { term, snapshot },
        };
        self.send(node, 150, Delivery::Event(event));
    }

    fn take_snapshot(&mut self, node: usize, term: Term) {
        let Some((running, origin, seq)) = self.nodes[node].vm.as_mut().filter(|vm| vm.0 == term) else {
            return;
        };
        *seq += 1;
        let mut bytes = [0; 32];
        self.random.fill_bytes(&mut bytes);
        let summary = SnapshotSummary {
            id: SnapshotId::from_bytes(bytes),
            term: *running,
            origin: *origin,
            seq: *seq,
            durable: false,
            whole: true,
        };
        self.keep(node, summary);
        self.handle(node, Event::Taken { seq: summary.seq });
        let mut copies = 0;
        for other in (0..NODES).filter(|other| *other != node) {
            if self.side[other] == self.side[node] && self.nodes[other].machine.is_some() {
                copies += 1;
                self.keep(other, summary);
            }
        }
        if copies >= 2 {
            self.durable_seq = summary.seq;
            let durable = Event::Durable { snapshot: summary.id, seq: summary.seq, level: 1 };
            self.handle(node, durable);
        }
        self.send(node, 1_000, Delivery::Snapshot(term));
    }

    fn is_doomed(&self, node: usize, snapshot: SnapshotId) -> bool {
        self.doomed.get(&snapshot).is_some_and(|nodes| nodes.contains(&node))
    }

    fn power_off(&mut self, node: usize, term: Term) {
        if self.nodes[node].vm.take_if(|vm| vm.0 == term).is_some() {
            self.handle(node, Event::Exited { term });
        }
    }

    /// Has the newest snapshot end its VM on these nodes, and the VM of now too.
    pub(super) fn doom(&mut self, nodes: impl IntoIterator<Item = usize>) -> SnapshotSummary {
        let server = self.only_server();
        let newest = *self.nodes[server].store.last().unwrap();
        self.doomed.insert(newest.id, nodes.into_iter().collect());
        let term = self.nodes[server].vm.as_ref().unwrap().0;
        self.power_off(server, term);
        newest
    }

    pub(super) fn servers(&self) -> BTreeSet<usize> {
        (0..NODES).filter(|node| self.nodes[*node].vm.is_some()).collect()
    }

    pub(super) fn only_server(&self) -> usize {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "servers at {} ms: {servers:?}", self.now_ms);
        let server = *servers.first().unwrap();
        assert_eq!(self.machine(server).role(), Role::Server);
        server
    }
}
