//! Rebasing: a snapshot becomes the base of a new generation, and what nobody needs any more goes (P10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sustain_proto::{PackId, ServiceName, SnapshotId};

use crate::commit::Commit;
use crate::fate::{Fate, Goal};
use crate::gate::{Gate, Work};
use crate::generation::{visible, with_base};
use crate::holds::Wishes;
use crate::named_pins::NamedPins;
use crate::parallel::{Pace, behind};
use crate::pins::Pin;
use crate::policy::RebasePolicy;
use crate::promote::{Draft, Plan, Planned};
use crate::publish::{Unpublished, instead_of, intend, rename_packs, write_manifests};
use crate::rebase_report::{RebaseReport, renamed, report};
use crate::replace::{freed, replace};
use crate::restore::check_restorable;
use crate::retention::Retention;
use crate::rewrite::Effort;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::{NoProgress, Progress, ReadError, RebaseError, limits};

/// What a rebase is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebaseOptions {
    /// The snapshot to become the base; the newest one if none is named.
    pub promote: Option<SnapshotId>,
    /// Which older snapshots are kept too.
    pub retention: Retention,
    /// The time now, in milliseconds since 1970, for the retention.
    pub now_ms: u64,
    /// How much of a pack may be dead.
    pub policy: RebasePolicy,
    /// How much of the machine it takes.
    pub pace: Pace,
}

/// A rebase that is ready: what it keeps was read and checked, and the new base is written. Nothing is visible
/// yet, and dropping it leaves nothing behind. Pushes go on meanwhile; packs that it needs stay.
#[derive(Debug)]
pub struct PreparedRebase {
    shared: Arc<Shared>,
    service: ServiceName,
    promoted: SnapshotId,
    goal: Goal,
    options: RebaseOptions,
    /// None: no snapshot has to be described anew.
    draft: Option<Draft>,
    pin: Pin,
    _gate: Gate,
}

impl Store {
    /// Makes a snapshot, by default the newest one, the base of a new generation. Its ancestors are
    /// dropped, but for pinned ones; the others are described anew and keep their contents. Ids
    /// from before lead to the new ones. Promoting a base changes nothing but dropping its ancestors.
    /// A push that goes on at the end of it is waited for, but not for long.
    ///
    /// # Errors
    /// If there is nothing to promote, if something that must be kept is damaged, or if the disk is full
    /// or fails. Nothing is dropped then.
    pub fn rebase(
        &self,
        service: &ServiceName,
        promote: Option<SnapshotId>,
    ) -> Result<RebaseReport, RebaseError> {
        self.prepare_rebase(service, promote, &NoProgress)?.commit(limits::REBASE_PATIENCE)
    }

    /// Does all of a rebase that takes long: reads and checks what is to be kept, and writes the new base.
    /// Pushes of the service may go on beside it.
    ///
    /// # Errors
    /// As [`rebase`](Self::rebase), or if it was stopped.
    pub fn prepare_rebase(
        &self,
        service: &ServiceName,
        promote: Option<SnapshotId>,
        progress: &dyn Progress,
    ) -> Result<PreparedRebase, RebaseError> {
        self.prepare_rebase_with(service, RebaseOptions { promote, ..RebaseOptions::default() }, progress)
    }

    /// The same, with older snapshots kept by a retention.
    ///
    /// # Errors
    /// As [`prepare_rebase`](Self::prepare_rebase).
    pub fn prepare_rebase_with(
        &self,
        service: &ServiceName,
        options: RebaseOptions,
        progress: &dyn Progress,
    ) -> Result<PreparedRebase, RebaseError> {
        if options.promote.is_none() {
            self.refuse_doubt(&self.shared.state(), service, &format!("{service}@latest"))?;
        }
        let choose_new = |state: &State| {
            let promoted = choose(state, service, options.promote)?;
            let is_new = promoted.manifest.base().is_some() || self.shared.changes_key(&promoted);
            let goal = if is_new { Goal::NewGeneration } else { Goal::ItsGeneration };
            Ok((promoted, goal))
        };
        self.prepare(service, options, choose_new, progress)
    }

    /// Prepares whatever `choose` says is to be promoted, and where to.
    pub(crate) fn prepare(
        &self,
        service: &ServiceName,
        options: RebaseOptions,
        choose: impl Fn(&State) -> Result<(Arc<Snapshot>, Goal), RebaseError>,
        progress: &dyn Progress,
    ) -> Result<PreparedRebase, RebaseError> {
        let shared = &self.shared;
        let busy = || RebaseError::Busy { service: service.clone() };
        let gate = shared.gates.take(Work::Rebase, service).ok_or_else(busy)?;
        let choose = |state: &State| {
            let (promoted, goal) = choose(state)?;
            // What is checked here is what is dropped for it later: it must still be there then.
            let all = state.all_of_service(service);
            let packs = all.iter().flat_map(|snapshot| &snapshot.manifest.packs);
            let pinned = packs.map(|pack| *pack.id.as_bytes()).collect();
            Ok::<_, RebaseError>(((state.clone(), promoted, goal), pinned))
        };
        let ((state, promoted, goal), pin) = shared.pinned(choose)?;
        let gone = |error| match error {
            // What another process has dropped meanwhile is missing, and not damaged.
            _ if !shared.state().snapshots.contains_key(&promoted.id) => busy(),
            RebaseError::Fault(fault) | RebaseError::Read(ReadError::Fault(fault)) => {
                self.set_aside_found(&fault);
                fault.into()
            }
            error => error,
        };
        let draft = self.draft(&state, &promoted, goal, &options, progress).map_err(gone)?;
        let (shared, service, promoted) = (shared.clone(), service.clone(), promoted.id);
        Ok(PreparedRebase { shared, service, promoted, goal, options, draft, pin, _gate: gate })
    }

    /// Writes what is to be there, if anything is.
    fn draft(
        &self,
        state: &State,
        promoted: &Arc<Snapshot>,
        goal: Goal,
        options: &RebaseOptions,
        progress: &dyn Progress,
    ) -> Result<Option<Draft>, RebaseError> {
        let (shared, service) = (&self.shared, &promoted.manifest.service);
        let fate = decide(shared, state, promoted, goal, options)?;
        let draft = match goal {
            Goal::NewGeneration => {
                let effort = Effort { policy: &options.policy, pace: options.pace, progress };
                let key = shared.key_to_write(service)?;
                Some(Draft::begin(shared, state, promoted, key, fate.held(), &effort)?)
            }
            Goal::ItsGeneration => {
                check_restorable(shared, promoted.id, progress, options.pace)?;
                let base = with_base(shared, state, promoted)?.0;
                let is_needed = !fate.rewritten.is_empty();
                is_needed.then(|| Draft::onto(shared, &base)).transpose()?
            }
        };
        let extend = |mut draft: Draft| {
            draft.extend(shared, state, &fate.rewritten, progress)?;
            draft.sync()?;
            Ok::<_, RebaseError>(draft)
        };
        let draft = draft.map(|draft| match options.pace {
            Pace::Full => extend(draft),
            Pace::Behind => behind(|| extend(draft)),
        });
        draft.transpose()
    }
}

fn decide(
    shared: &Shared,
    state: &State,
    promoted: &Snapshot,
    goal: Goal,
    options: &RebaseOptions,
) -> Result<Fate, RebaseError> {
    let pins = NamedPins::read(shared.disk.as_ref(), &shared.layout)?;
    let wishes = Wishes { retention: options.retention, now_ms: options.now_ms, pins: &pins };
    Ok(Fate::decide(state, promoted, goal, wishes))
}

impl PreparedRebase {
    pub(crate) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// What is visible, the promoted snapshot, and what becomes of each.
    pub(crate) fn look(&self) -> Result<(State, Arc<Snapshot>, Fate), RebaseError> {
        let state = self.shared.state().clone();
        // Another process may have rebased, and then it has another id.
        let busy = || RebaseError::Busy { service: self.service.clone() };
        let promoted = state.snapshots.get(&self.promoted).cloned().ok_or_else(busy)?;
        if !state.is_whole(&promoted) {
            return Err(ReadError::NotFound { selector: promoted.id.to_string() }.into());
        }
        let fate = decide(&self.shared, &state, &promoted, self.goal, &self.options)?;
        Ok((state, promoted, fate))
    }

    /// What [`commit`](Self::commit) would do now, if nothing is pushed meanwhile.
    ///
    /// # Errors
    /// As there.
    pub fn preview(&self) -> Result<RebaseReport, RebaseError> {
        let (state, promoted, fate) = self.look()?;
        let planned = self.draft.as_ref().map(|draft| draft.planned(&fate.rewritten)).unwrap_or_default();
        let (mut report, gone) = report(&state, &promoted, self.goal, &fate, &planned);
        let new: Vec<_> = planned.iter().map(|planned| planned.new.clone()).collect();
        let freed = freed(&state, &new, &gone);
        report.packs_freed = freed.len();
        report.bytes_freed = freed.iter().map(|pack| pack.bytes).sum::<u64>()
            + gone.iter().map(|snapshot| snapshot.encoded.len() as u64).sum::<u64>();
        let listed: BTreeSet<PackId> =
            new.iter().flat_map(|s| s.manifest.packs.iter().map(|pack| pack.id)).collect();
        let packs = self.draft.iter().flat_map(|draft| &draft.packs).map(|pack| pack.reference);
        report.bytes_rewritten = packs.filter(|pack| listed.contains(&pack.id)).map(|pack| pack.bytes).sum();
        Ok(report)
    }

    /// Makes it so: describes what was pushed meanwhile anew too, and replaces the old generation. Waits for a
    /// push that is going on, but not longer than this. One of another process that takes longer is overtaken.
    ///
    /// # Errors
    /// If a push of this process goes on for longer, if another process has rebased the service, if what was checked
    /// has been found damaged since, or if the disk is full or fails. Nothing is dropped then.
    pub fn commit(mut self, patience: Duration) -> Result<RebaseReport, RebaseError> {
        let (shared, started) = (self.shared.clone(), Instant::now());
        let busy = || RebaseError::Busy { service: self.service.clone() };
        let change = shared.gates.wait(Work::Change, &self.service, patience);
        let _change = change.ok_or_else(busy)?;
        for look in 0..limits::REBASE_LOOKS_MAX {
            // What takes long is done before the lock is taken.
            let (state, promoted, fate) = self.look()?;
            self.describe(&state, &promoted, &fate)?;
            let mut commit = shared.begin_commit()?;
            let (state, promoted, fate) = self.look()?;
            if self.goal == Goal::NewGeneration && commit.others_pin(promoted.generation().as_bytes()) {
                // Pushes that follow each other without a pause are overtaken, too.
                let rest = patience.checked_sub(started.elapsed());
                if let Some(rest) = rest.filter(|_| look < limits::REBASE_LOOKS_MAX / 2) {
                    drop(commit);
                    wait_for_push(&shared, &promoted, rest)?;
                    continue;
                }
            }
            if self.has_described(&fate) {
                let service = self.service.clone();
                let report = self.replace(&mut commit, (&state, &promoted, &fate))?;
                drop(commit);
                shared.forget_unused_keys(&service);
                return Ok(report);
            }
            // Others have pushed or pinned something in between.
        }
        Err(RebaseError::Busy { service: self.service.clone() })
    }

    /// Describes what stays and has not been described.
    fn describe(&mut self, state: &State, promoted: &Arc<Snapshot>, fate: &Fate) -> Result<(), RebaseError> {
        if self.draft.is_none() && !fate.rewritten.is_empty() {
            self.draft = Some(Draft::onto(&self.shared, &with_base(&self.shared, state, promoted)?.0)?);
        }
        if let Some(draft) = &mut self.draft {
            draft.extend(&self.shared, state, &fate.rewritten, &NoProgress)?;
            draft.sync()?;
        }
        Ok(())
    }

    fn has_described(&self, fate: &Fate) -> bool {
        let described = |snapshot: &Arc<Snapshot>| {
            self.draft.as_ref().is_some_and(|draft| draft.described.contains_key(&snapshot.id))
        };
        fate.rewritten.iter().all(described)
    }

    fn replace(
        self,
        commit: &mut Commit<'_>,
        (state, promoted, fate): (&State, &Arc<Snapshot>, &Fate),
    ) -> Result<RebaseReport, RebaseError> {
        let Self { shared, draft, pin, goal, .. } = self;
        let Plan { snapshots, packs } = draft.map(|draft| draft.finish(&fate.rewritten)).unwrap_or_default();
        let (mut report, gone) = report(state, promoted, goal, fate, &snapshots);
        report.bytes_rewritten = packs.iter().map(|pack| pack.reference.bytes).sum();
        let mut undo = Unpublished::new(&shared);
        intend(commit, instead_of(&report.kept))?;
        let refs = rename_packs(&shared, packs, &mut undo)?;
        write_manifests(&shared, snapshots.iter().map(|p| (p.new.id, p.new.encoded.as_slice())), &mut undo)?;
        undo.keep();
        let new = with_levels_of_now(&shared, snapshots);
        let renamed = renamed(&report, fate);
        // From here on the commit lock is enough.
        drop(pin);
        let freed = replace(&shared, commit, new, &refs, &gone, &renamed)?;
        (report.packs_freed, report.bytes_freed) = (freed.packs, freed.bytes);
        (report.packs_held, report.bytes_held) = (freed.packs_held, freed.bytes_held);
        Ok(report)
    }
}

/// Waits until no other process pushes into a snapshot's generation, or for so long.
fn wait_for_push(shared: &Shared, promoted: &Snapshot, patience: Duration) -> Result<(), RebaseError> {
    let started = Instant::now();
    while started.elapsed() < patience {
        std::thread::sleep(limits::PUSH_POLL);
        if !shared.begin_commit()?.others_pin(promoted.generation().as_bytes()) {
            break;
        }
    }
    Ok(())
}

/// Snapshots may have become durable since they were described. The caller holds the commit lock.
fn with_levels_of_now(shared: &Shared, planned: Vec<Planned>) -> Vec<Arc<Snapshot>> {
    let state = shared.state();
    let now = |planned: Planned| {
        let level = state.snapshots.get(&planned.old).and_then(|old| old.level);
        Arc::new(Snapshot { level, ..Snapshot::clone(&planned.new) })
    };
    planned.into_iter().map(now).collect()
}

fn choose(
    state: &State,
    service: &ServiceName,
    promote: Option<SnapshotId>,
) -> Result<Arc<Snapshot>, RebaseError> {
    let Some(id) = promote else {
        // Among all: one whose files are missing is damaged, and an older one must not be taken for the newest.
        let newest = state.all_of_service(service).pop();
        return newest.ok_or_else(|| ReadError::NotFound { selector: format!("{service}@latest") }.into());
    };
    let snapshot = visible(state, id)?;
    if snapshot.manifest.service == *service {
        Ok(snapshot)
    } else {
        Err(RebaseError::OtherService { id, service: service.clone() })
    }
}
