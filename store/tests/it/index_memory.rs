//! What a chunk costs in memory by being stored: in an open store, in a snapshot that is read, in a push that begins.
//!
//! Each is measured in a process of its own, because memory that was used before would be used again. By default with
//! few chunks, so that the test is quick; `make bench-million` sets a million.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sustain_store::RegionSource;

use crate::common::*;

const STORE: &str = "SUSTAIN_STORE_INDEX_TEST";
const HOLD: &str = "SUSTAIN_STORE_INDEX_TEST_HOLD";
const CHUNK: u64 = 65_536;

/// Most resident bytes a chunk of what a reader or a push holds, the directories that stay in memory included.
const BYTES_A_CHUNK_MAX: f64 = 64.0;
/// Memory that does not depend on the number of chunks: code, buffers, the database's cache.
const FIXED_BYTES: f64 = (16 << 20) as f64;

fn chunks() -> u64 {
    std::env::var("SUSTAIN_STORE_INDEX_TEST_CHUNKS").ok().and_then(|text| text.parse().ok()).unwrap_or(65_536)
}

/// A region of chunks that are all different and nearly all zeros.
struct Counters(u64);

impl RegionSource for Counters {
    fn bytes(&self) -> u64 {
        self.0 * CHUNK
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        // Every reading begins on the grid.
        buf[..8].copy_from_slice(&(offset / CHUNK + 1).to_le_bytes());
        Ok(())
    }
}

/// Of this process, in bytes: what is resident, and the most that ever was.
fn memory() -> [f64; 2] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1_024.0
    })
}

/// Opens the store, holds what it is told to hold, and prints what that took.
fn child(dir: &Path, what: &str) {
    let [before, _] = memory();
    let started = Instant::now();
    let store = create(dir);
    let opened = started.elapsed().as_secs_f64();
    let [open, _] = memory();
    let newest = store.snapshots(Some(&service("mail"))).unwrap().pop().unwrap().id;
    let started = Instant::now();
    let reader = (what == "reader").then(|| store.open_snapshot(newest).unwrap());
    let push = (what == "push").then(|| begin(&store, "mail").unwrap());
    let began = started.elapsed().as_secs_f64();
    let [held, peak] = memory();
    drop((reader, push));
    let each = |bytes: f64| bytes / chunks() as f64;
    eprintln!(
        "{what}: the store opened in {opened:.3} s with {:.1} bytes a chunk; {began:.3} s more, {:.1} bytes a chunk \
         held, {:.1} at the most",
        each(open - before),
        each(held - before),
        each(peak - before)
    );
    let bytes_max = FIXED_BYTES + BYTES_A_CHUNK_MAX * chunks() as f64;
    assert!(held - before < bytes_max, "{} bytes", held - before);
}

#[test]
fn a_chunk_costs_little_memory_by_being_stored() {
    if let (Some(dir), Ok(what)) = (std::env::var_os(STORE), std::env::var(HOLD)) {
        child(Path::new(&dir), &what);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let started = Instant::now();
    let mut push = begin(&store, "mail").unwrap();
    push.ingest(&region("ram"), &Counters(chunks())).unwrap();
    let report = push.commit().unwrap();
    assert_eq!(report.chunks_new, chunks());
    drop(store);
    let seconds = started.elapsed().as_secs_f64();
    let each = files(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>() as f64
        / chunks() as f64;
    eprintln!("{} chunks, stored in {seconds:.1} s, {each:.1} bytes each on disk", chunks());
    for what in ["reader", "push"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index_memory::a_chunk_costs_little_memory_by_being_stored", "--nocapture"])
            .env(STORE, dir.path())
            .env(HOLD, what)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        // The child's own assertions hold only if it ran them.
        let line = text.lines().find(|line| line.contains("bytes a chunk held"));
        eprintln!("{}", line.unwrap_or_else(|| panic!("the child reports its numbers: {text}")));
    }
}
