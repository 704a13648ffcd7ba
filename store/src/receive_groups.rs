//! Receiving packs group by group, in any order and from any number of peers at once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::limits::{GROUP_BYTES, PACK_BYTES_MAX};
use sustain_proto::{GroupList, GroupValue, PackId, PackRef, group_value};

use crate::error::DiskContext;
use crate::incoming::IncomingFile;
use crate::parallel::all_at_once;
use crate::receive::{check_directory, register};
use crate::store::Store;
use crate::{Fault, ImportError, ReadError, limits};

/// A pack on its way in. Dropping it keeps what came: who receives the pack again goes on from there.
pub struct GroupReceiver {
    pack: PackRef,
    list: GroupList,
    file: IncomingFile,
    groups: Mutex<Groups>,
}

/// How far the groups are.
struct Groups {
    here: Vec<bool>,
    left: usize,
    /// Nobody wants it any more, and its file is gone.
    discarded: bool,
}

/// What became of a group that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is here now.
    New,
    /// It was here before.
    Known,
    /// It is not what the list says.
    Wrong,
}

impl fmt::Debug for GroupReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupReceiver").field("pack", &self.pack.id).finish_non_exhaustive()
    }
}

impl Store {
    /// Begins to receive a pack whose groups are known, or goes on where somebody has stopped, be it an earlier
    /// process. Who receives it at the same time gets the same receiver.
    ///
    /// # Errors
    /// If it is larger than packs may be, the list is another piece's, or the disk fails.
    pub fn receive_groups(&self, pack: PackRef, list: GroupList) -> Result<Arc<GroupReceiver>, ImportError> {
        let PackRef { id, bytes } = pack;
        if bytes > PACK_BYTES_MAX || list.bytes() != bytes {
            return Err(ImportError::PackTooLarge { id, bytes, bytes_max: PACK_BYTES_MAX.min(list.bytes()) });
        }
        let known = self.shared.incoming.receiver(&id);
        if let Some(receiver) = known.filter(|receiver| receiver.pack == pack && !receiver.lock().discarded) {
            return Ok(receiver);
        }
        let file = IncomingFile::open(&self.shared, id)?;
        let mut states = vec![false; list.count()];
        let here = file.file().bytes().during("measure", &file.path())?;
        let mut buffer = vec![0; GROUP_BYTES as usize];
        for (group, state) in states.iter_mut().enumerate() {
            let range = list.range(group);
            if range.end > here {
                break;
            }
            let buffer = &mut buffer[..(range.end - range.start) as usize];
            // What can't be read comes again.
            if file.file().read_at(range.start, buffer).is_ok() && list.verify(group, buffer) {
                *state = true;
            }
        }
        let left = states.iter().filter(|state| !**state).count();
        if here > bytes {
            file.file().set_bytes(bytes).during("cut", &file.path())?;
        }
        let groups = Mutex::new(Groups { here: states, left, discarded: false });
        let is_kept = matches!(file, IncomingFile::Kept { .. });
        let receiver = Arc::new(GroupReceiver { pack, list, file, groups });
        if is_kept {
            self.shared.incoming.note(&id, &receiver);
        }
        Ok(receiver)
    }

    /// Gives packs their names, of which all groups are here: checks the directories of those whose keys are here, and
    /// syncs. They are kept until a manifest that lists them is imported, or until too many others came after them.
    ///
    /// # Errors
    /// If a pack is not whole or its directory is damaged, or the disk is full or fails. One that could not be synced
    /// is discarded, and has to come again.
    pub fn keep_received(&self, receivers: &[Arc<GroupReceiver>]) -> Result<(), ImportError> {
        let shared = &self.shared;
        all_at_once(receivers, |receiver| receiver.sync())?;
        let mut checked = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            match check_directory(shared, receiver.pack.id, &receiver.file.path(), receiver.file.file()) {
                Ok(directory) => checked.push((receiver, directory)),
                Err(error) => {
                    receiver.file.remove();
                    return Err(error);
                }
            }
        }
        let mut commit = shared.begin_commit()?;
        let is_here = |pack: &PackRef| shared.state().packs.get(&pack.id) == Some(&pack.bytes);
        let (here, new): (Vec<_>, Vec<_>) =
            checked.into_iter().partition(|(receiver, _)| is_here(&receiver.pack));
        here.into_iter().for_each(|(receiver, _)| receiver.file.remove());
        let folders: BTreeSet<_> =
            new.iter().map(|(receiver, _)| shared.layout.pack_folder(&receiver.pack.id)).collect();
        shared.make_pack_folders(&folders)?;
        let mut packs = Vec::with_capacity(new.len());
        for (receiver, directory) in new {
            let GroupReceiver { pack, file, .. } = receiver.as_ref();
            file.rename(shared, &pack.id)?;
            if let Some(directory) = directory {
                shared.directories.put(pack.id, directory.into());
            }
            packs.push(*pack);
        }
        shared.sync_pack_folders(folders)?;
        Ok(register(shared, &mut commit, &packs)?)
    }

    /// The values of a pack's groups, computed from its bytes. They are not checked: whoever gets them does.
    ///
    /// # Errors
    /// If it is not here, or can't be read.
    pub fn pack_groups(&self, id: PackId) -> Result<Vec<GroupValue>, ReadError> {
        let reader = self.read_pack(id)?;
        let mut values = Vec::with_capacity(sustain_proto::group_count(reader.len()));
        let mut buffer = Vec::with_capacity(limits::PACK_BUFFER_BYTES);
        let mut at = 0;
        while at < reader.len() {
            let part = (reader.len() - at).min(GROUP_BYTES);
            buffer.resize(part as usize, 0);
            reader.read_at(at, &mut buffer)?;
            values.push(group_value(at, &buffer));
            at += part;
        }
        Ok(values)
    }
}

impl GroupReceiver {
    /// The pack.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        self.pack
    }

    /// Whether each group is here.
    #[must_use]
    pub fn here(&self) -> Vec<bool> {
        self.lock().here.clone()
    }

    /// Bytes of a group; 0 if there is none of this number.
    #[must_use]
    pub fn group_bytes(&self, group: usize) -> usize {
        let range = self.list.range(group);
        (range.end - range.start) as usize
    }

    /// Takes a group, if its bytes are the right ones.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, ImportError> {
        if self.lock().here.get(group) == Some(&true) {
            return Ok(Received::Known);
        }
        if !self.list.verify(group, bytes) {
            return Ok(Received::Wrong);
        }
        // Of two threads that write it at once both write the same bytes.
        let written = self.file.file().write_at(self.list.range(group).start, bytes);
        written.during("write", &self.file.path())?;
        let mut groups = self.lock();
        match groups.here.get_mut(group) {
            Some(here) if !*here => *here = true,
            _ => return Ok(Received::Known),
        }
        groups.left -= 1;
        Ok(Received::New)
    }

    /// The list of its groups.
    #[must_use]
    pub fn list(&self) -> &GroupList {
        &self.list
    }

    /// Fills the buffer from this offset, if all groups that it touches are here. Whether they are.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Fault> {
        let Some(end) = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.pack.bytes) else {
            return Ok(false);
        };
        let groups = (offset / GROUP_BYTES) as usize..end.div_ceil(GROUP_BYTES) as usize;
        let is_here = self.lock().here.get(groups).is_some_and(|here| here.iter().all(|here| *here));
        if is_here {
            self.file
                .file()
                .read_at(offset, buf)
                .map_err(|error| Fault::reading(&self.file.path(), error))?;
        }
        Ok(is_here)
    }

    /// Removes what came: nobody wants it any more. Whoever receives the pack from now on begins anew.
    pub fn discard(&self) {
        let mut groups = self.lock();
        if !std::mem::replace(&mut groups.discarded, true) {
            self.file.remove();
        }
    }

    /// Whether all of it is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lock().left == 0
    }

    fn sync(&self) -> Result<(), ImportError> {
        let PackRef { id, .. } = self.pack;
        if self.lock().discarded {
            return Err(ImportError::PackDamaged { id, reason: "it was discarded".to_owned() });
        }
        if !self.is_whole() {
            let reason = format!("{} groups have not come", self.lock().left);
            return Err(ImportError::PackDamaged { id, reason });
        }
        self.file.file().sync().during("sync", &self.file.path()).map_err(|fault| {
            // The system may take what it lost for saved: another sync would say that all is well.
            self.discard();
            fault.into()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
