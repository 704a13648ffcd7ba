//! The states: where their files are, what they hold, and whether a copy is one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sustain_proto::is_zero;
use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{FileSource, RegionSource};

use crate::Outcome;

/// The regions of each state.
pub(crate) const REGIONS: [&str; 3] = ["ram", "device", "disk0"];
/// How many states are stored.
pub(crate) const COUNT: usize = 5;

/// What one state holds, in bytes of chunks of the store's grid.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Contents {
    /// Lengths of its regions, zeros and all.
    pub(crate) apparent: u64,
    /// Chunks that are not zero.
    pub(crate) data: u64,
    /// Chunks that no state before had anywhere.
    pub(crate) new: u64,
    /// What its lists of changes name.
    pub(crate) listed: u64,
}

/// The states that are stored.
pub(crate) struct States {
    folder: PathBuf,
    pub(crate) contents: Vec<Contents>,
}

impl States {
    pub(crate) fn read(folder: &Path) -> Outcome<Self> {
        let mut states = Self { folder: folder.to_owned(), contents: Vec::new() };
        let mut known = HashSet::new();
        for number in 1..=COUNT {
            let mut contents = Contents::default();
            for region in REGIONS {
                let path = states.path(number).join(region);
                let source =
                    FileSource::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                contents.apparent += source.bytes();
                for (_, chunk) in chunks_with_data(&source)? {
                    contents.data += chunk.len() as u64;
                    contents.new += if known.insert(blake3::hash(&chunk)) { chunk.len() as u64 } else { 0 };
                }
                let list = fs::read_to_string(states.path(number).join(format!("{region}.changed")))?;
                for line in list.lines() {
                    contents.listed +=
                        line.split_once(' ').ok_or("a list without lengths")?.1.parse::<u64>()?;
                }
            }
            states.contents.push(contents);
        }
        Ok(states)
    }

    /// A state's folder; the first is number 1.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// The mean over the states after the first.
    pub(crate) fn later(&self) -> Contents {
        let later = &self.contents[1..];
        let mean = |part: fn(&Contents) -> u64| later.iter().map(part).sum::<u64>() / later.len() as u64;
        Contents {
            apparent: mean(|state| state.apparent),
            data: mean(|state| state.data),
            new: mean(|state| state.new),
            listed: mean(|state| state.listed),
        }
    }

    /// Has a state's data in the page cache, so that no program pays for the disk.
    pub(crate) fn warm(&self, number: usize) -> Outcome<()> {
        for region in REGIONS {
            chunks_with_data(&FileSource::open(&self.path(number).join(region))?)?.for_each(drop);
        }
        Ok(())
    }

    /// Fails unless a folder, or a folder in it, holds a state's regions bit for bit.
    pub(crate) fn compare(&self, number: usize, copy: &Path) -> Outcome<()> {
        let copy = find(copy, REGIONS[0])?.ok_or_else(|| format!("nothing in {}", copy.display()))?;
        for region in REGIONS {
            let (right, copy) = (self.path(number).join(region), copy.join(region));
            if !same(&right, &copy)? {
                return Err(format!("{} is not what {} is", copy.display(), right.display()).into());
            }
        }
        Ok(())
    }

    pub(crate) fn print(&self) {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!("\nMB               apparent    not zero    new chunks    listed");
        for (number, state) in self.contents.iter().enumerate() {
            let Contents { apparent, data, new, listed } = *state;
            println!(
                "state {:<8} {:>10.1} {:>11.1} {:>13.1} {:>9.1}",
                number + 1,
                megabytes(apparent),
                megabytes(data),
                megabytes(new),
                megabytes(listed)
            );
        }
    }
}

/// The chunks of a region that are not zero, with their positions.
pub(crate) fn chunks_with_data(source: &FileSource) -> Outcome<impl Iterator<Item = (u64, Vec<u8>)> + '_> {
    let chunk = CHUNK_BYTES as u64;
    let ranges = source.data_ranges()?;
    let positions = ranges.into_iter().flat_map(move |range| range.start / chunk..range.end.div_ceil(chunk));
    let mut last = None;
    let positions = positions.filter(move |position| last.replace(*position) != Some(*position));
    Ok(positions.filter_map(move |position| {
        let start = position * chunk;
        let mut bytes = vec![0; (source.bytes() - start).min(chunk) as usize];
        // What can't be read is zero here, and an error for the programs that are measured.
        source.read_at(start, &mut bytes).ok()?;
        (!is_zero(&bytes)).then_some((position, bytes))
    }))
}

/// The folder below this one that has an entry of this name.
fn find(folder: &Path, name: &str) -> Outcome<Option<PathBuf>> {
    if folder.join(name).exists() {
        return Ok(Some(folder.to_owned()));
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some(found) = if path.is_dir() { find(&path, name)? } else { None } {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn same(one: &Path, other: &Path) -> Outcome<bool> {
    let (sources, files) =
        ([FileSource::open(one)?, FileSource::open(other)?], [File::open(one)?, File::open(other)?]);
    if sources[0].bytes() != sources[1].bytes() {
        return Ok(false);
    }
    // Where both have holes there is nothing to compare.
    for source in &sources {
        for Range { mut start, end } in source.data_ranges()? {
            let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
            while start < end {
                let bytes = (end - start).min(1 << 20) as usize;
                for (file, buffer) in files.iter().zip(&mut buffers) {
                    file.read_exact_at(&mut buffer[..bytes], start)?;
                }
                if buffers[0][..bytes] != buffers[1][..bytes] {
                    return Ok(false);
                }
                start += bytes as u64;
            }
        }
    }
    Ok(true)
}
