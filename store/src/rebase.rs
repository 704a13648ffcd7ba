//! Rebasing: a snapshot becomes the base of a new generation, and what nobody needs any more goes (P10).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{ManifestError, PackRef, ServiceName, SnapshotId};

use crate::database::{Changes, Contents, Database};
use crate::generation::visible;
use crate::promote::{Fate, Plan, plan};
use crate::publish::{Unpublished, rename_packs, sync_packs, write_manifests};
use crate::restore::check_restorable;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::{ErrorKind, Fault, ReadError};

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
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

impl Store {
    /// Makes a snapshot, by default the newest one, the base of a new generation. Its ancestors are
    /// dropped; the other snapshots of its generation are described anew and keep their contents. Ids
    /// from before lead to the new ones. Promoting a base changes nothing but dropping its ancestors.
    ///
    /// # Errors
    /// If there is nothing to promote, if something that must be kept is damaged, or if the disk is full
    /// or fails. Nothing is dropped then.
    pub fn rebase(
        &self,
        service: &ServiceName,
        promote: Option<SnapshotId>,
    ) -> Result<RebaseReport, RebaseError> {
        if promote.is_none() {
            self.refuse_doubt(&format!("{service}@latest"))?;
        }
        let shared = &self.shared;
        let _gate =
            shared.gates.take(service).ok_or_else(|| RebaseError::Busy { service: service.clone() })?;
        // A copy: planning takes long, and the gate keeps everybody else from this service.
        let state = shared.state().clone();
        let promoted = choose(&state, service, promote)?;
        check_restorable(shared, promoted.id)?;
        let fate = Fate::decide(&state, &promoted);
        let rewriting = promoted.manifest.base().is_some();
        let Plan { snapshots, packs } =
            if rewriting { plan(shared, &state, &promoted, &fate)? } else { Plan::default() };
        sync_packs(&packs)?;
        let kept: Vec<_> = snapshots.iter().map(|planned| (planned.old, planned.new.id)).collect();
        let mut gone = fate.dropped;
        gone.extend(kept.iter().filter_map(|(old, _)| state.snapshots.get(old).cloned()));
        let mut report = RebaseReport {
            base: kept.first().map_or(promoted.id, |(_, new)| *new),
            generation_dropped: rewriting.then(|| promoted.generation()),
            dropped: Vec::new(),
            kept,
            bytes_freed: 0,
            bytes_rewritten: packs.iter().map(|pack| pack.reference.bytes).sum(),
        };
        let renamed: BTreeSet<SnapshotId> = report.kept.iter().map(|(old, _)| *old).collect();
        report.dropped = gone.iter().map(|s| s.id).filter(|id| !renamed.contains(id)).collect();
        let mut database = shared.database();
        let mut undo = Unpublished::new(shared);
        if rewriting {
            intend(&mut database, &report.kept)?;
        }
        let refs = rename_packs(shared, packs, &mut undo)?;
        write_manifests(shared, snapshots.iter().map(|p| (p.new.id, p.new.encoded.as_slice())), &mut undo)?;
        undo.keep();
        let new = snapshots.into_iter().map(|planned| planned.new).collect();
        report.bytes_freed = replace(shared, &mut database, new, &refs, &gone, &report.kept)?;
        Ok(report)
    }
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

/// In one transaction makes new snapshots visible and old ones not; then removes the files that nobody
/// needs any more, and says how many bytes they had.
pub(crate) fn replace(
    shared: &Shared,
    database: &mut Database,
    new: Vec<Arc<Snapshot>>,
    new_packs: &[PackRef],
    old: &[Arc<Snapshot>],
    renamed: &[(SnapshotId, SnapshotId)],
) -> Result<u64, Fault> {
    let mut changes = Changes::default();
    for snapshot in old {
        changes.remove.snapshots.insert(snapshot.id, None);
        changes.add.gone.insert(snapshot.id, ());
    }
    for snapshot in &new {
        changes.add.snapshots.insert(snapshot.id, snapshot.level);
        changes.remove.intents.insert(snapshot.id, Vec::new());
        changes.remove.gone.insert(snapshot.id, ());
    }
    // The base itself names what it came from; the others' former ids are known only here.
    changes.add.aliases = renamed.iter().skip(1).copied().collect();
    let mut freed = Vec::new();
    shared.commit(database, &changes, |state| {
        state.packs.extend(new_packs.iter().map(|pack| (pack.id, pack.bytes)));
        state.snapshots.retain(|id, _| !changes.remove.snapshots.contains_key(id));
        state.snapshots.extend(new.into_iter().map(|snapshot| (snapshot.id, snapshot)));
        state.aliases.extend(&changes.add.aliases);
        let listed = state.listed_packs();
        let candidates = old.iter().flat_map(|snapshot| &snapshot.manifest.packs);
        for pack in candidates.filter(|pack| !listed.contains(&pack.id)) {
            if state.packs.remove(&pack.id).is_some() {
                freed.push(*pack);
            }
        }
    })?;
    Ok(remove_files(shared, database, old, &freed))
}

/// Removes files of dropped snapshots. What can't be removed now is swept at the next opening, so
/// nothing here is an error.
fn remove_files(shared: &Shared, database: &mut Database, old: &[Arc<Snapshot>], freed: &[PackRef]) -> u64 {
    let mut bytes = 0;
    let mut forgotten = Contents::default();
    for snapshot in old {
        let path = shared.layout.manifest(&snapshot.id);
        match shared.disk.remove(&path) {
            Ok(()) => {
                bytes += snapshot.encoded.len() as u64;
                forgotten.gone.insert(snapshot.id, ());
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "a dropped manifest stays for now"),
        }
    }
    for pack in freed {
        shared.directories.forget(&pack.id);
        match shared.pins.remove(pack.id) {
            Ok(_) => bytes += pack.bytes,
            Err(error) => tracing::warn!(pack = %pack.id, %error, "a dropped pack stays for now"),
        }
    }
    let dangling = dangling_aliases(&shared.state());
    forgotten.aliases = dangling.iter().map(|id| (*id, *id)).collect();
    let outcome = shared.disk.sync_folder(&shared.layout.manifests());
    if outcome.is_ok() {
        let changes = Changes { remove: forgotten, ..Changes::default() };
        let applied = shared.commit(database, &changes, |state| {
            state.aliases.retain(|id, _| !dangling.contains(id));
        });
        if let Err(error) = applied {
            tracing::warn!(%error, "the database still lists dropped snapshots");
        }
    }
    bytes
}

/// Aliases that lead nowhere any more.
fn dangling_aliases(state: &State) -> BTreeSet<SnapshotId> {
    state.aliases.keys().filter(|id| state.follow(**id).is_none()).copied().collect()
}
