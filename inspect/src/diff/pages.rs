//! Which pages of a region differ: chunks of the same id are not looked at, others are decoded and compared.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{RegionName, chunk_bytes_at};
use sustain_store::{Progress, SnapshotReader};

use super::DiffError;
use super::spans::{self, Span};
use crate::limits;
use crate::view::ChunkFault;

/// Bytes of a page: that of x86, and the unit in which most file systems write.
pub(crate) const PAGE_BYTES: u64 = 4_096;

/// What differs in a region.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) chunks: u64,
    pub(crate) pages: u64,
    pub(crate) spans: Vec<Span>,
    pub(crate) coarse: bool,
}

/// One side of a comparison: a region of an open snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) reader: &'a SnapshotReader,
    pub(crate) bytes: u64,
}

/// Compares a region of two snapshots. What is past the end of the shorter one differs.
pub(crate) fn compare(
    region: &RegionName,
    before: Side<'_>,
    after: Side<'_>,
    progress: &dyn Progress,
) -> Result<Pages, DiffError> {
    let positions = differing(region, before, after);
    progress.total(positions.len() as u64 * CHUNK_BYTES as u64);
    let compare = Comparison { region, before, after, progress };
    let found = compare.run(&positions)?;
    let mut pages = Pages { chunks: positions.len() as u64, ..Pages::default() };
    let both = before.bytes.min(after.bytes);
    for (position, bits) in positions.iter().zip(found.into_values().flatten()) {
        let start = position * CHUNK_BYTES as u64;
        let end = both.min(start + CHUNK_BYTES as u64);
        pages.coarse |= pages.spans.len() >= limits::CHANGED_RANGES_MAX;
        for page in (0..16).filter(|page| bits & 1 << page != 0) {
            let from = start + page * PAGE_BYTES;
            let range = if pages.coarse { start..end } else { from..end.min(from + PAGE_BYTES) };
            pages.pages += 1;
            spans::append(&mut pages.spans, range);
        }
    }
    let longer = before.bytes.max(after.bytes);
    if longer > both {
        pages.pages += longer.div_ceil(PAGE_BYTES) - both.div_ceil(PAGE_BYTES);
        spans::append(&mut pages.spans, both..longer);
    }
    Ok(pages)
}

/// The positions of which the chunks differ, as far as both go.
fn differing(region: &RegionName, before: Side<'_>, after: Side<'_>) -> Vec<u64> {
    let end = before.bytes.min(after.bytes).div_ceil(CHUNK_BYTES as u64);
    let chunks = |side: Side<'_>| {
        let region = region.clone();
        let chunks: Vec<_> =
            side.reader.chunks_from(&region, 0).take_while(|(position, _)| *position < end).collect();
        chunks.into_iter()
    };
    let (mut old, mut new) = (chunks(before).peekable(), chunks(after).peekable());
    let mut positions = Vec::new();
    loop {
        let position = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => *old.min(new),
            (Some((position, _)), None) | (None, Some((position, _))) => *position,
            (None, None) => return positions,
        };
        let was = old.next_if(|(at, _)| *at == position).map(|(_, chunk)| chunk);
        let is = new.next_if(|(at, _)| *at == position).map(|(_, chunk)| chunk);
        if was != is {
            positions.push(position);
        }
    }
}

struct Comparison<'a> {
    region: &'a RegionName,
    before: Side<'a>,
    after: Side<'a>,
    progress: &'a dyn Progress,
}

/// For each chunk of a batch, a bit for each page that differs.
type Found = BTreeMap<usize, Vec<u16>>;

impl Comparison<'_> {
    fn run(&self, positions: &[u64]) -> Result<Found, DiffError> {
        let batches: Vec<&[u64]> = positions.chunks(limits::COMPARE_CHUNKS).collect();
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = cores.min(limits::CAT_THREADS_MAX).min(batches.len()).max(1);
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Found::new());
        let work = || -> Result<(), DiffError> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = batches.get(number) else { return Ok(()) };
                let bits = self.batch(batch)?;
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(number, bits);
            }
        };
        thread::scope(|scope| {
            let spawn = |_| {
                let builder = thread::Builder::new().name("diff".to_owned());
                builder.spawn_scoped(scope, work).map_err(DiffError::Thread)
            };
            let others: Vec<_> = (1..threads).map(spawn).collect::<Result<_, _>>()?;
            let mut outcome = work();
            if outcome.is_err() {
                // The others need not go on.
                next.store(batches.len(), Ordering::Relaxed);
            }
            for other in others {
                let died = |_| Err(DiffError::Thread(std::io::Error::other("a thread ended early")));
                outcome = outcome.and(other.join().unwrap_or_else(died));
            }
            outcome
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn batch(&self, positions: &[u64]) -> Result<Vec<u16>, DiffError> {
        if self.progress.cancelled() {
            return Err(DiffError::Cancelled);
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut bits = Vec::with_capacity(positions.len());
        for position in positions {
            self.read(self.before, *position, &mut old)?;
            self.read(self.after, *position, &mut new)?;
            bits.push(differing_pages(&old, &new));
        }
        self.progress.advance(positions.len() as u64 * CHUNK_BYTES as u64);
        Ok(bits)
    }

    fn read(&self, side: Side<'_>, position: u64, into: &mut Vec<u8>) -> Result<(), ChunkFault> {
        into.clear();
        into.resize(chunk_bytes_at(side.bytes, position), 0);
        let read = side.reader.read_chunk(self.region, position, into);
        read.map_err(|source| ChunkFault { region: self.region.clone(), position, source })?;
        Ok(())
    }
}

/// A bit for each page that differs, as far as both go.
fn differing_pages(old: &[u8], new: &[u8]) -> u16 {
    let both = old.len().min(new.len());
    let pages = |chunk: &'_ [u8]| -> Vec<Range<usize>> {
        let page = PAGE_BYTES as usize;
        (0..chunk.len().div_ceil(page))
            .map(|number| number * page..chunk.len().min((number + 1) * page))
            .collect()
    };
    let mut bits = 0;
    for (number, page) in pages(&old[..both]).into_iter().enumerate() {
        if old[page.clone()] != new[page] {
            bits |= 1 << number;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_that_differs_has_its_bit() {
        let mut new = vec![0; CHUNK_BYTES];
        assert_eq!(differing_pages(&vec![0; CHUNK_BYTES], &new), 0);
        new[0] = 1;
        new[CHUNK_BYTES - 1] = 1;
        assert_eq!(differing_pages(&vec![0; CHUNK_BYTES], &new), 0x8001);
        assert_eq!(differing_pages(&[0; 5_000], &new[..4_097]), 1);
        assert_eq!(differing_pages(&[], &new), 0);
    }
}
