//! Manifests that were missing or could not be read when the store was opened, and may come back: put back by somebody,
//! or sent by another node. Until then nothing goes that they may list, and nothing takes their places.

use sustain_proto::{Manifest, ServiceName, SnapshotId};

use crate::BadFile;
use crate::layout::Layout;
use crate::state::State;
use crate::store::Shared;

impl Shared {
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
