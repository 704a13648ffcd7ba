//! Logic: telling the server what is synced here, again and again until it says that it counts it.

use std::collections::btree_map::Entry;

use sustain_proto::NodeId;

use super::Keeper;
use super::catalog::Catalog;
use super::line::Line;
use super::message::{Message, Report};
use super::part::{Pack, Part, Which};
use super::wants::Shed;

/// When a report without an answer is sent again, and one with an answer.
const AGAIN_MS: u64 = 1_000;
const REFRESH_MS: u64 = 10_000;

/// What a line's server was told, and what of that it counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Reporting {
    last: Option<Report>,
    number: u64,
    counted: u64,
    next_ms: u64,
    /// The next report has a new number, whatever it says.
    is_new_due: bool,
    /// Everything up to here is spread, as the server says.
    pub(super) spread_to: u64,
}

impl Keeper {
    /// What this node has synced of a line.
    fn report_of(&self, catalog: &Catalog, number: u64) -> Report {
        let by_role = catalog.is_whole_holder(&self.me);
        let now = self.report_as(catalog, number, by_role);
        // What it held in its last part counts until it holds as much in this one.
        let before = self.report_as(catalog, number, !by_role);
        if before.to > now.to { before } else { now }
    }

    fn report_as(&self, catalog: &Catalog, number: u64, is_whole: bool) -> Report {
        let index = self.claim.index;
        let part_of = |pack: &Pack| match index {
            _ if is_whole => Some(pack.whole()),
            Some(index) => Some(pack.share(index)),
            None => None,
        };
        // Where another line has cut a pack in another way, what is here says nothing of this one.
        let is_same = |pack: &Pack| {
            self.packs
                .get(&pack.id)
                .is_some_and(|known| (known.pack.cut, known.pack.sheet) == (pack.cut, pack.sheet))
        };
        let is_synced =
            |pack: &Pack| is_same(pack) && part_of(pack).is_some_and(|part| self.shelf.is_synced(&part));
        let lacking = catalog.packs().into_iter().find(|pack| !is_synced(pack));
        let lacked = lacking.as_ref().and_then(part_of);
        Report {
            service: catalog.service.clone(),
            term: catalog.version.term,
            node: self.me,
            life: self.claim.life,
            number,
            is_whole,
            index,
            is_capped: self.short_bytes > 0 && lacked.is_some_and(|part| !self.is_wanted(&part)),
            to: lacking.map_or(catalog.version.number, |pack| pack.added.saturating_sub(1)),
        }
    }

    /// Sends the reports that are due.
    pub(super) fn report(&mut self) {
        let catalogs: Vec<_> = self.lines.catalogs().cloned().collect();
        for catalog in catalogs {
            if catalog.server == self.me {
                continue;
            }
            let line = catalog.line();
            let mut reporting = self.reports.remove(&line).unwrap_or_default();
            let report = self.report_of(&catalog, reporting.number);
            if reporting.is_new_due || reporting.last.as_ref() != Some(&report) {
                reporting.number += 1;
                reporting.is_new_due = false;
                reporting.last = Some(Report { number: reporting.number, ..report });
                reporting.next_ms = self.now_ms;
            }
            if reporting.next_ms <= self.now_ms && self.attendance.is_alive(&catalog.server) {
                if let Some(report) = reporting.last.clone() {
                    self.send(catalog.server, Message::Report(report));
                }
                let is_counted = reporting.counted >= reporting.number;
                reporting.next_ms = self.now_ms + if is_counted { REFRESH_MS } else { AGAIN_MS };
            }
            self.reports.insert(line, reporting);
        }
    }

    /// When the next report is due.
    pub(super) fn report_ms(&self) -> u64 {
        let is_told = |line: &Line| line.term.node != self.me && self.attendance.is_alive(&line.term.node);
        let told = self.reports.iter().filter(|(line, _)| is_told(line));
        told.map(|(_, reporting)| reporting.next_ms).min().unwrap_or(u64::MAX)
    }

    /// Up to where a line's packs are spread, as far as this node knows.
    pub(super) fn spread_to(&self, line: &Line) -> u64 {
        let steward = self.stewards.get(line).map(|steward| steward.spread_to());
        let told = steward.or_else(|| self.reports.get(line).map(|reporting| reporting.spread_to));
        told.max(self.lines.get(line).map(|catalog| catalog.spread_to)).unwrap_or(0)
    }

    /// A line's server counts what this node said.
    pub(super) fn counted(&mut self, from: NodeId, line: &Line, life: u64, number: u64, spread_to: u64) {
        let is_its = from == line.term.node && life == self.claim.life;
        let Some(reporting) = self.reports.get_mut(line).filter(|_| is_its) else { return };
        reporting.counted = reporting.counted.max(number.min(reporting.number));
        if spread_to > reporting.spread_to {
            reporting.spread_to = spread_to;
            self.are_wants_stale = true;
        }
        self.drop_shed();
    }

    /// Whether a line's server has counted a report, or a later one, and does not rely on a part.
    fn is_released(&self, part: &Part, line: &Line, report: u64) -> bool {
        let Some(reporting) = self.reports.get(line) else { return false };
        let Some(last) = reporting.last.as_ref().filter(|last| last.number <= reporting.counted) else {
            return false;
        };
        let relied_on = match last.index {
            _ if last.is_whole => Some(Which::Whole),
            Some(index) => self.pack(&part.pack).map(|pack| pack.share(index).which),
            None => None,
        };
        report <= reporting.counted && relied_on != Some(part.which)
    }

    /// Drops what no server counts on any more.
    pub(super) fn drop_shed(&mut self) {
        let is_done = |(part, shed): &(&Part, &Shed)| {
            let lines = self.asked_about(part);
            let is_released = |line: &Line| {
                shed.reports.get(line).is_some_and(|report| self.is_released(part, line, *report))
            };
            lines.iter().all(is_released) && !self.is_wanted(part) && !self.is_used_to_make(part)
        };
        let done: Vec<Part> = self.shed.iter().filter(is_done).map(|(part, _)| *part).collect();
        done.iter().for_each(|part| self.drop_part(part));
    }

    /// A synced part is wanted no more: it goes when the servers count reports that say nothing of it.
    pub(super) fn shed_later(&mut self, part: Part) {
        let mut shed = self.shed.remove(&part).unwrap_or_default();
        for line in self.asked_about(&part) {
            let Entry::Vacant(asked) = shed.reports.entry(line) else { continue };
            let reporting = self.reports.entry(asked.key().clone()).or_default();
            reporting.is_new_due = true;
            asked.insert(reporting.number + 1);
        }
        shed.reports.retain(|line, _| self.lines.get(line).is_some());
        self.shed.insert(part, shed);
    }

    /// A line is new here: its server knows nothing of what was said to others.
    pub(super) fn report_anew(&mut self, line: &Line) {
        self.reports.entry(line.clone()).or_default().is_new_due = true;
    }
}
