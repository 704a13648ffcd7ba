//! A running QEMU: snapshots, state, end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::device_header::MachineDescription;
use crate::driver::{
    REGION_DEVICE, ResumeTimings, SnapshotScope, SnapshotSink, SnapshotTimings, Vm, VmState,
};
use crate::error::{SnapshotError, StopError};
use crate::guest::{ChannelEnd, GuestAgent, GuestError, WakeReport};
use crate::launch::{ENDING_TIMEOUT, Machine, ending};
use crate::limits;
use crate::precopy::{GuestMemory, offer};
use crate::qmp::QmpError;
use crate::region_bytes::RegionBytes;
use crate::spec::PortForward;
use crate::stall::Stall;
use crate::standstill::{Standstill, resume};
use crate::vm_disk;
use crate::watch::Watch;

/// The region in which a driver for tests hands over all memory, as it was in the pause.
const REGION_WITNESS: &str = "witness";

/// A VM in a QEMU process.
pub(crate) struct QemuVm {
    machine: Machine,
    memory: GuestMemory,
    description: MachineDescription,
    /// Whether the guest stands still, by the last event about it.
    paused: bool,
    /// Whether it does so because of its disk.
    stall: Stall,
    born: Instant,
    /// Whether each pause copies all memory, so that a test can compare.
    witness: bool,
    resumed: Option<ResumeTimings>,
    watch: Watch,
}

/// What a pause leaves: the disk's frozen layer, and a copy of all memory, where there are such.
type InPause = (Option<u64>, Option<Vec<u8>>);

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
    pub(crate) fn new(
        machine: Machine,
        memory: GuestMemory,
        description: MachineDescription,
        witness: bool,
    ) -> Self {
        let (stall, born, watch) = (Stall::none(), Instant::now(), Watch::new());
        Self { machine, memory, description, paused: false, stall, born, witness, resumed: None, watch }
    }

    /// The same, whose guest was restored.
    pub(crate) fn restored(self, timings: ResumeTimings) -> Self {
        Self { resumed: Some(timings), ..self }
    }

    /// Takes in what QEMU tells of its own accord.
    fn note_events(&mut self) -> Result<(), QmpError> {
        let now = self.born.elapsed();
        for event in self.machine.qmp.take_events()? {
            match event.name.as_str() {
                "BLOCK_IO_ERROR" if event.text("action") == Some("stop") => {
                    if !self.stall.stands() {
                        tracing::warn!(service = %self.machine.spec.service, "the VM waits for its disk");
                    }
                    self.stall.stopped(now);
                }
                "STOP" => self.paused = true,
                "RESUME" => self.paused = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets a VM that stands because of its disk go on, when it is time to try.
    fn go_on_after_stall(&mut self) -> Result<(), QmpError> {
        let now = self.born.elapsed();
        if self.stall.is_due(now) {
            self.stall.goes_on(now);
            self.machine.qmp.execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)?;
            // An error of the first request after it comes as another event.
            self.note_events()?;
        }
        Ok(())
    }

    fn try_snapshot(
        &mut self,
        scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError> {
        let mut timings = SnapshotTimings::default();
        // What is left from before, so that the stop found below is this snapshot's.
        self.note_events().map_err(|source| SnapshotError::Qmp { doing: "listening", source })?;
        if self.stall.stands() {
            return Err(SnapshotError::Stalled);
        }
        if let Some(disk) = &mut self.machine.disk {
            vm_disk::check(disk)?;
        }
        if self.paused {
            resume(&mut self.machine.qmp)?;
            self.paused = false;
        }
        let started = Instant::now();
        self.memory.before_pause(scope, sink)?;
        self.machine.state_file.rewind()?;
        // Again, because what comes before the pause may take long.
        if let Some(disk) = &self.machine.disk {
            vm_disk::still(disk)?;
        }
        timings.before_ms = milliseconds(started.elapsed());
        let (frozen, witness) = self.pause(&mut timings)?;
        let started = Instant::now();
        let device = RegionBytes(self.machine.state_file.region(&self.description)?);
        offer(sink, REGION_DEVICE, &device, None)?;
        self.memory.after_pause(scope, sink)?;
        if let (Some(layer), Some(disk)) = (frozen, &mut self.machine.disk) {
            vm_disk::offer(disk, layer, scope, sink)?;
        }
        timings.after_ms = milliseconds(started.elapsed());
        if let Some(witness) = witness {
            offer(sink, REGION_WITNESS, &RegionBytes(witness), None)?;
        }
        Ok(timings)
    }

    /// Stops the guest, takes what changed last and lets it go on.
    fn pause(&mut self, timings: &mut SnapshotTimings) -> Result<InPause, SnapshotError> {
        let started = Instant::now();
        let mut standstill = Standstill::begin(&mut self.machine.qmp, &mut self.paused)?;
        let stopped_at = standstill.since;
        let stopped = Instant::now();
        let taken = self.memory.in_pause();
        let copied = Instant::now();
        let frozen = taken.and_then(|()| self.machine.disk.as_mut().map(vm_disk::freeze).transpose());
        let froze = Instant::now();
        let taken = standstill.finish_save().and(frozen);
        let saved = Instant::now();
        let taken = taken
            .and_then(|frozen| Ok((frozen, self.witness.then(|| self.memory.read_whole()).transpose()?)));
        let resuming = Instant::now();
        // Before the result is looked at: the guest goes on whatever became of the snapshot.
        let resumed = standstill.end();
        timings.stop_ms = milliseconds(stopped - started);
        timings.memory_ms = milliseconds(copied - stopped);
        timings.freeze_ms = milliseconds(froze - copied);
        timings.device_ms = milliseconds(saved - stopped);
        timings.resume_ms = milliseconds(resuming.elapsed());
        if let (Err(error), Err(_)) = (&taken, &resumed) {
            tracing::error!(%error, "a snapshot failed, and then the VM did not go on");
        }
        timings.pause_ms = milliseconds(resumed?.saturating_sub(stopped_at));
        taken
    }
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
        if let Some(report) = self.machine.process.exited() {
            return VmState::Exited(report);
        }
        // Asked first: with its answer comes what a QEMU has to tell that was silent for a while.
        let hung = self.watch.hung(&mut self.machine.qmp);
        if let Err(error) = self.note_events().and_then(|()| self.go_on_after_stall()) {
            if let Some(report) = ending(&self.machine.process, &error) {
                return VmState::Exited(*report);
            }
            tracing::warn!(%error, "a VM's control connection fails, its process is there");
        }
        if let Some(silent) = hung {
            return VmState::Hung { silent };
        }
        if self.stall.stands() {
            return VmState::Stalled;
        }
        if self.paused { VmState::Paused } else { VmState::Running }
    }

    fn snapshot(
        &mut self,
        scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError> {
        self.try_snapshot(scope, sink).map_err(|error| match error {
            SnapshotError::Qmp { doing, source } => match ending(&self.machine.process, &source) {
                Some(report) => SnapshotError::Exited { doing, report },
                None => SnapshotError::Qmp { doing, source },
            },
            SnapshotError::Resume { source } => match ending(&self.machine.process, &source) {
                Some(report) => SnapshotError::Exited { doing: "resuming the guest", report },
                None => SnapshotError::Resume { source },
            },
            // The memory of a process that is gone can't be looked at.
            SnapshotError::Track { source } => match self.machine.process.wait(ENDING_TIMEOUT) {
                Some(report) => {
                    SnapshotError::Exited { doing: "taking a snapshot", report: Box::new(report) }
                }
                None => SnapshotError::Track { source },
            },
            other => other,
        })
    }

    fn committed(&mut self) {
        self.memory.committed();
        if let Some(disk) = &mut self.machine.disk {
            disk.committed();
        }
    }

    fn guest_agent(&mut self) -> Result<Arc<dyn GuestAgent>, GuestError> {
        self.machine.guest.agent(&mut self.machine.qmp)
    }

    fn take_channel(&mut self) -> Option<ChannelEnd> {
        self.machine.guest.take_channel()
    }

    fn take_wake_report(&mut self) -> Option<WakeReport> {
        self.machine.guest.take_wake_report()
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
