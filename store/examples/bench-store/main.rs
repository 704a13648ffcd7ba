//! Compares the store with the programs that a user would take instead, and with what this machine can do at most, in
//! one run, on states that `make bench-data` made. `make bench-store` runs it.
//!
//! Each program takes the first five states one after the other, gives back the newest, checks everything, and drops
//! all but the newest. What it gives back is compared with the state, outside of the times. The order of the programs
//! is another one in each round. Times are medians over the rounds. The last line is one JSON object.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod contest;
mod dirty;
mod encodings;
mod machine;
mod measure;
mod options;
mod peers;
mod programs;
mod report;
mod states;
mod whole_files;

use std::error::Error;
use std::fs;

use contest::Contest;
use machine::Machine;
use options::Options;
use states::States;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    // What a run that was ended left.
    let _ = fs::remove_dir_all(&options.scratch);
    fs::create_dir_all(&options.scratch)?;
    let outcome = run(&options);
    fs::remove_dir_all(&options.scratch)?;
    outcome
}

fn run(options: &Options) -> Outcome<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    println!("load of the machine at the start: {}", load.trim_end());
    if options.only_dirty {
        dirty::measure(&options.scratch)?.print();
        return Ok(());
    }
    let states = States::read(&options.data)?;
    states.print();
    if options.only_encodings {
        return encodings(options, &states);
    }
    let machine = Machine::measure(options)?;
    machine.print();
    let mut contest = Contest::new(options, &states)?;
    for round in 0..options.rounds {
        contest.round(round)?;
    }
    let dirty = dirty::measure(&options.scratch)?;
    dirty.print();
    report::print(&contest.rows, &states, &machine);
    println!("load of the machine at the end: {}", fs::read_to_string("/proc/loadavg")?.trim_end());
    println!("{}", report::json(&contest.rows, &dirty));
    Ok(())
}

/// What the states take by each choice and by each program, in one table.
fn encodings(options: &Options, states: &States) -> Outcome<()> {
    let mut contest = Contest::new(options, states)?;
    let mut stored = encodings::measure(states)?;
    stored.extend(whole_files::measure(states, &options.scratch)?);
    contest.round(0)?;
    stored.extend(contest.rows.iter().map(report::stored));
    report::print_encodings(&stored, states);
    Ok(())
}
