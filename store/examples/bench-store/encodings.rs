//! Ways to store what changed: bytes and speed of each, on one core, everything in memory, with the zstd library
//! directly: what the choices cost by themselves. A state's changed chunks are those that no earlier state has; the
//! first state is the base.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sustain_proto::is_zero;
use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{FileSource, RegionSource};
use zstd::zstd_safe::{CCtx, CParameter, get_error_name};

use crate::Outcome;
use crate::states::{COUNT, REGIONS, States, chunks_with_data};

/// The guest's pages.
const PAGE_BYTES: usize = 4_096;

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

const CHOICES: [Choice; 13] = [
    Choice { name: "whole, zstd 1", way: Way::Whole, level: 1, chunks: 1 },
    Choice { name: "whole, 4 chunks, zstd 1", way: Way::Whole, level: 1, chunks: 4 },
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
                let pages = new.chunks(PAGE_BYTES).zip(base.chunks(PAGE_BYTES));
                for (new, base) in pages.filter(|(new, base)| new != base && !is_zero(new)) {
                    data.extend_from_slice(new);
                    prefix.extend_from_slice(if is_zero(base) { &[] } else { base });
                }
            }
        }
    }

    /// Bytes that the changes take, and the time: with the search for pages that differ, without any hashing.
    fn measure(&self, changes: &[Change]) -> Outcome<(usize, Duration)> {
        let mut to = vec![0; 2 * self.chunks * CHUNK_BYTES];
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

/// What a choice, or a program, makes of the states.
pub(crate) struct Stored {
    pub(crate) name: String,
    /// Bytes of the first state and seconds, if it was stored.
    pub(crate) first: Option<(u64, f64)>,
    /// The same of all later states together.
    pub(crate) later: Option<(u64, f64)>,
}

/// What each state after the first changed in a region, and the first one's chunks.
fn changes(states: &States, region: &str) -> Outcome<(Vec<Change>, Vec<Vec<Change>>)> {
    let open = |number: usize| FileSource::open(&states.path(number).join(region));
    let base = open(1)?;
    let mut known = HashSet::new();
    let mut first = Vec::new();
    for (_, new) in chunks_with_data(&base)? {
        known.insert(blake3::hash(&new));
        first.push(Change { new, base: Vec::new() });
    }
    let mut later = Vec::new();
    for number in 2..=COUNT {
        let mut changed = Vec::new();
        for (position, new) in chunks_with_data(&open(number)?)? {
            if known.insert(blake3::hash(&new)) {
                let mut before = vec![0; new.len()];
                base.read_at(position * CHUNK_BYTES as u64, &mut before)?;
                changed.push(Change { new, base: before });
            }
        }
        later.push(changed);
    }
    Ok((first, later))
}

/// Measures all choices. A delta's choices are for later states, and choices for whole chunks are for the first, too.
pub(crate) fn measure(states: &States) -> Outcome<Vec<Stored>> {
    let mut rows: Vec<Stored> = CHOICES
        .iter()
        .map(|choice| Stored {
            name: choice.name.to_owned(),
            first: (choice.way == Way::Whole).then_some((0, 0.0)),
            later: Some((0, 0.0)),
        })
        .collect();
    // A region at a time, so that only its chunks are in memory.
    for region in REGIONS {
        let (first, later) = changes(states, region)?;
        for (choice, row) in CHOICES.iter().zip(&mut rows) {
            for (sum, changes) in
                [(&mut row.first, std::slice::from_ref(&first)), (&mut row.later, &later[..])]
            {
                let Some((bytes, seconds)) = sum else { continue };
                for changes in changes {
                    let (more, longer) = choice.measure(changes)?;
                    *bytes += more as u64;
                    *seconds += longer.as_secs_f64();
                }
            }
        }
    }
    Ok(rows)
}
