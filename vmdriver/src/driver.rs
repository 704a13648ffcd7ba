//! The seam: what a node asks of whatever runs its VMs.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sustain_proto::RegionName;
use sustain_store::{RegionSource, RestoreTarget};

use crate::disk::BlockSource;
use crate::error::{CheckError, SnapshotError, StartError, StopError};
use crate::guest::{ChannelEnd, GuestAgent, GuestError, WakeReport};
use crate::spec::{Accel, PortForward, VmSpec};

/// The region that holds the guest's memory.
pub const REGION_RAM: &str = "ram";

/// The region that holds the state of processors and devices.
pub const REGION_DEVICE: &str = "device";

/// The region that holds the guest's disk, where it has one.
pub const REGION_DISK: &str = "disk0";

/// Starts and restores VMs.
pub trait VmDriver: Send + Sync {
    /// Whether a VM of this spec could be restored here and now, and whether it could be booted: what only a boot
    /// needs is no error, but [`CheckReport::boot_problem`].
    ///
    /// # Errors
    /// Says what is missing.
    fn check(&self, spec: &VmSpec) -> Result<CheckReport, CheckError>;

    /// Boots a VM. It belongs to this process: it ends with the handle, and also if this process is
    /// killed. `run_dir` gets its console log.
    ///
    /// # Errors
    /// If the spec is impossible, the host lacks something, or the VM doesn't come up.
    fn start(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn Vm>, StartError>;

    /// The regions of such a VM's snapshots that a restored VM runs without: their chunks come when it needs them, by
    /// [`PreparedVm::set_disk`]. A driver that has no such leaves this as it is.
    fn lazy_regions(&self, spec: &VmSpec) -> Vec<RegionName> {
        let _ = spec;
        Vec::new()
    }

    /// Makes the files that a snapshot is restored into. What can be started of the VM starts while they are
    /// filled; it goes on by [`PreparedVm::resume`], or ends with the handle.
    ///
    /// # Errors
    /// As for [`VmDriver::start`].
    fn prepare(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn PreparedVm>, StartError>;
}

/// A VM about to be restored.
pub trait PreparedVm: Send + Sync {
    /// Where the store writes the snapshot's regions to.
    fn target(&self) -> &dyn RestoreTarget;

    /// Hands over who has the blocks of the guest's disk. The VM's target leaves the region
    /// [`REGION_DISK`] out; the disk fetches each block from here when the guest needs it, and the rest
    /// meanwhile. Needed before [`PreparedVm::resume`] where the snapshot has that region, and best right
    /// away, because QEMU starts with it.
    fn set_disk(&mut self, source: Arc<dyn BlockSource>) {
        drop(source);
    }

    /// Lets the VM go on from the snapshot, after the store filled all regions.
    ///
    /// # Errors
    /// If a region is missing or has the wrong size, or QEMU refuses the state.
    fn resume(self: Box<Self>) -> Result<Box<dyn Vm>, StartError>;
}

/// A VM. Dropping it kills it.
pub trait Vm: Send {
    /// Its process.
    fn pid(&self) -> u32;

    /// The forwarded ports, with those filled in that the system picked.
    fn forwards(&self) -> &[PortForward];

    /// What it is doing.
    fn state(&mut self) -> VmState;

    /// How long each step took of the restore that this VM came from; none if it was booted.
    fn resume_timings(&self) -> Option<ResumeTimings> {
        None
    }

    /// Takes a snapshot of one instant: pauses, saves the devices, offers what is asked for of each region
    /// to the sink, and lets the VM go on, whatever the sink did.
    ///
    /// # Errors
    /// If the VM is gone or can't be paused, saved or resumed, or if the sink failed.
    fn snapshot(
        &mut self,
        scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<SnapshotTimings, SnapshotError>;

    /// Tells that the last snapshot is stored: from its instant on, changes are counted for the next. As
    /// long as this is not called, the next [`SnapshotScope::Changes`] has that snapshot's changes too.
    fn committed(&mut self);

    /// The way to run programs inside the guest. It is a handle of its own, so that the VM can be saved
    /// and looked after while a program runs.
    ///
    /// # Errors
    /// If this VM has no such way, or nobody in the guest listens yet.
    fn guest_agent(&mut self) -> Result<Arc<dyn GuestAgent>, GuestError>;

    /// The channel on which the guest asks questions; none if this VM has no channel, or it was taken.
    fn take_channel(&mut self) -> Option<ChannelEnd> {
        None
    }

    /// What the guest was told right after its restore; none if the VM was not restored, while that is
    /// still under way, and once it was taken.
    fn take_wake_report(&mut self) -> Option<WakeReport> {
        None
    }

    /// Ends the VM at once, as if its plug were pulled. After this its process is gone.
    ///
    /// # Errors
    /// If the process can't be ended.
    fn stop(self: Box<Self>) -> Result<(), StopError>;
}

/// How much of a VM a snapshot offers to its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotScope {
    /// All of every region.
    Whole,
    /// What changed since the last snapshot that was [`committed`](Vm::committed), or since the snapshot
    /// that the VM was restored from. A driver that can't tell offers all.
    Changes,
}

/// Takes a snapshot's regions.
pub trait SnapshotSink {
    /// Takes what changed of a region, before returning: the source's bytes are good only until then.
    ///
    /// With `changed`, that is the grid positions ([`CHUNK_BYTES`](sustain_proto::limits::CHUNK_BYTES)) that
    /// these byte ranges touch, and the rest is as in an earlier call for this region or, where there was
    /// none, in the snapshot that this one continues. Without, it is the whole region. A position given
    /// again counts as given last.
    ///
    /// # Errors
    /// Whatever keeps the sink from taking it; the snapshot fails with it.
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Whether the snapshot is wanted no more, because the VM is to end. A driver that waits for long asks this.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// Its version, as it says it.
    pub qemu_version: String,
    /// How instructions will be run: never [`Accel::Auto`].
    pub accel: Accel,
    /// Bytes of memory that the host has left, or that the control group leaves of it that this runs in.
    pub memory_available_bytes: u64,
    /// How writes to guest memory will be found; none where there is none to be looked at.
    pub tracking: Option<TrackingReport>,
    /// Why the VM could only be restored from a snapshot here, and not begun; none if it could be begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_problem: Option<String>,
}

/// How a host finds out what a guest wrote to its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrackingReport {
    /// The kernel notes each write: pauses are short.
    Kernel,
    /// All memory is compared with a copy of it, which takes as much again and makes pauses longer.
    Comparison {
        /// Why the kernel does not note writes.
        reason: String,
        /// What to set so that it does.
        hint: String,
    },
}

/// What a VM is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmState {
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
    /// The guest stands still because its disk can't be read or written now. It goes on by itself: asking
    /// for the state is what tries it again, at growing intervals.
    Stalled,
    /// The process is there, and has not answered for this long: it will not do so any more.
    Hung {
        /// How long.
        silent: Duration,
    },
    /// The process has ended.
    Exited(ExitReport),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last that it and the guest's console said, a few lines.
    pub output_tail: String,
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => write!(f, "signal {signal}")?,
            (None, None) => write!(f, "no exit code")?,
        }
        if self.output_tail.is_empty() { Ok(()) } else { write!(f, "; it said: {}", self.output_tail) }
    }
}

/// How long each step of a snapshot took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct SnapshotTimings {
    /// The guest's standstill, by QEMU's own time stamps of stop and resume.
    pub pause_ms: f64,
    /// Before the pause: finding and handing over what changed, the sink's work included.
    pub before_ms: f64,
    /// Asking for the standstill.
    pub stop_ms: f64,
    /// In the pause: finding and copying what was written last.
    pub memory_ms: f64,
    /// In the pause: saving the devices, at the same time.
    pub device_ms: f64,
    /// In the pause: freezing the disk, at the same time.
    pub freeze_ms: f64,
    /// Letting the guest go on.
    pub resume_ms: f64,
    /// After the pause: handing over the rest, the sink's work included.
    pub after_ms: f64,
}

/// How long each step of [`PreparedVm::resume`] took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ResumeTimings {
    /// Waiting for QEMU, which starts while memory is filled, until it has answered what it is asked first.
    pub start_ms: f64,
    /// Loading the devices.
    pub load_ms: f64,
    /// Letting the guest go on.
    pub resume_ms: f64,
}
