//! Fetches packs from all peers that have them: does what the plan says, and tells the plan what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sustain_proto::wire::{Request, Response};
use sustain_proto::{GroupList, NodeId, PackId, PackRef, Piece, SnapshotId};
use sustain_store::GroupReceiver;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::error::GatherError;
use crate::gather::{GatherReport, SharedProgress};
use crate::limits;
use crate::member::Member;
use crate::plan::{Order, OrderId, Plan, PlanLimits, Step, Stuck, Verdict};
use crate::transfer::{Event, Target, Transfers, Wanted};

/// How often to look for slow peers, and whether to stop.
const LOOK: Duration = Duration::from_millis(20);

const PLAN_LIMITS: PlanLimits = PlanLimits {
    orders: limits::ORDERS_PER_PEER,
    pieces: limits::PIECES_AT_ONCE,
    groups: limits::GROUPS_PER_ORDER,
    ranges: sustain_proto::limits::MESSAGE_RANGES_MAX,
    listed_groups: limits::GROUPS_LISTED_AT_ONCE,
    listed_pieces: sustain_proto::limits::MESSAGE_PIECES_MAX,
    tries: limits::PIECE_TRIES_PER_PEER,
};

/// The state of fetching. Dropping it ends all transfers.
pub(crate) struct Gathering {
    id: SnapshotId,
    wanted: BTreeMap<PackId, PackRef>,
    transfers: Transfers,
    events: mpsc::Receiver<Event>,
    plan: Plan,
    tasks: JoinSet<()>,
    orders: BTreeMap<OrderId, (NodeId, AbortHandle)>,
    /// Pieces whose lists are here, and of which nobody has looked what else is.
    to_open: Vec<(PackRef, GroupList)>,
    opening: usize,
    receivers: BTreeMap<Piece, Arc<GroupReceiver>>,
    /// Whole, and not yet being kept.
    whole: Vec<Arc<GroupReceiver>>,
    keeping: usize,
    to_ask: VecDeque<NodeId>,
    asking: usize,
    answers: usize,
    last_failure: String,
    started: Instant,
}

impl Gathering {
    pub(crate) fn new(
        member: Arc<Member>,
        id: SnapshotId,
        wanted: BTreeMap<PackId, PackRef>,
        progress: SharedProgress,
    ) -> Self {
        let (sender, events) = mpsc::channel(limits::GATHER_EVENTS_MAX);
        let sizes = wanted.values().map(|pack| (Piece::Pack(pack.id), pack.bytes));
        Self {
            plan: Plan::new(PLAN_LIMITS, sizes),
            to_ask: member.asking_order().into(),
            transfers: Transfers { member, events: sender, progress },
            id,
            wanted,
            events,
            tasks: JoinSet::new(),
            orders: BTreeMap::new(),
            to_open: Vec::new(),
            opening: 0,
            receivers: BTreeMap::new(),
            whole: Vec::new(),
            keeping: 0,
            asking: 0,
            answers: 0,
            last_failure: String::new(),
            started: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self, report: &mut GatherReport) -> Result<(), GatherError> {
        let outcome = self.fetch(report).await;
        report.liars.extend(self.plan.liars());
        outcome
    }

    async fn fetch(&mut self, report: &mut GatherReport) -> Result<(), GatherError> {
        let id = self.id;
        self.transfers.progress.total(self.wanted.values().map(|pack| pack.bytes).sum());
        let mut look = tokio::time::interval(LOOK);
        loop {
            if self.transfers.progress.cancelled() || self.transfers.member.tasks.stopping() {
                return Err(GatherError::Cancelled { id });
            }
            self.ask();
            while let Some(step) = self.plan.next(self.now_ms()) {
                self.take(step);
            }
            self.open();
            match self.plan.verdict() {
                Verdict::Finished => return Ok(()),
                Verdict::Stuck(stuck) if self.asking == 0 => return Err(self.hopeless(stuck)),
                Verdict::Going | Verdict::Stuck(_) => {}
            }
            tokio::select! {
                _ = look.tick() => while self.tasks.try_join_next().is_some() {},
                event = self.events.recv() => match event {
                    Some(event) => self.happened(event, report)?,
                    None => return Err(GatherError::Cancelled { id }),
                },
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Asks peers what they have.
    fn ask(&mut self) {
        while self.asking < limits::PEERS_ASKED_AT_ONCE {
            let Some(peer) = self.to_ask.pop_front() else { return };
            let transfers = self.transfers.clone();
            let request = Request::HavePacks { ids: self.wanted.keys().copied().collect() };
            self.asking += 1;
            self.tasks.spawn(async move {
                let member = &transfers.member;
                let packs = match member.request(peer, &request, member.request_timeout()).await {
                    Ok(Response::Having { packs }) => Some(packs),
                    Ok(_) => None,
                    Err(error) => {
                        tracing::debug!(%error, "a peer could not be asked for packs");
                        None
                    }
                };
                transfers.tell(Event::Has(peer, packs)).await;
            });
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open(piece) => {
                let list = self.bytes_of(piece).and_then(|bytes| GroupList::single(*piece.root(), bytes));
                list.into_iter().for_each(|list| self.note_list(piece, list));
            }
            Step::Cancel(id) => {
                if let Some((_, task)) = self.orders.remove(&id) {
                    task.abort();
                }
            }
            Step::Ask(id, peer, order) => {
                let transfers = self.transfers.clone();
                let task = match order {
                    Order::Lists(pieces) => {
                        let size = |piece: Piece| self.bytes_of(piece).map(|bytes| (piece, bytes));
                        let pieces = pieces.into_iter().filter_map(size).collect();
                        self.tasks.spawn(transfers.lists(id, peer, pieces))
                    }
                    Order::Groups(runs) => {
                        let wanted = runs.into_iter().filter_map(|run| {
                            let receiver = self.receivers.get(&run.piece)?.clone();
                            Some(Wanted {
                                piece: run.piece,
                                target: Target::Pack(receiver),
                                groups: run.groups,
                            })
                        });
                        let wanted = wanted.collect();
                        self.tasks.spawn(transfers.groups(id, peer, wanted))
                    }
                };
                self.orders.insert(id, (peer, task));
            }
        }
    }

    fn bytes_of(&self, piece: Piece) -> Option<u64> {
        pack_of(piece).and_then(|id| self.wanted.get(&id)).map(|pack| pack.bytes)
    }

    fn note_list(&mut self, piece: Piece, list: GroupList) {
        if let Some(pack) = pack_of(piece).and_then(|id| self.wanted.get(&id)) {
            self.to_open.push((*pack, list));
        }
    }

    /// Looks at what is here of the pieces whose lists are here, of some at a time: orders for many of them together
    /// are fewer.
    fn open(&mut self) {
        if self.to_open.is_empty() || self.opening == limits::OPENED_AT_ONCE {
            return;
        }
        self.opening += 1;
        let pieces = std::mem::take(&mut self.to_open);
        let transfers = self.transfers.clone();
        drop(self.transfers.member.tasks.blocking(move || {
            let store = &transfers.member.store;
            // Some may have come by other ways since this began.
            let (here, lacking): (Vec<_>, Vec<_>) =
                pieces.into_iter().partition(|(pack, _)| store.has_pack(&pack.id));
            let here = here.into_iter().map(|(pack, _)| pack).collect();
            let opened = lacking.into_iter().map(|(pack, list)| store.receive_groups(pack, list));
            let event = match opened.collect() {
                Ok(receivers) => Event::Opened { receivers, here },
                Err(error) => Event::store_failure(error),
            };
            let _ = transfers.events.blocking_send(event);
        }));
    }

    fn happened(&mut self, event: Event, report: &mut GatherReport) -> Result<(), GatherError> {
        match event {
            Event::Has(peer, packs) => {
                self.asking -= 1;
                if let Some(packs) = packs {
                    self.answers += 1;
                    self.plan.holds(peer, packs.into_iter().map(Piece::Pack));
                }
            }
            Event::Listed(id, piece, list) => {
                if self.plan.listed(id, piece, self.now_ms()) {
                    self.note_list(piece, list);
                }
            }
            Event::Opened { receivers, here } => {
                self.opening -= 1;
                for pack in here {
                    report.bytes_resumed += pack.bytes;
                    self.transfers.progress.advance(pack.bytes);
                    self.plan.opened(Piece::Pack(pack.id), Vec::new());
                    self.plan.kept(Piece::Pack(pack.id));
                }
                receivers.into_iter().for_each(|receiver| self.opened(receiver, report));
            }
            Event::Came(id, groups) => self.came(id, &groups, report),
            Event::Absent(id, peer, piece) => {
                let peer = peer.short();
                tracing::debug!(%peer, ?piece, "a peer does not have what it said, or it is damaged there");
                self.plan.absent(id, piece);
            }
            Event::Wrong(peer, piece, what) => {
                let reason = what.words();
                let node = peer.short();
                tracing::warn!(node, ?piece, reason, "a peer sent something else than it was asked for");
                self.transfers.member.misbehaved(peer, what);
                self.plan.lied(peer, piece);
            }
            Event::Ended(id, failure) => {
                if let (Some((peer, _)), Some(reason)) = (self.orders.remove(&id), failure) {
                    tracing::debug!(peer = %peer.short(), reason, "a transfer broke off");
                    report.transfers_broken += 1;
                    self.last_failure = reason;
                }
                self.plan.ended(id, self.now_ms());
            }
            Event::Kept(pieces) => {
                self.keeping -= 1;
                report.packs_fetched += pieces.len();
                pieces.into_iter().for_each(|piece| self.plan.kept(piece));
                self.keep();
            }
            Event::Store(kind, source) => {
                return Err(GatherError::Store { id: self.id, action: "keep a pack", source, kind });
            }
        }
        Ok(())
    }

    fn opened(&mut self, receiver: Arc<GroupReceiver>, report: &mut GatherReport) {
        let piece = Piece::Pack(receiver.pack().id);
        let here = receiver.here();
        let groups = here.iter().enumerate().filter(|(_, here)| **here);
        let resumed = groups.map(|(group, _)| receiver.group_bytes(group) as u64).sum();
        report.bytes_resumed += resumed;
        self.transfers.progress.advance(resumed);
        self.receivers.insert(piece, receiver);
        if self.plan.opened(piece, here) {
            self.whole(piece);
        }
    }

    fn came(&mut self, id: OrderId, groups: &[u64], report: &mut GatherReport) {
        let bytes: u64 = groups.iter().sum();
        report.bytes_fetched += bytes;
        let Some((peer, _)) = self.orders.get(&id) else { return };
        *report.peers.entry(*peer).or_insert(0) += bytes;
        let before = self.plan.came_bytes();
        for group in groups {
            if let Some(piece) = self.plan.came(id, *group, self.now_ms()) {
                self.whole(piece);
            }
        }
        // An earlier gathering may have written some of it meanwhile: what counts is what this one had to wait for.
        self.transfers.progress.advance(self.plan.came_bytes() - before);
    }

    /// All of a piece is here.
    fn whole(&mut self, piece: Piece) {
        self.whole.extend(self.receivers.remove(&piece));
        self.keep();
    }

    /// Has what is whole synced, all of it together: the more there is, the less each takes.
    fn keep(&mut self) {
        if self.whole.is_empty() || self.keeping == limits::KEPT_AT_ONCE {
            return;
        }
        self.keeping += 1;
        let whole = std::mem::take(&mut self.whole);
        let transfers = self.transfers.clone();
        drop(self.transfers.member.tasks.blocking(move || {
            let event = match transfers.member.store.keep_received(&whole) {
                Ok(()) => Event::Kept(whole.iter().map(|receiver| Piece::Pack(receiver.pack().id)).collect()),
                Err(error) => Event::store_failure(error),
            };
            let _ = transfers.events.blocking_send(event);
        }));
    }

    /// Nobody is left who could give what is missing.
    fn hopeless(&mut self, stuck: Stuck) -> GatherError {
        let (id, asked) = (self.id, self.answers);
        let packs = |pieces: Vec<Piece>| -> Vec<PackId> { pieces.into_iter().filter_map(pack_of).collect() };
        if asked == 0 {
            GatherError::NoPeers { id }
        } else if !stuck.missing.is_empty() {
            GatherError::Missing { id, missing: packs(stuck.missing), asked }
        } else if !stuck.unreachable.is_empty() {
            let reason = std::mem::take(&mut self.last_failure);
            GatherError::Unreachable { id, missing: packs(stuck.unreachable), reason }
        } else {
            GatherError::Damaged { id, damaged: packs(stuck.damaged) }
        }
    }
}

fn pack_of(piece: Piece) -> Option<PackId> {
    match piece {
        Piece::Pack(id) => Some(id),
        Piece::Fragment(_) => None,
    }
}
