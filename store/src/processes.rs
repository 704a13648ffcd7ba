//! The processes that have a store open. Each keeps a file locked as long as it lives, in which it says what it pins:
//! who finds a file that is not locked knows that its process is dead.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, OnceLock};

use crate::commit_lock::fault;
use crate::disk::{Disk, DiskFile, DiskLock};
use crate::error::{DiskContext, is_loop};
use crate::layout::Layout;
use crate::publish::new_name;
use crate::reserve::with_reserve;
use crate::{ErrorKind, Fault, error_chain, limits};

/// What is pinned: a pack that is read, or the base of a generation that is pushed into.
pub(crate) type Pinned = [u8; PIN_BYTES];
/// Bytes of a pin in a process's file. Each has a place of its own, which is zero when it is free: a reader may meet
/// the file while it is written, and finds each pin whole or a writer that has not begun to rely on it.
pub(crate) const PIN_BYTES: usize = 32;

/// How the names of nodes' files begin.
const NODE: &str = "node-";

/// A name for this process's work on a store. The process's number is for people; chance makes it unique.
pub(crate) fn new_process(node: bool) -> Result<String, Fault> {
    new_name(&format!("{}{}", if node { NODE } else { "" }, std::process::id()))
}

/// This process's file, locked.
#[derive(Debug)]
struct Entry {
    file: Box<dyn DiskFile>,
    _lock: Box<dyn DiskLock>,
}

impl Entry {
    fn make(disk: &dyn Disk, layout: &Layout) -> Result<Self, Fault> {
        let path = layout.process_file(layout.process());
        let file = disk.create(&path).during("create", &path)?;
        // On a full disk pins have to do with what room there is.
        let _ = file.write_at(0, &[0; limits::PROCESS_FILE_BYTES]);
        match disk.lock(&path) {
            Ok(lock) => Ok(Self { file, _lock: lock }),
            Err(error) => {
                let _ = disk.remove(&path);
                Err(fault(&path, error))
            }
        }
    }
}

/// This process among those that have the store open. Dropping it takes the process off the list.
///
/// On a full disk there may be no room for its file. It may read all the same: what it reads may be removed by others
/// then, which ends in an error and never in wrong bytes. It registers as soon as there is room.
#[derive(Debug)]
pub(crate) struct Registration {
    disk: Arc<dyn Disk>,
    layout: Layout,
    entry: OnceLock<Entry>,
}

impl Registration {
    /// Registers this process, and makes its folder for temporary files. The caller holds the commit lock.
    pub(crate) fn new(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<Self, Fault> {
        let registration = Self { disk: disk.clone(), layout: layout.clone(), entry: OnceLock::new() };
        match registration.enter() {
            Err(fault) if fault.kind() == ErrorKind::NoSpace => {
                tracing::warn!(
                    error = error_chain(&fault),
                    "other processes can't be told what is being read"
                );
            }
            other => other?,
        }
        Ok(registration)
    }

    /// Whether other processes know of this one.
    pub(crate) fn is_entered(&self) -> bool {
        self.entry.get().is_some()
    }

    /// Registers this process if that was not possible before. The caller holds the commit lock.
    pub(crate) fn enter(&self) -> Result<(), Fault> {
        let (disk, layout) = (self.disk.as_ref(), &self.layout);
        if self.is_entered() {
            return Ok(());
        }
        let entry = with_reserve(disk, layout, || Entry::make(disk, layout))?;
        // Nobody else sets it: the lock is held.
        let _ = self.entry.set(entry);
        let folder = layout.temporaries();
        match disk.create_folder(&folder).during("create", &folder) {
            // Whoever writes a temporary file tries again.
            Err(fault) if fault.kind() == ErrorKind::NoSpace => Ok(()),
            other => other,
        }
    }

    /// Writes pins into the file, if there is one.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.entry.get().map_or(Ok(()), |entry| entry.file.write_at(offset, bytes))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // What stays is found by the next opening.
        let folder = self.layout.temporaries();
        for file in self.disk.list(&folder).unwrap_or_default() {
            let _ = self.disk.remove(&folder.join(file.name));
        }
        let _ = self.disk.remove_folder(&folder);
        let _ = self.disk.remove(&self.layout.process_file(self.layout.process()));
    }
}

/// The other processes.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub(crate) living: Vec<String>,
    pub(crate) dead: Vec<String>,
}

impl Others {
    /// Looks who lives. The caller holds the commit lock, so that nobody else is looking, or registering.
    pub(crate) fn look(disk: &dyn Disk, layout: &Layout) -> Result<Self, Fault> {
        let folder = layout.processes();
        let mut others = Self::default();
        for entry in disk.list(&folder).during("list", &folder)? {
            if entry.folder || entry.name == layout.process() {
                continue;
            }
            let path = layout.process_file(&entry.name);
            match disk.lock(&path) {
                Ok(_free) => others.dead.push(entry.name),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => others.living.push(entry.name),
                // It has ended in peace.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if is_loop(&error) => {
                    tracing::warn!(path = %path.display(), "this is no process's file, and is passed over");
                }
                Err(error) => return Err(fault(&path, error)),
            }
        }
        Ok(others)
    }

    /// Whether a node is among the living.
    pub(crate) fn have_node(&self) -> bool {
        self.living.iter().any(|name| name.starts_with(NODE))
    }

    /// What the living pin. The caller holds the commit lock, and reads this after what it may remove has been dropped
    /// by a commit: who pins later looks at that first.
    pub(crate) fn pins(&self, disk: &dyn Disk, layout: &Layout) -> OthersPins {
        let mut pins = BTreeSet::new();
        for name in &self.living {
            match read_pins(disk, layout, name) {
                Ok(found) => pins.extend(found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(process = name, %error, "what a process needs can't be read: nothing is removed");
                    return OthersPins::Everything;
                }
            }
        }
        OthersPins::These(pins)
    }
}

/// What other processes pin.
#[derive(Debug)]
pub(crate) enum OthersPins {
    These(BTreeSet<Pinned>),
    /// Nobody knows what.
    Everything,
}

impl OthersPins {
    pub(crate) fn has(&self, pinned: &Pinned) -> bool {
        match self {
            Self::These(pins) => pins.contains(pinned),
            Self::Everything => true,
        }
    }
}

fn read_pins(disk: &dyn Disk, layout: &Layout, name: &str) -> io::Result<Vec<Pinned>> {
    let file = disk.open(&layout.process_file(name), false)?;
    let bytes = file.bytes()?;
    if bytes > limits::PROCESS_FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut all = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_at(0, &mut all)?;
    let pins = all.chunks_exact(PIN_BYTES).filter_map(|pin| Pinned::try_from(pin).ok());
    Ok(pins.filter(|pin| *pin != [0; PIN_BYTES]).collect())
}
