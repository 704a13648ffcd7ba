//! Gathers a snapshot: asks who has what, fetches the packs from several peers at once, imports (P11, P21).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sustain_proto::wire::{Request, Response};
use sustain_proto::{Manifest, NodeId, PackId, PackRef, SnapshotId};
use sustain_store::{PackReceiver, Progress};
use tokio::task::JoinSet;

use crate::error::{GatherError, RequestError};
use crate::fetch::{self, Fetched, Outcome};
use crate::limits;
use crate::member::Member;
use crate::plan::{Plan, PlanLimits, Stuck, Verdict};
use sustain_store::error_chain;

/// What watches a gathering.
pub type SharedProgress = Arc<dyn Progress + Send + Sync>;

/// How often to ask whether to stop.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// What gathering took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatherReport {
    /// Bytes of packs received, those for nothing included.
    pub bytes_fetched: u64,
    /// Packs that came from other nodes.
    pub packs_fetched: usize,
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

/// Gathers a snapshot into this node's store. Dropping the future leaves nothing but packs that came
/// whole, which the next attempt need not fetch.
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

/// Fetches whole packs, from all peers that have them.
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
    Gathering::new(member.clone(), id, wanted, progress).run(report).await
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

/// One manifest, from here or from whichever peer answers first. Its id is its hash: nobody can lie.
async fn manifest(member: &Arc<Member>, id: SnapshotId) -> Result<Vec<u8>, GatherError> {
    let store = member.store.clone();
    if let Ok(Ok((_, bytes))) = member.tasks.blocking(move || store.manifest(id)).await {
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
            asking.spawn(async move { known.request(peer, &request, known.request_timeout()).await });
        }
        match asking.join_next().await {
            None if asked == 0 => return Err(GatherError::NoPeers { id }),
            None => return Err(GatherError::Unknown { id, asked }),
            Some(Ok(Ok(Response::Manifest { bytes }))) => {
                asked += 1;
                if Manifest::decode(&bytes).is_ok_and(|(found, _)| found == id) {
                    return Ok(bytes);
                }
            }
            Some(Ok(Ok(_) | Err(RequestError::Refused { .. } | RequestError::Improper { .. }))) => asked += 1,
            Some(Ok(Err(error))) => tracing::debug!(%error, "a peer could not be asked for a manifest"),
            Some(Err(_)) => return Err(GatherError::Cancelled { id }),
        }
    }
}

/// What ended.
enum Event {
    /// A peer said which packs it has; none if it gave no answer.
    Has(NodeId, Option<Vec<PackId>>),
    /// A transfer ended.
    Fetched(Fetched),
}

struct Gathering {
    member: Arc<Member>,
    id: SnapshotId,
    wanted: BTreeMap<PackId, PackRef>,
    progress: SharedProgress,
    plan: Plan,
    running: JoinSet<Event>,
    to_ask: VecDeque<NodeId>,
    asking: usize,
    answers: usize,
    /// What came of packs that are not whole yet.
    partial: BTreeMap<PackId, Box<PackReceiver>>,
    /// How far each pack came at best, so that no byte is reported as progress twice.
    counted: BTreeMap<PackId, u64>,
    last_failure: String,
}

impl Gathering {
    fn new(
        member: Arc<Member>,
        id: SnapshotId,
        wanted: BTreeMap<PackId, PackRef>,
        progress: SharedProgress,
    ) -> Self {
        let plan_limits = PlanLimits {
            per_peer: limits::PACKS_FETCHED_PER_PEER,
            total: limits::PACKS_FETCHED_AT_ONCE,
            tries: limits::PACK_TRIES_PER_PEER,
        };
        Self {
            plan: Plan::new(plan_limits, wanted.keys().copied()),
            to_ask: member.asking_order().into(),
            member,
            id,
            wanted,
            progress,
            running: JoinSet::new(),
            asking: 0,
            answers: 0,
            partial: BTreeMap::new(),
            counted: BTreeMap::new(),
            last_failure: String::new(),
        }
    }

    async fn run(mut self, report: &mut GatherReport) -> Result<(), GatherError> {
        let id = self.id;
        self.progress.total(self.wanted.values().map(|pack| pack.bytes).sum());
        let mut check = tokio::time::interval(CANCEL_CHECK);
        loop {
            if self.progress.cancelled() || self.member.tasks.stopping() {
                return Err(GatherError::Cancelled { id });
            }
            self.ask();
            self.fetch();
            match self.plan.verdict() {
                Verdict::Finished => return Ok(()),
                Verdict::Stuck(stuck) if self.asking == 0 => return Err(self.hopeless(stuck)),
                Verdict::Going | Verdict::Stuck(_) => {}
            }
            tokio::select! {
                _ = check.tick() => {}
                event = self.running.join_next() => match event {
                    Some(Ok(Event::Has(peer, packs))) => self.has(peer, packs),
                    Some(Ok(Event::Fetched(fetched))) => self.fetched(fetched, report)?,
                    Some(Err(_)) => return Err(GatherError::Cancelled { id }),
                    None => {}
                },
            }
        }
    }

    fn ask(&mut self) {
        while self.asking < limits::PEERS_ASKED_AT_ONCE {
            let Some(peer) = self.to_ask.pop_front() else { return };
            let member = self.member.clone();
            let request = Request::HavePacks { ids: self.wanted.keys().copied().collect() };
            self.asking += 1;
            self.running.spawn(async move {
                match member.request(peer, &request, member.request_timeout()).await {
                    Ok(Response::Having { packs }) => Event::Has(peer, Some(packs)),
                    Ok(_) => Event::Has(peer, None),
                    Err(error) => {
                        tracing::debug!(%error, "a peer could not be asked for packs");
                        Event::Has(peer, None)
                    }
                }
            });
        }
    }

    fn has(&mut self, peer: NodeId, packs: Option<Vec<PackId>>) {
        self.asking -= 1;
        if let Some(packs) = packs {
            self.answers += 1;
            self.plan.holds(peer, &packs);
        }
    }

    fn fetch(&mut self) {
        while let Some(next) = self.plan.next() {
            let Some(pack) = self.wanted.get(&next.pack).copied() else { return };
            let partial = self.partial.remove(&pack.id).filter(|_| !next.afresh);
            let counted = self.counted.get(&pack.id).copied().unwrap_or(0);
            let (member, progress) = (self.member.clone(), self.progress.clone());
            self.running.spawn(async move {
                Event::Fetched(fetch::fetch(&member, next.peer, pack, partial, counted, &progress).await)
            });
        }
    }

    fn fetched(&mut self, fetched: Fetched, report: &mut GatherReport) -> Result<(), GatherError> {
        let Fetched { pack, peer, bytes, counted, outcome } = fetched;
        report.bytes_fetched += bytes;
        if bytes > 0 {
            *report.peers.entry(peer).or_insert(0) += bytes;
        }
        self.counted.insert(pack, counted);
        match outcome {
            Outcome::Whole => {
                report.packs_fetched += 1;
                self.plan.fetched(pack);
            }
            Outcome::Broken { partial, reason } => {
                tracing::debug!(peer = %peer.short(), pack = %pack.short(), reason, "a transfer broke off");
                report.transfers_broken += 1;
                self.last_failure = reason;
                self.plan.failed(pack, bytes > 0);
                if let Some(partial) = partial {
                    self.partial.insert(pack, partial);
                }
            }
            Outcome::Wrong { reason } => {
                tracing::warn!(peer = %peer.short(), pack = %pack.short(), reason, "a pack came wrong");
                if self.plan.lied(pack) {
                    report.liars.insert(peer);
                }
            }
            Outcome::Store { kind, source } => {
                let id = self.id;
                return Err(GatherError::Store { id, action: "keep a pack", source, kind });
            }
        }
        Ok(())
    }

    /// Nobody is left who could give what is missing.
    fn hopeless(&mut self, stuck: Stuck) -> GatherError {
        let (id, asked) = (self.id, self.answers);
        if asked == 0 {
            GatherError::NoPeers { id }
        } else if !stuck.missing.is_empty() {
            GatherError::Missing { id, missing: stuck.missing, asked }
        } else if !stuck.unreachable.is_empty() {
            let reason = std::mem::take(&mut self.last_failure);
            GatherError::Unreachable { id, missing: stuck.unreachable, reason }
        } else {
            GatherError::Damaged { id, damaged: stuck.damaged }
        }
    }
}

/// What each of these peers has of a service, as far as they answer.
pub(crate) async fn ask_snapshots(
    member: &Arc<Member>,
    peers: Vec<NodeId>,
    service: sustain_proto::ServiceName,
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
