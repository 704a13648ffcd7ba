//! Receiving packs: bytes from elsewhere, worth nothing until their hash is checked.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sustain_proto::limits::PACK_BYTES_MAX;
use sustain_proto::{PackId, PackRef};

use crate::commit::Commit;
use crate::database::{Changes, Contents};
use crate::directory::PackDirectory;
use crate::disk::DiskFile;
use crate::error::DiskContext;
use crate::pack_file::read_directory;
use crate::publish::{TemporaryFile, new_name};
use crate::store::{Shared, Store};
use crate::{Fault, ImportError, limits};

/// A pack on its way in. Dropping it discards what came.
pub struct PackReceiver {
    shared: Arc<Shared>,
    expected: PackRef,
    file: TemporaryFile,
    hasher: blake3::Hasher,
    written: u64,
}

impl fmt::Debug for PackReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, written, .. } = self;
        f.debug_struct("PackReceiver")
            .field("pack", &expected.id)
            .field("written", written)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Begins to receive a pack of so many bytes. Several may receive the same one at a time.
    ///
    /// # Errors
    /// If it is larger than packs may be, or the disk fails.
    pub fn receive_pack(&self, id: PackId, bytes: u64) -> Result<PackReceiver, ImportError> {
        if bytes > PACK_BYTES_MAX {
            return Err(ImportError::PackTooLarge { id, bytes, bytes_max: PACK_BYTES_MAX });
        }
        let path = self.shared.layout.temporaries().join(new_name("received")?);
        let file = TemporaryFile::create(&self.shared.disk, path)?;
        let expected = PackRef { id, bytes };
        Ok(PackReceiver {
            shared: self.shared.clone(),
            expected,
            file,
            hasher: blake3::Hasher::new(),
            written: 0,
        })
    }
}

impl PackReceiver {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If there are more than announced, or the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        let total = self.written.saturating_add(bytes.len() as u64);
        if total > self.expected.bytes {
            let PackRef { id, bytes: bytes_max } = self.expected;
            return Err(ImportError::PackTooLarge { id, bytes: total, bytes_max });
        }
        self.file.file().write_at(self.written, bytes).during("write", self.file.path())?;
        self.hasher.update(bytes);
        self.written = total;
        Ok(())
    }

    /// How many bytes came so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Checks the hash and, if its key is here, the directory, syncs, and gives the pack its name. It is then kept
    /// until a manifest that lists it is imported, or until too many others came after it.
    ///
    /// # Errors
    /// If the bytes are not the pack's, or the disk is full or fails.
    pub fn finish(self) -> Result<PackRef, ImportError> {
        let directory = self.check()?;
        self.file.file().sync().during("sync", self.file.path())?;
        let Self { shared, expected, file, .. } = self;
        let mut commit = shared.begin_commit()?;
        if shared.state().packs.get(&expected.id) == Some(&expected.bytes) {
            return Ok(expected);
        }
        let folder = shared.layout.pack_folder(&expected.id);
        let folders = BTreeSet::from([folder]);
        shared.make_pack_folders(&folders)?;
        file.rename(&shared.layout.pack(&expected.id))?;
        shared.sync_pack_folders(folders)?;
        if let Some(directory) = directory {
            shared.directories.put(expected.id, Arc::new(directory));
        }
        register(&shared, &mut commit, &[expected])?;
        Ok(expected)
    }

    /// The pack's directory, if its key is here.
    fn check(&self) -> Result<Option<PackDirectory>, ImportError> {
        let PackRef { id, bytes } = self.expected;
        let damaged = |reason: String| ImportError::PackDamaged { id, reason };
        if self.written != bytes {
            return Err(damaged(format!("only {} of {bytes} bytes came", self.written)));
        }
        if PackId::from_bytes(*self.hasher.finalize().as_bytes()) != id {
            return Err(damaged("its hash is another one".to_owned()));
        }
        check_directory(&self.shared, id, self.file.path(), self.file.file())
    }
}

/// The directory of a pack whose bytes are as they should be, if its key is here.
pub(crate) fn check_directory(
    shared: &Shared,
    id: PackId,
    path: &Path,
    file: &dyn DiskFile,
) -> Result<Option<PackDirectory>, ImportError> {
    match read_directory(path, file, &shared.keys) {
        Ok(directory) => Ok(Some(directory)),
        Err(Fault::KeyMissing { .. }) => Ok(None),
        Err(Fault::Damaged { reason, .. }) => Err(ImportError::PackDamaged { id, reason }),
        Err(other) => Err(other.into()),
    }
}

/// The turn of a pack that no manifest lists and that was kept since one can't be read: it goes when all can, or first
/// where there are too many.
pub(crate) const IN_DOUBT: u64 = u64::MAX;

/// Notes received packs; drops the oldest ones if there are too many that nobody has imported.
pub(crate) fn register(shared: &Shared, commit: &mut Commit<'_>, packs: &[PackRef]) -> Result<(), Fault> {
    let state = shared.state();
    let mut changes = Changes { add: Contents::default(), remove: Contents::default() };
    let listed = state.listed_packs();
    let turns = state.received.values().filter(|order| **order < IN_DOUBT);
    let mut order = turns.max().map_or(1, |last| last.saturating_add(1));
    for pack in packs {
        changes.add.packs.insert(pack.id, pack.bytes);
        if !listed.contains(&pack.id) {
            changes.add.received.insert(pack.id, order);
            order = order.saturating_add(1);
        }
    }
    let surplus =
        (state.received.len() + changes.add.received.len()).saturating_sub(limits::RECEIVED_PACKS_MAX);
    let expected = shared.expected.packs();
    let may_go = state.received.iter().filter(|(id, _)| !expected.contains(*id));
    let mut oldest: Vec<_> = may_go.map(|(id, order)| (order.wrapping_add(1), *id)).collect();
    oldest.sort_unstable();
    let goes = oldest.into_iter().take(surplus).map(|(turn, id)| (id, turn.wrapping_sub(1)));
    changes.remove.received.extend(goes);
    drop(state);
    changes.remove.packs.clone_from(&changes.remove.received);
    commit.apply(&changes, Vec::new())?;
    commit.settle_aside();
    for id in changes.remove.received.keys() {
        // What can't be removed now is swept at the next opening.
        let _ = commit.remove_pack(*id);
    }
    Ok(())
}

impl Store {
    /// Removes packs that were received and that no snapshot lists. Others stay.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn discard_received(&self, packs: &BTreeSet<PackId>) -> Result<(), Fault> {
        let is_waiting = |id: &PackId| self.shared.seen().received.contains_key(id);
        if !packs.iter().any(is_waiting) {
            return Ok(());
        }
        let mut commit = self.shared.begin_commit()?;
        let mut changes = Changes::default();
        {
            let state = self.shared.seen();
            // Of the others something may still be to come.
            let waits = |id: &&PackId| state.received.get(id).is_some_and(|turn| *turn < IN_DOUBT);
            for id in packs.iter().filter(waits).filter(|id| !state.lists(id)) {
                changes.remove.received.extend(state.received.get(id).map(|turn| (*id, *turn)));
                changes.remove.packs.extend(state.packs.get(id).map(|bytes| (*id, *bytes)));
            }
        }
        commit.apply(&changes, Vec::new())?;
        commit.settle_aside();
        for id in changes.remove.packs.keys() {
            // What can't be removed now is swept at the next opening.
            let _ = commit.remove_pack(*id);
        }
        Ok(())
    }
}
