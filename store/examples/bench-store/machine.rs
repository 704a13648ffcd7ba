//! What this machine can do at most, measured on the states themselves: what any store has to do, alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{FileSource, RegionSource, limits};
use zstd::bulk::{Compressor, Decompressor};

use crate::Outcome;
use crate::measure::median;
use crate::options::Options;
use crate::states::chunks_with_data;

/// Most chunks that are measured with: 192 MiB, far more than the caches hold.
const CHUNKS_MAX: usize = 3_072;
/// How often each is measured; the median counts.
const TURNS: usize = 5;
/// How often a file is written and synced: it is the slowest of all, and others' disk writes disturb it most.
const DISK_TURNS: usize = 3;

/// A speed in bytes a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Speed {
    /// Of one core.
    pub(crate) one: f64,
    /// Of all cores together. Two that the machine shares out of one real core are hardly faster than one.
    pub(crate) all: f64,
}

/// How fast each of these is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine {
    /// From memory to memory.
    pub(crate) copy: Speed,
    /// From a file in the page cache to memory.
    pub(crate) read: Speed,
    /// A keyed BLAKE3 of each chunk.
    pub(crate) hash: Speed,
    /// zstd at the store's level, each chunk by itself.
    pub(crate) compress: Speed,
    /// Back again, in bytes that come out.
    pub(crate) decompress: Speed,
    /// Into a file that is synced at the end, in bytes a second.
    pub(crate) write: f64,
}

/// The median speed at which some work gets through so many bytes.
fn speed(turns: usize, bytes: usize, mut work: impl FnMut() -> io::Result<()>) -> Outcome<f64> {
    let mut speeds = Vec::with_capacity(turns);
    for _ in 0..turns {
        let started = Instant::now();
        work()?;
        speeds.push(bytes as f64 / started.elapsed().as_secs_f64());
    }
    Ok(median(speeds).unwrap_or_default())
}

/// Some work on chunks and room for them, in pairs, on one core and on all.
fn speeds<'a, C: Sync + 'a>(
    chunks: &'a [C],
    room: &mut [u8],
    work: impl Fn(&'a [C], &mut [u8]) -> io::Result<()> + Sync,
) -> Outcome<Speed> {
    let one = speed(TURNS, room.len(), || work(chunks, room))?;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = chunks.len().div_ceil(cores);
    let all = speed(TURNS, room.len(), || {
        thread::scope(|scope| {
            let parts = chunks.chunks(share).zip(room.chunks_mut(share * CHUNK_BYTES));
            let threads: Vec<_> = parts.map(|(chunks, room)| scope.spawn(|| work(chunks, room))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })?;
    Ok(Speed { one, all })
}

impl Machine {
    pub(crate) fn measure(options: &Options) -> Outcome<Self> {
        let path = options.data.join("1/ram");
        let source = FileSource::open(&path)?;
        let data: Vec<Vec<u8>> =
            chunks_with_data(&source)?.map(|(_, chunk)| chunk).take(CHUNKS_MAX).collect();
        let mut room = vec![1; data.len() * CHUNK_BYTES];
        let pairs = |room: &'_ mut [u8], each: &mut dyn FnMut(usize, &mut [u8]) -> io::Result<()>| {
            room.chunks_exact_mut(CHUNK_BYTES).enumerate().try_for_each(|(number, room)| each(number, room))
        };
        let copy = speeds(&data, &mut room, |chunks, room| {
            pairs(room, &mut |number, room| {
                room.copy_from_slice(&chunks[number]);
                Ok(())
            })
        })?;
        let positions: Vec<u64> = (0..source.bytes() / CHUNK_BYTES as u64).take(data.len()).collect();
        let in_file = &mut room[..positions.len() * CHUNK_BYTES];
        let read = speeds(&positions, in_file, |positions, room| {
            pairs(room, &mut |number, room| source.read_at(positions[number] * CHUNK_BYTES as u64, room))
        })?;
        let hash = speeds(&data, &mut room, |chunks, _| {
            for chunk in chunks {
                std::hint::black_box(blake3::keyed_hash(&[7; 32], chunk));
            }
            Ok(())
        })?;
        let compress = speeds(&data, &mut room, |chunks, _| {
            let mut compressor = Compressor::new(limits::ZSTD_LEVEL)?;
            chunks.iter().try_for_each(|chunk| compressor.compress(chunk).map(drop))
        })?;
        let mut compressor = Compressor::new(limits::ZSTD_LEVEL)?;
        let frames: Vec<_> = data.iter().map(|chunk| compressor.compress(chunk)).collect::<Result<_, _>>()?;
        let decompress = speeds(&frames, &mut room, |frames, room| {
            let mut decompressor = Decompressor::new()?;
            pairs(room, &mut |number, room| {
                decompressor.decompress_to_buffer(&frames[number], room).map(drop)
            })
        })?;
        let written = options.scratch.join("written");
        let write = speed(DISK_TURNS, room.len(), || {
            let mut file = File::create(&written)?;
            file.write_all(&room)?;
            file.sync_all()
        })?;
        fs::remove_file(&written)?;
        Ok(Self { copy, read, hash, compress, decompress, write })
    }

    pub(crate) fn print(&self) {
        let Self { copy, read, hash, compress, decompress, write } = *self;
        let level = limits::ZSTD_LEVEL;
        println!("\nthis machine's limits, MB/s on the states' memory            one core  all cores");
        for (name, speed) in [
            ("memory copy", copy),
            ("read from the page cache", read),
            ("BLAKE3", hash),
            (&format!("zstd {level}"), compress),
            ("zstd, decoding", decompress),
        ] {
            println!("    {name:<54} {:>10.0} {:>10.0}", speed.one / 1e6, speed.all / 1e6);
        }
        println!("    {:<54} {:>10.0}", "a file, written and synced", write / 1e6);
    }
}
