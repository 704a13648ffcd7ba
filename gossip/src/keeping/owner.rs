//! The task that owns the keeper.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use sustain_proto::{Cut, NodeId, ServiceName, SnapshotId, Term};
use sustain_store::error_chain;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::asking::{self, Errand};
use super::levels::Level;
use super::roll::{Roll, Standing};
use super::works::{Start, Work, Works};
use super::{Inbox, Inlet, KeepingStatus, Listed, Opened, Retain, Worked, levels};
use crate::depot::{Depot, DepotError, PartList, PartReceiver, Remembered};
use crate::healths::members_of;
use crate::keeper::{Action, Event, Keeper, Message, Part, Request};
use crate::limits;
use crate::member::Member;
use crate::membership::Health;
use crate::transport::links::lock;

/// Whoever wants to receive a part, and its groups.
type Opening = (PartList, oneshot::Sender<Opened>);

struct Owner {
    member: Arc<Member>,
    depot: Arc<Depot>,
    keeper: Keeper,
    random: StdRng,
    roll: Roll,
    answers: Answers,
    /// What ends each request of this node.
    flights: BTreeMap<Request, CancellationToken>,
    /// Parts that are coming.
    receivers: BTreeMap<Part, Arc<PartReceiver>>,
    works: Works<Opening>,
    /// Lines whose snapshots are being read from the store.
    looking: BTreeSet<(ServiceName, Term)>,
    tolerances: BTreeMap<ServiceName, u32>,
}

/// Runs until the cluster stops.
pub(crate) async fn run(
    member: Arc<Member>,
    mut inbox: Inbox,
    (keeper, depot): (Keeper, Depot),
    random: StdRng,
) {
    member.tasks.spawn(levels::run(member.clone()));
    let mut owner = Owner {
        keeper,
        random,
        roll: Roll::default(),
        answers: Answers::default(),
        flights: BTreeMap::new(),
        receivers: BTreeMap::new(),
        works: Works::new(limits::MAKES_AT_ONCE),
        looking: BTreeSet::new(),
        tolerances: BTreeMap::new(),
        member: member.clone(),
        depot: Arc::new(depot),
    };
    owner.look_at_members().await;
    let keeping = &member.keeping;
    loop {
        let pause_ms = owner.keeper.wakes_ms().saturating_sub(member.now_ms());
        tokio::select! {
            biased;
            inlet = inbox.local.recv() => {
                let Some(inlet) = inlet else { return };
                owner.take(inlet).await;
            }
            () = keeping.members.notified() => owner.look_at_members().await,
            () = keeping.retain_news.notified() => owner.look_at_store(),
            inlet = inbox.messages.recv() => {
                let Some(inlet) = inlet else { return };
                owner.take(inlet).await;
            }
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => owner.handle(Event::Wake).await,
        }
    }
}

impl Owner {
    async fn take(&mut self, inlet: Inlet) {
        match inlet {
            Inlet::Event(event) | Inlet::Heard { event, .. } => self.handle(event).await,
            Inlet::Asked { from, ask, answer } => {
                let event = self.answers.asked(from, &ask, answer);
                self.handle(event).await;
            }
            Inlet::Open { part, list, answer } => match self.receivers.get(&part) {
                // It fails where it is not wanted any more.
                Some(receiver) => drop(answer.send(Ok(receiver.clone()))),
                None => {
                    self.works.push(part, Work::Open((list, answer)));
                    self.begin_works();
                }
            },
            Inlet::Worked(worked) => self.worked(worked).await,
            Inlet::Listed { retain, listed } => self.listed(retain, listed).await,
            Inlet::Status(answer) => {
                // It fails where nobody waits any more.
                let _ = answer.send(self.status());
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if std::env::var_os("KEEPDBG").is_some() {
                eprintln!("{} {} <- {}", self.member.now_ms(), self.member.id.short(), short(&event));
            }
            let actions = self.keeper.handle(self.member.now_ms(), event, &mut self.random);
            if std::env::var_os("KEEPDBG").is_some() {
                for action in &actions {
                    eprintln!("{} {}    -> {}", self.member.now_ms(), self.member.id.short(), short(action));
                }
            }
            self.act(actions, &mut events).await;
        }
        let keeper = &self.keeper;
        self.flights.retain(|request, end| {
            let is_awaited = keeper.awaits(*request);
            if !is_awaited {
                end.cancel();
            }
            is_awaited
        });
        self.begin_works();
    }

    async fn act(&mut self, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Keep { .. } | Action::Remember { .. } | Action::Forget { .. } => {
                    let mut records = vec![action];
                    while let Some(Action::Keep { .. } | Action::Remember { .. } | Action::Forget { .. }) =
                        actions.front()
                    {
                        records.extend(actions.pop_front());
                    }
                    self.keep(records).await;
                }
                Action::Send { to, message } => self.send(to, message, events),
                Action::Serve { to, request, part, range } => {
                    let pack = self.keeper.pack(&part.pack);
                    let is_given = pack.is_some_and(|pack| {
                        self.answers.grant(to, request, pack, (&self.depot, part, range))
                    });
                    if !is_given {
                        events.push_back(Event::Served { to, request });
                    }
                }
                Action::Sync { part } => self.works.push(part, Work::Sync),
                Action::Make { part, from } => self.works.push(part, Work::Make(from)),
                Action::Drop { part } => {
                    self.receivers.remove(&part);
                    self.works.push(part, Work::Drop);
                }
                Action::Level { service, id, level } => {
                    let tolerance = self.tolerances.get(&service).copied().unwrap_or(u32::MAX);
                    let level = level.map(|level| u32::try_from(level).unwrap_or(u32::MAX));
                    self.member.keeping.levels.put(service, id, Level { level, tolerance });
                }
                Action::Misbehaved { node, what } => {
                    tracing::warn!(peer = %node.short(), what, "a peer sends what it should not");
                }
                Action::TooMuch { service, term, what } => {
                    tracing::warn!(%service, %term, what, "not everything is kept");
                }
            }
        }
    }

    /// Writes down what must outlive this process, before anything else is done. As long as that fails nothing is:
    /// others must not rely on what this node would not know any more after a restart.
    async fn keep(&self, records: Vec<Action>) {
        let records = Arc::new(records);
        loop {
            let (depot, now) = (self.depot.clone(), records.clone());
            let write = move || keep(&depot, &now);
            match self.member.tasks.blocking(write).await {
                Ok(Ok(kept)) => return self.kept(kept),
                Err(_) => return,
                Ok(Err(error)) => {
                    tracing::error!(error = error_chain(&error), "can't write down what this node keeps");
                    tokio::time::sleep(limits::KEEP_AGAIN).await;
                }
            }
        }
    }

    fn send(&mut self, to: NodeId, message: Message, events: &mut VecDeque<Event>) {
        match message {
            Message::Ask { request, part, missing, is_stuck } => {
                let Some(pack) = self.keeper.pack(&part.pack) else {
                    return events.push_back(Event::Failed { request });
                };
                let receiver = self.receivers.get(&part).cloned();
                let errand = Errand { request, to, pack, part, missing, is_stuck, receiver };
                let end = CancellationToken::new();
                self.flights.insert(request, end.clone());
                let work = asking::run(self.member.clone(), errand);
                self.member.tasks.spawn(async move {
                    end.run_until_cancelled_owned(work).await;
                });
            }
            // What is given says so itself.
            Message::Grant { .. } => {}
            Message::Refuse { request, why } => self.answers.refuse(to, request, why),
            message => self.member.keeping.post(&to, message),
        }
    }

    /// Begins what may be done with the disk now.
    fn begin_works(&mut self) {
        for start in self.works.begin() {
            let (member, depot) = (self.member.clone(), self.depot.clone());
            let pack = |part: &Part| self.keeper.pack(&part.pack);
            let work: Box<dyn FnOnce() -> Worked + Send> = match start {
                Start::Sync(asked) => Box::new(move || {
                    let report = depot.sync(&asked);
                    Worked::Synced { asked, report }
                }),
                Start::Make(part, from) => Box::new(move || {
                    let made = depot.make(&part, &from);
                    Worked::Made(part, made)
                }),
                Start::Open(part, (list, answer)) => {
                    let pack = pack(&part);
                    Box::new(move || {
                        let opened = match pack {
                            Some(pack) => depot.receive(&pack, &part, list),
                            None => Err(DepotError::Unlisted { part }),
                        };
                        Worked::Opened(part, opened, answer)
                    })
                }
                Start::Drop(parts) => Box::new(move || {
                    if let Err(error) = depot.drop_parts(&parts) {
                        tracing::warn!(error = error_chain(&error), "what is not needed stays for now");
                    }
                    Worked::Dropped(parts)
                }),
            };
            let done = self.member.tasks.blocking(work);
            self.member.tasks.spawn(async move {
                if let Ok(worked) = done.await {
                    member.keeping.tell(Inlet::Worked(worked)).await;
                }
            });
        }
    }

    async fn worked(&mut self, worked: Worked) {
        match worked {
            Worked::Synced { asked, report } => {
                self.works.synced(&asked);
                self.tell_imported(report.imported);
                for (part, outcome) in report.parts {
                    self.receivers.remove(&part);
                    match outcome {
                        Ok(()) => self.handle(Event::Synced { part }).await,
                        Err(error) => {
                            let (pack, error) = (part.pack.short(), error_chain(&error));
                            tracing::warn!(%pack, error, "a part could not be kept");
                            // Not at once: where the disk is full it would come again and again.
                            let member = self.member.clone();
                            self.member.tasks.spawn(async move {
                                tokio::time::sleep(limits::KEEP_AGAIN).await;
                                member.keeping.tell(Inlet::Event(Event::Lost { part })).await;
                            });
                        }
                    }
                }
            }
            Worked::Made(part, made) => {
                self.works.done(&part);
                let event = match made {
                    Ok(()) => Event::Made { part },
                    Err(error) => {
                        let (pack, error) = (part.pack.short(), error_chain(&error));
                        tracing::warn!(%pack, error, "a part could not be made");
                        Event::NotMade { part }
                    }
                };
                self.handle(event).await;
            }
            Worked::Dropped(parts) => parts.iter().for_each(|part| self.works.done(part)),
            Worked::Opened(part, opened, answer) => {
                self.works.done(&part);
                if let Ok(receiver) = &opened {
                    self.receivers.insert(part, receiver.clone());
                }
                // It fails where it is not wanted any more.
                let _ = answer.send(opened);
            }
        }
        self.begin_works();
    }

    /// What came of taking note of catalogs.
    fn kept(&self, Remembered { imported, unlisted: _ }: Remembered) {
        self.tell_imported(imported);
    }

    fn tell_imported(&self, snapshots: Vec<SnapshotId>) {
        if !snapshots.is_empty() {
            self.member.handler.imported(snapshots);
        }
    }

    async fn look_at_members(&mut self) {
        let member = &self.member;
        let is_alive = |node: &NodeId| {
            let health = member.healths.view(node).map(|(health, _)| health);
            *node == member.id
                || health.is_some_and(|health| health != Health::Down)
                || member.reach.reachable(node)
        };
        let standing: Standing = members_of(member)
            .into_iter()
            .map(|(node, label)| {
                let is_alive = is_alive(&node);
                (node, (label, is_alive))
            })
            .collect();
        for event in self.roll.changes(standing) {
            self.handle(event).await;
        }
    }

    /// Reads what the store retains of the lines of which that is wanted.
    fn look_at_store(&mut self) {
        let retains = std::mem::take(&mut *lock(&self.member.keeping.retains));
        for (line, retain) in retains {
            if self.looking.contains(&line) {
                // It is looked at again when that is done.
                lock(&self.member.keeping.retains).entry(line).or_insert(retain);
                continue;
            }
            self.looking.insert(line);
            let (member, depot) = (self.member.clone(), self.depot.clone());
            let (service, cut) = (retain.service.clone(), self.cut());
            let known = self.keeper.catalog(&service).cloned();
            let read = self.member.tasks.blocking(move || {
                let entries = depot.entries(&service, cut, known.as_deref())?;
                let lacking = depot.lacking(&entries);
                Ok::<_, DepotError>((entries, lacking))
            });
            self.member.tasks.spawn(async move {
                let Ok(read) = read.await else { return };
                let listed = read.map_err(|error| {
                    let (service, error) = (&retain.service, error_chain(&error));
                    tracing::warn!(%service, error, "can't read what is to be kept");
                });
                member.keeping.tell(Inlet::Listed { retain, listed: listed.ok() }).await;
            });
        }
    }

    /// How packs are cut that are new.
    fn cut(&self) -> Option<Cut> {
        None
    }

    async fn listed(&mut self, retain: Retain, listed: Option<Listed>) {
        self.looking.remove(&(retain.service.clone(), retain.term));
        match listed {
            Some((entries, lacking)) => {
                self.tolerances.insert(retain.service.clone(), retain.tolerance);
                let Retain { service, term, origin, tolerance, warm, merged } = retain;
                let tolerance = u8::try_from(tolerance).unwrap_or(u8::MAX);
                let terms = BTreeMap::from([(term, origin)]);
                self.handle(Event::Retained { service, term, tolerance, warm, terms, merged, entries }).await;
                for part in lacking {
                    self.handle(Event::Lost { part }).await;
                }
            }
            None => {
                let member = self.member.clone();
                self.member.tasks.spawn(async move {
                    tokio::time::sleep(limits::KEEP_AGAIN).await;
                    let line = (retain.service.clone(), retain.term);
                    lock(&member.keeping.retains).entry(line).or_insert(retain);
                    member.keeping.retain_news.notify_one();
                });
            }
        }
        self.look_at_store();
    }

    fn status(&self) -> KeepingStatus {
        let (claim, stock) = (self.keeper.claim(), self.keeper.stock());
        KeepingStatus {
            index: claim.index,
            moving: claim.moving,
            needed: self.keeper.code(1).needed,
            margin: self.keeper.margin(),
            pack_bytes: stock.pack_bytes,
            fragment_bytes: stock.fragment_bytes,
            missing_parts: stock.missing_parts,
            short_bytes: self.keeper.short_bytes(),
        }
    }
}

fn keep(depot: &Depot, records: &[Action]) -> Result<Remembered, DepotError> {
    let mut all = Remembered::default();
    for record in records {
        match record {
            Action::Keep { claim } => depot.keep(claim)?,
            Action::Remember { catalog } => {
                let remembered = depot.remember(catalog)?;
                all.imported.extend(remembered.imported);
                all.unlisted += remembered.unlisted;
            }
            Action::Forget { service, term } => depot.forget(service, *term)?,
            _ => {}
        }
    }
    Ok(all)
}

fn short(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take(220).collect()
}
