//! What comes of a rebase.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::SnapshotId;

use crate::fate::{Fate, Goal};
use crate::promote::Planned;
use crate::state::{Snapshot, State};

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
    /// Those of them, by their new ids, that don't follow the base: other nodes are to be sent them too.
    #[serde(skip)]
    pub held: Vec<SnapshotId>,
    /// Packs that were removed.
    pub packs_freed: usize,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
    /// Packs that somebody reads, and that go when he is done. A preview does not look for readers: it counts all packs
    /// that go as removed.
    pub packs_held: usize,
    /// Bytes of those.
    pub bytes_held: u64,
    /// Bytes of packs that were written.
    pub bytes_rewritten: u64,
}

/// What comes of it, and all manifests that go.
pub(crate) fn report(
    state: &State,
    promoted: &Snapshot,
    goal: Goal,
    fate: &Fate,
    planned: &[Planned],
) -> (RebaseReport, Vec<Arc<Snapshot>>) {
    let kept: Vec<_> = planned.iter().map(|planned| (planned.old, planned.new.id)).collect();
    let mut gone = fate.dropped.clone();
    gone.extend(kept.iter().filter_map(|(old, _)| state.snapshots.get(old).cloned()));
    let renamed: BTreeSet<SnapshotId> = kept.iter().map(|(old, _)| *old).collect();
    let becomes = kept.iter().find(|(old, _)| *old == promoted.id);
    let report = RebaseReport {
        base: becomes.map_or(promoted.generation(), |(_, new)| *new),
        generation_dropped: (goal == Goal::NewGeneration).then(|| promoted.generation()),
        dropped: fate.dropped.iter().map(|s| s.id).filter(|id| !renamed.contains(id)).collect(),
        held: fate.held_as(&kept),
        kept,
        packs_freed: 0,
        bytes_freed: 0,
        packs_held: 0,
        bytes_held: 0,
        bytes_rewritten: 0,
    };
    (report, gone)
}

/// Former ids and what they lead to.
pub(crate) fn renamed(report: &RebaseReport, fate: &Fate) -> Vec<(SnapshotId, SnapshotId)> {
    let now = |id: SnapshotId| report.kept.iter().find(|(old, _)| *old == id).map_or(id, |(_, new)| *new);
    let doubles = fate.doubles.iter().map(|(double, first)| (*double, now(*first)));
    let dropped = doubles.filter(|(double, _)| report.dropped.contains(double));
    report.kept.iter().copied().chain(dropped).collect()
}
