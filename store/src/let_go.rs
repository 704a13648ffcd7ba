//! Letting go of snapshots that others hold: a node that held whole packs is to hold something else from now on.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{NodeId, ServiceName, SnapshotId};

use crate::RebaseError;
use crate::gate::Work;
use crate::named_pins::NamedPins;
use crate::replace::replace;
use crate::state::{Snapshot, State};
use crate::store::Store;

/// What was let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LetGo {
    /// Snapshots that are gone.
    pub dropped: BTreeSet<SnapshotId>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
}

impl Store {
    /// Lets go of those of a service's snapshots that somebody else was said to hold, with the packs that only they
    /// list. What is pinned stays, what this node pushed and nobody else was said to have, and bases that something
    /// that stays needs.
    ///
    /// # Errors
    /// If a push or rebase of the service is going on, or the disk is full or fails.
    pub fn let_go(
        &self,
        service: &ServiceName,
        snapshots: &BTreeSet<SnapshotId>,
        own: NodeId,
    ) -> Result<LetGo, RebaseError> {
        let shared = &self.shared;
        let busy = || RebaseError::Busy { service: service.clone() };
        let _rebase = shared.gates.take(Work::Rebase, service).ok_or_else(busy)?;
        let _change = shared.gates.take(Work::Change, service).ok_or_else(busy)?;
        let pins = NamedPins::read(shared.disk.as_ref(), &shared.layout)?;
        let mut commit = shared.begin_commit()?;
        let going = going(&shared.seen(), service, |snapshot: &Snapshot| {
            let is_only_here = snapshot.manifest.term.node == own && snapshot.level.is_none();
            snapshots.contains(&snapshot.id) && !is_only_here && pins.of(snapshot).is_empty()
        });
        if going.is_empty() {
            return Ok(LetGo::default());
        }
        let freed = replace(shared, &mut commit, Vec::new(), &[], &going, &[])?;
        Ok(LetGo { dropped: going.iter().map(|snapshot| snapshot.id).collect(), bytes_freed: freed.bytes })
    }
}

/// What may go, but for bases of what stays.
fn going(state: &State, service: &ServiceName, may_go: impl Fn(&Snapshot) -> bool) -> Vec<Arc<Snapshot>> {
    let all = state.all_of_service(service);
    let (mut going, stays): (Vec<_>, Vec<_>) = all.into_iter().partition(|snapshot| may_go(snapshot));
    let needed: BTreeSet<SnapshotId> = stays.iter().map(|snapshot| snapshot.generation()).collect();
    going.retain(|snapshot| !needed.contains(&snapshot.id));
    going
}
