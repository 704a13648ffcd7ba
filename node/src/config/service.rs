//! A service in the configuration: what runs, what runs it, and what is promised for it.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sustain_proto::ServiceName;
use sustain_store::{RebasePolicy, Retention};
use sustain_vmdriver::Accel;

use super::{Bytes, Duration, ServiceType};

/// A service: what runs, and what is promised for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its name.
    pub name: ServiceName,
    /// Name of the node that starts it for the very first time (P41).
    pub first_server: String,
    /// What it may be put through (P29–P32).
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// File with the service's own secret, mode 0600, if its key is not to follow from the cluster's. A node that does
    /// not have the file keeps what others seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Time between two snapshots.
    #[serde(default = "ServiceConfig::default_interval")]
    pub interval: Duration,
    /// Losses of nodes that a durable snapshot survives, the server not counted.
    #[serde(default = "ServiceConfig::default_tolerance")]
    pub tolerance: u32,
    /// Snapshots after which the newest one becomes the base of a new generation (P10).
    #[serde(default = "ServiceConfig::default_rebase_after")]
    pub rebase_after: u32,
    /// What the deltas of a generation may take, in percent of its base's bytes; past it the same happens.
    #[serde(default = "ServiceConfig::default_rebase_delta_percent")]
    pub rebase_delta_percent: u32,
    /// What of a generation may be needed by nobody, in percent of what is needed; past it the same happens.
    #[serde(default = "ServiceConfig::default_rebase_dead_percent")]
    pub rebase_dead_percent: u32,
    /// Older snapshots that a rebase keeps: so many of the newest.
    #[serde(default)]
    pub keep_last: u32,
    /// The newest of each of so many hours.
    #[serde(default)]
    pub keep_hourly: u32,
    /// The newest of each of so many days.
    #[serde(default)]
    pub keep_daily: u32,
    /// What runs it.
    #[serde(default)]
    pub driver: DriverKind,
    /// The ports through which its clients reach it; the first is "the" port of the service.
    #[serde(default)]
    pub forwards: Vec<ForwardConfig>,
    /// The virtual machine, for the driver `qemu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmConfig>,
    /// The programs, for the driver `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandConfig>,
}

/// What runs a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// A virtual machine in QEMU.
    #[default]
    Qemu,
    /// Programs of the user's own.
    Command,
}

impl DriverKind {
    /// As the configuration names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Command => "command",
        }
    }
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ForwardConfig {
    /// Where this node accepts clients (TCP): each node has its own address.
    pub listen: SocketAddr,
    /// The TCP port inside the guest: the same on every node.
    pub guest_port: NonZeroU16,
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
    /// The guest's kernel; without one it boots from its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The guest's initial file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// The guest's kernel command line, if the usual one won't do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_args: Option<String>,
    /// The image that the guest's disk begins as: raw or qcow2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// KVM or emulation; `auto` takes KVM where it works.
    #[serde(default)]
    pub accel: Accel,
}

/// The programs that run a service: see docs/command-driver.md. They must do the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandConfig {
    /// Folder with one program for each verb.
    pub folder: PathBuf,
    /// How long `snapshot` may take.
    #[serde(default = "CommandConfig::default_snapshot_timeout")]
    pub snapshot_timeout: Duration,
    /// How long `restore` may take, and how long a started service until it is `alive`.
    #[serde(default = "CommandConfig::default_start_timeout")]
    pub start_timeout: Duration,
}

impl ServiceConfig {
    /// A second: what a failure costs, and what most hosts can keep up with.
    #[must_use]
    pub const fn default_interval() -> Duration {
        Duration::from_millis(1_000)
    }

    /// One loss besides the server's own.
    #[must_use]
    pub const fn default_tolerance() -> u32 {
        1
    }

    /// As the store has it.
    #[must_use]
    pub const fn default_rebase_after() -> u32 {
        sustain_store::limits::REBASE_DELTAS
    }

    /// As the store has it.
    #[must_use]
    pub const fn default_rebase_delta_percent() -> u32 {
        sustain_store::limits::REBASE_DELTA_PERCENT
    }

    /// As the store has it.
    #[must_use]
    pub const fn default_rebase_dead_percent() -> u32 {
        sustain_store::limits::REBASE_DEAD_PERCENT
    }

    /// When its generations end.
    #[must_use]
    pub const fn policy(&self) -> RebasePolicy {
        RebasePolicy {
            deltas: self.rebase_after,
            delta_percent: self.rebase_delta_percent,
            dead_percent: self.rebase_dead_percent,
        }
    }

    /// Which older snapshots outlive them.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        Retention { keep_last: self.keep_last, keep_hourly: self.keep_hourly, keep_daily: self.keep_daily }
    }

    /// Nodes without which nothing becomes durable: the server, and one more than losses are tolerated.
    #[must_use]
    pub const fn nodes_needed(&self) -> u32 {
        self.tolerance.saturating_add(2)
    }
}

impl VmConfig {
    const fn default_cpus() -> u32 {
        1
    }
}

impl CommandConfig {
    /// Unless said otherwise: the service may stand still meanwhile.
    #[must_use]
    pub const fn default_snapshot_timeout() -> Duration {
        Duration::from_millis(10_000)
    }

    /// Unless said otherwise.
    #[must_use]
    pub const fn default_start_timeout() -> Duration {
        Duration::from_millis(60_000)
    }
}
