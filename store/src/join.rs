//! Opening a store that other processes have open: what they see is read, and nothing is put right. Where something is
//! not as it should be, nothing is taken from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use sustain_proto::SnapshotId;

use crate::database::{Database, News};
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::state::{Snapshot, State};
use crate::sweep::read_manifest;
use crate::{Fault, limits};

/// What the database and the manifests say; none if that is not whole, or others change it too fast. No lock is held.
pub(crate) fn join(
    disk: &dyn Disk,
    layout: &Layout,
    database: &mut Database,
) -> Result<Option<State>, Fault> {
    let mut known: BTreeMap<SnapshotId, Arc<Snapshot>> = BTreeMap::new();
    for _ in 0..limits::JOIN_TRIES {
        let all_well = read_manifests(disk, layout, &mut known)?;
        if matches!(database.follow()?, News::None) {
            let contents = database.contents();
            let mut state = State::default();
            state.become_like(contents, &known);
            let packs = state.snapshots.values().flat_map(|snapshot| &snapshot.manifest.packs);
            let packs_here = packs.clone().all(|pack| state.packs.get(&pack.id) == Some(&pack.bytes));
            let mut bases = state.snapshots.values().filter_map(|snapshot| snapshot.manifest.base());
            let bases_here = bases.all(|base| state.snapshots.contains_key(&base));
            let all_here = packs_here && bases_here && state.snapshots.len() == contents.snapshots.len();
            let whole = all_well && all_here;
            return Ok(whole.then_some(state));
        }
        database.settled();
    }
    Ok(None)
}

/// Reads those that are not known. Whether all that are there can be read.
fn read_manifests(
    disk: &dyn Disk,
    layout: &Layout,
    known: &mut BTreeMap<SnapshotId, Arc<Snapshot>>,
) -> Result<bool, Fault> {
    let folder = layout.manifests();
    let mut all_well = true;
    for entry in disk.list(&folder).during("list", &folder)? {
        let Some(id) = Layout::parse_manifest(&entry.name).filter(|id| !known.contains_key(id)) else {
            continue;
        };
        match read_manifest(disk, &folder.join(&entry.name), id) {
            Ok((manifest, encoded)) => {
                known.insert(id, Arc::new(Snapshot { id, manifest, encoded, level: None }));
            }
            // One that was dropped in this moment makes news.
            Err(Fault::Damaged { .. }) => all_well = false,
            Err(fault) => return Err(fault),
        }
    }
    Ok(all_well)
}
