//! The configuration file of a node: one TOML file, unknown keys refused, checked before anything is bound.

mod load;
mod secret;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName};
use sustain_vmdriver::Accel;

pub use load::{ConfigError, load, parse};
pub use secret::{ClusterSecret, SecretError};
pub use units::{Bytes, Duration, UnitError};

use crate::logic::Timing;

/// Everything that a node is told (P41).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster, for people.
    pub cluster: String,
    /// This node's name: one of `nodes`.
    pub name: String,
    /// File with this node's key, mode 0600. Relative paths start at the configuration's folder.
    pub key_file: PathBuf,
    /// File with the secret that the cluster's nodes share, mode 0600.
    pub secret_file: PathBuf,
    /// Folder of the snapshot store.
    pub store: PathBuf,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Folder for what lives no longer than the process: sockets, console logs.
    pub run: PathBuf,
    /// Waits and intervals.
    #[serde(default)]
    pub timing: Timing,
    /// All nodes of the cluster, this one too.
    pub nodes: Vec<NodeConfig>,
    /// The services.
    #[serde(default)]
    pub services: Vec<ServiceConfig>,
}

/// A node as every node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, for people.
    pub name: String,
    /// Its id: the public half of its key.
    pub id: NodeId,
    /// Where it listens (QUIC over UDP).
    pub address: SocketAddr,
    /// Its priority in elections; greater is better (P20).
    pub priority: u32,
}

/// A service: what runs, and what is promised for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its name.
    pub name: ServiceName,
    /// Name of the node that starts it for the very first time (P41).
    pub first_server: String,
    /// Where this node accepts the service's clients (TCP).
    pub listen: SocketAddr,
    /// Time between two snapshots.
    #[serde(default = "ServiceConfig::default_interval")]
    pub interval: Duration,
    /// Losses of nodes that a durable snapshot survives, the server not counted.
    #[serde(default = "ServiceConfig::default_tolerance")]
    pub tolerance: u32,
    /// Snapshots after which the newest one becomes the base of a new generation (P10).
    #[serde(default = "ServiceConfig::default_rebase_after")]
    pub rebase_after: u32,
    /// The virtual machine.
    pub vm: VmConfig,
}

/// The virtual machine of a service. It must be the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmConfig {
    /// Memory of the guest.
    pub memory: Bytes,
    /// Processors of the guest.
    #[serde(default = "VmConfig::default_cpus")]
    pub cpus: u32,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initial file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// The guest's kernel command line, if the usual one won't do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// KVM or emulation; `auto` takes KVM where it works.
    #[serde(default)]
    pub accel: Accel,
    /// The TCP port on which the service listens inside the guest.
    pub guest_port: u16,
}

impl ServiceConfig {
    const fn default_interval() -> Duration {
        Duration::from_millis(1_000)
    }

    const fn default_tolerance() -> u32 {
        1
    }

    /// Bounds what a manifest lists: at most one pack or two a snapshot, far under the limit.
    const fn default_rebase_after() -> u32 {
        60
    }
}

impl VmConfig {
    const fn default_cpus() -> u32 {
        1
    }
}

impl Config {
    /// This node's own entry.
    #[must_use]
    pub fn own(&self) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == self.name)
    }
}
