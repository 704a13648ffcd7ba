//! Logic: which groups of which pieces are asked of which peer next, and when gathering is hopeless.
//!
//! ```text
//! waiting ──list asked──▶ listing ──list──▶ opening ──what is here already──▶ open ──all groups──▶ whole ──▶ kept
//!    └──of one group: no list───────────────────▲
//! ```
//! Each peer has a few orders under way, each as large as it serves in a moment. When nothing is left to ask for, what
//! slow peers still owe is asked of quick ones, too, and who comes second is told to stop.

mod choice;
mod ending;
mod peer;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use sustain_proto::{NodeId, Piece, group_count};

use peer::PeerState;

/// How much may be under way at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanLimits {
    /// Orders at one peer.
    pub(crate) orders: usize,
    /// Pieces that are begun and not yet kept.
    pub(crate) pieces: usize,
    /// Groups in one order.
    pub(crate) groups: usize,
    /// Ranges in one order.
    pub(crate) ranges: usize,
    /// Groups of the pieces in one order of lists.
    pub(crate) listed_groups: usize,
    /// Pieces in one order of lists.
    pub(crate) listed_pieces: usize,
    /// Orders in which nothing came of a piece, until the peer is not asked for it any more; twice as many of them in a
    /// row, until it is asked for nothing any more.
    pub(crate) tries: u32,
}

/// Names an order within one plan.
pub(crate) type OrderId = u64;

/// Groups of one piece that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) piece: Piece,
    pub(crate) groups: Range<usize>,
}

/// What a peer is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// The lists of these pieces' groups.
    Lists(Vec<Piece>),
    /// These groups, in this order.
    Groups(Vec<Run>),
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// See what is here of this piece, which needs no list.
    Open(Piece),
    /// Ask a peer.
    Ask(OrderId, NodeId, Order),
    /// What this order still waits for is not needed any more.
    Cancel(OrderId),
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something is under way, or can be.
    Going,
    /// Every piece is here.
    Finished,
    /// Nothing more can be fetched from the peers known so far.
    Stuck(Stuck),
}

/// What can't be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stuck {
    /// Pieces that no peer has.
    pub(crate) missing: Vec<Piece>,
    /// Pieces whose holders failed too often.
    pub(crate) unreachable: Vec<Piece>,
    /// Pieces of which every holder sends wrong bytes, or says that its own are damaged.
    pub(crate) damaged: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Listing,
    Opening,
    Open,
    Whole,
    Kept,
}

/// What became of asking one peer for one piece.
#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    tries: u32,
    /// It sent something else, or lost what it said that it has.
    unfit: bool,
}

#[derive(Debug)]
struct PieceState {
    bytes: u64,
    stage: Stage,
    holders: BTreeMap<NodeId, Holder>,
    /// Whether each group is here.
    here: Vec<bool>,
    /// How many orders each group is in.
    asked: Vec<u8>,
    /// Groups that are neither here nor asked for, in ascending order.
    free: VecDeque<Range<usize>>,
    left: usize,
}

impl PieceState {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            stage: Stage::Waiting,
            holders: BTreeMap::new(),
            here: Vec::new(),
            asked: Vec::new(),
            free: VecDeque::new(),
            left: 0,
        }
    }

    fn groups(&self) -> usize {
        group_count(self.bytes)
    }
}

/// An order under way.
#[derive(Debug)]
struct Placed {
    peer: NodeId,
    begun_ms: u64,
    /// When something of it came last, or it was placed.
    moved_ms: u64,
    bytes: u64,
    /// Whether there was any answer.
    answered: bool,
    kind: PlacedKind,
}

#[derive(Debug)]
enum PlacedKind {
    Lists(Vec<Piece>),
    /// What has not come, in the order in which it comes.
    Groups(VecDeque<(Piece, usize)>),
}

/// The state of one gathering.
#[derive(Debug)]
pub(crate) struct Plan {
    limits: PlanLimits,
    pieces: BTreeMap<Piece, PieceState>,
    /// Those that wait, the rarest first.
    waiting: VecDeque<Piece>,
    /// Those that are begun and not kept, in the order in which they were begun.
    begun: Vec<Piece>,
    /// How many are not kept.
    unfinished: usize,
    peers: BTreeMap<NodeId, PeerState>,
    orders: BTreeMap<OrderId, Placed>,
    orders_ever: OrderId,
    steps: VecDeque<Step>,
}

impl Plan {
    /// A plan for pieces of these sizes.
    pub(crate) fn new(limits: PlanLimits, pieces: impl IntoIterator<Item = (Piece, u64)>) -> Self {
        let pieces: BTreeMap<_, _> =
            pieces.into_iter().map(|(piece, bytes)| (piece, PieceState::new(bytes))).collect();
        Self {
            limits,
            waiting: pieces.keys().copied().collect(),
            unfinished: pieces.len(),
            pieces,
            begun: Vec::new(),
            peers: BTreeMap::new(),
            orders: BTreeMap::new(),
            orders_ever: 0,
            steps: VecDeque::new(),
        }
    }

    /// A peer says that it has these pieces. Those that nobody wants are passed over.
    pub(crate) fn holds(&mut self, peer: NodeId, pieces: impl IntoIterator<Item = Piece>) {
        self.peers.entry(peer).or_default();
        for piece in pieces {
            if let Some(state) = self.pieces.get_mut(&piece) {
                state.holders.entry(peer).or_default();
            }
        }
        let rarity = |piece: &Piece| self.pieces.get(piece).map_or(0, |state| state.holders.len());
        self.waiting.make_contiguous().sort_by_key(|piece| (rarity(piece), *piece));
    }

    /// What is here of a piece, whose list is known. True if that is all of it.
    pub(crate) fn opened(&mut self, piece: Piece, here: Vec<bool>) -> bool {
        let Some(state) = self.pieces.get_mut(&piece) else { return false };
        state.left = here.iter().filter(|here| !**here).count();
        state.asked = vec![0; here.len()];
        let lacking = (0..here.len()).filter(|group| !here[*group]);
        for group in lacking {
            match state.free.back_mut() {
                Some(run) if run.end == group => run.end += 1,
                _ => state.free.push_back(group..group + 1),
            }
        }
        state.here = here;
        state.stage = if state.left == 0 { Stage::Whole } else { Stage::Open };
        state.left == 0
    }

    /// The next group of an order came, and it is the right one. Its piece, if that is now whole.
    pub(crate) fn came(&mut self, id: OrderId, bytes: u64, now_ms: u64) -> Option<Piece> {
        let placed = self.orders.get_mut(&id)?;
        placed.moved_ms = now_ms;
        placed.bytes += bytes;
        placed.answered = true;
        let PlacedKind::Groups(left) = &mut placed.kind else { return None };
        let (piece, group) = left.pop_front()?;
        if let Some(peer) = self.peers.get_mut(&placed.peer) {
            peer.moved();
        }
        let state = self.pieces.get_mut(&piece)?;
        state.asked[group] = state.asked[group].saturating_sub(1);
        if std::mem::replace(&mut state.here[group], true) {
            return None;
        }
        state.left -= 1;
        let whole = state.left == 0;
        if whole {
            state.stage = Stage::Whole;
        }
        if state.asked[group] > 0 {
            self.cancel_unneeded();
        }
        whole.then_some(piece)
    }

    /// A piece that is whole is kept for good.
    pub(crate) fn kept(&mut self, piece: Piece) {
        if let Some(state) = self.pieces.get_mut(&piece) {
            if state.stage != Stage::Kept {
                state.stage = Stage::Kept;
                self.unfinished -= 1;
            }
        }
        self.begun.retain(|begun| *begun != piece);
    }

    /// How things stand. `Stuck` is final only when no more peers will say what they hold.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.unfinished == 0 {
            return Verdict::Finished;
        }
        let mut stuck = Stuck::default();
        for (piece, state) in &self.pieces {
            match state.stage {
                Stage::Kept => continue,
                Stage::Opening | Stage::Whole => return Verdict::Going,
                _ if !self.orders.is_empty() || self.has_source(state) => return Verdict::Going,
                _ if state.holders.is_empty() => stuck.missing.push(*piece),
                _ if state.holders.values().all(|holder| holder.unfit) => stuck.damaged.push(*piece),
                _ => stuck.unreachable.push(*piece),
            }
        }
        Verdict::Stuck(stuck)
    }

    /// Peers that sent something else than they were asked for.
    pub(crate) fn liars(&self) -> BTreeSet<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.lied).map(|(id, _)| *id).collect()
    }

    /// Whether somebody may still be asked for it, be it later.
    fn has_source(&self, state: &PieceState) -> bool {
        state.holders.iter().any(|(peer, holder)| self.is_fit(peer, holder))
    }

    fn is_fit(&self, peer: &NodeId, holder: &Holder) -> bool {
        let gone = self.peers.get(peer).is_none_or(|peer| peer.failures >= 2 * self.limits.tries);
        !holder.unfit && holder.tries < self.limits.tries && !gone
    }
}
