//! Logic: what a simulated node's actions lead to.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use sustain_proto::{NodeId, PackId};

use super::NodeNumber;
use super::check::Occasion;
use super::trace::Note;
use super::world::{Coming, Mutant, World};
use crate::keeper::{Action, Catalog, Event, Line, Message, Part, Request, codec};

/// How long a sync takes, at most, besides a millisecond for each 200 KB.
const SYNC_MS: u64 = 20;

impl World {
    pub(super) fn act(&mut self, node: NodeNumber, life: u64, action: Action) {
        match action {
            Action::Send { to, message } => self.send(node, to, message),
            Action::Serve { to, request, part, range } => self.serve(node, life, to, request, part, range),
            Action::Sync { part } => {
                let bytes = self.bytes_of(node, &part);
                let takes_ms = self.random.random_range(1..=SYNC_MS) + bytes / 200_000;
                if self.mutant == Some(Mutant::AcknowledgesBeforeSync) {
                    self.after(0, Coming::Event(node, life, Event::Synced { part }));
                }
                self.after(takes_ms, Coming::Synced { node, life, part });
            }
            Action::Make { part, from } => {
                let takes_ms = self.random.random_range(1..=50);
                self.after(takes_ms, Coming::Made { node, life, part, from });
            }
            Action::Drop { .. } if self.mutant == Some(Mutant::NeverDrops) => {}
            Action::Drop { part } => {
                self.note(node, Note::Dropped(part));
                if self.disks.drop_part(node, &part) {
                    self.check(&Occasion::Dropped(part));
                }
            }
            Action::Keep { claim } => {
                self.note(node, Note::Claimed(claim.index, claim.moving));
                self.disks.of(node).claim = Some(claim);
                self.check(&Occasion::Claimed(node));
            }
            Action::Remember { catalog } => self.remember(node, catalog),
            Action::Forget { service, term } => {
                self.note(node, Note::Other("forgets a line"));
                self.disks.of(node).catalogs.remove(&Line { service, term });
                self.check(&Occasion::Forgotten(node));
            }
            Action::Level { id, level, .. } => {
                self.note(node, Note::Level(id, level));
                self.says(node, id, level);
            }
            Action::Misbehaved { node: by, what } => {
                let by = self.numbers.get(&by).copied().unwrap_or(0);
                self.note(node, Note::Fault(what));
                self.check(&Occasion::Accused(by, what));
            }
            Action::TooMuch { what, .. } => self.note(node, Note::Fault(what)),
        }
    }

    fn remember(&mut self, node: NodeNumber, catalog: Arc<Catalog>) {
        if self.mutant == Some(Mutant::DropsLosers) {
            let new: BTreeSet<PackId> = catalog.packs().into_iter().map(|pack| pack.id).collect();
            let term = catalog.version.term;
            let others = self.disks.of(node).catalogs.values();
            let lesser = others.filter(|other| other.version.term < term).flat_map(|other| other.packs());
            let lost: BTreeSet<PackId> =
                lesser.map(|pack| pack.id).filter(|pack| !new.contains(pack)).collect();
            let parts = self.disks.of(node).synced().map(|(part, _)| part);
            let parts: Vec<Part> = parts.filter(|part| lost.contains(&part.pack)).collect();
            for part in parts {
                self.disks.drop_part(node, &part);
                self.check(&Occasion::Dropped(part));
            }
        }
        self.disks.of(node).catalogs.insert(catalog.line(), catalog);
    }

    fn bytes_of(&self, node: NodeNumber, part: &Part) -> u64 {
        let keeper = self.nodes.get(&node).and_then(|node| node.keeper.as_ref());
        let pack = keeper.and_then(|keeper| keeper.pack(&part.pack));
        pack.map_or(0, |pack| pack.part_bytes(part.which))
    }

    /// Notes what a message with a catalog takes, and what the whole catalog does.
    fn measure(&mut self, from: NodeNumber, message: &Message, catalog: &Catalog) {
        let whole = self.whole_bytes.get(&catalog.version).copied().or_else(|| {
            let catalog = self.keeper_of(from)?.catalog_of_line(&catalog.line())?;
            let bytes = codec::encode_catalog(catalog).map_or(0, |bytes| bytes.len() as u64);
            self.whole_bytes.insert(catalog.version, bytes);
            Some(bytes)
        });
        self.catalog_bytes.0 += codec::encode(message).map_or(0, |bytes| bytes.len() as u64);
        self.catalog_bytes.1 += whole.unwrap_or(0);
    }

    fn send(&mut self, from: NodeNumber, to: NodeId, message: Message) {
        let (to_id, to) = (to, self.numbers.get(&to).copied());
        let Some(to) = to else { return };
        if let (Some(Mutant::DropsUnasked), Message::Report(report)) = (self.mutant, &message) {
            let Some(life) = self.nodes.get(&from).map(|node| node.life) else { return };
            let (service, number) = (report.service.clone(), report.number);
            let message =
                Message::Counted { service, term: report.term, life: report.life, number, spread_to: 0 };
            self.after(0, Coming::Event(from, life, Event::Message { from: to_id, message }));
        }
        if let Message::Catalog(page) = &message {
            self.measure(from, &message, &page.catalog);
        }
        let is_news = matches!(message, Message::Digest { .. } | Message::Claims { .. });
        if is_news && self.mutant == Some(Mutant::KeepsNewsToItself) {
            return;
        }
        let Some(node) = self.nodes.get(&to) else { return };
        let life = node.life;
        let Some(from_id) = self.nodes.get(&from).map(|node| node.id) else { return };
        let arrivals: Vec<u64> = self.net.message_ms(&mut self.random, from, to).collect();
        for after_ms in arrivals {
            let event = Event::Message { from: from_id, message: message.clone() };
            self.after(after_ms, Coming::Event(to, life, event));
        }
    }

    fn serve(
        &mut self,
        node: NodeNumber,
        life: u64,
        to: NodeId,
        request: Request,
        part: Part,
        range: (u64, u64),
    ) {
        let Some(receiver) = self.numbers.get(&to).copied() else { return };
        let Some(to_life) = self.nodes.get(&receiver).map(|node| node.life) else { return };
        let bytes = range.1 - range.0;
        let (sent_ms, arrives_ms) =
            self.net.transfer_ms(&mut self.random, self.now_ms, (node, receiver), bytes);
        self.note(node, Note::Served(receiver, part, bytes));
        self.check(&Occasion::Served(node, part, bytes));
        if self.mutant != Some(Mutant::NeverDoneServing) {
            self.after(sent_ms - self.now_ms, Coming::Event(node, life, Event::Served { to, request }));
        }
        let arrival =
            Coming::Arrive { to: receiver, life: to_life, from: (node, life), request, part, range };
        self.after(arrives_ms - self.now_ms, arrival);
    }

    /// Bytes come, unless the sender has ended meanwhile, or something lies between.
    pub(super) fn arrive(
        &mut self,
        (to, life): (NodeNumber, u64),
        (from, from_life): (NodeNumber, u64),
        request: Request,
        part: Part,
        range: (u64, u64),
    ) {
        if !self.is_life(to, life) {
            return;
        }
        let has = self
            .nodes
            .get(&to)
            .and_then(|node| node.keeper.as_ref())
            .is_some_and(|keeper| keeper.awaits(request));
        if !has {
            return;
        }
        let is_broken = self.random.random_bool(self.net.link.broken);
        if !self.is_life(from, from_life) || self.net.is_cut(from, to) {
            return self.give(to, Event::Failed { request });
        }
        if self.nodes.get(&from).is_some_and(|node| node.is_liar) {
            return self.give(to, Event::Wrong { request });
        }
        let end = if is_broken { range.0 + (range.1 - range.0) / 2 } else { range.1 };
        if end > range.0 {
            self.disks.of(to).write(part, (range.0, end));
            self.note(to, Note::Bytes(part, end - range.0));
            self.check(&Occasion::Fetched(to, part, end - range.0));
            let is_halved = self.mutant == Some(Mutant::TakesHalfForWhole);
            let said = if is_halved { 2 * end - range.0 } else { end };
            self.give(to, Event::Fetched { request, range: (range.0, said), is_last: !is_broken });
        }
        if is_broken {
            self.give(to, Event::Failed { request });
        }
    }

    pub(super) fn synced(&mut self, node: NodeNumber, life: u64, part: Part) {
        let bytes = self.bytes_of(node, &part);
        let is_there = self.nodes.get(&node).is_some_and(|node| node.is_liar)
            || self.disks.get(node).is_some_and(|disk| disk.is_written(&part, bytes));
        if !self.is_life(node, life) {
            return;
        }
        if !is_there && self.mutant.is_none() {
            return;
        }
        self.note(node, Note::Synced(part));
        if is_there && !self.nodes.get(&node).is_some_and(|node| node.is_liar) {
            self.disks.sync(node, part, bytes);
        }
        self.give(node, Event::Synced { part });
        self.check(&Occasion::Synced(node));
    }

    pub(super) fn made(&mut self, node: NodeNumber, life: u64, part: Part, from: &[Part]) {
        if !self.is_life(node, life) {
            return;
        }
        let disk = self.disks.get(node);
        let is_there = |of: &Part| disk.is_some_and(|disk| disk.is_written(of, self.bytes_of(node, of)));
        let is_liar = self.nodes.get(&node).is_some_and(|node| node.is_liar);
        if !is_liar && !from.iter().all(is_there) {
            return self.give(node, Event::NotMade { part });
        }
        let bytes = self.bytes_of(node, &part);
        self.disks.of(node).write(part, (0, bytes));
        self.note(node, Note::Made(part));
        self.give(node, Event::Made { part });
    }
}
