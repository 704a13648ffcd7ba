//! A running service of the command driver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::beside::Beside;
use super::error::ProgramError;
use super::job::{Call, Job};
use super::programs::{Programs, Verb};
use super::regions;
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
        let vm = Self { job, programs, asked: Instant::now(), failures: 0 };
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
        match alive.run(limits::COMMAND_ALIVE_TIMEOUT) {
            Ok(_) => self.failures = 0,
            Err(error) => {
                self.failures += 1;
                tracing::warn!(service = %self.programs.service(), %error, failures = self.failures, "not alive");
            }
        }
        self.asked = Instant::now();
        self.failures >= limits::COMMAND_ALIVE_FAILURES
    }

    fn take(&self, timings: &mut SnapshotTimings) -> Result<(), ProgramError> {
        let path = self.programs.settings().folder.join(Verb::Snapshot.as_str());
        let call = self.call(Verb::Snapshot).ok_or(ProgramError::Missing { path })?;
        let started = Instant::now();
        let finished = call.run(self.programs.settings().snapshot_timeout)?;
        // What it does not say is taken to have lasted all the time.
        let paused = finished.paused.unwrap_or(started);
        let resumed = finished.resumed.unwrap_or_else(Instant::now);
        timings.pause_ms = milliseconds(resumed.saturating_duration_since(paused));
        timings.stop_ms = milliseconds(paused.saturating_duration_since(started));
        Ok(())
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
        if let Err(error) = self.take(&mut timings) {
            // It may have been killed halfway, with the service standing still.
            if let Err(error) = self.job.go_on() {
                tracing::error!(service = %self.programs.service(), %error, "can't let a service go on");
            }
            self.programs.empty_snapshot_folder()?;
            return Err(error.into());
        }
        let started = Instant::now();
        for (region, source) in regions::list(self.programs.snapshot_folder()?)? {
            sink.region(&region, &source, None).map_err(|source| SnapshotError::Sink { region, source })?;
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
