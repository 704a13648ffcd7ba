//! What happens when a node starts: its roster is read, and its tasks begin.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sustain_proto::NodeId;
use sustain_store::Store;
use tokio::sync::mpsc;

use crate::config::{ClusterConfig, Peer};
use crate::depot::Depot;
use crate::error::StartError;
use crate::healths::{self, HealthEvent, members_of};
use crate::identity::random;
use crate::keeper::{Keeper, KeeperConfig, Overlays};
use crate::keeping::KeySigner;
use crate::member::Member;
use crate::membership::{Circle, Roster, Swim, SwimConfig};
use crate::probe::ProbeTable;
use crate::prober::{self, ProbeEvent};
use crate::{join, limits, registry, roster_file};

/// Where a node keeps its claim and the catalogs, in the folder of its store.
const KEEPING_FOLDER: &str = "keeping";

/// A file beside that of the roster, with another ending.
pub(crate) fn beside(config: &ClusterConfig, ending: &str) -> Option<PathBuf> {
    config.roster.as_ref().map(|path| path.with_extension(ending))
}

/// The roster of the configuration and of the file.
pub(crate) fn roster(config: &ClusterConfig, listens: SocketAddr) -> Result<Roster, StartError> {
    let configured: BTreeMap<NodeId, _> = config.peers.iter().map(|peer| (peer.id, peer.details())).collect();
    let mut own = config.own.clone();
    if own.address.port() == 0 {
        own.address = listens;
    }
    let mut roster = Roster::new(config.key.clone(), own, configured)?;
    if let Some(path) = &config.roster {
        match roster_file::load(path)? {
            Some(facts) => {
                let merged = roster.merge(facts);
                if let Some(why) = merged.why {
                    let (count, why) = (merged.refused, sustain_store::error_chain(&why));
                    tracing::warn!(path = %path.display(), count, why, "facts of the roster are no longer believed");
                }
            }
            None => {
                tracing::info!(path = %path.display(), "no roster yet: the configuration says who belongs");
            }
        }
        // What the node says of itself is told to others only once it can't be forgotten: versions must not come twice.
        roster_file::save(path, roster.facts().iter().collect())?;
    }
    if let Some(removed) = roster.removed(&config.key.node_id()) {
        let name = roster.members().get(&removed.by).map(|details| details.name.clone());
        return Err(StartError::Removed { by: name.unwrap_or_else(|| removed.by.short()) });
    }
    for peer in config.peers.iter().filter(|peer| roster.removed(&peer.id).is_some()) {
        tracing::warn!(name = peer.name, "the configuration names a node that was removed from the cluster");
    }
    Ok(roster)
}

/// The keeper of a node, and where its parts are.
pub(crate) fn keeper(config: &ClusterConfig, store: &Store) -> Result<(Keeper, Depot), StartError> {
    let folder = store.path().join(KEEPING_FOLDER);
    let (depot, kept) = Depot::open(store.clone(), config.key.node_id(), &folder)
        .map_err(|error| StartError::Depot(Box::new(error)))?;
    let settings = KeeperConfig {
        degree: config.tuning.neighbours,
        hold_off_ms: config.tuning.hold_off_ms,
        storage_bytes_max: config.share.storage_bytes.unwrap_or(u64::MAX),
        ..KeeperConfig::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let life = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let signer = Arc::new(KeySigner::new(&config.key)?);
    let me = config.key.node_id();
    Ok((Keeper::new(me, settings, Overlays::default(), life, kept, signer), depot))
}

/// Starts the tasks of a node, all but the one that takes calls.
pub(crate) fn launch(
    member: &Arc<Member>,
    events: mpsc::Receiver<ProbeEvent>,
    health_events: mpsc::Receiver<HealthEvent>,
) -> Result<(), StartError> {
    let (tuning, now_ms) = (&member.tuning, member.now_ms());
    let mut members = member.registry.members();
    members.remove(&member.id);
    let ids = members.keys().copied();
    let table = ProbeTable::new(tuning.probe_interval_ms, tuning.probe_timeout_ms, now_ms, random()?, ids);
    let all = members_of(member);
    let swim = Swim::new(member.id, &all.keys().copied().collect(), SwimConfig::default(), now_ms, random()?);
    let circle = Circle::new(member.id, all, tuning.neighbours, tuning.hold_off_ms, now_ms);
    *crate::transport::links::lock(&member.near) = circle.neighbours();
    for (id, details) in &members {
        registry::join(member, Peer::of(*id, details))?;
    }
    registry::pin(member);
    join::open_door(member);
    member.tasks.spawn(prober::run(member.clone(), events, table));
    member.tasks.spawn(healths::run(member.clone(), health_events, swim, circle));
    member.tasks.spawn(registry::compare(member.clone()));
    debug_assert!(members.len() <= limits::ROSTER_NODES_MAX);
    Ok(())
}
