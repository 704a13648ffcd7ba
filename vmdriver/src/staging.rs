//! Chunks of the guest's memory, copied out of it so that they can be stored while the guest goes on.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sustain_store::RegionSource;

use crate::tracking::{CHUNK_BYTES, PageSet, runs};

const CHUNK: usize = CHUNK_BYTES as usize;

/// Marks a chunk that is not here.
const ABSENT: u32 = u32::MAX;

/// Copies of some chunks of a memory, whole. Beyond a limit they go to a file without a name, which is slower and
/// does not take memory that the host may not have.
///
/// Pages are read by `pread`, at 1.4 to 2 µs each (13 for a whole chunk). Measured beside it: a copy from a mapping
/// of ours takes 0.8 (9) where it was touched before, and 4 to 5 (17) where not. That would gain some 0.1 ms
/// in a pause, for unsafe code over memory that changes under it and makes pages where the guest has none.
#[derive(Debug)]
pub(crate) struct Staging {
    /// For each chunk of the memory, its place in the buffer.
    places: Vec<u32>,
    buffer: Vec<u8>,
    used: usize,
    /// Places in the buffer; those from there on are in the file.
    buffered_max: usize,
    folder: PathBuf,
    file: Option<File>,
    memory_bytes: u64,
}

impl Staging {
    /// Nothing of a memory of this size. The file for what is more than `buffer_bytes_max` is made in this folder.
    pub(crate) fn new(memory_bytes: u64, buffer_bytes_max: u64, folder: &Path) -> Self {
        let chunks = |bytes: u64| usize::try_from(bytes / CHUNK_BYTES).unwrap_or(usize::MAX);
        Self {
            places: vec![ABSENT; chunks(memory_bytes)],
            buffer: Vec::new(),
            used: 0,
            buffered_max: chunks(buffer_bytes_max),
            folder: folder.to_owned(),
            file: None,
            memory_bytes,
        }
    }

    /// Forgets all chunks, and keeps the memory for the next ones, up to so many bytes.
    pub(crate) fn clear(&mut self, keep_bytes: usize) {
        self.places.fill(ABSENT);
        self.used = 0;
        self.file = None;
        if self.buffer.len() > keep_bytes {
            self.buffer.truncate(keep_bytes / CHUNK * CHUNK);
            self.buffer.shrink_to_fit();
        }
    }

    /// Makes room for so many more chunks, with memory behind it, so that a copy in the pause has to wait for
    /// none.
    pub(crate) fn reserve(&mut self, chunks: u64) {
        let places = self.used.saturating_add(usize::try_from(chunks).unwrap_or(usize::MAX));
        let bytes = places.min(self.buffered_max) * CHUNK;
        if bytes > self.buffer.len() {
            // Not zero: the allocator would hand out zeros without memory behind them.
            self.buffer.resize(bytes, 0xff);
        }
    }

    /// Copies these pages, and all of a chunk that is not here yet.
    ///
    /// # Errors
    /// If the memory can't be read.
    pub(crate) fn stage(&mut self, memory: &File, pages: &PageSet) -> io::Result<()> {
        for (chunk, mask) in pages.chunks() {
            let position = usize::try_from(chunk).unwrap_or(usize::MAX);
            let Some(place) = self.places.get_mut(position) else {
                return Err(io::Error::other(format!("the memory has no chunk {chunk}")));
            };
            let (is_new, at) = (*place == ABSENT, chunk * CHUNK_BYTES);
            if is_new {
                *place = u32::try_from(self.used).map_err(io::Error::other)?;
                self.used += 1;
            }
            let place = *place as usize;
            let whole = std::iter::once(0..CHUNK_BYTES).filter(|_| is_new);
            let pages = runs(mask).filter(|_| !is_new);
            for run in whole.chain(pages) {
                self.copy(memory, at, place, run)?;
            }
        }
        Ok(())
    }

    /// Copies a part of the chunk at this offset to its place.
    fn copy(&mut self, memory: &File, at: u64, place: usize, part: Range<u64>) -> io::Result<()> {
        let (from, to) = (part.start as usize, part.end as usize);
        if place < self.buffered_max {
            let start = place * CHUNK;
            if self.buffer.len() < start + CHUNK {
                self.buffer.resize(start + CHUNK, 0xff);
            }
            return memory.read_exact_at(&mut self.buffer[start + from..start + to], at + part.start);
        }
        let mut bytes = vec![0; to - from];
        memory.read_exact_at(&mut bytes, at + part.start)?;
        let file = match self.file.take() {
            Some(file) => file,
            None => unnamed_file(&self.folder)?,
        };
        let written = file.write_all_at(&bytes, self.file_offset(place) + part.start);
        self.file = Some(file);
        written
    }

    fn file_offset(&self, place: usize) -> u64 {
        (place - self.buffered_max) as u64 * CHUNK_BYTES
    }

    /// Reads from the copy of one chunk, from this offset on and not beyond the chunk.
    fn read_within(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let position = usize::try_from(offset / CHUNK_BYTES).unwrap_or(usize::MAX);
        let within = offset % CHUNK_BYTES;
        let missing = || io::Error::other(format!("byte {offset} of the memory was not staged"));
        let place = self.places.get(position).filter(|place| **place != ABSENT).ok_or_else(missing)?;
        let place = *place as usize;
        if place >= self.buffered_max {
            let file = self.file.as_ref().ok_or_else(missing)?;
            return file.read_exact_at(buf, self.file_offset(place) + within);
        }
        let start = place * CHUNK + within as usize;
        buf.copy_from_slice(self.buffer.get(start..start + buf.len()).ok_or_else(missing)?);
        Ok(())
    }
}

/// A file that is gone when it is closed.
fn unnamed_file(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!("staging.{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl RegionSource for Staging {
    fn bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Fails where nothing was staged: a reader that goes beyond what was offered gets no made-up bytes.
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let rest = CHUNK - (offset % CHUNK_BYTES) as usize;
            let (now, later) = buf.split_at_mut(rest.min(buf.len()));
            self.read_within(offset, now)?;
            (buf, offset) = (later, offset + now.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are what is tested")]
mod tests {
    use super::*;
    use crate::memory_file;
    use crate::tracking::PAGE_BYTES;

    const BYTES: u64 = 1 << 20;

    fn pages(ranges: &[std::ops::Range<u64>]) -> PageSet {
        let mut set = PageSet::empty(BYTES);
        ranges.iter().for_each(|range| set.insert(range.clone()));
        set
    }

    #[test]
    fn a_staged_chunk_is_whole_and_later_only_its_pages_are_copied() {
        let memory = memory_file::create_sized("test", BYTES).unwrap();
        memory.write_all_at(&[1; 3 * CHUNK], 0).unwrap();
        let mut staging = Staging::new(BYTES, BYTES, Path::new("/nowhere"));
        staging.reserve(1);
        staging
            .stage(&memory, &pages(&[CHUNK_BYTES + 5..CHUNK_BYTES + 6, 2 * CHUNK_BYTES..2 * CHUNK_BYTES + 1]))
            .unwrap();
        assert_eq!(staging.used, 2);
        let mut copy = vec![0; 2 * CHUNK];
        staging.read_at(CHUNK_BYTES, &mut copy).unwrap();
        assert!(copy.iter().all(|byte| *byte == 1));

        memory.write_all_at(&[2; CHUNK], CHUNK_BYTES).unwrap();
        staging.stage(&memory, &pages(&[CHUNK_BYTES + PAGE_BYTES..CHUNK_BYTES + 2 * PAGE_BYTES])).unwrap();
        staging.read_at(CHUNK_BYTES, &mut copy).unwrap();
        let twos: Vec<usize> = (0..copy.len()).filter(|at| copy[*at] == 2).collect();
        assert_eq!(twos, (PAGE_BYTES as usize..2 * PAGE_BYTES as usize).collect::<Vec<_>>());
        assert_eq!(staging.used, 2);
    }

    #[test]
    fn what_was_not_staged_is_not_made_up() {
        let memory = memory_file::create_sized("test", BYTES).unwrap();
        let mut staging = Staging::new(BYTES, BYTES, Path::new("/nowhere"));
        staging.stage(&memory, &pages(&[0..1])).unwrap();
        let mut two = [0; 2];
        staging.read_at(CHUNK_BYTES - 2, &mut two).unwrap();
        assert!(staging.read_at(CHUNK_BYTES - 1, &mut two).is_err());
        assert!(staging.read_at(BYTES, &mut two).is_err());
        staging.clear(CHUNK);
        assert!(staging.read_at(0, &mut two).is_err());
        assert_eq!((staging.used, staging.buffer.len()), (0, CHUNK));
    }

    #[test]
    fn what_is_too_much_for_memory_goes_to_a_file_and_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory_file::create_sized("test", BYTES).unwrap();
        let fill = |add: u64| {
            for page in 0..BYTES / PAGE_BYTES {
                memory.write_all_at(&(page * 7 + add).to_le_bytes(), page * PAGE_BYTES).unwrap();
            }
        };
        let compare = |staging: &Staging| {
            let (mut copy, mut all) = (vec![0; BYTES as usize], vec![0; BYTES as usize]);
            staging.read_at(0, &mut copy).unwrap();
            memory.read_exact_at(&mut all, 0).unwrap();
            assert!(copy == all);
        };
        let mut staging = Staging::new(BYTES, 3 * CHUNK_BYTES, folder.path());
        let mut all = PageSet::empty(BYTES);
        all.fill();
        for add in 0..2 {
            fill(add);
            staging.stage(&memory, &all).unwrap();
            staging.reserve(100);
            compare(&staging);
        }
        // A page of a chunk in memory, and one of a chunk in the file.
        for at in [CHUNK_BYTES + 2 * PAGE_BYTES, 9 * CHUNK_BYTES + 5 * PAGE_BYTES] {
            memory.write_all_at(b"changed", at).unwrap();
            staging.stage(&memory, &pages(&[at..at + 1])).unwrap();
            compare(&staging);
        }
        assert_eq!(staging.buffer.len(), 3 * CHUNK);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }
}
