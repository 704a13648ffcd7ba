//! A VM about to be restored: memory files to fill, while the QEMU starts that goes on from them.
//!
//! ```text
//! prepare ── set_disk (with a disk) ── the store fills memory ─────── resume: check · load · go on
//!        └──────────┴─ QEMU starts, maps the memory and waits ────────┘
//! ```
//! The kernel notes QEMU's writes from the moment it maps the memory. What the store writes meanwhile goes to the
//! file and not through that mapping, so it does not count as written by the guest. The file must not shrink under
//! QEMU's feet, so it has its size from the first.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use sustain_proto::Region;
use sustain_store::RestoreTarget;

use crate::command_line::Origin;
use crate::device_header::{MachineDescription, Mismatch};
use crate::device_state::{self, LoadFailure};
use crate::disk::{BlockSource, DiskOptions};
use crate::driver::{PreparedVm, REGION_DEVICE, REGION_DISK, REGION_RAM, ResumeTimings, Vm};
use crate::error::StartError;
use crate::launch::{Launched, Machine, Plan, ending, start_failure};
use crate::limits::{self, DEVICE_HEADER_BYTES_MAX};
use crate::memory_file;
use crate::vm::{Lap, QemuVm};
use crate::vm_disk;

/// One region's memory file.
#[derive(Debug)]
struct Slot {
    file: File,
    /// Whether it was ever opened.
    used: AtomicBool,
    /// Whether it was, and the restore not given up.
    opened: AtomicBool,
}

impl Slot {
    fn new(what: &'static str, bytes: u64) -> Result<Self, StartError> {
        let file = memory_file::create_sized(what, bytes).map_err(|source| StartError::MemoryFile {
            what,
            bytes,
            source,
        })?;
        Ok(Self { file, used: AtomicBool::new(false), opened: AtomicBool::new(false) })
    }

    /// Once: what an earlier restore left must not show through the holes of the next.
    fn open(&self, name: &str) -> io::Result<File> {
        let file = self.file.try_clone()?;
        if self.used.swap(true, Ordering::SeqCst) {
            let message = format!("the VM's region {name} was filled before: prepare another VM");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        self.opened.store(true, Ordering::SeqCst);
        Ok(file)
    }

    /// The size to which it was filled.
    fn filled_bytes(&self, name: &'static str) -> Result<u64, StartError> {
        if !self.opened.load(Ordering::SeqCst) {
            return Err(StartError::RegionMissing { name });
        }
        let metadata = self.file.metadata();
        let read = metadata.map_err(|source| StartError::MemoryFile { what: name, bytes: 0, source })?;
        Ok(read.len())
    }
}

/// The regions of a VM as files to restore into.
#[derive(Debug)]
struct MemoryTarget {
    ram: Slot,
    ram_bytes: u64,
    device: Slot,
    /// Bytes of the disk that the snapshot has and that is left out here.
    disk_bytes: AtomicU64,
    has_disk: bool,
}

impl RestoreTarget for MemoryTarget {
    fn is_blank(&self, region: &Region) -> bool {
        region.name.as_str() == REGION_RAM
    }

    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        // Refused before anything is written: a snapshot of another VM may not fill this host's memory.
        let (slot, fits) = match region.name.as_str() {
            REGION_RAM => (&self.ram, region.bytes == self.ram_bytes),
            REGION_DEVICE => (&self.device, region.bytes <= limits::DEVICE_BYTES_MAX),
            REGION_DISK if self.has_disk => {
                self.disk_bytes.store(region.bytes, Ordering::SeqCst);
                return Ok(None);
            }
            name => {
                let message = format!("the VM as described has no region {name}");
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
        };
        if fits {
            return slot.open(region.name.as_str()).map(Some);
        }
        let (name, found) = (&region.name, region.bytes);
        let expected = match region.name.as_str() {
            REGION_RAM => format!("has {}", self.ram_bytes),
            _ => format!("takes at most {}", limits::DEVICE_BYTES_MAX),
        };
        let message =
            format!("the snapshot's region {name} has {found} bytes, the VM as described {expected}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    fn abandon(&self) {
        for slot in [&self.ram, &self.device] {
            slot.opened.store(false, Ordering::SeqCst);
        }
    }
}

/// A QEMU that starts while its memory is filled.
pub(crate) struct PreparedQemu {
    plan: Plan,
    /// None before its disk is known, without which QEMU does not start.
    launched: Option<Result<Launched, StartError>>,
    target: MemoryTarget,
    disk_options: DiskOptions,
    /// Size of the disk that was handed over.
    disk_bytes: u64,
}

impl PreparedQemu {
    pub(crate) fn new(plan: Plan, disk_options: DiskOptions) -> Result<Self, StartError> {
        let has_disk = plan.spec.disk.is_some();
        let target = MemoryTarget {
            ram: Slot::new("sustain-ram", plan.spec.memory_bytes)?,
            ram_bytes: plan.spec.memory_bytes,
            device: Slot::new("sustain-device", 0)?,
            disk_bytes: AtomicU64::new(0),
            has_disk,
        };
        let mut prepared = Self { plan, launched: None, target, disk_options, disk_bytes: 0 };
        if !has_disk {
            prepared.launched = Some(Ok(prepared.launch(None)?));
        }
        Ok(prepared)
    }

    fn launch(&self, disk: Option<Arc<dyn BlockSource>>) -> Result<Launched, StartError> {
        let disk = disk.map(|source| vm_disk::for_restore(source, &self.plan.run_dir, &self.disk_options));
        let memory = self.target.ram.file.try_clone().map_err(|source| StartError::Spawn { source })?;
        self.plan.launch(Origin::Incoming, memory, disk.transpose()?)
    }

    /// Checks that the store filled what the VM needs, to the size that it needs, and that the state is of
    /// a machine like this one. Also returns where QEMU's own bytes begin.
    fn check_regions(&self) -> Result<(MachineDescription, u64), StartError> {
        let found_bytes = self.target.ram.filled_bytes(REGION_RAM)?;
        if found_bytes != self.target.ram_bytes {
            let expected_bytes = self.target.ram_bytes;
            return Err(StartError::RegionSize { name: REGION_RAM, expected_bytes, found_bytes });
        }
        let device_bytes = self.target.device.filled_bytes(REGION_DEVICE)?;
        let head_bytes = usize::try_from(device_bytes).unwrap_or(usize::MAX).min(DEVICE_HEADER_BYTES_MAX);
        let mut head = vec![0; head_bytes];
        let read = self.target.device.file.read_exact_at(&mut head, 0);
        read.map_err(|source| StartError::MemoryFile { what: REGION_DEVICE, bytes: device_bytes, source })?;
        let (saved, start) = MachineDescription::from_header(&head)
            .map_err(|error| StartError::DeviceHeader { reason: error.to_string() })?;
        // The version and the features are known when QEMU answers.
        saved.check_spec(&self.plan.description(String::new())).map_err(incompatible)?;
        Ok((saved, start))
    }
}

fn incompatible(mismatch: Mismatch) -> StartError {
    let Mismatch { what, saved, here } = mismatch;
    StartError::Incompatible { what, saved, here }
}

impl PreparedQemu {
    /// Checks that the disk's blocks and the snapshot belong together, if the VM has a disk.
    fn check_disk(&self) -> Result<(), StartError> {
        if self.plan.spec.disk.is_none() {
            return Ok(());
        }
        let (found_bytes, expected_bytes) = (self.target.disk_bytes.load(Ordering::SeqCst), self.disk_bytes);
        if found_bytes == 0 || expected_bytes == 0 {
            return Err(StartError::RegionMissing { name: REGION_DISK });
        }
        if found_bytes != expected_bytes {
            return Err(StartError::RegionSize { name: REGION_DISK, expected_bytes, found_bytes });
        }
        Ok(())
    }
}

impl fmt::Debug for PreparedQemu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedQemu").field("spec", &self.plan.spec).finish_non_exhaustive()
    }
}

impl PreparedVm for PreparedQemu {
    fn target(&self) -> &dyn RestoreTarget {
        &self.target
    }

    fn set_disk(&mut self, source: Arc<dyn BlockSource>) {
        if self.plan.spec.disk.is_some() {
            self.disk_bytes = source.bytes();
            // Another QEMU that was given another disk ends first: it has the folder.
            self.launched = None;
            self.launched = Some(self.launch(Some(source)));
        }
    }

    fn resume(self: Box<Self>) -> Result<Box<dyn Vm>, StartError> {
        self.check_disk()?;
        let (saved, start) = self.check_regions()?;
        let Self { plan, launched, target, .. } = *self;
        let mut clock = Lap::start();
        let launched = launched.unwrap_or(Err(StartError::RegionMissing { name: REGION_DISK }))?;
        let (mut machine, memory) = plan.join(launched)?;
        let here = plan.describe(&mut machine)?;
        saved.check_features(&here.features).map_err(incompatible)?;
        let service = &plan.spec.service;
        if saved.qemu != here.qemu {
            let (saved, here) = (&saved.qemu, &here.qemu);
            tracing::warn!(%service, saved, here, "the snapshot is of another version of QEMU");
        }
        let start_ms = clock.lap_ms();
        device_state::load(&mut machine.qmp, &target.device.file, start)
            .map_err(|failure| load_failure(&machine, failure))?;
        let load_ms = clock.lap_ms();
        machine
            .qmp
            .execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)
            .map_err(|source| start_failure(&machine.process, "resuming the restored guest", source))?;
        let timings = ResumeTimings { start_ms, load_ms, resume_ms: clock.lap_ms() };
        machine.guest.restored(&mut machine.qmp);
        if let Some(disk) = &machine.disk {
            disk.prefetch();
        }
        let accel = plan.accel.as_str();
        tracing::info!(%service, pid = machine.process.pid(), accel, "VM restored");
        Ok(Box::new(QemuVm::new(machine, memory, here, plan.settings.witness).restored(timings)))
    }
}

/// A QEMU that can't read a state ends itself, with the reason among its last words.
fn load_failure(machine: &Machine, failure: LoadFailure) -> StartError {
    match failure {
        LoadFailure::Refused(reason) => {
            StartError::Load { reason: format!("{reason}; it said: {}", machine.process.tail()) }
        }
        LoadFailure::Qmp(source) => match ending(&machine.process, &source) {
            Some(report) if report.signal.is_none() => StartError::Load { reason: report.to_string() },
            Some(report) => StartError::Exited { doing: "loading the device state", report },
            None => StartError::Qmp { doing: "loading the device state", source },
        },
    }
}
