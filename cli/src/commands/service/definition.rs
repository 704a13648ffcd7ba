//! The options that define a service, and what becomes of them in each node's configuration.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use sustain_node::config::{
    Bytes, CommandConfig, Config, DriverKind, Duration, ForwardConfig, ServiceConfig, ServiceType, VmConfig,
};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_vmdriver::Accel;

use crate::sizes;

/// What a service is.
#[derive(Debug, Clone, Args)]
pub(crate) struct DefinitionArgs {
    /// Disk image that the virtual machine begins with, raw or qcow2; it is never written to
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,

    /// Kernel to boot; without one the machine boots from its disk
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initial file system for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initramfs: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    kernel_args: Option<String>,

    /// Folder of programs that run the service instead of a virtual machine (docs/command-driver.md)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["disk", "kernel"])]
    command_dir: Option<PathBuf>,

    /// Memory of the virtual machine, such as 512M, 2GiB or 1T
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = memory)]
    memory: Bytes,

    /// Processors of the virtual machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// TCP port for clients: PORT, or HOST:GUEST where they differ, or ADDRESS:HOST:GUEST (can be repeated);
    /// without an address the node's own. Nodes that share an address take HOST, HOST + 1 and so on, in the order
    /// of `nodes` in their configurations
    #[arg(long = "forward", value_name = "[HOST:]GUEST")]
    forwards: Vec<ForwardArg>,

    /// Time between two snapshots: what a failure may cost
    #[arg(long, default_value = "1s")]
    interval: Duration,

    /// Losses of nodes that a durable snapshot survives, the server not counted
    #[arg(long, value_name = "N", default_value_t = 1)]
    tolerance: u32,

    /// What the service may be put through while the cluster is cut in two: 0, 1, 2, 3, or `cannot`; `check` says
    /// what of it is built
    #[arg(long = "type", value_name = "TYPE", default_value = "1")]
    kind: ServiceType,

    /// kvm, tcg (emulation), or auto: KVM where it works
    #[arg(long, default_value = "auto", value_parser = accel)]
    accel: Accel,

    /// File with a secret of the service's own, mode 0600, if its key is not to follow from the cluster's: a node
    /// without it keeps the service's snapshots and can't read them. `snapctl key change` and `key export` make such
    /// files
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// Node that starts the service for the very first time [default: the node of the first configuration]
    #[arg(long, value_name = "NODE")]
    first_server: Option<String>,
}

/// A port as it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ForwardArg {
    address: Option<IpAddr>,
    host: NonZeroU16,
    guest: NonZeroU16,
}

impl FromStr for ForwardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse::<NonZeroU16>().ok();
        let wrong =
            || "a forward is PORT, HOST:GUEST or ADDRESS:HOST:GUEST, with ports from 1 to 65535".to_owned();
        let Some((front, guest)) = text.rsplit_once(':') else {
            let port = port(text).ok_or_else(wrong)?;
            return Ok(Self { address: None, host: port, guest: port });
        };
        let guest = port(guest).ok_or_else(wrong)?;
        if let Some(host) = port(front) {
            return Ok(Self { address: None, host, guest });
        }
        let listen: SocketAddr = front.parse().map_err(|_| wrong())?;
        let host = NonZeroU16::new(listen.port()).ok_or_else(wrong)?;
        Ok(Self { address: Some(listen.ip()), host, guest })
    }
}

/// Sizes as QEMU's users write them too: 512M is 512MiB.
fn memory(text: &str) -> Result<Bytes, String> {
    sizes::with_unit(text).parse().map_err(|error: sustain_node::config::UnitError| error.to_string())
}

fn accel(text: &str) -> Result<Accel, String> {
    let known = [Accel::Auto, Accel::Kvm, Accel::Tcg].into_iter().find(|accel| accel.as_str() == text);
    known.ok_or_else(|| "there are kvm, tcg and auto".to_owned())
}

impl DefinitionArgs {
    /// Whether anything was named that could run.
    pub(super) fn is_given(&self) -> bool {
        self.disk.is_some() || self.kernel.is_some() || self.command_dir.is_some()
    }

    /// The service in each of these nodes' configurations.
    pub(super) fn services(
        &self,
        name: &ServiceName,
        configs: &[(PathBuf, Config)],
    ) -> Result<Vec<ServiceConfig>, Failure> {
        if !self.is_given() {
            return Err(Failure::new(2, "nothing to run").with_hint(
                "name a disk image with --disk, a kernel with --kernel, or your own programs with --command-dir",
            ));
        }
        let first = configs.first().map(|(_, config)| config.name.clone());
        let first_server = self.first_server.clone().or(first).unwrap_or_default();
        let mut services = Vec::new();
        for (path, config) in configs {
            let own = config
                .own()
                .ok_or_else(|| Failure::new(1, format!("{} names no own node", path.display())))?;
            let address = own.address.ip();
            // As `init` does it: nodes that share an address take ports one after the other, whichever of their
            // configurations are at hand and in whatever order.
            let others = config.nodes.iter().take_while(|node| node.name != own.name);
            let before = others.filter(|node| node.address.ip() == address).count();
            let forwards = self.forwards.iter().map(|forward| forward.at(address, before));
            services.push(self.service(name, first_server.clone(), forwards.collect::<Result<_, _>>()?)?);
        }
        Ok(services)
    }

    fn service(
        &self,
        name: &ServiceName,
        first_server: String,
        forwards: Vec<ForwardConfig>,
    ) -> Result<ServiceConfig, Failure> {
        let command = self.command_dir.as_deref().map(absolute).transpose()?.map(|folder| CommandConfig {
            folder,
            snapshot_timeout: CommandConfig::default_snapshot_timeout(),
            start_timeout: CommandConfig::default_start_timeout(),
        });
        let vm = match command {
            Some(_) => None,
            None => Some(VmConfig {
                memory: self.memory,
                cpus: self.cpus,
                kernel: self.kernel.as_deref().map(absolute).transpose()?,
                initramfs: self.initramfs.as_deref().map(absolute).transpose()?,
                kernel_args: self.kernel_args.clone(),
                disk: self.disk.as_deref().map(absolute).transpose()?,
                accel: self.accel,
            }),
        };
        Ok(ServiceConfig {
            name: name.clone(),
            first_server,
            kind: self.kind,
            secret_file: self.secret_file.as_deref().map(absolute).transpose()?,
            interval: self.interval,
            tolerance: self.tolerance,
            rebase_after: ServiceConfig::default_rebase_after(),
            rebase_delta_percent: ServiceConfig::default_rebase_delta_percent(),
            rebase_dead_percent: ServiceConfig::default_rebase_dead_percent(),
            keep_last: 0,
            keep_hourly: 0,
            keep_daily: 0,
            driver: if command.is_some() { DriverKind::Command } else { DriverKind::Qemu },
            forwards,
            vm,
            command,
        })
    }
}

impl ForwardArg {
    fn at(&self, own: IpAddr, before: usize) -> Result<ForwardConfig, Failure> {
        let step = u16::try_from(before).ok().and_then(|before| self.host.checked_add(before));
        let port = step.ok_or_else(|| Failure::new(2, "there are not enough ports for so many nodes"))?;
        let listen = SocketAddr::new(self.address.unwrap_or(own), port.get());
        Ok(ForwardConfig { listen, guest_port: self.guest })
    }
}

/// The path from the root, without `..`: what is written into a configuration is read by people.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let whole =
        std::path::absolute(path).map_err(|error| Failure::new(2, format!("{}: {error}", path.display())))?;
    let mut plain = PathBuf::new();
    for part in whole.components() {
        if part == Component::ParentDir {
            // Of a link's target, not of the link; a folder that is not there is no link.
            plain = plain.canonicalize().unwrap_or(plain);
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_in_all_their_forms() {
        let read = |text: &str| {
            let forward: ForwardArg = text.parse().ok()?;
            Some((
                forward.address.map(|address| address.to_string()),
                forward.host.get(),
                forward.guest.get(),
            ))
        };
        assert_eq!(read("25"), Some((None, 25, 25)));
        assert_eq!(read("2525:25"), Some((None, 2525, 25)));
        assert_eq!(read("192.0.2.1:2525:25"), Some((Some("192.0.2.1".to_owned()), 2525, 25)));
        assert_eq!(read("[2001:db8::1]:2525:25"), Some((Some("2001:db8::1".to_owned()), 2525, 25)));
        for wrong in ["", "0", "70000", "a", "25:", ":25", "1:2:3", "192.0.2.1:25", "192.0.2.1:0:25", "25:0"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn memory_may_be_written_short() {
        assert_eq!(memory("512M").unwrap().get(), 512 << 20);
        assert_eq!(memory("2GiB").unwrap().get(), 2 << 30);
        assert_eq!(memory("1T").unwrap().get(), 1 << 40);
        assert!(memory("512").is_err() && memory("0M").is_err());
    }

    #[test]
    fn paths_lose_their_detours() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("far/away")).unwrap();
        std::os::unix::fs::symlink(root.join("far/away"), root.join("link")).unwrap();
        let plain = |path: &str| absolute(&root.join(path)).unwrap();
        assert_eq!(plain("a/../b.qcow2"), root.join("b.qcow2"));
        assert_eq!(plain("link/../c"), root.join("far/c"), "as the system sees it");
        assert_eq!(plain("link/c"), root.join("link/c"), "a link stays one");
        assert_eq!(absolute(Path::new("/../../x")).unwrap(), Path::new("/x"));
    }
}
