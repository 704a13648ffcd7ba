//! Logic: how a node keeps its share of what the cluster stores: one keeper for each node.
//!
//! ```text
//!   store: what is retained ─▶┐                                  ┌─▶ messages to other keepers
//!   membership: alive, dead ─▶│ Keeper::handle(now, event) ─▶ [Action] ─▶ bytes to send, to sync, to make, to drop
//!   messages, bytes, synced ─▶┘                                  └─▶ on the server: what is durable
//! ```
//!
//! Nobody pushes bytes. A server says what is retained, in a [`Catalog`] that goes to everybody; each node works out
//! what it is to hold of that, and asks for it. So spreading, joining and repair are the same.
//!
//! Time, events and a source of randomness come in, actions go out, in the order in which they are to be done. What is
//! synced is here after a restart; everything else is not relied on.

mod attendance;
mod catalog;
mod claims;
pub mod codec;
mod config;
mod durable;
mod event;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
mod jobs;
mod line;
mod lines;
mod look;
mod message;
mod metadata;
mod pages;
mod part;
mod place;
mod publish;
mod ranges;
mod rebuild;
mod report;
mod serve;
mod shelf;
mod sources;
mod steward;
mod stock;
#[cfg(test)]
mod tests;
mod wants;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngCore;
use sustain_proto::{NodeId, PackId};

pub use attendance::{Attendance, Overlays};
pub use catalog::{Catalog, Entry, Signer, Version};
pub(crate) use claims::mix;
pub use claims::{Buckets, Claim, Claims};
pub use config::KeeperConfig;
pub use durable::level;
pub use event::{Action, Event};
pub use line::Line;
pub(crate) use line::covers;
pub use look::Load;
pub use message::{Message, Page, Refusal, Report, Request};
pub use part::{Pack, Part, Which};
pub use ranges::Ranges;
pub use stock::Stock;

use crate::overlay::Overlay;
use jobs::Jobs;
use lines::{Lines, Put};
use metadata::Offer;
use pages::Drafts;
use publish::Retained;
use report::Reporting;
use serve::Serving;
use shelf::Shelf;
use steward::Steward;
use wants::{Listed, Shed, Want};

/// How long changes of the membership are collected before the neighbours are worked out anew.
const RECOUNT_MS: u64 = 2_000;

/// What a node finds on its disk when it starts.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Its last claim.
    pub claim: Option<Claim>,
    /// The catalogs that it knew.
    pub catalogs: Vec<Arc<Catalog>>,
    /// The parts that are synced, with their bytes.
    pub parts: Vec<(Part, u64)>,
}

/// One node's part in keeping what the cluster stores.
#[derive(Debug, Clone)]
pub struct Keeper {
    me: NodeId,
    config: KeeperConfig,
    signer: Arc<dyn Signer>,
    now_ms: u64,
    out: Vec<Action>,

    attendance: Attendance,
    overlays: Overlays,
    overlay: Arc<Overlay>,
    claims: Claims,
    claim: Claim,
    lines: Lines,
    packs: BTreeMap<PackId, Listed>,
    offers: BTreeMap<Line, Offer>,
    drafts: Drafts,
    pending_claims: Vec<(Claim, Option<NodeId>)>,
    /// Grows with whatever may change who is asked for what.
    epoch: u64,

    shelf: Shelf,
    wants: BTreeMap<Part, Want>,
    short_bytes: u64,
    shed: BTreeMap<Part, Shed>,
    jobs: Jobs,
    serving: Serving,
    reports: BTreeMap<Line, Reporting>,
    stewards: BTreeMap<Line, Steward>,
    doubted: BTreeSet<NodeId>,

    are_wants_stale: bool,
    is_place_stale: bool,
    is_count_stale: bool,
    counted_ms: u64,
    is_busy: bool,
    retry_ms: u64,
    flush_ms: u64,
    compare_ms: u64,
    place_ms: u64,
    join_ms: Option<u64>,
    move_ms: Option<u64>,
    hopeless_ms: Option<u64>,
}

impl Keeper {
    /// A node that starts with what it finds on its disk. `life` is greater than at any start before: the time will do.
    #[must_use]
    pub fn new(
        me: NodeId,
        config: KeeperConfig,
        overlays: Overlays,
        life: u64,
        kept: Kept,
        signer: Arc<dyn Signer>,
    ) -> Self {
        let old = kept.claim.filter(|claim| claim.node == me);
        let life = old.map_or(life, |old| life.max(old.life.saturating_add(1)));
        let claim = Claim { node: me, life, number: 0, index: None, moving: None };
        let claim = old.map_or(claim, |old| Claim { index: old.index, moving: old.moving, ..claim });
        let mut shelf = Shelf::default();
        kept.parts.into_iter().for_each(|(part, bytes)| shelf.put_synced(part, bytes));
        let mut keeper = Self {
            me,
            config,
            signer,
            now_ms: 0,
            out: Vec::new(),
            attendance: Attendance::default(),
            overlays,
            overlay: Arc::default(),
            claims: Claims::default(),
            claim,
            lines: Lines::default(),
            packs: BTreeMap::new(),
            offers: BTreeMap::new(),
            drafts: Drafts::default(),
            pending_claims: Vec::new(),
            epoch: 1,
            shelf,
            wants: BTreeMap::new(),
            short_bytes: 0,
            shed: BTreeMap::new(),
            jobs: Jobs::default(),
            serving: Serving::default(),
            reports: BTreeMap::new(),
            stewards: BTreeMap::new(),
            doubted: BTreeSet::new(),
            are_wants_stale: true,
            is_place_stale: true,
            is_count_stale: false,
            counted_ms: 0,
            is_busy: true,
            retry_ms: u64::MAX,
            flush_ms: 0,
            compare_ms: 0,
            place_ms: u64::MAX,
            join_ms: None,
            move_ms: None,
            hopeless_ms: None,
        };
        keeper.know(kept.catalogs);
        keeper
    }

    /// Takes the catalogs that are on the disk. Where the node ended between the keeping of one and the removal of
    /// those that it covers, these go now.
    fn know(&mut self, catalogs: Vec<Arc<Catalog>>) {
        for catalog in catalogs {
            let line = catalog.line();
            let gone = match self.lines.put(&catalog) {
                Put::Taken { gone } => gone,
                Put::Covered { .. } => vec![line.clone()],
                Put::Known | Put::TooMany => Vec::new(),
            };
            for Line { service, term } in gone {
                self.out.push(Action::Forget { service, term });
            }
        }
        let own = self.lines.all().filter(|(_, catalog)| catalog.server == self.me);
        self.stewards = own.map(|(line, catalog)| (line.clone(), Steward::of(catalog))).collect();
    }

    /// Takes one event, and says what is to be done.
    pub fn handle(&mut self, now_ms: u64, event: Event, random: &mut dyn RngCore) -> Vec<Action> {
        self.now_ms = now_ms.max(self.now_ms);
        match event {
            Event::Wake => self.is_busy = true,
            Event::Alive { nodes } => self.alive(&nodes),
            Event::Dead { node } => self.dead(node),
            Event::Removed { node } => {
                self.dead(node);
                self.claims.remove(&node);
                self.attendance.removed(&node);
                self.recount();
            }
            Event::Doubted { nodes } => self.doubt(nodes),
            Event::Retained { service, term, tolerance, warm, terms, merged, entries } => {
                let line = Line { service, term };
                self.retained(Retained { line, tolerance, warm, terms, merged, entries });
            }
            Event::Message { from, message } => self.heard(from, message, random),
            Event::Fetched { request, range, is_last } => self.fetched(request, range, is_last),
            Event::Failed { request } => self.failed(request, random),
            Event::Wrong { request } => self.wrong(request),
            Event::Synced { part } => self.shelf.synced(&part),
            Event::Lost { part } => self.lost(&part),
            Event::Made { part } => self.made(part),
            Event::NotMade { part } => self.not_made(part),
            Event::Served { to, request } => self.served(to, request),
        }
        self.settle(random);
        std::mem::take(&mut self.out)
    }

    /// Does whatever is due.
    fn settle(&mut self, random: &mut dyn RngCore) {
        if self.recount_ms() <= self.now_ms {
            self.recount();
        }
        self.place(random);
        if self.are_wants_stale {
            self.renew_wants();
        }
        self.consider_moved();
        if self.are_wants_stale {
            self.renew_wants();
        }
        self.count_reports();
        self.look_at_spread();
        self.report();
        self.get_again();
        self.flush_claims();
        self.compare(random);
        if self.is_busy || self.pump_ms() <= self.now_ms {
            self.is_busy = false;
            self.pump(random);
        }
    }

    /// When [`Event::Wake`] is due, if nothing else happens before.
    #[must_use]
    pub fn wakes_ms(&self) -> u64 {
        let look_ms = self.stewards.values().map(|steward| steward.look_ms).min().unwrap_or(u64::MAX);
        let all = [
            self.recount_ms(),
            look_ms,
            self.pump_ms(),
            self.report_ms(),
            self.metadata_ms(),
            self.place_due_ms(),
        ];
        all.into_iter().min().unwrap_or(u64::MAX).max(self.now_ms + 1)
    }

    fn heard(&mut self, from: NodeId, message: Message, random: &mut dyn RngCore) {
        match message {
            Message::Digest { catalogs, buckets } => self.heard_digest(from, &catalogs, buckets.as_deref()),
            Message::Get { service, term, known } => self.asked_for(from, &Line { service, term }, &known),
            Message::Catalog(page) => self.heard_page(from, *page),
            Message::Claims { claims, differing } => self.heard_claims(from, &claims, differing),
            Message::Ask { request, part, missing, is_stuck } => {
                self.asked(from, request, part, &missing, is_stuck);
            }
            Message::Grant { request, range } => self.granted(request, from, range),
            Message::Refuse { request, why } => self.refused(from, request, why, random),
            Message::Have { part, ranges } => self.has_more(from, &part, ranges),
            Message::Report(report) => self.heard_report(from, report),
            Message::Counted { service, term, life, number, spread_to } => {
                self.counted(from, &Line { service, term }, life, number, spread_to);
            }
        }
    }

    fn alive(&mut self, nodes: &[(NodeId, String)]) {
        let mut is_news = false;
        for (node, label) in nodes {
            if self.attendance.alive(*node, label) {
                is_news = true;
                self.jobs.is_back(node);
            }
        }
        if is_news {
            self.recount();
            self.epoch += 1;
            self.is_busy = true;
            if self.claim.index.is_some() && self.claim.number == 0 {
                self.reclaim();
            }
        }
    }

    fn dead(&mut self, node: NodeId) {
        if self.attendance.dead(self.now_ms, &node) {
            self.recount();
            self.epoch += 1;
            self.is_busy = true;
            self.serving.forget_node(&node);
            self.stewards.values_mut().for_each(|steward| steward.dead(&node));
            self.renew_encoders();
        }
    }

    fn doubt(&mut self, nodes: BTreeSet<NodeId>) {
        self.doubted = nodes;
        let doubted = &self.doubted;
        self.stewards.values_mut().for_each(|steward| steward.doubt(doubted));
        self.count_reports();
    }

    /// Works out anew who counts, and what follows from that: now, or soon, if it was done just before.
    fn recount(&mut self) {
        self.is_count_stale = true;
        if self.now_ms < self.counted_ms + RECOUNT_MS && self.counted_ms > 0 {
            return;
        }
        self.is_count_stale = false;
        self.counted_ms = self.now_ms;
        if self.attendance.count(self.now_ms, self.config.hold_off_ms) {
            self.overlay = self.overlays.get(self.attendance.counting(), self.config.degree);
            self.claims.count(self.attendance.counting());
            self.is_place_stale = true;
            self.epoch += 1;
        }
    }

    /// When it has to be worked out anew who counts.
    fn recount_ms(&self) -> u64 {
        let ends_ms = self.attendance.next_ms(self.config.hold_off_ms).unwrap_or(u64::MAX);
        let due_ms = if self.is_count_stale { 0 } else { ends_ms };
        due_ms.max(self.counted_ms + RECOUNT_MS)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.out.push(Action::Send { to, message });
    }
}
