//! From a service's configuration to what its driver is asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use sustain_vmdriver::{PortForward, VmSpec};

use crate::config::ServiceConfig;

/// What the service's driver is to run.
#[must_use]
pub fn spec_of(service: &ServiceConfig) -> VmSpec {
    let mut spec = VmSpec::new(service.name.clone(), PathBuf::new());
    if let Some(vm) = &service.vm {
        spec.kernel = vm.kernel.clone().unwrap_or_default();
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
