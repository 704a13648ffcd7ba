//! Durable marks in this node's own store: of what the server says, and of all that it implies.

use std::collections::BTreeSet;

use sustain_gossip::Retain;
use sustain_proto::wire::Heartbeat;
use sustain_proto::{SnapshotId, Term};

use super::driver::Driver;
use crate::events::Happening;
use crate::follow::follow_rebase;
use crate::logic::{Event, implied_durable};
use sustain_store::error_chain;

/// Snapshots remembered as said to be durable: more than a service retains.
const SAID_MAX: usize = 1_024;

/// The newest durable snapshot of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Durable {
    /// The term of the server that says so.
    pub(super) line: Term,
    pub(super) snapshot: SnapshotId,
    pub(super) seq: u64,
    pub(super) level: u32,
}

impl Driver {
    /// Has what the store retains of the service kept by all, as its server.
    pub(super) fn retain(&self) {
        let Some(reign) = self.machine.state().reign() else { return };
        self.cluster.retain(Retain {
            service: self.service.clone(),
            term: reign.term,
            origin: reign.origin,
            tolerance: self.tolerance,
            warm: self.warm.clone(),
            merged: BTreeSet::new(),
        });
    }

    /// A snapshot of a line that this node is the server of survives so many losses now.
    pub(super) fn level(&mut self, snapshot: SnapshotId, level: Option<u32>) {
        let Ok((manifest, _)) = self.store.manifest(snapshot) else { return };
        let Some(reign) = self.machine.state().reign().copied() else { return };
        let seq = manifest.seq;
        let is_newest = self.machine.watermark().and_then(|mark| mark.durable) == Some((snapshot, seq));
        let survives = level.unwrap_or(0);
        if level < Some(self.tolerance) {
            // What was promised stays promised, and is less safe than it was.
            if is_newest {
                self.handle(Event::Durable { snapshot, seq, level: survives });
            }
            return;
        }
        // A snapshot of an earlier life of this node says nothing about the reign of now.
        if reign.term != manifest.term {
            if is_newest {
                self.handle(Event::Durable { snapshot, seq, level: survives });
            }
            return;
        }
        if self.said.len() > SAID_MAX {
            self.said.clear();
        }
        if self.said.insert(snapshot) {
            let copies = survives as usize + 1;
            self.events.add(Happening::Durable { service: self.service.clone(), snapshot, seq, copies });
        }
        self.handle(Event::Durable { snapshot, seq, level: survives });
        self.guest_durable(manifest.term, seq);
        let is_behind = self.durable.is_some_and(|known| known.line == manifest.term && known.seq > seq);
        if !is_behind {
            self.durable = Some(Durable { line: manifest.term, snapshot, seq, level: survives });
            self.mark_durable();
        }
    }

    /// The server that is followed says what is durable.
    pub(super) fn heard_durable(&mut self, heartbeat: &Heartbeat) {
        let Some((snapshot, seq)) = heartbeat.durable else { return };
        let own = self.machine.state().reign().is_some();
        let known = self.durable.is_some_and(|known| known.snapshot == snapshot);
        if own || known || self.machine.following() != Some(heartbeat.term) {
            return;
        }
        self.durable = Some(Durable { line: heartbeat.term, snapshot, seq, level: heartbeat.level });
        self.mark_durable();
    }

    /// Marks what is held here and not yet marked. To be called as well when more is held: it may arrive after the
    /// server has said so.
    pub(super) fn mark_durable(&mut self) {
        let Some(Durable { line, snapshot, seq, level }) = self.durable else { return };
        let ids = implied_durable(&self.held, self.machine.lineage(), &line, (snapshot, seq));
        if ids.is_empty() {
            return;
        }
        for summary in self.held.iter_mut().filter(|summary| ids.contains(&summary.id)) {
            summary.durable = true;
        }
        let (store, service) = (self.store.clone(), self.service.clone());
        self.tasks.spawn_blocking(move || {
            for id in ids {
                // One that was dropped meanwhile needs no mark.
                if let Err(error) = store.mark_durable(id, level) {
                    tracing::debug!(%service, error = %error_chain(&error), "no durable mark");
                }
            }
            // A durable snapshot of an older generation may have waited for this.
            follow_rebase(&store, &service);
        });
    }
}
