//! The state machine of P2, for one service on one node.
//!
//! ```text
//!                 heartbeats stay out            won, nothing restorable was ever
//!                 and nobody objects             stored, and this is the first server
//!   ┌───────────┐ ─────────────────▶ ┌──────────┐ ─────────────────────────────┐
//!   │ candidate │                    │ electing │                              ▼
//!   └───────────┘ ◀───────────────── └──────────┘ ──── won ───▶ ┌───────────┐ ┌───────────┐
//!      ▲   another won, objection,     ▲  ▲  ▲                  │ gathering │▶│ restoring │
//!      │   or a server is heard        │  │  │ can't be had     └───────────┘ └───────────┘
//!      │ stopped                       │  │  └──────────────────────┘ │  failed   │ │ runs
//!   ┌──────────┐                       │  └───────────────────────────┼───────────┘ ▼
//!   │ yielding │ ◀── greater term ─────┼──────────────────────────────┘       ┌────────┐
//!   └──────────┘ ◀── greater term ─────┼───────────────────────────────────── │ server │
//!                                      └────────────── VM exits ───────────── └────────┘
//! ```
//!
//! A server that meets a greater term stops its VM; the snapshots that it took stay in the stores as a
//! head of their own. Time comes as an argument, in milliseconds of any monotonic clock.

use std::collections::BTreeSet;

use rand::RngCore;
use sustain_proto::wire::{Heartbeat, SnapshotSummary};
use sustain_proto::{Lineage, NodeId, ServiceName, SnapshotId, Term, TermOrigin};

use super::failures::Failures;
use super::state::{Reign, is_legal};
use super::view::Obstacle;
use super::{Action, ElectionRule, Event, Role, State, Timing};

/// What a machine is told once.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// The service.
    pub service: ServiceName,
    /// This node.
    pub node: NodeId,
    /// All other members at the start (P41); [`Event::Members`] tells of changes.
    pub peers: BTreeSet<NodeId>,
    /// This node's static priority (P20).
    pub priority: u32,
    /// Whether this node may and can run the service.
    pub eligible: bool,
    /// Whether this node is the service's first server (P41).
    pub first: bool,
    /// Waits and intervals.
    pub timing: Timing,
}

/// The server that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) term: Term,
    pub(super) at_ms: u64,
}

/// The state machine; see the module's diagram.
pub struct Machine {
    pub(super) config: MachineConfig,
    pub(super) rule: Box<dyn ElectionRule>,
    pub(super) state: State,
    pub(super) reachable: BTreeSet<NodeId>,
    pub(super) heard: Option<Heard>,
    pub(super) greatest: Option<Term>,
    pub(super) lineage: Lineage,
    pub(super) known: Vec<SnapshotSummary>,
    /// Snapshots that could not be gathered, passed over until a restore succeeds (P14).
    pub(super) unrestorable: BTreeSet<SnapshotId>,
    pub(super) failures: Failures,
    pub(super) penalty_until_ms: u64,
    /// The newest snapshot here can be opened here.
    pub(super) readable: bool,
    pub(super) round: u64,
    pub(super) actions: Vec<Action>,
    pub(super) started_ms: u64,
    pub(super) watermark: Option<Heartbeat>,
    pub(super) obstacle: Option<Obstacle>,
    starting: bool,
    ticked_ms: u64,
    heartbeat_due_ms: u64,
}

impl Machine {
    /// A machine that has just started, as a candidate.
    #[must_use]
    pub fn new(config: MachineConfig, rule: Box<dyn ElectionRule>, now_ms: u64) -> Self {
        let patient_until_ms = now_ms + config.timing.quiet_ms;
        Self {
            config,
            rule,
            state: State::Candidate { patient_until_ms },
            reachable: BTreeSet::new(),
            heard: None,
            greatest: None,
            lineage: Lineage::default(),
            known: Vec::new(),
            unrestorable: BTreeSet::new(),
            failures: Failures::default(),
            penalty_until_ms: 0,
            readable: true,
            round: 0,
            actions: Vec::new(),
            started_ms: now_ms,
            watermark: None,
            obstacle: None,
            starting: true,
            ticked_ms: now_ms,
            heartbeat_due_ms: now_ms,
        }
    }

    /// Takes one event and says what to do. `random` is used for the nonces of terms only.
    pub fn handle(&mut self, now_ms: u64, event: Event, random: &mut dyn RngCore) -> Vec<Action> {
        match event {
            Event::Tick => self.tick(now_ms, random),
            Event::Heartbeat(heartbeat) => self.heartbeat(now_ms, heartbeat),
            Event::Peer { node, reachable } => self.peer(now_ms, node, reachable),
            Event::Members(peers) => self.members(now_ms, peers, random),
            Event::Polled { from, lost } => self.polled(now_ms, from, lost),
            Event::Ballot { from, round, ballot } => self.ballot_arrived(now_ms, from, round, ballot, random),
            Event::Claimed { term, origin } => self.met(now_ms, term, origin),
            Event::Known(known) => self.learn(known),
            Event::Readable(readable) => self.readable = readable,
            Event::Gathered { term } => self.gathered(term),
            Event::GatherFailed { term, snapshot } => self.gather_failed(now_ms, term, snapshot),
            Event::Prepared { term } => self.prepared(now_ms, term),
            Event::Running { term } => self.running(now_ms, term),
            Event::StartFailed { term } => self.start_failed(now_ms, term),
            Event::Exited { term } => self.exited(now_ms, term),
            Event::Stopped => self.stopped(now_ms),
            Event::Taken { seq } => self.taken(seq),
            Event::Durable { snapshot, seq, level } => self.durable(snapshot, seq, level),
        }
        std::mem::take(&mut self.actions)
    }

    /// Whether this node may and can run the service at all.
    pub(super) fn able(&self) -> bool {
        self.config.eligible && self.readable
    }

    pub(super) fn eligible(&self, now_ms: u64) -> bool {
        self.able() && now_ms >= self.penalty_until_ms
    }

    pub(super) fn enter(&mut self, state: State, term: Option<Term>, why: &'static str) {
        let (from, to) = (self.state.role(), state.role());
        debug_assert!(from == to || is_legal(from, to), "{from:?} to {to:?} is not in the diagram");
        self.state = state;
        if from != to {
            self.actions.push(Action::Changed { from, to, term, why });
        }
    }

    pub(super) fn learn_term(&mut self, term: Term, origin: Option<TermOrigin>) {
        self.lineage.learn_term(term, origin);
        self.greatest = self.greatest.max(Some(term));
    }

    fn tick(&mut self, now_ms: u64, random: &mut dyn RngCore) {
        let timing = self.config.timing;
        let stalled = now_ms.saturating_sub(self.ticked_ms) > timing.stall_ms;
        self.ticked_ms = now_ms;
        if stalled {
            // Heartbeats may wait unread in a queue: whoever was stalled itself accuses nobody.
            if let Some(heard) = &mut self.heard {
                heard.at_ms = now_ms;
            }
        }
        match &self.state {
            State::Candidate { patient_until_ms } if now_ms >= *patient_until_ms => match self.heard {
                Some(heard) if now_ms.saturating_sub(heard.at_ms) <= timing.suspect_ms => {}
                Some(heard) => self.elect(now_ms, Some(heard.term), "the server's heartbeats stay out"),
                None => self.elect(now_ms, None, "no server is heard"),
            },
            State::Electing { deadline_ms, .. } if now_ms >= *deadline_ms => self.count(now_ms, random),
            State::Gathering(reign) | State::Restoring(reign) | State::Server(reign) => {
                if now_ms >= self.heartbeat_due_ms {
                    let reign = *reign;
                    self.beat(now_ms, &reign);
                }
            }
            State::Candidate { .. } | State::Electing { .. } | State::Yielding => {}
        }
    }

    pub(super) fn beat(&mut self, now_ms: u64, reign: &Reign) {
        self.heartbeat_due_ms = now_ms + self.config.timing.heartbeat_ms;
        let before = self.watermark.take().filter(|heartbeat| heartbeat.term == reign.term);
        let heartbeat = before.unwrap_or_else(|| Heartbeat {
            service: self.config.service.clone(),
            term: reign.term,
            origin: reign.origin,
            running_seq: reign.begun_seq(),
            durable: None,
            level: 0,
        });
        if self.state.role() == Role::Server {
            self.failures.forget_if_alive(now_ms, &heartbeat);
        }
        self.watermark = Some(heartbeat.clone());
        self.actions.push(Action::Heartbeat(heartbeat));
    }

    fn heartbeat(&mut self, now_ms: u64, heartbeat: Heartbeat) {
        let newest = self.greatest.is_none_or(|greatest| heartbeat.term >= greatest);
        self.met(now_ms, heartbeat.term, heartbeat.origin);
        if newest && self.state.reign().is_none() {
            self.failures.see(now_ms, heartbeat.term);
            self.failures.forget_if_alive(now_ms, &heartbeat);
            self.watermark = Some(heartbeat);
        }
    }

    /// Another node shows itself as the server of `term`.
    fn met(&mut self, now_ms: u64, term: Term, origin: Option<TermOrigin>) {
        if term.node == self.config.node {
            // An echo of a claim of one's own. Only its counter matters, and only after a restart.
            self.greatest = self.greatest.max(Some(term));
            return;
        }
        self.learn_term(term, origin);
        if let Some(reign) = self.state.reign() {
            if term > reign.term {
                self.heard = Some(Heard { term, at_ms: now_ms });
                self.enter(State::Yielding, Some(term), "a greater term was met");
                self.actions.push(Action::Stop);
                self.actions.push(Action::Follow { term: Some(term) });
            }
            return;
        }
        // A lesser server is one that has not yet learnt that it was replaced, or that came back with an old
        // state while nobody could tell it better. It will yield to the next term.
        if self.greatest > Some(term) {
            return;
        }
        let before = self.heard.replace(Heard { term, at_ms: now_ms });
        self.starting = false;
        self.obstacle = None;
        if before.is_none_or(|heard| heard.term != term) {
            self.actions.push(Action::Follow { term: Some(term) });
        }
        if matches!(self.state, State::Electing { .. }) {
            self.enter(State::Candidate { patient_until_ms: now_ms }, Some(term), "a server is heard");
        }
    }

    fn peer(&mut self, now_ms: u64, node: NodeId, reachable: bool) {
        if !self.config.peers.contains(&node) {
            return;
        }
        if reachable {
            self.reachable.insert(node);
        } else {
            self.reachable.remove(&node);
            self.bound_level();
        }
        self.listen_no_longer(now_ms);
    }

    /// Everybody who could know of a server can be asked: no need to listen any longer.
    fn listen_no_longer(&mut self, now_ms: u64) {
        if self.starting && self.reachable == self.config.peers {
            self.starting = false;
            if let State::Candidate { patient_until_ms } = &mut self.state {
                *patient_until_ms = now_ms;
            }
        }
    }

    /// Who is gone counts no longer: not for majorities, and not in an election that is under way.
    fn members(&mut self, now_ms: u64, peers: BTreeSet<NodeId>, random: &mut dyn RngCore) {
        self.reachable.retain(|node| peers.contains(node));
        self.config.peers = peers;
        self.bound_level();
        self.listen_no_longer(now_ms);
        let State::Electing { awaited, ballots, .. } = &mut self.state else { return };
        awaited.retain(|node| self.config.peers.contains(node));
        ballots.retain(|node, _| self.config.peers.contains(node));
        if awaited.is_empty() {
            self.count(now_ms, random);
        }
    }

    fn polled(&mut self, now_ms: u64, from: NodeId, lost: Option<Term>) {
        let State::Candidate { patient_until_ms } = self.state else { return };
        let (Some(lost), Some(heard)) = (lost, self.heard) else { return };
        if heard.term != lost {
            return;
        }
        // The server itself says that it no longer serves, or the peer is merely the first to notice.
        let stale = now_ms.saturating_sub(heard.at_ms) > self.config.timing.fresh_ms;
        if from == lost.node || (stale && now_ms >= patient_until_ms) {
            self.elect(now_ms, Some(lost), "another node misses the server too");
        }
    }

    fn learn(&mut self, known: Vec<SnapshotSummary>) {
        for summary in &known {
            self.learn_term(summary.term, summary.origin);
        }
        self.known = known;
    }

    fn gathered(&mut self, term: Term) {
        let State::Gathering(reign) = self.state else { return };
        let Some(snapshot) = reign.parent.filter(|_| reign.term == term) else { return };
        self.enter(State::Restoring(reign), Some(term), "the snapshot can be restored");
        self.actions.push(Action::Prepare { term, snapshot });
    }

    fn prepared(&mut self, now_ms: u64, term: Term) {
        let State::Restoring(reign) = self.state else { return };
        let Some(parent) = reign.parent.filter(|_| reign.term == term) else { return };
        if self.greatest > Some(term) {
            // Somebody else's claim came in between; its heartbeats will tell who it is.
            self.enter(State::Yielding, self.greatest, "a greater term is known");
            self.actions.push(Action::Stop);
            return;
        }
        self.beat(now_ms, &reign);
        self.actions.push(Action::Resume { term, origin: reign.origin, parent });
    }

    fn running(&mut self, now_ms: u64, term: Term) {
        let State::Restoring(reign) = self.state else { return };
        if reign.term == term {
            self.unrestorable.clear();
            self.failures.see(now_ms, term);
            self.enter(State::Server(reign), Some(term), "the VM runs");
            self.actions.push(Action::Follow { term: Some(term) });
        }
    }

    fn stopped(&mut self, now_ms: u64) {
        if matches!(self.state, State::Yielding) {
            let patient_until_ms = now_ms + self.config.timing.claim_ms;
            self.enter(State::Candidate { patient_until_ms }, self.greatest, "the VM is stopped");
        }
    }

    fn taken(&mut self, seq: u64) {
        if let (Some(_), Some(watermark)) = (self.state.reign(), &mut self.watermark) {
            watermark.running_seq = watermark.running_seq.max(seq);
        }
    }

    fn durable(&mut self, snapshot: SnapshotId, seq: u64, level: u32) {
        let (Some(_), Some(watermark)) = (self.state.reign(), &mut self.watermark) else { return };
        if watermark.durable.is_none_or(|(_, before)| seq >= before) {
            watermark.durable = Some((snapshot, seq));
            watermark.level = level;
        }
    }
}
