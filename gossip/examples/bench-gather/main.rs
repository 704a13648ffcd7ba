//! Gathers a snapshot of some hundred MB into an empty node from real daemons, beside what the machine can do at most
//! and beside other programs, in one run. `make bench-gather` runs it.
//!
//! The nodes are in one network namespace but for one, which is behind a link that can be slowed (tc-tbf(8)); where
//! that is not permitted, all are on loopback and the slow neighbour is left out. The limit is a plain QUIC stream of
//! the packs' bytes between two processes, and then what decoding the snapshot into files takes by itself. The other
//! programs send the state's file as it is. Each round has all of them, and of each the best time counts, which other
//! work on the machine disturbed the least. The last line is one JSON object.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(clippy::print_stderr, reason = "what is skipped is said there")]

mod cluster;
mod limit;
mod link;
mod others;
mod run;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::BenchCluster;
use link::SlowLink;
use others::Others;

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
    let outcome = measure(&options, &scratch);
    fs::remove_dir_all(&scratch)?;
    outcome
}

/// The best time of each thing that was measured.
#[derive(Debug, Default)]
struct Times(BTreeMap<&'static str, Duration>);

impl Times {
    fn note(&mut self, name: &'static str, took: Duration) {
        let best = self.0.entry(name).or_insert(took);
        *best = took.min(*best);
    }

    fn seconds(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(Duration::as_secs_f64)
    }
}

fn measure(options: &Options, scratch: &Path) -> Outcome<()> {
    println!("load of the machine at the start: {}", fs::read_to_string("/proc/loadavg")?.trim_end());
    let state = scratch.join("state");
    make_state(&state, options.state_mib)?;
    let link = SlowLink::make();
    if let Err(error) = &link {
        println!("skipped: the slow neighbour: no network namespaces here: {error}");
    }
    let link = link.ok();
    let mut cluster = BenchCluster::start(options, scratch, link.as_ref())?;
    let snapshot = cluster.push_everywhere(&state)?;
    println!("{} MiB of state are on {} nodes", options.state_mib, options.nodes);
    let others = Others::start(options, scratch, &state);
    // The node that took the snapshot began to send it to the empty one, which it does once.
    cluster.gather_into_empty(&snapshot)?;
    let packs = scratch.join("packs");
    let mut times = Times::default();
    for round in 1..=options.rounds {
        let gathered = cluster.gather_into_empty(&snapshot)?;
        println!("round {round}: {gathered}");
        times.note("gather", gathered.whole);
        times.note("decode", gathered.decode);
        if round == 1 {
            limit::write_noise(&packs, gathered.bytes)?;
        }
        times.note("quic", limit::quinn(&packs)?);
        if let Some(link) = &link {
            link.slow_down()?;
            let gathered = cluster.gather_into_empty(&snapshot)?;
            println!("round {round}, one neighbour at 1 Mbit/s: {gathered}");
            times.note("slow", gathered.whole);
            link.speed_up()?;
        }
        others.round(&state, |name, took| times.note(name, took));
    }
    print_result(options, &times);
    Ok(())
}

fn print_result(options: &Options, times: &Times) {
    for (name, took) in &times.0 {
        println!("{name}: {:.3} s at best", took.as_secs_f64());
    }
    let gather = times.seconds("gather").unwrap_or(f64::NAN);
    let limit = times.seconds("quic").zip(times.seconds("decode")).map(|(quic, decode)| quic + decode);
    let number = |value: Option<f64>| value.map_or("null".to_owned(), |value| format!("{value:.2}"));
    let ratio = |other: Option<f64>| number(other.map(|other| other / gather));
    println!(
        "{{\"mb_per_s\":{:.1},\"ratio_limit\":{},\"ratio_sendme\":{},\"ratio_rsync\":{},\"ratio_scp\":{},\
         \"slow_neighbour_cost_percent\":{}}}",
        (options.state_mib << 20) as f64 / 1e6 / gather,
        ratio(limit),
        ratio(times.seconds("sendme")),
        ratio(times.seconds("rsync")),
        ratio(times.seconds("scp")),
        number(times.seconds("slow").map(|slow| (slow / gather - 1.0) * 100.0)),
    );
}

/// Half of it can't be compressed, and half like a program's memory.
fn make_state(path: &Path, mib: usize) -> Outcome<()> {
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
