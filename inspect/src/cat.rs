//! Bytes of a region, in order: decoded and checked on all cores, written by one.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{RegionName, chunk_bytes_at};
use sustain_store::{ChunkRead, SnapshotReader};

use crate::limits;
use crate::view::ChunkFault;

/// Bytes that a thread decodes at a time.
const PIECE_BYTES: u64 = limits::AHEAD_CHUNKS * CHUNK_BYTES as u64;

/// Why bytes of a region can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatError {
    /// The snapshot has no such region.
    #[error("snapshot {snapshot} has no region {region}, but {known}")]
    NoRegion {
        /// The beginning of the snapshot's id.
        snapshot: String,
        /// What was asked for.
        region: RegionName,
        /// The regions that it has, as a list.
        known: String,
    },
    /// The region ends before.
    #[error("region {region} has {bytes} bytes, so it has none from {} to {}", range.start, range.end)]
    Outside {
        /// The region.
        region: RegionName,
        /// Its size.
        bytes: u64,
        /// What was asked for.
        range: Range<u64>,
    },
    /// A chunk can't be read.
    #[error(transparent)]
    Read(#[from] ChunkFault),
    /// What was read can't be written.
    #[error("could not write what was read")]
    Write(#[source] io::Error),
    /// A thread can't be started, or died.
    #[error("could not decode on threads of its own")]
    Thread(#[source] io::Error),
}

/// Some bytes of a region.
enum Piece {
    Zeros(usize),
    Data(Vec<u8>),
}

/// Writes a region's bytes: `length` of them from `offset` on, or all that follow. How many that were.
///
/// # Errors
/// If there is no such region or range, a chunk can't be read or is not what its id says, or the writer fails. What was
/// written until then is right.
pub fn cat(
    reader: &SnapshotReader,
    region: &RegionName,
    offset: u64,
    length: Option<u64>,
    out: &mut dyn Write,
) -> Result<u64, CatError> {
    let range = range(reader, region, offset, length)?;
    let bytes = range.end - range.start;
    let pieces = piece_count(&range);
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = cores.min(limits::CAT_THREADS_MAX).min(usize::try_from(pieces).unwrap_or(usize::MAX));
    if threads <= 1 {
        for number in 0..pieces {
            write(out, read(reader, region, piece(&range, number))?).map_err(CatError::Write)?;
        }
        return Ok(bytes);
    }
    thread::scope(|scope| {
        let mut queues: Vec<Receiver<Result<Piece, ChunkFault>>> = Vec::new();
        for number in 0..threads {
            let (sender, receiver) = sync_channel(limits::CAT_QUEUE_PIECES);
            let range = range.clone();
            let own = (number as u64..pieces).step_by(threads).map(move |number| piece(&range, number));
            let decode = move || decode(reader, region, own, &sender);
            thread::Builder::new()
                .name("cat".to_owned())
                .spawn_scoped(scope, decode)
                .map_err(CatError::Thread)?;
            queues.push(receiver);
        }
        for number in 0..pieces {
            let died = |_| CatError::Thread(io::Error::other("a thread ended early"));
            let piece = queues[number as usize % threads].recv().map_err(died)??;
            write(out, piece).map_err(CatError::Write)?;
        }
        Ok(bytes)
    })
}

/// The range that was asked for, if the region has it.
fn range(
    reader: &SnapshotReader,
    region: &RegionName,
    offset: u64,
    length: Option<u64>,
) -> Result<Range<u64>, CatError> {
    let Some(found) = reader.regions().iter().find(|known| known.name == *region) else {
        let known: Vec<&str> = reader.regions().iter().map(|known| known.name.as_str()).collect();
        let known = if known.is_empty() { "none at all".to_owned() } else { known.join(", ") };
        return Err(CatError::NoRegion {
            snapshot: reader.snapshot().short(),
            region: region.clone(),
            known,
        });
    };
    let end = length.map_or(found.bytes.max(offset), |length| offset.saturating_add(length));
    if offset > found.bytes || end > found.bytes {
        return Err(CatError::Outside { region: region.clone(), bytes: found.bytes, range: offset..end });
    }
    Ok(offset..end)
}

/// How many pieces a range has if it is cut at multiples of a piece's size.
const fn piece_count(range: &Range<u64>) -> u64 {
    if range.start == range.end { 0 } else { range.end.div_ceil(PIECE_BYTES) - range.start / PIECE_BYTES }
}

/// One of them.
fn piece(range: &Range<u64>, number: u64) -> Range<u64> {
    let start = (range.start / PIECE_BYTES + number) * PIECE_BYTES;
    range.start.max(start)..range.end.min(start + PIECE_BYTES)
}

fn decode(
    reader: &SnapshotReader,
    region: &RegionName,
    pieces: impl Iterator<Item = Range<u64>>,
    sender: &SyncSender<Result<Piece, ChunkFault>>,
) {
    for piece in pieces {
        let read = read(reader, region, piece);
        let failed = read.is_err();
        // Nobody takes it any more when the writer has failed.
        if sender.send(read).is_err() || failed {
            return;
        }
    }
}

fn read(reader: &SnapshotReader, region: &RegionName, range: Range<u64>) -> Result<Piece, ChunkFault> {
    let bytes = (range.end - range.start) as usize;
    let (first, end) = (range.start / CHUNK_BYTES as u64, range.end.div_ceil(CHUNK_BYTES as u64));
    let mut chunks = reader.chunks_from(region, first).take_while(|(position, _)| *position < end).peekable();
    if chunks.peek().is_none() {
        return Ok(Piece::Zeros(bytes));
    }
    let mut data = vec![0; bytes];
    let mut partial = Vec::new();
    let region_bytes =
        reader.regions().iter().find(|known| known.name == *region).map_or(0, |found| found.bytes);
    for (position, _) in chunks {
        let start = position * CHUNK_BYTES as u64;
        let chunk_bytes = chunk_bytes_at(region_bytes, position);
        let fault = |source| ChunkFault { region: region.clone(), position, source };
        if start >= range.start && start + chunk_bytes as u64 <= range.end {
            let from = (start - range.start) as usize;
            reader.read_chunk(region, position, &mut data[from..from + chunk_bytes]).map_err(fault)?;
            continue;
        }
        partial.clear();
        partial.resize(chunk_bytes, 0);
        if reader.read_chunk(region, position, &mut partial).map_err(fault)? == ChunkRead::Data {
            let (from, to) = (range.start.max(start), range.end.min(start + chunk_bytes as u64));
            let part = &partial[(from - start) as usize..(to - start) as usize];
            data[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(part);
        }
    }
    Ok(Piece::Data(data))
}

fn write(out: &mut dyn Write, piece: Piece) -> io::Result<()> {
    match piece {
        Piece::Data(data) => out.write_all(&data),
        Piece::Zeros(mut bytes) => {
            let zeros = [0; CHUNK_BYTES];
            while bytes > 0 {
                let part = bytes.min(zeros.len());
                out.write_all(&zeros[..part])?;
                bytes -= part;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_without_gaps_and_end_at_the_grid() {
        assert_eq!(piece_count(&(5..5)), 0);
        let range = PIECE_BYTES - 1..3 * PIECE_BYTES + 1;
        let cut: Vec<_> = (0..piece_count(&range)).map(|number| piece(&range, number)).collect();
        assert_eq!(cut.len(), 4);
        assert_eq!((cut[0].start, cut[0].end, cut[3].end), (range.start, PIECE_BYTES, range.end));
        assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
    }
}
