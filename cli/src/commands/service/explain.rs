//! What a service would be, take and cost on this node, found out before anything starts.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sustain_node::config::{Config, DriverKind, ServiceConfig, ServiceType};
use sustain_node::{driver_of, spec_of};
use sustain_proto::ServiceName;
use sustain_store::error_chain;
use sustain_vmdriver::{
    Accel, CheckReport, ImageInfo, QemuDriver, TrackingReport, VmDriver, inspect_image, limits,
};

use crate::text;

/// All of it, for people and as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    service: ServiceName,
    node: String,
    driver: DriverKind,
    #[serde(rename = "type")]
    kind: ServiceType,
    type_words: &'static str,
    interval_ms: u64,
    tolerance: u32,
    nodes: usize,
    nodes_needed: u32,
    first_server: String,
    /// What its server takes of memory; none where that is its programs' affair.
    memory_bytes: Option<u64>,
    disk: Option<ImageInfo>,
    /// Most that the first snapshot can have to send to each other node.
    first_snapshot_bytes_max: Option<u64>,
    store_free_bytes: Option<u64>,
    /// Whether and how this node can run it.
    host: Option<CheckReport>,
    ports: Vec<PortReport>,
    /// What keeps the service from running on this node.
    pub(super) problems: Vec<String>,
    /// What works, and should be known.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PortReport {
    listen: SocketAddr,
    guest_port: u16,
    state: &'static str,
}

/// Looks at everything. `served` says that this node's daemon has the service's ports already.
pub(super) fn explain(config: &Config, service: &ServiceConfig, served: bool) -> Explanation {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let vm = service.vm.as_ref();
    let image = vm.and_then(|vm| vm.disk.as_deref());
    let disk =
        image.and_then(|path| inspect_image(path).map_err(|error| problems.push(error_chain(&error))).ok());
    let host = look_at_host(service, &mut problems, &mut warnings);
    let memory_bytes = vm.map(|vm| vm.memory.get().saturating_add(limits::QEMU_OVERHEAD_BYTES));
    let first_snapshot_bytes_max =
        vm.map(|vm| vm.memory.get().saturating_add(disk.as_ref().map_or(0, |disk| disk.allocated_bytes)));
    let store_free_bytes = free_bytes(&config.store);
    if let (Some(free), Some(first)) = (store_free_bytes, first_snapshot_bytes_max) {
        // A base, its deltas, and the next base while the old one is still there.
        if free < first.saturating_mul(2) {
            let (free, needed) = (text::bytes(free), text::bytes(first.saturating_mul(2)));
            warnings.push(format!("the store's file system has {free} left, where {needed} may be needed"));
        }
    }
    let (nodes, nodes_needed) = (config.nodes.len(), service.nodes_needed());
    if (nodes as u64) < u64::from(nodes_needed) {
        let tolerance = service.tolerance;
        warnings.push(format!(
            "snapshots that survive {tolerance} losses need {nodes_needed} nodes, there are {nodes}: \
             none will be durable"
        ));
    }
    if service.forwards.is_empty() {
        warnings.push("no port leads to the service: no client can reach it".to_owned());
    }
    let ports = service.forwards.iter().map(|forward| {
        let state = if served { "served by the running node" } else { look_at_port(forward.listen) };
        if !served && state != FREE {
            problems.push(format!("port {}: {state}", forward.listen));
        }
        PortReport { listen: forward.listen, guest_port: forward.guest_port.get(), state }
    });
    let ports = ports.collect();
    Explanation {
        service: service.name.clone(),
        node: config.name.clone(),
        driver: service.driver,
        kind: service.kind,
        type_words: service.kind.words(),
        interval_ms: service.interval.as_millis(),
        tolerance: service.tolerance,
        nodes,
        nodes_needed,
        first_server: service.first_server.clone(),
        memory_bytes,
        disk,
        first_snapshot_bytes_max,
        store_free_bytes,
        host,
        ports,
        problems,
        warnings,
    }
}

fn look_at_host(
    service: &ServiceConfig,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Option<CheckReport> {
    let vms: Arc<dyn VmDriver> = Arc::new(QemuDriver::default());
    let report = match driver_of(service, &vms).check(&spec_of(service)) {
        Ok(report) => report,
        Err(error) => {
            problems.push(error_chain(&error));
            return None;
        }
    };
    if let Some(problem) = report.boot_problem.as_ref().filter(|problem| !problems.contains(problem)) {
        problems.push(problem.clone());
    }
    if let Some(TrackingReport::Comparison { reason, hint }) = &report.tracking {
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        warnings.push(format!(
            "writes to the guest's memory are found by comparing it, which takes as much again: {reason}{hint}"
        ));
    }
    let wanted = service.vm.as_ref().map(|vm| vm.accel);
    if (wanted, report.accel) == (Some(Accel::Auto), Accel::Tcg) {
        warnings.push(format!("{}: the guest is emulated, many times slower", why_no_kvm()));
    }
    Some(report)
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

const FREE: &str = "free";

fn look_at_port(listen: SocketAddr) -> &'static str {
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

/// Bytes that are free where this folder is or will be.
fn free_bytes(folder: &Path) -> Option<u64> {
    let there: PathBuf = folder.ancestors().find(|folder| folder.exists())?.to_owned();
    let found = rustix::fs::statvfs(&there).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

impl Explanation {
    /// For people.
    pub(super) fn words(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |what: &str, text: String| rows.push(vec![what.to_owned(), text]);
        row(
            "service",
            format!("{}, driver {}, as seen from node {}", self.service, self.driver.as_str(), self.node),
        );
        row("type", format!("{}: {}", self.kind, self.type_words));
        let interval = text::seconds(self.interval_ms as f64 / 1e3);
        row("loses", format!("at most about {interval} of its work, and what was not durable yet"));
        row(
            "survives",
            format!(
                "its server and {} more; {} nodes needed, {} there",
                self.tolerance, self.nodes_needed, self.nodes
            ),
        );
        row("begins on", self.first_server.clone());
        if let Some(bytes) = self.memory_bytes {
            row("memory", format!("{} on the node that serves, QEMU's own included", text::bytes(bytes)));
        }
        if let Some(disk) = &self.disk {
            let (size, taken) = (text::bytes(disk.virtual_bytes), text::bytes(disk.allocated_bytes));
            row("disk", format!("{} for the guest, {taken} in the {} image", size, disk.format.as_str()));
        }
        if let Some(bytes) = self.first_snapshot_bytes_max {
            row(
                "first snapshot",
                format!("at most {} to each other node, usually a third of it", text::bytes(bytes)),
            );
        }
        row(
            "later ones",
            "what changes in an interval: unknown until it is measured (`snapctl log`)".to_owned(),
        );
        if let Some(bytes) = self.store_free_bytes {
            row("store", format!("{} free", text::bytes(bytes)));
        }
        if let Some(host) = &self.host {
            let accel = if host.accel == Accel::Auto {
                String::new()
            } else {
                format!(", by {}", host.accel.as_str())
            };
            let memory = text::bytes(host.memory_available_bytes);
            let can = if host.boot_problem.is_none() { "run it" } else { "restore it, not begin it" };
            row("this node", format!("can {can}: {}{accel}; {memory} of memory left", host.qemu_version));
        }
        for port in &self.ports {
            row("port", format!("{} to {} in the guest: {}", port.listen, port.guest_port, port.state));
        }
        let marked = |mark: &str, lines: &[String]| -> String {
            lines.iter().map(|line| format!("{mark}: {line}\n")).collect()
        };
        text::table(&rows) + &marked("warning", &self.warnings) + &marked("problem", &self.problems)
    }
}
