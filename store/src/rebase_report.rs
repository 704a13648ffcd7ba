//! What comes of a rebase, and whether it still may.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::SnapshotId;

use crate::Fault;
use crate::fate::{Fate, Goal};
use crate::named_pins::{Identity, NamedPins};
use crate::promote::Planned;
use crate::state::{Snapshot, State};
use crate::store::Shared;

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

/// Whether something is against it that was not when it was decided: somebody has pinned what is to go, or a delta has
/// come that needs a base that is to go. The caller holds the commit lock, which both take as well.
pub(crate) fn has_changed(
    shared: &Shared,
    gone: &[Arc<Snapshot>],
    report: &RebaseReport,
) -> Result<bool, Fault> {
    let pins = NamedPins::read(shared.disk.as_ref(), &shared.layout)?;
    let state = shared.state();
    let going: BTreeSet<SnapshotId> = gone.iter().map(|snapshot| snapshot.id).collect();
    let dropped: BTreeSet<SnapshotId> = report.dropped.iter().copied().collect();
    let mut stays = state.snapshots.values().filter(|s| !going.contains(&s.id));
    if stays.any(|s| going.contains(&s.generation())) {
        return Ok(true);
    }
    // One of which files are missing can't be kept, and of one that is here twice one form may go.
    let kept: BTreeSet<Identity> =
        state.snapshots.values().filter(|s| !dropped.contains(&s.id)).map(|s| Identity::of(s)).collect();
    let is_lost = |s: &Arc<Snapshot>| {
        dropped.contains(&s.id)
            && state.is_whole(s)
            && !pins.of(s).is_empty()
            && !kept.contains(&Identity::of(s))
    };
    Ok(gone.iter().any(is_lost))
}
