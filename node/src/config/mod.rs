//! The configuration file of a node: one TOML file, unknown keys refused, checked before anything is bound.

mod edit;
mod kind;
mod load;
mod scrub;
mod secret;
mod service;
mod share;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sustain_proto::{Details, NodeId};

pub use edit::{EditError, add_service, give_secret, remove_service, save};
pub use kind::{ServiceType, TypeError};
pub use load::{ConfigError, load, parse};
pub use scrub::ScrubConfig;
pub use secret::{SecretError, lacks_secret, load_secrets, replace_secrets, save_secrets};
pub use service::{CommandConfig, DriverKind, ForwardConfig, ServiceConfig, VmConfig};
pub use share::ShareConfig;
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
    /// File with the secret that the cluster's nodes share, mode 0600. A node without one keeps what others seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Folder of the snapshot store.
    pub store: PathBuf,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Folder for what lives no longer than the process: sockets, console logs.
    pub run: PathBuf,
    /// Where to listen (UDP), if not at this node's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Waits and intervals.
    #[serde(default)]
    pub timing: Timing,
    /// How the store is scrubbed.
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// What the node gives to its cluster at most.
    #[serde(default, skip_serializing_if = "ShareConfig::is_unlimited")]
    pub share: ShareConfig,
    /// Nodes of the cluster, this one among them. Others are known from the roster.
    pub nodes: Vec<NodeConfig>,
    /// The services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
    /// Its failure domain: nodes that one event may take together, such as a site or a power line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

impl NodeConfig {
    /// What the cluster is told of it.
    #[must_use]
    pub fn details(&self) -> Details {
        let Self { name, address, priority, domain, .. } = self.clone();
        Details { name, address, domain, priority }
    }
}

impl Config {
    /// This node's own entry.
    #[must_use]
    pub fn own(&self) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.name == self.name)
    }

    /// The file with the roster: who belongs to the cluster, as far as this node has heard. It is beside the key.
    #[must_use]
    pub fn roster_file(&self) -> PathBuf {
        self.key_file.with_extension("roster")
    }
}
