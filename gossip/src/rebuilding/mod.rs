//! Rebuilds packs that nobody has whole, of any `needed` of their fragments, from the peers that give them soonest.
//!
//! ```text
//! who has which fragments ─▶ sheets ─▶ fragments, each from another peer ─▶ packs, compared with their ids
//!                                          └ slow, gone, false: another fragment instead
//! ```
//! Each group is compared with its fragment's id before it counts, and each extent is decoded as soon as enough of it
//! is here. What came stays: who rebuilds the pack later goes on from there.

mod finishing;
mod lanes;
mod round;
mod survey;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sustain_proto::{NodeId, PackId, PackRef, SnapshotId};
use sustain_store::{FragmentError, Fragments};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::GatherError;
use crate::gather::{GatherReport, SharedProgress};
use crate::limits;
use crate::member::Member;
use lanes::Lanes;
use round::{Job, Making, Round, Told};
use survey::{SheetCheck, Source, Survey};
use work::{Placed, Work};

/// How often to look for slow peers, and whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// All that may be under way.
const FULL: u64 = 1_000;

struct Rebuilding<'a> {
    member: Arc<Member>,
    id: SnapshotId,
    fragments: Fragments,
    progress: SharedProgress,
    report: &'a mut GatherReport,
    survey: Survey,
    lanes: Lanes,
    waiting: VecDeque<(PackRef, Source)>,
    works: BTreeMap<PackId, Work>,
    rounds: BTreeMap<u64, Placed>,
    rounds_ever: u64,
    /// Packs whose sheet made another pack.
    false_sheets: Vec<(PackRef, SheetCheck)>,
    told: mpsc::Sender<Told>,
    inbox: mpsc::Receiver<Told>,
    tasks: JoinSet<()>,
    started: Instant,
}

/// Rebuilds these packs.
pub(crate) async fn rebuild(
    member: &Arc<Member>,
    id: SnapshotId,
    packs: BTreeMap<PackId, PackRef>,
    progress: SharedProgress,
    report: &mut GatherReport,
) -> Result<(), GatherError> {
    let store = member.store.clone();
    let fragments = crate::gather::blocking(member, id, "open the fragments", move || {
        store.fragments().map_err(|error| (error.kind().into(), crate::gather::boxed(error)))
    });
    let fragments = fragments.await?;
    let survey = Survey::take(member, &packs).await;
    let (told, inbox) = mpsc::channel(limits::GATHER_EVENTS_MAX);
    let mut rebuilding = Rebuilding {
        member: member.clone(),
        id,
        fragments,
        progress,
        report,
        survey,
        lanes: Lanes::default(),
        waiting: VecDeque::new(),
        works: BTreeMap::new(),
        rounds: BTreeMap::new(),
        rounds_ever: 0,
        false_sheets: Vec::new(),
        told,
        inbox,
        tasks: JoinSet::new(),
        started: Instant::now(),
    };
    let outcome = rebuilding.all(packs).await;
    let liars = rebuilding.lanes.liars();
    report.liars.extend(liars);
    outcome
}

impl Rebuilding<'_> {
    async fn all(&mut self, packs: BTreeMap<PackId, PackRef>) -> Result<(), GatherError> {
        let mut left = packs;
        let mut tried: BTreeMap<PackId, BTreeSet<SheetCheck>> = BTreeMap::new();
        while !left.is_empty() {
            let sources = self.survey.sheets(&self.member, &left, &tried).await;
            if let Some(pack) = left.keys().find(|pack| !sources.contains_key(pack)) {
                return Err(self.too_few(*pack, self.survey.found(pack), None));
            }
            self.waiting = sources.into_iter().filter_map(|(pack, s)| Some((*left.get(&pack)?, s))).collect();
            self.run().await?;
            // Again with other sheets, if there are any.
            left.clear();
            for (pack, check) in std::mem::take(&mut self.false_sheets) {
                tried.entry(pack.id).or_default().insert(check);
                left.insert(pack.id, pack);
            }
        }
        Ok(())
    }

    fn too_few(&self, pack: PackId, found: usize, needed: Option<usize>) -> GatherError {
        GatherError::TooFew { id: self.id, pack, found, needed, asked: self.survey.answers }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(&mut self) -> Result<(), GatherError> {
        let mut look = tokio::time::interval(LOOK);
        loop {
            if self.progress.cancelled() || self.member.tasks.stopping() {
                return Err(GatherError::Cancelled { id: self.id });
            }
            self.begin().await?;
            self.place()?;
            if self.works.is_empty() && self.waiting.is_empty() {
                self.tasks.abort_all();
                self.rounds.clear();
                return Ok(());
            }
            tokio::select! {
                _ = look.tick() => {
                    while self.tasks.try_join_next().is_some() {}
                    self.doubt();
                }
                told = self.inbox.recv() => match told {
                    Some(told) => self.hear(told)?,
                    None => return Err(GatherError::Cancelled { id: self.id }),
                },
            }
        }
    }

    /// How much is under way, with so many files and bytes more, of [`FULL`].
    fn fullness(&self, files: usize, bytes: u64) -> u64 {
        let files = files + self.works.values().map(|work| work.needed + 1).sum::<usize>();
        let bytes = bytes + self.works.values().map(|work| work.making.sheet.pack.bytes).sum::<u64>();
        let by_files = (files as u64).saturating_mul(FULL) / limits::REBUILT_FILES_MAX as u64;
        by_files.max(bytes.saturating_mul(FULL) / limits::REBUILT_BYTES_MAX)
    }

    /// Begins packs, as many as there is room for.
    async fn begin(&mut self) -> Result<(), GatherError> {
        // Many at a time: what is asked of a peer for each of them goes in one request.
        if !self.works.is_empty() && 2 * self.fullness(0, 0) > FULL {
            return Ok(());
        }
        while let Some((pack, source)) = self.waiting.front() {
            let more = (usize::from(source.sheet.cut.needed) + 1, pack.bytes);
            if !self.works.is_empty() && self.fullness(more.0, more.1) > FULL {
                return Ok(());
            }
            let Some((pack, source)) = self.waiting.pop_front() else { return Ok(()) };
            let (fragments, sheet) = (self.fragments.clone(), source.sheet.clone());
            let opened = self.member.tasks.blocking(move || {
                let held = fragments.of_pack(&sheet.service, &sheet.pack.id).into_iter();
                let ours = held.filter(|held| held.cut == sheet.cut && held.sheet_check == source.check);
                let done: BTreeSet<u8> = ours.filter_map(|held| held.index).collect();
                fragments.build_pack(&sheet).map(|builder| (builder, done, sheet))
            });
            let (builder, done, sheet) = match opened.await {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => return Err(self.store_failure(error)),
                Err(_) => return Err(GatherError::Cancelled { id: self.id }),
            };
            let making = Making { sheet, builder: Arc::new(builder) };
            let work = Work::new(making, source.holders, source.check, done);
            self.works.insert(pack.id, work);
            self.finish_if_whole(pack.id);
        }
        Ok(())
    }

    fn store_failure(&self, error: FragmentError) -> GatherError {
        let kind = error.kind().into();
        GatherError::Store { id: self.id, action: "make a pack", source: Box::new(error), kind }
    }

    /// Asks for what is lacking.
    fn place(&mut self) -> Result<(), GatherError> {
        let mut of_peer: BTreeMap<NodeId, Vec<Job>> = BTreeMap::new();
        let mut short = None;
        for (pack, work) in &self.works {
            let count = work.lacking();
            if count == 0 {
                continue;
            }
            let chosen = work.others(&self.lanes, count, None);
            if chosen.len() < count && work.fetching.is_empty() {
                short = Some((*pack, work.to_be_had(&self.lanes), work.needed));
            }
            for (index, peer) in chosen {
                self.lanes.asked(peer, work.fragment_bytes());
                of_peer.entry(peer).or_default().push(Job { making: work.making.clone(), index });
            }
        }
        if let Some((pack, found, needed)) = short {
            return Err(self.too_few(pack, found, Some(needed)));
        }
        for (peer, jobs) in of_peer {
            for jobs in jobs.chunks(limits::FRAGMENTS_PER_ROUND) {
                self.ask(peer, jobs.to_vec());
            }
        }
        Ok(())
    }

    fn ask(&mut self, peer: NodeId, jobs: Vec<Job>) {
        self.rounds_ever += 1;
        let number = self.rounds_ever;
        for job in &jobs {
            if let Some(work) = self.works.get_mut(&job.pack()) {
                work.fetching.insert(job.index, number);
                work.late.remove(&job.index);
            }
        }
        let now_ms = self.now_ms();
        let names = jobs.iter().map(|job| (job.pack(), job.index)).collect();
        let bytes = jobs.iter().map(Job::bytes).sum();
        let round = Round {
            member: self.member.clone(),
            progress: self.progress.clone(),
            number,
            peer,
            told: self.told.clone(),
        };
        let task = self.tasks.spawn(round.run(jobs));
        let placed = Placed { peer, task, jobs: names, bytes, came: 0, begun_ms: now_ms, moved_ms: now_ms };
        self.rounds.insert(number, placed);
    }

    fn hear(&mut self, told: Told) -> Result<(), GatherError> {
        let now_ms = self.now_ms();
        match told {
            Told::Came { round, bytes } => {
                self.report.bytes_fetched += bytes;
                if let Some(placed) = self.rounds.get_mut(&round) {
                    placed.came += bytes;
                    placed.moved_ms = now_ms;
                    self.lanes.came(placed.peer, bytes);
                    *self.report.peers.entry(placed.peer).or_insert(0) += bytes;
                }
            }
            Told::Done { round, pack, index, resumed } => {
                self.report.bytes_resumed += resumed;
                if let Some(placed) = self.rounds.get_mut(&round) {
                    placed.moved_ms = now_ms;
                    self.lanes.released(placed.peer, resumed);
                }
                self.end_job(round, pack, index);
                if let Some(work) = self.works.get_mut(&pack) {
                    work.done.insert(index);
                }
                self.finish_if_whole(pack);
            }
            Told::Unfit { round, pack, index, lied } => {
                let Some(peer) = self.rounds.get(&round).map(|placed| placed.peer) else { return Ok(()) };
                if lied {
                    self.lanes.lied(peer);
                }
                self.fail_job(round, pack, index);
            }
            Told::Ended { round, failure } => self.ended(round, failure, now_ms),
            Told::Made(pack, outcome) => return self.made(pack, outcome),
            Told::Store(kind, source) => {
                return Err(GatherError::Store { id: self.id, action: "keep a fragment", source, kind });
            }
        }
        Ok(())
    }

    /// A fragment is no longer fetched in a round.
    fn end_job(&mut self, round: u64, pack: PackId, index: u8) {
        if let Some(placed) = self.rounds.get_mut(&round) {
            placed.jobs.remove(&(pack, index));
        }
        if let Some(work) = self.works.get_mut(&pack) {
            if work.fetching.get(&index) == Some(&round) {
                work.fetching.remove(&index);
                work.late.remove(&index);
            }
        }
    }

    fn fail_job(&mut self, round: u64, pack: PackId, index: u8) {
        let peer = self.rounds.get(&round).map(|placed| placed.peer);
        self.end_job(round, pack, index);
        if let (Some(work), Some(peer)) = (self.works.get_mut(&pack), peer) {
            work.failed.insert((index, peer));
        }
    }

    fn ended(&mut self, round: u64, failure: Option<String>, now_ms: u64) {
        let Some(placed) = self.rounds.get(&round) else { return };
        let (peer, came) = (placed.peer, placed.came);
        self.lanes.measured(peer, came, placed.moved_ms.max(now_ms) - placed.begun_ms);
        self.lanes.released(peer, placed.bytes.saturating_sub(came));
        if let Some(reason) = failure {
            tracing::debug!(peer = %peer.short(), reason, "a transfer broke off");
            self.report.transfers_broken += 1;
            self.lanes.failed(peer);
        }
        for (pack, index) in placed.jobs.clone() {
            self.fail_job(round, pack, index);
        }
        self.rounds.remove(&round);
    }

    /// Has others' fragments fetched, too, where a round is slow or stands still.
    fn doubt(&mut self) {
        let now_ms = self.now_ms();
        let mut late = Vec::new();
        for placed in self.rounds.values() {
            for (pack, index) in &placed.jobs {
                let work = self.works.get(pack).filter(|work| !work.late.contains(index));
                if work.is_some_and(|work| placed.is_late_for(work, &self.lanes, now_ms)) {
                    late.push((*pack, *index));
                }
            }
        }
        for (pack, index) in late {
            if let Some(work) = self.works.get_mut(&pack) {
                work.late.insert(index);
            }
        }
    }
}
