//! One state: files that take what a snapshot offers.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{RegionName, is_zero};
use sustain_store::RegionSource;
use sustain_vmdriver::SnapshotSink;

use crate::Outcome;

/// Fills a folder.
pub(crate) struct Recorder {
    folder: PathBuf,
    /// The state before, from which it differs.
    before: Option<PathBuf>,
    /// Ranges written, in the order in which they were told; a later one may repeat an earlier one.
    changed: BTreeMap<RegionName, Vec<Range<u64>>>,
}

impl Recorder {
    pub(crate) fn new(folder: &Path, before: Option<&Path>) -> Outcome<Self> {
        fs::create_dir(folder)?;
        Ok(Self { folder: folder.to_owned(), before: before.map(Path::to_owned), changed: BTreeMap::new() })
    }

    /// Writes the lists of what changed.
    pub(crate) fn finish(self) -> Outcome<()> {
        for (name, ranges) in self.changed {
            let mut list = File::create(self.folder.join(format!("{name}.changed")))?;
            for range in united(ranges) {
                writeln!(list, "{} {}", range.start, range.end - range.start)?;
            }
        }
        Ok(())
    }

    /// The region's file; the first time it is a copy of the state before.
    fn file(&self, name: &RegionName, bytes: u64) -> Outcome<File> {
        let path = self.folder.join(name.as_str());
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let old = self.before.as_ref().map(|before| before.join(name.as_str())).filter(|old| old.exists());
        if let Some(old) = old.filter(|_| is_new) {
            let old = File::open(old)?;
            copy(0..old.metadata()?.len().min(bytes), &|at, buffer| old.read_exact_at(buffer, at), &file)?;
        }
        file.set_len(bytes)?;
        Ok(file)
    }
}

impl SnapshotSink for Recorder {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Outcome<()> {
        let bytes = source.bytes();
        let file = self.file(name, bytes)?;
        let whole = 0..bytes;
        let ranges = changed.unwrap_or(std::slice::from_ref(&whole));
        for range in ranges {
            // What is told is good for all of the chunks that it touches.
            let chunk = CHUNK_BYTES as u64;
            let touched = range.start / chunk * chunk..bytes.min(range.end.next_multiple_of(chunk));
            copy(touched, &|at, buffer| source.read_at(at, buffer), &file)?;
        }
        self.changed.entry(name.clone()).or_default().extend_from_slice(ranges);
        Ok(())
    }
}

/// Copies a range that begins on the grid. Zeros are written only where something else was.
fn copy(range: Range<u64>, read: &dyn Fn(u64, &mut [u8]) -> std::io::Result<()>, file: &File) -> Outcome<()> {
    let (mut buffer, mut old) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = range.start;
    while at < range.end {
        let bytes = (range.end - at).min(CHUNK_BYTES as u64) as usize;
        let new = &mut buffer[..bytes];
        read(at, new)?;
        let was_zero = file.read_exact_at(&mut old[..bytes], at).is_err() || is_zero(&old[..bytes]);
        if !(is_zero(new) && was_zero) {
            file.write_all_at(new, at)?;
        }
        at += bytes as u64;
    }
    Ok(())
}

/// In order, and without overlaps.
fn united(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut united: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}
