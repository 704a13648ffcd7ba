//! From a service's configuration to what its driver is asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sustain_vmdriver::{CommandDriver, CommandSettings, DiskSpec, PortForward, VmDriver, VmSpec, limits};

use crate::config::ServiceConfig;

/// What runs the service: this driver of VMs, or one of its own for its programs.
#[must_use]
pub fn driver_of(service: &ServiceConfig, vms: &Arc<dyn VmDriver>) -> Arc<dyn VmDriver> {
    let Some(command) = &service.command else { return vms.clone() };
    Arc::new(CommandDriver::new(CommandSettings {
        folder: command.folder.clone(),
        snapshot_timeout: Duration::from_millis(command.snapshot_timeout.as_millis()),
        start_timeout: Duration::from_millis(command.start_timeout.as_millis()),
        alive_interval: limits::COMMAND_ALIVE_INTERVAL,
    }))
}

/// What the service's driver is to run.
#[must_use]
pub fn spec_of(service: &ServiceConfig) -> VmSpec {
    let mut spec = VmSpec::new(service.name.clone(), PathBuf::new());
    spec.kernel = None;
    if let Some(vm) = &service.vm {
        spec.kernel = vm.kernel.clone();
        spec.disk = vm.disk.clone().map(|image| DiskSpec { image });
        spec.memory_bytes = vm.memory.get();
        spec.cpus = vm.cpus;
        spec.initramfs = vm.initramfs.clone();
        spec.accel = vm.accel;
        if let Some(arguments) = &vm.kernel_args {
            spec.kernel_args = arguments.clone();
        }
    }
    // Port 0: a free one, so that any number of nodes fit one machine.
    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let forward = |port: u16| PortForward { host, guest_port: port };
    spec.forwards = service.forwards.iter().map(|entry| forward(entry.guest_port.get())).collect();
    spec
}
