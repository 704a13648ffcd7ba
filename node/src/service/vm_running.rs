//! A running VM and its chain of snapshots.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sustain_proto::{RegionName, ServiceName, SnapshotId, Term, TermOrigin};
use sustain_store::{
    Growth, Pace, Push, PushError, PushLineage, PushRequest, RebaseOptions, RebasePolicy, RegionSource,
    Retention, SnapshotInfo, Store,
};
use sustain_vmdriver::{ErrorKind, SnapshotError, SnapshotScope, SnapshotSink, Vm, VmState, WakeReport};

use super::generation::Generation;
use super::rebasing::Rebasing;
use super::rest::Rest;
use super::trouble::Trouble;
use super::vm_thread::{SnapshotNote, VmNote};
use crate::clock;
use crate::logic::Event;
use sustain_store::error_chain;

/// Where a VM's snapshots go, and how often.
pub(super) struct Saving {
    pub(super) service: ServiceName,
    pub(super) store: Store,
    pub(super) interval: Duration,
    pub(super) policy: RebasePolicy,
    pub(super) retention: Retention,
    /// Whether the VM is to end.
    pub(super) cancelled: Arc<AtomicBool>,
}

/// A VM, and which snapshot comes next.
pub(super) struct Running {
    saving: Saving,
    vm: Box<dyn Vm>,
    term: Term,
    origin: Option<TermOrigin>,
    parent: Option<SnapshotId>,
    seq: u64,
    due: Instant,
    stall: Stall,
    generation: Generation,
    /// Snapshots in a row that could not be taken because an earlier one is not done with.
    skipped: u64,
    /// What is still fetched of the snapshot that it was restored from.
    rest: Option<Rest>,
    rebasing: Option<Rebasing>,
}

/// Until the parent is whole, a snapshot would be a base, of all memory and all of the disk.
#[derive(Debug, thiserror::Error)]
#[error("the rest of snapshot {seq} is still being fetched")]
struct StillFetching {
    seq: u64,
}

/// Whether the guest stands still by itself, and whether that was told.
#[derive(Debug, Default)]
struct Stall {
    now: bool,
    told: bool,
}

impl Stall {
    fn change(&mut self) -> Option<bool> {
        (std::mem::replace(&mut self.told, self.now) != self.now).then_some(self.now)
    }
}

/// Passes the regions of a paused VM on to the store.
struct Ingest<'a>(&'a mut Push, &'a AtomicBool);

impl SnapshotSink for Ingest<'_> {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        match changed {
            None => self.0.ingest(name, source)?,
            Some(ranges) => self.0.ingest_changes(name, source, ranges)?,
        }
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }
}

impl Running {
    pub(super) fn new(
        vm: Box<dyn Vm>,
        term: Term,
        origin: Option<TermOrigin>,
        parent: Option<SnapshotId>,
        saving: Saving,
        rest: Option<Rest>,
    ) -> Self {
        let seq = origin.map_or(0, |origin| origin.seq);
        let list = saving.store.snapshots(Some(&saving.service)).unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "can't list the store's snapshots");
            Vec::new()
        });
        let generation = Generation::of(parent, &list, saving.policy);
        Self {
            vm,
            term,
            origin,
            parent,
            seq,
            stall: Stall::default(),
            due: Instant::now() + saving.interval,
            saving,
            generation,
            skipped: 0,
            rest,
            rebasing: None,
        }
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// Time left until the next snapshot; zero when it is due.
    pub(super) fn due_in(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// How the VM ended, if it has.
    pub(super) fn exited(&mut self) -> Option<String> {
        let state = self.vm.state();
        self.stall.now = matches!(state, VmState::Stalled);
        match state {
            VmState::Running | VmState::Paused | VmState::Stalled => None,
            VmState::Hung { silent } => Some(format!("it has not answered for {} s", silent.as_secs())),
            VmState::Exited(report) => Some(report.to_string()),
        }
    }

    /// Whether the guest stands still by itself, when that has changed since the VM was last looked at.
    pub(super) fn stall_change(&mut self) -> Option<bool> {
        self.stall.change()
    }

    pub(super) fn stop(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Dropped after the VM, so that the VM does not wait for it.
        let rebasing = self.rebasing;
        rebasing.iter().for_each(Rebasing::give_up);
        Ok(self.vm.stop()?)
    }

    /// What was done to a restored guest, once that is known, and once only.
    pub(super) fn wake_report(&mut self) -> Option<WakeReport> {
        self.vm.take_wake_report()
    }

    /// Takes one snapshot, and returns its number. A failure is noted, and the guest runs on: the next one is
    /// tried in time.
    pub(super) fn take_snapshot(&mut self, notes: &mut Vec<VmNote>) -> Result<u64, String> {
        let started = Instant::now();
        let outcome = self.try_snapshot();
        // One that fails before it is due was asked for, and must not put off the one that is due.
        if outcome.is_ok() || started >= self.due {
            self.due = next_due(self.due, started, Instant::now(), self.saving.interval);
        }
        match outcome {
            Ok(mut note) => {
                if self.skipped > 0 {
                    tracing::info!(service = %self.saving.service, skipped = self.skipped, "snapshots go on");
                    self.skipped = 0;
                }
                note.seconds = started.elapsed().as_secs_f64();
                let seq = note.report.seq;
                notes.push(VmNote::Snapshot(Box::new(note)));
                notes.push(VmNote::Event(Event::Taken { seq }));
                self.rebase_if_due(notes);
                Ok(seq)
            }
            Err(error) => {
                let why = error_chain(&*error);
                if is_full(&*error) {
                    self.generation.refused();
                    self.rebase_if_due(notes);
                }
                if !is_busy(&*error) {
                    notes.push(VmNote::Trouble(Trouble::Snapshot, format!("can't take a snapshot: {why}")));
                    return Err(why);
                }
                // Told once, not at every tick: the lag is in the status.
                if self.skipped == 0 {
                    notes.push(VmNote::Trouble(Trouble::Snapshot, format!("snapshots are skipped: {why}")));
                }
                self.skipped += 1;
                Err(why)
            }
        }
    }

    fn try_snapshot(&mut self) -> Result<SnapshotNote, Box<dyn Error + Send + Sync + 'static>> {
        if self.rest.as_ref().is_some_and(|rest| !rest.is_whole()) {
            return Err(StillFetching { seq: self.seq }.into());
        }
        self.rest = None;
        let push = self.saving.store.begin_push(PushRequest {
            service: self.saving.service.clone(),
            lineage: PushLineage::Explicit {
                term: self.term,
                origin: self.origin,
                parents: self.parent.into_iter().collect(),
                seq: self.seq + 1,
            },
            time_ms: clock::wall_ms(),
        })?;
        // The guest does not wait for it, and would notice.
        let mut push = push.at_pace(Pace::Behind);
        // What the push finds as its parent is what the VM's changes are counted from: the last snapshot
        // that was committed, or the one that it was restored from.
        let scope = if push.continues() { SnapshotScope::Changes } else { SnapshotScope::Whole };
        let timings = self.vm.snapshot(scope, &mut Ingest(&mut push, &self.saving.cancelled))?;
        let now = Instant::now();
        // What came of the snapshot after the pause took its time.
        let after = Duration::try_from_secs_f64(timings.after_ms / 1e3).unwrap_or_default();
        let resumed_at = now.checked_sub(after).unwrap_or(now);
        let report = push.commit()?;
        self.vm.committed();
        self.parent = Some(report.snapshot);
        self.seq = report.seq;
        self.generation.taken();
        Ok(SnapshotNote { report, pause_ms: timings.pause_ms, resumed_at, seconds: 0.0 })
    }

    /// How far the generation has grown. A store that can't say so ends it by the number of its deltas alone.
    fn growth(&self) -> Option<Growth> {
        let growth = self.saving.store.growth(&self.saving.service, &self.rebase_options(None));
        growth.inspect_err(|error| tracing::debug!(error = error_chain(error), "no growth")).ok()
    }

    fn rebase_options(&self, promote: Option<SnapshotId>) -> RebaseOptions {
        let Saving { policy, retention, .. } = self.saving;
        // It goes on beside the VM that it is for.
        let pace = Pace::Behind;
        RebaseOptions { promote, retention, now_ms: clock::wall_ms(), policy, pace }
    }

    /// P10: bounds what the deltas of a generation take, and what a manifest lists. The newest *durable*
    /// snapshot becomes the base: what older ones the others hold must not be dropped here for the sake of
    /// one that nobody else has. While nothing becomes durable, the rebase waits. It reads all of that snapshot,
    /// so it is prepared on another thread, and snapshots go on.
    fn rebase_if_due(&mut self, notes: &mut Vec<VmNote>) {
        if self.rebasing.is_some() || !self.generation.is_due(self.growth().as_ref()) {
            return;
        }
        let promoted = match self.newest_durable() {
            Ok(None) if self.generation.can_wait() => return,
            Ok(promoted) => promoted,
            Err(error) => return self.rebase_failed(&error, notes),
        };
        if promoted.is_none() {
            let what = "nothing becomes durable, and the generation is full: older snapshots are dropped here, but \
                        for the newest durable one";
            notes.push(VmNote::Problem(what.to_owned()));
        }
        let (store, service) = (self.saving.store.clone(), self.saving.service.clone());
        match Rebasing::start(store, service, self.rebase_options(promoted.or(self.parent))) {
            Ok(rebasing) => self.rebasing = Some(rebasing),
            Err(error) => self.rebase_failed(&error, notes),
        }
    }

    /// Makes a rebase that was prepared come true, between two snapshots.
    pub(super) fn finish_rebase(&mut self, notes: &mut Vec<VmNote>) {
        let Some(outcome) = self.rebasing.as_mut().and_then(Rebasing::outcome) else { return };
        self.rebasing = None;
        // Nobody else pushes for this VM, so there is nothing to wait for.
        match outcome.and_then(|prepared| prepared.commit(Duration::ZERO)) {
            Ok(report) => {
                let renamed = |old: SnapshotId| {
                    report.kept.iter().find(|(before, _)| *before == old).map(|pair| pair.1)
                };
                self.parent = self.parent.and_then(renamed).or(Some(report.base));
                let following = report.kept.len().saturating_sub(1 + report.held.len());
                self.generation.rebased(following, self.growth().map_or(0, |growth| growth.delta_bytes));
                let newest = self.parent.unwrap_or(report.base);
                notes.push(VmNote::Rebased { base: report.base, newest, dropped: report.dropped.len() });
            }
            Err(error) => self.rebase_failed(&error, notes),
        }
    }

    fn rebase_failed(&mut self, error: &dyn Error, notes: &mut Vec<VmNote>) {
        self.generation.rebase_failed();
        let what = format!("can't rebase: {}", error_chain(error));
        notes.push(VmNote::Trouble(Trouble::Rebase, what));
    }

    fn newest_durable(&self) -> Result<Option<SnapshotId>, sustain_store::ReadError> {
        let list = self.saving.store.snapshots(Some(&self.saving.service))?;
        Ok(to_promote(&list, &self.term, self.origin))
    }
}

/// Whether the store takes no more deltas of this generation.
fn is_full(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    matches!(find_push_error(error), Some(PushError::TooManyPacks { .. }))
}

/// The push's error, also where it comes by way of the VM's driver, to which it was a sink's.
fn find_push_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a PushError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<PushError>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// When the next snapshot is due after one that was begun at `begun` and is done `now`. One that the guest asked for
/// comes before it is due, and the next one then at most one interval after it. Ticks that passed meanwhile are
/// skipped, not made up for: the lag shows in the watermark.
fn next_due(due: Instant, begun: Instant, now: Instant, interval: Duration) -> Instant {
    (due + interval).min(begun + interval).max(now)
}

/// Whether a snapshot was put off because the VM, or the store, can't have one taken just now.
fn is_busy(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let store_busy = |error: &PushError| error.kind() == sustain_store::ErrorKind::Busy;
    error.is::<StillFetching>()
        || error.downcast_ref::<SnapshotError>().is_some_and(|error| error.kind() == ErrorKind::Busy)
        || error.downcast_ref::<PushError>().is_some_and(store_busy)
}

/// The newest durable snapshot of a reign and of what it continues, unless it is a base already.
fn to_promote(list: &[SnapshotInfo], term: &Term, origin: Option<TermOrigin>) -> Option<SnapshotId> {
    let began = |info: &SnapshotInfo| {
        origin.is_some_and(|origin| origin.parent == info.term && info.seq <= origin.seq)
    };
    let ours = list.iter().filter(|info| info.term == *term || began(info));
    let newest = ours.filter(|info| info.durable).max_by_key(|info| info.seq);
    newest.filter(|info| info.base.is_some()).map(|info| info.id)
}

#[cfg(test)]
impl Running {
    pub(super) fn keep(&mut self, retention: Retention) {
        self.saving.retention = retention;
    }
}

#[cfg(test)]
#[path = "vm_running_tests.rs"]
mod tests;
