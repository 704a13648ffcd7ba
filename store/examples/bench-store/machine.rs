//! What this machine can do at most, measured on the states themselves: what any store has to do, alone.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{FileSource, limits};

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

/// Bytes a second, on one core unless said otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine {
    /// From memory to memory.
    pub(crate) copy: f64,
    /// From a file in the page cache to memory.
    pub(crate) read: f64,
    /// A keyed BLAKE3 of each chunk.
    pub(crate) hash: f64,
    /// The same on all cores.
    pub(crate) hash_all: f64,
    /// zstd at the store's level, each chunk by itself.
    pub(crate) compress: f64,
    /// Back again, in bytes that come out.
    pub(crate) decompress: f64,
    /// Into a file that is synced at the end.
    pub(crate) write: f64,
    /// How many cores there are.
    pub(crate) cores: f64,
}

/// The speed of some work on so many bytes.
fn speed(turns: usize, bytes: usize, mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut speeds = Vec::with_capacity(turns);
    for _ in 0..turns {
        let started = Instant::now();
        work()?;
        speeds.push(bytes as f64 / started.elapsed().as_secs_f64());
    }
    Ok(median(speeds).unwrap_or_default())
}

fn hash(data: &[u8]) {
    for chunk in data.chunks(CHUNK_BYTES) {
        std::hint::black_box(blake3::keyed_hash(&[7; 32], chunk));
    }
}

impl Machine {
    pub(crate) fn measure(options: &Options) -> Outcome<Self> {
        let path = options.data.join("1/ram");
        let data = chunks_with_data(&FileSource::open(&path)?)?.take(CHUNKS_MAX).collect::<Vec<_>>().concat();
        let mut to = vec![1; data.len()];
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let copy = speed(TURNS, data.len(), || {
            std::hint::black_box(&mut to).copy_from_slice(&data);
            Ok(())
        })?;
        let file = File::open(&path)?;
        let length = to.len().min(file.metadata()?.len() as usize);
        let read = speed(TURNS, length, || {
            let parts = to[..length].chunks_mut(CHUNK_BYTES).enumerate();
            Ok(parts
                .into_iter()
                .try_for_each(|(part, to)| file.read_exact_at(to, (part * CHUNK_BYTES) as u64))?)
        })?;
        let hash_one = speed(TURNS, data.len(), || {
            hash(&data);
            Ok(())
        })?;
        let hash_all = speed(TURNS, data.len(), || {
            let share = data.len().div_ceil(cores).next_multiple_of(CHUNK_BYTES);
            thread::scope(|scope| data.chunks(share).for_each(|part| drop(scope.spawn(|| hash(part)))));
            Ok(())
        })?;
        let mut compressor = zstd::bulk::Compressor::new(limits::ZSTD_LEVEL)?;
        let mut frames = Vec::new();
        let compress = speed(TURNS, data.len(), || {
            let chunks = data.chunks(CHUNK_BYTES);
            frames = chunks.map(|chunk| compressor.compress(chunk)).collect::<Result<Vec<_>, _>>()?;
            Ok(())
        })?;
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let decompress = speed(TURNS, data.len(), || {
            for (frame, to) in frames.iter().zip(to.chunks_mut(CHUNK_BYTES)) {
                decompressor.decompress_to_buffer(frame, to)?;
            }
            Ok(())
        })?;
        let written = options.scratch.join("written");
        let write = speed(DISK_TURNS, data.len(), || {
            let mut file = File::create(&written)?;
            file.write_all(&data)?;
            file.sync_all()?;
            Ok(fs::remove_file(&written)?)
        })?;
        Ok(Self { copy, read, hash: hash_one, hash_all, compress, decompress, write, cores: cores as f64 })
    }

    pub(crate) fn print(&self) {
        let Self { copy, read, hash, hash_all, compress, decompress, write, cores } = *self;
        let level = limits::ZSTD_LEVEL;
        println!(
            "\nthis machine's limits, MB/s on the states' memory, one of {cores} cores unless said otherwise"
        );
        for (name, speed) in [
            ("memory copy", copy),
            ("read from the page cache", read),
            ("BLAKE3", hash),
            ("BLAKE3, all cores", hash_all),
            (&format!("zstd {level}"), compress),
            ("zstd, decoding", decompress),
            ("file, written and synced", write),
        ] {
            println!("    {name:<28} {:>8.0}", speed / 1e6);
        }
    }
}
