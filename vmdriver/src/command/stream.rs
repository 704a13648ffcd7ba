//! A program whose output is handed over while it runs, however much it is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::error::ProgramError;
use super::job::{Call, pipe};
use crate::driver::ExitReport;
use crate::limits::{self, COMMAND_PART_BYTES, COMMAND_PARTS_WAITING};

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
        let (read_end, theirs) = pipe().map_err(failed)?;
        let (sender, parts) = sync_channel(COMMAND_PARTS_WAITING);
        let job = self.launch(theirs, true).map_err(failed)?;
        // Ends when the last writer does, or nobody takes anything any more.
        let reader = std::thread::Builder::new().name("command-output".to_owned());
        reader.spawn(move || read_parts(read_end, &sender)).map_err(failed)?;
        let mut output_bytes = 0;
        let report = loop {
            let all_here = hand_over(&parts, limits::POLL_INTERVAL, output, &mut output_bytes)?;
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
        // Only something that left the group could keep the output open for longer.
        let end = Instant::now() + limits::OUTPUT_END_TIMEOUT;
        while !hand_over(&parts, left(end), output, &mut output_bytes)? && Instant::now() < end {}
        Ok(Streamed { report, output_bytes, stderr })
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Waits for one part and hands it over. Whether there will be no more.
fn hand_over(
    parts: &Receiver<Vec<u8>>,
    patience: Duration,
    output: &mut dyn Write,
    bytes: &mut u64,
) -> Result<bool, StreamError> {
    match parts.recv_timeout(patience) {
        Ok(part) => {
            output.write_all(&part).map_err(StreamError::Output)?;
            *bytes += part.len() as u64;
            Ok(false)
        }
        Err(RecvTimeoutError::Timeout) => Ok(false),
        Err(RecvTimeoutError::Disconnected) => Ok(true),
    }
}

fn read_parts(output: OwnedFd, parts: &SyncSender<Vec<u8>>) {
    let mut output = File::from(output);
    loop {
        let mut part = vec![0; COMMAND_PART_BYTES];
        match output.read(&mut part) {
            Ok(0) => return,
            Ok(bytes) => part.truncate(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        if parts.send(part).is_err() {
            return;
        }
    }
}
