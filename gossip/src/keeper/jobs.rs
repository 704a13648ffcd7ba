//! Logic: parts that are being fetched, and from whom.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::NodeId;

use super::message::Request;
use super::part::{Pack, Part};
use super::ranges::Ranges;
use crate::holdings::Fragment;
use crate::limits;

/// A request that has no answer yet.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) from: NodeId,
    /// What was asked for by itself, or was granted; none while the other side chooses.
    pub(super) range: Option<(u64, u64)>,
    pub(super) deadline_ms: u64,
}

/// What is known of a node as a source of a part.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// What it has, if it said so, and when.
    pub(super) has: Option<(Ranges, u64)>,
    pub(super) failures: u32,
    pub(super) not_before_ms: u64,
    /// It sent wrong bytes.
    pub(super) is_liar: bool,
}

/// A node that may have a part, and how long nothing may have come before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) node: NodeId,
    pub(super) after_ms: u64,
    /// Whether it chooses the range.
    pub(super) chooses: bool,
}

/// A part that is being fetched.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) part: Part,
    pub(super) pack: Pack,
    pub(super) added: u64,
    /// How often it was put behind all others since nothing came.
    pub(super) penalty: u32,
    pub(super) flights: BTreeMap<Request, Flight>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Nodes that others named.
    pub(super) hinted: BTreeSet<NodeId>,
    pub(super) sources: Vec<Source>,
    /// The knowledge that the sources were worked out from.
    pub(super) epoch: u64,
    pub(super) sourced_ms: u64,
    pub(super) progress_ms: u64,
    /// Fragments from which it is to be made, since nobody has it.
    pub(super) rebuild: Option<BTreeSet<Fragment>>,
    /// It is not made of fragments before this time.
    pub(super) rebuild_ms: u64,
    /// It is only wanted to make this part of it.
    pub(super) made_into: Option<Part>,
    /// It is being made.
    pub(super) is_making: bool,
}

type Order = (u32, u64, Part);

/// All parts that are being fetched.
#[derive(Debug, Clone, Default)]
pub(super) struct Jobs {
    all: BTreeMap<Part, Job>,
    order: BTreeSet<Order>,
    requests: BTreeMap<Request, Part>,
    loads: BTreeMap<NodeId, usize>,
    next_request: Request,
}

impl Jobs {
    pub(super) fn begin(&mut self, now_ms: u64, pack: Pack, part: Part, made_into: Option<Part>) {
        if let Some(job) = self.all.get_mut(&part) {
            job.made_into = job.made_into.and(made_into);
            return;
        }
        let job = Job {
            part,
            pack,
            added: pack.added,
            penalty: 0,
            flights: BTreeMap::new(),
            peers: BTreeMap::new(),
            hinted: BTreeSet::new(),
            sources: Vec::new(),
            epoch: 0,
            sourced_ms: 0,
            progress_ms: now_ms,
            rebuild: None,
            rebuild_ms: 0,
            made_into,
            is_making: false,
        };
        self.order.insert((0, pack.added, part));
        self.all.insert(part, job);
    }

    /// Ends a job; its requests that are under way.
    pub(super) fn end(&mut self, part: &Part) -> Option<Job> {
        let job = self.all.remove(part)?;
        self.order.remove(&(job.penalty, job.added, job.part));
        for (request, flight) in &job.flights {
            self.requests.remove(request);
            self.unload(flight.from);
        }
        Some(job)
    }

    /// Puts a job behind all others, or back in its place.
    pub(super) fn penalise(&mut self, part: &Part, penalty: u32) {
        if let Some(job) = self.all.get_mut(part) {
            self.order.remove(&(job.penalty, job.added, *part));
            job.penalty = penalty;
            self.order.insert((job.penalty, job.added, *part));
        }
    }

    /// A node is there again: it is asked for whatever it may have.
    pub(super) fn is_back(&mut self, node: &NodeId) {
        for job in self.all.values_mut().filter(|job| job.penalty > 0) {
            job.peers.remove(node);
            job.rebuild_ms = 0;
        }
    }

    pub(super) fn get(&self, part: &Part) -> Option<&Job> {
        self.all.get(part)
    }

    pub(super) fn get_mut(&mut self, part: &Part) -> Option<&mut Job> {
        self.all.get_mut(part)
    }

    /// The job of a request.
    pub(super) fn of(&mut self, request: Request) -> Option<&mut Job> {
        self.all.get_mut(self.requests.get(&request)?)
    }

    /// The parts that are worked at now: the oldest ones.
    pub(super) fn active(&self) -> Vec<Part> {
        self.order.iter().take(limits::JOBS_ACTIVE).map(|(.., part)| *part).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.all.values()
    }

    /// Notes a request; its number.
    pub(super) fn launch(&mut self, part: &Part, flight: Flight) -> Option<Request> {
        let job = self.all.get_mut(part)?;
        self.next_request += 1;
        let request = self.next_request;
        *self.loads.entry(flight.from).or_default() += 1;
        job.flights.insert(request, flight);
        self.requests.insert(request, *part);
        Some(request)
    }

    /// A request has ended, one way or the other.
    pub(super) fn land(&mut self, request: Request) -> Option<(&mut Job, Flight)> {
        let part = self.requests.remove(&request)?;
        let flight = self.all.get_mut(&part)?.flights.remove(&request)?;
        self.unload(flight.from);
        Some((self.all.get_mut(&part)?, flight))
    }

    fn unload(&mut self, from: NodeId) {
        if let Some(load) = self.loads.get_mut(&from) {
            *load = load.saturating_sub(1);
            if *load == 0 {
                self.loads.remove(&from);
            }
        }
    }

    pub(super) fn awaits(&self, request: Request) -> bool {
        self.requests.contains_key(&request)
    }

    /// Requests that are under way to a node.
    pub(super) fn load(&self, node: &NodeId) -> usize {
        self.loads.get(node).copied().unwrap_or(0)
    }

    /// Requests that are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
