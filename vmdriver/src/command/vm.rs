//! A running service of the command driver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::beside::Beside;
use super::error::ProgramError;
use super::job::{Call, Finished, Job};
use super::programs::{Programs, Verb};
use super::regions::{self, Marks, RegionFile};
use crate::driver::{SnapshotScope, SnapshotSink, SnapshotTimings, Vm, VmState};
use crate::error::{SnapshotError, StartError, StopError};
use crate::guest::{GuestAgent, GuestError};
use crate::limits;
use crate::spec::PortForward;

/// A service that its `start` program runs.
#[derive(Debug)]
pub(super) struct CommandVm {
    /// Before the programs, with which its folders go: dropping it ends its processes.
    job: Job,
    programs: Programs,
    /// When `alive` was last asked, and how often in a row it said no since.
    asked: Instant,
    failures: u32,
    /// When the files of the last snapshot were there.
    listed: Option<Instant>,
}

impl CommandVm {
    /// Starts the service and waits until it is alive.
    pub(super) fn start(programs: Programs, restored: bool) -> Result<Self, ProgramError> {
        let path = programs.settings().folder.join(Verb::Start.as_str());
        let mut call = programs.call(Verb::Start).ok_or(ProgramError::Missing { path })?;
        if restored {
            call = call.with("SUSTAIN_RESTORED", "1");
        }
        let job = call.start()?;
        let vm = Self { programs, job, asked: Instant::now(), failures: 0, listed: None };
        vm.wait_until_alive()?;
        tracing::info!(service = %vm.programs.service(), pid = vm.job.pid(), restored, "service started");
        Ok(vm)
    }

    /// A program that is told about the running service.
    fn call(&self, verb: Verb) -> Option<Call> {
        self.programs.call(verb).map(|call| call.with("SUSTAIN_PID", self.job.pid().to_string()))
    }

    fn wait_until_alive(&self) -> Result<(), ProgramError> {
        let patience = self.programs.settings().start_timeout;
        let deadline = Instant::now() + patience;
        let Some(alive) = self.call(Verb::Alive) else { return Ok(()) };
        loop {
            let last = alive.run(limits::COMMAND_ALIVE_TIMEOUT);
            // Looked at first: `alive` may have asked whoever holds the port of a service that is gone.
            if let Some(report) = self.job.wait(Duration::ZERO) {
                return Err(ProgramError::Ended { report: Box::new(report) });
            }
            match last {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(ProgramError::NotAlive { patience, last: error.to_string() });
                }
                Err(_) => self.job.wait(limits::COMMAND_ALIVE_RETRY),
            };
        }
    }

    /// Whether `alive` has said no too often in a row. It is asked now and then.
    fn is_hung(&mut self) -> bool {
        if self.asked.elapsed() < self.programs.settings().alive_interval {
            return false;
        }
        let Some(alive) = self.call(Verb::Alive) else { return false };
        let asked = alive.run(limits::COMMAND_ALIVE_TIMEOUT);
        self.failures = failures_after(self.failures, &asked);
        if let Err(error) = asked {
            let error = sustain_store::error_chain(&error);
            tracing::warn!(service = %self.programs.service(), error, failures = self.failures, "not alive");
        }
        self.asked = Instant::now();
        self.failures >= limits::COMMAND_ALIVE_FAILURES
    }

    fn take(
        &self,
        timings: &mut SnapshotTimings,
        sink: &dyn SnapshotSink,
    ) -> Result<Vec<RegionFile>, ProgramError> {
        let path = self.programs.settings().folder.join(Verb::Snapshot.as_str());
        let call = self.call(Verb::Snapshot).ok_or(ProgramError::Missing { path })?;
        self.programs.ready_snapshot_folder()?;
        let folder = self.programs.snapshot_folder()?;
        // What is written now must not have the time of what was written for the last one.
        if let Some(listed) = self.listed {
            std::thread::sleep(limits::FILE_TIME_GRAIN.saturating_sub(listed.elapsed()));
        }
        let before = Marks::of(folder)?;
        let started = Instant::now();
        let mut pointless = || {
            let gone = |report| ProgramError::Gone { report: Box::new(report) };
            self.job.exited().map(gone).or_else(|| sink.is_cancelled().then_some(ProgramError::Cancelled))
        };
        let finished = call.run_unless(self.programs.settings().snapshot_timeout, &mut pointless)?;
        // What it does not say is taken to have lasted all the time.
        let paused = finished.paused.unwrap_or(started);
        let resumed = finished.resumed.unwrap_or_else(Instant::now);
        timings.pause_ms = milliseconds(resumed.saturating_duration_since(paused));
        timings.stop_ms = milliseconds(paused.saturating_duration_since(started));
        let files = regions::list(folder)?;
        if Marks::of(folder)? == before {
            return Err(ProgramError::Untouched { path: folder.to_owned() });
        }
        Ok(files)
    }
}

impl Vm for CommandVm {
    fn pid(&self) -> u32 {
        self.job.pid()
    }

    fn forwards(&self) -> &[PortForward] {
        self.programs.forwards()
    }

    fn state(&mut self) -> VmState {
        if let Some(report) = self.job.exited() {
            return VmState::Exited(report);
        }
        if self.is_hung() {
            let silent = self.programs.settings().alive_interval * self.failures;
            return VmState::Hung { silent };
        }
        VmState::Running
    }

    fn snapshot(
        &mut self,
        _scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError> {
        if let Some(report) = self.job.exited() {
            return Err(ProgramError::Ended { report: Box::new(report) }.into());
        }
        let mut timings = SnapshotTimings::default();
        let files = match self.take(&mut timings, sink) {
            Ok(files) => files,
            Err(error) => {
                // It may have been killed halfway, with the service standing still.
                if let Err(error) = self.job.go_on() {
                    tracing::error!(service = %self.programs.service(), %error, "can't let a service go on");
                }
                self.programs.empty_snapshot_folder()?;
                return Err(error.into());
            }
        };
        self.listed = Some(Instant::now());
        let started = Instant::now();
        for file in files {
            sink.region(&file.name, &file.source, None)
                .map_err(|source| SnapshotError::Sink { region: file.name.clone(), source })?;
            file.check_unchanged()?;
        }
        timings.after_ms = milliseconds(started.elapsed());
        Ok(timings)
    }

    // Every snapshot offers everything: what changed is found by comparing chunks.
    fn committed(&mut self) {}

    fn guest_agent(&mut self) -> Result<Arc<dyn GuestAgent>, GuestError> {
        let call = self.call(Verb::RunInGuest).ok_or(GuestError::Unsupported)?;
        Ok(Arc::new(Beside { call }))
    }

    fn stop(self: Box<Self>) -> Result<(), StopError> {
        let pid = self.job.pid();
        let failed = |source| StopError::Kill { pid, source };
        if let (Some(stop), None) = (self.call(Verb::Stop), self.job.exited()) {
            match stop.run(limits::QUIT_TIMEOUT) {
                // What was to end in good order has a moment to do so.
                Ok(_) => drop(self.job.wait(limits::QUIT_TIMEOUT)),
                Err(error) => {
                    tracing::warn!(service = %self.programs.service(), %error, "not stopped in order")
                }
            }
        }
        self.job.kill().map_err(failed)?;
        match self.job.wait(limits::QUIT_TIMEOUT) {
            Some(_) => Ok(()),
            None => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

/// How often in a row `alive` has said no. Where it could not be started, for want of descriptors, say, nobody has
/// said anything about the service.
fn failures_after(failures: u32, asked: &Result<Finished, ProgramError>) -> u32 {
    match asked {
        Ok(_) => 0,
        Err(ProgramError::Start { .. }) => failures,
        Err(_) => failures + 1,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl From<ProgramError> for StartError {
    fn from(source: ProgramError) -> Self {
        Self::Program { source }
    }
}

impl From<ProgramError> for SnapshotError {
    fn from(source: ProgramError) -> Self {
        Self::Program { source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Too many open files" on the node counted as three times "no", and a service in good health was killed.
    #[test]
    fn only_an_answer_of_alive_is_held_against_the_service() {
        let path = std::path::PathBuf::from("alive");
        let unstarted = ProgramError::Start { path: path.clone(), source: rustix::io::Errno::MFILE.into() };
        assert_eq!(failures_after(2, &Err(unstarted)), 2);
        let late = ProgramError::TimedOut { path, patience: limits::COMMAND_ALIVE_TIMEOUT };
        assert_eq!(failures_after(2, &Err(late)), 3);
        let yes = Finished { stdout: Vec::new(), paused: None, resumed: None };
        assert_eq!(failures_after(2, &Ok(yes)), 0);
    }
}
