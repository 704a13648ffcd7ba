//! Simulates clusters of keepers, a seed each, and ends with one JSON line. `SEED=n` replays one seed.
//!
//! ```sh
//! cargo run -p sustain-gossip --example sim -- [SIZE FIRST COUNT]...
//! ```
//!
//! SIZE is tiny, small, middle or large. Without arguments: 900 small seeds, 90 middle ones and 10 large ones.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for developers")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sustain_gossip::sim::{Outcome, Scenario, Size, run, run_traced};

/// What a whole run is made of: a size, its first seed, and how many.
const ALL: [(Size, u64, u64); 3] =
    [(Size::Large, 2_000, 10), (Size::Middle, 1_000, 90), (Size::Small, 0, 900)];
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(10);

fn size_of(name: &str) -> Option<Size> {
    match name {
        "tiny" => Some(Size::Tiny),
        "small" => Some(Size::Small),
        "middle" => Some(Size::Middle),
        "large" => Some(Size::Large),
        _ => None,
    }
}

/// The size that a seed has in a whole run.
const fn usual_size(seed: u64) -> Size {
    match seed {
        0..1_000 => Size::Small,
        1_000..2_000 => Size::Middle,
        _ => Size::Large,
    }
}

fn name_of(size: Size) -> &'static str {
    match size {
        Size::Tiny => "tiny",
        Size::Small => "small",
        Size::Middle => "middle",
        Size::Large => "large",
    }
}

fn parse(arguments: &[String]) -> Option<Vec<(Size, u64, u64)>> {
    let three = |three: &[String]| match three {
        [size, first, count] => Some((size_of(size)?, first.parse().ok()?, count.parse().ok()?)),
        _ => None,
    };
    arguments.chunks(3).map(three).collect()
}

/// Runs one seed. A run that was shorter, or had fewer faults, than it is to have is a fault of the simulator.
fn simulate(size: Size, seed: u64) -> (Outcome, Vec<String>) {
    let lines = std::env::var("LINES_SHOWN").ok().and_then(|lines| lines.parse().ok());
    let outcome = lines.map_or_else(|| run(seed, size), |lines| run_traced(seed, size, lines));
    let mut wrong: Vec<String> = outcome
        .violations
        .iter()
        .map(|violation| format!("{} at {} ms: {}", violation.checker, violation.at_ms, violation.what))
        .collect();
    let is_short = outcome.virtual_ms < Scenario::least_ms(size);
    let is_calm = outcome.scenario.mix.count > 0 && outcome.faults < Scenario::least_faults(size);
    if wrong.is_empty() && (is_short || is_calm) {
        wrong.push(format!("only {} ms and {} faults", outcome.virtual_ms, outcome.faults));
    }
    (outcome, wrong)
}

fn show(size: Size, seed: u64, outcome: &Outcome, wrong: &[String]) {
    let mut text = String::new();
    outcome.last.iter().for_each(|line| text += &format!("{line}\n"));
    text += &format!("{:?}\n", outcome.scenario);
    wrong.iter().for_each(|what| text += &format!("seed {seed}: {what}\n"));
    let size = name_of(size);
    eprintln!("{text}replay: SEED={seed} cargo run -p sustain-gossip --example sim -- {size} {seed} 1");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(mut parts) = parse(&arguments) else {
        eprintln!("usage: sim [tiny|small|middle|large FIRST COUNT]...");
        return ExitCode::from(2);
    };
    if parts.is_empty() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        parts = seed.map_or(ALL.to_vec(), |seed| vec![(usual_size(seed), seed, 1)]);
    }
    let jobs: Vec<(Size, u64)> = parts
        .iter()
        .flat_map(|(size, first, count)| (*first..first + count).map(|seed| (*size, seed)))
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new((0_usize, 0_u64, 0_usize, (0_u64, 0_u64))));
    let began = Instant::now();
    let shown = Mutex::new(began);
    let work = || {
        while let Some((size, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let (outcome, wrong) = simulate(*size, *seed);
            if !wrong.is_empty() {
                show(*size, *seed, &outcome, &wrong);
            }
            let Ok(mut sum) = done.lock() else { return };
            let (catalogs, whole) = outcome.catalog_bytes;
            let catalogs = (sum.3.0 + catalogs, sum.3.1 + whole);
            *sum = (sum.0 + 1, sum.1 + outcome.events, sum.2 + wrong.len(), catalogs);
            let Ok(mut shown) = shown.lock() else { return };
            if shown.elapsed() > PROGRESS || started.elapsed() > PROGRESS {
                *shown = Instant::now();
                let seconds = began.elapsed().as_secs();
                eprintln!(
                    "{} of {} seeds, {} events, {} violations, {seconds} s; the last: {seed}, {} nodes, {} ms",
                    sum.0,
                    jobs.len(),
                    sum.1,
                    sum.2,
                    outcome.scenario.nodes,
                    started.elapsed().as_millis()
                );
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let (seeds, events, violations, (catalogs, whole)) = done.into_inner().unwrap_or_default();
    eprintln!("catalogs took {catalogs} bytes as differences; as a whole they would have taken {whole}");
    println!("{{\"seeds\":{seeds},\"events\":{events},\"violations\":{violations}}}");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
