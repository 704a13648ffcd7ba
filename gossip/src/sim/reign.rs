//! Logic: the simulated service's servers: they publish snapshots, start again, are succeeded, or go on apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{Held, NodeId, SnapshotId, Term, TermOrigin};

use super::NodeNumber;
use super::check::Occasion;
use super::service::{Service, Taken};
use super::trace::Note;
use super::world::{Coming, World};
use crate::keeper::{Catalog, Entry, Event, Keeper, Line, Part, Which};

/// How long another line is known before it is merged.
const MERGE_MS: u64 = 8_000;

/// What a server does, and says.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) server: NodeNumber,
    counter: u64,
    origin: Option<TermOrigin>,
    pub(super) service: Service,
    /// What the server says of its snapshots.
    pub(super) levels: BTreeMap<SnapshotId, Option<usize>>,
    /// Heads of other lines that were merged into this one.
    pub(super) merged: BTreeSet<Held>,
    /// What it published last, in whichever term.
    pub(super) last: Option<Catalog>,
    /// It was cut off and is so no more.
    pub(super) is_over: bool,
    /// When other lines were first seen.
    seen_ms: BTreeMap<Term, u64>,
}

/// One of two servers at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Whose term is the greatest.
    Main,
    /// The other one, while it is cut off and does not know of the first.
    Rival,
}

impl Reign {
    pub(super) fn new(service: Service) -> Self {
        Self {
            server: 0,
            counter: 1,
            origin: None,
            service,
            levels: BTreeMap::new(),
            merged: BTreeSet::new(),
            last: None,
            is_over: false,
            seen_ms: BTreeMap::new(),
        }
    }

    pub(super) fn term(&self, node: NodeId) -> Term {
        Term { counter: self.counter, node, nonce: 0 }
    }

    /// A new term begins, on from the newest snapshot.
    fn begin(&mut self) {
        self.counter += 1;
        let newest = self.service.entries().iter().max_by_key(|entry| (entry.term, entry.seq));
        self.origin = newest.map(|newest| TermOrigin { parent: newest.term, seq: newest.seq });
    }
}

impl World {
    pub(super) fn reign_of(&self, side: Side) -> Option<&Reign> {
        match side {
            Side::Main => Some(&self.main),
            Side::Rival => self.rival.as_ref(),
        }
    }

    fn reign_mut(&mut self, side: Side) -> Option<&mut Reign> {
        match side {
            Side::Main => Some(&mut self.main),
            Side::Rival => self.rival.as_mut(),
        }
    }

    pub(super) fn keeper_of(&self, number: NodeNumber) -> Option<&Keeper> {
        self.nodes.get(&number).and_then(|node| node.keeper.as_ref())
    }

    /// The catalog that a server has published in its term.
    pub(super) fn published(&self, side: Side) -> Option<&Catalog> {
        let reign = self.reign_of(side)?;
        let term = reign.term(self.id_of(reign.server)?);
        let line = Line { service: self.service_name.clone(), term };
        self.keeper_of(reign.server)?.catalog_of_line(&line).map(|catalog| &**catalog)
    }

    pub(super) fn snapshot(&mut self) {
        let pause_ms = self.main.service.habits.snapshot_ms;
        self.after(pause_ms, Coming::Snapshot);
        for side in [Side::Main, Side::Rival] {
            self.take(side);
        }
    }

    fn take(&mut self, side: Side) {
        let Some(server) = self.reign_of(side).map(|reign| reign.server) else { return };
        let is_over = self.reign_of(side).is_some_and(|reign| reign.is_over);
        let is_stalled = self.nodes.get(&server).is_some_and(|node| node.stalled_until_ms > self.now_ms);
        if is_over || is_stalled || !self.is_running(server) {
            return;
        }
        let is_merging = side == Side::Main && self.merge();
        if !self.is_publishing {
            return if is_merging {
                self.publish(side)
            };
        }
        let (Some(node), Some(keeper)) = (self.id_of(server), self.keeper_of(server)) else { return };
        let (code, tolerance) = (keeper.code(self.scenario.tolerance), self.scenario.tolerance);
        let reign = match side {
            Side::Main => &mut self.main,
            Side::Rival => {
                let Some(rival) = self.rival.as_mut() else { return };
                rival
            }
        };
        let taken = Taken { code, term: reign.term(node), origin: reign.origin };
        let levels = &reign.levels;
        let is_durable = |entry: &Entry| levels.get(&entry.id).copied().flatten() >= Some(tolerance);
        reign.service.snapshot(&mut self.random, taken, is_durable);
        self.publish(side);
    }

    /// Other lines that have been known for a while are merged. True if there is one.
    fn merge(&mut self) -> bool {
        let (server, now_ms) = (self.main.server, self.now_ms);
        let Some(own) = self.id_of(server).map(|node| self.main.term(node)) else { return false };
        let Some(keeper) = self.keeper_of(server) else { return false };
        let others: Vec<(Term, Vec<Held>)> = keeper
            .catalogs(&self.service_name)
            .filter(|catalog| catalog.version.term != own)
            .map(|catalog| {
                let heads = catalog.entries.iter().map(|entry| Held { term: entry.term, seq: entry.seq });
                (catalog.version.term, heads.collect())
            })
            .collect();
        let before = self.main.merged.clone();
        for (term, heads) in others {
            if *self.main.seen_ms.entry(term).or_insert(now_ms) + MERGE_MS <= now_ms {
                self.main.merged.extend(heads);
            }
        }
        // Of each term the last one says it all.
        let tops: BTreeMap<Term, u64> = self.main.merged.iter().map(|held| (held.term, held.seq)).collect();
        self.main.merged = tops.into_iter().map(|(term, seq)| Held { term, seq }).collect();
        self.main.merged != before
    }

    fn publish(&mut self, side: Side) {
        let Some(reign) = self.reign_of(side) else { return };
        let (server, entries, merged) =
            (reign.server, reign.service.entries().to_vec(), reign.merged.clone());
        let Some(node) = self.id_of(server) else { return };
        let (term, origin) = (reign.term(node), reign.origin);
        for pack in entries.iter().flat_map(|entry| &entry.packs) {
            let part = Part { pack: pack.id, which: Which::Whole };
            if !self.disks.get(server).is_some_and(|disk| disk.is_synced(&part)) {
                self.disks.sync(server, part, pack.bytes);
            }
        }
        let warm = self.warm.iter().filter(|node| **node != server).filter_map(|node| self.id_of(*node));
        let event = Event::Retained {
            service: self.service_name.clone(),
            term,
            tolerance: u8::try_from(self.scenario.tolerance).unwrap_or(u8::MAX),
            warm: warm.collect(),
            terms: BTreeMap::from([(term, origin)]),
            merged,
            entries,
        };
        self.give(server, event);
        let Some(catalog) = self.published(side).cloned() else { return };
        let (number, ids) = (catalog.version.number, catalog.entries.iter().map(|entry| entry.id));
        let ids: BTreeSet<SnapshotId> = ids.collect();
        if let Some(reign) = self.reign_mut(side) {
            reign.levels.retain(|id, _| ids.contains(id));
            reign.last = Some(catalog);
        }
        self.note(server, Note::Published(number));
        if side == Side::Main {
            self.check(&Occasion::Published);
        }
    }

    /// A server says what one of its snapshots survives.
    pub(super) fn says(&mut self, server: NodeNumber, id: SnapshotId, level: Option<usize>) {
        for side in [Side::Main, Side::Rival] {
            let is_its = |entry: &Entry| entry.id == id;
            let is_there = self.published(side).is_some_and(|catalog| catalog.entries.iter().any(is_its));
            if let Some(reign) = self.reign_mut(side).filter(|reign| reign.server == server && is_there) {
                reign.levels.insert(id, level);
                self.check(&Occasion::Level(side, id));
            }
        }
    }

    /// The server has started again, or another one takes over.
    pub(super) fn reign(&mut self) {
        self.main.begin();
        self.main.seen_ms.clear();
        if !self.main.service.entries().is_empty() {
            self.publish(Side::Main);
        }
    }

    /// A warm candidate that has everything that was said to be durable, and what it has.
    fn successor(&self, is_fit: impl Fn(NodeNumber) -> bool) -> Option<(NodeNumber, Vec<Entry>)> {
        let promised = self.main.levels.iter().filter(|(_, level)| **level >= Some(self.scenario.tolerance));
        let promised: BTreeSet<SnapshotId> = promised.map(|(id, _)| *id).collect();
        let fit = self.warm.iter().filter(|node| self.is_running(**node) && is_fit(**node));
        let best = fit.filter_map(|number| {
            let catalog = self.keeper_of(*number)?.catalog(&self.service_name)?;
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
        let best = best.max_by_key(|(newest, number, _)| (*newest, Reverse(*number)));
        best.map(|(_, number, entries)| (number, entries))
    }

    /// Some seconds after the server's end: if it is not back, a warm candidate takes over; it waits until it has all.
    pub(super) fn lead(&mut self, from_ms: u64) {
        if self.is_running(self.main.server) {
            return;
        }
        let Some((number, entries)) = self.successor(|_| true) else {
            return self.after(1_000, Coming::Lead { from_ms });
        };
        let old = self.main.server;
        self.main.server = number;
        self.warm.retain(|node| *node != number);
        if self.nodes.contains_key(&old) {
            self.warm.push(old);
        }
        self.note_fault(number, "takes over as the server");
        self.main.service.restore(entries);
        self.reign();
    }

    /// Nodes to be cut off with the server, so that one that can take over is not; none if there is no such node.
    pub(super) fn island_of_server(&self) -> Option<NodeNumber> {
        let is_free = self.net.island.is_empty() && self.is_running(self.main.server);
        self.successor(|_| true).filter(|_| is_free).map(|(number, _)| number)
    }

    /// Those that went on apart hear each other again.
    pub(super) fn reunite(&mut self) {
        if let Some(rival) = &mut self.rival {
            rival.is_over = true;
        }
    }

    /// Some seconds after the server was cut off: if it still is, a warm candidate takes over, and both go on.
    pub(super) fn usurp(&mut self) {
        let server = self.main.server;
        let is_apart = self.net.island.contains(&server);
        let other_side = |number: NodeNumber| !self.net.island.contains(&number);
        let successor = if is_apart { self.successor(other_side) } else { None };
        let Some((number, entries)) = successor.filter(|_| self.is_running(server)) else { return };
        self.rival = Some(self.main.clone());
        self.note_fault(number, "takes over from a server that is cut off");
        self.main.server = number;
        self.main.levels.clear();
        self.warm.retain(|node| *node != number);
        self.warm.push(server);
        self.main.service.restore(entries);
        self.reign();
    }
}
