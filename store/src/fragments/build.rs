//! Building packs, and fragments that are not held, of any `needed` others. Each extent is decoded as soon as enough of
//! it has come, so that little is left to do after the last byte.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sustain_proto::{FragmentId, GroupHasher, GroupList, PackRef, Sheet};

use super::append::{Appended, Record};
use super::gather::{Gather, Scratch};
use super::{FragmentError, FragmentReceiver, Fragments, StoredSheet};
use crate::error::DiskContext;
use crate::publish::{TemporaryFile, new_name};
use crate::store::Store;
use crate::{PackReceiver, Received};

/// A pack that is made of its fragments. What came of these is kept when it is dropped before its end.
pub struct PackBuilder {
    gather: Gather,
    /// None after its end.
    done: Mutex<Done<Option<PackReceiver>>>,
}

/// A fragment that is made of others. What came of these is kept when it is dropped before its end.
pub struct FragmentBuilder {
    gather: Gather,
    stored: StoredSheet,
    index: u8,
    id: FragmentId,
    done: Mutex<Done<(TemporaryFile, GroupHasher)>>,
}

/// How far decoding is: the next extent, and what was made.
struct Done<T> {
    extent: u64,
    scratch: Scratch,
    out: T,
}

fn lock<T>(done: &Mutex<Done<T>>) -> MutexGuard<'_, Done<T>> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackBuilder").field("pack", &self.gather.sheet.pack.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for FragmentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragmentBuilder").field("fragment", &self.id).finish_non_exhaustive()
    }
}

impl Fragments {
    /// Begins to build a pack, of fragments that are added then. Fragments of it that are held are among them already.
    ///
    /// # Errors
    /// If the sheet contradicts itself, or the disk fails.
    pub fn build_pack(&self, sheet: &Sheet) -> Result<PackBuilder, FragmentError> {
        let gather = Gather::new(&self.0, sheet)?;
        self.add_held(&gather);
        let store = Store { shared: self.0.shared.clone() };
        let out = store.receive_pack(sheet.pack.id, sheet.pack.bytes)?;
        let done = Done { extent: 0, scratch: Scratch::default(), out: Some(out) };
        Ok(PackBuilder { gather, done: Mutex::new(done) })
    }

    /// Begins to build a fragment, of others that are added then. Those that are held are among them already.
    ///
    /// # Errors
    /// If the sheet does not name it, or the disk fails.
    pub fn build_fragment(&self, sheet: StoredSheet, index: u8) -> Result<FragmentBuilder, FragmentError> {
        let id = super::append::named(&sheet, index)?;
        let gather = Gather::new(&self.0, &sheet.sheet)?;
        self.add_held(&gather);
        let shared = &self.0.shared;
        let path = shared.layout.temporaries().join(new_name("fragment")?);
        let out = (TemporaryFile::create(&shared.disk, path)?, GroupHasher::default());
        let done = Mutex::new(Done { extent: 0, scratch: Scratch::default(), out });
        Ok(FragmentBuilder { gather, stored: sheet, index, id, done })
    }

    fn add_held(&self, gather: &Gather) {
        let Sheet { service, pack, cut, .. } = &gather.sheet;
        for held in self.of_pack(service, &pack.id).iter().filter(|held| held.cut == *cut) {
            if let Some(index) = held.index {
                // One that can't be read is not among them.
                let _ = gather.add_held(index);
            }
        }
    }
}

impl PackBuilder {
    /// Adds a fragment whose groups are going to be given. Whether each came before: to an earlier builder, maybe of an
    /// earlier process.
    ///
    /// # Errors
    /// If the sheet does not name it, the list is another piece's, it is being received already, or the disk fails.
    pub fn add(&self, index: u8, list: GroupList) -> Result<Vec<bool>, FragmentError> {
        if self.has_ended() {
            return Ok(vec![true; list.count()]);
        }
        self.gather.add_coming(index, list)
    }

    /// Whether it came to its end: nothing more is needed then.
    fn has_ended(&self) -> bool {
        lock(&self.done).out.is_none()
    }

    /// Adds a fragment that is being received by itself. Its groups count as far as they have come.
    ///
    /// # Errors
    /// If the sheet names another one.
    pub fn add_received(&self, receiver: &FragmentReceiver) -> Result<(), FragmentError> {
        self.gather.add_received(receiver)
    }

    /// Takes a group of a fragment that was added, if its bytes are the right ones, and decodes what can be decoded.
    /// From several threads, in any order. What comes after the end is known.
    ///
    /// # Errors
    /// If the fragment was not added, or the disk is full or fails.
    pub fn write(&self, index: u8, group: usize, bytes: &[u8]) -> Result<Received, FragmentError> {
        let outcome = match self.gather.write(index, group, bytes) {
            Err(FragmentError::NoIndex { .. }) if self.has_ended() => return Ok(Received::Known),
            outcome => outcome?,
        };
        if outcome == Received::New {
            // If another thread is decoding, it does this, too, or whoever comes next.
            if let Ok(mut done) = self.done.try_lock() {
                self.decode(&mut done)?;
            }
        }
        Ok(outcome)
    }

    /// Bytes of the pack that were decoded, from its beginning; 0 after its end.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        lock(&self.done).out.as_ref().map_or(0, PackReceiver::written)
    }

    /// Whether enough has come for all of the pack. Decodes what can be decoded.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn is_whole(&self) -> Result<bool, FragmentError> {
        let mut done = lock(&self.done);
        self.decode(&mut done)?;
        Ok(done.extent == self.gather.extents())
    }

    fn decode(&self, done: &mut Done<Option<PackReceiver>>) -> Result<(), FragmentError> {
        let shards: Vec<u8> = (0..self.gather.sheet.cut.needed).collect();
        let Some(out) = &mut done.out else { return Ok(()) };
        while done.extent < self.gather.extents() {
            if !self.gather.make(done.extent, &shards, &mut done.scratch)? {
                break;
            }
            let bytes = self.gather.extent_bytes(done.extent) as usize;
            out.write(&done.scratch.made[..bytes])?;
            done.extent += 1;
        }
        Ok(())
    }

    /// Ends as [`PackReceiver::finish`] does: the pack is compared with its id, synced, and here. To be called once.
    ///
    /// # Errors
    /// If not enough has come, the fragments make another pack than the sheet says, or the disk is full or fails.
    pub fn finish(&self) -> Result<PackRef, FragmentError> {
        if !self.is_whole()? {
            let extents = self.gather.extents() - lock(&self.done).extent;
            return Err(FragmentError::Incomplete { groups: extents as usize });
        }
        let Some(receiver) = lock(&self.done).out.take() else {
            return Err(FragmentError::Incomplete { groups: 0 });
        };
        let outcome = receiver.finish();
        // Also of one that is not what its sheet says: they would make it again.
        if outcome.as_ref().map_or_else(|error| error.kind() == crate::ErrorKind::Corrupt, |_| true) {
            self.gather.remove_parts();
        }
        Ok(outcome?)
    }
}

impl FragmentBuilder {
    /// As [`PackBuilder::add`].
    ///
    /// # Errors
    /// As there.
    pub fn add(&self, index: u8, list: GroupList) -> Result<Vec<bool>, FragmentError> {
        self.gather.add_coming(index, list)
    }

    /// As [`PackBuilder::add_received`].
    ///
    /// # Errors
    /// As there.
    pub fn add_received(&self, receiver: &FragmentReceiver) -> Result<(), FragmentError> {
        self.gather.add_received(receiver)
    }

    /// As [`PackBuilder::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, index: u8, group: usize, bytes: &[u8]) -> Result<Received, FragmentError> {
        let outcome = self.gather.write(index, group, bytes)?;
        if outcome == Received::New {
            if let Ok(mut done) = self.done.try_lock() {
                self.decode(&mut done)?;
            }
        }
        Ok(outcome)
    }

    /// As [`PackBuilder::is_whole`].
    ///
    /// # Errors
    /// As there.
    pub fn is_whole(&self) -> Result<bool, FragmentError> {
        let mut done = lock(&self.done);
        self.decode(&mut done)?;
        Ok(done.extent == self.gather.extents())
    }

    fn decode(&self, done: &mut Done<(TemporaryFile, GroupHasher)>) -> Result<(), FragmentError> {
        let cut = &self.gather.sheet.cut;
        while done.extent < self.gather.extents() {
            if !self.gather.make(done.extent, &[self.index], &mut done.scratch)? {
                break;
            }
            let (file, hasher) = &mut done.out;
            let at = done.extent * cut.shard_bytes(u64::from(cut.extent_bytes));
            file.file().write_at(at, &done.scratch.made).during("write", file.path())?;
            hasher.update(&done.scratch.made);
            done.extent += 1;
        }
        Ok(())
    }

    /// Appends the fragment to a segment. It is held when that was synced.
    ///
    /// # Errors
    /// If not enough has come, what was made is not what the sheet names, or the disk is full or fails.
    pub fn finish(self) -> Result<Appended, FragmentError> {
        if !self.is_whole()? {
            let extents = self.gather.extents() - lock(&self.done).extent;
            return Err(FragmentError::Incomplete { groups: extents as usize });
        }
        let Self { gather, stored, index, id, done } = self;
        let (file, hasher) = done.into_inner().unwrap_or_else(PoisonError::into_inner).out;
        let list = hasher.finish();
        if list.root() != id.as_bytes() {
            gather.remove_parts();
            return Err(FragmentError::Contradiction { pack: gather.sheet.pack.id });
        }
        let read = |offset: u64, buf: &mut [u8]| {
            file.file().read_at(offset, buf).map_err(|error| crate::Fault::reading(file.path(), error))
        };
        let (index, list) = (Some(index), Some(&list));
        let record = Record { sheet: &stored, index, list, read: &read, from_part: false };
        let appended = gather.inner.append(&record)?;
        gather.remove_parts();
        Ok(appended)
    }
}
