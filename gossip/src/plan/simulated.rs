//! Logic: a gathering from peers that exist in virtual time only, each with its own speed, delay and vices.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{NodeId, PackId, Piece, group_count};

use super::{Order, OrderId, Plan, PlanLimits, Step, Verdict};

pub(super) const LIMITS: PlanLimits = PlanLimits {
    orders: 3,
    pieces: 256,
    groups: 64,
    ranges: 64,
    listed_groups: 512,
    listed_pieces: 64,
    tries: 3,
};

/// After so long without a byte an order is given up.
const STALL_MS: u64 = 3_000;

/// What a peer is like.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) pieces: BTreeSet<Piece>,
    pub(super) bytes_per_ms: f64,
    pub(super) delay_ms: u64,
    /// From then on it sends nothing and does not say so.
    pub(super) freezes_ms: Option<u64>,
    /// From then on every order fails at once.
    pub(super) dies_ms: Option<u64>,
    /// One group in so many is wrong.
    pub(super) lies: Option<u32>,
}

impl Peer {
    pub(super) fn with(pieces: impl IntoIterator<Item = Piece>, bytes_per_ms: f64) -> Self {
        let pieces = pieces.into_iter().collect();
        Self { pieces, bytes_per_ms, delay_ms: 1, freezes_ms: None, dies_ms: None, lies: None }
    }
}

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(super) fn piece(number: u16) -> Piece {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&number.to_be_bytes());
    Piece::Pack(PackId::from_bytes(id))
}

#[derive(Debug, Clone)]
enum Happening {
    Opened(Piece),
    Listed(OrderId, Piece),
    Came(OrderId, Piece, usize),
    Wrong(OrderId, Piece),
    Ended(OrderId),
    Tick,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) took_ms: u64,
    /// Bytes that came, those for nothing included.
    pub(super) bytes: u64,
    pub(super) orders: usize,
    pub(super) liars: BTreeSet<NodeId>,
}

pub(super) struct Simulation {
    plan: Plan,
    sizes: BTreeMap<Piece, u64>,
    peers: BTreeMap<NodeId, Peer>,
    /// When each peer is done with what it has to send.
    busy_until: BTreeMap<NodeId, f64>,
    queue: BTreeMap<(u64, u64), Happening>,
    queued_ever: u64,
    cancelled: BTreeSet<OrderId>,
    got: BTreeSet<(Piece, usize)>,
    random: StdRng,
    now_ms: u64,
    outcome: Outcome,
}

impl Simulation {
    pub(super) fn new(sizes: BTreeMap<Piece, u64>, peers: Vec<Peer>, seed: u64) -> Self {
        let peers: BTreeMap<NodeId, Peer> = (0..).map(node).zip(peers).collect();
        let mut plan = Plan::new(LIMITS, sizes.clone());
        peers.iter().for_each(|(id, peer)| plan.holds(*id, peer.pieces.iter().copied()));
        let verdict = Verdict::Going;
        Self {
            plan,
            sizes,
            busy_until: peers.keys().map(|id| (*id, 0.0)).collect(),
            peers,
            queue: BTreeMap::new(),
            queued_ever: 0,
            cancelled: BTreeSet::new(),
            got: BTreeSet::new(),
            random: StdRng::seed_from_u64(seed),
            now_ms: 0,
            outcome: Outcome { verdict, took_ms: 0, bytes: 0, orders: 0, liars: BTreeSet::new() },
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        self.after(0, Happening::Tick);
        while let Some(((at_ms, _), happening)) = self.queue.pop_first() {
            self.now_ms = at_ms;
            self.happen(happening);
            while let Some(step) = self.plan.next(self.now_ms) {
                self.take(step);
            }
            self.check();
            self.outcome.verdict = self.plan.verdict();
            if self.outcome.verdict != Verdict::Going {
                break;
            }
            assert!(self.now_ms < 3_600_000, "it ends: {:?}", self.plan);
        }
        self.outcome.took_ms = self.now_ms;
        self.outcome.liars = self.plan.liars();
        if self.outcome.verdict == Verdict::Finished {
            let all: usize = self.sizes.values().map(|bytes| group_count(*bytes)).sum();
            assert_eq!(self.got.len(), all, "finished means that all of it is here");
        }
        self.outcome
    }

    /// What holds at every moment.
    fn check(&self) {
        let mut orders: BTreeMap<NodeId, usize> = BTreeMap::new();
        for placed in self.plan.orders.values() {
            *orders.entry(placed.peer).or_default() += 1;
        }
        for (peer, state) in &self.plan.peers {
            let placed = orders.get(peer).copied().unwrap_or(0);
            assert_eq!(state.orders, placed);
            assert!(placed <= LIMITS.orders + 1, "one of lists beside those of groups");
        }
        assert!(self.plan.begun.len() <= LIMITS.pieces);
    }

    fn after(&mut self, ms: u64, happening: Happening) {
        self.queued_ever += 1;
        self.queue.insert((self.now_ms + ms, self.queued_ever), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let now_ms = self.now_ms;
        match happening {
            Happening::Tick => self.after(50, Happening::Tick),
            Happening::Opened(piece) => {
                let count = group_count(self.sizes[&piece]);
                if self.plan.opened(piece, vec![false; count]) {
                    self.plan.kept(piece);
                }
            }
            Happening::Listed(id, piece)
                if !self.cancelled.contains(&id) && self.plan.listed(id, piece, now_ms) =>
            {
                self.after(1, Happening::Opened(piece));
            }
            Happening::Came(id, piece, group) if !self.cancelled.contains(&id) => {
                let bytes = GROUP_BYTES.min(self.sizes[&piece] - group as u64 * GROUP_BYTES);
                self.outcome.bytes += bytes;
                self.got.insert((piece, group));
                if let Some(whole) = self.plan.came(id, bytes, now_ms) {
                    assert_eq!(whole, piece);
                    self.plan.kept(piece);
                }
            }
            Happening::Wrong(id, piece) if !self.cancelled.contains(&id) => {
                if let Some(placed) = self.plan.orders.get(&id) {
                    let peer = placed.peer;
                    self.plan.lied(peer, piece);
                }
            }
            Happening::Ended(id) if !self.cancelled.contains(&id) => self.plan.ended(id, now_ms),
            _ => {}
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open(piece) => self.after(0, Happening::Opened(piece)),
            Step::Cancel(id) => {
                self.cancelled.insert(id);
            }
            Step::Ask(id, peer, order) => {
                self.outcome.orders += 1;
                let known = self.peers[&peer].clone();
                if known.dies_ms.is_some_and(|dies_ms| dies_ms <= self.now_ms) {
                    return self.after(0, Happening::Ended(id));
                }
                match order {
                    Order::Lists(pieces) => self.lists(id, &known, pieces),
                    Order::Groups(runs) => {
                        let groups =
                            runs.into_iter().flat_map(|run| run.groups.map(move |group| (run.piece, group)));
                        self.groups(id, peer, &known, groups.collect());
                    }
                }
            }
        }
    }

    fn lists(&mut self, id: OrderId, peer: &Peer, pieces: Vec<Piece>) {
        let stops_ms = peer.freezes_ms.or(peer.dies_ms).unwrap_or(u64::MAX);
        if self.now_ms >= stops_ms {
            return self.after(STALL_MS, Happening::Ended(id));
        }
        for piece in pieces {
            assert!(peer.pieces.contains(&piece), "asked only for what it has");
            self.after(2 * peer.delay_ms, Happening::Listed(id, piece));
        }
        self.after(2 * peer.delay_ms, Happening::Ended(id));
    }

    fn groups(&mut self, id: OrderId, peer: NodeId, known: &Peer, groups: Vec<(Piece, usize)>) {
        let mut at = self.busy_until[&peer].max((self.now_ms + 2 * known.delay_ms) as f64);
        for (piece, group) in groups {
            assert!(known.pieces.contains(&piece), "asked only for what it has");
            at += GROUP_BYTES as f64 / known.bytes_per_ms;
            let at_ms = at.ceil() as u64;
            if known.freezes_ms.is_some_and(|freezes_ms| at_ms >= freezes_ms) {
                return self.after(at_ms - self.now_ms + STALL_MS, Happening::Ended(id));
            }
            if known.dies_ms.is_some_and(|dies_ms| at_ms >= dies_ms) {
                return self.after(at_ms - self.now_ms, Happening::Ended(id));
            }
            let wrong = known.lies.is_some_and(|one_in| self.random.random_range(0..one_in) == 0);
            let came = if wrong { Happening::Wrong(id, piece) } else { Happening::Came(id, piece, group) };
            self.after(at_ms - self.now_ms, came);
        }
        self.busy_until.insert(peer, at);
        self.after(at.ceil() as u64 - self.now_ms, Happening::Ended(id));
    }
}
