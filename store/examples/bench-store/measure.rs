//! Measuring: a child's wall and processor time, the bytes of a folder, medians.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Outcome;

/// How long something took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Seconds that passed.
    pub(crate) wall: f64,
    /// Seconds of processor, user and system together. The kernel tells a child's in hundredths.
    pub(crate) cpu: f64,
}

/// Runs programs one after the other.
///
/// # Errors
/// If one can't be run or fails; with what it said.
pub(crate) fn run(commands: Vec<Command>) -> Outcome<Sample> {
    let cpu = children_cpu()?;
    let started = Instant::now();
    for mut command in commands {
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?}: {}: {}", output.status, said.trim_end()).into());
        }
    }
    let wall = started.elapsed().as_secs_f64();
    Ok(Sample { wall, cpu: children_cpu()? - cpu })
}

/// Processor time of all children that have ended, in seconds.
fn children_cpu() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The program's name may hold anything, also a parenthesis; after it come numbers. Of these cutime and cstime are
    // the 14th and 15th (proc_pid_stat(5) counts from the process id).
    let (_, numbers) = stat.rsplit_once(')').ok_or("/proc/self/stat is no such thing")?;
    let ticks: Vec<u64> =
        numbers.split_ascii_whitespace().skip(13).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The lengths of all files below a folder.
pub(crate) fn bytes_below(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// The middle one, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}
