//! The contest: every program through the same steps, in another order in each round.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::measure::{Sample, bytes_below, run};
use crate::options::Options;
use crate::peers::{Borg, Casync, Restic, Rustic};
use crate::programs::{Program, Side, Snapctl, Step};
use crate::states::{COUNT, States};

/// What was measured of a program.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    pub(crate) first: Vec<Sample>,
    pub(crate) later: Vec<Sample>,
    pub(crate) gather: Vec<Sample>,
    pub(crate) verify: Vec<Sample>,
    pub(crate) rebase: Vec<Sample>,
    /// Bytes of everything stored after each push, in the last round.
    pub(crate) bytes: Vec<u64>,
    /// The same after the rebase.
    pub(crate) bytes_rebased: u64,
}

/// The programs, and what was measured of each.
pub(crate) struct Contest<'a> {
    options: &'a Options,
    states: &'a States,
    programs: Vec<Box<dyn Program>>,
    /// In the order of the programs.
    pub(crate) rows: Vec<Row>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(options: &'a Options, states: &'a States) -> Outcome<Self> {
        let Options { snapctl, rustic, quick, .. } = options;
        let all: [Box<dyn Program>; 7] = [
            Box::new(Snapctl { file: snapctl.clone(), is_told: false }),
            Box::new(Snapctl { file: snapctl.clone(), is_told: true }),
            Box::new(Restic),
            Box::new(Borg),
            Box::new(Rustic { file: rustic.clone(), is_fixed: false }),
            Box::new(Rustic { file: rustic.clone(), is_fixed: true }),
            Box::new(Casync),
        ];
        println!();
        let (mut programs, mut rows) = (Vec::new(), Vec::new());
        for program in all {
            let version =
                Command::new(program.file()).arg(program.version_argument()).stderr(Stdio::null()).output();
            match version {
                Err(error) if program.side().is_ours() => return Err(error.into()),
                Err(error) => println!("skipped: {}: {error}", program.name()),
                Ok(_) if *quick && program.side() == Side::Slow => {
                    println!("skipped: {}: --quick leaves it out, it takes minutes", program.name());
                }
                Ok(output) => {
                    let version = String::from_utf8_lossy(&output.stdout);
                    println!("{}: {}", program.name(), version.lines().next().unwrap_or("of no version"));
                    rows.push(Row::new(program.as_ref()));
                    programs.push(program);
                }
            }
        }
        Ok(Self { options, states, programs, rows })
    }

    /// Runs each program once. One of theirs that fails takes no further part.
    pub(crate) fn round(&mut self, round: usize) -> Outcome<()> {
        for name in self.order(round) {
            let Some(number) = self.rows.iter().position(|row| row.name == name) else { continue };
            let (side, folder) = (self.rows[number].side, self.options.scratch.join("program"));
            if side == Side::Slow && round > 0 {
                continue;
            }
            fs::create_dir(&folder)?;
            let outcome = self.run(number, &folder);
            fs::remove_dir_all(&folder)?;
            match outcome {
                Ok(()) => println!("round {}: {name}: done", round + 1),
                Err(error) if side.is_ours() => return Err(error),
                Err(error) => {
                    println!("skipped: {name}: it failed: {error}");
                    self.programs.remove(number);
                    self.rows.remove(number);
                }
            }
        }
        Ok(())
    }

    /// Who comes when: each round begins with another program, and every other one goes the other way round.
    fn order(&self, round: usize) -> Vec<&'static str> {
        let mut names: Vec<_> = self.rows.iter().map(|row| row.name).collect();
        let count = names.len();
        names.rotate_left(round * 2 % count);
        if round % 2 == 1 {
            names.reverse();
        }
        names
    }

    fn run(&mut self, number: usize, folder: &PathBuf) -> Outcome<()> {
        let (program, states) = (&self.programs[number], self.states);
        let (repository, home, out) = (folder.join("repository"), folder.join("home"), folder.join("out"));
        for folder in [&repository, &home] {
            fs::create_dir(folder)?;
        }
        // Programs that keep things of their own elsewhere may not find the user's, nor leave any.
        let step = |step: Step<'_>| {
            let mut commands = program.commands(&repository, step);
            for command in &mut commands {
                command.env("HOME", &home).env("XDG_CACHE_HOME", &home).env("XDG_CONFIG_HOME", &home);
            }
            // Nobody waits for what another step left to write.
            rustix::fs::syncfs(File::open(folder)?)?;
            let is_there = !commands.is_empty();
            run(commands).map(|sample| is_there.then_some(sample))
        };
        let row = &mut self.rows[number];
        row.bytes.clear();
        step(Step::Init)?;
        for number in 1..=COUNT {
            states.warm(number)?;
            let times = if number == 1 { &mut row.first } else { &mut row.later };
            times.extend(step(Step::Push(number, &states.path(number)))?);
            row.bytes.push(bytes_below(&repository)?);
        }
        if self.options.only_encodings {
            return Ok(());
        }
        fs::create_dir(&out)?;
        row.gather.extend(step(Step::Gather(COUNT, &out))?);
        states.compare(COUNT, &out)?;
        fs::remove_dir_all(&out)?;
        row.verify.extend(step(Step::Verify)?);
        row.rebase.extend(step(Step::Rebase)?);
        row.bytes_rebased = bytes_below(&repository)?;
        fs::create_dir(&out)?;
        step(Step::Gather(COUNT, &out))?;
        states.compare(COUNT, &out)
    }
}

impl Row {
    fn new(program: &dyn Program) -> Self {
        Self {
            name: program.name(),
            side: program.side(),
            first: Vec::new(),
            later: Vec::new(),
            gather: Vec::new(),
            verify: Vec::new(),
            rebase: Vec::new(),
            bytes: Vec::new(),
            bytes_rebased: 0,
        }
    }

    /// What a state after the first adds, on average.
    pub(crate) fn bytes_later(&self) -> Option<f64> {
        let (first, last) = (self.bytes.first()?, self.bytes.last()?);
        Some((*last as f64 - *first as f64) / (self.bytes.len() - 1) as f64)
    }

    /// What all states take.
    pub(crate) fn bytes_total(&self) -> Option<f64> {
        self.bytes.last().map(|bytes| *bytes as f64)
    }
}
