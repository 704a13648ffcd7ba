//! A VM about to be restored: memory files to fill, then a QEMU that goes on from them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
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
use crate::features::QemuFeatures;
use crate::launch::{Machine, Plan, ending, start_failure};
use crate::limits::{self, DEVICE_HEADER_BYTES_MAX};
use crate::memory_file;
use crate::qemu::Settings;
use crate::spec::{Accel, VmSpec};
use crate::vm::{Lap, QemuVm};
use crate::vm_disk;

/// One region's memory file.
#[derive(Debug)]
struct Slot {
    file: File,
    opened: AtomicBool,
}

impl Slot {
    fn new(what: &'static str) -> Result<Self, StartError> {
        let file =
            memory_file::create(what).map_err(|source| StartError::MemoryFile { what, bytes: 0, source })?;
        Ok(Self { file, opened: AtomicBool::new(false) })
    }

    fn open(&self) -> io::Result<File> {
        let file = self.file.try_clone()?;
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
            return slot.open().map(Some);
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

/// A QEMU that is not started yet.
pub(crate) struct PreparedQemu {
    spec: VmSpec,
    qemu: PathBuf,
    features: QemuFeatures,
    settings: Settings,
    accel: Accel,
    run_dir: PathBuf,
    target: MemoryTarget,
    disk_options: DiskOptions,
    disk_source: Option<Arc<dyn BlockSource>>,
}

impl PreparedQemu {
    pub(crate) fn new(
        spec: VmSpec,
        qemu: PathBuf,
        features: QemuFeatures,
        settings: Settings,
        accel: Accel,
        run_dir: PathBuf,
        disk_options: DiskOptions,
    ) -> Result<Self, StartError> {
        let target = MemoryTarget {
            ram: Slot::new("sustain-ram")?,
            ram_bytes: spec.memory_bytes,
            device: Slot::new("sustain-device")?,
            disk_bytes: AtomicU64::new(0),
            has_disk: spec.disk.is_some(),
        };
        let disk_source = None;
        Ok(Self { spec, qemu, features, settings, accel, run_dir, target, disk_options, disk_source })
    }

    /// Checks that the store filled what the VM needs, to the size that it needs, and that the state is of
    /// a machine like this one. Also returns where QEMU's own bytes begin.
    fn check_regions(&self, plan: &Plan<'_>) -> Result<(MachineDescription, u64), StartError> {
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
        saved.check_spec(&plan.description(String::new())).map_err(incompatible)?;
        Ok((saved, start))
    }
}

fn incompatible(mismatch: Mismatch) -> StartError {
    let Mismatch { what, saved, here } = mismatch;
    StartError::Incompatible { what, saved, here }
}

impl PreparedQemu {
    /// Who has the disk's blocks, if the VM has a disk.
    fn check_disk(&self) -> Result<Option<Arc<dyn BlockSource>>, StartError> {
        if self.spec.disk.is_none() {
            return Ok(None);
        }
        let missing = || StartError::RegionMissing { name: REGION_DISK };
        let source = self.disk_source.clone().ok_or_else(missing)?;
        let (found_bytes, expected_bytes) = (self.target.disk_bytes.load(Ordering::SeqCst), source.bytes());
        if found_bytes == 0 {
            return Err(missing());
        }
        if found_bytes != expected_bytes {
            return Err(StartError::RegionSize { name: REGION_DISK, expected_bytes, found_bytes });
        }
        Ok(Some(source))
    }
}

impl fmt::Debug for PreparedQemu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedQemu").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl PreparedVm for PreparedQemu {
    fn target(&self) -> &dyn RestoreTarget {
        &self.target
    }

    fn set_disk(&mut self, source: Arc<dyn BlockSource>) {
        self.disk_source = Some(source);
    }

    fn resume(self: Box<Self>) -> Result<Box<dyn Vm>, StartError> {
        let plan = Plan {
            spec: &self.spec,
            qemu: &self.qemu,
            features: &self.features,
            settings: self.settings,
            accel: self.accel,
            run_dir: &self.run_dir,
        };
        let blocks = self.check_disk()?;
        let (saved, start) = self.check_regions(&plan)?;
        let memory = self.target.ram.file.try_clone();
        let memory = memory.map_err(|source| StartError::Spawn { source })?;
        let mut clock = Lap::start();
        let disk = blocks.map(|source| vm_disk::for_restore(source, &self.run_dir, &self.disk_options));
        let disk = disk.transpose()?;
        let (mut machine, memory) = plan.launch(Origin::Incoming, memory, disk)?;
        let here = plan.describe(&mut machine)?;
        saved.check_features(&here.features).map_err(incompatible)?;
        let service = &self.spec.service;
        if saved.qemu != here.qemu {
            let (saved, here) = (&saved.qemu, &here.qemu);
            tracing::warn!(%service, saved, here, "the snapshot is of another version of QEMU");
        }
        let start_ms = clock.lap_ms();
        device_state::load(&mut machine.qmp, &self.target.device.file, start)
            .map_err(|failure| load_failure(&machine, failure))?;
        let load_ms = clock.lap_ms();
        machine
            .qmp
            .execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)
            .map_err(|source| start_failure(&machine.process, "resuming the restored guest", source))?;
        let timings = ResumeTimings { start_ms, load_ms, resume_ms: clock.lap_ms() };
        machine.guest.restored(&mut machine.qmp);
        let accel = self.accel.as_str();
        tracing::info!(%service, pid = machine.process.pid(), accel, "VM restored");
        Ok(Box::new(QemuVm::new(machine, memory, here, self.settings.witness).restored(timings)))
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
