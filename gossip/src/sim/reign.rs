//! Logic: the simulated service's server: it publishes snapshots, starts again, or is succeeded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{SnapshotId, Term};

use super::NodeNumber;
use super::check::Occasion;
use super::service::Taken;
use super::trace::Note;
use super::world::{Coming, World};
use crate::keeper::{Entry, Event, Part, Which};

impl World {
    pub(super) fn snapshot(&mut self) {
        let pause_ms = self.service.habits.snapshot_ms;
        self.after(pause_ms, Coming::Snapshot);
        let is_stalled = self.nodes.get(&self.server).is_some_and(|node| node.stalled_until_ms > self.now_ms);
        if !self.is_publishing || !self.is_running(self.server) || is_stalled {
            return;
        }
        let Some(keeper) = self.nodes.get(&self.server).and_then(|node| node.keeper.as_ref()) else { return };
        let code = keeper.code();
        let (levels, tolerance) = (&self.levels, self.scenario.tolerance);
        let level_of = |id: &SnapshotId| levels.get(id).copied().flatten();
        let Some(term) = self.term_of(self.server) else { return };
        let taken = Taken { code, term, origin: None };
        self.service.snapshot(&mut self.random, taken, |entry| level_of(&entry.id) >= Some(tolerance));
        self.publish();
    }

    fn publish(&mut self) {
        let entries = self.service.entries().to_vec();
        for pack in entries.iter().flat_map(|entry| &entry.packs) {
            let part = Part { pack: pack.id, which: Which::Whole };
            if !self.disks.get(self.server).is_some_and(|disk| disk.is_synced(&part)) {
                self.disks.sync(self.server, part, pack.bytes);
            }
        }
        let Some(node) = self.id_of(self.server) else { return };
        let warm = self.warm.iter().filter(|node| **node != self.server).filter_map(|node| self.id_of(*node));
        let event = Event::Retained {
            service: self.service_name.clone(),
            term: Term { counter: self.term, node, nonce: 0 },
            tolerance: u8::try_from(self.scenario.tolerance).unwrap_or(u8::MAX),
            warm: warm.collect(),
            terms: BTreeMap::new(),
            merged: BTreeSet::new(),
            entries,
        };
        self.give(self.server, event);
        let keeper = self.nodes.get(&self.server).and_then(|node| node.keeper.as_ref());
        let catalog = keeper.and_then(|keeper| keeper.catalog(&self.service_name).cloned());
        if let Some(catalog) = catalog {
            self.note(self.server, Note::Published(catalog.version.number));
            self.levels.retain(|id, _| catalog.entries.iter().any(|entry| entry.id == *id));
            self.check(&Occasion::Published);
        }
    }

    fn term_of(&self, server: NodeNumber) -> Option<Term> {
        self.id_of(server).map(|node| Term { counter: self.term, node, nonce: 0 })
    }

    /// The server has started again, or another one takes over.
    pub(super) fn reign(&mut self) {
        self.term += 1;
        if !self.service.entries().is_empty() {
            self.publish();
        }
    }

    /// Some seconds after the server's end: if it is not back, a warm candidate takes over that has everything that was
    /// said to be durable; it waits until it has.
    pub(super) fn lead(&mut self, from_ms: u64) {
        if self.is_running(self.server) {
            return;
        }
        let promised = self.levels.iter().filter(|(_, level)| **level >= Some(self.scenario.tolerance));
        let promised: BTreeSet<SnapshotId> = promised.map(|(id, _)| *id).collect();
        let best = self.warm.iter().filter(|node| self.is_running(**node)).filter_map(|number| {
            let keeper = self.nodes.get(number)?.keeper.as_ref()?;
            let catalog = keeper.catalog(&self.service_name)?.clone();
            let disk = self.disks.get(*number)?;
            let is_here = |entry: &Entry| {
                catalog.needed_by(entry).values().all(|pack| disk.is_synced(&pack.whole()))
                    && entry.base.is_none_or(|base| catalog.entries.iter().any(|other| other.id == base))
            };
            let entries: Vec<_> = catalog.entries.iter().filter(|entry| is_here(entry)).cloned().collect();
            let has_all = promised.iter().all(|id| entries.iter().any(|entry| entry.id == *id));
            let newest = catalog.entries.iter().map(|entry| entry.added).max()?;
            (has_all && !entries.is_empty()).then_some((newest, *number, entries))
        });
        let Some((_, number, entries)) = best.max_by_key(|(newest, number, _)| (*newest, Reverse(*number)))
        else {
            return self.after(1_000, Coming::Lead { from_ms });
        };
        let old = self.server;
        self.server = number;
        self.warm.retain(|node| *node != number);
        if self.nodes.contains_key(&old) {
            self.warm.push(old);
        }
        self.note_fault(number, "takes over as the server");
        self.service.restore(entries);
        self.reign();
    }
}
