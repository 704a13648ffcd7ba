//! Rebasing: a snapshot becomes the base of a new generation, and what nobody needs any more goes (P10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sustain_proto::{ManifestError, ServiceName, SnapshotId};

use crate::database::{Changes, Contents, Database};
use crate::gate::{Gate, Work};
use crate::generation::visible;
use crate::parallel::behind;
use crate::pins::Pin;
use crate::promote::{Draft, Fate, Plan, Planned};
use crate::publish::{Unpublished, rename_packs, write_manifests};
use crate::replace::replace;
use crate::restore::check_restorable;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::{ErrorKind, Fault, NoProgress, Progress, ReadError, limits};

/// What a rebase did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebaseReport {
    /// The new base.
    pub base: SnapshotId,
    /// The base of the generation that is gone; none if nothing had to be done.
    pub generation_dropped: Option<SnapshotId>,
    /// Snapshots that are gone.
    pub dropped: Vec<SnapshotId>,
    /// Snapshots that live on under another id, old and new; the promoted one is among them.
    pub kept: Vec<(SnapshotId, SnapshotId)>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
    /// Bytes of packs that were written.
    pub bytes_rewritten: u64,
}

/// Why a rebase failed. The store is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebaseError {
    /// A push or another rebase of the service is going on.
    #[error("a push or another rebase of {service} is going on")]
    Busy {
        /// The service.
        service: ServiceName,
    },
    /// Stopped on request.
    #[error("the rebase was stopped")]
    Cancelled,
    /// The snapshot to promote belongs to another service.
    #[error("snapshot {id} is not of {service}")]
    OtherService {
        /// The snapshot.
        id: SnapshotId,
        /// The service.
        service: ServiceName,
    },
    /// Only bases came from other snapshots.
    #[error("snapshot {id} is no base")]
    NoBase {
        /// The snapshot.
        id: SnapshotId,
    },
    /// A manifest breaks a limit.
    #[error("could not describe a snapshot of the new generation")]
    Manifest(#[from] ManifestError),
    /// An index breaks a limit.
    #[error("could not encode an index of the new generation")]
    Index(#[source] sustain_proto::CodecError),
    /// A snapshot is not here, or can't be put together.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RebaseError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Busy,
            Self::OtherService { .. } | Self::NoBase { .. } | Self::Manifest(_) | Self::Index(_) => {
                ErrorKind::Refused
            }
            Self::Cancelled => ErrorKind::Failed,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// A rebase that is ready: what it keeps was read and checked, and the new base is written. Nothing is visible
/// yet, and dropping it leaves nothing behind. Pushes go on meanwhile; packs that it needs stay.
#[derive(Debug)]
pub struct PreparedRebase {
    shared: Arc<Shared>,
    service: ServiceName,
    promoted: SnapshotId,
    /// None: the promoted snapshot is a base already.
    draft: Option<Draft>,
    pin: Pin,
    _gate: Gate,
}

impl Store {
    /// Makes a snapshot, by default the newest one, the base of a new generation. Its ancestors are
    /// dropped; the other snapshots of its generation are described anew and keep their contents. Ids
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
        if promote.is_none() {
            self.refuse_doubt(&format!("{service}@latest"))?;
        }
        let shared = &self.shared;
        let busy = || RebaseError::Busy { service: service.clone() };
        let gate = shared.gates.take(Work::Rebase, service).ok_or_else(busy)?;
        let (state, promoted, pin) = {
            let state = shared.state();
            let promoted = choose(&state, service, promote)?;
            // What is checked here is what is dropped for it later: it must still be there then.
            let generation = state.of_generation(promoted.generation());
            let packs = generation.iter().flat_map(|snapshot| &snapshot.manifest.packs);
            let pin = shared.pins.pin(packs.map(|pack| pack.id));
            (state.clone(), promoted, pin)
        };
        check_restorable(shared, promoted.id, progress)?;
        let draft = if promoted.manifest.base().is_some() {
            Some(behind(|| {
                let mut draft = Draft::begin(shared, &state, &promoted, progress)?;
                draft.extend(shared, &state, &Fate::decide(&state, &promoted).rewritten, progress)?;
                draft.sync()?;
                Ok::<_, RebaseError>(draft)
            })?)
        } else {
            None
        };
        let (shared, service, promoted) = (shared.clone(), service.clone(), promoted.id);
        Ok(PreparedRebase { shared, service, promoted, draft, pin, _gate: gate })
    }
}

impl PreparedRebase {
    /// Makes it so: describes what was pushed meanwhile anew too, and replaces the old generation. Waits for a
    /// push that is going on, but not longer than this.
    ///
    /// # Errors
    /// If a push goes on for longer, if what was checked has been found damaged since, or if the disk is full or
    /// fails. Nothing is dropped then.
    pub fn commit(self, patience: Duration) -> Result<RebaseReport, RebaseError> {
        let Self { shared, service, promoted, mut draft, pin, _gate } = self;
        let change = shared.gates.wait(Work::Change, &service, patience);
        let _change = change.ok_or_else(|| RebaseError::Busy { service: service.clone() })?;
        // A copy: the gate keeps everybody else from this service.
        let state = shared.state().clone();
        let promoted = visible(&state, promoted)?;
        if !state.is_whole(&promoted) {
            return Err(ReadError::NotFound { selector: promoted.id.to_string() }.into());
        }
        let fate = Fate::decide(&state, &promoted);
        if let Some(draft) = &mut draft {
            draft.extend(&shared, &state, &fate.rewritten, &NoProgress)?;
            draft.sync()?;
        }
        let Plan { snapshots, packs } = draft.map(|draft| draft.finish(&fate.rewritten)).unwrap_or_default();
        let kept: Vec<_> = snapshots.iter().map(|planned| (planned.old, planned.new.id)).collect();
        let mut gone = fate.dropped;
        gone.extend(kept.iter().filter_map(|(old, _)| state.snapshots.get(old).cloned()));
        let renamed: BTreeSet<SnapshotId> = kept.iter().map(|(old, _)| *old).collect();
        let mut report = RebaseReport {
            base: kept.first().map_or(promoted.id, |(_, new)| *new),
            generation_dropped: (!kept.is_empty()).then(|| promoted.generation()),
            dropped: gone.iter().map(|s| s.id).filter(|id| !renamed.contains(id)).collect(),
            kept,
            bytes_freed: 0,
            bytes_rewritten: packs.iter().map(|pack| pack.reference.bytes).sum(),
        };
        // From here on the gate is enough, and the last reader's end would remove files unseen.
        drop(pin);
        let mut database = shared.database();
        let mut undo = Unpublished::new(&shared);
        if !report.kept.is_empty() {
            intend(&mut database, &report.kept)?;
        }
        let refs = rename_packs(&shared, packs, &mut undo)?;
        write_manifests(&shared, snapshots.iter().map(|p| (p.new.id, p.new.encoded.as_slice())), &mut undo)?;
        undo.keep();
        let new = with_levels_of_now(&shared, snapshots);
        report.bytes_freed = replace(&shared, &mut database, new, &refs, &gone, &report.kept)?;
        Ok(report)
    }
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

/// Notes what is about to be made, so that an interruption before the commit leaves only the old
/// generation, and not both.
fn intend(database: &mut Database, kept: &[(SnapshotId, SnapshotId)]) -> Result<(), Fault> {
    let replaced: Vec<SnapshotId> = kept.iter().map(|(old, _)| *old).collect();
    let intents = kept.iter().map(|(_, new)| (*new, replaced.clone())).collect();
    let add = Contents { intents, ..Contents::default() };
    database.apply(&Changes { add, ..Changes::default() })
}
