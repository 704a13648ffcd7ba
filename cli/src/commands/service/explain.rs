//! What a service would be, take and cost on this node, found out before anything starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sustain_node::config::{Config, DriverKind, ServiceConfig, ServiceType, lacks_secret, load_secrets};
use sustain_proto::ServiceName;
use sustain_proto::human::{Size, counted};
use sustain_vmdriver::{Accel, CheckReport, ImageInfo, inspect_image, limits};

use super::host::{FREE, HostView, is_here, look_at_port};
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
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PortReport {
    listen: SocketAddr,
    guest_port: u16,
    state: &'static str,
}

/// What keeps a service's own secret file from being one.
fn no_secret(service: &ServiceConfig) -> Option<String> {
    let error = load_secrets(service.secret_file.as_deref()?).err()?;
    Some(sustain_store::error_chain(&error))
}

/// Looks at everything. `host` is what this machine says; `served` says that the node's daemon has the service's
/// ports already.
pub(super) fn explain(
    config: &Config,
    service: &ServiceConfig,
    host: &HostView,
    served: bool,
) -> Explanation {
    let mut problems = Vec::new();
    let mut warnings: Vec<String> = service.kind.today().map(str::to_owned).into_iter().collect();
    let vm = service.vm.as_ref();
    let disk = vm.and_then(|vm| inspect_image(vm.disk.as_deref()?).ok());
    let memory_bytes = vm.map(|vm| vm.memory.get().saturating_add(limits::QEMU_OVERHEAD_BYTES));
    let first_snapshot_bytes_max =
        vm.map(|vm| vm.memory.get().saturating_add(disk.as_ref().map_or(0, |disk| disk.allocated_bytes)));
    let (nodes, nodes_needed) = (config.nodes.len(), service.nodes_needed());
    if (nodes as u64) < u64::from(nodes_needed) {
        let losses = counted(service.tolerance.into(), "loss", "losses");
        warnings.push(format!(
            "snapshots that survive {losses} need {nodes_needed} nodes, there are {nodes}: none will be durable"
        ));
    }
    if service.forwards.is_empty() {
        warnings.push("no port leads to the service: no client can reach it".to_owned());
    }
    problems.extend(lacks_secret(config, service).or_else(|| no_secret(service)));
    let here = config.own().is_none_or(|own| is_here(own.address.ip()));
    let mut store_free_bytes = None;
    if here {
        problems.extend(host.problems.iter().cloned());
        warnings.extend(host.warnings.iter().cloned());
        store_free_bytes = free_bytes(&config.store);
        warnings.extend(short_of_space(store_free_bytes, first_snapshot_bytes_max));
    } else {
        warnings.push(format!(
            "{} is another machine's, by its address: what that one can run, `snapctl service check` says there",
            config.name
        ));
    }
    let ports = service.forwards.iter().map(|forward| {
        let state = match (served, here) {
            (true, _) => "served by the running node",
            (false, true) => look_at_port(forward.listen),
            (false, false) => "on another machine",
        };
        if here && !served && state != FREE {
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
        host: host.report.clone().filter(|_| here),
        ports,
        problems,
        warnings,
    }
}

/// A base, its deltas, and the next base while the old one is still there.
fn short_of_space(free: Option<u64>, first: Option<u64>) -> Option<String> {
    let (free, needed) = (free?, first?.saturating_mul(2));
    let (free_words, needed_words) = (Size(free), Size(needed));
    (free < needed)
        .then(|| format!("the store's file system has {free_words} left, where {needed_words} may be needed"))
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
                format!("at most {} to each other node{}", Size(bytes), self.first_snapshot_guess()),
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
        text::table(&rows) + &marked("warning", &self.warnings) + &marked("problem", &self.problems)
    }

    /// What is to be expected of it. Images of Debian with a mail server took a third of their size once compressed;
    /// how much memory the guest will have written by then, nobody knows before.
    fn first_snapshot_guess(&self) -> String {
        let memory = "of the memory only what the guest has written, compressed";
        match &self.disk {
            Some(disk) => {
                format!(
                    "; of the disk about {} (a third of the image), {memory}",
                    Size(disk.allocated_bytes / 3)
                )
            }
            None => format!("; {memory}"),
        }
    }

    /// The ports in one line: where the node listens, and what that leads to.
    pub(super) fn ports_words(&self) -> String {
        let words = |port: &PortReport| format!("{} to {}", port.listen, port.guest_port);
        let ports: Vec<String> = self.ports.iter().map(words).collect();
        if ports.is_empty() { "no port".to_owned() } else { ports.join(", ") }
    }
}

/// Lines with a word before each.
pub(super) fn marked(mark: &str, lines: &[String]) -> String {
    lines.iter().map(|line| format!("{mark}: {line}\n")).collect()
}
