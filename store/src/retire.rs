//! Retiring: a follower drops what the base that it received has superseded.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{Lineage, SnapshotId};

use crate::RebaseError;
use crate::gate::Work;
use crate::generation::visible;
use crate::replace::replace;
use crate::state::{Snapshot, State};
use crate::store::Store;

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetireReport {
    /// Snapshots that are gone.
    pub dropped: Vec<SnapshotId>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
}

impl Store {
    /// A follower's half of a rebase: drops the snapshots of older generations that the given base has
    /// superseded, which are those that it came from and their ancestors. Never drops another head, nor
    /// a base that a kept delta needs.
    ///
    /// # Errors
    /// If the base is not whole here or is no base, or if the disk fails.
    pub fn retire_superseded(&self, base: SnapshotId) -> Result<RetireReport, RebaseError> {
        let shared = &self.shared;
        let service = visible(&shared.state(), base)?.manifest.service.clone();
        let _gate = shared
            .gates
            .take(Work::Change, &service)
            .ok_or_else(|| RebaseError::Busy { service: service.clone() })?;
        let mut database = shared.database();
        let old = {
            let state = shared.state();
            let base = visible(&state, base)?;
            if base.manifest.base().is_some() {
                return Err(RebaseError::NoBase { id: base.id });
            }
            if !state.is_whole(&base) {
                return Err(crate::ReadError::NotFound { selector: base.id.to_string() }.into());
            }
            superseded(&state, &base)
        };
        if old.is_empty() {
            return Ok(RetireReport { dropped: Vec::new(), bytes_freed: 0 });
        }
        let bytes_freed = replace(shared, &mut database, Vec::new(), &[], &old, &[])?;
        Ok(RetireReport { dropped: old.iter().map(|snapshot| snapshot.id).collect(), bytes_freed })
    }
}

/// The snapshots of other generations that are ancestors of a base, or that it came from.
fn superseded(state: &State, base: &Snapshot) -> Vec<Arc<Snapshot>> {
    if base.came_from().is_empty() {
        return Vec::new();
    }
    let service = &base.manifest.service;
    let all: Vec<_> = state.snapshots.values().filter(|s| s.manifest.service == *service).collect();
    let mut lineage = Lineage::default();
    all.iter().for_each(|snapshot| lineage.learn(&snapshot.manifest));
    let of = &base.manifest;
    let goes = |s: &Snapshot| {
        base.came_from().contains(&s.id)
            || lineage.contains(&of.term, of.seq, &s.manifest.term, s.manifest.seq)
    };
    let older = all.into_iter().filter(|snapshot| snapshot.generation() != base.id);
    let (going, staying): (Vec<_>, Vec<_>) = older.partition(|snapshot| goes(snapshot));
    let needed: BTreeSet<SnapshotId> = staying.iter().map(|snapshot| snapshot.generation()).collect();
    going.into_iter().filter(|snapshot| !needed.contains(&snapshot.id)).cloned().collect()
}
