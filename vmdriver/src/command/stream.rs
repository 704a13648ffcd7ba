//! A program whose output is handed over while it runs, however much it is.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::error::ProgramError;
use super::job::{Call, pipe};
use super::output::Output;
use crate::driver::ExitReport;
use crate::limits::{self, COMMAND_PART_BYTES};

/// How a program ended whose output was handed over.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) report: ExitReport,
    pub(super) output_bytes: u64,
    /// The last of its standard error.
    pub(super) stderr: String,
}

/// Why it was not, or not all of it.
#[derive(Debug)]
pub(super) enum StreamError {
    /// The program.
    Program(ProgramError),
    /// Nobody takes its output any more.
    Output(io::Error),
}

impl Call {
    /// Runs it to its end, whatever its exit code is, and hands over what it writes to its standard output. A
    /// program that writes faster than that is taken waits. Whatever happens, nothing of its group is left.
    pub(super) fn stream(&self, patience: Duration, output: &mut dyn Write) -> Result<Streamed, StreamError> {
        let failed =
            |source| StreamError::Program(ProgramError::Start { path: self.program.clone(), source });
        let deadline = Instant::now() + patience;
        let (pipe, theirs) = pipe().map_err(failed)?;
        let mut pipe = Output::new(pipe).map_err(failed)?;
        let job = self.launch(theirs, true).map_err(failed)?;
        let mut output_bytes = 0;
        let report = loop {
            let came = hand_over(&mut pipe, limits::COMMAND_LOOK_INTERVAL, output)?;
            output_bytes += came.unwrap_or_default() as u64;
            let all_here = came.is_none();
            let ended = if all_here { job.wait(left(deadline)) } else { job.exited() };
            match ended {
                Some(report) => break report,
                None if Instant::now() < deadline => {}
                None => {
                    let path = self.program.clone();
                    return Err(StreamError::Program(ProgramError::TimedOut { path, patience }));
                }
            }
        };
        let stderr = job.tail();
        // Ends those of its group that still hold the output.
        drop(job);
        let mut failure = None;
        self.take_rest(&mut |patience| match hand_over(&mut pipe, patience, output) {
            Ok(came) => {
                output_bytes += came.unwrap_or_default() as u64;
                came
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        failure.map_or(Ok(Streamed { report, output_bytes, stderr }), Err)
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Waits for one part and hands it over: how many bytes, none once there will be no more.
fn hand_over(
    pipe: &mut Output,
    patience: Duration,
    output: &mut dyn Write,
) -> Result<Option<usize>, StreamError> {
    let mut part = vec![0; COMMAND_PART_BYTES];
    // What can't be read any more has ended.
    let Some(bytes) = pipe.read(&mut part, patience).ok().flatten() else { return Ok(None) };
    output.write_all(&part[..bytes]).map_err(StreamError::Output)?;
    Ok(Some(bytes))
}
