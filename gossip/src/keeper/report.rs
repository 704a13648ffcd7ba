//! Logic: telling the server what is synced here, again and again until it says that it counts it.

use super::Keeper;
use super::catalog::Catalog;
use super::message::{Message, Report};
use super::part::{Part, Which};
use super::wants::Shed;

/// When a report without an answer is sent again, and one with an answer.
const AGAIN_MS: u64 = 1_000;
const REFRESH_MS: u64 = 10_000;

/// What a service's server was told, and what of that it counts.
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
    /// What this node has synced of a service.
    fn report_of(&self, catalog: &Catalog, number: u64) -> Report {
        let by_role = catalog.is_whole_holder(&self.me);
        let now = self.report_as(catalog, number, by_role);
        // What it held in its last part counts until it holds as much in this one.
        let before = self.report_as(catalog, number, !by_role);
        if before.to > now.to { before } else { now }
    }

    fn report_as(&self, catalog: &Catalog, number: u64, is_whole: bool) -> Report {
        let index = self.claim.index;
        let is_synced = |pack: &super::part::Pack| match index {
            _ if is_whole => self.shelf.is_synced(&pack.whole()),
            Some(index) => self.shelf.is_synced(&pack.share(index)),
            None => false,
        };
        let lacking = catalog.packs().into_iter().find(|pack| !is_synced(pack));
        Report {
            service: catalog.service.clone(),
            term: catalog.version.term,
            node: self.me,
            life: self.claim.life,
            number,
            is_whole,
            index,
            is_capped: self.short_bytes > 0,
            to: lacking.map_or(catalog.version.number, |pack| pack.added.saturating_sub(1)),
        }
    }

    /// Sends the reports that are due.
    pub(super) fn report(&mut self) {
        let catalogs: Vec<_> = self.catalogs.values().cloned().collect();
        for catalog in catalogs {
            if catalog.server == self.me {
                continue;
            }
            let mut reporting = self.reports.get(&catalog.service).cloned().unwrap_or_default();
            let report = self.report_of(&catalog, reporting.number);
            if reporting.is_new_due || reporting.last.as_ref() != Some(&report) {
                reporting.number += 1;
                reporting.is_new_due = false;
                reporting.last = Some(Report { number: reporting.number, ..report });
                reporting.next_ms = self.now_ms;
            }
            if reporting.next_ms <= self.now_ms && self.roster.is_alive(&catalog.server) {
                if let Some(report) = reporting.last.clone() {
                    self.send(catalog.server, Message::Report(report));
                }
                let is_counted = reporting.counted >= reporting.number;
                reporting.next_ms = self.now_ms + if is_counted { REFRESH_MS } else { AGAIN_MS };
            }
            self.reports.insert(catalog.service.clone(), reporting);
        }
    }

    /// When the next report is due.
    pub(super) fn report_ms(&self) -> u64 {
        let is_told = |catalog: &&std::sync::Arc<Catalog>| {
            catalog.server != self.me && self.roster.is_alive(&catalog.server)
        };
        let told = self.catalogs.values().filter(is_told);
        let next = told.filter_map(|catalog| self.reports.get(&catalog.service));
        next.map(|reporting| reporting.next_ms).min().unwrap_or(u64::MAX)
    }

    /// Up to where a service's packs are spread, as far as this node knows.
    pub(super) fn spread_to(&self, service: &sustain_proto::ServiceName) -> u64 {
        let steward = self.stewards.get(service).map(|steward| steward.spread_to());
        let told = steward.or_else(|| self.reports.get(service).map(|reporting| reporting.spread_to));
        told.max(self.catalogs.get(service).map(|catalog| catalog.spread_to)).unwrap_or(0)
    }

    /// The server counts what this node said.
    pub(super) fn counted(
        &mut self,
        service: &sustain_proto::ServiceName,
        life: u64,
        number: u64,
        spread_to: u64,
    ) {
        let Some(reporting) = self.reports.get_mut(service).filter(|_| life == self.claim.life) else {
            return;
        };
        reporting.counted = reporting.counted.max(number.min(reporting.number));
        if spread_to > reporting.spread_to {
            reporting.spread_to = spread_to;
            self.are_wants_stale = true;
        }
        let counted = reporting.counted;
        let Some(last) = reporting.last.clone().filter(|last| last.number <= counted) else { return };
        let is_done = |(part, shed): &(&Part, &Shed)| {
            let relied_on = match last.index {
                _ if last.is_whole => Some(Which::Whole),
                Some(index) => self.pack(&part.pack).map(|pack| pack.share(index).which),
                None => None,
            };
            shed.service == *service && shed.report <= counted && relied_on != Some(part.which)
        };
        let done: Vec<Part> = self.shed.iter().filter(is_done).map(|(part, _)| *part).collect();
        for part in done {
            if self.is_used_to_make(&part) {
                continue;
            }
            self.drop_part(&part);
        }
    }

    /// A synced part is wanted no more: it goes when the server counts a report that says nothing of it.
    pub(super) fn shed_later(&mut self, part: Part) {
        let Some((_, service)) = self.packs.get(&part.pack) else { return };
        let service = service.clone();
        let reporting = self.reports.entry(service.clone()).or_default();
        reporting.is_new_due = true;
        let report = reporting.number + 1;
        self.shed.insert(part, Shed { service, report });
    }

    /// Another term has begun: its server knows nothing of what was said before.
    pub(super) fn report_anew(&mut self, service: &sustain_proto::ServiceName) {
        let reporting = self.reports.entry(service.clone()).or_default();
        reporting.is_new_due = true;
        let report = reporting.number + 1;
        for shed in self.shed.values_mut().filter(|shed| shed.service == *service) {
            shed.report = report;
        }
    }
}
