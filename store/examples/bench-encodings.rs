//! Compares ways to store what changed: bytes and speed of each, on states that `make bench-data` made.
//!
//! One core, everything in memory, the zstd library directly: what the choices cost by themselves. A state's changed
//! chunks are those that no earlier state has; the first state is the base. `make bench-encodings` runs it.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use zstd::zstd_safe::{CCtx, CParameter, get_error_name};

type Outcome<T> = Result<T, Box<dyn Error>>;

const CHUNK: usize = 64 * 1024;
const PAGE: usize = 4_096;

/// What goes into a frame, and what is its dictionary.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Whole chunks.
    Whole,
    /// Chunks, XOR what the base has there.
    Xor,
    /// Whole chunks; the base's are the dictionary.
    Prefix,
    /// The pages that differ from the base's; the base's are the dictionary.
    Pages,
}

/// One row of the table.
struct Choice {
    name: &'static str,
    way: Way,
    level: i32,
    /// Chunks in a frame.
    chunks: usize,
}

const CHOICES: [Choice; 12] = [
    Choice { name: "whole, zstd 1", way: Way::Whole, level: 1, chunks: 1 },
    Choice { name: "whole, zstd 3", way: Way::Whole, level: 3, chunks: 1 },
    Choice { name: "XOR base, zstd 1", way: Way::Xor, level: 1, chunks: 1 },
    Choice { name: "base as prefix, zstd 1", way: Way::Prefix, level: 1, chunks: 1 },
    Choice { name: "base as prefix, zstd 3", way: Way::Prefix, level: 3, chunks: 1 },
    Choice { name: "pages, zstd 3", way: Way::Pages, level: 3, chunks: 1 },
    Choice { name: "pages of 4 chunks, zstd 3", way: Way::Pages, level: 3, chunks: 4 },
    Choice { name: "pages of 16 chunks, zstd 1", way: Way::Pages, level: 1, chunks: 16 },
    Choice { name: "pages of 16 chunks, zstd 2", way: Way::Pages, level: 2, chunks: 16 },
    Choice { name: "pages of 16 chunks, zstd 3", way: Way::Pages, level: 3, chunks: 16 },
    Choice { name: "pages of 16 chunks, zstd 5", way: Way::Pages, level: 5, chunks: 16 },
    Choice { name: "pages of 64 chunks, zstd 3", way: Way::Pages, level: 3, chunks: 64 },
];

/// A changed chunk, and what the base has there.
struct Change {
    new: Vec<u8>,
    base: Vec<u8>,
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn compress(level: i32, prefix: &[u8], data: &[u8], to: &mut [u8]) -> Outcome<usize> {
    let mut context = CCtx::create();
    let fail = |code| get_error_name(code).to_owned();
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(fail)?;
    if !prefix.is_empty() {
        context.set_parameter(CParameter::WindowLog(24)).map_err(fail)?;
        context.ref_prefix(prefix).map_err(fail)?;
    }
    Ok(context.compress2(to, data).map_err(fail)?)
}

impl Choice {
    fn add(&self, change: &Change, data: &mut Vec<u8>, prefix: &mut Vec<u8>) {
        let Change { new, base } = change;
        match self.way {
            Way::Whole => data.extend_from_slice(new),
            Way::Xor => data.extend(new.iter().zip(base).map(|(new, base)| new ^ base)),
            Way::Prefix => {
                data.extend_from_slice(new);
                prefix.extend_from_slice(base);
            }
            Way::Pages => {
                let pages = new.chunks(PAGE).zip(base.chunks(PAGE));
                for (new, base) in pages.filter(|(new, base)| new != base && !is_zero(new)) {
                    data.extend_from_slice(new);
                    prefix.extend_from_slice(if is_zero(base) { &[] } else { base });
                }
            }
        }
    }

    /// Bytes that the changes take, and the time.
    fn measure(&self, changes: &[Change]) -> Outcome<(usize, Duration)> {
        let mut to = vec![0; 2 * self.chunks * CHUNK];
        let (mut data, mut prefix, mut bytes) = (Vec::new(), Vec::new(), 0);
        let started = Instant::now();
        for group in changes.chunks(self.chunks) {
            data.clear();
            prefix.clear();
            group.iter().for_each(|change| self.add(change, &mut data, &mut prefix));
            bytes += compress(self.level, &prefix, &data, &mut to)?;
        }
        Ok((bytes, started.elapsed()))
    }
}

/// What each state after the first changed.
fn changes(folder: &Path, region: &str) -> Outcome<(Vec<u8>, Vec<Vec<Change>>)> {
    let base = std::fs::read(folder.join("1").join(region))?;
    let mut known: HashSet<[u8; 32]> =
        base.chunks(CHUNK).map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
    let mut states = Vec::new();
    for number in 2.. {
        let path = folder.join(number.to_string()).join(region);
        if !path.exists() {
            break;
        }
        let new = std::fs::read(path)?;
        let chunks = new.chunks(CHUNK).zip(base.chunks(CHUNK));
        let changed = chunks.filter(|(new, base)| !is_zero(new) && new != base);
        let new = changed.filter(|(new, _)| known.insert(*blake3::hash(new).as_bytes()));
        states.push(new.map(|(new, base)| Change { new: new.to_vec(), base: base.to_vec() }).collect());
    }
    Ok((base, states))
}

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("usage: bench-encodings DIR")?;
    for region in ["ram", "disk0"] {
        let (base, states) = changes(Path::new(&folder), region)?;
        let whole: Vec<Change> = base
            .chunks(CHUNK)
            .filter(|chunk| !is_zero(chunk))
            .map(|chunk| Change { new: chunk.to_vec(), base: Vec::new() })
            .collect();
        println!(
            "{region}: the first state, {:.1} MB in chunks that are not zero",
            megabytes(whole.len() * CHUNK)
        );
        for (level, chunks) in [(1, 1), (1, 4), (2, 1), (3, 1), (3, 4)] {
            let choice = Choice { name: "", way: Way::Whole, level, chunks };
            let (bytes, time) = choice.measure(&whole)?;
            print_row(&format!("{chunks} chunks, zstd {level}"), bytes, whole.len(), time);
        }
        let count: usize = states.iter().map(Vec::len).sum();
        println!(
            "{region}: {} later states, {:.1} MB in changed chunks",
            states.len(),
            megabytes(count * CHUNK)
        );
        for choice in CHOICES {
            let (mut bytes, mut time) = (0, Duration::ZERO);
            for changes in &states {
                let (more, longer) = choice.measure(changes)?;
                bytes += more;
                time += longer;
            }
            print_row(choice.name, bytes, count, time);
        }
    }
    Ok(())
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn print_row(name: &str, bytes: usize, chunks: usize, time: Duration) {
    let speed = megabytes(chunks * CHUNK) / time.as_secs_f64();
    println!("    {name:<28} {:>8.2} MB {speed:>6.0} MB/s of chunks", megabytes(bytes));
}
