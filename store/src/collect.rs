//! Collecting: what no rule and nobody keeps goes, with the packs that only it needed. It is a rebase where that is
//! due, and otherwise only lets go.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sustain_proto::{ServiceName, SnapshotId};

use crate::error::DiskContext;
use crate::fate::{Fate, Goal};
use crate::growth::{measure, to_promote};
use crate::holds::{Reason, Wishes};
use crate::named_pins::NamedPins;
use crate::policy::{Growth, Trigger};
use crate::rebase::{PreparedRebase, RebaseOptions};
use crate::rebase_error::RebaseError;
use crate::rebase_report::RebaseReport;
use crate::state::{Snapshot, State};
use crate::store::Store;
use crate::sweep::list_packs;
use crate::{ErrorKind, Fault, Progress, ReadError};

/// A snapshot in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Its id.
    pub id: SnapshotId,
    /// Its number.
    pub seq: u64,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Why it stays; empty if it goes.
    pub why: BTreeSet<Reason>,
}

/// What a collection does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whose snapshots they are.
    pub service: ServiceName,
    /// Why a new generation begins, if one does.
    pub new_generation: Option<NewGeneration>,
    /// The base that what stays is described by.
    pub base: SnapshotId,
    /// What goes, oldest first.
    pub goes: Vec<Collected>,
    /// What stays, oldest first, by the ids from before.
    pub stays: Vec<Collected>,
    /// Packs that are removed.
    pub packs_freed: usize,
    /// Bytes of files that are removed.
    pub bytes_freed: u64,
    /// Packs that somebody reads, and that go when he is done. A preview does not look for readers: it counts all packs
    /// that go as removed.
    pub packs_held: usize,
    /// Bytes of those.
    pub bytes_held: u64,
    /// Bytes of packs that are written.
    pub bytes_rewritten: u64,
}

/// Why a collection begins a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewGeneration {
    /// Nothing keeps the base but its deltas.
    BaseUnneeded,
    /// The generation has grown as far as its policy allows, or its key was changed.
    Due(Trigger),
}

/// A collection that is ready, as a prepared rebase is: dropping it leaves nothing behind.
#[derive(Debug)]
pub struct PreparedGc {
    rebase: PreparedRebase,
    why: Option<NewGeneration>,
}

impl Store {
    /// Prepares the collection of a service: decides what goes, and does what takes long if that needs a new
    /// generation. Its base is the newest durable snapshot, or the newest one if none is durable. Where the disk has no
    /// room for a new generation, it lets go of what the present one can do without.
    ///
    /// # Errors
    /// If there is no snapshot, if something that stays is damaged, if the disk is full or fails, or if it was stopped.
    /// Nothing is dropped then.
    pub fn prepare_gc(
        &self,
        service: &ServiceName,
        options: RebaseOptions,
        progress: &dyn Progress,
    ) -> Result<PreparedGc, RebaseError> {
        // An older snapshot must not be taken for the newest: see there.
        self.refuse_doubt(&self.shared.state(), service, &format!("{service}@latest"))?;
        let pins = NamedPins::read(self.shared.disk.as_ref(), &self.shared.layout)?;
        let wishes = Wishes { retention: options.retention, now_ms: options.now_ms, pins: &pins };
        let why = Cell::new(None);
        let choose = |state: &State| {
            let promoted = to_promote(&state.of_service(service));
            let promoted =
                promoted.ok_or_else(|| ReadError::NotFound { selector: format!("{service}@latest") })?;
            why.set(self.new_generation(state, &promoted, &options, wishes));
            let goal = if why.get().is_some() { Goal::NewGeneration } else { Goal::ItsGeneration };
            Ok((promoted, goal))
        };
        match self.prepare(service, options, choose, progress) {
            // A new generation would take less in the end, but has to be written first.
            Err(error) if error.kind() == ErrorKind::NoSpace && why.take().is_some() => {
                let choose =
                    |state: &State| choose(state).map(|(promoted, _)| (promoted, Goal::ItsGeneration));
                let rebase = self.prepare(service, options, choose, progress)?;
                Ok(PreparedGc { rebase, why: None })
            }
            rebase => Ok(PreparedGc { rebase: rebase?, why: why.get() }),
        }
    }

    /// Whether what stays is to be described by a new base.
    fn new_generation(
        &self,
        state: &State,
        promoted: &Arc<Snapshot>,
        options: &RebaseOptions,
        wishes: Wishes<'_>,
    ) -> Option<NewGeneration> {
        let growth =
            Growth { changes_key: self.shared.changes_key(promoted), ..measure(state, promoted, wishes) };
        if let Some(trigger) = options.policy.due(&growth) {
            return Some(NewGeneration::Due(trigger));
        }
        let base = promoted.manifest.base()?;
        let fate = Fate::decide(state, promoted, Goal::ItsGeneration, wishes);
        let is_needed_only = |why: &BTreeSet<Reason>| why.iter().all(|reason| *reason == Reason::Needed);
        fate.reasons.get(&base).is_none_or(is_needed_only).then_some(NewGeneration::BaseUnneeded)
    }

    /// Packs that no snapshot lists: what interrupted work left, and what was received for snapshots that never came.
    /// Removes them, unless it is only to say which. With a manifest that can't be read none is known to be unneeded.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove_unlisted(&self, dry_run: bool) -> Result<UnlistedReport, Fault> {
        let shared = &self.shared;
        if shared.is_uncertain(&shared.state()) {
            return Ok(UnlistedReport { uncertain: true, ..UnlistedReport::default() });
        }
        if !dry_run {
            self.remove_incoming();
        }
        // Whoever gives a pack its name holds it until a snapshot lists the pack.
        let mut commit = shared.begin_commit()?;
        let listed = shared.state().listed_packs();
        let mut unlisted = list_packs(shared.disk.as_ref(), &shared.layout)?;
        unlisted.retain(|id, _| !listed.contains(id));
        if !commit.is_alone() {
            // Another process may be receiving packs for a snapshot that is still to come.
            let received = shared.state().received.clone();
            unlisted.retain(|id, _| !received.contains_key(id));
        }
        let mut report = UnlistedReport {
            packs: unlisted.len(),
            bytes: unlisted.values().sum(),
            ..UnlistedReport::default()
        };
        if dry_run || unlisted.is_empty() {
            return Ok(report);
        }
        let mut changes = crate::database::Changes::default();
        {
            let state = shared.state();
            changes.remove.received.extend(state.received.iter().filter(|(id, _)| unlisted.contains_key(id)));
            changes.remove.packs.extend(state.packs.iter().filter(|(id, _)| unlisted.contains_key(id)));
        }
        commit.apply(&changes, Vec::new())?;
        for (id, bytes) in &unlisted {
            if !commit.remove_pack(*id).during("remove", &shared.layout.pack(id))? {
                report.packs -= 1;
                report.bytes -= bytes;
                report.packs_held += 1;
                report.bytes_held += bytes;
            }
        }
        Ok(report)
    }
}

/// Packs that no snapshot lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnlistedReport {
    /// How many.
    pub packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// More of them that somebody reads, and that go when he is done. A dry run does not look for readers.
    pub packs_held: usize,
    /// Bytes of those.
    pub bytes_held: u64,
    /// Files of the store are missing or damaged, so nothing is taken for unneeded.
    pub uncertain: bool,
}

impl PreparedGc {
    /// What [`commit`](Self::commit) does, if nothing changes before.
    ///
    /// # Errors
    /// As there.
    pub fn preview(&self) -> Result<GcReport, RebaseError> {
        let (state, _, fate) = self.rebase.look()?;
        let report = self.rebase.preview()?;
        Ok(describe(&state, &fate, report, self))
    }

    /// Makes it so.
    ///
    /// # Errors
    /// As [`PreparedRebase::commit`].
    pub fn commit(self, patience: Duration) -> Result<GcReport, RebaseError> {
        let (state, _, fate) = self.rebase.look()?;
        let described = describe(&state, &fate, self.rebase.preview()?, &self);
        let done = self.rebase.commit(patience)?;
        let RebaseReport { base, packs_freed, bytes_freed, packs_held, bytes_held, bytes_rewritten, .. } =
            done;
        Ok(GcReport { base, packs_freed, bytes_freed, packs_held, bytes_held, bytes_rewritten, ..described })
    }
}

fn describe(state: &State, fate: &Fate, report: RebaseReport, gc: &PreparedGc) -> GcReport {
    let collected = |snapshot: &Arc<Snapshot>| Collected {
        id: snapshot.id,
        seq: snapshot.manifest.seq,
        time_ms: snapshot.manifest.time_ms,
        why: fate.reasons.get(&snapshot.id).cloned().unwrap_or_default(),
    };
    let goes: BTreeSet<SnapshotId> = report.dropped.iter().copied().collect();
    let service = gc.rebase.service().clone();
    let all = state.all_of_service(&service);
    GcReport {
        service,
        new_generation: gc.why,
        base: report.base,
        goes: all.iter().filter(|s| goes.contains(&s.id)).map(collected).map(without_reasons).collect(),
        stays: all.iter().filter(|s| !goes.contains(&s.id)).map(collected).collect(),
        packs_freed: report.packs_freed,
        bytes_freed: report.bytes_freed,
        packs_held: report.packs_held,
        bytes_held: report.bytes_held,
        bytes_rewritten: report.bytes_rewritten,
    }
}

fn without_reasons(collected: Collected) -> Collected {
    Collected { why: BTreeSet::new(), ..collected }
}
