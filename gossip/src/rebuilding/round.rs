//! One round at one peer: lists of the groups of some fragments, and then what is missing of each.

use std::collections::VecDeque;
use std::sync::Arc;

use sustain_proto::limits::{GROUP_BYTES, MESSAGE_RANGE_BYTES_MAX, MESSAGE_RANGES_MAX};
use sustain_proto::{FragmentId, GroupList, NodeId, PackId, Piece, Sheet, group_count};
use sustain_store::{FragmentError, PackBuilder};
use tokio::sync::mpsc;

use crate::conduct::What;
use crate::error::ErrorKind;
use crate::gather::SharedProgress;
use crate::limits;
use crate::member::Member;
use crate::transfer::{Event, Target, Transfers, Wanted};

/// A pack that is being made.
pub(super) struct Making {
    pub(super) sheet: Sheet,
    pub(super) builder: Arc<PackBuilder>,
}

/// A fragment of it that is fetched.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) making: Arc<Making>,
    pub(super) index: u8,
}

impl Job {
    pub(super) fn pack(&self) -> PackId {
        self.making.sheet.pack.id
    }

    pub(super) fn bytes(&self) -> u64 {
        self.making.sheet.cut.fragment_bytes(self.making.sheet.pack.bytes)
    }

    fn id(&self) -> FragmentId {
        let id = self.making.sheet.fragments.get(usize::from(self.index));
        id.copied().unwrap_or_else(|| FragmentId::from_bytes([0; 32]))
    }

    fn piece(&self) -> Piece {
        Piece::Fragment(self.id())
    }
}

/// What the rebuilding is told.
pub(super) enum Told {
    /// Groups with so many bytes came.
    Came { round: u64, bytes: u64 },
    /// A fragment is here whole; so many bytes of it were here before.
    Done { round: u64, pack: PackId, index: u8, resumed: u64 },
    /// The peer does not have it, or sent something else.
    Unfit { round: u64, pack: PackId, index: u8, lied: bool },
    /// All is done, or it broke off, and why.
    Ended { round: u64, failure: Option<String> },
    /// A pack was made and is here, or can't be.
    Made(PackId, Result<(), FragmentError>),
    /// This node's store can't take it.
    Store(ErrorKind, Box<dyn std::error::Error + Send + Sync>),
}

/// One round.
pub(super) struct Round {
    pub(super) member: Arc<Member>,
    pub(super) progress: SharedProgress,
    pub(super) number: u64,
    pub(super) peer: NodeId,
    pub(super) told: mpsc::Sender<Told>,
}

/// A fragment whose list is here, and what is missing of it.
struct Opened {
    job: Job,
    list: Arc<GroupList>,
    missing: Vec<usize>,
    resumed: u64,
}

impl Round {
    pub(super) async fn run(self, jobs: Vec<Job>) {
        let failure = self.fetch(jobs).await.err();
        self.tell(Told::Ended { round: self.number, failure }).await;
    }

    async fn tell(&self, told: Told) {
        let _ = self.told.send(told).await;
    }

    fn transfers(&self) -> (Transfers, mpsc::Receiver<Event>) {
        let (events, inbox) = mpsc::channel(limits::GATHER_EVENTS_MAX);
        (Transfers { member: self.member.clone(), events, progress: self.progress.clone() }, inbox)
    }

    async fn fetch(&self, jobs: Vec<Job>) -> Result<(), String> {
        let opened = self.open(self.lists(jobs).await?).await?;
        for some in in_requests(opened) {
            self.groups(some).await?;
        }
        Ok(())
    }

    /// The lists of fragments' groups, of those that the peer has.
    async fn lists(&self, jobs: Vec<Job>) -> Result<Vec<(Job, GroupList)>, String> {
        let (mut listed, mut unlisted) = (Vec::new(), Vec::new());
        for job in jobs {
            match GroupList::single(*job.id().as_bytes(), job.bytes()) {
                Some(list) => listed.push((job, list)),
                None => unlisted.push(job),
            }
        }
        if unlisted.is_empty() {
            return Ok(listed);
        }
        let (transfers, mut events) = self.transfers();
        let pieces = unlisted.iter().map(|job| (job.piece(), job.bytes())).collect();
        let asking = transfers.lists(self.number, self.peer, pieces);
        let taking = async {
            while let Some(event) = events.recv().await {
                let find = |piece: Piece| unlisted.iter().find(|job| job.piece() == piece).cloned();
                match event {
                    Event::Listed(_, piece, list) => listed.extend(find(piece).map(|job| (job, list))),
                    Event::Absent(_, _, piece) => self.unfit(find(piece), false).await,
                    Event::Wrong(_, piece, what) => {
                        self.wrong(what);
                        self.unfit(find(piece), true).await;
                    }
                    Event::Ended(_, failure) => return failure,
                    _ => {}
                }
            }
            None
        };
        let ((), failure) = tokio::join!(asking, taking);
        failure.map_or(Ok(listed), Err)
    }

    fn wrong(&self, what: What) {
        let (peer, words) = (self.peer.short(), what.words());
        tracing::warn!(%peer, what = words, "a peer sent something else than it was asked for");
        self.member.misbehaved(self.peer, what);
    }

    async fn unfit(&self, job: Option<Job>, lied: bool) {
        if let Some(job) = job {
            self.tell(Told::Unfit { round: self.number, pack: job.pack(), index: job.index, lied }).await;
        }
    }

    /// Looks at what is here of them.
    async fn open(&self, listed: Vec<(Job, GroupList)>) -> Result<Vec<Opened>, String> {
        let opening = self.member.tasks.blocking(move || {
            let open = |(job, list): (Job, GroupList)| {
                let here = job.making.builder.add(job.index, list.clone())?;
                let count = |is_here: bool| {
                    let groups = here.iter().enumerate().filter(move |(_, here)| **here == is_here);
                    groups.map(|(group, _)| group)
                };
                let size = |group: usize| list.range(group).end - list.range(group).start;
                let resumed = count(true).map(size).sum();
                Ok(Opened { missing: count(false).collect(), resumed, list: Arc::new(list.clone()), job })
            };
            let named = listed.into_iter().map(|(job, list)| (job.clone(), open((job, list))));
            named.collect::<Vec<(Job, Result<Opened, FragmentError>)>>()
        });
        let mut all = Vec::new();
        for (job, opened) in
            opening.await.map_err(|_| "the work with the store was interrupted".to_owned())?
        {
            match opened {
                Ok(opened) if opened.missing.is_empty() => self.done(&opened).await,
                Ok(opened) => all.push(opened),
                // Another one is taken.
                Err(FragmentError::Receiving { .. }) => self.unfit(Some(job), false).await,
                Err(error) => self.tell(Told::Store(error.kind().into(), Box::new(error))).await,
            }
        }
        Ok(all)
    }

    async fn done(&self, opened: &Opened) {
        let (pack, index) = (opened.job.pack(), opened.job.index);
        self.tell(Told::Done { round: self.number, pack, index, resumed: opened.resumed }).await;
    }

    /// Fetches what fits one request.
    async fn groups(&self, some: Vec<(Arc<Opened>, std::ops::Range<usize>)>) -> Result<(), String> {
        let (transfers, mut events) = self.transfers();
        let wanted = some.iter().map(|(opened, groups)| Wanted {
            piece: opened.job.piece(),
            target: Target::Fragment {
                builder: opened.job.making.builder.clone(),
                index: opened.job.index,
                list: opened.list.clone(),
            },
            groups: groups.clone(),
        });
        let asking = transfers.groups(self.number, self.peer, wanted.collect());
        let mut expected: VecDeque<(usize, usize)> = VecDeque::new();
        for (at, (_, groups)) in some.iter().enumerate() {
            expected.extend(groups.clone().map(|group| (at, group)));
        }
        let taking = async {
            while let Some(event) = events.recv().await {
                let find = |piece: Piece| some.iter().position(|(opened, _)| opened.job.piece() == piece);
                match event {
                    Event::Came(_, sizes) => {
                        let bytes = sizes.iter().sum();
                        self.tell(Told::Came { round: self.number, bytes }).await;
                        for _ in sizes {
                            let Some((at, group)) = expected.pop_front() else { break };
                            let (opened, _) = &some[at];
                            if opened.missing.last() == Some(&group) {
                                self.done(opened).await;
                            }
                        }
                    }
                    Event::Absent(_, _, piece) => {
                        expected.retain(|(at, _)| some[*at].0.job.piece() != piece);
                        self.unfit(find(piece).map(|at| some[at].0.job.clone()), false).await;
                    }
                    Event::Wrong(_, piece, what) => {
                        self.wrong(what);
                        self.unfit(find(piece).map(|at| some[at].0.job.clone()), true).await;
                    }
                    Event::Store(kind, source) => self.tell(Told::Store(kind, source)).await,
                    Event::Ended(_, failure) => return failure,
                    _ => {}
                }
            }
            None
        };
        let ((), failure) = tokio::join!(asking, taking);
        failure.map_or(Ok(()), Err)
    }
}

/// Puts what is missing into requests, in order: each fragment's last missing group is in the last one that has any of
/// it.
fn in_requests(opened: Vec<Opened>) -> Vec<Vec<(Arc<Opened>, std::ops::Range<usize>)>> {
    let mut requests = Vec::new();
    let mut some: Vec<(Arc<Opened>, std::ops::Range<usize>)> = Vec::new();
    let mut room = (MESSAGE_RANGE_BYTES_MAX / GROUP_BYTES) as usize;
    for opened in opened.into_iter().map(Arc::new) {
        for group in &opened.missing {
            if room == 0 || some.len() == MESSAGE_RANGES_MAX {
                requests.push(std::mem::take(&mut some));
                room = (MESSAGE_RANGE_BYTES_MAX / GROUP_BYTES) as usize;
            }
            room -= 1;
            match some.last_mut() {
                Some((last, range)) if Arc::ptr_eq(last, &opened) && range.end == *group => range.end += 1,
                _ => some.push((opened.clone(), *group..*group + 1)),
            }
        }
        debug_assert!(opened.missing.len() <= group_count(opened.list.bytes()));
    }
    if !some.is_empty() {
        requests.push(some);
    }
    requests
}
