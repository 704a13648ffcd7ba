//! Memory stays bounded however large the region: measured in a process of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sustain_store::{DirectoryTarget, FileSource, NoProgress};

use crate::common::*;

const CHILD: &str = "SUSTAIN_STORE_MEMORY_TEST";
const REGION_BYTES: u64 = 8 << 30;
const PART: usize = 1 << 20;
const RSS_KIB_MAX: u64 = 256 << 10;

/// Data that the 8 GiB hold, MiB.
fn data_mib() -> u64 {
    std::env::var("SUSTAIN_STORE_MEMORY_TEST_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(2_048)
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn child(dir: &Path) {
    let path = dir.join("ram");
    let file = File::create_new(&path).unwrap();
    file.set_len(REGION_BYTES).unwrap();
    let stride = REGION_BYTES / data_mib();
    for number in 0..data_mib() {
        // One part of eight does not compress.
        let part = if number % 8 == 0 { noise(number, PART) } else { memory_like(number, PART) };
        file.write_all_at(&part, number * stride).unwrap();
    }
    let store = create(&dir.join("store"));
    let start = Instant::now();
    let mut push = begin(&store, "mail").unwrap();
    push.ingest(&region("ram"), &FileSource::open(&path).unwrap()).unwrap();
    let report = push.commit().unwrap();
    let pushed = start.elapsed().as_secs_f64();
    assert_eq!(report.chunks_new, data_mib() * 16);
    let after_push = peak_kib();
    let bytes_new = report.bytes_new;
    for number in 0..data_mib() {
        file.write_all_at(&noise(number, 4_096), number * stride + 70_000).unwrap();
    }
    let start = Instant::now();
    let mut again = begin(&store, "mail").unwrap();
    again.ingest(&region("ram"), &FileSource::open(&path).unwrap()).unwrap();
    let report = again.commit().unwrap();
    assert_eq!(report.chunks_new, data_mib());
    let pushed_again = start.elapsed().as_secs_f64();
    let start = Instant::now();
    store.restore(report.snapshot, &DirectoryTarget::new(dir.join("out")), &NoProgress).unwrap();
    let restored = start.elapsed().as_secs_f64();
    let peak = peak_kib();
    let mib = data_mib() as f64;
    eprintln!(
        "{mib} MiB: first push {:.0} MB/s to {} bytes, with a page of each MiB changed {:.0} MB/s, restore {:.0} MB/s, \
         peak {after_push} KiB after push, {peak} KiB in all",
        mib / pushed * 1.048_576,
        bytes_new,
        mib / pushed_again * 1.048_576,
        mib / restored * 1.048_576,
    );
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
}

#[test]
fn eight_gibibytes_fit_in_little_memory() {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::eight_gibibytes_fit_in_little_memory", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // The child's own assertions hold only if it ran them.
    let line = text.lines().find(|line| line.contains("first push")).expect("the child reports its numbers");
    eprintln!("{line}");
}
