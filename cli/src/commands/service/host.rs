//! What this machine says to a service: whether it can run it, and whether its ports are free.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use sustain_node::config::ServiceConfig;
use sustain_node::{driver_of, spec_of};
use sustain_proto::human::counted;
use sustain_store::error_chain;
use sustain_vmdriver::{Accel, CheckError, CheckReport, QemuDriver, TrackingReport, VmDriver, inspect_image};

use super::kernel::look_at_kernel;

/// The same for all nodes on this machine.
#[derive(Debug, Clone, Default)]
pub(super) struct HostView {
    /// How it can run the service; none if it can't.
    pub(super) report: Option<CheckReport>,
    /// What keeps it from that.
    pub(super) problems: Vec<String>,
    /// What works, and should be known.
    pub(super) warnings: Vec<String>,
}

/// Looks.
pub(super) fn look_at_host(service: &ServiceConfig) -> HostView {
    let mut view = HostView::default();
    let vm = service.vm.as_ref();
    view.problems.extend(vm.and_then(|vm| look_at_kernel(vm.kernel.as_deref()?)));
    let disk = vm.and_then(|vm| inspect_image(vm.disk.as_deref()?).err());
    view.problems.extend(disk.as_ref().map(|error| error_chain(error)));
    let vms: Arc<dyn VmDriver> = Arc::new(QemuDriver::default());
    match driver_of(service, &vms).check(&spec_of(service)) {
        Ok(report) => {
            // What the image lacks was said already.
            view.problems.extend(report.boot_problem.clone().filter(|_| disk.is_none()));
            view.report = Some(report);
        }
        // Said already.
        Err(CheckError::GuestFile { what: "disk", .. }) if disk.is_some() => {}
        Err(error) => view.problems.push(error_chain(&error)),
    }
    let tracking = view.report.as_ref().and_then(|report| report.tracking.clone());
    if let Some(TrackingReport::Comparison { reason, hint }) = tracking {
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        view.warnings.push(format!(
            "writes to the guest's memory are found by comparing it, which takes as much again: {reason}{hint}"
        ));
    }
    let accel = view.report.as_ref().map(|report| report.accel);
    if (vm.map(|vm| vm.accel), accel) == (Some(Accel::Auto), Some(Accel::Tcg)) {
        view.warnings.push(format!("{}: the guest is emulated, many times slower", why_no_kvm()));
    }
    let cores = std::thread::available_parallelism().map_or(u32::MAX, |cores| cores.get() as u32);
    if let Some(vm) = vm.filter(|vm| vm.cpus > cores) {
        let here = counted(cores.into(), "core", "cores");
        view.warnings.push(format!(
            "{} processors for the guest share {here} of this machine: it stutters rather than gains",
            vm.cpus
        ));
    }
    view
}

fn why_no_kvm() -> &'static str {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm").map_err(|error| error.kind()) {
        Ok(_) => {
            "KVM can be opened and yet runs nothing here (a virtual machine without nested virtualisation?)"
        }
        Err(ErrorKind::PermissionDenied) => {
            "/dev/kvm may not be opened by this user (add it to the group kvm: `adduser USER kvm`)"
        }
        Err(_) => {
            "there is no usable /dev/kvm (switched off in the firmware, or module kvm_intel or kvm_amd missing)"
        }
    }
}

/// Whether an address is one of this machine's: only then can a node with it run here.
pub(super) fn is_here(address: IpAddr) -> bool {
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

/// The state of a port that nobody has.
pub(super) const FREE: &str = "free";

/// The state of a port.
pub(super) fn look_at_port(listen: SocketAddr) -> &'static str {
    match TcpListener::bind(listen).map_err(|error| error.kind()) {
        Ok(_) => FREE,
        Err(ErrorKind::AddrInUse) => "in use by another program",
        Err(ErrorKind::AddrNotAvailable) => "the address is not one of this machine's",
        Err(ErrorKind::PermissionDenied) => {
            "this user may not listen there (below 1024: CAP_NET_BIND_SERVICE)"
        }
        Err(_) => "can't be listened on",
    }
}
