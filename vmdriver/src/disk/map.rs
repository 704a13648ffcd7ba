//! Which units of a layer are there: two bits for each, in a file and in memory.
//!
//! ```text
//! 0     magic, version, layer id, disk bytes, unit bytes
//! 56    1 once the layer is in use; 0 while it waits for its turn
//! 4096  two bits for each unit: 0 absent · 1 data · 2 zero; sparse where everything is absent
//! ```
//! The file is written first and memory after it, so nobody acts on a mark that the death of this process
//! would undo. What a process has written to a file stays when it is killed; see [`super`] for the host's
//! own death.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use sustain_store::{FileSource, RegionSource};

const MAGIC: &[u8; 8] = b"SUSTLAYR";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 4_096;
/// Where the head says whether the layer is in use.
const IN_USE_AT: u64 = 56;

const UNITS_PER_WORD: u64 = 32;
const WORDS_PER_PAGE: usize = 512;
const UNITS_PER_PAGE: u64 = UNITS_PER_WORD * WORDS_PER_PAGE as u64;
/// The lower bit of each unit.
const LOWER_BITS: u64 = 0x5555_5555_5555_5555;

/// What a layer has of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nothing: look below.
    Absent,
    /// Bytes, in the data file.
    Data,
    /// Zeros, stored nowhere.
    Zero,
}

impl Unit {
    fn bits(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Data => 1,
            Self::Zero => 2,
        }
    }
}

/// What a map is about. Files of another geometry or another layer are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) layer: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) unit_bytes: u64,
}

impl Geometry {
    pub(crate) fn units(&self) -> u64 {
        self.disk_bytes.div_ceil(self.unit_bytes)
    }

    fn head(&self) -> [u8; IN_USE_AT as usize] {
        let mut head = [0; IN_USE_AT as usize];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (at, value) in [(16, self.layer), (24, self.disk_bytes), (32, self.unit_bytes)] {
            head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        head
    }
}

type Page = Box<[AtomicU64; WORDS_PER_PAGE]>;

/// The map of one layer.
#[derive(Debug)]
pub(crate) struct Map {
    file: File,
    units: u64,
    /// Pages in which anything is present.
    pages: Vec<OnceLock<Page>>,
    /// Held from the write to the file to the change in memory.
    change: Mutex<()>,
}

impl Map {
    /// Makes the file, with everything absent.
    pub(crate) fn create(path: &Path, geometry: &Geometry, in_use: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(HEAD_BYTES + pages_of(geometry.units()) * HEAD_BYTES)?;
        file.write_all_at(&geometry.head(), 0)?;
        file.write_all_at(&[u8::from(in_use)], IN_USE_AT)?;
        Ok(Self::empty(file, geometry))
    }

    /// Opens the file as it was left.
    pub(crate) fn open(path: &Path, geometry: &Geometry) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut head = [0; IN_USE_AT as usize];
        file.read_exact_at(&mut head, 0)?;
        if head[..8] == *MAGIC && head[8..12] != VERSION.to_le_bytes() {
            return Err(damaged(path, "has a version that this program does not know"));
        }
        let bytes = HEAD_BYTES + pages_of(geometry.units()) * HEAD_BYTES;
        if head != geometry.head() || file.metadata()?.len() != bytes {
            return Err(damaged(path, "is not the map of this layer"));
        }
        let map = Self::empty(file, geometry);
        map.load(path)?;
        Ok(map)
    }

    fn empty(file: File, geometry: &Geometry) -> Self {
        let pages = (0..pages_of(geometry.units())).map(|_| OnceLock::new()).collect();
        Self { file, units: geometry.units(), pages, change: Mutex::new(()) }
    }

    fn load(&self, path: &Path) -> io::Result<()> {
        let source = FileSource::from_file(self.file.try_clone()?)?;
        for range in source.data_ranges()? {
            let first = range.start.saturating_sub(HEAD_BYTES) / HEAD_BYTES;
            for number in first..range.end.saturating_sub(HEAD_BYTES).div_ceil(HEAD_BYTES) {
                let mut bytes = [0; HEAD_BYTES as usize];
                self.file.read_exact_at(&mut bytes, HEAD_BYTES + number * HEAD_BYTES)?;
                let mut words = [0; WORDS_PER_PAGE];
                for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                    *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
                    if *word & *word >> 1 & LOWER_BITS != 0 {
                        return Err(damaged(path, "says of a unit that it is both data and zero"));
                    }
                }
                if words.iter().any(|word| *word != 0) {
                    let page = self.page(number);
                    for (old, new) in page.iter().zip(words) {
                        old.store(new, Ordering::Release);
                    }
                }
            }
        }
        Ok(())
    }

    fn page(&self, number: u64) -> &Page {
        self.pages[number as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS_PER_PAGE]))
    }

    /// What the layer has of this unit.
    pub(crate) fn get(&self, unit: u64) -> Unit {
        let Some(page) = self.pages.get((unit / UNITS_PER_PAGE) as usize).and_then(OnceLock::get) else {
            return Unit::Absent;
        };
        let word = page[(unit % UNITS_PER_PAGE / UNITS_PER_WORD) as usize].load(Ordering::Acquire);
        match word >> (2 * (unit % UNITS_PER_WORD)) & 3 {
            0 => Unit::Absent,
            1 => Unit::Data,
            _ => Unit::Zero,
        }
    }

    /// Says what is at all units of a range. After an error nothing is certain but that the file says no
    /// more than memory would have.
    pub(crate) fn set(&self, range: Range<u64>, to: Unit) -> io::Result<()> {
        debug_assert!(range.end <= self.units, "a mark past the end of the disk");
        if range.clone().all(|unit| self.get(unit) == to) {
            return Ok(());
        }
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = range.start;
        while at < range.end {
            let number = at / UNITS_PER_PAGE;
            let end = range.end.min((number + 1) * UNITS_PER_PAGE);
            self.set_in_page(number, at - number * UNITS_PER_PAGE..end - number * UNITS_PER_PAGE, to)?;
            at = end;
        }
        Ok(())
    }

    fn set_in_page(&self, number: u64, units: Range<u64>, to: Unit) -> io::Result<()> {
        let page = self.page(number);
        let first = (units.start / UNITS_PER_WORD) as usize;
        let end = units.end.div_ceil(UNITS_PER_WORD) as usize;
        let mut words = Vec::with_capacity(end - first);
        for index in first..end {
            let base = index as u64 * UNITS_PER_WORD;
            let from = units.start.max(base) - base;
            let count = units.end.min(base + UNITS_PER_WORD) - base - from;
            let mask = (u64::MAX >> (64 - 2 * count)) << (2 * from);
            let old = page[index].load(Ordering::Acquire);
            words.push((old & !mask) | ((LOWER_BITS * to.bits()) & mask));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, HEAD_BYTES + number * HEAD_BYTES + first as u64 * 8)?;
        for (index, word) in (first..end).zip(words) {
            page[index].store(word, Ordering::Release);
        }
        Ok(())
    }

    /// Ranges of units that are not absent.
    pub(crate) fn present(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (number, _) in self.pages.iter().enumerate().filter(|(_, page)| page.get().is_some()) {
            let start = number as u64 * UNITS_PER_PAGE;
            for unit in start..self.units.min(start + UNITS_PER_PAGE) {
                if self.get(unit) == Unit::Absent {
                    continue;
                }
                match ranges.last_mut() {
                    Some(last) if last.end == unit => last.end += 1,
                    _ => ranges.push(unit..unit + 1),
                }
            }
        }
        ranges
    }

    /// How many units are data, and how many are zeros.
    pub(crate) fn count(&self) -> (u64, u64) {
        let (mut data, mut zero) = (0, 0);
        for word in self.pages.iter().filter_map(OnceLock::get).flat_map(|page| page.iter()) {
            let word = word.load(Ordering::Acquire);
            data += u64::from((word & LOWER_BITS).count_ones());
            zero += u64::from((word >> 1 & LOWER_BITS).count_ones());
        }
        (data, zero)
    }

    /// Whether the layer is in use, as the file says.
    pub(crate) fn is_in_use(&self) -> io::Result<bool> {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, IN_USE_AT)?;
        Ok(byte[0] == 1)
    }

    /// Puts the layer to use: one byte in the file.
    pub(crate) fn put_to_use(&self) -> io::Result<()> {
        self.file.write_all_at(&[1], IN_USE_AT)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn pages_of(units: u64) -> u64 {
    units.div_ceil(UNITS_PER_PAGE)
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry(units: u64) -> Geometry {
        Geometry { layer: 3, disk_bytes: units * 4_096, unit_bytes: 4_096 }
    }

    proptest! {
        /// Whatever is marked, memory and a map opened anew say the same as an array would.
        #[test]
        fn a_map_is_an_array_that_survives(
            marks in prop::collection::vec((0_u64..40_000, 0_u64..20_000, 0_u8..3), 1..12)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map");
            let geometry = geometry(40_000);
            let map = Map::create(&path, &geometry, true).unwrap();
            let mut model = vec![Unit::Absent; 40_000];
            for (start, length, to) in marks {
                let range = start..40_000.min(start + length);
                let to = [Unit::Absent, Unit::Data, Unit::Zero][to as usize];
                map.set(range.clone(), to).unwrap();
                model[range.start as usize..range.end as usize].fill(to);
            }
            for map in [&map, &Map::open(&path, &geometry).unwrap()] {
                let found: Vec<Unit> = (0..40_000).map(|unit| map.get(unit)).collect();
                prop_assert!(found == model);
                let present: u64 = map.present().iter().map(|range| range.end - range.start).sum();
                let (data, zero) = map.count();
                prop_assert_eq!(present, data + zero);
                prop_assert_eq!(present, model.iter().filter(|unit| **unit != Unit::Absent).count() as u64);
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        let map = Map::create(&path, &geometry(10), false).unwrap();
        assert!(!map.is_in_use().unwrap());
        map.put_to_use().unwrap();
        assert!(Map::open(&path, &geometry(10)).unwrap().is_in_use().unwrap());
        let refusal = |geometry: &Geometry| Map::open(&path, geometry).unwrap_err().to_string();
        assert!(refusal(&geometry(11)).contains("not the map of this layer"));
        assert!(refusal(&Geometry { layer: 4, ..geometry(10) }).contains("not the map"));
        map.file.write_all_at(&[3], HEAD_BYTES).unwrap();
        assert!(refusal(&geometry(10)).contains("both data and zero"));
        map.file.write_all_at(&[9], 8).unwrap();
        assert!(refusal(&geometry(10)).contains("a version"));
    }
}
