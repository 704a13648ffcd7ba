//! Makes the states that the store is measured with: of the mail guest under load, consistent, some time apart.
//!
//! Each state is a folder of its regions as plain files, `ram`, `device` and `disk0`, with holes where there are zeros,
//! and beside each region `NAME.changed`: the ranges of bytes that were written since the state before, a line
//! each, offset and length. `make bench-data` runs it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

#[path = "../bench-pause/load.rs"]
mod load;
mod state;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use load::{CPUS, Load, disk_server, port, spec, wait_for_banner};
use state::Recorder;
use sustain_vmdriver::disk::DiskOptions;
use sustain_vmdriver::{QemuDriver, SnapshotScope, Vm, VmDriver};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str =
    "usage: bench-data --guest DIR --to DIR [--states N] [--interval S] [--memory MIB] [--rate N]";

/// From the first mail to the first state: until the load is what it will be.
const WARM_UP: Duration = Duration::from_secs(30);

struct Options {
    guest: PathBuf,
    to: PathBuf,
    states: u32,
    interval: Duration,
    memory_mib: u64,
    /// Mails a minute.
    rate: u32,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            guest: PathBuf::new(),
            to: PathBuf::new(),
            // The paper's interval and greatest load.
            states: 6,
            interval: Duration::from_secs(30),
            memory_mib: 256,
            rate: 800,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--guest" => options.guest = value.into(),
                "--to" => options.to = value.into(),
                "--states" => options.states = value.parse()?,
                "--interval" => options.interval = Duration::from_secs(value.parse()?),
                "--memory" => options.memory_mib = value.parse()?,
                "--rate" => options.rate = value.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        let given = !options.guest.as_os_str().is_empty() && !options.to.as_os_str().is_empty();
        if given && options.states > 0 { Ok(options) } else { Err(USAGE.into()) }
    }
}

fn main() -> Outcome<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let made = options.to.with_extension("part");
    let _ = std::fs::remove_dir_all(&made);
    std::fs::create_dir_all(&made)?;
    make(&options, &made)?;
    let _ = std::fs::remove_dir_all(&options.to);
    Ok(std::fs::rename(&made, &options.to)?)
}

fn make(options: &Options, to: &Path) -> Outcome<()> {
    let run = to.join("run");
    let spec = spec(&options.guest, options.memory_mib)?;
    let driver =
        QemuDriver::new().with_disks(DiskOptions { server: vec![disk_server()?.into()], syncs: false });
    let report = driver.check(&spec)?;
    eprintln!(
        "{} MiB, {CPUS} processors: {}, writes found by {:?}",
        options.memory_mib, report.qemu_version, report.tracking
    );
    let mut vm = driver.start(&spec, &run)?;
    let smtp = port(&*vm, 25)?;
    wait_for_banner(smtp)?;
    let load = Load::start(smtp, options.rate, to)?;
    std::thread::sleep(WARM_UP);
    let outcome = record(options, vm.as_mut(), to);
    let log = std::fs::read_to_string(&load.log)?;
    drop(load);
    vm.stop()?;
    eprint!("postal, each minute:\n{log}");
    for leftover in ["users", "postal.out"] {
        std::fs::remove_file(to.join(leftover))?;
    }
    std::fs::remove_dir_all(&run)?;
    outcome
}

fn record(options: &Options, vm: &mut dyn Vm, to: &Path) -> Outcome<()> {
    let mut before = None;
    for number in 1..=options.states {
        let started = Instant::now();
        let folder = to.join(number.to_string());
        let mut recorder = Recorder::new(&folder, before.as_deref())?;
        let scope = if before.is_some() { SnapshotScope::Changes } else { SnapshotScope::Whole };
        vm.snapshot(scope, &mut recorder)?;
        recorder.finish()?;
        vm.committed();
        println!("{}", folder.display());
        before = Some(folder);
        if number < options.states {
            std::thread::sleep(options.interval.saturating_sub(started.elapsed()));
        }
    }
    Ok(())
}
