//! Replacing snapshots: new ones become visible and old ones not, and the files that nobody needs any more go.

use std::collections::BTreeSet;
use std::sync::Arc;

use sustain_proto::{PackRef, SnapshotId};

use crate::Fault;
use crate::database::{Changes, Contents, Database};
use crate::state::{Snapshot, State};
use crate::store::Shared;

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
