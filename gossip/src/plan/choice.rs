//! Logic: whom to ask for what next.

use std::collections::VecDeque;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{NodeId, Piece};

use super::{Order, OrderId, PieceState, Placed, PlacedKind, Plan, Run, Stage, Step};

/// What asking takes beside the bytes, when it is weighed whether to ask a second peer.
const ASKING_MS: f64 = 40.0;

/// A list that has not come for so long is asked for elsewhere, too: the peer has read its pack meanwhile.
const LATE_MS: f64 = 150.0;

/// A second peer is asked if it would be done in less than one part in so many of the first one's time.
const TIMES_QUICKER: f64 = 2.0;

/// Peers that are asked at once for one group.
const ASKED_MAX: u8 = 2;

impl Plan {
    /// What is to be done next, if there is anything.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Step> {
        if let Some(step) = self.steps.pop_front() {
            return Some(step);
        }
        if let Some(piece) = self.open_single() {
            return Some(Step::Open(piece));
        }
        let mut idle: Vec<NodeId> =
            self.peers.keys().copied().filter(|id| self.may_ask(id, now_ms)).collect();
        // The idlest first, and of those the quickest.
        let key = |id: &NodeId| {
            let peer = &self.peers[id];
            (peer.orders, peer.rate.map_or(0, |rate| u64::MAX - rate as u64), *id)
        };
        idle.sort_by_key(key);
        idle.into_iter().find_map(|peer| {
            let kind = self.lists(peer).or_else(|| self.owed_lists(peer, now_ms));
            let kind = kind.or_else(|| {
                if self.is_held_back(&peer) {
                    return None;
                }
                self.groups(peer).or_else(|| self.owed(peer, now_ms))
            })?;
            Some(self.place(peer, kind, now_ms))
        })
    }

    fn may_ask(&self, id: &NodeId, now_ms: u64) -> bool {
        self.peers.get(id).is_some_and(|peer| {
            peer.orders < peer.orders(self.limits.orders) + peer.lists && peer.pause_until_ms <= now_ms
        })
    }

    /// Whether to ask this peer for a piece. Who lied is asked only for what no other has.
    fn suits(&self, peer: &NodeId, state: &PieceState) -> bool {
        let fit = |peer: &NodeId| state.holders.get(peer).is_some_and(|holder| self.is_fit(peer, holder));
        let honest = |peer: &NodeId| self.peers.get(peer).is_some_and(|peer| !peer.lied);
        fit(peer) && (honest(peer) || !state.holders.keys().any(|other| honest(other) && fit(other)))
    }

    fn has_room(&self) -> bool {
        self.begun.len() < self.limits.pieces
    }

    /// Begins a piece that needs no list, and that somebody has.
    fn open_single(&mut self) -> Option<Piece> {
        if !self.has_room() {
            return None;
        }
        let is_ready = |piece: &Piece| {
            self.pieces.get(piece).is_some_and(|state| state.groups() <= 1 && self.has_source(state))
        };
        let at = self.waiting.iter().position(is_ready)?;
        let piece = self.waiting.remove(at)?;
        self.pieces.get_mut(&piece)?.stage = Stage::Opening;
        self.begun.push(piece);
        Some(piece)
    }

    /// Lists to ask this peer for: one order at a time.
    fn lists(&mut self, peer: NodeId) -> Option<PlacedKind> {
        let known = self.peers.get(&peer)?;
        let mut room = self.limits.pieces.saturating_sub(self.begun.len());
        // Room comes piece by piece, and a request for each would be many.
        let is_little = room < self.waiting.len().min(self.limits.pieces / 4);
        if known.lists > 0 || room == 0 || (is_little && !self.orders.is_empty()) {
            return None;
        }
        let (mut pieces, mut groups) = (Vec::new(), 0);
        for piece in &self.waiting {
            let Some(state) = self.pieces.get(piece) else { continue };
            if room == 0 || pieces.len() == self.limits.listed_pieces {
                break;
            }
            if state.groups() <= 1 || !self.suits(&peer, state) {
                continue;
            }
            if !pieces.is_empty() && groups + state.groups() > self.limits.listed_groups {
                break;
            }
            groups += state.groups();
            room -= 1;
            pieces.push(*piece);
        }
        if pieces.is_empty() {
            return None;
        }
        self.waiting.retain(|piece| !pieces.contains(piece));
        for piece in &pieces {
            if let Some(state) = self.pieces.get_mut(piece) {
                state.stage = Stage::Listing;
            }
        }
        self.begun.extend(pieces.iter().copied());
        Some(PlacedKind::Lists(pieces))
    }

    /// Lists that another peer is asked for and does not send.
    fn owed_lists(&self, peer: NodeId, now_ms: u64) -> Option<PlacedKind> {
        let is_late = |placed: &&Placed| {
            placed.peer != peer && now_ms.saturating_sub(placed.moved_ms) as f64 >= LATE_MS
        };
        let known = self.peers.get(&peer).filter(|known| known.lists == 0)?;
        for placed in self.orders.values().filter(is_late) {
            let PlacedKind::Lists(pieces) = &placed.kind else { continue };
            let may = |piece: &&Piece| {
                let suits = self.pieces.get(piece).is_some_and(|state| self.suits(&peer, state));
                suits && self.lists_asked(piece) < usize::from(ASKED_MAX)
            };
            let pieces: Vec<Piece> = pieces.iter().filter(may).copied().collect();
            if !pieces.is_empty() && known.failures == 0 {
                return Some(PlacedKind::Lists(pieces));
            }
        }
        None
    }

    /// How many peers are asked for the list of a piece.
    pub(super) fn lists_asked(&self, piece: &Piece) -> usize {
        let has = |kind: &PlacedKind| matches!(kind, PlacedKind::Lists(pieces) if pieces.contains(piece));
        self.orders.values().filter(|placed| has(&placed.kind)).count()
    }

    /// Groups that nobody is asked for, of the pieces begun first.
    fn groups(&mut self, peer: NodeId) -> Option<PlacedKind> {
        let wanted = self.peers.get(&peer)?.groups(self.limits.groups);
        let mut taken = VecDeque::new();
        let mut ranges = 0;
        for piece in self.begun.clone() {
            let Some(state) = self.pieces.get(&piece) else { continue };
            if state.free.is_empty() || !self.suits(&peer, state) {
                continue;
            }
            let Some(state) = self.pieces.get_mut(&piece) else { continue };
            while let Some(run) = state.free.pop_front() {
                let end = run.end.min(run.start + (wanted - taken.len()));
                if end < run.end {
                    state.free.push_front(end..run.end);
                }
                ranges += 1;
                taken.extend((run.start..end).map(|group| (piece, group)));
                if taken.len() == wanted || ranges == self.limits.ranges {
                    return Some(PlacedKind::Groups(taken));
                }
            }
        }
        (!taken.is_empty()).then_some(PlacedKind::Groups(taken))
    }

    /// Whether to wait until there is more for this peer: groups become free piece by piece, and many small orders
    /// would cost a round trip each.
    fn is_held_back(&self, peer: &NodeId) -> bool {
        self.peers.get(peer).is_some_and(|known| {
            let wanted = known.groups(self.limits.groups);
            self.is_more_coming(known.orders > known.lists) && self.free_for(peer) < wanted.div_ceil(2)
        })
    }

    /// Whether more groups become free without an order's failing: in a moment or, for a peer that is busy, later.
    fn is_more_coming(&self, is_busy: bool) -> bool {
        let is_coming = |piece: &Piece| {
            self.pieces.get(piece).is_some_and(|state| match state.stage {
                Stage::Opening => true,
                Stage::Listing => is_busy,
                _ => false,
            })
        };
        (is_busy && !self.waiting.is_empty()) || self.begun.iter().any(is_coming)
    }

    /// Groups that nobody is asked for and that this peer has.
    fn free_for(&self, peer: &NodeId) -> usize {
        let states = self.begun.iter().filter_map(|piece| self.pieces.get(piece));
        let states = states.filter(|state| !state.free.is_empty() && self.suits(peer, state));
        states.flat_map(|state| &state.free).map(ExactSizeIterator::len).sum()
    }

    /// What another peer owes and this one would send much sooner: the later half of its order that takes longest.
    fn owed(&self, peer: NodeId, now_ms: u64) -> Option<PlacedKind> {
        let quick = self.peers.get(&peer)?;
        let mut best: Option<(f64, Vec<(Piece, usize)>)> = None;
        for placed in self.orders.values().filter(|placed| placed.peer != peer) {
            let PlacedKind::Groups(left) = &placed.kind else { continue };
            let takes_ms = self.takes_ms(placed, now_ms);
            if best.as_ref().is_some_and(|(most, _)| *most >= takes_ms) {
                continue;
            }
            let may = |(piece, group): &&(Piece, usize)| {
                self.pieces.get(piece).is_some_and(|state| {
                    !state.here[*group] && state.asked[*group] < ASKED_MAX && self.suits(&peer, state)
                })
            };
            let open: Vec<(Piece, usize)> = left.iter().filter(may).copied().collect();
            let count = open.len().div_ceil(2).min(quick.groups(self.limits.groups)).min(self.limits.ranges);
            let Some(needs_ms) = quick.needs_ms(count as u64 * GROUP_BYTES) else { continue };
            if count > 0 && takes_ms > TIMES_QUICKER * needs_ms + ASKING_MS {
                best = Some((takes_ms, open[open.len() - count..].to_vec()));
            }
        }
        best.map(|(_, groups)| PlacedKind::Groups(groups.into()))
    }

    /// How long what an order still owes is expected to take.
    fn takes_ms(&self, placed: &Placed, now_ms: u64) -> f64 {
        let idle_ms = now_ms.saturating_sub(placed.moved_ms) as f64;
        let owes = |placed: &Placed| match &placed.kind {
            PlacedKind::Groups(left) => left.len() as u64 * GROUP_BYTES,
            PlacedKind::Lists(_) => 0,
        };
        // Its orders share what it can send.
        let all: u64 = self.orders.values().filter(|other| other.peer == placed.peer).map(owes).sum();
        let known = self.peers.get(&placed.peer).and_then(|peer| peer.needs_ms(all));
        // Who sends nothing may go on like that for as long again.
        known.unwrap_or(0.0).max(idle_ms)
    }

    fn place(&mut self, peer: NodeId, kind: PlacedKind, now_ms: u64) -> Step {
        self.orders_ever += 1;
        let id: OrderId = self.orders_ever;
        let order = match &kind {
            PlacedKind::Lists(pieces) => Order::Lists(pieces.clone()),
            PlacedKind::Groups(groups) => Order::Groups(runs(groups)),
        };
        if let PlacedKind::Groups(groups) = &kind {
            for (piece, group) in groups {
                if let Some(state) = self.pieces.get_mut(piece) {
                    state.asked[*group] += 1;
                }
            }
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.orders += 1;
            state.lists += usize::from(matches!(kind, PlacedKind::Lists(_)));
        }
        self.orders
            .insert(id, Placed { peer, begun_ms: now_ms, moved_ms: now_ms, bytes: 0, answered: false, kind });
        Step::Ask(id, peer, order)
    }
}

fn runs(groups: &VecDeque<(Piece, usize)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (piece, group) in groups {
        match runs.last_mut() {
            Some(run) if run.piece == *piece && run.groups.end == *group => run.groups.end += 1,
            _ => runs.push(Run { piece: *piece, groups: *group..*group + 1 }),
        }
    }
    runs
}
