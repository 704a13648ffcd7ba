//! What a node that has joined a cluster keeps: key, secret, roster and configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sustain_gossip::{NodeKey, membership::Roster};
use sustain_proto::NodeId;
use sustain_proto::join::Welcome;
use sustain_store::Secrets;

use crate::config::{Config, NodeConfig, ScrubConfig, ShareConfig, save_secrets};
use crate::logic::Timing;

/// Why a joined node's folder can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinedError {
    /// There is a node in the folder.
    #[error("{path} exists already")]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// Its key can't be made or used.
    #[error("can't make the node's key")]
    Key(#[from] sustain_gossip::KeyError),
    /// The secret can't be kept.
    #[error("can't keep the cluster's secret")]
    Secret(#[from] crate::config::SecretError),
    /// What the inviter sent makes no sense.
    #[error("what the inviter sent can't be used: {reason}")]
    Strange {
        /// Why.
        reason: String,
    },
    /// The roster can't be kept.
    #[error("can't keep the roster")]
    Roster(#[from] sustain_gossip::RosterFileError),
    /// Something can't be written.
    #[error("can't write {path}")]
    Write {
        /// What.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The folder of a node that is to join: new, or left behind by an attempt that did not get to the end.
#[derive(Debug)]
pub struct NewNode {
    folder: PathBuf,
    /// Its key.
    pub key: NodeKey,
}

impl NewNode {
    /// Makes the folder and the key, or takes the key that an attempt before has left: the invitation may have been
    /// used up for it.
    ///
    /// # Errors
    /// If a node is there, or nothing can be written.
    pub fn prepare(folder: &Path) -> Result<Self, JoinedError> {
        let config = folder.join("config.toml");
        if config.exists() {
            return Err(JoinedError::Exists { path: config });
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| JoinedError::Write { path: folder.to_owned(), source })?;
        let path = folder.join("node.key");
        let key = if path.exists() {
            NodeKey::load(&path)?
        } else {
            let key = NodeKey::generate()?;
            key.save(&path)?;
            key
        };
        Ok(Self { folder: folder.to_owned(), key })
    }

    /// Writes everything that the node needs to start; the configuration comes last. Returns its path.
    ///
    /// # Errors
    /// If something can't be written, or what the inviter sent makes no sense.
    pub fn finish(
        &self,
        inviter: (NodeId, SocketAddr),
        welcome: Welcome,
        listen: Option<SocketAddr>,
    ) -> Result<PathBuf, JoinedError> {
        let strange = |reason: String| JoinedError::Strange { reason };
        let secrets = welcome.secrets.as_deref().map(Secrets::parse).transpose();
        let secrets = secrets.map_err(|reason| strange(reason.to_owned()))?;
        let secret_path = self.folder.join("cluster.secret");
        if let Some(secrets) = &secrets {
            // An attempt before may have left the same.
            let _ = fs::remove_file(&secret_path);
            save_secrets(&secret_path, secrets)?;
        }
        let mut seed = welcome.details.clone();
        (seed.name, seed.address) = ("inviter".to_owned(), inviter.1);
        let configured = BTreeMap::from([(inviter.0, seed)]);
        let mut roster = Roster::new(self.key.clone(), welcome.details.clone(), configured)
            .map_err(|error| strange(error.to_string()))?;
        roster.merge(welcome.facts);
        sustain_gossip::save_roster(&self.folder.join("node.roster"), &roster)?;
        let config = Config {
            cluster: welcome.cluster,
            name: welcome.details.name.clone(),
            key_file: "node.key".into(),
            secret_file: secrets.map(|_| "cluster.secret".into()),
            store: "store".into(),
            admin_socket: "admin.sock".into(),
            run: "run".into(),
            timing: Timing::default(),
            scrub: ScrubConfig::default(),
            share: ShareConfig::default(),
            listen: listen.filter(|listen| *listen != welcome.details.address),
            nodes: nodes_of(&roster),
            services: Vec::new(),
        };
        let text = toml::to_string(&config).map_err(|error| strange(error.to_string()))?;
        let path = self.folder.join("config.toml");
        let written = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            file.write_all(format!("{HEADER}{text}").as_bytes())?;
            file.sync_all()?;
            fs::File::open(&self.folder)?.sync_all()
        };
        written().map_err(|source| JoinedError::Write { path: path.clone(), source })?;
        Ok(path)
    }
}

const HEADER: &str =
    "# Configuration of a sustain node that has joined. docs/config.toml explains every key.\n\n";

/// This node first, then the others. Of several with one name or address, which a configuration can't have, the first.
fn nodes_of(roster: &Roster) -> Vec<NodeConfig> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let me = roster.me();
    let mut members: Vec<_> = roster.members().iter().collect();
    members.sort_by_key(|(node, _)| **node != me);
    let mut nodes = Vec::new();
    for (id, details) in members {
        if names.insert(&details.name) && addresses.insert(details.address) {
            nodes.push(NodeConfig {
                name: details.name.clone(),
                id: *id,
                address: details.address,
                priority: details.priority,
                domain: details.domain.clone(),
            });
        }
    }
    nodes
}
