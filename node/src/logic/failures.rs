//! Snapshots that could not live on this node: what it tells the others of them, and when they are forgotten (P14).

use std::collections::BTreeMap;

use sustain_proto::wire::Heartbeat;
use sustain_proto::{SnapshotId, Term, limits};

use super::machine::Machine;
use super::{Action, State};
use crate::limits::EARLY_EXIT;

/// Most snapshots remembered as unrestorable: more failures than this in one election are not
/// retried by memory but by chance of what the peers then say.
const UNRESTORABLE_MAX: usize = 1_024;

/// How often which snapshot failed here, since the service last lived.
#[derive(Debug, Default)]
pub(super) struct Failures {
    here: BTreeMap<SnapshotId, u32>,
    /// The term whose server was last seen to run, and since when.
    runs: Option<(Term, u64)>,
}

impl Failures {
    /// For a ballot.
    pub(super) fn list(&self) -> Vec<SnapshotId> {
        self.here.keys().copied().collect()
    }

    /// How often a snapshot failed here.
    pub(super) fn count(&self, snapshot: SnapshotId) -> u32 {
        self.here.get(&snapshot).copied().unwrap_or(0)
    }

    fn note(&mut self, snapshot: SnapshotId) {
        if self.here.len() < limits::CONTROL_FAILED_MAX || self.here.contains_key(&snapshot) {
            *self.here.entry(snapshot).or_default() += 1;
        }
    }

    /// The server of this term is seen to run.
    pub(super) fn see(&mut self, now_ms: u64, term: Term) {
        if self.runs.is_none_or(|(of, _)| of != term) {
            self.runs = Some((term, now_ms));
        }
    }

    /// Whether a server has not run for long yet.
    fn is_early(&self, now_ms: u64, term: Term) -> bool {
        let early_ms = u64::try_from(EARLY_EXIT.as_millis()).unwrap_or(u64::MAX);
        self.runs.is_none_or(|(of, since_ms)| of != term || now_ms.saturating_sub(since_ms) < early_ms)
    }

    /// A service that has run for a while, and has a durable snapshot of that, lives: what failed before is past.
    pub(super) fn forget_if_alive(&mut self, now_ms: u64, mark: &Heartbeat) {
        let begun_seq = mark.origin.map_or(0, |origin| origin.seq);
        let durable = mark.durable.is_some_and(|(_, seq)| seq > begun_seq);
        if durable && !self.here.is_empty() && !self.is_early(now_ms, mark.term) {
            self.here.clear();
        }
    }
}

impl Machine {
    pub(super) fn gather_failed(&mut self, now_ms: u64, term: Term, snapshot: SnapshotId) {
        let State::Gathering(reign) = self.state else { return };
        if reign.term != term {
            return;
        }
        if self.unrestorable.len() < UNRESTORABLE_MAX {
            self.unrestorable.insert(snapshot);
        }
        self.elect(now_ms, Some(term), "the snapshot can't be had");
    }

    pub(super) fn start_failed(&mut self, now_ms: u64, term: Term) {
        let Some(reign) = self.state.reign().filter(|reign| reign.term == term) else { return };
        if let Some(parent) = reign.parent {
            self.failures.note(parent);
        }
        self.penalty_until_ms = now_ms + self.config.timing.penalty_ms;
        self.actions.push(Action::Stop);
        self.elect(now_ms, Some(term), "the VM could not be started");
    }

    pub(super) fn exited(&mut self, now_ms: u64, term: Term) {
        let Some(reign) = self.state.reign().filter(|reign| reign.term == term) else { return };
        // Whether it counts is seen when nothing newer is left to try.
        if let Some(parent) = reign.parent.filter(|_| self.failures.is_early(now_ms, term)) {
            self.failures.note(parent);
        }
        // One that ends before its first snapshot would end again: another node may have better luck.
        if self.watermark().is_none_or(|mark| mark.running_seq <= reign.begun_seq()) {
            self.penalty_until_ms = now_ms + self.config.timing.penalty_ms;
        }
        self.actions.push(Action::Follow { term: None });
        self.elect(now_ms, Some(term), "the VM is gone");
    }
}
