//! A running QEMU: snapshots, state, end.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use serde_json::json;
use sustain_proto::RegionName;
use sustain_store::FileSource;

use crate::device_state;
use crate::driver::{
    GuestCommand, GuestOutput, REGION_DEVICE, REGION_RAM, ResumeTimings, SnapshotScope, SnapshotSink,
    SnapshotTimings, Vm, VmState,
};
use crate::error::{GuestError, SnapshotError, StopError};
use crate::launch::{Machine, ending};
use crate::limits::{self, QMP_COMMAND_TIMEOUT};
use crate::qmp::{Client, QmpError};
use crate::spec::PortForward;

/// A VM in a QEMU process.
pub(crate) struct QemuVm {
    machine: Machine,
    /// Whether the guest stands still, by the last event about it.
    paused: bool,
    resumed: Option<ResumeTimings>,
}

/// Time since the last look.
pub(crate) struct Lap(Instant);

impl Lap {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        milliseconds(now - std::mem::replace(&mut self.0, now))
    }
}

impl QemuVm {
    /// Takes over a machine whose guest was booted and runs.
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, paused: false, resumed: None }
    }

    /// Takes over a machine whose guest was restored and runs.
    pub(crate) fn restored(machine: Machine, timings: ResumeTimings) -> Self {
        Self { resumed: Some(timings), ..Self::new(machine) }
    }

    fn try_snapshot(&mut self, sink: &mut dyn SnapshotSink) -> Result<SnapshotTimings, SnapshotError> {
        let mut timings = SnapshotTimings::default();
        // What is left from before, so that the stop found below is this snapshot's.
        self.machine.qmp.take_events().map_err(|source| SnapshotError::Qmp { doing: "listening", source })?;
        if self.paused {
            resume(&mut self.machine.qmp)?;
            self.paused = false;
        }
        let started = Instant::now();
        let standstill = Standstill::begin(&mut self.machine.qmp, &mut self.paused)?;
        timings.stop_ms = milliseconds(started.elapsed());
        let stopped_at = standstill.since;
        let taken = take_regions(standstill.qmp, &self.machine.memory, sink, &mut timings);
        let started = Instant::now();
        // Before the result is looked at: the guest goes on whatever became of the snapshot.
        let resumed = standstill.end();
        timings.resume_ms = milliseconds(started.elapsed());
        if let (Err(error), Err(_)) = (&taken, &resumed) {
            tracing::error!(%error, "a snapshot failed, and then the VM did not go on");
        }
        let resumed_at = resumed?;
        taken?;
        timings.pause_ms = milliseconds(resumed_at.saturating_sub(stopped_at));
        Ok(timings)
    }
}

/// Offers all regions to the sink while the VM stands still.
fn take_regions(
    qmp: &mut Client,
    memory: &File,
    sink: &mut dyn SnapshotSink,
    timings: &mut SnapshotTimings,
) -> Result<(), SnapshotError> {
    let started = Instant::now();
    let device = device_state::save(qmp)?;
    timings.device_ms = milliseconds(started.elapsed());
    let started = Instant::now();
    offer(sink, REGION_DEVICE, Ok(device))?;
    offer(sink, REGION_RAM, memory.try_clone())?;
    timings.regions_ms = milliseconds(started.elapsed());
    Ok(())
}

fn offer(sink: &mut dyn SnapshotSink, name: &str, file: io::Result<File>) -> Result<(), SnapshotError> {
    let source = file
        .and_then(FileSource::from_file)
        .map_err(|source| SnapshotError::MemoryFile { doing: "read a memory file of the VM", source })?;
    let region = RegionName::new(name).map_err(|error| SnapshotError::Save { reason: error.to_string() })?;
    sink.region(&region, &source, None).map_err(|source| SnapshotError::Sink { region, source })
}

/// The guest standing still. Dropping it lets the guest go on, so that not even a panic in the sink
/// leaves a service standing.
struct Standstill<'a> {
    qmp: &'a mut Client,
    paused: &'a mut bool,
    /// When it began, by QEMU's clock.
    since: Duration,
}

impl<'a> Standstill<'a> {
    fn begin(qmp: &'a mut Client, paused: &'a mut bool) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Qmp { doing: "pausing the guest", source };
        // Made before the command is sent: should its answer stay out, the drop undoes it all the same.
        let mut standstill = Self { qmp, paused, since: Duration::ZERO };
        *standstill.paused = true;
        standstill.qmp.execute("stop", json!({}), QMP_COMMAND_TIMEOUT).map_err(failed)?;
        let stopped =
            standstill.qmp.wait_for_event("STOP", QMP_COMMAND_TIMEOUT, |event| event.name == "STOP");
        standstill.since = stopped.map_err(failed)?.at;
        Ok(standstill)
    }

    /// Lets the guest go on; returns when it did, by QEMU's clock.
    fn end(self) -> Result<Duration, SnapshotError> {
        let resumed = resume(self.qmp)?;
        *self.paused = false;
        Ok(resumed)
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        if *self.paused {
            match resume(self.qmp) {
                Ok(_) => *self.paused = false,
                Err(error) => tracing::error!(%error, "a VM stands still after a snapshot that failed"),
            }
        }
    }
}

fn resume(qmp: &mut Client) -> Result<Duration, SnapshotError> {
    let failed = |source| SnapshotError::Resume { source };
    qmp.execute("cont", json!({}), QMP_COMMAND_TIMEOUT).map_err(failed)?;
    let resumed = qmp.wait_for_event("RESUME", QMP_COMMAND_TIMEOUT, |event| event.name == "RESUME");
    resumed.map(|event| event.at).map_err(failed)
}

impl Vm for QemuVm {
    fn pid(&self) -> u32 {
        self.machine.process.pid()
    }

    fn forwards(&self) -> &[PortForward] {
        &self.machine.forwards
    }

    fn resume_timings(&self) -> Option<ResumeTimings> {
        self.resumed
    }

    fn state(&mut self) -> VmState {
        let events = self.machine.qmp.take_events();
        if let Some(report) = self.machine.process.exited() {
            return VmState::Exited(report);
        }
        match events {
            Ok(events) => {
                for event in events {
                    match event.name.as_str() {
                        "STOP" => self.paused = true,
                        "RESUME" => self.paused = false,
                        _ => {}
                    }
                }
            }
            Err(error) => {
                if let Some(report) = ending(&self.machine.process, &error) {
                    return VmState::Exited(*report);
                }
                tracing::warn!(%error, "a VM's control connection fails, its process is there");
            }
        }
        if self.paused { VmState::Paused } else { VmState::Running }
    }

    fn snapshot(
        &mut self,
        _scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError> {
        self.try_snapshot(sink).map_err(|error| match error {
            SnapshotError::Qmp { doing, source } => match ending(&self.machine.process, &source) {
                Some(report) => SnapshotError::Exited { doing, report },
                None => SnapshotError::Qmp { doing, source },
            },
            SnapshotError::Resume { source } => match ending(&self.machine.process, &source) {
                Some(report) => SnapshotError::Exited { doing: "resuming the guest", report },
                None => SnapshotError::Resume { source },
            },
            other => other,
        })
    }

    // Every snapshot offers everything, so nothing has to be remembered.
    fn committed(&mut self) {}

    fn run_in_guest(&mut self, _command: &GuestCommand) -> Result<GuestOutput, GuestError> {
        Err(GuestError::Unsupported { service: self.machine.spec.service.clone() })
    }

    fn stop(self: Box<Self>) -> Result<(), StopError> {
        let Machine { process, mut qmp, .. } = self.machine;
        let pid = process.pid();
        let failed = |source| StopError::Kill { pid, source };
        // Asked first, so that QEMU can close what it has open; refusing or being gone already is fine.
        let asked = qmp.execute("quit", json!({}), limits::QUIT_TIMEOUT);
        let ended = match asked {
            Ok(_) | Err(QmpError::Closed) => process.wait(limits::QUIT_TIMEOUT),
            Err(_) => None,
        };
        if ended.is_none() {
            process.kill().map_err(failed)?;
            if process.wait(limits::QUIT_TIMEOUT).is_none() {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
