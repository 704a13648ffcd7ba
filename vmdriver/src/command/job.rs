//! One program of the user's own, and everything that it starts in its process group.
//!
//! The kernel ends the program with this process (see `process`), but not the program's children. So a
//! second process, the *watcher*, sits in the group and reads a pipe whose other end only this process holds:
//! when that closes, be it because the handle is dropped or because this process was killed, the watcher
//! kills its own group. It is not a child of the program, and keeps the group's number from being used again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::error::ProgramError;
use super::output::Output;
use crate::driver::ExitReport;
use crate::limits;
use crate::output::ConsoleFile;
use crate::process::{Launch, Process};

/// Arguments: the folder to work in, the file that is its input, `log` or `answer`, then the program.
/// A stopped group whose parent is gone is sent a hang-up, which the watcher must survive.
const STARTER: &str = r#"
cd "$1" || exit 1
exec 3<&0 <"$2" || exit 1
[ "$3" = answer ] || exec >&2
shift 3
( ( trap '' HUP INT QUIT TERM; exec <&3 3<&- >/dev/null 2>&1; read -r _; kill -KILL 0 ) & )
exec 3<&-
exec "$@"
"#;

/// A program, and how it is to be called.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// All of its environment.
    pub(super) environment: Vec<(String, OsString)>,
    /// Where it works.
    pub(super) folder: PathBuf,
    /// The file that is its standard input.
    pub(super) input: PathBuf,
    /// The folder and the name of the file that takes its standard error.
    pub(super) log: Option<(PathBuf, String)>,
    /// Whether a process that left its group was found to keep its output. Shared by all calls of a service.
    pub(super) kept: Arc<AtomicBool>,
}

/// What a program left that ended well.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) stdout: Vec<u8>,
    /// When it said `paused` and `resumed`.
    pub(super) paused: Option<Instant>,
    pub(super) resumed: Option<Instant>,
}

/// A program that runs. Dropping it ends all of its group.
#[derive(Debug)]
pub(super) struct Job {
    process: Process,
    /// Held, never written to: see above.
    _alive: OwnedFd,
}

impl Call {
    /// Adds to its environment.
    pub(super) fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    fn command_line(&self, answers: bool) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["/bin/sh", "-c", STARTER, "sh"].map(OsString::from).to_vec();
        line.extend([self.folder.clone().into(), self.input.clone().into()]);
        line.push(if answers { "answer" } else { "log" }.into());
        // Nothing of the node's own environment gets through.
        line.extend(["env".into(), "-i".into()]);
        for (name, value) in &self.environment {
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            line.push(pair);
        }
        line.push(self.program.clone().into());
        line.extend(self.arguments.iter().cloned());
        line
    }

    pub(super) fn launch(&self, stdout: OwnedFd, answers: bool) -> io::Result<Job> {
        let console = match &self.log {
            Some((folder, name)) => Some(ConsoleFile::create_named(folder, name)?),
            None => None,
        };
        let (watched, alive) = pipe()?;
        let command_line = self.command_line(answers);
        let process = Process::start(Launch { command_line, stdin: watched, stdout, console })?;
        Ok(Job { process, _alive: alive })
    }

    /// Starts it for as long as it runs; its standard output goes where its standard error goes.
    pub(super) fn start(&self) -> Result<Job, ProgramError> {
        let started = File::open("/dev/null").and_then(|null| self.launch(null.into(), false));
        started.map_err(|source| ProgramError::Start { path: self.program.clone(), source })
    }

    /// Runs it to its end. Whatever happens, nothing of its group is left.
    pub(super) fn run(&self, patience: Duration) -> Result<Finished, ProgramError> {
        self.run_unless(patience, &mut || None)
    }

    /// The same, unless something else comes up meanwhile that makes it pointless: then that is the error.
    pub(super) fn run_unless(
        &self,
        patience: Duration,
        pointless: &mut dyn FnMut() -> Option<ProgramError>,
    ) -> Result<Finished, ProgramError> {
        let failed = |source| ProgramError::Start { path: self.program.clone(), source };
        let (output, theirs) = pipe().map_err(failed)?;
        let mut output = Output::new(output).map_err(failed)?;
        let job = self.launch(theirs, true).map_err(failed)?;
        let deadline = Instant::now() + patience;
        let mut answer = Answer::default();
        let report = loop {
            let all_here = answer.take(&mut output, limits::COMMAND_LOOK_INTERVAL).is_none();
            let ended = if all_here { job.wait(limits::COMMAND_LOOK_INTERVAL) } else { job.exited() };
            if let Some(report) = ended {
                break report;
            }
            if Instant::now() >= deadline {
                return Err(ProgramError::TimedOut { path: self.program.clone(), patience });
            }
            if let Some(error) = pointless() {
                return Err(error);
            }
        };
        drop(job);
        self.take_rest(&mut |patience| answer.take(&mut output, patience));
        let Answer { stdout, paused, resumed, .. } = answer;
        if report.code == Some(0) {
            return Ok(Finished { stdout, paused, resumed });
        }
        Err(ProgramError::Failed { path: self.program.clone(), report: Box::new(report) })
    }

    /// Takes what is left in a pipe after the program and its group have ended. Only something that left the group
    /// can keep it open now: that is waited for and said the first time, and then no more.
    pub(super) fn take_rest(&self, take: &mut dyn FnMut(Duration) -> Option<usize>) {
        let patience =
            if self.kept.load(Ordering::Relaxed) { Duration::ZERO } else { limits::OUTPUT_END_TIMEOUT };
        let end = Instant::now() + patience;
        let mut room = limits::COMMAND_OUTPUT_BYTES_MAX;
        while let Some(bytes) = take(end.saturating_duration_since(Instant::now())) {
            room = room.saturating_sub(bytes);
            if room == 0 || (bytes == 0 && Instant::now() >= end) {
                if !self.kept.swap(true, Ordering::Relaxed) {
                    let program = self.program.display();
                    tracing::warn!(%program, "a process that it left behind, outside its group, keeps its output");
                }
                return;
            }
        }
    }
}

impl Job {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub(super) fn exited(&self) -> Option<ExitReport> {
        self.process.exited()
    }

    /// Waits for its end.
    pub(super) fn wait(&self, patience: Duration) -> Option<ExitReport> {
        self.process.wait(patience)
    }

    /// The last of its standard error.
    pub(super) fn tail(&self) -> String {
        self.process.tail()
    }

    /// Lets a group go on that was left standing.
    pub(super) fn go_on(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Ends the group by force.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        self.process.kill()
    }

    /// Signals the group while its first process is there: its number is certainly ours that long.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let group = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        match (self.process.exited(), group) {
            (None, Some(group)) => match kill_process_group(group, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            },
            _ => Ok(()),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(pid = self.pid(), %error, "can't kill a service's processes");
        }
    }
}

/// A pipe whose ends no child gets but on purpose: the one to read from, the one to write to.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[derive(Debug, Default)]
struct Answer {
    stdout: Vec<u8>,
    paused: Option<Instant>,
    resumed: Option<Instant>,
    /// The beginning of a line that is not whole yet.
    line: Vec<u8>,
}

impl Answer {
    /// Waits at most so long for more, and keeps what matters: how many bytes came, none once there will be no more.
    fn take(&mut self, output: &mut Output, patience: Duration) -> Option<usize> {
        let mut buffer = [0_u8; 8 * 1024];
        // What can't be read any more has ended.
        let bytes = output.read(&mut buffer, patience).ok().flatten()?;
        self.note(&buffer[..bytes], Instant::now());
        Some(bytes)
    }

    /// Keeps the beginning, and when the words were said that matter.
    fn note(&mut self, bytes: &[u8], now: Instant) {
        let room = limits::COMMAND_OUTPUT_BYTES_MAX.saturating_sub(self.stdout.len());
        self.stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
        for byte in bytes {
            if *byte != b'\n' {
                // Longer lines are none of the words.
                if self.line.len() <= 16 {
                    self.line.push(*byte);
                }
                continue;
            }
            match self.line.as_slice() {
                b"paused" => self.paused = self.paused.or(Some(now)),
                b"resumed" => self.resumed = self.resumed.or(Some(now)),
                _ => {}
            }
            self.line.clear();
        }
    }
}

/// An environment's value of the node that programs can't do without.
pub(super) fn inherited(name: &str) -> Option<(String, OsString)> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value))
}

/// A call without anything but a program, for tests and for what has no folders.
pub(super) fn bare(program: &Path, folder: &Path) -> Call {
    let environment = ["PATH", "HOME"].into_iter().filter_map(inherited).collect();
    Call {
        program: program.to_owned(),
        arguments: Vec::new(),
        environment,
        folder: folder.to_owned(),
        input: PathBuf::from(OsStr::new("/dev/null")),
        log: None,
        kept: Arc::default(),
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
