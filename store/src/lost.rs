//! Manifests that were missing or could not be read when the store was opened, and may come back: put back by somebody,
//! or sent by another node. Until then nothing goes that they may list, and nothing takes their places.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use sustain_proto::{Manifest, ServiceName, SnapshotId};

use crate::database::Changes;
use crate::layout::Layout;
use crate::replace::replace;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::sweep::read_manifest;
use crate::{BadFile, Fault, ReadError};

impl Store {
    /// Lets go, for good, of the snapshots whose manifests are missing or can't be read, and of what can't be read
    /// without them: the deltas of such a base. Their packs go at the next opening, or when what no snapshot lists is
    /// collected if the journal was made anew. Which these are; with `dry_run` that is all.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn forget_lost(&self, dry_run: bool) -> Result<BTreeSet<SnapshotId>, Fault> {
        let shared = &self.shared;
        let mut commit = shared.begin_commit()?;
        let state = shared.seen().clone();
        let is_lost = |id: &SnapshotId| {
            let path = shared.layout.manifest(id);
            !state.snapshots.contains_key(id) && read_manifest(shared.disk.as_ref(), &path, *id).is_err()
        };
        let folder = shared.layout.manifests();
        let bad = shared.report.bad.iter().filter(|bad| bad.path.parent() == Some(&folder));
        let lost: BTreeSet<SnapshotId> =
            bad.filter_map(|bad| Layout::manifest_of(&bad.path)).filter(is_lost).collect();
        let needs_lost = |s: &&Arc<Snapshot>| s.manifest.base().is_some_and(|base| lost.contains(&base));
        let deltas: Vec<Arc<Snapshot>> = state.snapshots.values().filter(needs_lost).cloned().collect();
        let all = lost.iter().copied().chain(deltas.iter().map(|delta| delta.id)).collect();
        if dry_run || lost.is_empty() {
            return Ok(all);
        }
        let mut changes = Changes::default();
        changes.remove.snapshots = lost.iter().map(|id| (*id, None)).collect();
        changes.add.gone = lost.iter().map(|id| (*id, ())).collect();
        commit.apply(&changes, Vec::new())?;
        replace(shared, &mut commit, Vec::new(), &[], &deltas, &[])?;
        for path in lost.iter().map(|id| shared.layout.manifest(id)) {
            match shared.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a damaged manifest stays until the next opening");
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

impl Shared {
    /// Why a snapshot is not here: its manifest was found to be missing or damaged, or there never was one.
    pub(crate) fn absence(&self, state: &State, id: SnapshotId) -> ReadError {
        let path = self.layout.manifest(&id);
        let is_needed = || state.snapshots.values().any(|snapshot| snapshot.manifest.base() == Some(id));
        match self.report.bad.iter().find(|bad| bad.path == path) {
            Some(bad) => Fault::damaged(&path, &bad.reason).into(),
            None if is_needed() => Fault::damaged(&path, "the file is missing").into(),
            None => ReadError::NotFound { selector: id.to_string() },
        }
    }

    /// The same for the beginning of an id. None if nothing that is lost begins so.
    pub(crate) fn absence_of(&self, state: &State, prefix: &str) -> Option<ReadError> {
        let bad = self.report.bad.iter().filter_map(|bad| Layout::manifest_of(&bad.path));
        let bases = state.snapshots.values().filter_map(|snapshot| snapshot.manifest.base());
        let mut lost = bad.chain(bases).filter(|id| !state.snapshots.contains_key(id));
        lost.find(|id| id.to_string().starts_with(prefix)).map(|id| self.absence(state, id))
    }

    /// Those that have not come back and may be of this service. Whose a base was, its deltas tell.
    pub(crate) fn lost(&self, state: &State, service: &ServiceName) -> Vec<&BadFile> {
        let may_be = |id: SnapshotId| {
            let mut deltas = state.snapshots.values().filter(|s| s.manifest.base() == Some(id)).peekable();
            deltas.peek().is_none() || deltas.any(|delta| delta.manifest.service == *service)
        };
        let folder = self.layout.manifests();
        let is_lost = |bad: &&BadFile| {
            let id = Layout::manifest_of(&bad.path);
            bad.path.parent() == Some(&folder)
                && id.is_some_and(|id| !state.snapshots.contains_key(&id) && may_be(id))
        };
        self.report.bad.iter().filter(is_lost).collect()
    }

    /// The number of what follows a service's newest snapshot. What is lost may have some of the next ones, and is not
    /// to be taken for what comes now when it is back.
    pub(crate) fn next_number(&self, state: &State, newest: &Manifest) -> u64 {
        newest.seq.saturating_add(1).saturating_add(self.lost(state, &newest.service).len() as u64)
    }

    /// Whether packs that no manifest lists may be needed all the same.
    pub(crate) fn is_uncertain(&self, state: &State) -> bool {
        let (manifests, packs) = (self.layout.manifests(), self.layout.packs());
        self.report.bad.iter().any(|bad| {
            let has_come =
                || Layout::manifest_of(&bad.path).is_some_and(|id| state.snapshots.contains_key(&id));
            bad.path.starts_with(&packs) || (bad.path.starts_with(&manifests) && !has_come())
        })
    }
}
