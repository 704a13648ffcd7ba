//! Measures a restore, from "go" to the guest's first answer, and what it consists of.
//!
//! A guest is booted and left to count, and one snapshot of it goes to a store on disk. Then, again and
//! again: a VM is prepared, which starts QEMU, its memory is filled from the store's packs, QEMU is waited for, the
//! devices are loaded, the guest is let go, and asked until it answers. A guest with a disk has to read from it for
//! that, past its own caches: its blocks come from the store, when they are needed. `make bench-restore` runs it;
//! the last lines are JSON objects.
//!
//! The first answer takes far longer than the second, or than a first one after some rest (`--rest`). It fits an
//! emulator that has all code to translate anew, while the guest's agent sets the guest right: see
//! `docs/benchmarks.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    NoProgress, Push, PushLineage, PushRequest, RegionSource, RestoreReport, Store, StoreOptions,
};
use sustain_vmdriver::disk::{SnapshotBlocks, serve};
use sustain_vmdriver::{
    DiskSpec, PortForward, QemuDriver, ResumeTimings, SnapshotScope, SnapshotSink, Vm, VmDriver, VmSpec,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str =
    "usage: bench-restore [--memory MIB,…] [--rounds N] [--rest MS] [--disk no] [--guest DIR]";

/// The disk: an empty file system.
const DISK_BYTES: u64 = 256 << 20;

struct Options {
    memory_mib: Vec<u64>,
    rounds: usize,
    /// How long the guest is left alone before it is asked.
    rest: Duration,
    /// Whether the first size is measured with a disk too.
    disk: bool,
    guest: PathBuf,
}

/// What is restored.
struct Case {
    spec: VmSpec,
    /// What the guest is asked for.
    path: &'static str,
    store: Store,
    snapshot: SnapshotId,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let guest = std::env::var_os("SUSTAIN_GUEST_DIR").unwrap_or_else(|| "target/guest".into());
        let (memory_mib, rest) = (vec![256, 512], Duration::ZERO);
        let mut options = Self { memory_mib, rounds: 10, rest, disk: true, guest: guest.into() };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--memory" => {
                    options.memory_mib = value.split(',').map(str::parse).collect::<Result<_, _>>()?
                }
                "--rounds" => options.rounds = value.parse()?,
                "--rest" => options.rest = Duration::from_millis(value.parse()?),
                "--disk" => options.disk = value != "no",
                "--guest" => options.guest = value.into(),
                _ => return Err(USAGE.into()),
            }
        }
        if options.rounds == 0 { Err("at least one round".into()) } else { Ok(options) }
    }

    fn spec(&self, mib: u64, disk: Option<PathBuf>) -> Outcome<VmSpec> {
        let mut spec = VmSpec::new(ServiceName::new("bench")?, self.guest.join("vmlinuz"));
        spec.initramfs = Some(self.guest.join("initramfs.cpio.gz"));
        spec.memory_bytes = mib << 20;
        spec.forwards = vec![PortForward { host: "127.0.0.1:0".parse()?, guest_port: 8080 }];
        spec.disk = disk.map(|image| DiskSpec { image });
        Ok(spec)
    }
}

/// An image with an empty file system.
fn make_image(path: &Path) -> Outcome<()> {
    std::fs::File::create(path)?.set_len(DISK_BYTES)?;
    let status = Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(path).status()?;
    if status.success() { Ok(()) } else { Err("mke2fs can't make a file system".into()) }
}

struct Sink<'a>(&'a mut Push);

impl SnapshotSink for Sink<'_> {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Outcome<()> {
        match changed {
            None => self.0.ingest(name, source)?,
            Some(ranges) => self.0.ingest_changes(name, source, ranges)?,
        }
        Ok(())
    }
}

/// One request; none if no whole answer came.
fn ask(address: SocketAddr, path: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn wait_for_answer(vm: &dyn Vm, path: &str, patience: Duration) -> Outcome<String> {
    let address = vm.forwards().first().ok_or("the VM forwards no port")?.host;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(body) = ask(address, path, Duration::from_secs(5)) {
            return Ok(body);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err("the guest does not answer".into())
}

/// Boots a guest and saves it.
fn make_case(options: &Options, mib: u64, with_disk: bool, scratch: &Path) -> Outcome<Case> {
    let folder = scratch.join(format!("{mib}-{with_disk}"));
    std::fs::create_dir_all(&folder)?;
    let image = folder.join("image");
    if with_disk {
        make_image(&image)?;
    }
    let spec = options.spec(mib, with_disk.then_some(image))?;
    let path = if with_disk { "/instant" } else { "/peek" };
    let store = Store::open(&folder.join("store"), StoreOptions { create: true, ..StoreOptions::default() })?;
    eprintln!("booting a guest of {mib} MiB{}", if with_disk { " with a disk" } else { "" });
    let mut vm = QemuDriver::new().start(&spec, &folder.join("run"))?;
    wait_for_answer(vm.as_ref(), "/peek", Duration::from_secs(120))?;
    if with_disk {
        // Writes the file that is read from then on.
        wait_for_answer(vm.as_ref(), "/instant?run=1", Duration::from_secs(30))?;
        std::thread::sleep(Duration::from_secs(1));
        wait_for_answer(vm.as_ref(), "/instant?run=0", Duration::from_secs(30))?;
    }
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
    let mut push = store.begin_push(PushRequest { service: spec.service.clone(), lineage, time_ms: 0 })?;
    vm.snapshot(SnapshotScope::Whole, &mut Sink(&mut push))?;
    let snapshot = push.commit()?.snapshot;
    vm.stop()?;
    Ok(Case { spec, path, store, snapshot })
}

/// Milliseconds of each part of one restore; the second answer comes after all.
const PARTS: [&str; 8] = ["prepare", "fill", "start", "load", "resume", "answer", "all", "second"];

fn restore_once(case: &Case, rest: Duration, run: &Path) -> Outcome<([f64; PARTS.len()], RestoreReport)> {
    let go = Instant::now();
    let mut prepared = QemuDriver::new().prepare(&case.spec, run)?;
    if case.spec.disk.is_some() {
        let blocks = SnapshotBlocks::new(case.store.open_snapshot(case.snapshot)?);
        prepared.set_disk(Arc::new(blocks.ok_or("the snapshot has no disk")?));
    }
    let prepare = go.elapsed();
    let began = Instant::now();
    let report = case.store.restore(case.snapshot, prepared.target(), &NoProgress)?;
    let fill = began.elapsed();
    let vm = prepared.resume()?;
    std::thread::sleep(rest);
    let began = Instant::now();
    let body = wait_for_answer(vm.as_ref(), case.path, Duration::from_secs(30))?;
    let (answer, all) = (began.elapsed(), go.elapsed());
    if body.contains("null") {
        return Err(format!("the guest can't read its disk: {body}").into());
    }
    let began = Instant::now();
    wait_for_answer(vm.as_ref(), case.path, Duration::from_secs(30))?;
    let second = began.elapsed();
    let ResumeTimings { start_ms, load_ms, resume_ms } =
        vm.resume_timings().ok_or("the driver measured nothing")?;
    vm.stop()?;
    let parts = [ms(prepare), ms(fill), start_ms, load_ms, resume_ms, ms(answer), ms(all), ms(second)];
    Ok((parts, report))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq("disk-server").is_some() {
        return Ok(serve(Path::new(&arguments.next().ok_or(USAGE)?))?);
    }
    let options = Options::parse(arguments)?;
    let scratch = std::env::temp_dir().join(format!("sustain-bench-restore-{}", std::process::id()));
    let outcome = run(&options, &scratch);
    // The scratch folder is ours alone, by the process's id.
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn run(options: &Options, scratch: &Path) -> Outcome<()> {
    let mut cases: Vec<_> = options.memory_mib.iter().map(|mib| (*mib, false)).collect();
    cases.extend(options.memory_mib.first().filter(|_| options.disk).map(|mib| (*mib, true)));
    let mut objects = Vec::new();
    for (mib, with_disk) in cases {
        let case = make_case(options, mib, with_disk, scratch)?;
        objects.push(measure(options, &case, &scratch.join("run"))?);
    }
    objects.iter().for_each(|object| println!("{object}"));
    Ok(())
}

fn measure(options: &Options, case: &Case, run: &Path) -> Outcome<serde_json::Value> {
    let mut rounds = Vec::new();
    let mut written = 0;
    println!("  round  {}", PARTS.map(|part| format!("{part:>8}")).join(" "));
    for round in 1..=options.rounds {
        let (parts, report) = restore_once(case, options.rest, run)?;
        written = report.bytes_written;
        println!("{round:>7}  {}", parts.map(|part| format!("{part:>8.1}")).join(" "));
        rounds.push(parts);
    }
    let medians: Vec<f64> = (0..PARTS.len()).map(|part| median(&rounds, part)).collect();
    let texts: Vec<String> = medians.iter().map(|part| format!("{part:>8.1}")).collect();
    println!(" median  {}", texts.join(" "));
    let mut object = serde_json::Map::new();
    object.insert("memory_mib".into(), (case.spec.memory_bytes >> 20).into());
    object.insert("disk".into(), case.spec.disk.is_some().into());
    object.insert("rounds".into(), options.rounds.into());
    object.insert("filled_bytes".into(), written.into());
    for (part, value) in PARTS.iter().zip(&medians) {
        object.insert(format!("{part}_ms_median"), ((value * 10.0).round() / 10.0).into());
    }
    Ok(serde_json::Value::Object(object))
}

fn median(rounds: &[[f64; PARTS.len()]], part: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|parts| parts[part]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
