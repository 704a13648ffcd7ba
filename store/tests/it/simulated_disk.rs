//! A disk in memory that forgets what was not synced when its power is cut, and fails when told to.
//!
//! Bytes survive a cut once their file was synced, names once their folder was. What was not synced is
//! forgotten or kept by a seeded choice, each write and each name for itself, as real disks do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use sustain_store::disk::{Disk, DiskEntry, DiskFile, DiskLock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails and does nothing.
    Fail(i32),
    /// The call and all after it fail; then [`Simulated::restart`] shows what survived.
    PowerCut,
}

type Inode = usize;

#[derive(Debug, Default, Clone)]
struct Content {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync, in order: offset and bytes, or a new length.
    pending: Vec<(u64, Option<Vec<u8>>)>,
}

#[derive(Debug, Default)]
struct Machine {
    files: Vec<Content>,
    /// None is a folder.
    names: BTreeMap<PathBuf, Option<Inode>>,
    synced_names: BTreeMap<PathBuf, Option<Inode>>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    locked: bool,
    boot: u64,
}

/// A handle of the disk. Files opened before a restart are dead.
#[derive(Debug, Clone, Default)]
pub(crate) struct Simulated(Arc<Mutex<Machine>>);

#[derive(Debug)]
struct SimulatedFile {
    machine: Simulated,
    inode: Inode,
    boot: u64,
}

#[derive(Debug)]
struct SimulatedLock(Simulated, u64);

impl DiskLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut machine = self.0.machine();
        if machine.boot == self.1 {
            machine.locked = false;
        }
    }
}

/// Small, fast, and good enough for choosing what a power cut forgets.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, data: Option<&Vec<u8>>) {
    let offset = offset as usize;
    match data {
        None => bytes.resize(offset, 0),
        Some(data) => {
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

impl Simulated {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// Counts a call that changes something, and fails it if it is the one.
    fn call(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let mut machine = self.machine();
        if machine.off {
            return Err(io::Error::other("the power is off"));
        }
        machine.calls += 1;
        match machine.fault {
            Some((at, Fault::Fail(code))) if at == machine.calls => {
                machine.fault = None;
                Err(io::Error::from_raw_os_error(code))
            }
            Some((at, Fault::PowerCut)) if at == machine.calls => {
                machine.off = true;
                Err(io::Error::other("the power is cut"))
            }
            _ => Ok(machine),
        }
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let machine = self.machine();
        if machine.off { Err(io::Error::other("the power is off")) } else { Ok(machine) }
    }

    /// From now on the Nth changing call fails.
    pub(crate) fn arm(&self, nth: u64, fault: Fault) {
        let mut machine = self.machine();
        let at = machine.calls + nth;
        machine.fault = Some((at, fault));
    }

    pub(crate) fn disarm(&self) {
        self.machine().fault = None;
    }

    /// Whether the armed fault has struck.
    pub(crate) fn struck(&self) -> bool {
        let machine = self.machine();
        machine.off || machine.fault.is_none()
    }

    /// The machine starts again after a power cut. What was synced is there; the rest by chance.
    pub(crate) fn restart(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut machine = self.machine();
        let machine = &mut *machine;
        let mut names = machine.synced_names.clone();
        let mut all: Vec<PathBuf> = machine.names.keys().chain(names.keys()).cloned().collect();
        all.sort();
        all.dedup();
        for path in all {
            let now = machine.names.get(&path).copied();
            // A rename's two halves may not be torn: a journal keeps them together. Seeds choose for each
            // name whether it had reached the disk; a name never loses a file that a synced name had.
            // Temporary names are random and would make the seed mean something else each time.
            let temporary = path.parent().is_some_and(|parent| parent.ends_with("tmp"));
            if !temporary && now != names.get(&path).copied() && random.below(2) == 0 {
                match now {
                    Some(inode) => names.insert(path, inode),
                    None => names.remove(&path),
                };
            }
        }
        // What lies in a folder that is gone is gone.
        let folders: Vec<PathBuf> = names.keys().cloned().collect();
        names.retain(|path, _| {
            path.parent().is_none_or(|p| p == Path::new("/") || folders.iter().any(|f| f == p))
        });
        for content in &mut machine.files {
            let mut bytes = std::mem::take(&mut content.synced);
            for (offset, data) in content.pending.drain(..) {
                if random.below(2) == 0 {
                    write(&mut bytes, offset, data.as_ref());
                }
            }
            content.now.clone_from(&bytes);
            content.synced = bytes;
        }
        machine.names.clone_from(&names);
        machine.synced_names = names;
        machine.off = false;
        machine.fault = None;
        machine.locked = false;
        machine.boot += 1;
    }

    /// All names, for looking at what is left.
    pub(crate) fn list_all(&self) -> Vec<PathBuf> {
        self.machine()
            .names
            .iter()
            .filter(|(_, inode)| inode.is_some())
            .map(|(path, _)| path.clone())
            .collect()
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Simulated {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if self.look()?.names.contains_key(path) {
            return Ok(());
        }
        let mut machine = self.call()?;
        let parent = path.parent().ok_or_else(not_found)?;
        if parent != Path::new("/") && !machine.names.contains_key(parent) {
            return Err(not_found());
        }
        machine.names.insert(path.to_owned(), None);
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        let machine = self.look()?;
        if machine.names.get(folder) != Some(&None) {
            return Err(not_found());
        }
        let inside = machine.names.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(inside
            .map(|(path, inode)| DiskEntry {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                folder: inode.is_none(),
                bytes: inode.map_or(0, |inode| machine.files[inode].now.len() as u64),
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut machine = self.call()?;
        if machine.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if machine.names.get(path.parent().unwrap()) != Some(&None) {
            return Err(not_found());
        }
        machine.files.push(Content::default());
        let inode = machine.files.len() - 1;
        machine.names.insert(path.to_owned(), Some(inode));
        Ok(Box::new(SimulatedFile { machine: self.clone(), inode, boot: machine.boot }))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn DiskFile>> {
        let machine = self.look()?;
        let inode = machine.names.get(path).copied().flatten().ok_or_else(not_found)?;
        Ok(Box::new(SimulatedFile { machine: self.clone(), inode, boot: machine.boot }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.call()?;
        let inode = machine.names.remove(from).ok_or_else(not_found)?;
        machine.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.call()?;
        machine.names.remove(path).map(|_| ()).ok_or_else(not_found)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.call()?;
        let machine = &mut *machine;
        machine.synced_names.retain(|name, _| name.parent() != Some(path));
        let inside = machine.names.iter().filter(|(name, _)| name.parent() == Some(path));
        machine.synced_names.extend(inside.map(|(name, inode)| (name.clone(), *inode)));
        Ok(())
    }

    fn lock(&self, _folder: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut machine = self.look()?;
        if machine.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        machine.locked = true;
        Ok(Box::new(SimulatedLock(self.clone(), machine.boot)))
    }
}

impl SimulatedFile {
    fn check(&self, machine: &Machine) -> io::Result<()> {
        if machine.boot == self.boot { Ok(()) } else { Err(io::Error::other("opened before the restart")) }
    }

    fn change(&self, offset: u64, data: Option<Vec<u8>>) -> io::Result<()> {
        let mut machine = self.machine.call()?;
        self.check(&machine)?;
        let content = &mut machine.files[self.inode];
        write(&mut content.now, offset, data.as_ref());
        content.pending.push((offset, data));
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn bytes(&self) -> io::Result<u64> {
        let machine = self.machine.look()?;
        self.check(&machine)?;
        Ok(machine.files[self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let machine = self.machine.look()?;
        self.check(&machine)?;
        let start = offset as usize;
        let bytes = machine.files[self.inode].now.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.change(offset, Some(buf.to_vec()))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.change(bytes, None)
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.machine.call()?;
        self.check(&machine)?;
        let content = &mut machine.files[self.inode];
        for (offset, data) in std::mem::take(&mut content.pending) {
            write(&mut content.synced, offset, data.as_ref());
        }
        Ok(())
    }
}
