//! The task that owns the keeper.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use sustain_proto::{NodeId, ServiceName, SnapshotId, Term};
use sustain_store::error_chain;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::asking::{self, Errand};
use super::levels::Level;
use super::roll::{Roll, Standing};
use super::works::{Work, Works};
use super::{Inbox, Inlet, LineView, Opened, levels};
use crate::depot::{Depot, DepotError, PartList, PartReceiver, Remembered};
use crate::healths::members_of;
use crate::keeper::{Action, Event, Keeper, Line, Message, Part, Request};
use crate::limits;
use crate::member::Member;
use crate::membership::Health;
use crate::transport::links::lock;

/// Whoever wants to receive a part, and its groups.
type Opening = (PartList, oneshot::Sender<Opened>);

pub(super) struct Owner {
    pub(super) member: Arc<Member>,
    pub(super) depot: Arc<Depot>,
    pub(super) keeper: Keeper,
    pub(super) random: StdRng,
    pub(super) roll: Roll,
    pub(super) answers: Answers,
    /// What ends each request of this node.
    pub(super) flights: BTreeMap<Request, CancellationToken>,
    /// Parts that are coming.
    pub(super) receivers: BTreeMap<Part, Arc<PartReceiver>>,
    pub(super) works: Works<Opening>,
    /// What is kept is being looked at.
    pub(super) is_looking_at_kept: bool,
    /// Lines whose snapshots are being read from the store.
    pub(super) looking: BTreeSet<(ServiceName, Term)>,
    /// Lines whose server is this node, and what they are to survive.
    pub(super) lines: BTreeMap<Line, u32>,
    /// Losses that the snapshots of those survive.
    pub(super) levels: BTreeMap<SnapshotId, Option<u32>>,
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
        is_looking_at_kept: false,
        looking: BTreeSet::new(),
        lines: BTreeMap::new(),
        levels: BTreeMap::new(),
        member: member.clone(),
        depot: Arc::new(depot),
    };
    owner.look_at_members().await;
    let keeping = &member.keeping;
    let mut looks = tokio::time::interval(limits::KEPT_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let pause_ms = owner.keeper.wakes_ms().saturating_sub(member.now_ms());
        tokio::select! {
            biased;
            inlet = inbox.local.recv() => {
                let Some(inlet) = inlet else { return };
                owner.take(inlet).await;
            }
            _ = looks.tick() => owner.look_at_kept(),
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
            Inlet::Event(event) => self.handle(event).await,
            Inlet::Heard { event, .. } => {
                let is_report = matches!(event, Event::Message { message: Message::Report(_), .. });
                self.handle(event).await;
                if is_report {
                    self.note_capped();
                }
            }
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
            Inlet::Lines(service, answer) => {
                let _ =
                    answer.send(self.keeper.catalogs(&service).map(|known| LineView::of(known)).collect());
            }
        }
    }

    pub(super) async fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.keeper.handle(self.member.now_ms(), event, &mut self.random);
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
                    for record in &records {
                        if let Action::Forget { service, term } = record {
                            self.lines.remove(&Line { service: service.clone(), term: *term });
                        }
                    }
                    let remembered = self.keep(records).await;
                    self.kept(remembered);
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
                    let of_service = self.lines.iter().filter(|(line, _)| line.service == service);
                    let tolerance = of_service.map(|(_, tolerance)| *tolerance).max().unwrap_or(u32::MAX);
                    let level = level.map(|level| u32::try_from(level).unwrap_or(u32::MAX));
                    self.levels.insert(id, level);
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
    async fn keep(&self, records: Vec<Action>) -> Remembered {
        let records = Arc::new(records);
        loop {
            let (depot, now) = (self.depot.clone(), records.clone());
            let write = move || keep(&depot, &now);
            match self.member.tasks.blocking(write).await {
                Ok(Ok(kept)) => return kept,
                Err(_) => return Remembered::default(),
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

    fn note_capped(&self) {
        let capped = self.lines.keys().flat_map(|line| self.keeper.capped(line)).collect();
        *lock(&self.member.keeping.capped) = capped;
    }

    /// What came of taking note of catalogs.
    fn kept(&mut self, Remembered { imported, .. }: Remembered) {
        if !imported.is_empty() {
            self.tell_imported(imported);
            // Packs that had waited for that are synced now.
            self.look_at_kept();
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
