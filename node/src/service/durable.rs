//! Durable marks in this node's own store: of what the server says, and of all that it implies.

use sustain_proto::wire::Heartbeat;
use sustain_proto::{SnapshotId, Term};

use super::driver::Driver;
use crate::follow::follow_rebase;
use crate::logic::implied_durable;
use sustain_store::error_chain;

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
