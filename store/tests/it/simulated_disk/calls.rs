//! The calls of a simulated disk: names, files, locks.

use std::io;
use std::path::{Path, PathBuf};

use sustain_store::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskStamp};

use super::super::power_cut::{Content, Inode, Write};
use super::{Call, Machine, Simulated};

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

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = self.bytes()?.min(offset.saturating_add(bytes));
        self.write(Call::Other, Write::Bytes(offset, vec![0; end.saturating_sub(offset) as usize]))
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
