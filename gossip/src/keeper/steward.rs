//! Logic: what a line's server does for its data: it counts who has synced what, says what that survives, and lets
//! nodes drop what it counts on no more.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{NodeId, SnapshotId};

use super::Keeper;
use super::catalog::{Catalog, Entry};
use super::durable::level;
use super::event::Action;
use super::line::Line;
use super::message::{Message, Report};
use crate::holdings::Fragment;

/// After this what is durable counts as spread, even if some nodes have not said that they have it.
const SPREAD_MS: u64 = 30_000;
/// How often that is looked at.
const LOOK_MS: u64 = 5_000;

/// A line's server's knowledge of who has what.
#[derive(Debug, Clone, Default)]
pub(super) struct Steward {
    /// Whether this node goes on with the line; else it only was its server once.
    is_live: bool,
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
    /// Of a line whose server this node was: whatever stands in its catalog may have been promised.
    pub(super) fn of(catalog: &Catalog) -> Self {
        let (promised_to, spread_to) = (catalog.version.number, catalog.spread_to);
        Self { promised_to, spread_to, is_stale: true, ..Self::default() }
    }

    /// This node goes on with the line, or begins it; what was added up to `already` may have been promised before.
    pub(super) fn begin(&mut self, now_ms: u64, already: u64, catalog: &Catalog) {
        if !self.is_live {
            self.promised_to = self.promised_to.max(already);
        }
        self.is_live = true;
        self.is_stale = true;
        self.spread_to = self.spread_to.max(catalog.spread_to);
        for entry in &catalog.entries {
            self.published_ms.entry(entry.added).or_insert(now_ms);
        }
        self.look_ms = now_ms + LOOK_MS;
    }

    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    pub(super) fn spread_to(&self) -> u64 {
        self.spread_to
    }

    pub(super) fn len(&self) -> usize {
        self.reports.len()
    }

    /// Nodes that say that their caps on storage keep them from holding more.
    pub(super) fn capped(&self) -> Vec<NodeId> {
        self.reports.values().filter(|report| report.is_capped).map(|report| report.node).collect()
    }

    /// A member is dead: what it has counts no more until it says so again.
    pub(super) fn dead(&mut self, node: &NodeId) {
        self.is_stale |= self.reports.remove(node).is_some();
        self.relied_on.remove(node);
    }

    /// Whether what survives is not less than what was promised if this is relied on no more; where it is less all the
    /// same, whether all have said what they have, and it makes no difference.
    fn may_let_go(&self, catalog: &Catalog, relied_on: &Report, have_all_said: bool) -> bool {
        let tolerance = Some(usize::from(catalog.tolerance));
        let now = Count::of(self.reports.values());
        let others = self.reports.values().filter(|other| other.node != relied_on.node);
        let then = Count::of(others.chain([relied_on]));
        let mut promised = catalog.entries.iter().filter(|entry| entry.added <= self.promised_to);
        promised.all(|entry| {
            let needed = needed_by(catalog, entry);
            let level = now.level(entry.added, &needed);
            level >= tolerance || (have_all_said && level >= then.level(entry.added, &needed))
        })
    }
}

/// How many fragments the packs take that a snapshot needs.
fn needed_by(catalog: &Catalog, entry: &Entry) -> BTreeSet<usize> {
    catalog.needed_by(entry).values().map(super::part::Pack::needed).collect()
}

impl Keeper {
    /// A node says what it has synced. What it said before counts no more; it hears so unless that is relied on.
    pub(super) fn heard_report(&mut self, from: NodeId, mut report: Report) {
        let line = Line { service: report.service.clone(), term: report.term };
        let Some(catalog) = self.lines.get(&line).cloned() else { return };
        let Some(steward) = self.stewards.get_mut(&line) else { return };
        if report.node != from || from == self.me || !self.attendance.is_alive(&from) {
            return;
        }
        report.to = report.to.min(catalog.version.number);
        let (life, number) = (report.life, report.number);
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
        let has_said = |node: NodeId| node == self.me || steward.reports.contains_key(&node);
        let have_all_said = self.attendance.all_alive().all(has_said);
        if !is_better && !steward.may_let_go(&catalog, &relied_on, have_all_said) {
            steward.relied_on.insert(from, relied_on);
            return self.count_reports();
        }
        steward.relied_on.remove(&from);
        // First what is promised falls, then the node may drop what it held.
        self.count_reports();
        let spread_to = self.spread_to(&line);
        let Line { service, term } = line;
        self.send(from, Message::Counted { service, term, life, number, spread_to });
    }

    /// Says how many losses each snapshot survives, where that has changed. Where a snapshot stands in several lines of
    /// this node's, the greatest term counts.
    pub(super) fn count_reports(&mut self) {
        let mut said: BTreeSet<SnapshotId> = BTreeSet::new();
        for (line, steward) in self.stewards.iter_mut().rev() {
            let Some(catalog) = self.lines.get(line) else { continue };
            let others = catalog.entries.iter().map(|entry| entry.id);
            if !steward.is_stale {
                said.extend(others);
                continue;
            }
            steward.is_stale = false;
            let count = Count::of(steward.reports.values());
            let mut levels = BTreeMap::new();
            for entry in &catalog.entries {
                let level = count.level(entry.added, &needed_by(catalog, entry));
                levels.insert(entry.added, level);
                if level >= Some(usize::from(catalog.tolerance)) {
                    steward.promised_to = steward.promised_to.max(entry.added);
                }
                if steward.levels.get(&entry.added) != Some(&level) && !said.contains(&entry.id) {
                    let service = line.service.clone();
                    self.out.push(Action::Level { service, id: entry.id, level });
                }
            }
            steward.levels = levels;
            said.extend(others);
        }
    }

    /// Looks at what is spread by now, if it is time.
    pub(super) fn look_at_spread(&mut self) {
        for (line, steward) in &mut self.stewards {
            let Some(catalog) = self.lines.get(line).filter(|_| self.now_ms >= steward.look_ms) else {
                continue;
            };
            steward.look_ms = self.now_ms + LOOK_MS;
            let alive: Vec<NodeId> = self.attendance.all_alive().filter(|node| *node != self.me).collect();
            let is_spread = |added: u64| {
                let has = |node: &NodeId| steward.reports.get(node).is_some_and(|report| report.to >= added);
                let is_old =
                    steward.published_ms.get(&added).is_none_or(|at_ms| at_ms + SPREAD_MS <= self.now_ms);
                let tolerance = Some(usize::from(catalog.tolerance));
                let is_durable = steward.levels.get(&added).is_some_and(|level| *level >= tolerance);
                is_durable && (is_old || alive.iter().all(has))
            };
            let spread =
                catalog.entries.iter().map(|entry| entry.added).take_while(|added| is_spread(*added));
            let spread_to = spread.last().unwrap_or(0).max(steward.spread_to);
            steward.published_ms.retain(|added, _| catalog.entries.iter().any(|entry| entry.added == *added));
            if spread_to > steward.spread_to {
                steward.spread_to = spread_to;
                let packs = catalog.packs().into_iter();
                let spread: BTreeSet<_> =
                    packs.filter(|pack| pack.added <= spread_to).map(|pack| pack.id).collect();
                self.serving.forget_given(|pack| !spread.contains(pack));
            }
        }
    }

    /// Another catalog of this node's own line is heard of: of a life of which nothing was kept here, if this node goes
    /// on with the line. Then what is retained now outranks it. True if that is so.
    pub(super) fn outranks(&mut self, catalog: &Catalog) -> bool {
        let line = catalog.line();
        if catalog.server != self.me {
            return false;
        }
        let now = self.lines.get(&line).filter(|now| now.version.number < catalog.version.number).cloned();
        let is_live = self.stewards.get(&line).is_some_and(Steward::is_live);
        let Some(now) = now.filter(|_| is_live) else { return false };
        self.publish_anew(Catalog::clone(&now), catalog.version.number);
        true
    }
}
