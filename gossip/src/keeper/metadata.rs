//! Logic: catalogs and claims go to everybody. What is new is passed on to the neighbours at once; and every node
//! compares what it knows with another one's from time to time, so that what got lost on the way comes all the same.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rand::seq::IteratorRandom;
use rand::{Rng, RngCore};
use sustain_proto::{NodeId, ServiceName};

use super::Keeper;
use super::catalog::{Catalog, Version};
use super::claims::{Buckets, Claim};
use super::event::Action;
use super::line::Line;
use super::lines::Put;
use super::message::{Message, Page};
use super::pages::{Came, page_of};
use super::steward::Steward;
use crate::limits;

/// How long claims wait for others to be passed on together.
const BATCH_MS: u64 = 50;
/// When another node is asked for a catalog that did not come.
const GET_MS: u64 = 400;
/// Of so many comparisons one is with a node that is no neighbour.
const FAR_ONE_IN: u32 = 4;

/// A catalog that others have, and that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    number: u64,
    /// Who has it; the first one was asked last.
    by: VecDeque<NodeId>,
    asked_ms: u64,
    /// All of it is asked for: what is known here does not fit.
    is_whole: bool,
}

impl Keeper {
    pub(super) fn heard_digest(
        &mut self,
        from: NodeId,
        catalogs: &[(ServiceName, Version)],
        buckets: Option<&Buckets>,
    ) {
        let mut ours = Vec::new();
        let mut told = BTreeSet::new();
        for (service, version) in catalogs.iter().take(limits::LINES_TOLD_MAX) {
            let line = Line { service: service.clone(), term: version.term };
            match self.lines.get(&line).map(|catalog| catalog.version) {
                Some(known) if known.number > version.number => ours.push((service.clone(), known)),
                Some(known) if known.number == version.number => {}
                _ if self.lines.is_covered(&line, version.number) => {
                    let versions = self.lines.versions(service);
                    ours.extend(versions.into_iter().map(|version| (service.clone(), version)));
                }
                _ => self.offered(from, &line, version.number),
            }
            told.insert(line);
        }
        if let Some(buckets) = buckets {
            let missing = self.lines.all().filter(|(line, _)| !told.contains(line));
            ours.extend(missing.map(|(line, catalog)| (line.service.clone(), catalog.version)));
            let differing = self.claims.difference(buckets);
            if differing != 0 {
                let claims = self.claims.differing(buckets);
                self.send(from, Message::Claims { claims, differing });
            }
        }
        self.tell_of(from, ours);
    }

    /// Names catalogs to a node.
    fn tell_of(&mut self, to: NodeId, mut catalogs: Vec<(ServiceName, Version)>) {
        catalogs.sort_unstable();
        catalogs.dedup();
        catalogs.truncate(limits::LINES_TOLD_MAX);
        if !catalogs.is_empty() {
            self.send(to, Message::Digest { catalogs, buckets: None });
        }
    }

    fn offered(&mut self, from: NodeId, line: &Line, number: u64) {
        let now_ms = self.now_ms;
        if self.offers.len() >= limits::LINES_TOLD_MAX && !self.offers.contains_key(line) {
            return;
        }
        let fresh = Offer { number, by: VecDeque::new(), asked_ms: now_ms, is_whole: false };
        let offer = self.offers.entry(line.clone()).or_insert(fresh);
        let is_first = offer.by.is_empty() || offer.number < number;
        if offer.number < number {
            offer.number = number;
            offer.by.clear();
        }
        if offer.number == number && offer.by.len() < limits::OFFERS_MAX && !offer.by.contains(&from) {
            offer.by.push_back(from);
        }
        if is_first {
            self.get(from, line);
        }
    }

    /// Asks a node for a line's newest catalog, or for what is missing of it.
    fn get(&mut self, from: NodeId, line: &Line) {
        let now_ms = self.now_ms;
        let Some(offer) = self.offers.get_mut(line) else { return };
        offer.asked_ms = now_ms;
        let known = match self.drafts.progress(line, &from) {
            Some(progress) => vec![progress],
            None if offer.is_whole => Vec::new(),
            None => self.lines.versions(&line.service),
        };
        let Line { service, term } = line.clone();
        self.send(from, Message::Get { service, term, known });
    }

    /// Asks others for what did not come.
    pub(super) fn get_again(&mut self) {
        let mut asks = Vec::new();
        for (line, offer) in &mut self.offers {
            if self.now_ms >= offer.asked_ms + GET_MS {
                offer.asked_ms = self.now_ms;
                offer.by.rotate_left(1);
                if let Some(next) = offer.by.front().filter(|_| offer.by.len() > 1) {
                    asks.push((*next, line.clone()));
                } else {
                    offer.by.clear();
                }
            }
        }
        self.offers.retain(|_, offer| !offer.by.is_empty());
        for (node, line) in asks {
            self.get(node, &line);
        }
    }

    pub(super) fn asked_for(&mut self, from: NodeId, line: &Line, known: &[Version]) {
        if let Some(catalog) = self.lines.get(line) {
            let page = page_of(catalog, known);
            self.send(from, Message::Catalog(Box::new(page)));
        }
    }

    /// Some of a catalog has come, or all of it.
    pub(super) fn heard_page(&mut self, from: NodeId, page: Page) {
        let line = page.catalog.line();
        let is_news =
            self.lines.get(&line).is_none_or(|known| known.version.number < page.catalog.version.number);
        let Some(offer) = self.offers.get_mut(&line).filter(|offer| is_news && offer.by.contains(&from))
        else {
            return;
        };
        let is_last_try = offer.is_whole;
        match self.drafts.take(self.now_ms, from, page, &self.lines) {
            Came::Whole(catalog, _) if catalog.is_signed(&*self.signer) => {
                self.adopt(Arc::new(*catalog), Some(from));
            }
            Came::Whole(_, true) | Came::Unfit if !is_last_try => {
                offer.is_whole = true;
                self.drafts.forget(&line);
                self.get(from, &line);
            }
            Came::Whole(..) | Came::Unfit => {
                self.misbehaved(from, &line, "a catalog that its server has not signed")
            }
            Came::Wrong(what) => self.misbehaved(from, &line, what),
            Came::More => self.get(from, &line),
            Came::Old => {}
        }
    }

    /// A node has sent what can't be true of a line: it is asked for it no more.
    fn misbehaved(&mut self, node: NodeId, line: &Line, what: &'static str) {
        self.drafts.forget(line);
        if let Some(offer) = self.offers.get_mut(line) {
            offer.by.retain(|other| *other != node);
        }
        self.out.push(Action::Misbehaved { node, what });
    }

    /// Takes a catalog if it is newer than the one that is known of its line, and passes the news on.
    pub(super) fn adopt(&mut self, catalog: Arc<Catalog>, from: Option<NodeId>) {
        if from.is_some() && self.outranks(&catalog) {
            return;
        }
        let (line, version) = (catalog.line(), catalog.version);
        let is_new_line = self.lines.get(&line).is_none();
        let put = self.lines.put(&catalog);
        self.drafts.forget(&line);
        if self.offers.get(&line).is_some_and(|offer| offer.number <= version.number) {
            self.offers.remove(&line);
        }
        let gone = match put {
            Put::Known => return,
            Put::TooMany => {
                let Line { service, term } = line;
                return self.out.push(Action::TooMuch { service, term, what: "lines that were not merged" });
            }
            Put::Covered { goes } => {
                if let Some(from) = from {
                    let versions = self.lines.versions(&line.service).into_iter();
                    let ours = versions.map(|version| (line.service.clone(), version)).collect();
                    self.tell_of(from, ours);
                }
                return if goes {
                    self.line_gone(&line)
                };
            }
            Put::Taken { gone } => gone,
        };
        self.out.push(Action::Remember { catalog: Arc::clone(&catalog) });
        gone.iter().for_each(|line| self.line_gone(line));
        if is_new_line {
            self.report_anew(&line);
        }
        self.epoch += 1;
        self.are_wants_stale = true;
        // Packs may be cut otherwise now.
        self.is_place_stale = true;
        if catalog.server == self.me {
            self.stewards.entry(line.clone()).or_insert_with(|| Steward::of(&catalog));
        }
        for node in self.overlay.near(&self.me).clone() {
            if Some(node) != from && self.attendance.is_alive(&node) {
                self.tell_of(node, vec![(line.service.clone(), version)]);
            }
        }
    }

    /// A line is needed no more.
    fn line_gone(&mut self, line: &Line) {
        self.stewards.remove(line);
        self.reports.remove(line);
        self.offers.remove(line);
        self.drafts.forget(line);
        self.epoch += 1;
        self.are_wants_stale = true;
        self.is_place_stale = true;
        let Line { service, term } = line.clone();
        self.out.push(Action::Forget { service, term });
    }

    pub(super) fn heard_claims(&mut self, from: NodeId, claims: &[Claim], differing: u64) {
        if differing != 0 {
            let newer = self.claims.newer(claims, differing);
            if !newer.is_empty() {
                self.send(from, Message::Claims { claims: newer, differing: 0 });
            }
        }
        for claim in claims.iter().take(limits::CLAIMS_MAX) {
            if claim.node == self.me {
                // Of a life that this node knows nothing of any more: the one of now outranks it.
                if (claim.life, claim.number) > (self.claim.life, self.claim.number) {
                    self.claim.life = claim.life.saturating_add(1);
                    self.reclaim();
                }
            } else if self.claims.put(*claim) {
                self.epoch += 1;
                self.is_place_stale = true;
                self.pass_on(*claim, Some(from));
            }
        }
    }

    /// Says what this node holds now: kept over a restart, and told to everybody.
    pub(super) fn reclaim(&mut self) {
        self.claim.number = self.claim.number.saturating_add(1);
        self.claims.put(self.claim);
        self.epoch += 1;
        self.out.push(Action::Keep { claim: self.claim });
        self.pass_on(self.claim, None);
    }

    fn pass_on(&mut self, claim: Claim, from: Option<NodeId>) {
        if self.pending_claims.len() < limits::CLAIMS_PASSED_MAX {
            if self.pending_claims.is_empty() {
                self.flush_ms = self.now_ms + BATCH_MS;
            }
            self.pending_claims.push((claim, from));
        }
    }

    /// Passes the claims on that have come meanwhile.
    pub(super) fn flush_claims(&mut self) {
        if self.pending_claims.is_empty() || self.now_ms < self.flush_ms {
            return;
        }
        let pending = std::mem::take(&mut self.pending_claims);
        for node in self.overlay.near(&self.me).clone() {
            let news = pending.iter().filter(|(_, from)| *from != Some(node));
            let claims: Vec<Claim> = news.map(|(claim, _)| *claim).collect();
            if !claims.is_empty() && self.attendance.is_alive(&node) {
                self.send(node, Message::Claims { claims, differing: 0 });
            }
        }
    }

    /// Compares what is known with another node, if it is time.
    pub(super) fn compare(&mut self, random: &mut dyn RngCore) {
        if self.now_ms < self.compare_ms {
            return;
        }
        let pause_ms = self.config.compare_ms.max(2);
        self.compare_ms = self.now_ms + random.random_range(pause_ms / 2..pause_ms + pause_ms / 2);
        let far = random.random_ratio(1, FAR_ONE_IN);
        let partner = if far {
            self.attendance.all_alive().filter(|node| *node != self.me).choose(random)
        } else {
            let near = self.overlay.near(&self.me).iter().filter(|node| self.attendance.is_alive(node));
            near.copied().choose(random)
        };
        let mut catalogs: Vec<(ServiceName, Version)> =
            self.lines.all().map(|(line, catalog)| (line.service.clone(), catalog.version)).collect();
        if catalogs.len() > limits::LINES_TOLD_MAX {
            // Others each time.
            let first = random.random_range(0..catalogs.len());
            catalogs.rotate_left(first);
            catalogs.truncate(limits::LINES_TOLD_MAX);
        }
        if let Some(node) = partner {
            self.send(node, Message::Digest { catalogs, buckets: Some(Box::new(self.claims.buckets())) });
        }
    }

    /// When claims are to be passed on, a catalog is to be asked for again, or knowledge is to be compared.
    pub(super) fn metadata_ms(&self) -> u64 {
        let flush_ms = if self.pending_claims.is_empty() { u64::MAX } else { self.flush_ms };
        let offers = self.offers.values().map(|offer| offer.asked_ms + GET_MS).min().unwrap_or(u64::MAX);
        flush_ms.min(offers).min(self.compare_ms)
    }
}
