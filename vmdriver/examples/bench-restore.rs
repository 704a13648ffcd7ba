//! Measures a restore, from "go" to the guest's first answer, and what it consists of.
//!
//! A guest is booted and left to count, and one snapshot of it goes to a store on disk. Then, again and
//! again: a VM is prepared, its memory filled from the store's packs, QEMU started, the devices loaded, the
//! guest let go, and asked until it answers. `make bench-restore` runs it; the last line is one JSON object.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    NoProgress, Push, PushLineage, PushRequest, RegionSource, RestoreReport, Store, StoreOptions,
};
use sustain_vmdriver::{PortForward, QemuDriver, SnapshotScope, SnapshotSink, Vm, VmDriver, VmSpec};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: bench-restore [--memory MIB] [--rounds N] [--guest DIR] [--store DIR]";

struct Options {
    memory_mib: u64,
    rounds: usize,
    guest: PathBuf,
    store: Option<PathBuf>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let guest = std::env::var_os("SUSTAIN_GUEST_DIR").unwrap_or_else(|| "target/guest".into());
        let mut options = Self { memory_mib: 256, rounds: 10, guest: guest.into(), store: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--memory" => options.memory_mib = value.parse()?,
                "--rounds" => options.rounds = value.parse()?,
                "--guest" => options.guest = value.into(),
                "--store" => options.store = Some(value.into()),
                _ => return Err(USAGE.into()),
            }
        }
        if options.rounds == 0 { Err("at least one round".into()) } else { Ok(options) }
    }

    fn spec(&self) -> Outcome<VmSpec> {
        let mut spec = VmSpec::new(ServiceName::new("bench")?, self.guest.join("vmlinuz"));
        spec.initramfs = Some(self.guest.join("initramfs.cpio.gz"));
        spec.memory_bytes = self.memory_mib << 20;
        spec.forwards = vec![PortForward { host: "127.0.0.1:0".parse()?, guest_port: 8080 }];
        Ok(spec)
    }
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

fn wait_for_answer(vm: &dyn Vm, patience: Duration) -> Outcome<String> {
    let address = vm.forwards().first().ok_or("the VM forwards no port")?.host;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(body) = ask(address, "/peek", Duration::from_secs(5)) {
            return Ok(body);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err("the guest does not answer".into())
}

fn boot_and_push(options: &Options, store: &Store, run: &Path) -> Outcome<SnapshotId> {
    let mut vm = QemuDriver::new().start(&options.spec()?, run)?;
    wait_for_answer(vm.as_ref(), Duration::from_secs(120))?;
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
    let mut push = store.begin_push(PushRequest { service: options.spec()?.service, lineage, time_ms: 0 })?;
    vm.snapshot(SnapshotScope::Whole, &mut Sink(&mut push))?;
    let report = push.commit()?;
    vm.stop()?;
    Ok(report.snapshot)
}

/// Milliseconds of each part of one restore.
const PARTS: [&str; 7] = ["prepare", "fill", "start", "load", "resume", "answer", "all"];

fn restore_once(
    options: &Options,
    store: &Store,
    snapshot: SnapshotId,
    run: &Path,
) -> Outcome<([f64; PARTS.len()], RestoreReport)> {
    let go = Instant::now();
    let prepared = QemuDriver::new().prepare(&options.spec()?, run)?;
    let prepare = go.elapsed();
    let began = Instant::now();
    let report = store.restore(snapshot, prepared.target(), &NoProgress)?;
    let fill = began.elapsed();
    let vm = prepared.resume()?;
    let began = Instant::now();
    wait_for_answer(vm.as_ref(), Duration::from_secs(30))?;
    let (answer, all) = (began.elapsed(), go.elapsed());
    let timings = vm.resume_timings().ok_or("the driver measured nothing")?;
    vm.stop()?;
    let parts =
        [ms(prepare), ms(fill), timings.start_ms, timings.load_ms, timings.resume_ms, ms(answer), ms(all)];
    Ok((parts, report))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn main() -> Outcome<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let scratch = std::env::temp_dir().join(format!("sustain-bench-restore-{}", std::process::id()));
    let folder = options.store.clone().unwrap_or_else(|| scratch.join("store"));
    let outcome = run(&options, &folder, &scratch);
    // The scratch folder is ours alone, by the process's id.
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn run(options: &Options, folder: &Path, scratch: &Path) -> Outcome<()> {
    let run = scratch.join("run");
    std::fs::create_dir_all(&run)?;
    let store = Store::open(folder, StoreOptions { create: true, ..StoreOptions::default() })?;
    eprintln!("booting a guest of {} MiB", options.memory_mib);
    let snapshot = boot_and_push(options, &store, &run)?;
    let mut rounds = Vec::new();
    let mut written = 0;
    println!("  round  {}", PARTS.map(|part| format!("{part:>8}")).join(" "));
    for round in 1..=options.rounds {
        let (parts, report) = restore_once(options, &store, snapshot, &run)?;
        written = report.bytes_written;
        println!("{round:>7}  {}", parts.map(|part| format!("{part:>8.1}")).join(" "));
        rounds.push(parts);
    }
    let medians: Vec<f64> = (0..PARTS.len()).map(|part| median(&rounds, part)).collect();
    let texts: Vec<String> = medians.iter().map(|part| format!("{part:>8.1}")).collect();
    println!(" median  {}", texts.join(" "));
    let mut object = serde_json::Map::new();
    object.insert("memory_mib".into(), options.memory_mib.into());
    object.insert("rounds".into(), options.rounds.into());
    object.insert("filled_bytes".into(), written.into());
    for (part, value) in PARTS.iter().zip(&medians) {
        object.insert(format!("{part}_ms_median"), ((value * 10.0).round() / 10.0).into());
    }
    println!("{}", serde_json::Value::Object(object));
    Ok(())
}

fn median(rounds: &[[f64; PARTS.len()]], part: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|parts| parts[part]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
