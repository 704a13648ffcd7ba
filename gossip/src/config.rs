//! Who is in the cluster, and how this node takes part.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sustain_proto::{Details, NodeId};

use crate::error::StartError;
use crate::identity::NodeKey;
use crate::limits;
use crate::share::Share;
use crate::tuning::Tuning;

/// Another node, as every node is told at its start (P41).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its pinned key.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where it listens (UDP).
    pub address: SocketAddr,
    /// Its static priority in elections (P20).
    pub priority: u32,
    /// Its failure domain; empty if it has none.
    pub domain: String,
}

impl Peer {
    /// What is said of a node.
    #[must_use]
    pub fn of(id: NodeId, details: &Details) -> Self {
        let Details { name, address, domain, priority } = details.clone();
        Self { id, name, address, priority, domain }
    }

    /// What others are told of it.
    #[must_use]
    pub fn details(&self) -> Details {
        let Self { name, address, domain, priority, .. } = self.clone();
        Details { name, address, domain, priority }
    }
}

/// How a node takes part in its cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// This node's key.
    pub key: NodeKey,
    /// The cluster's name, for people and logs. Who belongs to it is decided by keys alone.
    pub cluster: String,
    /// Where to listen (UDP); port 0 takes a free one.
    pub listen: SocketAddr,
    /// What this node says of itself. An address without a port means the one that it listens on.
    pub own: Details,
    /// The other nodes that the configuration names. More are known from the roster.
    pub peers: Vec<Peer>,
    /// Where the roster is kept, and beside it what belongs to it; none if it is not to outlive the process.
    pub roster: Option<PathBuf>,
    /// Intervals and timeouts.
    pub tuning: Tuning,
    /// What the node gives at most.
    pub share: Share,
}

impl ClusterConfig {
    /// Checks that settings and peers work together.
    ///
    /// # Errors
    /// Names the first thing that can't work.
    pub fn check(&self) -> Result<(), StartError> {
        self.tuning.check()?;
        if self.peers.len() > limits::PEERS_MAX {
            return Err(StartError::TooManyPeers { max: limits::PEERS_MAX, found: self.peers.len() });
        }
        let me = self.key.node_id();
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for peer in &self.peers {
            let refuse = |reason| Err(StartError::Peer { name: peer.name.clone(), reason });
            if peer.id == me {
                return refuse("it has this node's own key");
            }
            if !ids.insert(peer.id) {
                return refuse("another peer has the same key");
            }
            if !addresses.insert(peer.address) {
                return refuse("another peer has the same address");
            }
            if peer.address.port() == 0 || peer.address.ip().is_unspecified() {
                return refuse("its address can't be called");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: &NodeKey, address: &str) -> Peer {
        Peer {
            id: key.node_id(),
            name: "north".to_owned(),
            address: address.parse().unwrap(),
            priority: 1,
            domain: String::new(),
        }
    }

    #[test]
    fn a_contradictory_peer_list_is_refused() {
        let (key, other, third) =
            (NodeKey::generate().unwrap(), NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let check = |peers: Vec<Peer>| {
            ClusterConfig {
                key: key.clone(),
                cluster: "test".to_owned(),
                listen: "127.0.0.1:0".parse().unwrap(),
                own: peer(&key, "127.0.0.1:9").details(),
                peers,
                roster: None,
                tuning: Tuning::default(),
                share: Share::default(),
            }
            .check()
            .map_err(|error| error.to_string())
        };
        assert_eq!(check(vec![peer(&other, "127.0.0.1:1"), peer(&third, "127.0.0.1:2")]), Ok(()));
        assert!(check(vec![peer(&key, "127.0.0.1:1")]).unwrap_err().contains("own key"));
        let twice = vec![peer(&other, "127.0.0.1:1"), peer(&other, "127.0.0.1:2")];
        assert!(check(twice).unwrap_err().contains("same key"));
        let twice = vec![peer(&other, "127.0.0.1:1"), peer(&third, "127.0.0.1:1")];
        assert!(check(twice).unwrap_err().contains("same address"));
        assert!(check(vec![peer(&other, "127.0.0.1:0")]).unwrap_err().contains("can't be called"));
    }
}
