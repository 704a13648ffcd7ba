//! Gathers a snapshot of some hundred MB into an empty node from real daemons, beside what the machine can do at most
//! and beside other programs, in one run. `make bench-gather` runs it.
//!
//! The nodes are in one network namespace but for one, which is behind a link that can be slowed (tc-tbf(8)); where that
//! is not permitted, all are on loopback and the slow neighbour is left out. The limit is a plain QUIC stream of the
//! packs' bytes between two processes, and then what decoding the snapshot into files takes by itself. The other
//! programs send the state's file as it is. Times are medians over the rounds. The last line is one JSON object.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(clippy::print_stderr, reason = "what is skipped is said there")]

mod cluster;
mod limit;
mod link;
mod others;
mod run;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::BenchCluster;
use link::SlowLink;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is asked for.
pub(crate) struct Options {
    snapctl: PathBuf,
    sendme: PathBuf,
    scratch: PathBuf,
    state_mib: usize,
    nodes: usize,
    rounds: usize,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            snapctl: PathBuf::new(),
            sendme: PathBuf::new(),
            scratch: PathBuf::new(),
            state_mib: 384,
            nodes: 5,
            rounds: 3,
        };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--snapctl" => options.snapctl = fs::canonicalize(value)?,
                "--sendme" => options.sendme = value.into(),
                "--scratch" => options.scratch = value.into(),
                "--mib" => options.state_mib = value.parse()?,
                "--nodes" => options.nodes = value.parse()?,
                "--rounds" => options.rounds = value.parse()?,
                _ => return Err(format!("{name} is no option").into()),
            }
        }
        fs::create_dir_all(&options.scratch)?;
        options.scratch = fs::canonicalize(&options.scratch)?;
        Ok(options)
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|first| first == "quinn-serve") {
        args.next();
        return limit::serve(args);
    }
    let options = Options::parse(args)?;
    let scratch = options.scratch.join("run");
    // What a run that was ended left.
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    let outcome = measure(&options, scratch.clone());
    fs::remove_dir_all(&scratch)?;
    outcome
}

fn measure(options: &Options, scratch: PathBuf) -> Outcome<()> {
    println!("load of the machine at the start: {}", fs::read_to_string("/proc/loadavg")?.trim_end());
    let state = scratch.join("state");
    make_state(&state, options.state_mib)?;
    let link = match SlowLink::make() {
        Ok(link) => Some(link),
        Err(error) => {
            println!("skipped: the slow neighbour: no network namespaces here: {error}");
            None
        }
    };
    let mut cluster = BenchCluster::start(options, &scratch, link.as_ref())?;
    let snapshot = cluster.push_everywhere(&state)?;
    println!("{} MiB of state are on {} nodes", options.state_mib, options.nodes);
    // The node that took the snapshot began to send it to the empty one, which it does once.
    cluster.gather_into_empty(&snapshot)?;
    let mut gathers = Vec::new();
    let mut decodes = Vec::new();
    let mut bytes = 0;
    for round in 1..=options.rounds {
        let gathered = cluster.gather_into_empty(&snapshot)?;
        bytes = gathered.bytes;
        println!("round {round}: {gathered}");
        gathers.push(gathered.whole);
        decodes.push(gathered.decode);
    }
    let slow = match &link {
        None => None,
        Some(link) => {
            link.slow_down()?;
            let mut slow = Vec::new();
            for round in 1..=options.rounds {
                let gathered = cluster.gather_into_empty(&snapshot)?;
                println!("round {round}, one neighbour at 1 Mbit/s: {gathered}");
                slow.push(gathered.whole);
            }
            Some(median(slow))
        }
    };
    drop(cluster);
    let (gather, decode) = (median(gathers), median(decodes));
    let packs = scratch.join("packs");
    limit::write_noise(&packs, bytes)?;
    let mut quinns = Vec::new();
    for _ in 0..options.rounds {
        quinns.push(limit::quinn(&packs)?);
    }
    let quinn = median(quinns);
    println!("a QUIC stream of the packs' {} MB: {:.3} s", bytes / 1_000_000, quinn.as_secs_f64());
    println!("decoding them into files: {:.3} s", decode.as_secs_f64());
    let others = others::measure(options, &scratch, &state)?;
    print_result(options, gather, quinn + decode, slow, &others);
    Ok(())
}

fn print_result(
    options: &Options,
    gather: Duration,
    limit: Duration,
    slow: Option<Duration>,
    others: &[(&'static str, Duration)],
) {
    let ratio = |other: Duration| other.as_secs_f64() / gather.as_secs_f64();
    let state_mb = (options.state_mib << 20) as f64 / 1e6;
    println!("gathered in {:.3} s, the limit is {:.3} s", gather.as_secs_f64(), limit.as_secs_f64());
    for (name, took) in others {
        println!("{name}: {:.3} s", took.as_secs_f64());
    }
    let number = |value: Option<f64>| value.map_or("null".to_owned(), |value| format!("{value:.2}"));
    let of = |name: &str| others.iter().find(|(other, _)| *other == name).map(|(_, took)| ratio(*took));
    let cost = slow.map(|slow| (slow.as_secs_f64() / gather.as_secs_f64() - 1.0) * 100.0);
    println!(
        "{{\"mb_per_s\":{:.1},\"ratio_limit\":{:.2},\"ratio_sendme\":{},\"ratio_rsync\":{},\"ratio_scp\":{},\
         \"slow_neighbour_cost_percent\":{}}}",
        state_mb / gather.as_secs_f64(),
        ratio(limit),
        number(of("sendme")),
        number(of("rsync")),
        number(of("scp")),
        number(cost),
    );
}

/// Half of it can't be compressed, and half like a program's memory.
fn make_state(path: &std::path::Path, mib: usize) -> Outcome<()> {
    use std::io::Write;
    let started = Instant::now();
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    let mut noise = blake3::Hasher::new().update(b"bench-gather").finalize_xof();
    let mut block = vec![0_u8; 1 << 20];
    for number in 0..mib {
        if number % 2 == 0 {
            noise.fill(&mut block);
        } else {
            for page in block.chunks_exact_mut(4_096) {
                page.fill(0);
                noise.fill(&mut page[..1_024]);
                for (at, byte) in page[1_024..3_072].iter_mut().enumerate() {
                    *byte = (at / 8 % 23 + number % 7) as u8;
                }
            }
        }
        file.write_all(&block)?;
    }
    file.flush()?;
    println!("made {mib} MiB of state in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
