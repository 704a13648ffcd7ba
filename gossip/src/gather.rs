//! Gathers a snapshot: asks who has what, fetches the packs from several peers at once, imports (P11, P21).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::wire::{Request, Response};
use sustain_proto::{Manifest, NodeId, PackId, PackRef, ServiceName, SnapshotId};
use sustain_store::{Progress, Store};
use tokio::task::JoinSet;

use crate::conduct::What;
use crate::error::{GatherError, RequestError};
use crate::gathering::Gathering;
use crate::limits;
use crate::member::Member;
use crate::rebuilding;
use sustain_store::error_chain;

/// What watches a gathering.
pub type SharedProgress = Arc<dyn Progress + Send + Sync>;

/// What gathering took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatherReport {
    /// Bytes of packs received, those for nothing included.
    pub bytes_fetched: u64,
    /// Bytes of packs that came in an earlier gathering, which did not come to its end.
    pub bytes_resumed: u64,
    /// Packs that came from other nodes.
    pub packs_fetched: usize,
    /// Those of them that were made of fragments.
    pub packs_rebuilt: usize,
    /// Packs that were here before.
    pub packs_here: usize,
    /// Transfers that broke off or stalled and went on with the same or another peer.
    pub transfers_broken: usize,
    /// Bytes received from each peer.
    pub peers: BTreeMap<NodeId, u64>,
    /// Peers that sent wrong bytes.
    pub liars: BTreeSet<NodeId>,
    /// What was imported, the base first.
    pub snapshots: Vec<SnapshotId>,
}

/// Gathers a snapshot into this node's store. Dropping the future leaves what came, which the next attempt need not
/// fetch.
pub(crate) async fn gather(
    member: Arc<Member>,
    id: SnapshotId,
    progress: SharedProgress,
) -> Result<GatherReport, GatherError> {
    let manifests = manifests(&member, id).await?;
    let (lacking, mut report) = lacking(&member, id, &manifests).await?;
    fetch_packs(&member, id, lacking, progress, &mut report).await?;
    import(&member, id, manifests, &mut report).await?;
    Ok(report)
}

/// What is to be had of others for these manifests.
pub(crate) async fn lacking(
    member: &Member,
    id: SnapshotId,
    manifests: &[Vec<u8>],
) -> Result<(BTreeMap<PackId, PackRef>, GatherReport), GatherError> {
    let packs = packs(manifests);
    let (store, copy) = (member.store.clone(), manifests.to_vec());
    let lacking = blocking(member, id, "list the packs", move || {
        store.packs_lacking(&copy).map_err(|error| (error.kind().into(), boxed(error)))
    })
    .await?;
    let report = GatherReport { packs_here: packs.len() - lacking.len(), ..GatherReport::default() };
    let wanted = lacking.iter().filter_map(|pack| packs.get(pack).map(|found| (*pack, *found)));
    Ok((wanted.collect(), report))
}

/// Fetches packs: whole, from all peers that have them; what none has is made of fragments.
pub(crate) async fn fetch_packs(
    member: &Arc<Member>,
    id: SnapshotId,
    wanted: BTreeMap<PackId, PackRef>,
    progress: SharedProgress,
    report: &mut GatherReport,
) -> Result<(), GatherError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let whole = Gathering::new(member.clone(), id, wanted.clone(), progress.clone()).run(report).await;
    let outcome = match whole {
        Err(
            error @ (GatherError::Missing { .. }
            | GatherError::Unreachable { .. }
            | GatherError::Damaged { .. }),
        ) => rebuild(member, id, wanted, progress, report).await.map_err(|other| clearer(error, other)),
        outcome => outcome,
    };
    if outcome.as_ref().is_err_and(|error| error.kind() == crate::ErrorKind::NoSpace) {
        // What fills the disk and is of no use.
        remove_incoming(member).await;
    }
    outcome
}

/// Makes those packs of fragments that did not come.
async fn rebuild(
    member: &Arc<Member>,
    id: SnapshotId,
    wanted: BTreeMap<PackId, PackRef>,
    progress: SharedProgress,
    report: &mut GatherReport,
) -> Result<(), GatherError> {
    let store = member.store.clone();
    let left = member.tasks.blocking(move || {
        wanted.into_iter().filter(|(pack, _)| !store.has_pack(pack)).collect::<BTreeMap<_, _>>()
    });
    let left = left.await.map_err(|_| GatherError::Cancelled { id })?;
    rebuilding::rebuild(member, id, left, progress, report).await
}

/// Where there is no fragment of a pack at all, what was wrong with the whole packs says more.
fn clearer(whole: GatherError, fragments: GatherError) -> GatherError {
    match fragments {
        GatherError::TooFew { found: 0, .. } => whole,
        other => other,
    }
}

/// Removes what earlier gatherings have left.
async fn remove_incoming(member: &Member) {
    let store = member.store.clone();
    // Where that is interrupted, the next one removes it.
    let _ = member.tasks.blocking(move || store.remove_incoming()).await;
}

/// Makes the snapshot one of this store: all its packs are here.
pub(crate) async fn import(
    member: &Member,
    id: SnapshotId,
    manifests: Vec<Vec<u8>>,
    report: &mut GatherReport,
) -> Result<(), GatherError> {
    let store = member.store.clone();
    report.snapshots = blocking(member, id, "import the manifests", move || {
        store.import(&manifests).map_err(|error| (error.kind().into(), boxed(error)))
    })
    .await?;
    remove_incoming(member).await;
    Ok(())
}

pub(crate) fn boxed(
    error: impl std::error::Error + Send + Sync + 'static,
) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error)
}

type StoreFailure = (crate::ErrorKind, Box<dyn std::error::Error + Send + Sync>);

pub(crate) async fn blocking<T: Send + 'static>(
    member: &Member,
    id: SnapshotId,
    action: &'static str,
    work: impl FnOnce() -> Result<T, StoreFailure> + Send + 'static,
) -> Result<T, GatherError> {
    match member.tasks.blocking(work).await {
        Ok(done) => done.map_err(|(kind, source)| GatherError::Store { id, action, source, kind }),
        Err(_) => Err(GatherError::Cancelled { id }),
    }
}

fn packs(manifests: &[Vec<u8>]) -> BTreeMap<PackId, PackRef> {
    let manifests = manifests.iter().filter_map(|bytes| Manifest::decode(bytes).ok());
    manifests.flat_map(|(_, manifest)| manifest.packs).map(|pack| (pack.id, pack)).collect()
}

/// The snapshot's manifest, after that of its base.
pub(crate) async fn manifests(member: &Arc<Member>, id: SnapshotId) -> Result<Vec<Vec<u8>>, GatherError> {
    let bytes = manifest(member, id).await?;
    let base = Manifest::decode(&bytes).ok().and_then(|(_, manifest)| manifest.base());
    Ok(match base {
        Some(base) => vec![manifest(member, base).await?, bytes],
        None => vec![bytes],
    })
}

/// A manifest that is here: of a snapshot of the store, or one of whose packs this node holds fragments.
pub(crate) fn known_manifest(store: &Store, id: SnapshotId) -> Option<Vec<u8>> {
    if let Ok((_, bytes)) = store.manifest(id) {
        return Some(bytes);
    }
    let fragments = store.look_at_fragments().ok().flatten()?;
    let kept = |service: &ServiceName| fragments.manifests(service).into_iter().find(|kept| kept.id == id);
    fragments.services().iter().find_map(kept).map(|kept| kept.encoded.clone())
}

/// One manifest, from here or from whichever peer answers first. Its id is its hash: nobody can lie.
async fn manifest(member: &Arc<Member>, id: SnapshotId) -> Result<Vec<u8>, GatherError> {
    let store = member.store.clone();
    if let Ok(Some(bytes)) = member.tasks.blocking(move || known_manifest(&store, id)).await {
        return Ok(bytes);
    }
    let mut waiting: VecDeque<NodeId> = member.asking_order().into();
    let mut asking = JoinSet::new();
    let mut asked = 0;
    loop {
        while asking.len() < limits::PEERS_ASKED_AT_ONCE {
            let Some(peer) = waiting.pop_front() else { break };
            let known = member.clone();
            let request = Request::GetManifest { id };
            asking.spawn(async move { (peer, known.request(peer, &request, known.request_timeout()).await) });
        }
        match asking.join_next().await {
            None if asked == 0 => return Err(GatherError::NoPeers { id }),
            None => return Err(GatherError::Unknown { id, asked }),
            Some(Ok((peer, Ok(Response::Manifest { bytes })))) => {
                asked += 1;
                if Manifest::decode(&bytes).is_ok_and(|(found, _)| found == id) {
                    return Ok(bytes);
                }
                member.misbehaved(peer, What::WrongBytes);
            }
            Some(Ok((_, Ok(_) | Err(RequestError::Refused { .. } | RequestError::Improper { .. })))) => {
                asked += 1;
            }
            Some(Ok((_, Err(error)))) => tracing::debug!(%error, "a peer could not be asked for a manifest"),
            Some(Err(_)) => return Err(GatherError::Cancelled { id }),
        }
    }
}

/// What each of these peers has of a service, as far as they answer.
pub(crate) async fn ask_snapshots(
    member: &Arc<Member>,
    peers: Vec<NodeId>,
    service: ServiceName,
) -> Vec<(NodeId, Vec<sustain_proto::wire::SnapshotSummary>)> {
    let mut waiting = peers.into_iter();
    let mut asking = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while asking.len() < limits::PEERS_ASKED_AT_ONCE {
            let Some(peer) = waiting.next() else { break };
            let known = member.clone();
            let request = Request::Snapshots { service: service.clone() };
            asking.spawn(async move { (peer, known.request(peer, &request, known.request_timeout()).await) });
        }
        match asking.join_next().await {
            None => break,
            Some(Ok((peer, Ok(Response::Snapshots { list })))) => found.push((peer, list)),
            Some(Ok((_, Err(error)))) => {
                tracing::debug!(error = error_chain(&error), "a peer could not be asked for its snapshots");
            }
            Some(_) => {}
        }
    }
    found.sort_unstable_by_key(|(peer, _)| *peer);
    found
}
