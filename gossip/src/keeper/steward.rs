//! Logic: what a service's server does for its data: it says what is retained, picks who makes fragments, counts who
//! has synced what, and lets nodes drop what it counts on no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{Held, NodeId, ServiceName, Signature, Term, TermOrigin};

use super::Keeper;
use super::catalog::{Catalog, Entry, Version};
use super::claims::mix;
use super::durable::level;
use super::event::Action;
use super::message::{Message, Report};
use crate::holdings::Fragment;
use crate::limits;

/// Nodes besides the server that hold new packs as a whole and make the fragments, warm candidates among them.
const ENCODERS: usize = 2;
/// After this what is durable counts as spread, even if some nodes have not said that they have it.
const SPREAD_MS: u64 = 30_000;
/// How often that is looked at.
const LOOK_MS: u64 = 5_000;

/// What a server's store retains.
pub(super) struct Retained {
    pub(super) service: ServiceName,
    pub(super) term: Term,
    pub(super) tolerance: u8,
    pub(super) warm: Vec<NodeId>,
    pub(super) terms: BTreeMap<Term, Option<TermOrigin>>,
    pub(super) merged: BTreeSet<Held>,
    pub(super) entries: Vec<Entry>,
}

/// A service's server's knowledge of who has what.
#[derive(Debug, Clone, Default)]
pub(super) struct Steward {
    reports: BTreeMap<NodeId, Report>,
    /// The last report of a node that was let go of what it said, while a newer one was not.
    relied_on: BTreeMap<NodeId, Report>,
    levels: BTreeMap<u64, Option<usize>>,
    published_ms: BTreeMap<u64, u64>,
    /// What was added up to here was said to survive as many losses as it should.
    promised_to: u64,
    spread_to: u64,
    is_stale: bool,
    pub(super) look_ms: u64,
}

/// How many hold everything up to some entry, by what they hold.
struct Count {
    whole: Vec<u64>,
    best: BTreeMap<Fragment, u64>,
    all: Vec<u64>,
}

impl Count {
    fn of<'a>(reports: impl Iterator<Item = &'a Report>) -> Self {
        let mut count = Self { whole: Vec::new(), best: BTreeMap::new(), all: Vec::new() };
        for report in reports {
            count.all.push(report.to);
            if report.is_whole {
                count.whole.push(report.to);
            } else if let Some(index) = report.index {
                let best = count.best.entry(index).or_default();
                *best = report.to.max(*best);
            }
        }
        count
    }

    /// The losses that a snapshot survives whose packs take so many fragments each.
    fn level(&self, added: u64, needed: &BTreeSet<usize>) -> Option<usize> {
        let up_to = |list: &Vec<u64>| list.iter().filter(|to| **to >= added).count();
        let of = |needed: &usize| match needed {
            1 => level(1, up_to(&self.all), 0),
            _ => level(*needed, up_to(&self.whole), self.best.values().filter(|to| **to >= added).count()),
        };
        needed.iter().map(of).min().flatten()
    }
}

impl Steward {
    pub(super) fn spread_to(&self) -> u64 {
        self.spread_to
    }

    pub(super) fn len(&self) -> usize {
        self.reports.len()
    }

    /// A member is dead: what it has counts no more until it says so again.
    pub(super) fn dead(&mut self, node: &NodeId) {
        self.is_stale |= self.reports.remove(node).is_some();
        self.relied_on.remove(node);
    }
}

/// How many fragments the packs take that a snapshot needs.
fn needed_by(catalog: &Catalog, entry: &Entry) -> BTreeSet<usize> {
    catalog.needed_by(entry).values().map(super::part::Pack::needed).collect()
}

impl Keeper {
    /// This node's store retains this of a service that it is the server of.
    pub(super) fn retained(&mut self, retained: Retained) {
        let Retained { service, term, tolerance, warm, terms, merged, entries } = retained;
        let known = self.catalogs.get(&service);
        if known.is_some_and(|known| known.version.term > term) || entries.len() > limits::ENTRIES_MAX {
            return;
        }
        let is_new =
            !self.stewards.contains_key(&service) || known.is_none_or(|known| known.version.term != term);
        let mut number = known.map_or(0, |known| known.version.number);
        let before = number;
        let added: BTreeMap<_, u64> =
            known.into_iter().flat_map(|known| &known.entries).map(|entry| (entry.id, entry.added)).collect();
        let mut packs_added: BTreeMap<_, u64> =
            known.into_iter().flat_map(|known| known.packs()).map(|pack| (pack.id, pack.added)).collect();
        let mut entries = entries;
        entries.sort_by_key(|entry| (added.get(&entry.id).copied().unwrap_or(u64::MAX), entry.seq));
        for entry in &mut entries {
            entry.added = added.get(&entry.id).copied().unwrap_or_else(|| {
                number += 1;
                number
            });
            for pack in &mut entry.packs {
                pack.added = *packs_added.entry(pack.id).or_insert(entry.added);
            }
        }
        let number = number.max(before + 1);
        let promised_to = if is_new { before } else { 0 };
        let inherits = known
            .and_then(|known| if known.version.term == term { known.inherits } else { Some(known.version) });
        let old =
            if is_new { Steward::default() } else { self.stewards.remove(&service).unwrap_or_default() };
        let spread_to = old.spread_to.max(known.map_or(0, |known| known.spread_to));
        let promised_to = promised_to.max(old.promised_to);
        let mut steward = Steward { promised_to, spread_to, is_stale: true, ..old };
        for pack in entries.iter().flat_map(|entry| &entry.packs) {
            self.shelf.put_synced(pack.whole(), pack.bytes);
        }
        let now_ms = self.now_ms;
        entries.iter().for_each(|entry| {
            steward.published_ms.entry(entry.added).or_insert(now_ms);
        });
        let encoders = known.map(|known| known.encoders.clone()).unwrap_or_default();
        let warm = warm.into_iter().filter(|node| *node != self.me).take(limits::WARM_MAX).collect();
        let version = Version { term, number };
        let catalog = Catalog {
            service: service.clone(),
            version,
            inherits,
            server: self.me,
            tolerance,
            warm,
            encoders,
            spread_to,
            terms,
            merged,
            entries,
            signature: Signature::from_bytes(&[0; 64]),
        };
        steward.look_ms = now_ms + LOOK_MS;
        self.stewards.insert(service, steward);
        self.publish(catalog);
    }

    /// Makes a catalog known, with encoders that are alive.
    fn publish(&mut self, mut catalog: Catalog) {
        catalog.encoders = self.pick_encoders(&catalog);
        self.adopt(Arc::new(catalog), None);
    }

    fn pick_encoders(&self, catalog: &Catalog) -> BTreeSet<NodeId> {
        if catalog.packs().iter().all(|pack| pack.cut.is_none()) {
            return BTreeSet::new();
        }
        let is_fit = |node: &NodeId| !catalog.is_whole_holder(node) && self.roster.is_alive(node);
        let warm = catalog.warm.iter().filter(|node| self.roster.is_alive(node)).count();
        let wanted = ENCODERS.saturating_sub(warm);
        let mut encoders: BTreeSet<NodeId> =
            catalog.encoders.iter().copied().filter(is_fit).take(wanted).collect();
        let seed = mix(catalog.service.as_str().bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte))));
        let mut others: Vec<(u64, NodeId)> = self
            .roster
            .all_alive()
            .filter(|node| is_fit(node) && !encoders.contains(node))
            .map(|node| {
                (node.as_bytes()[..8].iter().fold(seed, |sum, byte| mix(sum ^ u64::from(*byte))), node)
            })
            .collect();
        others.sort_unstable();
        let lacking = wanted.saturating_sub(encoders.len());
        encoders.extend(others.into_iter().take(lacking).map(|(_, node)| node));
        encoders
    }

    /// Picks other encoders where some are dead.
    pub(super) fn renew_encoders(&mut self) {
        let services: Vec<ServiceName> = self.stewards.keys().cloned().collect();
        for service in services {
            let Some(catalog) = self.catalogs.get(&service) else { continue };
            if self.pick_encoders(catalog) != catalog.encoders {
                let number = catalog.version.number + 1;
                let catalog =
                    Catalog { version: Version { number, ..catalog.version }, ..Catalog::clone(catalog) };
                self.publish(catalog);
            }
        }
    }

    /// A node says what it has synced. What it said before counts no more; it hears so unless that is relied on.
    pub(super) fn heard_report(&mut self, from: NodeId, report: Report) {
        let tolerance = self.config.tolerance;
        let Some(catalog) = self.catalogs.get(&report.service).cloned() else { return };
        let Some(steward) = self.stewards.get_mut(&report.service) else { return };
        let is_its = report.node == from && from != self.me && report.term == catalog.version.term;
        if !is_its || !self.roster.is_alive(&from) {
            return;
        }
        let (life, number, service) = (report.life, report.number, report.service.clone());
        let known = steward.reports.get(&from).map(|known| (known.life, known.number));
        if known.is_some_and(|known| known > (life, number)) {
            return;
        }
        steward.is_stale |= steward.reports.get(&from) != Some(&report);
        let before = steward.reports.insert(from, report.clone());
        let relied_on = match steward.relied_on.get(&from).cloned().or(before) {
            // Another life may have lost what the one before had: there is nothing to hold it to.
            Some(old) if old.life == life => old,
            _ => report.clone(),
        };
        let is_better = relied_on.is_whole == report.is_whole
            && (relied_on.index == report.index || report.is_whole)
            && relied_on.to <= report.to;
        let is_let = is_better || {
            let promised = catalog.entries.iter().filter(|entry| entry.added <= steward.promised_to);
            let now = Count::of(steward.reports.values());
            let others = steward.reports.values().filter(|other| other.node != from);
            let then = Count::of(others.chain([&relied_on]));
            let all_said =
                self.roster.all_alive().all(|node| node == self.me || steward.reports.contains_key(&node));
            promised.into_iter().all(|entry| {
                let needed = needed_by(&catalog, entry);
                let level = now.level(entry.added, &needed);
                level >= Some(tolerance) || (all_said && level >= then.level(entry.added, &needed))
            })
        };
        if !is_let {
            steward.relied_on.insert(from, relied_on);
            return self.count_reports();
        }
        steward.relied_on.remove(&from);
        // First what is promised falls, then the node may drop what it held.
        self.count_reports();
        let spread_to = self.spread_to(&service);
        self.send(from, Message::Counted { service, term: report.term, life, number, spread_to });
    }

    /// Says how many losses each snapshot survives, where that has changed.
    pub(super) fn count_reports(&mut self) {
        let tolerance = self.config.tolerance;
        for (service, steward) in &mut self.stewards {
            let Some(catalog) = self.catalogs.get(service).filter(|_| steward.is_stale) else { continue };
            steward.is_stale = false;
            let count = Count::of(steward.reports.values());
            let mut levels = BTreeMap::new();
            for entry in &catalog.entries {
                let level = count.level(entry.added, &needed_by(catalog, entry));
                levels.insert(entry.added, level);
                if level >= Some(tolerance) {
                    steward.promised_to = steward.promised_to.max(entry.added);
                }
                if steward.levels.get(&entry.added) != Some(&level) {
                    self.out.push(Action::Level { service: service.clone(), id: entry.id, level });
                }
            }
            steward.levels = levels;
        }
    }

    /// Looks at what is spread by now, if it is time.
    pub(super) fn look_at_spread(&mut self) {
        let tolerance = self.config.tolerance;
        for (service, steward) in &mut self.stewards {
            let Some(catalog) = self.catalogs.get(service).filter(|_| self.now_ms >= steward.look_ms) else {
                continue;
            };
            steward.look_ms = self.now_ms + LOOK_MS;
            let alive: Vec<NodeId> = self.roster.all_alive().filter(|node| *node != self.me).collect();
            let is_spread = |added: u64| {
                let has = |node: &NodeId| steward.reports.get(node).is_some_and(|report| report.to >= added);
                let is_old =
                    steward.published_ms.get(&added).is_none_or(|at_ms| at_ms + SPREAD_MS <= self.now_ms);
                let is_durable = steward.levels.get(&added).is_some_and(|level| *level >= Some(tolerance));
                is_durable && (is_old || alive.iter().all(has))
            };
            let spread =
                catalog.entries.iter().map(|entry| entry.added).take_while(|added| is_spread(*added));
            let spread_to = spread.last().unwrap_or(0).max(steward.spread_to);
            steward.published_ms.retain(|added, _| catalog.entries.iter().any(|entry| entry.added == *added));
            if spread_to > steward.spread_to {
                steward.spread_to = spread_to;
                let new: BTreeSet<_> = catalog
                    .packs()
                    .into_iter()
                    .filter(|pack| pack.added > spread_to)
                    .map(|pack| pack.id)
                    .collect();
                self.serving.forget_given(|pack| new.contains(pack));
            }
        }
    }
}
