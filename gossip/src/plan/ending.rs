//! Logic: how orders end, well or badly, and what becomes of what they still owed.

use sustain_proto::{NodeId, Piece};

use super::{OrderId, PieceState, Placed, PlacedKind, Plan, Stage, Step};

impl Plan {
    /// The peer has no such piece, or its own is damaged.
    pub(crate) fn absent(&mut self, id: OrderId, piece: Piece) {
        let Some(placed) = self.orders.get_mut(&id) else { return };
        placed.answered = true;
        let peer = placed.peer;
        let owed = match &mut placed.kind {
            PlacedKind::Lists(pieces) => {
                pieces.retain(|other| *other != piece);
                Vec::new()
            }
            PlacedKind::Groups(left) => {
                let (owed, others): (Vec<_>, Vec<_>) = left.drain(..).partition(|(other, _)| *other == piece);
                *left = others.into();
                owed
            }
        };
        if let Some(state) = self.pieces.get_mut(&piece) {
            state.release(owed.into_iter().map(|(_, group)| group));
            state.holders.entry(peer).or_default().unfit = true;
        }
        self.wait_again(piece);
    }

    /// A piece whose list nobody is asked for any more waits again.
    fn wait_again(&mut self, piece: Piece) {
        if self.lists_asked(&piece) > 0 {
            return;
        }
        if let Some(state) = self.pieces.get_mut(&piece).filter(|state| state.stage == Stage::Listing) {
            state.stage = Stage::Waiting;
            self.waiting.push_front(piece);
            self.begun.retain(|begun| *begun != piece);
        }
    }

    /// The next list of an order came, and it is the right one. True if it is the first: what is here of the piece is
    /// to be looked at then.
    pub(crate) fn listed(&mut self, id: OrderId, piece: Piece, now_ms: u64) -> bool {
        let Some(placed) = self.orders.get_mut(&id) else { return false };
        placed.answered = true;
        placed.moved_ms = now_ms;
        if let Some(peer) = self.peers.get_mut(&placed.peer) {
            peer.moved();
        }
        let mut unneeded = Vec::new();
        for (other, placed) in &mut self.orders {
            let PlacedKind::Lists(pieces) = &mut placed.kind else { continue };
            let before = pieces.len();
            pieces.retain(|listed| *listed != piece);
            if pieces.is_empty() && before > 0 && *other != id {
                unneeded.push(*other);
            }
        }
        unneeded.into_iter().for_each(|id| self.cancel(id));
        let state = self.pieces.get_mut(&piece).filter(|state| state.stage == Stage::Listing);
        state.map(|state| state.stage = Stage::Opening).is_some()
    }

    /// An order ended: all of it came, or it broke off, stalled or was refused. What it still owed is asked for again.
    pub(crate) fn ended(&mut self, id: OrderId, now_ms: u64) {
        let Some(placed) = self.orders.remove(&id) else { return };
        let Placed { peer, begun_ms, bytes, moved_ms, answered, kind } = placed;
        let is_lists = matches!(kind, PlacedKind::Lists(_));
        let first = match &kind {
            PlacedKind::Lists(pieces) => pieces.first().copied(),
            PlacedKind::Groups(left) => left.front().map(|(piece, _)| *piece),
        };
        self.give_back(kind);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.orders -= 1;
        state.lists -= usize::from(is_lists);
        if !is_lists {
            // What was cut short says how quick it was up to then.
            let until_ms = if first.is_some() { moved_ms } else { now_ms };
            state.measure(begun_ms, bytes, until_ms);
        }
        if let (Some(piece), false) = (first, answered) {
            state.failed(now_ms);
            if let Some(piece) = self.pieces.get_mut(&piece) {
                piece.holders.entry(peer).or_default().tries += 1;
            }
        }
    }

    /// The peer sent something else than this piece. It is asked for nothing any more that others have.
    pub(crate) fn lied(&mut self, peer: NodeId, piece: Piece) {
        self.peers.entry(peer).or_default().lied = true;
        if let Some(state) = self.pieces.get_mut(&piece) {
            state.holders.entry(peer).or_default().unfit = true;
        }
        let orders: Vec<OrderId> =
            self.orders.iter().filter(|(_, placed)| placed.peer == peer).map(|(id, _)| *id).collect();
        orders.into_iter().for_each(|id| self.cancel(id));
    }

    /// Cancels orders of which everything came by others.
    pub(super) fn cancel_unneeded(&mut self) {
        let is_here = |(piece, group): &(Piece, usize)| {
            self.pieces.get(piece).is_none_or(|state| state.here.get(*group).copied().unwrap_or(true))
        };
        let unneeded = |placed: &Placed| match &placed.kind {
            PlacedKind::Groups(left) => !left.is_empty() && left.iter().all(is_here),
            PlacedKind::Lists(_) => false,
        };
        let orders: Vec<OrderId> =
            self.orders.iter().filter(|(_, placed)| unneeded(placed)).map(|(id, _)| *id).collect();
        orders.into_iter().for_each(|id| self.cancel(id));
    }

    /// Ends an order from this side, which is nobody's fault.
    fn cancel(&mut self, id: OrderId) {
        let Some(placed) = self.orders.remove(&id) else { return };
        let is_lists = matches!(placed.kind, PlacedKind::Lists(_));
        self.give_back(placed.kind);
        if let Some(state) = self.peers.get_mut(&placed.peer) {
            state.orders -= 1;
            state.lists -= usize::from(is_lists);
            if !is_lists {
                let bytes = placed.bytes.max(1);
                state.measure(placed.begun_ms, bytes, placed.moved_ms.max(placed.begun_ms + 1));
            }
        }
        self.steps.push_back(Step::Cancel(id));
    }

    fn give_back(&mut self, kind: PlacedKind) {
        match kind {
            PlacedKind::Lists(pieces) => {
                pieces.into_iter().for_each(|piece| self.wait_again(piece));
            }
            PlacedKind::Groups(left) => {
                for (piece, group) in left {
                    if let Some(state) = self.pieces.get_mut(&piece) {
                        state.release(std::iter::once(group));
                    }
                }
            }
        }
    }
}

impl PieceState {
    /// Groups that an order does not wait for any more.
    pub(super) fn release(&mut self, groups: impl Iterator<Item = usize>) {
        for group in groups {
            self.asked[group] = self.asked[group].saturating_sub(1);
            if self.asked[group] > 0 || self.here[group] {
                continue;
            }
            let at = self.free.partition_point(|run| run.end < group);
            match self.free.get_mut(at) {
                Some(run) if run.end == group => run.end += 1,
                Some(run) if run.start == group + 1 => run.start = group,
                _ => self.free.insert(at, group..group + 1),
            }
            let next = self.free.get(at + 1).cloned();
            if let (Some(run), Some(next)) = (self.free.get_mut(at), next) {
                if run.end == next.start {
                    run.end = next.end;
                    self.free.remove(at + 1);
                }
            }
        }
    }
}
