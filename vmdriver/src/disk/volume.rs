//! The disk as its client sees it: reads, writes, zeros, and what is where.
//!
//! Writes to one chunk exclude each other, because a write that covers half a block has to take the other
//! half from below. Reads take part in nothing: they look at the layers of one moment, and what those hold
//! stays readable as long as anybody looks.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::base::Base;
use super::map::Unit;
use super::nbd::Extent;
use super::stack::Stack;
use super::view::Place;

/// Locks over the chunks of the disk, shared by all that are this far apart.
const STRIPES: u64 = 64;
const STRIPE_BYTES: u64 = sustain_proto::limits::CHUNK_BYTES as u64;
/// Most that is written or zeroed under one hold of the locks, so that a freeze need not wait long.
const WRITE_BYTES_MAX: u64 = 1 << 20;
const ZERO_BYTES_MAX: u64 = 64 << 20;

/// A disk.
pub(crate) struct Volume {
    bytes: u64,
    stack: RwLock<Stack>,
    base: Base,
    stripes: Vec<Mutex<()>>,
    syncs: bool,
}

impl Volume {
    /// A disk of these layers over this base. With `syncs` a flush reaches the medium.
    pub(crate) fn new(bytes: u64, stack: Stack, base: Base, syncs: bool) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self { bytes, stack: RwLock::new(stack), base, stripes, syncs }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    /// The layers, held as they are: no freeze comes between.
    pub(crate) fn stack(&self) -> RwLockReadGuard<'_, Stack> {
        self.stack.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the layers, while no write is under way.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Stack) -> T) -> T {
        change(&mut self.stack.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// If a file can't be read, or what is missing can't be had.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let view = self.stack().view();
        view.read(offset, buffer, |at, part| self.base.read(at, part))
    }

    /// What is where from an offset on, at most so many pieces.
    pub(crate) fn extents(&self, range: Range<u64>, extents_max: usize) -> Vec<Extent> {
        let view = self.stack().view();
        let mut extents = Vec::new();
        for (run, place) in view.runs(range, extents_max) {
            let bytes = run.end - run.start;
            match place {
                Place::Layer(_) => extents.push(Extent { bytes, is_hole: false }),
                Place::Zero => extents.push(Extent { bytes, is_hole: true }),
                Place::Base => {
                    let mut at = run.start;
                    for (end, is_hole) in self.base.parts(run.clone(), extents_max) {
                        extents.push(Extent { bytes: end - at, is_hole });
                        at = end;
                    }
                    if at < run.end {
                        // Cut short by the limit: what follows must not be taken for its continuation.
                        break;
                    }
                }
            }
            if extents.len() >= extents_max {
                break;
            }
        }
        extents.truncate(extents_max);
        extents
    }

    /// Writes.
    ///
    /// # Errors
    /// If a file can't be written, or the rest of a half-written block can't be had. Part of it may then
    /// be written, as with any disk.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = (at / WRITE_BYTES_MAX + 1) * WRITE_BYTES_MAX;
            let (part, later) = rest.split_at((end - at).min(rest.len() as u64) as usize);
            self.write_part(at, part)?;
            at += part.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write_part(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let units = {
            let stack = self.stack();
            let unit_bytes = stack.active().unit_bytes();
            offset / unit_bytes..end.div_ceil(unit_bytes)
        };
        let whole = self.stack().active().bytes_of(units.clone());
        // What may have to be fetched is fetched before anything is locked.
        let mut edge = [0];
        if whole.start < offset {
            self.read(whole.start, &mut edge)?;
        }
        if end < whole.end {
            self.read(end, &mut edge)?;
        }
        let _stripes = self.lock(&whole);
        let stack = self.stack();
        let active = stack.active();
        if units.clone().all(|unit| active.map().get(unit) == Unit::Data) {
            return active.overwrite(offset, bytes);
        }
        if whole == (offset..end) {
            return active.write_units(units.start, bytes);
        }
        let mut buffer = vec![0; (whole.end - whole.start) as usize];
        let (first, last) = ((offset - whole.start) as usize, (end - whole.start) as usize);
        let view = stack.view();
        let from_base = |at: u64, part: &mut [u8]| self.base.read(at, part);
        let unit_bytes = active.unit_bytes() as usize;
        if first > 0 {
            let head = unit_bytes.min(buffer.len());
            view.read(whole.start, &mut buffer[..head], from_base)?;
        }
        if last < buffer.len() {
            let tail = last / unit_bytes * unit_bytes;
            view.read(whole.start + tail as u64, &mut buffer[tail..], from_base)?;
        }
        buffer[first..last].copy_from_slice(bytes);
        active.write_units(units.start, &buffer)
    }

    /// Makes a range zero, and gives its room back.
    ///
    /// # Errors
    /// As for [`Volume::write`].
    pub(crate) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let unit_bytes = self.stack().active().unit_bytes();
        // The disk's last block may be a short one.
        let is_end = |at: u64| at % unit_bytes == 0 || at == self.bytes;
        let first = range.start.next_multiple_of(unit_bytes).min(range.end);
        let last = if is_end(range.end) { range.end } else { range.end / unit_bytes * unit_bytes };
        let zeros = vec![0; unit_bytes as usize];
        if last <= first {
            // Within a block, or over the border between two.
            self.write(range.start, &zeros[..(first - range.start) as usize])?;
            return self.write(first, &zeros[..(range.end - first) as usize]);
        }
        self.write(range.start, &zeros[..(first - range.start) as usize])?;
        self.write(last, &zeros[..(range.end - last) as usize])?;
        self.zero_whole(first..last, unit_bytes)
    }

    /// Makes whole blocks zero; what is only half covered at either end is left as it is.
    pub(crate) fn trim(&self, range: Range<u64>) -> io::Result<()> {
        let unit_bytes = self.stack().active().unit_bytes();
        let first = range.start.next_multiple_of(unit_bytes);
        let last = if range.end == self.bytes { range.end } else { range.end / unit_bytes * unit_bytes };
        self.zero_whole(first..last, unit_bytes)
    }

    fn zero_whole(&self, range: Range<u64>, unit_bytes: u64) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / ZERO_BYTES_MAX + 1) * ZERO_BYTES_MAX);
            let _stripes = self.lock(&(at..end));
            self.stack().active().zero_units(at / unit_bytes..end.div_ceil(unit_bytes))?;
            at = end;
        }
        Ok(())
    }

    /// Makes everything that was answered safe from the death of this process, which it is, or, if so
    /// set, of the host.
    ///
    /// # Errors
    /// If the medium fails.
    pub(crate) fn flush(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        let view = self.stack().view();
        view.layers.iter().try_for_each(|layer| layer.sync())
    }

    /// Locks the chunks of a range, always in the same order.
    fn lock(&self, range: &Range<u64>) -> Vec<MutexGuard<'_, ()>> {
        let first = range.start / STRIPE_BYTES;
        let count = range.end.div_ceil(STRIPE_BYTES).saturating_sub(first).min(STRIPES);
        let mut numbers: Vec<u64> = (first..first + count).map(|chunk| chunk % STRIPES).collect();
        numbers.sort_unstable();
        let stripes = numbers.into_iter().map(|number| &self.stripes[number as usize]);
        stripes.map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
