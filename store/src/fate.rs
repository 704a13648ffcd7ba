//! Logic: what becomes of each snapshot of a service when a generation ends, or is tidied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::limits::HELD_MAX;
use sustain_proto::{Held, SnapshotId};

use crate::holds::{Family, Reason, Wishes, holds};
use crate::named_pins::Identity;
use crate::state::{Snapshot, State};

/// Where snapshots go that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To a new generation, whose base the promoted snapshot becomes.
    NewGeneration,
    /// To the generation that the promoted snapshot is of. Those that are in it stay as they are.
    ItsGeneration,
}

/// Which snapshots of a service go, and which stay, some of them under new ids.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) dropped: Vec<Arc<Snapshot>>,
    /// Oldest first, the promoted one not among them.
    pub(crate) rewritten: Vec<Arc<Snapshot>>,
    /// Those that were dropped since another one is the same, and that one.
    pub(crate) doubles: Vec<(SnapshotId, SnapshotId)>,
    /// Why what stays does.
    pub(crate) reasons: BTreeMap<SnapshotId, BTreeSet<Reason>>,
}

impl Fate {
    /// Ancestors of the promoted snapshot go, and whatever else there is no reason for. Everything that is newer
    /// stays, and so do heads that no lineage shows to be ancestors (P13).
    pub(crate) fn decide(state: &State, promoted: &Snapshot, goal: Goal, wishes: Wishes<'_>) -> Self {
        let all = state.of_service(&promoted.manifest.service);
        let mut reasons = holds(&all, promoted, wishes);
        let doubles = doubles(&all, promoted, goal);
        doubles.iter().for_each(|(double, _)| drop(reasons.remove(double)));
        let target = (goal == Goal::ItsGeneration).then(|| promoted.generation());
        let others = all.iter().filter(|snapshot| snapshot.id != promoted.id);
        let (kept, unheld): (Vec<_>, Vec<_>) =
            others.cloned().partition(|snapshot| reasons.contains_key(&snapshot.id));
        let mut fate = Self { dropped: Vec::new(), rewritten: Vec::new(), doubles, reasons };
        let is_elsewhere = |snapshot: &Arc<Snapshot>| target.is_none_or(|to| snapshot.generation() != to);
        fate.rewritten = kept.into_iter().filter(is_elsewhere).collect();
        fate.dropped = unheld;
        // What is rewritten needs its old base no more.
        fate.keep_bases(state, &all, promoted, target);
        fate.drop_broken(state, promoted, target);
        fate
    }

    /// A base stays as long as a delta needs it that is neither dropped nor rewritten.
    fn keep_bases(
        &mut self,
        state: &State,
        all: &[Arc<Snapshot>],
        promoted: &Snapshot,
        target: Option<SnapshotId>,
    ) {
        let family = Family::of(all);
        let rewritten: BTreeSet<SnapshotId> = self.rewritten.iter().map(|snapshot| snapshot.id).collect();
        let dropped: BTreeSet<SnapshotId> = self.dropped.iter().map(|snapshot| snapshot.id).collect();
        let stays = |s: &Snapshot| {
            // Those of which a file is missing may be made whole again.
            let is_broken = !state.is_whole(s);
            let goes_broken = is_broken && goes_broken(&family, s, promoted, target);
            !rewritten.contains(&s.id) && !dropped.contains(&s.id) && !goes_broken && s.id != promoted.id
        };
        let of_service = state.all_of_service(&promoted.manifest.service);
        let needed = of_service.iter().filter(|s| stays(s)).map(|s| s.generation());
        let needed: BTreeSet<SnapshotId> = needed.chain(target).collect();
        self.dropped.retain(|snapshot| !needed.contains(&snapshot.id));
        for base in needed.into_iter().filter(|base| dropped.contains(base)) {
            self.reasons.insert(base, BTreeSet::from([Reason::Needed]));
        }
    }

    /// What has lost packs can't be described anew, and does not outlive its base.
    fn drop_broken(&mut self, state: &State, promoted: &Snapshot, target: Option<SnapshotId>) {
        let all = state.all_of_service(&promoted.manifest.service);
        let family = Family::of(&all);
        let goes = |s: &&Arc<Snapshot>| !state.is_whole(s) && goes_broken(&family, s, promoted, target);
        self.dropped.extend(all.iter().filter(goes).cloned());
    }

    /// The new ids of what is kept besides what follows the base.
    pub(crate) fn held_as(&self, kept: &[(SnapshotId, SnapshotId)]) -> Vec<SnapshotId> {
        let held = self.rewritten.iter().rev().filter(|snapshot| !self.follows(snapshot));
        held.filter_map(|s| kept.iter().find(|(old, _)| *old == s.id)).map(|(_, new)| *new).collect()
    }

    fn follows(&self, snapshot: &Snapshot) -> bool {
        self.reasons.get(&snapshot.id).is_some_and(|why| why.contains(&Reason::Newer))
    }

    /// What the new base's manifest says that its rebase kept besides what follows the base, the newest first.
    pub(crate) fn held(&self) -> Vec<Held> {
        let held = self.rewritten.iter().rev().filter(|snapshot| !self.follows(snapshot));
        held.map(|s| Held { term: s.manifest.term, seq: s.manifest.seq }).take(HELD_MAX).collect()
    }
}

/// Whether a snapshot that can't be read goes: with its generation, or as an ancestor.
fn goes_broken(family: &Family, s: &Snapshot, promoted: &Snapshot, target: Option<SnapshotId>) -> bool {
    let ends_with_it = target.is_none() && s.generation() == promoted.generation();
    ends_with_it || family.precedes(s, promoted)
}

/// Snapshots that are the same as another one, by another id, and that one: the promoted one, or the newest form.
fn doubles(all: &[Arc<Snapshot>], promoted: &Snapshot, goal: Goal) -> Vec<(SnapshotId, SnapshotId)> {
    let mut kept = BTreeMap::from([(Identity::of(promoted), promoted.id)]);
    let is_home = |s: &&Arc<Snapshot>| s.generation() == promoted.generation();
    let (home, others): (Vec<_>, Vec<_>) = all.iter().rev().partition(is_home);
    let mut doubles = Vec::new();
    for snapshot in home.into_iter().chain(others) {
        let first = *kept.entry(Identity::of(snapshot)).or_insert(snapshot.id);
        // A base that is its own generation's stays with it.
        let is_target = goal == Goal::ItsGeneration && snapshot.id == promoted.generation();
        if first != snapshot.id && !is_target {
            doubles.push((snapshot.id, first));
        }
    }
    doubles
}
