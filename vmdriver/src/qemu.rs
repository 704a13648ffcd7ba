//! The driver for QEMU: looks whether a VM can run here, then launches it.

use std::path::{Path, PathBuf};

use serde_json::json;
use sustain_proto::RegionName;

use crate::command_line::Origin;
use crate::disk::DiskOptions;
use crate::driver::{CheckReport, PreparedVm, REGION_DISK, TrackingReport, Vm, VmDriver};
use crate::error::{CheckError, StartError};
use crate::features::{self, QemuFeatures};
use crate::launch::{Plan, start_failure};
use crate::limits;
use crate::memory_file;
use crate::prepared::PreparedQemu;
use crate::spec::{Accel, VmSpec};
use crate::vm::QemuVm;
use crate::{host, kvm, tracking, vm_disk};

/// Runs VMs by QEMU, 7.2 or newer.
///
/// The first look whether KVM works takes about a second where it does not, and is remembered for
/// as long as the process lives: a node calls [`VmDriver::check`] when it starts, so that a take-over
/// need not wait for it.
#[derive(Debug, Clone, Default)]
pub struct QemuDriver {
    settings: Settings,
    disk: DiskOptions,
}

/// How a driver was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    /// Find writes to guest memory by comparing all of it, even where the kernel would note them.
    pub(crate) compare: bool,
    /// Copy all memory in each pause, so that a test can compare.
    pub(crate) witness: bool,
}

impl QemuDriver {
    /// A driver that makes the best of what the host has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Finds writes to guest memory by comparing all of it, as is done where the kernel can't note them.
    #[must_use]
    pub fn comparing(mut self) -> Self {
        self.settings.compare = true;
        self
    }

    /// Serves the guests' disks like this, instead of by this program with the argument `disk-server`.
    #[must_use]
    pub fn with_disks(mut self, disk: DiskOptions) -> Self {
        self.disk = disk;
        self
    }

    /// For tests: copies all memory in each pause, and offers it after all else, as a region called `witness`.
    #[doc(hidden)]
    #[must_use]
    pub fn with_witness(mut self) -> Self {
        self.settings.witness = true;
        self
    }
}

/// What a start needs to know after its checks.
struct Checked {
    qemu: PathBuf,
    features: QemuFeatures,
    accel: Accel,
    memory_available_bytes: u64,
    tracking: TrackingReport,
}

impl QemuDriver {
    fn look(&self, spec: &VmSpec, boots: bool) -> Result<Checked, CheckError> {
        spec.validate().map_err(|source| CheckError::Spec { service: spec.service.clone(), source })?;
        host::check_guest_files(spec, boots)?;
        let qemu = host::find_qemu(spec)?;
        let features = features::of(&qemu)?;
        let accel = choose_accel(spec, &qemu)?;
        let tracking = self.tracking(&qemu, &features);
        let copy_bytes = match tracking {
            TrackingReport::Kernel => limits::staging_bytes_max(spec.memory_bytes),
            TrackingReport::Comparison { .. } => spec.memory_bytes,
        };
        let memory_available_bytes = host::check_memory(spec, copy_bytes)?;
        Ok(Checked { qemu, features, accel, memory_available_bytes, tracking })
    }

    fn tracking(&self, qemu: &Path, features: &QemuFeatures) -> TrackingReport {
        if self.settings.compare {
            let (reason, hint) = ("this driver was told to".to_owned(), String::new());
            return TrackingReport::Comparison { reason, hint };
        }
        match tracking::probe(qemu, features) {
            None => TrackingReport::Kernel,
            Some((reason, hint)) => TrackingReport::Comparison { reason, hint },
        }
    }
}

fn choose_accel(spec: &VmSpec, qemu: &Path) -> Result<Accel, CheckError> {
    match spec.accel {
        Accel::Tcg => Ok(Accel::Tcg),
        Accel::Auto | Accel::Kvm if kvm::works(qemu, &spec.cpu) => Ok(Accel::Kvm),
        Accel::Auto => Ok(Accel::Tcg),
        Accel::Kvm => Err(CheckError::NoKvm),
    }
}

impl VmDriver for QemuDriver {
    fn check(&self, spec: &VmSpec) -> Result<CheckReport, CheckError> {
        let Checked { qemu, accel, memory_available_bytes, tracking, .. } = self.look(spec, false)?;
        let qemu_version = host::qemu_version(&qemu)?;
        let tracking = Some(tracking);
        let boot_problem = vm_disk::boot_problem(spec);
        Ok(CheckReport { qemu, qemu_version, accel, memory_available_bytes, tracking, boot_problem })
    }

    fn start(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn Vm>, StartError> {
        let Checked { qemu, features, accel, .. } = self.look(spec, true)?;
        let bytes = spec.memory_bytes;
        let memory = memory_file::create_sized("sustain-ram", bytes)
            .map_err(|source| StartError::MemoryFile { what: "guest memory", bytes, source })?;
        let settings = self.settings;
        let run_dir = run_dir.to_owned();
        let plan = Plan { spec: spec.clone(), qemu, features, settings, accel, run_dir };
        let disk = vm_disk::for_boot(spec, &plan.run_dir, &self.disk)?;
        let (mut machine, memory) = plan.join(plan.launch(Origin::Boot, memory, disk)?)?;
        let description = plan.describe(&mut machine)?;
        // Only now is the guest let go: it was started standing, so that a QEMU that does not suit never
        // runs it.
        machine
            .qmp
            .execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)
            .map_err(|source| start_failure(&machine.process, "letting the guest go", source))?;
        let accel = accel.as_str();
        tracing::info!(service = %spec.service, pid = machine.process.pid(), accel, "VM started");
        Ok(Box::new(QemuVm::new(machine, memory, description, settings.witness)))
    }

    fn lazy_regions(&self, spec: &VmSpec) -> Vec<RegionName> {
        let disk = spec.disk.is_some().then(|| RegionName::new(REGION_DISK).ok());
        disk.flatten().into_iter().collect()
    }

    fn prepare(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn PreparedVm>, StartError> {
        let Checked { qemu, features, accel, .. } = self.look(spec, false)?;
        let (spec, run_dir, settings) = (spec.clone(), run_dir.to_owned(), self.settings);
        let plan = Plan { spec, qemu, features, settings, accel, run_dir };
        Ok(Box::new(PreparedQemu::new(plan, self.disk.clone())?))
    }
}
