//! Gathers what a snapshot's restore takes, and leaves what can come while its VM runs.
//!
//! ```text
//! manifests ─▶ who has the packs ─▶ directories ─▶ packs with indexes ─▶ packs with eager regions ─▶ restore
//!                │                  └ contradict the manifests: those of other peers, or else everything is fetched
//!                └ nobody has them: made of fragments, or else directories of what was set aside as damaged
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sustain_proto::wire::{Request, Response};
use sustain_proto::{NodeId, PackId, PackRef, RegionName, SnapshotId};
use sustain_store::{ForeignDirectory, ImportError, NoProgress, Partial, SnapshotReader};
use tokio::task::JoinSet;

use crate::error::GatherError;
use crate::gather::{self, GatherReport, boxed};
use crate::limits;
use crate::member::Member;
use crate::remote::{Directories, RemoteSnapshot, read_directory};
use sustain_store::error_chain;

/// What a VM can be started from.
#[derive(Debug)]
pub struct Started {
    /// What it took.
    pub report: GatherReport,
    /// The snapshot, if a part of it is still elsewhere; it is in no list of this store then. None: it is whole here.
    pub remote: Option<RemoteSnapshot>,
}

type Packs = BTreeMap<PackId, PackRef>;
type Holders = BTreeMap<PackId, BTreeSet<NodeId>>;
type Given = Vec<(NodeId, ForeignDirectory)>;

pub(crate) async fn gather_to_start(
    member: Arc<Member>,
    id: SnapshotId,
    lazy: Vec<RegionName>,
) -> Result<Started, GatherError> {
    let manifests = gather::manifests(&member, id).await?;
    let (lacking, mut report) = gather::lacking(&member, id, &manifests).await?;
    let is_lazy = !lacking.is_empty() && !lazy.is_empty();
    if is_lazy {
        match ask_holders(&member, id, &lacking).await {
            Ok(holders) => {
                let sought = (&manifests[..], &lazy[..], &lacking, &holders);
                if let Some(remote) = lazily(&member, id, sought, &mut report).await? {
                    return Ok(Started { report, remote: Some(remote) });
                }
            }
            // They are made of fragments, if at all.
            Err(GatherError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let error = match all(&member, id, &manifests, &mut report).await {
        Ok(()) => return Ok(Started { report, remote: None }),
        Err(error) => error,
    };
    let is_lost = matches!(
        error,
        GatherError::Missing { .. } | GatherError::TooFew { .. } | GatherError::Damaged { .. }
    );
    if is_lazy && is_lost {
        // What others have set aside as damaged is sound for the most part, and who knows what a guest will need.
        let peers: BTreeSet<NodeId> =
            member.peers.ids().into_iter().filter(|peer| member.reach.reachable(peer)).collect();
        let holders = lacking.keys().map(|pack| (*pack, peers.clone())).collect();
        let sought = (&manifests[..], &lazy[..], &lacking, &holders);
        if let Some(remote) = lazily(&member, id, sought, &mut report).await? {
            return Ok(Started { report, remote: Some(remote) });
        }
    }
    Err(error)
}

/// Fetches all that is lacking, and imports the snapshot.
async fn all(
    member: &Arc<Member>,
    id: SnapshotId,
    manifests: &[Vec<u8>],
    report: &mut GatherReport,
) -> Result<(), GatherError> {
    let (left, _) = gather::lacking(member, id, manifests).await?;
    gather::fetch_packs(member, id, left, Arc::new(NoProgress), report).await?;
    gather::import(member, id, manifests.to_vec(), report).await
}

/// Fetches what can't wait, and opens the rest by the directories of its packs. None if they are not to be had, or
/// nothing is left to wait for.
async fn lazily(
    member: &Arc<Member>,
    id: SnapshotId,
    (manifests, lazy, lacking, holders): (&[Vec<u8>], &[RegionName], &Packs, &Holders),
    report: &mut GatherReport,
) -> Result<Option<RemoteSnapshot>, GatherError> {
    let mut suspects = BTreeSet::new();
    while let Some(given) = directories(member, lacking, holders, &suspects).await {
        if let Some(reader) = open(member, id, (manifests, lazy, &given), report).await? {
            if reader.packs_elsewhere().is_empty() {
                return Ok(None);
            }
            let mut directories = Directories::default();
            given.into_iter().for_each(|(peer, directory)| directories.put(peer, directory));
            return Ok(Some(RemoteSnapshot::new(reader, directories)));
        }
        // Which of them is false nobody can tell.
        suspects.extend(given.iter().map(|(peer, _)| *peer));
    }
    Ok(None)
}

/// Fetches what is needed whole, and opens the snapshot. None if the directories contradict it.
async fn open(
    member: &Arc<Member>,
    id: SnapshotId,
    (manifests, lazy, given): (&[Vec<u8>], &[RegionName], &Given),
    report: &mut GatherReport,
) -> Result<Option<SnapshotReader>, GatherError> {
    // What is fetched is used by its own directory from then on: each round needs fewer packs, or there is none.
    loop {
        let (store, manifests, lazy) = (member.store.clone(), manifests.to_vec(), lazy.to_vec());
        let directories: Vec<_> = given.iter().map(|(_, directory)| directory.clone()).collect();
        let opened = gather::blocking(member, id, "open the packs", move || {
            match store.open_partial(&manifests, &directories, &lazy) {
                Ok(opened) => Ok(Some(opened)),
                Err(error @ ImportError::Contradiction { .. }) => {
                    tracing::warn!(error = error_chain(&error), "the directories of packs are false");
                    Ok(None)
                }
                Err(error) => Err((error.kind().into(), boxed(error))),
            }
        });
        match opened.await? {
            None => return Ok(None),
            Some(Partial::Open(reader)) => return Ok(Some(*reader)),
            Some(Partial::Lacking(packs)) => {
                let wanted = packs.into_iter().map(|pack| (pack.id, pack)).collect();
                gather::fetch_packs(member, id, wanted, Arc::new(NoProgress), report).await?;
            }
        }
    }
}

/// Asks all peers, until somebody has said of each pack that it has it.
async fn ask_holders(member: &Arc<Member>, id: SnapshotId, packs: &Packs) -> Result<Holders, GatherError> {
    let mut waiting: VecDeque<NodeId> = member.asking_order().into();
    let mut asking = JoinSet::new();
    let mut holders = Holders::new();
    let mut asked = 0;
    while holders.len() < packs.len() {
        while asking.len() < limits::PEERS_ASKED_AT_ONCE {
            let Some(peer) = waiting.pop_front() else { break };
            let (known, request) =
                (member.clone(), Request::HavePacks { ids: packs.keys().copied().collect() });
            asking.spawn(async move { (peer, known.request(peer, &request, known.request_timeout()).await) });
        }
        match asking.join_next().await {
            None if asked == 0 => return Err(GatherError::NoPeers { id }),
            None => {
                let missing = packs.keys().filter(|pack| !holders.contains_key(pack)).copied().collect();
                return Err(GatherError::Missing { id, missing, asked });
            }
            Some(Ok((peer, Ok(Response::Having { packs: having })))) => {
                asked += 1;
                for pack in having.into_iter().filter(|pack| packs.contains_key(pack)) {
                    holders.entry(pack).or_default().insert(peer);
                }
            }
            Some(Ok((peer, answer))) => {
                tracing::debug!(peer = %peer.short(), ?answer, "a peer could not be asked for packs");
            }
            Some(Err(_)) => return Err(GatherError::Cancelled { id }),
        }
    }
    Ok(holders)
}

/// The directories of packs, each from a peer that is not suspected; none if one is not to be had, or they are too many
/// to keep.
async fn directories(
    member: &Arc<Member>,
    packs: &Packs,
    holders: &Holders,
    suspects: &BTreeSet<NodeId>,
) -> Option<Given> {
    let mut waiting: VecDeque<PackRef> = packs.values().copied().collect();
    let mut asking = JoinSet::new();
    let mut given = Given::new();
    let mut records = 0;
    loop {
        while asking.len() < limits::DIRECTORIES_AT_ONCE {
            let Some(pack) = waiting.pop_front() else { break };
            let holds = |peer: &NodeId| holders.get(&pack.id).is_some_and(|holders| holders.contains(peer));
            let mut peers = member.asking_order();
            peers.retain(|peer| !suspects.contains(peer));
            // Those that gave no answer yet may have it too.
            peers.sort_by_key(|peer| (!member.reach.reachable(peer), !holds(peer)));
            let member = member.clone();
            asking.spawn(async move { directory(&member, pack, peers).await });
        }
        let Some(answer) = asking.join_next().await else { return Some(given) };
        let (peer, directory) = answer.ok()??;
        records += directory.records();
        if records > limits::FOREIGN_RECORDS_MAX {
            return None;
        }
        given.push((peer, directory));
    }
}

async fn directory(member: &Member, pack: PackRef, peers: Vec<NodeId>) -> Option<(NodeId, ForeignDirectory)> {
    for peer in peers {
        match read_directory(member, peer, pack, member.request_timeout()).await {
            Ok(directory) => return Some((peer, directory)),
            Err(error) => {
                let error = error_chain(&error);
                tracing::debug!(peer = %peer.short(), pack = %pack.id.short(), error, "no directory came");
            }
        }
    }
    None
}
