//! Logic: catalogs and claims go to everybody. What is new is passed on to the neighbours at once; and every node
//! compares what it knows with another one's from time to time, so that what got lost on the way comes all the same.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::seq::IteratorRandom;
use rand::{Rng, RngCore};
use sustain_proto::{NodeId, ServiceName, Term};

use super::Keeper;
use super::catalog::{Catalog, Version};
use super::claims::{Buckets, Claim};
use super::event::Action;
use super::message::{Message, Page};
use super::ranges::Ranges;
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
    version: Version,
    by: VecDeque<NodeId>,
    asked_ms: u64,
}

impl Keeper {
    pub(super) fn heard_digest(
        &mut self,
        from: NodeId,
        catalogs: &[(ServiceName, Version)],
        buckets: Option<&Buckets>,
    ) {
        let mut ours = Vec::new();
        for (service, version) in catalogs.iter().take(limits::SERVICES_KEPT_MAX) {
            match self.catalogs.get(service).map(|catalog| catalog.version) {
                Some(known) if known > *version => ours.push((service.clone(), known)),
                Some(known) if known == *version => {}
                _ => self.offered(from, service, *version),
            }
        }
        if let Some(buckets) = buckets {
            let is_missing = |service: &ServiceName| !catalogs.iter().any(|(named, _)| named == service);
            let missing = self.catalogs.iter().filter(|(service, _)| is_missing(service));
            ours.extend(missing.map(|(service, catalog)| (service.clone(), catalog.version)));
            let differing = self.claims.difference(buckets);
            if differing != 0 {
                let claims = self.claims.differing(buckets);
                self.send(from, Message::Claims { claims, differing });
            }
        }
        if !ours.is_empty() {
            self.send(from, Message::Digest { catalogs: ours, buckets: None });
        }
    }

    fn offered(&mut self, from: NodeId, service: &ServiceName, version: Version) {
        let now_ms = self.now_ms;
        if self.offers.len() >= limits::SERVICES_KEPT_MAX && !self.offers.contains_key(service) {
            return;
        }
        let fresh = Offer { version, by: VecDeque::new(), asked_ms: now_ms };
        let offer = self.offers.entry(service.clone()).or_insert(fresh);
        let is_first = offer.by.is_empty() || offer.version < version;
        if offer.version < version {
            offer.version = version;
            offer.by.clear();
        }
        if offer.version == version && offer.by.len() < limits::OFFERS_MAX && !offer.by.contains(&from) {
            offer.by.push_back(from);
        }
        if is_first {
            offer.asked_ms = now_ms;
            self.get(from, service.clone(), version.term);
        }
    }

    /// Asks others for what did not come.
    pub(super) fn get_again(&mut self) {
        let mut asks = Vec::new();
        for (service, offer) in &mut self.offers {
            if self.now_ms >= offer.asked_ms + GET_MS {
                offer.asked_ms = self.now_ms;
                offer.by.rotate_left(1);
                if let Some(next) = offer.by.front().filter(|_| offer.by.len() > 1) {
                    asks.push((*next, service.clone(), offer.version.term));
                } else {
                    offer.by.clear();
                }
            }
        }
        self.offers.retain(|_, offer| !offer.by.is_empty());
        for (node, service, term) in asks {
            self.get(node, service, term);
        }
    }

    fn get(&mut self, from: NodeId, service: ServiceName, term: Term) {
        self.send(from, Message::Get { service, term, known: Vec::new() });
    }

    pub(super) fn asked_for(&mut self, from: NodeId, service: &ServiceName) {
        if let Some(catalog) = self.catalogs.get(service).cloned() {
            let entries = u32::try_from(catalog.entries.len()).unwrap_or(u32::MAX);
            let catalog = Catalog::clone(&catalog);
            let page = Page { catalog, entries, since: None, kept: Ranges::default() };
            self.send(from, Message::Catalog(Box::new(page)));
        }
    }

    /// Takes a catalog if it is newer than the one that is known, and passes the news on.
    pub(super) fn adopt(&mut self, catalog: Arc<Catalog>, from: Option<NodeId>) {
        let service = catalog.service.clone();
        let known = self.catalogs.get(&service);
        let is_news = known.is_none_or(|known| known.version < catalog.version);
        let fits = catalog.entries.len() <= limits::ENTRIES_MAX
            && (known.is_some() || self.catalogs.len() < limits::SERVICES_KEPT_MAX);
        if !is_news || !fits {
            return;
        }
        let is_new_term = known.is_none_or(|known| known.version.term != catalog.version.term);
        let version = catalog.version;
        if self.offers.get(&service).is_some_and(|offer| offer.version <= version) {
            self.offers.remove(&service);
        }
        if catalog.server != self.me {
            self.stewards.remove(&service);
        }
        self.out.push(Action::Remember { catalog: Arc::clone(&catalog) });
        self.catalogs.insert(service.clone(), catalog);
        if is_new_term {
            self.report_anew(&service);
        }
        self.epoch += 1;
        self.are_wants_stale = true;
        // Packs may be cut otherwise now.
        self.is_place_stale = true;
        for node in self.overlay.near(&self.me).clone() {
            if Some(node) != from && self.roster.is_alive(&node) {
                self.send(
                    node,
                    Message::Digest { catalogs: vec![(service.clone(), version)], buckets: None },
                );
            }
        }
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
                    self.claim.life = claim.life + 1;
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
        self.claim.number += 1;
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
            if !claims.is_empty() && self.roster.is_alive(&node) {
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
            self.roster.all_alive().filter(|node| *node != self.me).choose(random)
        } else {
            let near = self.overlay.near(&self.me).iter().filter(|node| self.roster.is_alive(node));
            near.copied().choose(random)
        };
        let catalogs =
            self.catalogs.iter().map(|(service, catalog)| (service.clone(), catalog.version)).collect();
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
