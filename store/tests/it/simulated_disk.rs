//! A disk in memory that forgets what was not synced when its power is cut (see [`crate::power_cut`]), and fails when
//! told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use sustain_store::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskStamp};

pub(crate) use crate::power_cut::Random;
use crate::power_cut::{Content, Inode, Names, Survival, Write};

const ENOSPC: i32 = 28;

/// What happens at the Nth call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails. Of a write a beginning may have been written; see [`crate::power_cut`] for a sync.
    Fail(i32),
    /// It and every changing call after it fails.
    Dead(i32),
    /// The disk is full: it and every call after it that needs room fails.
    Full,
    /// The call and all after it fail; then [`Simulated::restart`] shows what survived.
    PowerCut,
    /// The process that makes the call dies, and its locks go. What others find is what it had done so far.
    Kill,
    /// A call that reads fails.
    FailToRead(i32),
    /// A call that reads comes short, as if the file ended there. The calls after it see all of it.
    ShortRead,
}

impl Fault {
    fn is_of_reads(self) -> bool {
        matches!(self, Self::FailToRead(_) | Self::ShortRead)
    }
}

/// What a changing call is, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Needs room.
    Grows,
    /// Needs none.
    Other,
}

#[derive(Debug, Default)]
struct Machine {
    files: Vec<Content>,
    names: Names,
    /// Calls that change something, so far.
    calls: u64,
    /// Calls that read something, so far.
    reads: u64,
    fault: Option<(u64, Fault)>,
    /// The fault has struck and goes on.
    lasting: Option<Fault>,
    off: bool,
    /// What is locked, and by which process.
    locked: BTreeMap<PathBuf, u32>,
    /// Processes that were killed, all of whose calls fail.
    killed: BTreeSet<u32>,
    boot: u64,
    random: Random,
}

/// A handle of the disk, of one process. Files opened before a restart are dead.
#[derive(Debug, Clone, Default)]
pub(crate) struct Simulated(Arc<Mutex<Machine>>, u32);

#[derive(Debug)]
struct SimulatedFile {
    machine: Simulated,
    inode: Inode,
    boot: u64,
}

#[derive(Debug)]
struct SimulatedLock(Simulated, PathBuf, u64);

impl DiskLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut machine = self.0.machine();
        if machine.boot == self.2 && machine.locked.get(&self.1) == Some(&self.0.1) {
            machine.locked.remove(&self.1);
        }
    }
}

fn killed<T>() -> io::Result<T> {
    Err(io::Error::other("the process is dead"))
}

fn no_power<T>() -> io::Result<T> {
    Err(io::Error::other("the power is off"))
}

impl Machine {
    fn kill(&mut self, process: u32) {
        self.killed.insert(process);
        self.locked.retain(|_, holder| *holder != process);
    }

    fn strike(&mut self, fault: Fault, call: Call, process: u32) -> io::Result<()> {
        match fault {
            Fault::Kill => {
                self.kill(process);
                killed()
            }
            Fault::Fail(code) => Err(io::Error::from_raw_os_error(code)),
            Fault::Dead(code) => {
                self.lasting = Some(fault);
                Err(io::Error::from_raw_os_error(code))
            }
            Fault::Full => {
                self.lasting = Some(fault);
                if call == Call::Grows { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
            }
            Fault::PowerCut => {
                self.off = true;
                no_power()
            }
            Fault::FailToRead(_) | Fault::ShortRead => Ok(()),
        }
    }
}

impl Simulated {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// Counts a call that changes something, and fails it if it is the one.
    fn call(&self, call: Call) -> (MutexGuard<'_, Machine>, io::Result<()>) {
        let mut machine = self.machine();
        if machine.off {
            return (machine, no_power());
        }
        if machine.killed.contains(&self.1) {
            return (machine, killed());
        }
        machine.calls += 1;
        let outcome = match (machine.lasting, machine.fault) {
            (Some(fault), _) => machine.strike(fault, call, self.1),
            (None, Some((at, fault))) if at == machine.calls && !fault.is_of_reads() => {
                machine.fault = None;
                machine.strike(fault, call, self.1)
            }
            _ => Ok(()),
        };
        (machine, outcome)
    }

    fn change(&self, call: Call) -> io::Result<MutexGuard<'_, Machine>> {
        let (machine, outcome) = self.call(call);
        outcome.map(|()| machine)
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let machine = self.machine();
        if machine.off {
            no_power()
        } else if machine.killed.contains(&self.1) {
            killed()
        } else {
            Ok(machine)
        }
    }

    /// Counts a call that reads something, and fails it if it is the one.
    fn read(&self) -> io::Result<MutexGuard<'_, Machine>> {
        let mut machine = self.look()?;
        machine.reads += 1;
        match machine.fault {
            Some((at, fault)) if at == machine.reads && fault.is_of_reads() => {
                machine.fault = None;
                match fault {
                    Fault::FailToRead(code) => Err(io::Error::from_raw_os_error(code)),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            _ => Ok(machine),
        }
    }

    /// How many calls have read something.
    pub(crate) fn reads(&self) -> u64 {
        self.machine().reads
    }

    /// The same disk in another process.
    pub(crate) fn process(&self, number: u32) -> Self {
        Self(self.0.clone(), number)
    }

    /// This process is killed at this moment.
    pub(crate) fn kill(&self) {
        self.machine().kill(self.1);
    }

    /// Whether this process was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.machine().killed.contains(&self.1)
    }

    /// From now on the Nth call fails: of those that change something, or that read something, as the fault is. The
    /// seed chooses what a failed call has done all the same.
    pub(crate) fn arm(&self, nth: u64, fault: Fault, seed: u64) {
        let mut machine = self.machine();
        let so_far = if fault.is_of_reads() { machine.reads } else { machine.calls };
        machine.fault = Some((so_far + nth, fault));
        machine.lasting = None;
        machine.random = Random::new(seed);
    }

    /// No fault any more: the disk was repaired, or space was made.
    pub(crate) fn disarm(&self) {
        let mut machine = self.machine();
        machine.fault = None;
        machine.lasting = None;
    }

    /// Whether the armed fault has struck.
    pub(crate) fn struck(&self) -> bool {
        self.machine().fault.is_none()
    }

    /// The power is cut this moment.
    pub(crate) fn cut(&self) {
        self.machine().off = true;
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.machine().off
    }

    /// The machine starts again after a power cut. What was synced is there; the rest by chance.
    pub(crate) fn restart(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut machine = self.machine();
        let machine = &mut *machine;
        let moments = machine.files.iter().map(Content::moments).chain([machine.names.moments()]);
        let moments = moments.filter(|moments| !moments.is_empty());
        let moments = moments.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0);
        let survival = Survival::choose(&mut random, moments);
        machine.names.cut(survival, &mut random);
        machine.files.iter_mut().for_each(|content| content.cut(survival, &mut random));
        machine.off = false;
        machine.fault = None;
        machine.lasting = None;
        machine.locked.clear();
        machine.killed.clear();
        machine.boot += 1;
    }

    /// All files' names, for looking at what is left.
    pub(crate) fn list_all(&self) -> Vec<PathBuf> {
        let machine = self.machine();
        let files = machine.names.now.iter().filter(|(_, entry)| entry.is_some());
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Bytes of a file go bad on the disk.
    pub(crate) fn damage(&self, path: &Path, damage: impl Fn(&mut Vec<u8>)) {
        let mut machine = self.machine();
        let inode = machine.names.now.get(path).copied().flatten().unwrap();
        machine.files[inode].damage(damage);
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Simulated {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if self.look()?.names.now.contains_key(path) {
            return Ok(());
        }
        let mut machine = self.change(Call::Grows)?;
        let parent = path.parent().ok_or_else(not_found)?;
        if parent != Path::new("/") && machine.names.now.get(parent) != Some(&None) {
            return Err(not_found());
        }
        let moment = machine.calls;
        machine.names.change(moment, path, Some(None));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        let machine = self.read()?;
        if machine.names.now.get(folder) != Some(&None) {
            return Err(not_found());
        }
        let inside = machine.names.now.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(inside
            .map(|(path, inode)| DiskEntry {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                folder: inode.is_none(),
                bytes: inode.map_or(0, |inode| machine.files[inode].now.len() as u64),
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut machine = self.change(Call::Grows)?;
        if machine.names.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if machine.names.now.get(path.parent().unwrap()) != Some(&None) {
            return Err(not_found());
        }
        machine.files.push(Content::default());
        let inode = machine.files.len() - 1;
        let moment = machine.calls;
        machine.names.change(moment, path, Some(Some(inode)));
        Ok(Box::new(SimulatedFile { machine: self.clone(), inode, boot: machine.boot }))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn DiskFile>> {
        let machine = self.read()?;
        let inode = machine.names.now.get(path).copied().flatten().ok_or_else(not_found)?;
        Ok(Box::new(SimulatedFile { machine: self.clone(), inode, boot: machine.boot }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.change(Call::Other)?;
        let entry = machine.names.now.get(from).copied().ok_or_else(not_found)?;
        let moment = machine.calls;
        machine.names.change(moment, to, Some(entry));
        machine.names.change(moment, from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.change(Call::Other)?;
        if !machine.names.now.contains_key(path) {
            return Err(not_found());
        }
        let moment = machine.calls;
        machine.names.change(moment, path, None);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.change(Call::Other)?;
        machine.names.sync(path);
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.change(Call::Other)?;
        if machine.names.now.get(path) != Some(&None) {
            return Err(not_found());
        }
        if machine.names.now.keys().any(|other| other.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let moment = machine.calls;
        machine.names.change(moment, path, None);
        Ok(())
    }

    fn stamp(&self, path: &Path) -> io::Result<DiskStamp> {
        let machine = self.read()?;
        let inode = machine.names.now.get(path).copied().flatten().ok_or_else(not_found)?;
        Ok(DiskStamp { number: inode as u64, bytes: machine.files[inode].now.len() as u64 })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut machine = self.look()?;
        if !machine.names.now.contains_key(path) {
            return Err(not_found());
        }
        if machine.locked.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        machine.locked.insert(path.to_owned(), self.1);
        Ok(Box::new(SimulatedLock(self.clone(), path.to_owned(), machine.boot)))
    }

    fn lock_holder(&self, path: &Path) -> Option<u32> {
        self.machine().locked.get(path).copied()
    }
}

impl SimulatedFile {
    fn check(&self, machine: &Machine) -> io::Result<()> {
        if machine.boot == self.boot { Ok(()) } else { Err(io::Error::other("opened before the restart")) }
    }

    fn write(&self, call: Call, write: Write) -> io::Result<()> {
        let was_killed = self.machine.is_killed();
        let (mut machine, outcome) = self.machine.call(call);
        self.check(&machine)?;
        let (moment, off) = (machine.calls, machine.off);
        let machine = &mut *machine;
        let content = &mut machine.files[self.inode];
        match (outcome, write) {
            (Ok(()), write) => {
                content.write(moment, write);
                Ok(())
            }
            // A disk that gets full, or fails, has taken a part; and it takes a part of what a dying process writes.
            (Err(error), Write::Bytes(offset, data)) if !off && !was_killed => {
                let part = machine.random.below(data.len() as u64 + 1) as usize;
                content.write(moment, Write::Bytes(offset, data[..part].to_vec()));
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl DiskFile for SimulatedFile {
    fn number(&self) -> io::Result<u64> {
        Ok(self.inode as u64)
    }

    fn bytes(&self) -> io::Result<u64> {
        let machine = self.machine.look()?;
        self.check(&machine)?;
        Ok(machine.files[self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let machine = self.machine.read()?;
        self.check(&machine)?;
        let start = offset as usize;
        let bytes = machine.files[self.inode].now.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write(Call::Grows, Write::Bytes(offset, buf.to_vec()))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.write(Call::Grows, Write::Length(bytes))
    }

    fn sync(&self) -> io::Result<()> {
        let (mut machine, outcome) = self.machine.call(Call::Other);
        self.check(&machine)?;
        let machine = &mut *machine;
        match &outcome {
            Ok(()) => machine.files[self.inode].sync(),
            Err(_) if !machine.off && !machine.killed.contains(&self.machine.1) => {
                machine.files[self.inode].sync_in_vain(&mut machine.random)
            }
            Err(_) => {}
        }
        outcome
    }
}
