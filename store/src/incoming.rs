//! The folder of packs that are on their way in, group by group. What came survives the process that received it: each
//! group is checked against the pack's list before it counts, also what an earlier process wrote.
//!
//! One process at a time uses the folder, and keeps it locked; files of others are temporary ones. A file goes when its
//! pack is here, when somebody has all that he wanted, when there are too many, and with unlisted packs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sustain_proto::PackId;

use crate::disk::{Disk, DiskFile, DiskLock};
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::receive_groups::GroupReceiver;
use crate::state::State;
use crate::store::{Shared, Store};
use crate::{Fault, limits};

/// What this process does in the folder.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// Held from the first pack on, as long as the store is open.
    lock: Option<Box<dyn DiskLock>>,
    /// Packs that are being received, and by what.
    claimed: BTreeMap<PackId, Claim>,
    claims_ever: u64,
    /// Files in the folder.
    files: BTreeSet<PackId>,
}

/// Who receives a pack. One whose receiver is gone may be taken over: nobody writes to its file any more.
#[derive(Debug)]
struct Claim {
    number: u64,
    /// None while its file is being opened.
    receiver: Option<Weak<GroupReceiver>>,
}

impl Claim {
    fn is_over(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.strong_count() == 0)
    }
}

impl Incoming {
    /// What receives a pack, if something does.
    pub(crate) fn receiver(&self, id: &PackId) -> Option<Arc<GroupReceiver>> {
        self.used().claimed.get(id)?.receiver.as_ref()?.upgrade()
    }

    /// Notes what receives a pack, so that whoever wants it, too, need not begin anew.
    pub(crate) fn note(&self, id: &PackId, receiver: &Arc<GroupReceiver>) {
        if let Some(claimed) = self.used().claimed.get_mut(id) {
            claimed.receiver = Some(Arc::downgrade(receiver));
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file of a pack that is being received.
#[derive(Debug)]
pub(crate) enum IncomingFile {
    /// In the folder, where it stays when it is dropped.
    Kept {
        /// Whose folder it is.
        shared: Arc<Shared>,
        /// The pack.
        id: PackId,
        /// The claim to it.
        claim: u64,
        /// The open file.
        file: Box<dyn DiskFile>,
    },
    /// A temporary one: somebody else receives the pack, too.
    Temporary(TemporaryFile),
}

impl Drop for IncomingFile {
    fn drop(&mut self) {
        if let Self::Kept { shared, id, claim, .. } = self {
            let mut used = shared.incoming.used();
            if used.claimed.get(id).is_some_and(|claimed| claimed.number == *claim) {
                used.claimed.remove(id);
            }
        }
    }
}

impl IncomingFile {
    /// Opens the file of a pack, which may have something of it already.
    pub(crate) fn open(shared: &Arc<Shared>, id: PackId) -> Result<Self, Fault> {
        let (disk, layout) = (&shared.disk, &shared.layout);
        let mut used = shared.incoming.used();
        if used.claimed.get(&id).is_none_or(Claim::is_over) && used.enter(disk.as_ref(), layout) {
            used.make_room(disk.as_ref(), layout);
            let path = layout.incoming_pack(&id);
            let file = match disk.open(&path, true) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path),
                outcome => outcome,
            };
            let file = file.during("open", &path)?;
            used.claims_ever += 1;
            let claim = used.claims_ever;
            used.claimed.insert(id, Claim { number: claim, receiver: None });
            used.files.insert(id);
            return Ok(Self::Kept { shared: shared.clone(), id, claim, file });
        }
        drop(used);
        let path = layout.temporaries().join(new_name("received")?);
        TemporaryFile::create(disk, path).map(Self::Temporary)
    }

    pub(crate) fn file(&self) -> &dyn DiskFile {
        match self {
            Self::Kept { file, .. } => file.as_ref(),
            Self::Temporary(file) => file.file(),
        }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        match self {
            Self::Kept { shared, id, .. } => shared.layout.incoming_pack(id),
            Self::Temporary(file) => file.path().to_owned(),
        }
    }

    /// Gives the file the pack's name. The caller holds the commit lock and syncs the folder.
    pub(crate) fn rename(&self, shared: &Shared, id: &PackId) -> Result<(), Fault> {
        let to = shared.layout.pack(id);
        match self {
            Self::Temporary(file) => file.rename_to(&to),
            Self::Kept { .. } => {
                shared.disk.rename(&self.path(), &to).during("rename to", &to)?;
                let mut used = shared.incoming.used();
                used.files.remove(id);
                // Whoever wants it from now on begins anew.
                used.claimed.remove(id);
                Ok(())
            }
        }
    }

    /// Removes the file: what it holds is of no use.
    pub(crate) fn remove(&self) {
        if let Self::Kept { shared, id, .. } = self {
            // What stays is removed by the next opening.
            let _ = shared.disk.remove(&self.path());
            shared.incoming.used().files.remove(id);
        }
    }
}

impl Used {
    /// Makes the folder this process's. False if another one has it, or it can't be used.
    fn enter(&mut self, disk: &dyn Disk, layout: &Layout) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let folder = layout.incoming();
        let taken = || {
            disk.create_folder(&folder)?;
            let lock = disk.lock(&folder)?;
            Ok::<_, io::Error>((lock, disk.list(&folder)?))
        };
        match taken() {
            Ok((lock, files)) => {
                self.lock = Some(lock);
                self.files = files.iter().filter_map(|file| Layout::parse_pack(&file.name)).collect();
                true
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::warn!(path = %folder.display(), %error, "what comes is lost if its transfer breaks off");
                }
                false
            }
        }
    }

    /// Removes what nobody receives if there are too many files.
    fn make_room(&mut self, disk: &dyn Disk, layout: &Layout) {
        if self.files.len() >= limits::INCOMING_FILES_MAX {
            self.remove_unclaimed(disk, layout);
        }
    }

    fn remove_unclaimed(&mut self, disk: &dyn Disk, layout: &Layout) {
        let Self { claimed, files, .. } = self;
        let is_received = |id: &PackId| claimed.get(id).is_some_and(|claim| !claim.is_over());
        files.retain(|id| is_received(id) || disk.remove(&layout.incoming_pack(id)).is_err());
    }
}

impl Store {
    /// Removes what came of packs that nobody receives any more, unless another process receives some. What can't be
    /// removed now is another time.
    pub fn remove_incoming(&self) {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        let mut used = self.shared.incoming.used();
        if disk.list(&layout.incoming()).is_ok_and(|files| !files.is_empty()) && used.enter(disk, layout) {
            used.remove_unclaimed(disk, layout);
        }
    }
}

/// Removes what came of packs that are here by now, and what is no pack's, unless somebody uses the folder. How many
/// files these were; what can't be removed takes space, and harms nothing.
pub(crate) fn sweep_incoming(disk: &dyn Disk, layout: &Layout, state: &State) -> usize {
    let folder = layout.incoming();
    let Ok(_lock) = disk.lock(&folder) else { return 0 };
    let is_of_use = |name: &str| Layout::parse_pack(name).is_some_and(|id| !state.packs.contains_key(&id));
    let entries = disk.list(&folder).unwrap_or_default().into_iter().filter(|entry| !entry.folder);
    entries.filter(|entry| !is_of_use(&entry.name) && disk.remove(&folder.join(&entry.name)).is_ok()).count()
}
