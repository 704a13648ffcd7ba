//! The mail guest under postal's load: memory, devices and disk together.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sustain_store::Pace;
use sustain_vmdriver::disk::DiskOptions;
use sustain_vmdriver::{GuestCommand, QemuDriver, SnapshotTimings, Vm, VmDriver, VmSpec};

use crate::client::{Pinger, connect};
use crate::load::{CPUS, Load, disk_server, hear, port, spec, wait_for_banner};
use crate::{Bench, Figures, Outcome, median, quantile};

const MEMORY_MIB: u64 = 384;
/// From the first mail to the first snapshot: until the load is what it will be.
const WARM_UP: Duration = Duration::from_secs(10);
/// The longest pauses are shown with all their parts.
const SLOWEST_SHOWN: usize = 5;
/// Mails that were accepted: delivered, or in Postfix's queue.
const COUNT_MAILS: &str =
    "cd /var/spool/postfix && find ~user1/Maildir ~user2/Maildir incoming active -type f | wc -l";

/// A client who is logged in, and asks whether there is anything new.
struct Imap {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Imap {
    fn open(address: SocketAddr) -> Outcome<Arc<Mutex<Self>>> {
        let stream = connect(address, Duration::from_secs(60))?;
        let mut imap = Self { lines: BufReader::new(stream.try_clone()?), stream };
        hear(&mut imap.lines)?;
        imap.ask("LOGIN user1 secret1")?;
        Ok(Arc::new(Mutex::new(imap)))
    }

    fn ask(&mut self, what: &str) -> std::io::Result<()> {
        write!(self.stream, "a {what}\r\n")?;
        while !hear(&mut self.lines)?.starts_with("a ") {}
        Ok(())
    }

    fn pinger(imap: &Arc<Mutex<Self>>) -> Pinger {
        let imap = Arc::clone(imap);
        Pinger::asking(move |_| imap.lock().map_err(|_| std::io::ErrorKind::Other)?.ask("NOOP"))
    }
}

fn count_mails(vm: &mut dyn Vm) -> Outcome<u64> {
    let command = GuestCommand {
        program: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), COUNT_MAILS.to_owned()],
        environment: Vec::new(),
        deadline: Duration::from_secs(60),
    };
    let mut output = Vec::new();
    vm.guest_agent()?.run(&command, &mut std::io::empty(), &mut output)?;
    Ok(String::from_utf8(output)?.trim().parse()?)
}

/// Measures, and prints the table and the last line.
pub(crate) fn measure(bench: &mut Bench, guest: &Path, scratch: &Path) -> Outcome<()> {
    let spec = spec(guest, MEMORY_MIB)?;
    let driver =
        QemuDriver::new().with_disks(DiskOptions { server: vec![disk_server()?.into()], syncs: false });
    let report = driver.check(&spec)?;
    eprintln!("{MEMORY_MIB} MiB: {}, writes found by {:?}", report.qemu_version, report.tracking);
    let mut vm = driver.start(&spec, &scratch.join("vm"))?;
    let (smtp, imap) = (port(&*vm, 25)?, port(&*vm, 143)?);
    wait_for_banner(smtp)?;
    let load = Load::start(smtp, bench.options.rate, scratch)?;
    std::thread::sleep(WARM_UP);
    // The first takes everything: not what is measured.
    bench.snapshot(vm.as_mut(), &spec, Pace::Behind)?;
    bench.snapshot(vm.as_mut(), &spec, Pace::Behind)?;
    let (before, began) = (count_mails(vm.as_mut())?, Instant::now());
    let figures = snapshots(bench, vm.as_mut(), &spec, imap)?;
    let (minutes, after) = (began.elapsed().as_secs_f64() / 60.0, count_mails(vm.as_mut())?);
    let log = std::fs::read_to_string(&load.log)?;
    drop(load);
    vm.stop()?;
    eprint!("postal, each minute:\n{log}");
    print(bench, &figures, (after - before) as f64 / minutes);
    Ok(())
}

fn snapshots(bench: &mut Bench, vm: &mut dyn Vm, spec: &VmSpec, imap: SocketAddr) -> Outcome<Figures> {
    let interval = Duration::from_millis(bench.options.interval_ms);
    let mut figures = Figures::default();
    let imap = Imap::open(imap)?;
    for _ in 0..bench.options.snapshots {
        let started = Instant::now();
        let quiet = Imap::pinger(&imap);
        std::thread::sleep(interval / 5);
        figures.quiet_gaps_ms.push(quiet.stop()?);
        let pinger = Imap::pinger(&imap);
        figures.timings.push(bench.snapshot(vm, spec, Pace::Behind)?);
        figures.gaps_ms.push(pinger.stop()?);
        std::thread::sleep(interval.saturating_sub(started.elapsed()));
    }
    Ok(figures)
}

fn print(bench: &Bench, figures: &Figures, mails_per_minute: f64) {
    type Part = (&'static str, fn(&SnapshotTimings) -> f64);
    let parts: [Part; 8] = [
        ("pause", |timings| timings.pause_ms),
        ("stop", |timings| timings.stop_ms),
        ("memory", |timings| timings.memory_ms),
        ("freeze", |timings| timings.freeze_ms),
        ("devices", |timings| timings.device_ms - timings.memory_ms - timings.freeze_ms),
        ("resume", |timings| timings.resume_ms),
        ("before", |timings| timings.before_ms),
        ("after", |timings| timings.after_ms),
    ];
    println!("{:>10} {:>9} {:>9} {:>9} {:>9}", "ms", "min", "median", "p90", "p99");
    let row = |name: &str, values: Vec<f64>| {
        let columns = [0.0, 0.5, 0.9, 0.99].map(|share| format!(" {:>9.2}", quantile(values.clone(), share)));
        println!("{name:>10}{}", columns.concat());
    };
    for (name, part) in parts {
        row(name, figures.timings.iter().map(part).collect());
    }
    row("client", figures.gaps_ms.clone());
    row("quiet", figures.quiet_gaps_ms.clone());
    let mut slowest: Vec<&SnapshotTimings> = figures.timings.iter().collect();
    slowest.sort_by(|one, other| other.pause_ms.total_cmp(&one.pause_ms));
    for timings in slowest.iter().take(SLOWEST_SHOWN) {
        println!("slowest: {timings:.1?}");
    }
    println!(
        "devices: what their state still took after memory and disk. client, quiet: the longest time without an \
         answer by IMAP around a snapshot, and without one"
    );
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let last = serde_json::json!({
        "guest": "mail",
        "memory_mib": MEMORY_MIB,
        "cpus": CPUS,
        "interval_ms": bench.options.interval_ms,
        "snapshots": figures.timings.len(),
        "mails_per_minute_sent": bench.options.rate,
        "mails_per_minute_accepted": mails_per_minute.round(),
        "pause_ms_median": round(median(figures.pauses())),
        "pause_ms_p99": round(quantile(figures.pauses(), 0.99)),
        "client_gap_ms_median": round(median(figures.gaps_ms.clone())),
        "quiet_gap_ms_median": round(median(figures.quiet_gaps_ms.clone())),
    });
    println!("{last}");
}
