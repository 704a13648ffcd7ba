//! Ingesting a region: on several cores, read, hash, look up, compress; one after the other, append to a pack.
//!
//! Memory is bounded by the workers: each holds one chunk plain and one compressed.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sustain_proto::limits::{CHUNK_BYTES, INDEX_BYTES_MAX};
use sustain_proto::{ChunkId, Region, RegionIndex, chunk_bytes_at, is_zero};

use crate::block::{Encoder, StoredChunk};
use crate::block_cache::BlockCache;
use crate::catalogue::{Catalogue, Place};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::located::LocatedRegion;
use crate::pack_writer::PackSink;
use crate::pages::{PAGES_MAX, Page, Previous, SharedPage};
use crate::parallel::{Pace, for_each_batch_then};
use crate::service_key::ServiceKey;
use crate::store::Shared;
use crate::{Fault, PushError, ReadError, RegionSource, limits};

/// Most chunks that a snapshot's index can name: each takes at least 34 bytes there.
const CHUNKS_MAX: u64 = (INDEX_BYTES_MAX / 34) as u64;

/// What is needed to tell new chunks from old ones, and to store them.
pub(crate) struct Known<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) cache: &'a BlockCache,
    pub(crate) key: &'a ServiceKey,
    /// What the base has of the region, to be referred to; none if the push makes a base itself.
    pub(crate) base: Option<&'a LocatedRegion>,
    /// What the parent has of it, whose pages need not be stored again.
    pub(crate) parent: Option<&'a LocatedRegion>,
    pub(crate) pace: Pace,
}

/// What a region holds.
pub(crate) struct Ingested {
    pub(crate) chunks: RegionIndex,
}

/// New chunks: which there are, and the pack that they go to. Who looks for a chunk does not wait for who writes.
struct Output<'a> {
    sink: Mutex<&'a mut PackSink>,
    new: Mutex<&'a mut HashSet<ChunkId>>,
}

/// What a thread works with. It is used for one region after the other: new memory takes as long as much of the work.
pub(crate) struct Worker {
    plain: Vec<u8>,
    encoder: Encoder,
    /// Reads what the base and the parent have.
    reader: ChunkReader,
    found: Vec<(u64, ChunkId)>,
}

/// Reads these positions of a region and stores the chunks that neither the generation nor this push has
/// yet. Positions that are all zero are not in the result.
pub(crate) fn ingest(
    known: &Known<'_>,
    region: &Region,
    source: &dyn RegionSource,
    spans: &Spans,
    workers: &mut Vec<Worker>,
    (sink, new): (&mut PackSink, &mut HashSet<ChunkId>),
) -> Result<Ingested, PushError> {
    let source_error = |source| PushError::Source { region: region.name.clone(), source };
    let output = Output { sink: Mutex::new(sink), new: Mutex::new(new) };
    let found_count = AtomicU64::new(0);
    let idle = Mutex::new(std::mem::take(workers));
    let make = || {
        if let Some(worker) = lock(&idle).pop() {
            return Ok(worker);
        }
        let encoder = Encoder::new(known.key, known.shared.zstd_level, limits::ZSTD_DELTA_LEVEL);
        let encoder = encoder.map_err(no_memory)?;
        Ok(Worker { plain: vec![0; CHUNK_BYTES], encoder, reader: ChunkReader::new()?, found: Vec::new() })
    };
    let work = |worker: &mut Worker, batch: Range<u64>| {
        for position in spans.positions(batch) {
            let plain = &mut worker.plain[..chunk_bytes_at(region.bytes, position)];
            source.read_at(position * CHUNK_BYTES as u64, plain).map_err(source_error)?;
            if is_zero(plain) {
                continue;
            }
            let id = known.key.chunk_id(plain);
            worker.found.push((position, id));
            if known.catalogue.chunk(&id).is_none() {
                add_chunk(known, &output, &mut worker.encoder, &mut worker.reader, position, id, plain)?;
            }
        }
        if known.base.is_none() {
            // A base's chunks are read one by one: those of a block lie together.
            store_block(&output, &mut worker.encoder)?;
        }
        let found = worker.found.len() as u64;
        if found_count.fetch_max(found, Ordering::Relaxed).max(found) > CHUNKS_MAX {
            let bytes_max = CHUNKS_MAX * CHUNK_BYTES as u64;
            return Err(PushError::RegionTooLarge {
                region: region.name.clone(),
                bytes: region.bytes,
                bytes_max,
            });
        }
        Ok(())
    };
    // What did not fill a block.
    let end = |worker: &mut Worker| Ok(store_block(&output, &mut worker.encoder)?);
    *workers = for_each_batch_then(known.pace, spans.total, limits::BATCH_POSITIONS, make, work, end)?;
    workers.append(&mut lock(&idle));
    let mut found: Vec<(u64, ChunkId)> =
        workers.iter_mut().flat_map(|worker| worker.found.drain(..)).collect();
    found.sort_unstable_by_key(|(position, _)| *position);
    let chunks = found.into_iter().map(|(position, id)| (position, Some(id))).collect();
    Ok(Ingested { chunks })
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a chunk to the block that the worker fills.
fn add_chunk(
    known: &Known<'_>,
    output: &Output<'_>,
    encoder: &mut Encoder,
    reader: &mut ChunkReader,
    position: u64,
    id: ChunkId,
    plain: &[u8],
) -> Result<(), Fault> {
    // Claimed before it is compressed, so that two workers don't compress the same chunk.
    if !lock(&output.new).insert(id) {
        return Ok(());
    }
    let at = |region: &LocatedRegion| region.get(position).map(|chunk| known.catalogue.place(chunk));
    // What a base holds refers to nothing.
    let base = known.base.and_then(at).filter(|place| known.catalogue.is_alone(*place));
    // What is in the base is referred to as that.
    let parent = known.parent.and_then(at).filter(|parent| Some(*parent) != base);
    let chunks = Chunks { cache: known.cache, ..Chunks::new(known.shared, known.catalogue) };
    let reference = base.and_then(|place| made_use_of(known, place, reader.referred(chunks, place)));
    let reference = reference.as_ref().map(|(chunk, part)| (chunk.id, part.get()));
    let previous = parent.and_then(|place| made_use_of(known, place, reader.as_stored(chunks, place)));
    let previous = previous.map(|(chunk, plain)| Previous { plain, stored: stored_pages(&chunk) });
    encoder.add(id, plain, reference, previous.as_ref());
    let most = if known.base.is_some() { limits::BLOCK_CHUNKS_MAX } else { limits::BASE_BLOCK_CHUNKS };
    if encoder.chunk_count() == most { store_block(output, encoder) } else { Ok(()) }
}

/// A chunk that is here, with what was read of it. Where it can't be read, the new one is stored as if there were none.
fn made_use_of<T>(known: &Known<'_>, place: Place, read: Result<T, ReadError>) -> Option<(StoredChunk, T)> {
    let chunk = known.catalogue.entry(place);
    match read {
        Ok(read) => Some((chunk, read)),
        Err(error) => {
            tracing::warn!(chunk = %chunk.id.short(), %error, "a chunk that was stored before is not made use of");
            None
        }
    }
}

/// Where each page of a chunk is stored.
fn stored_pages(chunk: &StoredChunk) -> [Option<SharedPage>; PAGES_MAX] {
    let mut shared = chunk.shared.iter();
    std::array::from_fn(|page| match chunk.pages.get(page) {
        Page::Data => Some(SharedPage { chunk: chunk.id, page: page as u8 }),
        Page::Shared => shared.next().copied(),
        Page::Zero | Page::Same => None,
    })
}

fn store_block(output: &Output<'_>, encoder: &mut Encoder) -> Result<(), Fault> {
    if let Some(block) = encoder.finish()? {
        lock(&output.sink).append(&block)?;
    }
    encoder.clear();
    Ok(())
}

/// For a compressor that can't be made.
pub(crate) fn no_memory(source: io::Error) -> Fault {
    Fault::Disk { doing: "set memory aside for", path: PathBuf::from("compression"), source }
}

/// The grid positions that ranges of bytes touch, numbered without gaps.
pub(crate) struct Spans {
    /// Number of the first position of each span, and the span.
    spans: Vec<(u64, Range<u64>)>,
    total: u64,
}

impl Spans {
    pub(crate) fn of(ranges: &[Range<u64>], bytes: u64) -> Self {
        let chunk = CHUNK_BYTES as u64;
        let clipped = ranges.iter().map(|range| range.start.min(bytes)..range.end.min(bytes));
        let mut covered: Vec<Range<u64>> = clipped
            .filter(|range| range.start < range.end)
            .map(|range| range.start / chunk..range.end.div_ceil(chunk))
            .collect();
        covered.sort_unstable_by_key(|range| range.start);
        let mut spans: Vec<(u64, Range<u64>)> = Vec::new();
        let mut total = 0;
        for range in covered {
            // Ranges that touch one position, or overlap, may not make it count twice.
            let start = range.start.max(spans.last().map_or(0, |(_, span)| span.end));
            if start < range.end {
                spans.push((total, start..range.end));
                total += range.end - start;
            }
        }
        Self { spans, total }
    }

    /// The touched positions, as ranges without overlap, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.spans.iter().map(|(_, span)| span.clone())
    }

    fn positions(&self, batch: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let mut at = self.spans.partition_point(|(first, _)| *first <= batch.start).saturating_sub(1);
        batch.map_while(move |number| {
            while self.spans.get(at + 1).is_some_and(|(first, _)| *first <= number) {
                at += 1;
            }
            let (first, span) = self.spans.get(at)?;
            Some(span.start + (number - first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    #[test]
    fn spans_cover_each_touched_position_once() {
        let ranges = [
            5 * CHUNK..6 * CHUNK + 1,
            0..1,
            CHUNK - 1..CHUNK,
            6 * CHUNK + 9..7 * CHUNK,
            90 * CHUNK..91 * CHUNK,
        ];
        let spans = Spans::of(&ranges, 8 * CHUNK);
        assert_eq!(spans.total, 3);
        assert_eq!(spans.positions(0..3).collect::<Vec<_>>(), [0, 5, 6]);
        assert_eq!(spans.positions(1..2).collect::<Vec<_>>(), [5]);
        assert_eq!(spans.positions(2..3).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn nothing_has_no_spans() {
        assert_eq!(Spans::of(&[], 100).total, 0);
        assert_eq!(Spans::of(&[0..100, 3..3], 0).total, 0);
    }
}
