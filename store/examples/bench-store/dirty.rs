//! What a push costs that is told of 100 changed chunks of a large sparse image: processor time of all threads.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{NodeId, RegionName, ServiceName};
use sustain_store::{FileSource, PushLineage, PushReport, PushRequest, Store, StoreOptions};

use crate::Outcome;
use crate::measure::{bytes_below, median};

const IMAGE_BYTES: u64 = 4 << 30;
/// How much of it holds data: every second MiB.
const DATA_BYTES: u64 = 2 << 30;
const PART: usize = 1 << 20;
const PAGE: usize = 4_096;
/// Changed chunks of a push, one page in each.
const DIRTY: u64 = 100;
/// Deltas that the generation has at the second look.
const DELTAS: u64 = 100;
/// Pushes at each look; the median counts.
const TURNS: u64 = 5;

/// Milliseconds of processor, medians but for the first one.
pub(crate) struct Dirty {
    /// By a store that has just been opened: with what it reads to know what it holds.
    opened: f64,
    /// By one that has pushed before.
    pub(crate) few: f64,
    /// With so many deltas in the generation as `DELTAS` says.
    pub(crate) many: f64,
    /// Bytes of the store: with the base, after `TURNS` pushes, at the end.
    bytes: [u64; 3],
}

/// Bytes that compress to about a third, the same for the same seed.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    for (number, run) in content.chunks_mut(48).enumerate() {
        if number % 3 != 0 {
            run.fill((number % 7) as u8);
        }
    }
    content
}

fn open(folder: &Path) -> Outcome<Store> {
    Ok(Store::open(folder, StoreOptions { create: true, ..StoreOptions::default() })?)
}

struct Image<'a> {
    file: &'a File,
    source: FileSource,
    name: RegionName,
    service: ServiceName,
    /// Pushes so far.
    number: u64,
}

impl Image<'_> {
    fn push(&self, store: &Store, changed: Option<&[Range<u64>]>) -> Outcome<PushReport> {
        let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
        let request = PushRequest { service: self.service.clone(), lineage, time_ms: self.number };
        let mut push = store.begin_push(request)?;
        match changed {
            Some(changed) => push.ingest_changes(&self.name, &self.source, changed)?,
            None => push.ingest(&self.name, &self.source)?,
        }
        Ok(push.commit()?)
    }

    /// Writes a page into each of some chunks, and pushes that; milliseconds of processor of the push.
    fn push_dirty(&mut self, store: &Store) -> Outcome<f64> {
        self.number += 1;
        let mut changed = Vec::new();
        for dirty in 0..DIRTY {
            // Far apart, in chunks with data, other ones each time.
            let part = (dirty * 19 + self.number * 7) % (DATA_BYTES / PART as u64);
            let chunk = (dirty + self.number) % (PART / CHUNK_BYTES) as u64;
            let at = part * 2 * PART as u64 + chunk * CHUNK_BYTES as u64 + PAGE as u64;
            self.file.write_all_at(&content(self.number << 32 | dirty, PAGE), at)?;
            changed.push(at..at + PAGE as u64);
        }
        let before = cpu_ms();
        let report = self.push(store, Some(&changed))?;
        let spent = cpu_ms() - before;
        if report.chunks_new != DIRTY {
            return Err(format!("{} chunks were stored, not {DIRTY}", report.chunks_new).into());
        }
        Ok(spent)
    }
}

/// Processor time of all threads of this process, also of those that have ended.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Makes the image and its base in a folder of their own, and measures.
pub(crate) fn measure(scratch: &Path) -> Outcome<Dirty> {
    let folder = scratch.join("dirty");
    fs::create_dir(&folder)?;
    let (path, repository) = (folder.join("image"), folder.join("store"));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(IMAGE_BYTES)?;
    for part in 0..DATA_BYTES / PART as u64 {
        file.write_all_at(&content(part, PART), part * 2 * PART as u64)?;
    }
    let source = FileSource::open(&path)?;
    let (name, service) = (RegionName::new("disk0")?, ServiceName::new("image")?);
    let mut image = Image { file: &file, source, name, service, number: 0 };
    image.push(&open(&repository)?, None)?;
    let base = bytes_below(&repository)?;
    // As a process that is started for each push; and as a daemon, which keeps it open.
    let opening = cpu_ms();
    let store = open(&repository)?;
    let opened = cpu_ms() - opening + image.push_dirty(&store)?;
    let mut turns = |count: u64| (0..count).map(|_| image.push_dirty(&store)).collect::<Outcome<Vec<f64>>>();
    let few = median(turns(TURNS)?).unwrap_or_default();
    let after = bytes_below(&repository)?;
    turns(DELTAS - TURNS - 1)?;
    let many = median(turns(TURNS)?).unwrap_or_default();
    let bytes = [base, after, bytes_below(&repository)?];
    drop(store);
    fs::remove_dir_all(&folder)?;
    Ok(Dirty { opened, few, many, bytes })
}

impl Dirty {
    pub(crate) fn print(&self) {
        let Self { opened, few, many, bytes } = self;
        println!(
            "\na push that is told of {DIRTY} changed chunks of {} GiB, {} GiB of them data, ms of processor",
            IMAGE_BYTES >> 30,
            DATA_BYTES >> 30
        );
        println!("    by a store that is opened for it {opened:>8.1}");
        println!("    by one that is open              {few:>8.1}");
        println!("    by one with {DELTAS} deltas          {many:>8.1}");
        let each = (bytes[1] as f64 - bytes[0] as f64) / (TURNS + 1) as f64;
        println!("    bytes: the base {:.1} MB, each push {:.3} MB", bytes[0] as f64 / 1e6, each / 1e6);
        let each = (bytes[2] as f64 - bytes[1] as f64) / (DELTAS - 1) as f64;
        println!("    bytes of each push up to {DELTAS} deltas {:.3} MB", each / 1e6);
    }
}
