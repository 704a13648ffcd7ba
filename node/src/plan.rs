//! Plans a cluster: a key and a configuration for each node, for a first try or to be copied to machines.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use sustain_gossip::NodeKey;
use sustain_proto::ServiceName;
use sustain_store::{Secret, Secrets};

use crate::config::{
    Config, DriverKind, Duration, ForwardConfig, NodeConfig, ScrubConfig, SecretError, ServiceConfig,
    ServiceType, ShareConfig, VmConfig, save_secrets,
};
use crate::logic::Timing;

/// Most nodes of a plan. Above some hundreds the full mesh of heartbeats costs more than it gives.
pub const NODES_MAX: usize = 255;

/// A service to put into every configuration.
#[derive(Debug, Clone)]
pub struct PlannedService {
    /// Its name.
    pub name: ServiceName,
    /// Time between snapshots.
    pub interval: Duration,
    /// Losses that a durable snapshot survives.
    pub tolerance: u32,
    /// Snapshots of a generation.
    pub rebase_after: u32,
    /// Its VM; paths should be absolute.
    pub vm: VmConfig,
    /// The TCP port on which the service listens inside the guest.
    pub guest_port: NonZeroU16,
    /// Where each node accepts its clients, one address a node.
    pub listen: Vec<SocketAddr>,
}

/// A cluster to be.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// Its name.
    pub cluster: String,
    /// Where each node listens for its peers.
    pub addresses: Vec<SocketAddr>,
    /// The services.
    pub services: Vec<PlannedService>,
}

/// Why a plan can't be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Too few or too many nodes.
    #[error("a cluster has 1 to {NODES_MAX} nodes, not {nodes}")]
    Nodes {
        /// What was asked for.
        nodes: usize,
    },
    /// Something is there already.
    #[error("{path} exists already, and keys are never overwritten")]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// A file or folder can't be written.
    #[error("can't write {path}")]
    Write {
        /// What.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key can't be made or saved.
    #[error("can't make a node's key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The secret can't be made or saved.
    #[error("can't make the cluster's secret")]
    Secret(#[from] SecretError),
    /// The configuration can't be put as TOML.
    #[error("can't put the configuration into words")]
    Toml(#[from] toml::ser::Error),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNode {
    /// The node.
    pub node: NodeConfig,
    /// Its configuration file.
    pub config: PathBuf,
}

impl ClusterPlan {
    /// Writes `DIR/node-1`, `DIR/node-2` and so on, each with configuration, key and secret. Nothing that
    /// exists is touched.
    ///
    /// # Errors
    /// If a folder exists, or something can't be written.
    pub fn write(&self, dir: &Path) -> Result<Vec<PlannedNode>, PlanError> {
        let count = self.addresses.len();
        if count == 0 || count > NODES_MAX {
            return Err(PlanError::Nodes { nodes: count });
        }
        let folders: Vec<PathBuf> = (1..=count).map(|number| dir.join(format!("node-{number}"))).collect();
        if let Some(path) = folders.iter().find(|path| path.exists()) {
            return Err(PlanError::Exists { path: path.clone() });
        }
        let key = |_| NodeKey::generate().map_err(|error| PlanError::Key(Box::new(error)));
        let keys = (0..count).map(key).collect::<Result<Vec<_>, _>>()?;
        let secret = Secrets::one(Secret::generate().map_err(SecretError::from)?);
        let nodes: Vec<NodeConfig> = self.addresses.iter().zip(&keys).enumerate().map(planned_node).collect();
        let mut written = Vec::new();
        for (number, (folder, key)) in folders.iter().zip(&keys).enumerate() {
            make_private_folder(folder)?;
            key.save(&folder.join("node.key")).map_err(|error| PlanError::Key(Box::new(error)))?;
            save_secrets(&folder.join("cluster.secret"), &secret)?;
            let config = self.config(&nodes, number);
            let path = folder.join("config.toml");
            let text = format!("{HEADER}{}", toml::to_string(&config)?);
            fs::write(&path, text).map_err(|source| PlanError::Write { path: path.clone(), source })?;
            written.push(PlannedNode { node: nodes[number].clone(), config: path });
        }
        Ok(written)
    }

    fn config(&self, nodes: &[NodeConfig], number: usize) -> Config {
        let service = |planned: &PlannedService| ServiceConfig {
            name: planned.name.clone(),
            first_server: nodes[0].name.clone(),
            kind: ServiceType::default(),
            secret_file: None,
            interval: planned.interval,
            tolerance: planned.tolerance,
            rebase_after: planned.rebase_after,
            rebase_delta_percent: ServiceConfig::default_rebase_delta_percent(),
            rebase_dead_percent: ServiceConfig::default_rebase_dead_percent(),
            keep_last: 0,
            keep_hourly: 0,
            keep_daily: 0,
            driver: DriverKind::Qemu,
            forwards: vec![ForwardConfig { listen: planned.listen[number], guest_port: planned.guest_port }],
            vm: Some(planned.vm.clone()),
            command: None,
        };
        Config {
            cluster: self.cluster.clone(),
            name: nodes[number].name.clone(),
            key_file: "node.key".into(),
            secret_file: Some("cluster.secret".into()),
            store: "store".into(),
            admin_socket: "admin.sock".into(),
            run: "run".into(),
            timing: Timing::default(),
            scrub: ScrubConfig::default(),
            share: ShareConfig::default(),
            listen: None,
            nodes: nodes.to_vec(),
            services: self.services.iter().map(service).collect(),
        }
    }
}

const HEADER: &str = "# Configuration of a sustain node. docs/config.toml explains every key.\n\n";

fn planned_node((number, (address, key)): (usize, (&SocketAddr, &NodeKey))) -> NodeConfig {
    NodeConfig {
        name: format!("node-{}", number + 1),
        id: key.node_id(),
        address: *address,
        // The first node is the first server, the second one its first successor, and so on.
        priority: u32::try_from(1_000 - number).unwrap_or(0),
        domain: String::new(),
    }
}

fn make_private_folder(path: &Path) -> Result<(), PlanError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PlanError::Write { path: path.to_owned(), source })
}
