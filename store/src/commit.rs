//! Commits: whoever holds the commit lock looks at what others have done, and is then the only one to change what is
//! visible. And looking without it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError, RwLockReadGuard, TryLockError};
use std::time::Duration;

use sustain_proto::{PackId, SnapshotId};

use crate::commit_lock::lock_folder;
use crate::database::{Changes, Contents, Database, News};
use crate::disk::DiskLock;
use crate::layout::Layout;
use crate::processes::{Others, OthersPins, Pinned};
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::sweep::read_manifest;
use crate::{ErrorKind, Fault, limits};

/// Holds the commit lock as long as it lives. What is visible is what was last committed by anybody.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) shared: &'a Shared,
    others_pins: Option<OthersPins>,
    // Dropped in this order.
    pub(crate) database: MutexGuard<'a, Database>,
    _lock: Box<dyn DiskLock>,
    _committing: MutexGuard<'a, ()>,
}

impl Shared {
    /// Everything visible, with what other processes have committed.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        // What can't be looked at now is met by whoever commits.
        self.try_refresh();
        self.seen()
    }

    /// Everything visible, as it was found at the last look.
    pub(crate) fn seen(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what other processes have committed.
    pub(crate) fn refresh(&self) -> Result<(), Fault> {
        self.take_news(&mut self.database.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same, unless a commit of this process is going on, which has looked. Whether all went well.
    pub(crate) fn try_refresh(&self) -> bool {
        match self.database.try_lock() {
            Ok(mut database) => self.take_news(&mut database).is_ok(),
            Err(TryLockError::Poisoned(poisoned)) => self.take_news(&mut poisoned.into_inner()).is_ok(),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Takes the commit lock.
    pub(crate) fn begin_commit(&self) -> Result<Commit<'_>, Fault> {
        let committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit_with(committing, limits::COMMIT_LOCK_PATIENCE)
    }

    /// The same, unless a commit of this process is going on, or another one's takes longer than this.
    pub(crate) fn try_commit(&self, patience: Duration) -> Option<Commit<'_>> {
        let committing = self.committing.try_lock().ok()?;
        self.commit_with(committing, patience).ok()
    }

    fn commit_with<'a>(
        &'a self,
        committing: MutexGuard<'a, ()>,
        patience: Duration,
    ) -> Result<Commit<'a>, Fault> {
        let lock = lock_folder(self.disk.as_ref(), self.layout.root(), patience)?;
        match self.pins.show() {
            // What needs no room goes on. What was chosen before is looked at again under this lock.
            Err(fault) if fault.kind() == ErrorKind::NoSpace => {}
            other => other?,
        }
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_news(&mut database)?;
        Ok(Commit { shared: self, others_pins: None, database, _lock: lock, _committing: committing })
    }

    /// Makes visible here what others have committed.
    fn take_news(&self, database: &mut Database) -> Result<(), Fault> {
        let mut tries = 0;
        loop {
            if matches!(database.follow()?, News::None) {
                return Ok(());
            }
            match self.read_new_manifests(database.contents()) {
                Ok(new) => {
                    new.values().for_each(|snapshot| self.keys.learn(&snapshot.manifest.service));
                    let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                    if let News::Changes(all) = database.news() {
                        all.iter().for_each(|changes| self.change(&mut state, changes, &new));
                        // What was lost and has come back is in none of them.
                        let levels = &database.contents().snapshots;
                        let all = new.keys().filter_map(|id| Some((*id, *levels.get(id)?)));
                        all.for_each(|(id, level)| state.show(id, level, &new));
                    } else {
                        state.become_like(database.contents(), &new);
                    }
                    drop(state);
                    database.settled();
                    return Ok(());
                }
                // It may have been dropped in this moment, which the next look shows.
                Err(_) if tries < limits::JOIN_TRIES => tries += 1,
                Err(fault) => return Err(fault),
            }
        }
    }

    fn read_new_manifests(&self, contents: &Contents) -> Result<BTreeMap<SnapshotId, Arc<Snapshot>>, Fault> {
        let new: Vec<(SnapshotId, Option<u32>)> = {
            let state = self.seen();
            let is_new = |(id, _): &(&SnapshotId, &Option<u32>)| !state.snapshots.contains_key(*id);
            contents.snapshots.iter().filter(is_new).map(|(id, level)| (*id, *level)).collect()
        };
        let read = |(id, level)| match read_snapshot(self, &self.layout, id, level) {
            Ok(snapshot) => Some(Ok((id, Arc::new(snapshot)))),
            // It has been lost since before this process began, and is still to come back.
            Err(_) if self.report.bad.iter().any(|bad| bad.path == self.layout.manifest(&id)) => None,
            Err(fault) => Some(Err(fault)),
        };
        new.into_iter().filter_map(read).collect()
    }

    fn change(&self, state: &mut State, changes: &Changes, new: &BTreeMap<SnapshotId, Arc<Snapshot>>) {
        state.change(changes, new);
        changes.remove.packs.keys().for_each(|pack| self.directories.forget(pack));
    }
}

fn read_snapshot(
    shared: &Shared,
    layout: &Layout,
    id: SnapshotId,
    level: Option<u32>,
) -> Result<Snapshot, Fault> {
    let (manifest, encoded) = read_manifest(shared.disk.as_ref(), &layout.manifest(&id), id)?;
    Ok(Snapshot { id, manifest, encoded, level })
}

impl Commit<'_> {
    /// Makes changes durable, then visible. Snapshots that are new are given.
    pub(crate) fn apply(&mut self, changes: &Changes, new: Vec<Arc<Snapshot>>) -> Result<(), Fault> {
        if changes.is_nothing() {
            return Ok(());
        }
        self.shared.require_keys(&new)?;
        self.database.apply(changes)?;
        self.others_pins = None;
        let new = new.into_iter().map(|snapshot| (snapshot.id, snapshot)).collect();
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.change(&mut state, changes, &new);
        Ok(())
    }

    /// Removes a pack's file that a commit has dropped, unless somebody reads it: then he does when he is done. One
    /// that a snapshot lists stays, whatever is wrong with it. Whether it went now.
    pub(crate) fn remove_pack(&mut self, pack: PackId) -> std::io::Result<bool> {
        let is_listed = self.shared.seen().lists(&pack);
        if is_listed || self.shared.pins.has(&pack) || self.others_pin(pack.as_bytes()) {
            return Ok(false);
        }
        self.shared.disk.remove(&self.shared.layout.pack(&pack))?;
        Ok(true)
    }

    /// Whether another process pins this.
    pub(crate) fn others_pin(&mut self, pinned: &Pinned) -> bool {
        let shared = self.shared;
        let look = || match Others::look(shared.disk.as_ref(), &shared.layout) {
            Ok(others) => others.pins(shared.disk.as_ref(), &shared.layout),
            Err(error) => {
                tracing::warn!(%error, "other processes can't be looked at: nothing is removed");
                OthersPins::Everything
            }
        };
        self.others_pins.get_or_insert_with(look).has(pinned)
    }

    /// Whether another process has the store open.
    pub(crate) fn is_alone(&self) -> bool {
        let others = Others::look(self.shared.disk.as_ref(), &self.shared.layout);
        others.is_ok_and(|others| others.living.is_empty())
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        for pack in self.shared.pins.take_left() {
            if !self.shared.seen().packs.contains_key(&pack) {
                // What can't be removed now is swept at the next opening.
                let _ = self.remove_pack(pack);
            }
        }
    }
}
