//! Setting damaged packs aside: they count as not here, so that they are received again, and what can still be read of
//! them is read until then.
//!
//! ```text
//! packs/ab/ID.pack ──its hash is not its name──▶ aside/ID.pack, aside/ID.reason
//!        ▲                                              │
//!        └── received or pushed again ── removes ───────┴── no snapshot lists it ── removes
//! ```
//! So the folder holds at most what snapshots list, each pack once and in no other place: it takes no space that the
//! packs did not take before, and nothing in it goes that something needs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};
use sustain_proto::{PackId, ServiceName, SnapshotId};

use crate::commit::Commit;
use crate::database::Changes;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::pack_file::PackFile;
use crate::publish::{TemporaryFile, new_name};
use crate::state::State;
use crate::store::{Shared, Store};
use crate::{Fault, error_chain, limits};

/// A pack that snapshots list and that is not here as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPack {
    /// The pack.
    pub id: PackId,
    /// What is wrong with it.
    pub reason: String,
    /// Whether what is left of it is in the folder `aside`, and is read from there.
    pub set_aside: bool,
    /// The snapshots that need it, in no particular order. Those parts of them that it does not hold can be read.
    pub snapshots: Vec<SnapshotId>,
    /// Whose snapshots they are.
    pub services: BTreeSet<ServiceName>,
}

impl Store {
    /// Reads a pack, and sets it aside if its file is missing or damaged: what needs it is then not whole here until
    /// it is received again. Whether the pack is lacking now: not here, though a snapshot lists it or it has been here
    /// up to now.
    ///
    /// # Errors
    /// If the disk fails in a way that says nothing about the pack.
    pub fn set_aside_if_damaged(&self, id: PackId) -> Result<bool, Fault> {
        let shared = &self.shared;
        let is_lacking = |state: &State| !state.packs.contains_key(&id) && state.lists(&id);
        if damage(shared, &id)?.is_none() {
            return Ok(is_lacking(&shared.state()));
        }
        let mut commit = shared.begin_commit()?;
        // A good one may have taken its place since.
        let Some(reason) = damage(shared, &id)? else {
            return Ok(is_lacking(&shared.seen()));
        };
        move_aside(shared, &id, &reason)?;
        let known = shared.seen().packs.get(&id).copied();
        if let Some(bytes) = known {
            let mut changes = Changes::default();
            changes.remove.packs.insert(id, bytes);
            commit.apply(&changes, Vec::new())?;
            tracing::warn!(pack = %id, reason, "a pack is damaged, and counts as not here");
        }
        commit.settle_aside();
        Ok(known.is_some() || is_lacking(&shared.seen()))
    }

    /// Sets the pack aside that reading has found to be damaged, so that no push relies on it.
    pub(crate) fn set_aside_found(&self, fault: &Fault) {
        let Fault::Damaged { path, .. } = fault else { return };
        let Some(id) = Layout::pack_of(path) else { return };
        if let Err(error) = self.set_aside_if_damaged(id) {
            tracing::warn!(pack = %id, error = error_chain(&error), "a damaged pack can't be set aside");
        }
    }

    /// The packs that snapshots list and that are missing or damaged here, as far as it was noticed.
    #[must_use]
    pub fn bad_packs(&self) -> Vec<BadPack> {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        let state = self.shared.state();
        let mut bad: BTreeMap<PackId, BadPack> = BTreeMap::new();
        for snapshot in state.snapshots.values() {
            for pack in snapshot.manifest.packs.iter().filter(|pack| !state.packs.contains_key(&pack.id)) {
                let found = bad.entry(pack.id).or_insert_with(|| {
                    let reason = reason(disk, layout, &pack.id);
                    BadPack {
                        id: pack.id,
                        set_aside: reason.is_some(),
                        reason: reason.unwrap_or_else(|| "the file is missing".to_owned()),
                        snapshots: Vec::new(),
                        services: BTreeSet::new(),
                    }
                });
                found.snapshots.push(snapshot.id);
                found.services.insert(snapshot.manifest.service.clone());
            }
        }
        // What a base lacks, its deltas lack.
        for found in bad.values_mut() {
            let bases: BTreeSet<SnapshotId> = found.snapshots.iter().copied().collect();
            let deltas = state.snapshots.values().filter(|snapshot| {
                !bases.contains(&snapshot.id)
                    && snapshot.manifest.base().is_some_and(|base| bases.contains(&base))
            });
            found.snapshots.extend(deltas.map(|snapshot| snapshot.id));
        }
        bad.into_values().collect()
    }
}

/// What is wrong with a pack's file.
fn damage(shared: &Shared, id: &PackId) -> Result<Option<String>, Fault> {
    let mut scratch = Vec::with_capacity(limits::PACK_BUFFER_BYTES);
    let read = PackFile::open(shared.disk.as_ref(), &shared.layout, id)
        .and_then(|file| file.check_hash(*id, &mut scratch, |_| Ok(())));
    match read {
        Ok(()) => Ok(None),
        Err(Fault::Damaged { reason, .. }) => Ok(Some(reason)),
        Err(fault) if fault.is_unreadable() => Ok(Some(error_chain(&fault))),
        Err(fault) => Err(fault),
    }
}

/// Moves a pack's file, if there is one where packs are, and notes why.
fn move_aside(shared: &Shared, id: &PackId, reason: &str) -> Result<(), Fault> {
    let (folder, path) = (shared.layout.aside(), shared.layout.pack(id));
    // It is gone, or was set aside before.
    if shared.disk.open(&path, false).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    shared.disk.create_folder(&folder).during("create", &folder)?;
    shared.disk.sync_folder(shared.layout.root()).during("sync", shared.layout.root())?;
    let aside = shared.layout.aside_pack(id);
    shared.disk.rename(&path, &aside).during("rename to", &aside)?;
    // A full disk must not keep a damaged pack where it counts as good.
    if let Err(error) = write_reason(shared, id, reason) {
        tracing::debug!(%error, "why a pack was set aside is not noted");
    }
    shared.disk.sync_folder(&folder).during("sync", &folder)?;
    let from = shared.layout.pack_folder(id);
    shared.disk.sync_folder(&from).during("sync", &from)
}

fn write_reason(shared: &Shared, id: &PackId, reason: &str) -> Result<(), Fault> {
    let temporary =
        TemporaryFile::create(&shared.disk, shared.layout.temporaries().join(new_name("reason")?))?;
    let most = reason.len().min(limits::ASIDE_REASON_BYTES_MAX);
    let end = (0..=most).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    temporary.file().write_at(0, &reason.as_bytes()[..end]).during("write", temporary.path())?;
    temporary.file().sync().during("sync", temporary.path())?;
    temporary.rename(&shared.layout.aside_reason(id))
}

/// Why a pack is set aside, if it is.
pub(crate) fn reason(disk: &dyn Disk, layout: &Layout, id: &PackId) -> Option<String> {
    disk.open(&layout.aside_pack(id), false).ok()?;
    Some(read_reason(disk, layout, id).unwrap_or_else(|| "it is damaged".to_owned()))
}

/// What its file says.
fn read_reason(disk: &dyn Disk, layout: &Layout, id: &PackId) -> Option<String> {
    let file = disk.open(&layout.aside_reason(id), false).ok()?;
    let bytes = file.bytes().ok().filter(|bytes| *bytes <= limits::ASIDE_REASON_BYTES_MAX as u64)?;
    let mut text = vec![0; bytes as usize];
    file.read_at(0, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// The packs that are set aside. Reasons that a power cut has left without their packs are removed.
pub(crate) fn list(disk: &dyn Disk, layout: &Layout) -> Result<BTreeSet<PackId>, Fault> {
    let folder = layout.aside();
    let entries = match disk.list(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(Fault::listing(&folder, error)),
    };
    let names = || entries.iter().filter(|entry| !entry.folder).map(|entry| entry.name.as_str());
    let packs: BTreeSet<PackId> = names().filter_map(Layout::parse_pack).collect();
    for id in names().filter_map(Layout::parse_reason).filter(|id| !packs.contains(id)) {
        remove(disk, layout, &id);
    }
    Ok(packs)
}

impl Commit<'_> {
    /// Removes what is left of damaged packs that are here again, or that nobody lists any more.
    pub(crate) fn settle_aside(&self) {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        let Ok(aside) = list(disk, layout) else { return };
        if aside.is_empty() {
            return;
        }
        let state = self.shared.seen();
        let listed = state.listed_packs();
        for id in aside.iter().filter(|id| !listed.contains(id) || state.packs.contains_key(id)) {
            remove(disk, layout, id);
        }
    }
}

/// Removes what is left of a pack. What can't be removed now goes at the next opening.
pub(crate) fn remove(disk: &dyn Disk, layout: &Layout, id: &PackId) {
    for path in [layout.aside_reason(id), layout.aside_pack(id)] {
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(path = %path.display(), %error, "what was set aside stays for now");
            }
            _ => {}
        }
    }
}
