//! Logic: the simulated cluster: its nodes, the queue of what is about to happen, and what actions lead to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_proto::{NodeId, ServiceName};

use super::NodeNumber;
use super::check::{Checks, Occasion, Violation};
use super::disk::Disks;
use super::faults::{End, Fault};
use super::net::Net;
use super::reign::Reign;
use super::scenario::Scenario;
use super::service::Service;
use super::trace::{Note, Trace, name_of};
use crate::keeper::{Event, Keeper, Overlays, Part, Request, Version};
use crate::membership::Swim;

/// A fault in the logic itself, by which it is shown that a checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Parts count as synced when they are written.
    AcknowledgesBeforeSync,
    /// The server gives everything to everybody who asks.
    GivesToAll,
    /// Nodes drop what they moved away from without asking.
    DropsUnasked,
    /// Nobody moves when neighbours die.
    NeverMends,
    /// Dead nodes count no more at once.
    NoHoldOff,
    /// News is not passed on, and hardly compared.
    KeepsNewsToItself,
    /// What a node is asked for is not forgotten when it is done.
    NeverDoneServing,
    /// SWIM's timeouts are shorter than the time that answers take.
    Impatient,
    /// What is to be dropped stays on the disk.
    NeverDrops,
    /// Nodes forget what is on their disks.
    ForgetsItsDisk,
    /// A part's file is taken for whole when half of it is there.
    TakesHalfForWhole,
    /// What only a lesser term lists is dropped as soon as a greater one is heard of.
    DropsLosers,
}

/// A simulated node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) label: String,
    /// None while it is down.
    pub(super) keeper: Option<Keeper>,
    /// Counts its starts: what was under way for an earlier life does not arrive.
    pub(super) life: u64,
    pub(super) is_liar: bool,
    pub(super) stalled_until_ms: u64,
    /// Since when it can't be reached, for those that would notice.
    pub(super) told_dead: BTreeSet<NodeNumber>,
    pub(super) wake_ms: u64,
    pub(super) swim: Option<Swim>,
    pub(super) tick_ms: u64,
}

/// What is about to happen.
#[derive(Debug)]
pub(super) enum Coming {
    Event(NodeNumber, u64, Event),
    Wake(NodeNumber, u64),
    Arrive {
        to: NodeNumber,
        life: u64,
        from: (NodeNumber, u64),
        request: Request,
        part: Part,
        range: (u64, u64),
    },
    Synced {
        node: NodeNumber,
        life: u64,
        part: Part,
    },
    Made {
        node: NodeNumber,
        life: u64,
        part: Part,
        from: Vec<Part>,
    },
    Detect {
        observer: NodeNumber,
        subject: NodeNumber,
    },
    Tick(NodeNumber, u64),
    Datagram(NodeNumber, u64, NodeId, Vec<u8>),
    Admitted(NodeNumber),
    Start(NodeNumber),
    Lead {
        from_ms: u64,
    },
    Usurp,
    Fault(Fault),
    End(End),
    Snapshot,
    Look,
}

struct Queued {
    at: Reverse<(u64, u64)>,
    coming: Coming,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The simulated cluster.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) mutant: Option<Mutant>,
    pub(super) random: StdRng,
    pub(super) now_ms: u64,
    queue: BinaryHeap<Queued>,
    queued: u64,
    pub(super) nodes: BTreeMap<NodeNumber, Node>,
    pub(super) numbers: BTreeMap<NodeId, NodeNumber>,
    pub(super) disks: Disks,
    pub(super) net: Net,
    /// The server whose term is the greatest.
    pub(super) main: Reign,
    /// One that went on in its own term while it was cut off.
    pub(super) rival: Option<Reign>,
    pub(super) service_name: ServiceName,
    pub(super) warm: Vec<NodeNumber>,
    pub(super) is_publishing: bool,
    pub(super) trace: Trace,
    pub(super) faults: usize,
    pub(super) last_fault_ms: u64,
    /// When a partition last began or ended.
    pub(super) cut_ms: Option<u64>,
    /// When nodes were lost with their disks.
    pub(super) lost_ms: BTreeMap<NodeNumber, u64>,
    /// Bytes of the messages with catalogs, and what they would have been as a whole.
    pub(super) catalog_bytes: (u64, u64),
    /// Bytes of whole catalogs.
    pub(super) whole_bytes: BTreeMap<Version, u64>,
    checks: Option<Checks>,
    pub(super) violations: Vec<Violation>,
    pub(super) overlays: Overlays,
}

impl World {
    pub(super) fn new(scenario: Scenario, mutant: Option<Mutant>, lines_max: usize) -> Self {
        let random = StdRng::seed_from_u64(scenario.seed);
        let (net, service) = (Net::new(scenario.link), Service::new(scenario.habits));
        let service_name = ServiceName::new("mail");
        #[expect(clippy::expect_used, reason = "the name is a constant that a test passes")]
        let service_name = service_name.expect("a name");
        Self {
            checks: Some(Checks::new(&scenario)),
            scenario,
            mutant,
            random,
            now_ms: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            nodes: BTreeMap::new(),
            numbers: BTreeMap::new(),
            disks: Disks::default(),
            net,
            main: Reign::new(service),
            rival: None,
            service_name,
            warm: Vec::new(),
            is_publishing: true,
            trace: Trace::new(lines_max),
            faults: 0,
            last_fault_ms: 0,
            cut_ms: None,
            lost_ms: BTreeMap::new(),
            catalog_bytes: (0, 0),
            whole_bytes: BTreeMap::new(),
            violations: Vec::new(),
            overlays: Overlays::default(),
        }
    }

    pub(super) fn after(&mut self, ms: u64, coming: Coming) {
        self.queued += 1;
        self.queue.push(Queued { at: Reverse((self.now_ms + ms, self.queued)), coming });
    }

    pub(super) fn note(&mut self, node: NodeNumber, note: Note) {
        self.trace.note(self.now_ms, node, note);
    }

    pub(super) fn note_fault(&mut self, node: NodeNumber, name: &'static str) {
        self.last_fault_ms = self.now_ms;
        self.note(node, Note::Fault(name));
        self.check(&Occasion::Fault);
    }

    /// Has the checkers look.
    pub(super) fn check(&mut self, occasion: &Occasion) {
        if let Some(mut checks) = self.checks.take() {
            let found = checks.look(self, occasion);
            self.violations.extend(found);
            self.checks = Some(checks);
        }
    }

    /// Runs up to a time, or until a checker finds something.
    pub(super) fn run(&mut self, until_ms: u64) {
        while let Some(next) = self.queue.peek() {
            if next.at.0.0 > until_ms || !self.violations.is_empty() {
                break;
            }
            let Some(Queued { at, coming }) = self.queue.pop() else { break };
            self.now_ms = at.0.0;
            self.happen(coming);
        }
        if self.violations.is_empty() {
            self.now_ms = until_ms;
        }
    }

    fn happen(&mut self, coming: Coming) {
        if let Some(late_ms) = self.stalled_ms(&coming) {
            return self.after(late_ms, coming);
        }
        match coming {
            Coming::Event(node, life, event) => self.event(node, life, event),
            Coming::Wake(node, life) => self.wake(node, life),
            Coming::Arrive { to, life, from, request, part, range } => {
                self.arrive((to, life), from, request, part, range);
            }
            Coming::Synced { node, life, part } => self.synced(node, life, part),
            Coming::Made { node, life, part, from } => self.made(node, life, part, &from),
            Coming::Detect { observer, subject } => self.detect(observer, subject),
            Coming::Tick(node, life) => self.tick(node, life),
            Coming::Datagram(node, life, from, bytes) => self.datagram(node, life, from, &bytes),
            Coming::Admitted(node) => self.admitted(node),
            Coming::Start(node) => self.start(node),
            Coming::Lead { from_ms } => self.lead(from_ms),
            Coming::Usurp => self.usurp(),
            Coming::Fault(fault) => self.strike(fault),
            Coming::End(end) => self.end_fault(end),
            Coming::Snapshot => self.snapshot(),
            Coming::Look => {
                self.after(1_000, Coming::Look);
                if self.mutant.is_some() {
                    self.forget_all();
                }
                self.check(&Occasion::Second);
            }
        }
    }

    /// How long what happens at a node has to wait, as the node stands still.
    fn stalled_ms(&self, coming: &Coming) -> Option<u64> {
        let node = match coming {
            Coming::Event(node, ..) | Coming::Wake(node, _) | Coming::Tick(node, _) => node,
            Coming::Datagram(node, ..) | Coming::Admitted(node) => node,
            Coming::Arrive { to, .. } => to,
            Coming::Synced { node, .. } | Coming::Made { node, .. } => node,
            _ => return None,
        };
        let until_ms = self.nodes.get(node)?.stalled_until_ms;
        (until_ms > self.now_ms).then(|| until_ms - self.now_ms)
    }

    pub(super) fn is_running(&self, node: NodeNumber) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.keeper.is_some())
    }

    pub(super) fn is_life(&self, node: NodeNumber, life: u64) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.keeper.is_some() && node.life == life)
    }

    fn event(&mut self, node: NodeNumber, life: u64, event: Event) {
        if !self.is_life(node, life) {
            return;
        }
        if let Event::Message { from, message } = &event {
            let from = self.numbers.get(from).copied().unwrap_or(0);
            self.note(node, Note::Message(name_of(message), from));
        }
        self.give(node, event);
    }

    /// Has a node handle an event, and does what it says.
    pub(super) fn give(&mut self, number: NodeNumber, event: Event) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let Some(keeper) = node.keeper.as_mut() else { return };
        let actions = keeper.handle(now_ms, event, &mut self.random);
        let life = node.life;
        for action in actions {
            if self.is_life(number, life) {
                self.act(number, life, action);
            }
        }
        self.check(&Occasion::Handled(number));
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let Some(keeper) = node.keeper.as_ref() else { return };
        let wakes_ms = keeper.wakes_ms();
        if wakes_ms < node.wake_ms || node.wake_ms <= now_ms {
            node.wake_ms = wakes_ms;
            self.after(wakes_ms - now_ms, Coming::Wake(number, life));
        }
    }

    fn wake(&mut self, number: NodeNumber, life: u64) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.get_mut(&number).filter(|node| node.life == life) else { return };
        let Some(keeper) = node.keeper.as_ref() else { return };
        let due_ms = keeper.wakes_ms();
        if node.wake_ms > now_ms {
            return;
        }
        if due_ms > now_ms + 1 {
            node.wake_ms = due_ms;
            return self.after(due_ms - now_ms, Coming::Wake(number, life));
        }
        self.note(number, Note::Other("wakes"));
        self.give(number, Event::Wake);
    }
}
