//! The driver for QEMU: looks whether a VM can run here, then launches it.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::command_line::Origin;
use crate::driver::{CheckReport, PreparedVm, Vm, VmDriver};
use crate::error::{CheckError, StartError};
use crate::launch::{Plan, start_failure};
use crate::limits;
use crate::memory_file;
use crate::prepared::PreparedQemu;
use crate::spec::{Accel, VmSpec};
use crate::vm::QemuVm;
use crate::{host, kvm};

/// Runs VMs by QEMU, 7.2 or newer.
///
/// The first look whether KVM works takes about a second where it does not, and is remembered for
/// as long as the process lives: a node calls [`VmDriver::check`] when it starts, so that a take-over
/// need not wait for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct QemuDriver {}

impl QemuDriver {
    /// A driver; it has no settings of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

/// What a start needs to know after its checks.
struct Checked {
    qemu: PathBuf,
    accel: Accel,
    memory_available_bytes: u64,
}

fn check(spec: &VmSpec) -> Result<Checked, CheckError> {
    spec.validate().map_err(|source| CheckError::Spec { service: spec.service.clone(), source })?;
    host::check_guest_files(spec)?;
    let qemu = host::find_qemu(spec)?;
    let accel = choose_accel(spec, &qemu)?;
    let memory_available_bytes = host::check_memory(spec)?;
    Ok(Checked { qemu, accel, memory_available_bytes })
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
        let Checked { qemu, accel, memory_available_bytes } = check(spec)?;
        let qemu_version = host::qemu_version(&qemu)?;
        Ok(CheckReport { qemu, qemu_version, accel, memory_available_bytes })
    }

    fn start(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn Vm>, StartError> {
        let checked = check(spec)?;
        let bytes = spec.memory_bytes;
        let memory = memory_file::create_sized("sustain-ram", bytes)
            .map_err(|source| StartError::MemoryFile { what: "guest memory", bytes, source })?;
        let plan = Plan { spec, qemu: &checked.qemu, accel: checked.accel, run_dir };
        let mut machine = plan.launch(Origin::Boot, memory)?;
        // Only now is the guest let go: it was started standing, so that a QEMU that does not suit never
        // runs it.
        machine
            .qmp
            .execute("cont", json!({}), limits::QMP_COMMAND_TIMEOUT)
            .map_err(|source| start_failure(&machine.process, "letting the guest go", source))?;
        let accel = checked.accel.as_str();
        tracing::info!(service = %spec.service, pid = machine.process.pid(), accel, "VM started");
        Ok(Box::new(QemuVm::new(machine)))
    }

    fn prepare(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn PreparedVm>, StartError> {
        let checked = check(spec)?;
        let prepared = PreparedQemu::new(spec.clone(), checked.qemu, checked.accel, run_dir.to_owned())?;
        Ok(Box::new(prepared))
    }
}
