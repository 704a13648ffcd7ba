//! A VM about to be restored: memory files to fill, then a QEMU that goes on from them.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sustain_proto::Region;
use sustain_store::RestoreTarget;

use crate::command_line::Origin;
use crate::device_state::{self, LoadFailure};
use crate::driver::{PreparedVm, REGION_DEVICE, REGION_RAM, ResumeTimings, Vm};
use crate::error::StartError;
use crate::launch::{Machine, Plan, ending, start_failure};
use crate::limits;
use crate::memory_file;
use crate::spec::{Accel, VmSpec};
use crate::vm::{Lap, QemuVm};

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
}

impl RestoreTarget for MemoryTarget {
    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        // Refused before anything is written: a snapshot of another VM may not fill this host's memory.
        let (slot, fits) = match region.name.as_str() {
            REGION_RAM => (&self.ram, region.bytes == self.ram_bytes),
            REGION_DEVICE => (&self.device, region.bytes <= limits::DEVICE_BYTES_MAX),
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
#[derive(Debug)]
pub(crate) struct PreparedQemu {
    spec: VmSpec,
    qemu: PathBuf,
    accel: Accel,
    run_dir: PathBuf,
    target: MemoryTarget,
}

impl PreparedQemu {
    pub(crate) fn new(
        spec: VmSpec,
        qemu: PathBuf,
        accel: Accel,
        run_dir: PathBuf,
    ) -> Result<Self, StartError> {
        let target = MemoryTarget {
            ram: Slot::new("sustain-ram")?,
            ram_bytes: spec.memory_bytes,
            device: Slot::new("sustain-device")?,
        };
        Ok(Self { spec, qemu, accel, run_dir, target })
    }

    /// Checks that the store filled what the VM needs, to the size that it needs.
    fn check_regions(&self) -> Result<(), StartError> {
        let found_bytes = self.target.ram.filled_bytes(REGION_RAM)?;
        if found_bytes != self.target.ram_bytes {
            let expected_bytes = self.target.ram_bytes;
            return Err(StartError::RegionSize { name: REGION_RAM, expected_bytes, found_bytes });
        }
        if self.target.device.filled_bytes(REGION_DEVICE)? == 0 {
            return Err(StartError::Load { reason: "it is empty".to_owned() });
        }
        Ok(())
    }
}

impl PreparedVm for PreparedQemu {
    fn target(&self) -> &dyn RestoreTarget {
        &self.target
    }

    fn resume(self: Box<Self>) -> Result<Box<dyn Vm>, StartError> {
        self.check_regions()?;
        let plan = Plan { spec: &self.spec, qemu: &self.qemu, accel: self.accel, run_dir: &self.run_dir };
        let mut clock = Lap::start();
        let mut machine = plan.launch(Origin::Incoming, self.target.ram.file)?;
        let start_ms = clock.lap_ms();
        device_state::load(&mut machine.qmp, &self.target.device.file)
            .map_err(|failure| load_failure(&machine, failure))?;
        let load_ms = clock.lap_ms();
        machine
            .qmp
            .execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)
            .map_err(|source| start_failure(&machine.process, "resuming the restored guest", source))?;
        let timings = ResumeTimings { start_ms, load_ms, resume_ms: clock.lap_ms() };
        let accel = self.accel.as_str();
        tracing::info!(service = %self.spec.service, pid = machine.process.pid(), accel, "VM restored");
        Ok(Box::new(QemuVm::restored(machine, timings)))
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
