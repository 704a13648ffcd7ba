//! Chunks of the guest's memory, copied out of it so that they can be stored while the guest goes on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sustain_store::RegionSource;

use crate::tracking::{CHUNK_BYTES, PageSet, runs};

const CHUNK: usize = CHUNK_BYTES as usize;

/// Marks a chunk that is not here.
const ABSENT: u32 = u32::MAX;

/// Copies of some chunks of a memory, whole.
///
/// Pages are read by `pread`: measured, it costs per page about what a copy from a mapping does, needs no
/// mapping of memory that changes under it, and reading where the guest never wrote makes no pages.
#[derive(Debug)]
pub(crate) struct Staging {
    /// For each chunk of the memory, its place in the buffer.
    places: Vec<u32>,
    buffer: Vec<u8>,
    used: usize,
    memory_bytes: u64,
}

impl Staging {
    /// Nothing of a memory of this size.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        let chunks = usize::try_from(memory_bytes / CHUNK_BYTES).unwrap_or(usize::MAX);
        Self { places: vec![ABSENT; chunks], buffer: Vec::new(), used: 0, memory_bytes }
    }

    /// Forgets all chunks, and keeps the memory for the next ones, up to so many bytes.
    pub(crate) fn clear(&mut self, keep_bytes: usize) {
        self.places.fill(ABSENT);
        self.used = 0;
        if self.buffer.len() > keep_bytes {
            self.buffer.truncate(keep_bytes / CHUNK * CHUNK);
            self.buffer.shrink_to_fit();
        }
    }

    /// Makes room for so many more chunks, with memory behind it, so that a copy in the pause has to wait for
    /// none.
    pub(crate) fn reserve(&mut self, chunks: u64) {
        let bytes = (self.used + usize::try_from(chunks).unwrap_or(usize::MAX)).saturating_mul(CHUNK);
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
                if self.buffer.len() < (self.used + 1) * CHUNK {
                    self.buffer.resize((self.used + 1) * CHUNK, 0xff);
                }
                *place = u32::try_from(self.used).map_err(io::Error::other)?;
                self.used += 1;
            }
            let start = *place as usize * CHUNK;
            let copy = &mut self.buffer[start..start + CHUNK];
            if is_new {
                memory.read_exact_at(copy, at)?;
            } else {
                for run in runs(mask) {
                    let (from, to) = (run.start as usize, run.end as usize);
                    memory.read_exact_at(&mut copy[from..to], at + run.start)?;
                }
            }
        }
        Ok(())
    }

    /// The copy of the chunk that holds this offset, from there to the chunk's end.
    fn rest_of_chunk(&self, offset: u64) -> Option<&[u8]> {
        let place = *self.places.get(usize::try_from(offset / CHUNK_BYTES).ok()?)?;
        let within = usize::try_from(offset % CHUNK_BYTES).ok()?;
        let start = (place != ABSENT).then_some(place as usize * CHUNK)?;
        self.buffer.get(start + within..start + CHUNK)
    }
}

impl RegionSource for Staging {
    fn bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Fails where nothing was staged: a reader that goes beyond what was offered gets no made-up bytes.
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let Some(staged) = self.rest_of_chunk(offset) else {
                return Err(io::Error::other(format!("byte {offset} of the memory was not staged")));
            };
            let count = staged.len().min(buf.len());
            let (now, later) = buf.split_at_mut(count);
            now.copy_from_slice(&staged[..count]);
            (buf, offset) = (later, offset + count as u64);
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
        let mut staging = Staging::new(BYTES);
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
        let mut staging = Staging::new(BYTES);
        staging.stage(&memory, &pages(&[0..1])).unwrap();
        let mut two = [0; 2];
        staging.read_at(CHUNK_BYTES - 2, &mut two).unwrap();
        assert!(staging.read_at(CHUNK_BYTES - 1, &mut two).is_err());
        assert!(staging.read_at(BYTES, &mut two).is_err());
        staging.clear(CHUNK);
        assert!(staging.read_at(0, &mut two).is_err());
        assert_eq!((staging.used, staging.buffer.len()), (0, CHUNK));
    }
}
