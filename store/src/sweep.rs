//! What opening does to make folder, database and memory agree again, whatever interrupted the last user.
//!
//! A manifest that could be restored is never removed unless the database says that its snapshot was
//! dropped, or that it belongs to a rebase or an import that did not happen and whose old snapshots, if any, are all
//! still here, or that another one was acknowledged in its place: a database that has lost rows must not cost data.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use sustain_proto::limits::MANIFEST_BYTES_MAX;
use sustain_proto::{Manifest, PackId, SnapshotId};

use crate::aside;
use crate::database::{Changes, Contents, Database, Trust};
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::processes::{Others, OthersPins};
use crate::receive::IN_DOUBT;
use crate::state::{Snapshot, State};
use crate::{BadFile, Fault, OpenReport};

/// Removes the temporary files of processes that are dead.
pub(crate) fn sweep_temporaries(disk: &dyn Disk, layout: &Layout, others: &Others) -> Result<usize, Fault> {
    let root = layout.all_temporaries();
    let mut swept = 0;
    for entry in disk.list(&root).during("list", &root)? {
        let path = root.join(&entry.name);
        if !entry.folder {
            disk.remove(&path).during("remove", &path)?;
            swept += 1;
        } else if entry.name != layout.process() && !others.living.contains(&entry.name) {
            swept += sweep_folder(disk, &path, FOLDERS_DEEP_MAX)?;
        }
    }
    Ok(swept)
}

/// How deep folders may lie in each other that are swept: the store makes none, so these are somebody's mistake.
const FOLDERS_DEEP_MAX: u32 = 16;

/// Removes a folder and what is in it. One that lies too deep stays, with those around it.
fn sweep_folder(disk: &dyn Disk, folder: &Path, deep: u32) -> Result<usize, Fault> {
    let mut swept = 0;
    for entry in disk.list(folder).during("list", folder)? {
        let path = folder.join(entry.name);
        if !entry.folder {
            disk.remove(&path).during("remove", &path)?;
            swept += 1;
        } else if deep > 0 {
            swept += sweep_folder(disk, &path, deep - 1)?;
        }
    }
    match disk.remove_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %folder.display(), "a folder of temporary files is not empty, and stays");
            Ok(swept)
        }
        outcome => outcome.during("remove", folder).map(|()| swept),
    }
}

/// Reads all manifests, lists all packs, compares with the database, and settles what differs.
pub(crate) fn reconcile(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    database: &mut Database,
    (trust, pins): (Trust, &OthersPins),
    report: &mut OpenReport,
) -> Result<State, Fault> {
    let fresh = trust != Trust::Whole;
    let contents = database.contents().clone();
    let mut manifests = read_manifests(disk.as_ref(), layout, report)?;
    let trusted = match trust {
        Trust::Whole => true,
        // A new store, unless there is something that it should know.
        Trust::Fresh
            if manifests.is_empty() && report.bad.is_empty() && has_no_packs(disk.as_ref(), layout)? =>
        {
            true
        }
        Trust::Fresh => {
            report.rebuilt = Some("it is missing".to_owned());
            false
        }
        Trust::Rebuilt(reason) => {
            report.rebuilt = Some(reason);
            false
        }
    };
    let mut changes = Changes::default();
    remove_dropped(disk.as_ref(), layout, &contents, trusted, &mut manifests, &mut changes, report)?;
    for (id, snapshot) in &mut manifests {
        match contents.snapshots.get(id) {
            Some(level) => snapshot.level = *level,
            None => {
                changes.add.snapshots.insert(*id, None);
                report.adopted += usize::from(trusted);
            }
        }
    }
    changes.add.snapshots.extend(lost(&contents, trusted, &manifests, report));
    let known = contents.snapshots.keys().chain(changes.add.snapshots.keys());
    for id in known.filter(|id| !manifests.contains_key(id)) {
        let path = layout.manifest(id);
        if !report.bad.iter().any(|bad| bad.path == path) {
            report.bad.push(BadFile { path, reason: "the file is missing".to_owned() });
        }
    }
    let mut state = State { aliases: contents.aliases.clone(), ..State::default() };
    state.snapshots = manifests.into_iter().map(|(id, snapshot)| (id, Arc::new(snapshot))).collect();
    settle_packs(disk.as_ref(), layout, (&contents, trusted, pins), &mut state, &mut changes, report)?;
    if fresh || !changes.is_nothing() {
        database.note(&changes)?;
    }
    Ok(state)
}

/// A new store has none. In one that has lost its journal, and its manifests, these may come back.
fn has_no_packs(disk: &dyn Disk, layout: &Layout) -> Result<bool, Fault> {
    Ok(list_packs(disk, layout)?.is_empty() && aside::list(disk, layout).is_ok_and(|aside| aside.is_empty()))
}

/// Snapshots whose manifests are missing or can't be read, and that the database does not know: it is to name them from
/// now on, as long as they may come back. Until then nothing goes that they may list, and nothing takes their places.
/// Bases are known by their deltas. Of others there are the files, which mean something only when the database is made
/// anew: else it would know them if they were of a snapshot.
fn lost(
    contents: &Contents,
    trusted: bool,
    manifests: &BTreeMap<SnapshotId, Snapshot>,
    report: &OpenReport,
) -> BTreeMap<SnapshotId, Option<u32>> {
    let bases = manifests.values().filter_map(|snapshot| snapshot.manifest.base());
    let unreadable = report.bad.iter().filter(|_| !trusted).filter_map(|bad| Layout::manifest_of(&bad.path));
    let unknown = |id: &SnapshotId| !manifests.contains_key(id) && !contents.snapshots.contains_key(id);
    bases.chain(unreadable).filter(unknown).map(|id| (id, None)).collect()
}

pub(crate) fn read_manifests(
    disk: &dyn Disk,
    layout: &Layout,
    report: &mut OpenReport,
) -> Result<BTreeMap<SnapshotId, Snapshot>, Fault> {
    let folder = layout.manifests();
    let mut manifests = BTreeMap::new();
    for entry in disk.list(&folder).during("list", &folder)? {
        let Some(id) = Layout::parse_manifest(&entry.name) else {
            continue;
        };
        let path = folder.join(&entry.name);
        let read = || read_manifest(disk, &path, id);
        // What went wrong on the way from the disk must not cost what only this manifest lists.
        let again = |fault| if matches!(fault, Fault::Damaged { .. }) { read() } else { Err(fault) };
        match read().or_else(again) {
            Ok((manifest, encoded)) => {
                manifests.insert(id, Snapshot { id, manifest, encoded, level: None });
            }
            Err(Fault::Damaged { path, reason }) => report.bad.push(BadFile { path, reason }),
            Err(fault) => return Err(fault),
        }
    }
    Ok(manifests)
}

/// Reads a manifest and checks that it is the one that its name says.
pub(crate) fn read_manifest(
    disk: &dyn Disk,
    path: &Path,
    id: SnapshotId,
) -> Result<(Manifest, Vec<u8>), Fault> {
    let reading = |error| Fault::reading(path, error);
    let file = disk.open(path, false).map_err(reading)?;
    let bytes = file.bytes().map_err(reading)?;
    if bytes > MANIFEST_BYTES_MAX as u64 {
        return Err(Fault::damaged(path, format!("a manifest can't have {bytes} bytes")));
    }
    let mut encoded = vec![0; bytes as usize];
    file.read_at(0, &mut encoded).map_err(reading)?;
    if SnapshotId::of_manifest(&encoded) != id {
        return Err(Fault::damaged(path, "its hash is not its name"));
    }
    let (_, manifest) = Manifest::decode(&encoded).map_err(|error| Fault::damaged(path, error))?;
    Ok((manifest, encoded))
}

/// Removes manifests of snapshots that were dropped, and of a rebase or an import that did not happen. A delta
/// without its base is kept: somebody may be putting both back.
fn remove_dropped(
    disk: &dyn Disk,
    layout: &Layout,
    contents: &Contents,
    trusted: bool,
    manifests: &mut BTreeMap<SnapshotId, Snapshot>,
    changes: &mut Changes,
    report: &mut OpenReport,
) -> Result<(), Fault> {
    let mut dropped: Vec<SnapshotId> = contents.gone.keys().copied().collect();
    for (id, replaced) in &contents.intents {
        if !contents.snapshots.contains_key(id) && replaced.iter().all(|old| manifests.contains_key(old)) {
            dropped.push(*id);
        }
    }
    if trusted {
        dropped.extend(superseded(contents, manifests));
    }
    changes.remove.gone = contents.gone.clone();
    changes.remove.intents = contents.intents.clone();
    for id in dropped {
        let path = layout.manifest(&id);
        match disk.remove(&path) {
            Ok(()) => report.swept += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).during("remove", &path),
        }
        manifests.remove(&id);
        report.bad.retain(|bad| bad.path != path);
    }
    // Before the database forgets that they are to go, and so that what somebody has removed whose push had failed does
    // not come back with a power cut.
    let folder = layout.manifests();
    disk.sync_folder(&folder).during("sync", &folder)
}

/// Manifests of pushes whose commit failed, and which were pushed again with other contents and acknowledged: of two
/// snapshots of one place in a lineage, the one that was acknowledged counts.
fn superseded<'a>(
    contents: &'a Contents,
    manifests: &'a BTreeMap<SnapshotId, Snapshot>,
) -> impl Iterator<Item = SnapshotId> + 'a {
    let place = |manifest: &Manifest| (manifest.service.clone(), manifest.term, manifest.seq);
    let is_known = |id: &SnapshotId| contents.snapshots.contains_key(id);
    let known = manifests.values().filter(move |snapshot| is_known(&snapshot.id));
    let known: BTreeMap<_, _> =
        known.map(|snapshot| (place(&snapshot.manifest), snapshot.manifest.identity())).collect();
    let unknown = manifests.values().filter(move |snapshot| !is_known(&snapshot.id));
    let is_superseded = move |snapshot: &&Snapshot| {
        let content = snapshot.manifest.identity();
        known.get(&place(&snapshot.manifest)).is_some_and(|known| *known != content)
    };
    unknown.filter(is_superseded).map(|snapshot| snapshot.id)
}

/// Lists the packs, compares them with what the manifests say, and removes what nobody needs.
fn settle_packs(
    disk: &dyn Disk,
    layout: &Layout,
    (contents, trusted, pins): (&Contents, bool, &OthersPins),
    state: &mut State,
    changes: &mut Changes,
    report: &mut OpenReport,
) -> Result<(), Fault> {
    // A manifest that can't be read may list any pack: then none is known to be unneeded.
    let may_sweep = trusted && report.bad.is_empty();
    let received = &contents.received;
    let snapshots = state.snapshots.values();
    let listed: BTreeMap<PackId, u64> =
        snapshots.flat_map(|s| s.manifest.packs.iter().map(|pack| (pack.id, pack.bytes))).collect();
    let mut present = BTreeSet::new();
    for (id, bytes) in list_packs(disk, layout)? {
        present.insert(id);
        match listed.get(&id) {
            Some(expected) if *expected == bytes => {
                state.packs.insert(id, bytes);
            }
            Some(expected) => report.bad.push(BadFile {
                path: layout.pack(&id),
                reason: format!("it has {bytes} bytes instead of {expected}"),
            }),
            // What a lost manifest lists was not received: it is known no longer than that may come back. Without the
            // journal nobody knows how many are lost, so it stays until somebody collects it.
            None if received.get(&id).is_some_and(|order| *order < IN_DOUBT) || !may_sweep => {
                let turn = if trusted { IN_DOUBT } else { 0 };
                state.packs.insert(id, bytes);
                state.received.insert(id, received.get(&id).copied().unwrap_or(turn));
            }
            // It was dropped, and goes when whoever reads it is done.
            None if pins.has(id.as_bytes()) => {}
            None => {
                let path = layout.pack(&id);
                disk.remove(&path).during("remove", &path)?;
                report.swept += 1;
            }
        }
    }
    settle_aside(disk, layout, &listed, may_sweep, state, report)?;
    for id in listed.keys().filter(|id| !present.contains(id)) {
        let (path, reason) = match aside::reason(disk, layout, id) {
            Some(reason) => (layout.aside_pack(id), format!("it is set aside: {reason}")),
            None => (layout.pack(id), "the file is missing".to_owned()),
        };
        report.bad.push(BadFile { path, reason });
    }
    changes.add.received = state.received.clone();
    changes.add.received.retain(|id, order| received.get(id) != Some(order));
    changes.remove.received = received.clone();
    changes.remove.received.retain(|id, _| !state.received.contains_key(id));
    changes.add.packs = state.packs.clone();
    changes.add.packs.retain(|id, bytes| contents.packs.get(id) != Some(bytes));
    changes.remove.packs = contents.packs.clone();
    changes.remove.packs.retain(|id, _| !state.packs.contains_key(id));
    Ok(())
}

/// Removes what is left of damaged packs and nobody needs.
fn settle_aside(
    disk: &dyn Disk,
    layout: &Layout,
    listed: &BTreeMap<PackId, u64>,
    may_sweep: bool,
    state: &State,
    report: &mut OpenReport,
) -> Result<(), Fault> {
    let aside = match aside::list(disk, layout) {
        Err(Fault::Damaged { path, reason }) => {
            report.bad.push(BadFile { path, reason });
            return Ok(());
        }
        other => other?,
    };
    for id in aside {
        if state.packs.contains_key(&id) || (may_sweep && !listed.contains_key(&id)) {
            aside::remove(disk, layout, &id);
            report.swept += 1;
        }
    }
    Ok(())
}

/// All packs that are on the disk, each with its size.
pub(crate) fn list_packs(disk: &dyn Disk, layout: &Layout) -> Result<BTreeMap<PackId, u64>, Fault> {
    let mut packs = BTreeMap::new();
    let root = layout.packs();
    for folder in disk.list(&root).during("list", &root)? {
        if !folder.folder {
            continue;
        }
        let path = root.join(&folder.name);
        for entry in disk.list(&path).during("list", &path)? {
            let Some(id) = Layout::parse_pack(&entry.name) else {
                continue;
            };
            if layout.pack_folder(&id) == path && !entry.folder {
                packs.insert(id, entry.bytes);
            }
        }
    }
    Ok(packs)
}
