//! Measures how long snapshots pause a guest: by QEMU's own events, as a client outside sees it, and beside the
//! ways that QEMU itself has; and how much less the guest gets done between them.
//!
//! As in production, snapshots go to a store on disk, one each second. `make bench-pause` runs it; the last line
//! is one JSON object for the guest of 512 MiB under 5,000 pages a second. `make bench-pause-mail` measures the mail
//! guest instead, with its disk and under postal's load.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

mod client;
mod load;
mod mail;
mod options;
mod rivals;
mod slowdown;

use std::error::Error;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use client::{Pinger, ask, wait_for_boot};
use options::Options;
use rivals::Rival;
use sustain_proto::{NodeId, RegionName, ServiceName};
use sustain_store::{Pace, Push, PushLineage, PushRequest, RegionSource, Store, StoreOptions};
use sustain_vmdriver::{
    PortForward, QemuDriver, SnapshotScope, SnapshotSink, SnapshotTimings, Vm, VmDriver, VmSpec,
};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The pages that the load writes to.
const LOAD_MIB: u64 = 64;

/// What a row has, in milliseconds.
const COLUMNS: [&str; 14] = [
    "median", "p99", "min", "client", "quiet", "stop", "memory", "devices", "resume", "before", "after",
    "savevm", "migrate", "no limit",
];

/// Whose figures the last line has.
const HEADLINE: (u64, u64) = (512, 5_000);

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

/// Takes a snapshot's regions and keeps nothing.
struct Nobody;

impl SnapshotSink for Nobody {
    fn region(&mut self, _: &RegionName, _: &dyn RegionSource, _: Option<&[Range<u64>]>) -> Outcome<()> {
        Ok(())
    }
}

/// What one pair of size and load came to.
#[derive(Default)]
struct Figures {
    timings: Vec<SnapshotTimings>,
    gaps_ms: Vec<f64>,
    quiet_gaps_ms: Vec<f64>,
    slowdown_percent: f64,
    savevm_ms: Vec<f64>,
    migrate_ms: Vec<f64>,
    migrate_unlimited_ms: Vec<f64>,
}

impl Figures {
    fn pauses(&self) -> Vec<f64> {
        self.timings.iter().map(|timings| timings.pause_ms).collect()
    }
}

/// The value below which this share of the values lies.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

struct Bench {
    options: Options,
    store: Store,
}

impl Bench {
    fn spec(&self, mib: u64) -> Outcome<VmSpec> {
        let mut spec =
            VmSpec::new(ServiceName::new(format!("bench-{mib}"))?, self.options.guest.join("vmlinuz"));
        spec.initramfs = Some(self.options.guest.join("initramfs.cpio.gz"));
        spec.memory_bytes = mib << 20;
        spec.forwards = vec![PortForward { host: "127.0.0.1:0".parse()?, guest_port: 8080 }];
        Ok(spec)
    }

    /// One snapshot into the store, as a node does it.
    fn snapshot(&mut self, vm: &mut dyn Vm, spec: &VmSpec, pace: Pace) -> Outcome<SnapshotTimings> {
        let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
        let request = PushRequest { service: spec.service.clone(), lineage, time_ms: 0 };
        let mut push = self.store.begin_push(request)?.at_pace(pace);
        let scope = if push.continues() { SnapshotScope::Changes } else { SnapshotScope::Whole };
        let timings = vm.snapshot(scope, &mut Sink(&mut push))?;
        push.commit()?;
        vm.committed();
        Ok(timings)
    }

    fn measure(&mut self, vm: &mut dyn Vm, spec: &VmSpec, pages: u64) -> Outcome<Figures> {
        let address = vm.forwards().first().ok_or("the VM forwards no port")?.host;
        set_load(address, pages)?;
        // The first of its kind is the first after a rest: not what is measured.
        self.snapshot(vm, spec, Pace::Behind)?;
        let mut figures = Figures::default();
        let interval = Duration::from_millis(self.options.interval_ms);
        for _ in 0..self.options.snapshots {
            let started = Instant::now();
            let quiet = Pinger::start(address)?;
            std::thread::sleep(interval / 10);
            figures.quiet_gaps_ms.push(quiet.stop()?);
            let pinger = Pinger::start(address)?;
            let timings = self.snapshot(vm, spec, Pace::Behind)?;
            figures.gaps_ms.push(pinger.stop()?);
            figures.timings.push(timings);
            std::thread::sleep(interval.saturating_sub(started.elapsed()));
        }
        Ok(figures)
    }

    /// One snapshot that goes nowhere.
    fn snapshot_for_nobody(&mut self, vm: &mut dyn Vm) -> Outcome<()> {
        vm.snapshot(SnapshotScope::Changes, &mut Nobody)?;
        vm.committed();
        Ok(())
    }

    /// All loads on one size.
    fn size(&mut self, mib: u64, run: &Path) -> Outcome<Vec<(u64, Figures)>> {
        let spec = self.spec(mib)?;
        let driver = if self.options.compare { QemuDriver::new().comparing() } else { QemuDriver::new() };
        let report = driver.check(&spec)?;
        eprintln!("{mib} MiB: {}, writes found by {:?}", report.qemu_version, report.tracking);
        let mut vm = driver.start(&spec, &run.join(format!("{mib}")))?;
        wait_for_boot(vm.forwards().first().ok_or("the VM forwards no port")?.host)?;
        let mut all = Vec::new();
        for pages in self.options.loads.clone() {
            let mut figures = self.measure(vm.as_mut(), &spec, pages)?;
            if (mib, pages) == HEADLINE {
                figures.slowdown_percent = self.slowdown_percent(vm.as_mut(), &spec)?;
            }
            all.push((pages, figures));
        }
        vm.stop()?;
        let mut rival = Rival::start(&spec, &report.qemu, &run.join(format!("rival-{mib}")))?;
        wait_for_boot(rival.address)?;
        for (pages, figures) in &mut all {
            set_load(rival.address, *pages)?;
            for _ in 0..self.options.rival_rounds {
                std::thread::sleep(Duration::from_millis(500));
                figures.savevm_ms.push(rival.savevm_ms()?);
                figures.migrate_ms.push(rival.migrate_ms(true)?);
                figures.migrate_unlimited_ms.push(rival.migrate_ms(false)?);
            }
        }
        Ok(all)
    }
}

fn set_load(address: SocketAddr, pages: u64) -> Outcome<()> {
    ask(address, &format!("/load?pages={pages}&mib={LOAD_MIB}"))?;
    // Its memory is asked for and filled first.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn print_row(mib: u64, pages: u64, figures: &Figures) {
    let pauses = figures.pauses();
    let part = |of: fn(&SnapshotTimings) -> f64| median(figures.timings.iter().map(of).collect());
    let columns = [
        median(pauses.clone()),
        quantile(pauses.clone(), 0.99),
        quantile(pauses, 0.0),
        median(figures.gaps_ms.clone()),
        median(figures.quiet_gaps_ms.clone()),
        part(|timings| timings.stop_ms),
        part(|timings| timings.memory_ms),
        part(|timings| timings.device_ms),
        part(|timings| timings.resume_ms),
        part(|timings| timings.before_ms),
        part(|timings| timings.after_ms),
        median(figures.savevm_ms.clone()),
        median(figures.migrate_ms.clone()),
        median(figures.migrate_unlimited_ms.clone()),
    ];
    let text: String = columns.iter().map(|value| format!(" {value:>8.2}")).collect();
    println!("{mib:>5} {pages:>7}{text}");
}

fn headline(figures: &Figures) -> serde_json::Value {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let pause = median(figures.pauses());
    serde_json::json!({
        "memory_mib": HEADLINE.0,
        "pages_per_second": HEADLINE.1,
        "snapshots": figures.timings.len(),
        "pause_ms_median": round(pause),
        "pause_ms_p99": round(quantile(figures.pauses(), 0.99)),
        "client_gap_ms_median": round(median(figures.gaps_ms.clone())),
        "savevm_ms_median": round(median(figures.savevm_ms.clone())),
        "stop_migrate_ms_median": round(median(figures.migrate_ms.clone())),
        "ratio_stop_migrate": round(median(figures.migrate_ms.clone()) / pause),
        "ratio_stop_migrate_unlimited": round(median(figures.migrate_unlimited_ms.clone()) / pause),
        "slowdown_percent": round(figures.slowdown_percent),
    })
}

fn run(options: Options, scratch: &Path) -> Outcome<()> {
    let store = StoreOptions { create: true, ..StoreOptions::default() };
    let store = Store::open(&scratch.join("store"), store)?;
    let mut bench = Bench { options, store };
    if let Some(guest) = bench.options.mail.clone() {
        return mail::measure(&mut bench, &guest, scratch);
    }
    let heads = COLUMNS.map(|head| format!(" {head:>8}")).concat();
    println!("{:>5} {:>7}{heads}", "MiB", "pages/s");
    let mut last = None;
    for mib in bench.options.sizes.clone() {
        for (pages, figures) in bench.size(mib, scratch)? {
            print_row(mib, pages, &figures);
            if (mib, pages) == HEADLINE {
                last = Some(headline(&figures));
            }
        }
    }
    println!(
        "milliseconds, medians but for p99 and min. client, quiet: the longest time without an answer around a \
         snapshot, and without one. migrate: with QEMU's usual 128 MiB/s, and with no limit"
    );
    if let Some(last) = last {
        println!("{last}");
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let scratch = options.scratch.join(format!("sustain-bench-pause-{}", std::process::id()));
    let outcome = run(options, &scratch);
    // The folder is ours alone, by the process's id.
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}
