//! Retiring: a follower arrives at the generation of the base that it received, as its server did (P10).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{Held, SnapshotId};

use crate::RebaseError;
use crate::commit::Commit;
use crate::gate::Work;
use crate::generation::visible;
use crate::holds::{Family, Reason, Wishes, holds};
use crate::named_pins::{Identity, NamedPins};
use crate::parallel::behind;
use crate::promote::{Draft, Plan};
use crate::publish::{Unpublished, instead_of, intend, rename_packs, write_manifests};
use crate::replace::replace;
use crate::retention::Retention;
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::{NoProgress, ReadError};

/// What was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RetireReport {
    /// Snapshots that are gone.
    pub dropped: Vec<SnapshotId>,
    /// Snapshots that only this node has a reason to keep, and that are described by the new base now: old and new ids.
    pub kept: Vec<(SnapshotId, SnapshotId)>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
}

/// What becomes of older generations once a base is here.
#[derive(Debug, Default)]
struct Outcome {
    /// They go, and nothing replaces them.
    dropped: Vec<Arc<Snapshot>>,
    /// They go, since the same is here in the base's generation.
    doubles: Vec<(Arc<Snapshot>, Arc<Snapshot>)>,
    /// The base's server may not have them: they are to be described by the base.
    own: Vec<Arc<Snapshot>>,
}

impl Outcome {
    fn is_nothing(&self) -> bool {
        self.dropped.is_empty() && self.doubles.is_empty() && self.own.is_empty()
    }

    /// Leaves snapshots that somebody counts on.
    fn keep(&mut self, expected: &BTreeSet<SnapshotId>) {
        let Self { dropped, doubles, own } = self;
        dropped.retain(|s| !expected.contains(&s.id));
        doubles.retain(|(s, _)| !expected.contains(&s.id));
        own.retain(|s| !expected.contains(&s.id));
    }

    /// Leaves bases of older generations that what stays of these needs, when so many are described by the new base.
    fn keep_bases(&mut self, state: &State, base: &Snapshot, described: impl Fn(&SnapshotId) -> bool) {
        let mut going: BTreeSet<SnapshotId> = self.dropped.iter().map(|snapshot| snapshot.id).collect();
        going.extend(self.doubles.iter().map(|(double, _)| double.id));
        let of_service = state.all_of_service(&base.manifest.service);
        let stays = of_service.iter().filter(|s| !going.contains(&s.id) && !described(&s.id));
        let needed: BTreeSet<SnapshotId> = stays.map(|s| s.generation()).collect();
        self.dropped.retain(|s| !needed.contains(&s.id));
        self.doubles.retain(|(s, _)| !needed.contains(&s.id));
        self.own.retain(|s| described(&s.id) && !needed.contains(&s.id));
    }
}

impl Store {
    /// A follower's half of a rebase: older generations than the given base's go. What the base's server has kept is
    /// waited for, and goes when it is here in its new form. What only this node has a reason to keep (a head, a pin)
    /// is described by the new base here. Nothing durable goes before what supersedes it is durable too. May be
    /// repeated, and is to be, when more of the generation has come or has become durable.
    ///
    /// # Errors
    /// If the base is not whole here or is no base, if a push or rebase is going on, or if the disk fails.
    pub fn retire_superseded(&self, base: SnapshotId) -> Result<RetireReport, RebaseError> {
        let shared = &self.shared;
        let (found, outcome) = look(shared, &shared.state().clone(), base)?;
        if outcome.is_nothing() {
            return Ok(RetireReport::default());
        }
        let service = found.manifest.service.clone();
        let busy = || RebaseError::Busy { service: service.clone() };
        let _rebase = shared.gates.take(Work::Rebase, &service).ok_or_else(busy)?;
        let choose = |state: &State| {
            let (base, outcome) = look(shared, state, base)?;
            let packs = base.manifest.packs.iter().chain(outcome.own.iter().flat_map(|s| {
                let base = state.snapshots.get(&s.generation());
                s.manifest.packs.iter().chain(base.into_iter().flat_map(|base| &base.manifest.packs))
            }));
            let pinned = packs.map(|pack| *pack.id.as_bytes()).collect();
            Ok::<_, RebaseError>(((state.clone(), base, outcome), pinned))
        };
        let ((state, base, outcome), pin) = shared.pinned(choose)?;
        let draft = describe_own(shared, &state, &base, &outcome.own);
        let _change = shared.gates.take(Work::Change, &service).ok_or_else(busy)?;
        // More may have come, or have gone; from here on it can't.
        let mut lock = shared.begin_commit()?;
        let state = shared.state().clone();
        let (base, outcome) = look(shared, &state, base.id)?;
        drop(pin);
        commit(shared, &mut lock, &state, &base, (outcome, draft))
    }
}

/// Describes snapshots by a base. Those that can't be, since they are damaged here or the key is elsewhere, stay as
/// they are, with the base that they have.
fn describe_own(
    shared: &Shared,
    state: &State,
    base: &Arc<Snapshot>,
    own: &[Arc<Snapshot>],
) -> Option<Draft> {
    if own.is_empty() {
        return None;
    }
    let outcome = behind(|| {
        let mut draft = Draft::onto(shared, base)?;
        for snapshot in own {
            if let Err(error) = draft.extend(shared, state, std::slice::from_ref(snapshot), &NoProgress) {
                tracing::warn!(snapshot = %snapshot.id, %error, "a snapshot of an older generation stays as it is");
            }
        }
        draft.sync()?;
        Ok::<_, RebaseError>(draft)
    });
    outcome
        .inspect_err(|error| tracing::warn!(base = %base.id, %error, "an older generation stays for now"))
        .ok()
}

fn look(shared: &Shared, state: &State, base: SnapshotId) -> Result<(Arc<Snapshot>, Outcome), RebaseError> {
    let base = visible(state, base)?;
    if base.manifest.base().is_some() {
        return Err(RebaseError::NoBase { id: base.id });
    }
    if !state.is_whole(&base) {
        return Err(ReadError::NotFound { selector: base.id.to_string() }.into());
    }
    let pins = NamedPins::read(shared.disk.as_ref(), &shared.layout)?;
    let mut outcome = decide(state, &base, &pins);
    outcome.keep(&shared.expected.snapshots());
    let own: BTreeSet<SnapshotId> = outcome.own.iter().map(|snapshot| snapshot.id).collect();
    outcome.keep_bases(state, &base, |id| own.contains(id));
    Ok((base, outcome))
}

fn decide(state: &State, base: &Arc<Snapshot>, pins: &NamedPins) -> Outcome {
    let mut outcome = Outcome::default();
    if base.came_from().is_empty() {
        return outcome;
    }
    let all = state.of_service(&base.manifest.service);
    let family = Family::of(&all);
    let wishes = Wishes { retention: Retention::NOTHING, now_ms: 0, pins };
    let reasons = holds(&all, base, wishes);
    let expected: BTreeSet<Held> = base.held().iter().copied().collect();
    let of_base: Vec<_> = all.iter().filter(|s| s.generation() == base.id).collect();
    for snapshot in all.iter().filter(|s| state.is_older(s, base)) {
        let identity = Identity::of(snapshot);
        if let Some(same) = of_base.iter().find(|other| Identity::of(other) == identity) {
            outcome.doubles.push((snapshot.clone(), (*same).clone()));
            continue;
        }
        let (term, seq) = (snapshot.manifest.term, snapshot.manifest.seq);
        let why = reasons.get(&snapshot.id);
        let is = |reason| why.is_some_and(|why| why.contains(&reason));
        let has_pin = !pins.of(snapshot).is_empty();
        if expected.contains(&Held { term, seq }) || (is(Reason::Newer) && is(Reason::Head)) {
            // Its server sends it, or what comes after it.
        } else if has_pin || (is(Reason::Head) && !is(Reason::Newer)) {
            outcome.own.push(snapshot.clone());
        } else if !is(Reason::NewestDurable) {
            outcome.dropped.push(snapshot.clone());
        }
    }
    // What has lost packs can't be described anew, and goes with what it continued.
    let all_known = state.all_of_service(&base.manifest.service);
    let broken = all_known.iter().filter(|s| !state.is_whole(s) && state.is_older(s, base));
    outcome.dropped.extend(broken.filter(|s| family.precedes(s, base)).cloned());
    outcome
}

/// Makes it so. The caller holds the service's gates.
fn commit(
    shared: &Shared,
    lock: &mut Commit<'_>,
    state: &State,
    base: &Arc<Snapshot>,
    (outcome, draft): (Outcome, Option<Draft>),
) -> Result<RetireReport, RebaseError> {
    let mut outcome = outcome;
    let described = |id: &SnapshotId| draft.as_ref().is_some_and(|draft| draft.described.contains_key(id));
    outcome.keep_bases(state, base, described);
    if outcome.is_nothing() {
        return Ok(RetireReport::default());
    }
    let Outcome { dropped, doubles, own } = outcome;
    let Plan { snapshots, packs } = draft.map(|draft| draft.finish(&own)).unwrap_or_default();
    let kept: Vec<_> = snapshots.iter().map(|planned| (planned.old, planned.new.id)).collect();
    let old: Vec<Arc<Snapshot>> =
        dropped.into_iter().chain(doubles.iter().map(|(double, _)| double.clone())).chain(own).collect();
    let replaced: BTreeSet<SnapshotId> = kept.iter().map(|(old, _)| *old).collect();
    let mut undo = Unpublished::new(shared);
    intend(lock, instead_of(&kept))?;
    let refs = rename_packs(shared, packs, &mut undo)?;
    write_manifests(shared, snapshots.iter().map(|p| (p.new.id, p.new.encoded.as_slice())), &mut undo)?;
    undo.keep();
    let mut renamed = kept.clone();
    renamed.extend(doubles.iter().map(|(old, same)| (old.id, same.id)));
    let mut new: Vec<_> = snapshots.into_iter().map(|planned| planned.new).collect();
    new.extend(marked(&shared.state(), &doubles));
    let freed = replace(shared, lock, new, &refs, &old, &renamed)?;
    let dropped = old.iter().map(|s| s.id).filter(|id| !replaced.contains(id)).collect();
    Ok(RetireReport { dropped, kept, bytes_freed: freed.bytes })
}

/// The same contents are as durable by their new ids as by their old ones.
fn marked(state: &State, doubles: &[(Arc<Snapshot>, Arc<Snapshot>)]) -> Vec<Arc<Snapshot>> {
    let mut marked: Vec<Arc<Snapshot>> = Vec::new();
    for (old, same) in doubles {
        let level = |s: &Snapshot| state.snapshots.get(&s.id).and_then(|now| now.level);
        if level(old) > level(same) {
            marked.push(Arc::new(Snapshot { level: level(old), ..Snapshot::clone(same) }));
        }
    }
    marked
}
