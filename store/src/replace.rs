//! Replacing snapshots: new ones become visible and old ones not, and the files that nobody needs any more go.

use std::collections::BTreeSet;
use std::sync::Arc;

use sustain_proto::{PackId, PackRef, SnapshotId};

use crate::commit::Commit;
use crate::database::{Changes, Contents};
use crate::receive::IN_DOUBT;
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::{Fault, limits};

/// What was removed, and what goes when those who read it are done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) packs: usize,
    /// Of packs and manifests.
    pub(crate) bytes: u64,
    pub(crate) packs_held: usize,
    pub(crate) bytes_held: u64,
}

/// In one transaction makes new snapshots visible and old ones not; then removes the files that nobody
/// needs any more, and says how many these were. Former ids lead to what replaced them.
pub(crate) fn replace(
    shared: &Shared,
    commit: &mut Commit<'_>,
    new: Vec<Arc<Snapshot>>,
    new_packs: &[PackRef],
    old: &[Arc<Snapshot>],
    renamed: &[(SnapshotId, SnapshotId)],
) -> Result<Freed, Fault> {
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
    lead(&shared.state(), renamed, &mut changes);
    let mut freed = freed(&shared.state(), &new, old);
    if old.first().is_some_and(|snapshot| !shared.lost(&shared.seen(), &snapshot.manifest.service).is_empty())
    {
        // What is lost may list them.
        changes.add.received.extend(freed.drain(..).map(|pack| (pack.id, IN_DOUBT)));
    }
    let expected = shared.expected.packs();
    let turn =
        shared.seen().received.values().filter(|turn| **turn < IN_DOUBT).max().map_or(1, |last| last + 1);
    // They are as good as received for what is still to come.
    freed.retain(|pack| {
        let stays = expected.contains(&pack.id);
        changes.add.received.extend(stays.then_some((pack.id, turn)));
        !stays
    });
    changes.add.packs.extend(new_packs.iter().map(|pack| (pack.id, pack.bytes)));
    changes.remove.packs.extend(freed.iter().map(|pack| (pack.id, pack.bytes)));
    commit.apply(&changes, new)?;
    commit.settle_aside();
    Ok(remove_files(shared, commit, old, &freed))
}

/// The packs that only the old snapshots list.
pub(crate) fn freed(state: &State, new: &[Arc<Snapshot>], old: &[Arc<Snapshot>]) -> Vec<PackRef> {
    let goes: BTreeSet<SnapshotId> = old.iter().map(|snapshot| snapshot.id).collect();
    let stays = state.snapshots.values().filter(|snapshot| !goes.contains(&snapshot.id)).chain(new);
    let mut seen: BTreeSet<PackId> =
        stays.flat_map(|s| s.manifest.packs.iter().map(|pack| pack.id)).collect();
    let candidates = old.iter().flat_map(|snapshot| &snapshot.manifest.packs);
    candidates.filter(|pack| seen.insert(pack.id) && state.packs.contains_key(&pack.id)).copied().collect()
}

/// Has former ids lead to what replaced them in one step, however many rebases there were, and bounds how many do.
fn lead(state: &State, renamed: &[(SnapshotId, SnapshotId)], changes: &mut Changes) {
    for (old, new) in renamed.iter().filter(|(old, new)| old != new) {
        let named = state.snapshots.get(old).map_or(&[][..], |snapshot| snapshot.came_from());
        let by_row = state.aliases.iter().filter(|(_, to)| *to == old).map(|(id, _)| *id);
        let mut former: Vec<SnapshotId> = by_row.chain(named.iter().copied()).collect();
        let surplus = (former.len() + 1).saturating_sub(limits::FORMER_IDS_MAX);
        changes.remove.aliases.extend(former.drain(..surplus).map(|id| (id, *old)));
        changes.add.aliases.extend(former.into_iter().map(|id| (id, *new)));
        changes.add.aliases.insert(*old, *new);
    }
}

/// Removes files of dropped snapshots. What can't be removed now is swept at the next opening, so
/// nothing here is an error.
fn remove_files(shared: &Shared, commit: &mut Commit<'_>, old: &[Arc<Snapshot>], freed: &[PackRef]) -> Freed {
    let mut removed = Freed::default();
    let mut forgotten = Contents::default();
    for snapshot in old {
        let path = shared.layout.manifest(&snapshot.id);
        match shared.disk.remove(&path) {
            Ok(()) => {
                removed.bytes += snapshot.encoded.len() as u64;
                forgotten.gone.insert(snapshot.id, ());
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "a dropped manifest stays for now"),
        }
    }
    for pack in freed {
        match commit.remove_pack(pack.id) {
            Ok(true) => {
                removed.packs += 1;
                removed.bytes += pack.bytes;
            }
            Ok(false) => {
                removed.packs_held += 1;
                removed.bytes_held += pack.bytes;
            }
            Err(error) => tracing::warn!(pack = %pack.id, %error, "a dropped pack stays for now"),
        }
    }
    let dangling = dangling_aliases(&shared.state());
    forgotten.aliases = dangling.into_iter().map(|id| (id, id)).collect();
    let outcome = shared.disk.sync_folder(&shared.layout.manifests());
    if outcome.is_ok() {
        let changes = Changes { remove: forgotten, ..Changes::default() };
        let applied = commit.apply(&changes, Vec::new());
        if let Err(error) = applied {
            tracing::warn!(%error, "the database still lists dropped snapshots");
        }
    }
    removed
}

/// Aliases that lead nowhere any more.
fn dangling_aliases(state: &State) -> BTreeSet<SnapshotId> {
    state.aliases.keys().filter(|id| state.follow(**id).is_none()).copied().collect()
}
