//! Logic: what a server says is retained, and who makes fragments of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{Held, NodeId, Signature, SnapshotId, Term, TermOrigin};

use super::Keeper;
use super::catalog::{Catalog, Entry, Version};
use super::claims::mix;
use super::codec::entry_bytes;
use super::event::Action;
use super::line::Line;
use super::steward::Steward;
use crate::limits;

/// Nodes besides the server that hold new packs as a whole and make the fragments, warm candidates among them.
const ENCODERS: usize = 2;

/// What a server's store retains.
pub(super) struct Retained {
    pub(super) line: Line,
    pub(super) tolerance: u8,
    pub(super) warm: Vec<NodeId>,
    pub(super) terms: BTreeMap<Term, Option<TermOrigin>>,
    pub(super) merged: BTreeSet<Held>,
    pub(super) entries: Vec<Entry>,
}

impl Keeper {
    /// This node's store retains this of a service that it is the server of.
    pub(super) fn retained(&mut self, retained: Retained) {
        let Retained { line, tolerance, warm, mut terms, mut merged, mut entries } = retained;
        if line.term.node != self.me {
            return;
        }
        let before = self.lines.get(&line).or_else(|| self.nearest(&line, &entries)).cloned();
        let number = number_entries(before.as_deref(), &mut entries);
        let known = self.lines.of(&line.service).flat_map(|catalog| &catalog.entries).chain(&entries);
        known.for_each(|entry| {
            terms.entry(entry.term).or_insert(entry.origin);
        });
        for (term, origin) in self.lines.of(&line.service).flat_map(|catalog| &catalog.terms) {
            terms.entry(*term).or_insert(*origin);
        }
        while terms.len() > limits::TERMS_MAX {
            terms.pop_first();
        }
        while merged.len() > limits::MERGED_MAX {
            merged.pop_first();
        }
        for pack in entries.iter().flat_map(|entry| &entry.packs) {
            self.shelf.put_synced(pack.whole(), pack.bytes);
        }
        let own = self.stewards.get(&line).map(Steward::spread_to);
        let spread_to = own.max(before.as_ref().map(|before| before.spread_to)).unwrap_or(0);
        let inherits = before.as_ref().and_then(|before| {
            if before.version.term == line.term { before.inherits } else { Some(before.version) }
        });
        let warm: BTreeSet<NodeId> = warm.into_iter().filter(|node| *node != self.me).collect();
        let catalog = Catalog {
            service: line.service.clone(),
            version: Version { term: line.term, number },
            inherits,
            server: self.me,
            tolerance,
            warm: warm.into_iter().take(limits::WARM_MAX).collect(),
            encoders: before.as_ref().map(|before| before.encoders.clone()).unwrap_or_default(),
            spread_to,
            terms,
            merged,
            entries,
            signature: Signature::from_bytes(&[0; 64]),
        };
        let already = before.map_or(0, |before| before.version.number);
        let steward = self.stewards.entry(line).or_default();
        steward.begin(self.now_ms, already, &catalog);
        self.publish(catalog);
    }

    /// The catalog of another line that has most of these snapshots; of equals the one with the greatest term.
    fn nearest(&self, line: &Line, entries: &[Entry]) -> Option<&Arc<Catalog>> {
        let ids: BTreeSet<SnapshotId> = entries.iter().map(|entry| entry.id).collect();
        let common =
            |catalog: &Catalog| catalog.entries.iter().filter(|entry| ids.contains(&entry.id)).count();
        self.lines.of(&line.service).max_by_key(|catalog| (common(catalog), catalog.version.term))
    }

    /// Makes a catalog known, with encoders that are alive.
    pub(super) fn publish(&mut self, mut catalog: Catalog) {
        catalog.encoders = self.pick_encoders(&catalog);
        let bytes: usize = catalog.entries.iter().map(entry_bytes).sum();
        let is_large = catalog.entries.len() > limits::ENTRIES_MAX || bytes > limits::CATALOG_BYTES_MAX / 2;
        if is_large || !catalog.sign(&*self.signer) {
            let Line { service, term } = catalog.line();
            return self.out.push(Action::TooMuch { service, term, what: "snapshots for one catalog" });
        }
        self.adopt(Arc::new(catalog), None);
    }

    fn pick_encoders(&self, catalog: &Catalog) -> BTreeSet<NodeId> {
        if catalog.packs().iter().all(|pack| pack.cut.is_none()) {
            return BTreeSet::new();
        }
        let is_fit = |node: &NodeId| !catalog.is_whole_holder(node) && self.attendance.is_alive(node);
        let warm = catalog.warm.iter().filter(|node| self.attendance.is_alive(node)).count();
        let wanted = ENCODERS.saturating_sub(warm);
        let mut encoders: BTreeSet<NodeId> =
            catalog.encoders.iter().copied().filter(is_fit).take(wanted).collect();
        let seed = mix(catalog.service.as_str().bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte))));
        let mut others: Vec<(u64, NodeId)> = self
            .attendance
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
        let lines = self.stewards.iter().filter(|(_, steward)| steward.is_live());
        let lines: Vec<Line> = lines.map(|(line, _)| line.clone()).collect();
        for line in lines {
            let Some(catalog) = self.lines.get(&line) else { continue };
            if self.pick_encoders(catalog) != catalog.encoders {
                let catalog = Catalog::clone(catalog);
                self.publish_anew(catalog, 0);
            }
        }
    }

    /// Makes a catalog known under another number, greater than this one.
    pub(super) fn publish_anew(&mut self, catalog: Catalog, than: u64) {
        let number = catalog.version.number.max(than) + 1;
        self.publish(Catalog { version: Version { number, ..catalog.version }, ..catalog });
    }
}

/// Numbers entries, and packs, on from a catalog: those that stand in it keep their numbers. The catalog's number.
fn number_entries(before: Option<&Catalog>, entries: &mut [Entry]) -> u64 {
    let known = || before.into_iter().flat_map(|before| &before.entries);
    let added: BTreeMap<SnapshotId, u64> = known().map(|entry| (entry.id, entry.added)).collect();
    let packs = before.into_iter().flat_map(Catalog::packs);
    let mut packs_added: BTreeMap<_, u64> = packs.map(|pack| (pack.id, pack.added)).collect();
    entries.sort_by_key(|entry| (added.get(&entry.id).copied().unwrap_or(u64::MAX), entry.seq));
    let already = before.map_or(0, |before| before.version.number);
    let mut number = already;
    for entry in entries {
        entry.added = added.get(&entry.id).copied().unwrap_or_else(|| {
            number += 1;
            number
        });
        for pack in &mut entry.packs {
            pack.added = *packs_added.entry(pack.id).or_insert(entry.added);
        }
    }
    number.max(already + 1)
}
