//! Logic: giving others what is here, a bounded number of ranges at a time.
//!
//! A server gives each byte of a new pack once, to one of those that are to hold the whole pack, and names these to
//! others; so its uplink carries the pack about once. If what was given does not get around, it is given again.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{NodeId, PackId};

use super::Keeper;
use super::event::Action;
use super::message::{Message, Refusal, Request};
use super::part::{Pack, Part, Which};
use super::ranges::Ranges;
use crate::limits;

/// What was given may take so long to get around before it is given again; longer each time.
const AGAIN_MS: u64 = 4_000;
/// Of a pack's bytes, as many hundredths may be given in all before [`AGAIN_MS`] is a good deal longer.
const GIVEN_PERCENT_MAX: u64 = 120;
const AGAIN_FACTOR: u64 = 4;
/// How long it may take until a node hears of a pack that another one asks it for.
const UNKNOWN_MS: u64 = 30_000;

/// A range of a pack that was given.
#[derive(Debug, Clone, Copy)]
struct Given {
    range: (u64, u64),
    to: NodeId,
    at_ms: u64,
    times: u64,
}

/// What is being served, and who waits for more.
#[derive(Debug, Clone, Default)]
pub(super) struct Serving {
    under_way: BTreeSet<(NodeId, Request)>,
    /// Who waits for a part, and since when somebody does.
    waiters: BTreeMap<Part, (u64, BTreeSet<NodeId>)>,
    given: BTreeMap<PackId, Vec<Given>>,
}

impl Serving {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Nodes that wait for parts, in all.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.values().map(|(_, nodes)| nodes.len()).sum()
    }

    fn of(&self, node: &NodeId) -> usize {
        self.under_way.range((*node, 0)..=(*node, Request::MAX)).count()
    }

    /// Forgets a node that is dead.
    pub(super) fn forget_node(&mut self, node: &NodeId) {
        self.under_way.retain(|(to, _)| to != node);
        self.waiters.retain(|_, (_, waiters)| {
            waiters.remove(node);
            !waiters.is_empty()
        });
    }

    /// Forgets what was given of packs that are spread or gone.
    pub(super) fn forget_given(&mut self, keeps: impl Fn(&PackId) -> bool) {
        self.given.retain(|pack, _| keeps(pack));
    }

    /// Forgets who waits for parts of packs that were not heard of for long.
    pub(super) fn forget_unknown(&mut self, now_ms: u64, is_known: impl Fn(&PackId) -> bool) {
        self.waiters.retain(|part, (since_ms, _)| is_known(&part.pack) || *since_ms + UNKNOWN_MS > now_ms);
    }

    fn wait(&mut self, now_ms: u64, part: Part, node: NodeId) {
        let is_known = self.waiters.contains_key(&part);
        if is_known || self.waiters.len() < limits::WAITED_PARTS_MAX {
            let (_, waiters) = self.waiters.entry(part).or_insert_with(|| (now_ms, BTreeSet::new()));
            if waiters.len() < limits::WAITERS_MAX {
                waiters.insert(node);
            }
        }
    }
}

impl Keeper {
    pub(super) fn asked(
        &mut self,
        from: NodeId,
        request: Request,
        part: Part,
        missing: &Ranges,
        is_stuck: bool,
    ) {
        match self.answer(from, request, part, missing, is_stuck) {
            Ok(range) => {
                self.serving.under_way.insert((from, request));
                self.send(from, Message::Grant { request, range });
                self.out.push(Action::Serve { to: from, request, part, range });
            }
            Err(why) => self.send(from, Message::Refuse { request, why }),
        }
    }

    /// The range that is given, or why none is.
    fn answer(
        &mut self,
        from: NodeId,
        request: Request,
        part: Part,
        missing: &Ranges,
        is_stuck: bool,
    ) -> Result<(u64, u64), Refusal> {
        let nothing = || Refusal::Lack { have: Ranges::default(), is_coming: false };
        if missing.len() > limits::ASK_RANGES_MAX || self.serving.under_way.contains(&(from, request)) {
            return Err(nothing());
        }
        let Some(pack) = self.pack(&part.pack) else {
            // The one that asks may have heard of the pack before this node did.
            self.serving.wait(self.now_ms, part, from);
            return Err(Refusal::Lack { have: Ranges::default(), is_coming: true });
        };
        let have = self.shelf.available(&part, pack.part_bytes(part.which));
        let whole = Part { pack: part.pack, which: Which::Whole };
        let is_coming = self.jobs.get(&part).is_some_and(|job| job.made_into.is_none())
            || self.jobs.get(&whole).is_some_and(|job| job.made_into.is_none());
        if is_coming {
            self.serving.wait(self.now_ms, part, from);
        }
        let available = missing.common(&have);
        if available.is_empty() {
            return Err(Refusal::Lack { have, is_coming });
        }
        let serving = &self.serving;
        if serving.len() >= limits::SERVED_MAX || serving.of(&from) >= limits::REQUESTS_PER_PEER {
            return Err(Refusal::Busy);
        }
        if self.config.gives_once && self.served_as(&pack).is_some() {
            return self.give(from, &pack, part, &available, is_stuck);
        }
        available.take(0, limits::ASK_BYTES_MAX).ok_or_else(nothing)
    }

    /// What a server gives.
    fn give(
        &mut self,
        to: NodeId,
        pack: &Pack,
        part: Part,
        available: &Ranges,
        is_stuck: bool,
    ) -> Result<(u64, u64), Refusal> {
        let nothing = Refusal::Lack { have: Ranges::default(), is_coming: false };
        let Some(catalog) = self.served_as(pack) else { return Err(nothing) };
        let is_alive = |node: &&NodeId| **node != to && self.attendance.is_alive(node);
        let makers: Vec<NodeId> =
            catalog.warm.iter().chain(&catalog.encoders).filter(is_alive).copied().collect();
        if part.which != Which::Whole {
            return match available.take(0, limits::ASK_BYTES_MAX) {
                Some(range) if is_stuck || makers.is_empty() => Ok(range),
                _ => Err(Refusal::Elsewhere { nodes: makers }),
            };
        }
        let takers =
            if pack.cut.is_some() { makers.len() + 1 } else { self.attendance.all_alive().count() - 1 };
        let share = pack.bytes / takers.max(1) as u64;
        let share = share.next_multiple_of(GROUP_BYTES).clamp(GROUP_BYTES, limits::ASK_BYTES_MAX);
        let now_ms = self.now_ms;
        let given = self.serving.given.entry(pack.id).or_default();
        let mut fresh = available.clone();
        given.iter().for_each(|one| fresh.remove(one.range.0, one.range.1));
        if let Some(range) = fresh.take(0, share) {
            given.push(Given { range, to, at_ms: now_ms, times: 1 });
            return Ok(range);
        }
        let total: u64 = given.iter().map(|one| (one.range.1 - one.range.0) * one.times).sum();
        let is_much = total * 100 > pack.bytes * GIVEN_PERCENT_MAX && !is_stuck;
        let factor = if is_much { AGAIN_FACTOR } else { 1 };
        let is_due = |one: &&mut Given| {
            let is_lost = one.to == to || !self.attendance.is_alive(&one.to);
            let wait_ms = if is_lost { AGAIN_MS / 4 } else { AGAIN_MS * factor } * one.times;
            now_ms >= one.at_ms + wait_ms
                && !available.common(&Ranges::one(one.range.0, one.range.1)).is_empty()
        };
        if let Some(again) = given.iter_mut().find(is_due) {
            *again = Given { to, at_ms: now_ms, times: again.times + 1, ..*again };
            let range = available.common(&Ranges::one(again.range.0, again.range.1)).take(0, u64::MAX);
            return range.ok_or(nothing);
        }
        let wanted = |one: &&Given| {
            !available.common(&Ranges::one(one.range.0, one.range.1)).is_empty() && one.to != to
        };
        let nodes: BTreeSet<NodeId> = given.iter().filter(wanted).map(|one| one.to).collect();
        Err(Refusal::Elsewhere { nodes: nodes.into_iter().take(limits::HINTS_MAX).collect() })
    }

    /// Bytes that were to be sent to a node are sent.
    pub(super) fn served(&mut self, to: NodeId, request: Request) {
        self.serving.under_way.remove(&(to, request));
    }

    /// Who waits for more of a part hears what is here now.
    pub(super) fn tell_waiters(&mut self, part: Part) {
        let Some(pack) = self.pack(&part.pack) else { return };
        let mut parts = vec![part];
        if part.which == Which::Whole && self.shelf.is_whole(&part) {
            let waited = self.serving.waiters.keys().filter(|waited| waited.pack == part.pack);
            parts = waited.copied().chain([part]).collect();
        }
        for part in parts {
            let bytes = pack.part_bytes(part.which);
            let ranges = self.shelf.available(&part, bytes);
            let Some((_, waiters)) = self.serving.waiters.get(&part).cloned() else { continue };
            if ranges.is_whole(bytes) {
                self.serving.waiters.remove(&part);
            }
            for node in waiters {
                self.send(node, Message::Have { part, ranges: ranges.clone() });
            }
        }
    }

    /// A part will not come any more: nobody is kept waiting for it.
    pub(super) fn forget_waiters(&mut self, part: &Part) {
        self.serving.waiters.remove(part);
    }
}
