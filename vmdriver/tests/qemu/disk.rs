//! A guest with a disk: its server killed under it, its blocks out of reach, and snapshots whose memory and
//! disk are of one instant.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sustain_vmdriver::disk::{BlockSource, ChunkContent, DiskOptions, Unavailable};
use sustain_vmdriver::{DiskSpec, QemuDriver, SnapshotScope, Vm, VmDriver, VmSpec, VmState};

use crate::inside::{self, wait_for_agent};
use crate::support::{Regions, ask, get, spec, wait_for_boot};

/// Rounds of snapshot and restore; `SUSTAIN_INSTANT_ROUNDS` sets another number.
const ROUNDS: usize = 5;
const DISK_BYTES: u64 = 64 << 20;
/// What the guest writes before its number in memory, before each byte is changed by xor 0x55.
const MARKER: &[u8; 16] = b"sustain instant ";

pub(crate) fn driver() -> QemuDriver {
    let server = vec![env!("CARGO_BIN_EXE_sustain-disk-server").into()];
    QemuDriver::new().with_disks(DiskOptions { server, syncs: false })
}

fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: run `make setup`"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// A guest with an empty ext4 disk.
pub(crate) fn spec_with_disk(service: &str, folder: &Path) -> VmSpec {
    let image = folder.join("image");
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    let (code, text) = run("/usr/sbin/mke2fs", &["-q", "-t", "ext4", image.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let mut spec = spec(service);
    spec.disk = Some(DiskSpec { image });
    spec
}

/// What the guest says about its number.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Instants {
    pub(crate) memory: u64,
    pub(crate) disk: Option<u64>,
    mismatches: u64,
    pub(crate) errors: u64,
}

pub(crate) fn instants(vm: &dyn Vm, query: &str) -> Option<Instants> {
    let path = format!("/instant{query}");
    serde_json::from_str(&get(vm.forwards()[0].host, &path, Duration::from_secs(5))?).ok()
}

/// Waits until the guest has written so many numbers more; asking for the state is what lets a VM go on
/// that stands because of its disk.
pub(crate) fn wait_for_writes(vm: &mut dyn Vm, more: u64) -> Instants {
    let started = Instant::now();
    let first = loop {
        vm.state();
        if let Some(first) = instants(vm, "") {
            break first;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no answer; the VM is {:?}", vm.state());
    };
    loop {
        vm.state();
        if let Some(now) = instants(vm, "").filter(|now| now.memory >= first.memory + more) {
            assert_eq!((now.errors, now.mismatches), (0, 0), "{now:?}");
            return now;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no writes; the VM is {:?}", vm.state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number in the guest's memory, as the snapshot has it.
fn number_in_memory(ram: &[u8]) -> u64 {
    let marker = MARKER.map(|byte| byte ^ 0x55);
    // Where the guest keeps it is a word's place.
    let found =
        ram.chunks_exact(8).enumerate().filter(|(_, word)| **word == marker[..8]).filter_map(|(at, _)| {
            let rest = ram.get(at * 8 + 8..at * 8 + 24)?;
            (rest[..8] == marker[8..]).then(|| u64::from_le_bytes(rest[8..].try_into().unwrap()))
        });
    found.max().expect("the guest's memory has the number")
}

/// The number on the disk, after the file system has replayed its journal, which is all that it may need.
fn number_on_disk(disk: &[u8], folder: &Path) -> u64 {
    let path = folder.join("restored");
    std::fs::write(&path, disk).unwrap();
    let path = path.to_str().unwrap();
    let (code, text) = run("/usr/sbin/e2fsck", &["-E", "journal_only", "-y", path]);
    assert!(matches!(code, Some(0 | 1)), "{code:?}: {text}");
    let (code, text) = run("/usr/sbin/e2fsck", &["-f", "-n", path]);
    assert_eq!(code, Some(0), "the file system is damaged: {text}");
    let dump = folder.join("dump");
    let request = format!("dump /instant {}", dump.display());
    let (_, text) = run("/usr/sbin/debugfs", &["-R", &request, path]);
    let bytes = std::fs::read(&dump).unwrap_or_else(|error| panic!("{error}: {text}"));
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// The disk of a snapshot, as a store would give it.
pub(crate) struct Blocks {
    bytes: Vec<u8>,
    fails: AtomicBool,
    /// Answers only when this is taken back.
    blocks: AtomicBool,
}

impl BlockSource for Blocks {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        // The first one is what QEMU looks at when it starts.
        while chunk > 0 && self.blocks.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Unavailable::new("out of reach"));
        }
        let start = chunk as usize * 65_536;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        Ok(ChunkContent::Data)
    }
}

pub(crate) fn restore(spec: &VmSpec, regions: &Regions, blocks: &Arc<Blocks>, run_dir: &Path) -> Box<dyn Vm> {
    let mut prepared = driver().prepare(spec, run_dir).unwrap();
    regions.restore(prepared.target()).unwrap();
    prepared.set_disk(Arc::clone(blocks) as Arc<_>);
    prepared.resume().unwrap()
}

pub(crate) fn blocks(regions: &Regions) -> Arc<Blocks> {
    let (fails, blocks) = (AtomicBool::new(false), AtomicBool::new(false));
    Arc::new(Blocks { bytes: regions.0["disk0"].clone(), fails, blocks })
}

#[test]
fn memory_and_disk_of_a_snapshot_are_of_one_instant() {
    let rounds = std::env::var("SUSTAIN_INSTANT_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("instant", folder.path());
    let mut vm = driver().start(&spec, &folder.path().join("vm")).unwrap();
    let boot = wait_for_boot(&mut *vm);
    let before = instants(&*vm, "?run=1").unwrap();
    assert_eq!((before.memory, before.errors), (0, 0));
    let mut regions = Regions::default();
    let (mut ahead, mut phase) = (0, 1);
    for round in 0..rounds {
        wait_for_writes(&mut *vm, 20);
        // At any moment of a write: the last answer came at a certain one.
        phase = phase * 7 % 31;
        std::thread::sleep(Duration::from_millis(phase));
        // From the second on only what changed is taken: what a snapshot is made of then is the sum.
        let scope = if round == 0 { SnapshotScope::Whole } else { SnapshotScope::Changes };
        let timings = vm.snapshot(scope, &mut regions).unwrap();
        vm.committed();
        let memory = number_in_memory(&regions.0["ram"]);
        let disk = number_on_disk(&regions.0["disk0"], folder.path());
        println!("round {round}: memory {memory}, disk {disk}, {timings:.1?}");
        assert!(memory == disk || memory == disk + 1, "memory {memory}, disk {disk}");
        ahead += u64::from(memory > disk);

        // The old one goes on a little, and is gone: its later writes must not show.
        wait_for_writes(&mut *vm, 5);
        vm.stop().unwrap();
        // The node that restores need not have the image from which all began.
        let _ = std::fs::remove_file(folder.path().join("image"));
        vm = restore(&spec, &regions, &blocks(&regions), &folder.path().join("vm"));
        let now = wait_for_writes(&mut *vm, 5);
        assert!(now.memory > memory && now.disk == Some(now.memory), "{now:?} after {memory}");
        assert_eq!(ask(&mut *vm, "/peek").boot_id, boot.boot_id);
    }
    println!("{rounds} rounds, {ahead} with a write in flight");
}

#[test]
fn a_guest_does_not_notice_that_its_disks_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("killed", folder.path());
    let mut vm = driver().start(&spec, &folder.path().join("vm")).unwrap();
    wait_for_boot(&mut *vm);
    instants(&*vm, "?run=1").unwrap();
    wait_for_writes(&mut *vm, 20);
    for _ in 0..5 {
        let pid = server_of(&folder.path().join("vm/disk"));
        let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
        let started = Instant::now();
        wait_for_writes(&mut *vm, 20);
        println!("20 writes {} ms after the kill", started.elapsed().as_millis());
    }
    // What is on the disk is what the guest wrote.
    instants(&*vm, "?run=0").unwrap();
    let last = instants(&*vm, "").unwrap();
    assert_eq!((last.disk, last.errors, last.mismatches), (Some(last.memory), 0, 0));
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    assert_eq!(number_on_disk(&regions.0["disk0"], folder.path()), last.memory);
}

/// The process that serves the disk in this folder.
fn server_of(folder: &Path) -> u32 {
    let is_server = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("sustain-disk-server\0") && line.contains(folder.to_str().unwrap())
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.find(is_server).expect("the disk has a server")
}

#[test]
fn data_out_of_reach_pauses_the_guest_and_no_error_reaches_it() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("reach", folder.path());
    let mut vm = driver().start(&spec, &folder.path().join("first")).unwrap();
    wait_for_boot(&mut *vm);
    instants(&*vm, "?run=1").unwrap();
    wait_for_writes(&mut *vm, 5);
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.stop().unwrap();

    let blocks = blocks(&regions);
    blocks.fails.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let mut vm = restore(&spec, &regions, &blocks, &folder.path().join("second"));
    println!("resumed after {} ms without a block of its disk", started.elapsed().as_millis());
    let mut seen = 0;
    while seen < 3 {
        if vm.state() == VmState::Stalled {
            seen += 1;
            let error = vm.snapshot(SnapshotScope::Changes, &mut Regions::default()).unwrap_err();
            assert_eq!(error.kind(), sustain_vmdriver::ErrorKind::Busy, "{error}");
            // Long enough for a try to go on in between.
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(1) {
                vm.state();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the VM is {:?}", vm.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    blocks.fails.store(false, Ordering::SeqCst);
    // Neither an error nor a wrong number, as this checks.
    wait_for_writes(&mut *vm, 20);
    assert_eq!(vm.state(), VmState::Running);
    let console = std::fs::read_to_string(folder.path().join("second/console.log")).unwrap();
    assert!(!console.contains("I/O error") && !console.contains("EXT4-fs error"), "{console}");
}

/// QEMU pauses a guest only when its disk has answered, and each snapshot held the guest up for as long as blocks
/// that it waited for did not come.
#[test]
fn no_snapshot_pauses_a_guest_that_waits_for_blocks_out_of_reach() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("waits", folder.path());
    let mut vm = driver().start(&spec, &folder.path().join("first")).unwrap();
    wait_for_boot(&mut *vm);
    instants(&*vm, "?run=1").unwrap();
    wait_for_writes(&mut *vm, 5);
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.stop().unwrap();

    let blocks = blocks(&regions);
    blocks.blocks.store(true, Ordering::SeqCst);
    let mut vm = restore(&spec, &regions, &blocks, &folder.path().join("second"));
    let (started, mut left_out, mut pauses) = (Instant::now(), 0, Vec::new());
    while left_out < 10 {
        match vm.snapshot(SnapshotScope::Changes, &mut regions) {
            Ok(timings) => pauses.push(timings.pause_ms),
            Err(error) => {
                assert_eq!(error.kind(), sustain_vmdriver::ErrorKind::Busy, "{error}");
                left_out += u32::from(error.to_string().contains("out of reach"));
            }
        }
        vm.state();
        assert!(started.elapsed() < Duration::from_secs(60), "left out: {left_out}, pauses: {pauses:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("left out: {left_out}, pauses: {pauses:.1?}");
    // The disk's own patience is 2 s.
    assert!(pauses.iter().all(|pause| *pause < 1_000.0), "{pauses:?}");
    blocks.blocks.store(false, Ordering::SeqCst);
    wait_for_writes(&mut *vm, 20);
    vm.snapshot(SnapshotScope::Changes, &mut regions).unwrap();
}

/// A file system in memory of a size that can be raised.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: std::path::PathBuf, size: &str) -> Result<Self, String> {
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        match run("mount", &["-t", "tmpfs", "-o", &options, "sustain-test", path.to_str().unwrap()]) {
            (Some(0), _) => Ok(Self(path)),
            (_, text) => Err(text),
        }
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let (code, text) = run("mount", &["-o", &options, self.0.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{text}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_file_system_pauses_the_guest_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("full", folder.path());
    let small = match Small::mount(folder.path().join("small"), "24m") {
        Ok(small) => small,
        Err(reason) => return println!("skipped: a small file system takes the right to mount: {reason}"),
    };
    let mut vm = driver().start(&spec, &small.0.join("vm")).unwrap();
    wait_for_boot(&mut *vm);
    let agent = wait_for_agent(&mut *vm);
    let writing = std::thread::spawn(move || {
        inside::run(&*agent, "yes sustain | head -c 40000000 > /data/big && sync && md5sum /data/big")
            .unwrap()
    });
    let started = Instant::now();
    while vm.state() != VmState::Stalled {
        assert!(started.elapsed() < Duration::from_secs(60), "the VM is {:?}", vm.state());
        assert!(!writing.is_finished(), "40 MB fit into 24");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("it stands after {} ms", started.elapsed().as_millis());
    small.grow("128m");
    let started = Instant::now();
    while !writing.is_finished() {
        vm.state();
        assert!(started.elapsed() < Duration::from_secs(60), "the VM is {:?}", vm.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (exit, text) = writing.join().unwrap();
    assert_eq!(exit.code, Some(0), "{text}");
    let (_, expected) = run("sh", &["-c", "yes sustain | head -c 40000000 | md5sum"]);
    assert_eq!(text.split_whitespace().next(), expected.split_whitespace().next());
    let console = std::fs::read_to_string(small.0.join("vm/console.log")).unwrap();
    assert!(!console.contains("I/O error") && !console.contains("EXT4-fs error"), "{console}");
    vm.stop().unwrap();
}

#[test]
fn a_snapshot_of_a_disk_is_restored_with_its_disk_only() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec_with_disk("missing", folder.path());
    let prepared = driver().prepare(&spec, folder.path()).unwrap();
    let regions = Regions([("ram".to_owned(), vec![0; 128 << 20]), ("device".to_owned(), vec![1; 9])].into());
    regions.restore(prepared.target()).unwrap();
    let error = prepared.resume().err().unwrap();
    assert!(error.to_string().contains("disk0"), "{error}");
    let image = File::open(&spec.disk.unwrap().image).unwrap();
    assert!(image.read_at(&mut [0; 1], 0).is_ok(), "the image is left alone");
}
