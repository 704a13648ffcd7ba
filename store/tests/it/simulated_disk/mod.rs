//! A disk in memory that forgets what was not synced when its power is cut (see [`super::power_cut`]), and fails when
//! told to.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use super::power_cut::Random;
use super::power_cut::{Content, Names, Survival};

const ENOSPC: i32 = 28;

/// What happens at the Nth call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails. Of a write a beginning may have been written; see [`super::power_cut`] for a sync.
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
