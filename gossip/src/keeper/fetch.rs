//! Logic: asking for what is wanted: bounded, with pauses that grow, and going on where a transfer broke off.

use rand::{Rng, RngCore};
use sustain_proto::NodeId;
use sustain_proto::limits::GROUP_BYTES;

use super::Keeper;
use super::event::Action;
use super::jobs::{Flight, Job, Peer, Source};
use super::message::{Message, Refusal, Request};
use super::part::Part;
use super::ranges::Ranges;
use crate::limits;

/// How long an answer may take. A guess: a slow round trip, and a busy node.
const ANSWER_MS: u64 = 3_000;
/// How long the bytes of one request may take after that: 1 MiB at 1 Mbit/s.
const BYTES_MS: u64 = 10_000;
/// The least and the greatest pause after a failure.
const PAUSE_MS_MIN: u64 = 200;
const PAUSE_MS_MAX: u64 = 10_000;
/// When who said that more will come is asked again all the same: the message may have got lost.
const POLL_MS: u64 = 3_000;
/// When who named others is asked again.
const ELSEWHERE_MS: u64 = 1_500;
/// When who does not have a part, and is not about to, is asked again.
const LACKING_MS: u64 = 15_000;
/// When a part of which nothing comes makes room for others.
const STUCK_MS: u64 = 20_000;
/// How often a part of which nothing comes is put behind others until it counts as hopeless, and how much longer each
/// time who does not have it is left alone: up to three minutes.
const HOPELESS: u32 = 4;
const PATIENCE_MAX: u32 = 12;
/// How long whom to ask is not worked out anew, whatever becomes known.
const SOURCES_MS: u64 = 400;

/// The next request for a part.
struct Next {
    /// Whom to ask.
    source: Source,
    /// For which range, if that is fixed.
    range: Option<(u64, u64)>,
    /// For what in all.
    missing: Ranges,
}

impl Keeper {
    /// Asks for whatever may be asked for now.
    pub(super) fn pump(&mut self, random: &mut dyn RngCore) {
        self.expire(random);
        self.retry_ms = u64::MAX;
        for part in self.jobs.active() {
            let is_stuck = self
                .jobs
                .get(&part)
                .is_some_and(|job| self.now_ms >= job.progress_ms + STUCK_MS * (u64::from(job.penalty) + 1));
            if is_stuck {
                let penalty = self.jobs.get(&part).map_or(0, |job| job.penalty.saturating_add(1));
                self.jobs.penalise(&part, penalty);
                self.pause_rebuild(&part);
            }
            self.work(part);
        }
    }

    fn work(&mut self, part: Part) {
        let epoch = self.epoch;
        let Some(job) = self.jobs.get(&part) else { return };
        if job.is_making {
            return;
        }
        let is_due = job.sources.is_empty() || self.now_ms >= job.sourced_ms + SOURCES_MS;
        if job.epoch != epoch && is_due {
            let pack = job.pack;
            let sources = self.sources(&pack, &part);
            if let Some(job) = self.jobs.get_mut(&part) {
                (job.sources, job.epoch, job.sourced_ms) = (sources, epoch, self.now_ms);
            }
        }
        self.consider_rebuild(part);
        while self.jobs.in_flight() < limits::REQUESTS_MAX {
            let Some(Next { source, range, missing }) = self.next_ask(part) else { break };
            // The bytes have their time from the answer on.
            let flight = Flight { from: source.node, range, deadline_ms: self.now_ms + ANSWER_MS };
            let is_stuck = self.is_stuck(&part);
            let Some(request) = self.jobs.launch(&part, flight) else { break };
            let message = Message::Ask { request, part, missing, is_stuck };
            self.out.push(Action::Send { to: source.node, message });
        }
    }

    /// Whether nobody has given anything of a part for long.
    pub(super) fn is_hopeless(&self, part: &Part) -> bool {
        self.jobs.get(part).is_some_and(|job| job.penalty >= HOPELESS)
    }

    fn is_stuck(&self, part: &Part) -> bool {
        self.jobs.get(part).is_some_and(|job| self.now_ms >= job.progress_ms + 3 * ELSEWHERE_MS)
    }

    fn next_ask(&mut self, part: Part) -> Option<Next> {
        let job = self.jobs.get(&part)?;
        let bytes = job.pack.part_bytes(part.which);
        let mut missing = Ranges::whole(bytes).without(&self.shelf.have(&part));
        job.flights
            .values()
            .filter_map(|flight| flight.range)
            .for_each(|(from, to)| missing.remove(from, to));
        if missing.is_empty() {
            return None;
        }
        let mut retry_ms = self.retry_ms;
        let usable = |source: &Source| {
            let peer = job.peers.get(&source.node);
            let at_ms = (job.progress_ms + source.after_ms).max(peer.map_or(0, |peer| peer.not_before_ms));
            if peer.is_some_and(|peer| peer.is_liar) || !self.attendance.is_alive(&source.node) {
                return None;
            }
            if at_ms > self.now_ms {
                retry_ms = retry_ms.min(at_ms);
                return None;
            }
            let is_asked = job.flights.values().any(|flight| flight.from == source.node);
            if self.jobs.load(&source.node) >= limits::REQUESTS_PER_PEER || (source.chooses && is_asked) {
                return None;
            }
            let said = peer.and_then(|peer| peer.has.as_ref());
            let known = said.map(|(has, _)| missing.common(has)).filter(|wanted| !wanted.is_empty());
            if known.is_some() {
                return known.map(|wanted| (*source, wanted));
            }
            let poll_ms = said.map_or(0, |(_, said_ms)| said_ms + POLL_MS);
            if poll_ms > self.now_ms {
                retry_ms = retry_ms.min(poll_ms);
                return None;
            }
            (!is_asked).then(|| (*source, missing.clone()))
        };
        let hinted = job.hinted.iter().map(|node| Source { node: *node, after_ms: 0, chooses: false });
        let all: Vec<Source> = hinted.chain(job.sources.iter().copied()).collect();
        let found = all.iter().find_map(usable);
        self.retry_ms = retry_ms;
        let (source, mut wanted) = found?;
        if source.chooses {
            wanted.truncate(limits::ASK_RANGES_MAX);
            return Some(Next { source, range: None, missing: wanted });
        }
        // Each begins at another place, so that those who fetch the same can give it to each other.
        // What is sent is verified in groups, so that a range begins with one.
        let start = super::sources::rank(&self.jobs.get(&part)?.pack, &self.me) % bytes.max(1);
        let start = start - start % GROUP_BYTES;
        let (from, to) = wanted.take(start, limits::ASK_BYTES_MAX)?;
        Some(Next { source, range: Some((from, to)), missing: Ranges::one(from, to) })
    }

    /// Requests whose time is over have failed.
    fn expire(&mut self, random: &mut dyn RngCore) {
        let late = self.jobs.all().flat_map(|job| &job.flights);
        let late: Vec<Request> = late
            .filter(|(_, flight)| flight.deadline_ms <= self.now_ms)
            .map(|(request, _)| *request)
            .collect();
        for request in late {
            self.failed(request, random);
        }
    }

    /// The next time at which something is to be asked, or given up.
    pub(super) fn pump_ms(&self) -> u64 {
        let deadlines = self.jobs.all().flat_map(|job| job.flights.values().map(|flight| flight.deadline_ms));
        deadlines.min().unwrap_or(u64::MAX).min(self.retry_ms)
    }

    pub(super) fn granted(&mut self, request: Request, from: NodeId, range: (u64, u64)) {
        let deadline_ms = self.now_ms + ANSWER_MS + BYTES_MS;
        let flight = self.jobs.of(request).and_then(|job| job.flights.get_mut(&request));
        if let Some(flight) = flight.filter(|flight| flight.from == from) {
            flight.range = Some(range);
            flight.deadline_ms = deadline_ms;
        }
    }

    pub(super) fn fetched(&mut self, request: Request, range: (u64, u64), is_last: bool) {
        let now_ms = self.now_ms;
        let Some(job) = self.jobs.of(request) else { return };
        let part = job.part;
        job.progress_ms = now_ms;
        let made_into = job.made_into;
        if let Some(peer) = job.flights.get(&request).and_then(|flight| job.peers.get_mut(&flight.from)) {
            peer.failures = 0;
        }
        let bytes = job.pack.part_bytes(part.which);
        if is_last {
            self.jobs.land(request);
        }
        self.jobs.penalise(&part, 0);
        if let Some(into) = made_into.and_then(|into| self.jobs.get_mut(&into)) {
            into.progress_ms = now_ms;
        }
        self.is_busy = true;
        let is_whole = self.shelf.add(part, bytes, range);
        self.tell_waiters(part);
        if is_whole {
            self.arrived(part);
        }
    }

    pub(super) fn failed(&mut self, request: Request, random: &mut dyn RngCore) {
        let now_ms = self.now_ms;
        self.is_busy = true;
        let Some((job, flight)) = self.jobs.land(request) else { return };
        let peer = job.peers.entry(flight.from).or_default();
        peer.failures = peer.failures.saturating_add(1);
        // It may have lost what it said that it had.
        peer.has = None;
        let pause_ms = (PAUSE_MS_MIN << peer.failures.min(8)).min(PAUSE_MS_MAX);
        peer.not_before_ms = now_ms + random.random_range(pause_ms / 2..=pause_ms);
    }

    /// Wrong bytes came: the node is asked for this part no more.
    pub(super) fn wrong(&mut self, request: Request) {
        self.is_busy = true;
        if let Some((job, flight)) = self.jobs.land(request) {
            job.peers.entry(flight.from).or_default().is_liar = true;
        }
    }

    pub(super) fn refused(&mut self, from: NodeId, request: Request, why: Refusal, random: &mut dyn RngCore) {
        let now_ms = self.now_ms;
        self.is_busy = true;
        let is_its = |job: &Job| job.flights.get(&request).is_some_and(|flight| flight.from == from);
        if !self.jobs.of(request).is_some_and(|job| is_its(job)) {
            return;
        }
        let Some((job, _)) = self.jobs.land(request) else { return };
        let mut peer = Peer { ..job.peers.get(&from).cloned().unwrap_or_default() };
        match why {
            Refusal::Busy => peer.not_before_ms = now_ms + random.random_range(100..300),
            Refusal::Lack { have, is_coming } if is_coming || !have.is_empty() => {
                peer.has = Some((have, now_ms));
            }
            Refusal::Lack { .. } => {
                peer.has = None;
                let pause_ms = LACKING_MS * u64::from(1 + job.penalty.min(PATIENCE_MAX));
                peer.not_before_ms = now_ms + random.random_range(pause_ms / 2..pause_ms);
            }
            Refusal::Elsewhere { nodes } => {
                peer.not_before_ms = now_ms + random.random_range(ELSEWHERE_MS / 2..ELSEWHERE_MS);
                job.hinted.extend(nodes.into_iter().take(limits::HINTS_MAX));
                while job.hinted.len() > limits::HINTS_MAX {
                    job.hinted.pop_first();
                }
            }
        }
        job.hinted.remove(&self.me);
        job.peers.insert(from, peer);
    }

    /// A node has more of a part than it could give before.
    pub(super) fn has_more(&mut self, from: NodeId, part: &Part, ranges: Ranges) {
        let now_ms = self.now_ms;
        if let Some(job) = self.jobs.get_mut(part) {
            let peer = job.peers.entry(from).or_default();
            peer.has = Some((ranges, now_ms));
            peer.not_before_ms = 0;
            self.is_busy = true;
        }
    }
}
