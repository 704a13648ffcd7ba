//! The tracker that works everywhere: a copy of the guest's memory, and a comparison of all of it.
//!
//! Readers get the copy, never the memory. If they read the memory, a page could change to B after the look that
//! found A, be stored as B, and be A again at the next look, which would then find nothing changed.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;

use sustain_store::{FileSource, RegionSource};

use super::Tracker;
use super::page_set::{CHUNK_BYTES, PAGE_BYTES, PageSet};
use crate::limits::COMPARE_THREADS_MAX;
use crate::memory_file;

const CHUNK: usize = CHUNK_BYTES as usize;
const PAGE: usize = PAGE_BYTES as usize;

/// Memory and its copy, which begins as zeros: the first look finds everything that isn't.
#[derive(Debug)]
pub(crate) struct Compared {
    memory: FileSource,
    copy: File,
    source: FileSource,
    threads: usize,
}

impl Compared {
    pub(crate) fn new(memory: &File) -> io::Result<Self> {
        let memory = FileSource::from_file(memory.try_clone()?)?;
        let copy = memory_file::create_sized("sustain-copy", memory.bytes())?;
        let source = FileSource::from_file(copy.try_clone()?)?;
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(COMPARE_THREADS_MAX);
        Ok(Self { memory, copy, source, threads })
    }

    /// The chunks that have memory behind them. Elsewhere the memory is zero, and so is the copy: what was written
    /// once is never given back, as no VM has a balloon.
    fn filled_chunks(&self) -> io::Result<Vec<u64>> {
        let mut filled = PageSet::empty(self.memory.bytes());
        for range in self.memory.data_ranges()? {
            filled.insert(range);
        }
        Ok(filled.chunks().map(|(chunk, _)| chunk).collect())
    }

    /// Compares these chunks, and brings their copies up to date.
    fn compare(&self, chunks: &[u64]) -> io::Result<Vec<Range<u64>>> {
        let mut changed = Vec::new();
        let (mut new, mut old) = (vec![0; CHUNK], vec![0; CHUNK]);
        for chunk in chunks {
            let at = chunk * CHUNK_BYTES;
            self.memory.read_at(at, &mut new)?;
            self.copy.read_exact_at(&mut old, at)?;
            if new == old {
                continue;
            }
            let pages = new.chunks(PAGE).zip(old.chunks(PAGE));
            for (offset, (new, old)) in (at..).step_by(PAGE).zip(pages) {
                if new != old {
                    self.copy.write_all_at(new, offset)?;
                    changed.push(offset..offset + PAGE_BYTES);
                }
            }
        }
        Ok(changed)
    }
}

impl Tracker for Compared {
    fn look(&mut self, written: &mut PageSet) -> io::Result<()> {
        let chunks = self.filled_chunks()?;
        let part = chunks.len().div_ceil(self.threads).max(1);
        let this = &*self;
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                chunks.chunks(part).map(|part| scope.spawn(move || this.compare(part))).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        for result in results {
            let changed = result.map_err(|_| io::Error::other("a thread that compares memory failed"))??;
            for range in changed {
                written.insert(range);
            }
        }
        Ok(())
    }

    fn source(&self) -> &dyn RegionSource {
        &self.source
    }

    fn is_still(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are what is tested")]
mod tests {
    use super::*;

    const BYTES: u64 = 4 << 20;

    fn look(tracker: &mut Compared) -> PageSet {
        let mut found = PageSet::empty(BYTES);
        tracker.look(&mut found).unwrap();
        found
    }

    #[test]
    fn a_look_finds_what_changed_and_the_source_changes_with_looks_only() {
        let memory = memory_file::create_sized("test", BYTES).unwrap();
        memory.write_all_at(&[1; 9_000], 100).unwrap();
        let mut tracker = Compared::new(&memory).unwrap();
        assert_eq!(look(&mut tracker).chunk_ranges(), [0..CHUNK_BYTES]);
        assert_eq!(look(&mut tracker).pages(), 0);
        memory.write_all_at(&[2], BYTES - 1).unwrap();
        memory.write_all_at(&[1, 1], 100).unwrap();
        let read = |tracker: &Compared, at| {
            let mut byte = [0];
            tracker.source().read_at(at, &mut byte).unwrap();
            byte[0]
        };
        assert_eq!(read(&tracker, BYTES - 1), 0);
        let found = look(&mut tracker);
        assert_eq!((found.pages(), found.chunk_ranges()), (1, vec![BYTES - CHUNK_BYTES..BYTES]));
        assert_eq!(read(&tracker, BYTES - 1), 2);
        // To another value and back between two looks is no change; to zero is one.
        memory.write_all_at(&[3], 200).unwrap();
        memory.write_all_at(&[1], 200).unwrap();
        assert_eq!(look(&mut tracker).pages(), 0);
        memory.write_all_at(&[0; 9_000], 100).unwrap();
        assert_eq!(look(&mut tracker).pages(), 3);
        assert_eq!(read(&tracker, 200), 0);
    }

    #[test]
    fn every_chunk_belongs_to_a_thread() {
        for threads in [1, 2, 3, 64, 65] {
            let memory = memory_file::create_sized("test", BYTES).unwrap();
            let mut tracker = Compared::new(&memory).unwrap();
            tracker.threads = threads;
            for chunk in 0..BYTES / CHUNK_BYTES {
                memory.write_all_at(b"x", chunk * CHUNK_BYTES + chunk).unwrap();
            }
            assert_eq!(look(&mut tracker).chunk_ranges(), [0..BYTES], "{threads} threads");
            assert_eq!(look(&mut tracker).pages(), 0);
        }
    }
}
