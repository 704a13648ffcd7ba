//! The task that drives a service's state machine: it turns the machine's actions into I/O, and I/O into
//! events. It is the only one that touches the machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_gossip::{Cluster, RemoteSnapshot};
use sustain_proto::wire::SnapshotSummary;
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId, Term};
use sustain_store::{ReadError, Store};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Newest;
use super::durable::Durable;
use super::guest_channel::{GuestChannel, LastTimes};
use super::handle::{Command, Ports, ServiceHandle, Target};
use super::lag::DurableGrowth;
use super::trouble::{Trouble, Troubles, over_with};
use super::vm_thread::{OpenChannel, SnapshotNote, VmNote, VmSettings, VmThread};
use crate::clock::{self, Monotonic};
use crate::events::{EventLog, Happening};
use crate::limits;
use crate::logic::{Event, Machine, MachineConfig, StaticPriority, Timing};
use crate::names::Names;
use sustain_store::error_chain;

/// What a service's task is made of.
pub(crate) struct ServiceParts {
    pub(crate) machine: MachineConfig,
    pub(crate) vm: VmSettings,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) tolerance: u32,
    /// Candidates besides this node: they are to hold everything.
    pub(crate) warm: Vec<NodeId>,
    pub(crate) cluster: Cluster,
    pub(crate) events: Arc<EventLog>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    pub(crate) seed: u64,
    pub(crate) names: Names,
    /// Why this machine can't run the service, if so.
    pub(crate) problem: Option<String>,
}

/// Starts the task and the VM's thread.
pub(crate) fn start(parts: ServiceParts, commands: Commands) -> std::io::Result<()> {
    let tasks = parts.tasks.clone();
    let driver = Driver::new(parts, commands)?;
    tasks.spawn(driver.run());
    Ok(())
}

/// The ends of a [`ServiceHandle`] that the task holds.
pub(crate) struct Commands {
    inbox: mpsc::Receiver<Command>,
    own: mpsc::Sender<Command>,
    target: watch::Sender<Target>,
    newest: watch::Sender<Option<Newest>>,
}

impl ServiceHandle {
    /// A handle, and what the task needs to serve it. Made before the cluster, whose handler uses it.
    pub(crate) fn new(name: ServiceName) -> (Self, Commands) {
        let (commands, inbox) = mpsc::channel(limits::SERVICE_QUEUE);
        let (sender, target) = watch::channel(Target::Nowhere);
        let (newest_sender, newest) = watch::channel(None);
        let ends = Commands { inbox, own: commands.clone(), target: sender, newest: newest_sender };
        (Self { name, commands, target, newest }, ends)
    }
}

pub(super) struct Driver {
    pub(super) service: ServiceName,
    pub(super) timing: Timing,
    /// Between two snapshots.
    pub(super) interval: Duration,
    pub(super) machine: Machine,
    pub(super) clock: Monotonic,
    pub(super) random: StdRng,
    pub(super) cluster: Cluster,
    pub(super) peers: Vec<NodeId>,
    pub(super) store: Store,
    pub(super) vm: VmThread,
    pub(super) notes: mpsc::Receiver<VmNote>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) own: mpsc::Sender<Command>,
    pub(super) target: watch::Sender<Target>,
    pub(super) newest: watch::Sender<Option<Newest>>,
    pub(super) ports: Option<Ports>,
    pub(super) vm_pid: Option<u32>,
    /// The guest stands still, since its disk can't be used now.
    pub(super) stalled: bool,
    pub(super) gather: Option<AbortHandle>,
    pub(super) lazy_regions: Vec<RegionName>,
    /// What was gathered to start from, until the VM is prepared.
    pub(super) startable: Option<(Term, Arc<RemoteSnapshot>)>,
    /// The restored snapshot, while a part of it is elsewhere.
    pub(super) rest: Option<Arc<RemoteSnapshot>>,
    pub(super) pauses_ms: Vec<f64>,
    pub(super) snapshots_taken: u64,
    pub(super) taken_at_ms: Option<u64>,
    pub(super) channel: Option<GuestChannel>,
    pub(super) last_times: LastTimes,
    /// What the store holds, as last read.
    pub(super) held: Vec<SnapshotSummary>,
    /// The newest durable snapshot as the server last said.
    pub(super) durable: Option<Durable>,
    pub(super) growth: DurableGrowth,
    /// Since when what is durable survives fewer losses than it is to.
    pub(super) weak_since_ms: Option<u64>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) tolerance: u32,
    pub(super) warm: Vec<NodeId>,
    /// Snapshots that were said to be durable.
    pub(super) said: BTreeSet<SnapshotId>,
    pub(super) troubles: Troubles,
    pub(super) names: Names,
    /// Peers that refused to be asked.
    pub(super) refusing: BTreeSet<NodeId>,
    pub(super) events: Arc<EventLog>,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
}

/// Pauses kept for the median: the last quarter of an hour at a snapshot a second.
const PAUSES_KEPT: usize = 900;

impl Driver {
    fn new(parts: ServiceParts, commands: Commands) -> std::io::Result<Self> {
        let clock = Monotonic::start();
        let (store, interval) = (parts.vm.store.clone(), parts.vm.interval);
        let lazy_regions = parts.vm.driver.lazy_regions(&parts.vm.spec);
        let (vm, notes) = VmThread::start(parts.vm)?;
        let mut troubles = Troubles::default();
        if let Some(problem) = parts.problem {
            troubles.begin(Trouble::Host, problem, clock.now_ms());
        }
        Ok(Self {
            service: parts.machine.service.clone(),
            timing: parts.machine.timing,
            interval,
            peers: parts.machine.peers.iter().copied().collect(),
            machine: Machine::new(parts.machine, Box::new(StaticPriority), clock.now_ms()),
            clock,
            random: StdRng::seed_from_u64(parts.seed),
            cluster: parts.cluster,
            store,
            vm,
            notes,
            inbox: commands.inbox,
            own: commands.own,
            target: commands.target,
            newest: commands.newest,
            ports: None,
            vm_pid: None,
            stalled: false,
            gather: None,
            lazy_regions,
            startable: None,
            rest: None,
            pauses_ms: Vec::new(),
            snapshots_taken: 0,
            taken_at_ms: None,
            channel: None,
            last_times: LastTimes::default(),
            held: Vec::new(),
            durable: None,
            growth: DurableGrowth::default(),
            weak_since_ms: None,
            listen: parts.listen,
            tolerance: parts.tolerance,
            warm: parts.warm,
            said: BTreeSet::new(),
            troubles,
            names: parts.names,
            refusing: BTreeSet::new(),
            events: parts.events,
            tasks: parts.tasks,
            cancel: parts.cancel,
        })
    }

    async fn run(mut self) {
        self.refresh();
        let mut ticks = tokio::time::interval(Duration::from_millis((self.timing.heartbeat_ms / 4).max(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                _ = ticks.tick() => {
                    self.handle(Event::Tick);
                    self.channel_tick();
                    self.note_lag();
                }
                Some(command) = self.inbox.recv() => self.obey(command),
                Some(note) = self.notes.recv() => self.noted(note),
            }
        }
        if let Some(gather) = self.gather.take() {
            gather.abort();
        }
        // A closed channel keeps the thread from waiting for us while we wait for it.
        self.notes.close();
        let vm = self.vm;
        let ended = tokio::task::spawn_blocking(move || vm.end()).await;
        if ended.is_err() {
            tracing::error!("ending the VM's thread failed");
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        let actions = self.machine.handle(self.clock.now_ms(), event, &mut self.random);
        for action in actions {
            self.act(action);
        }
        self.note_obstacle();
        let mark = self.machine.watermark();
        let newest = mark.map(|mark| Newest { term: mark.term, seq: mark.running_seq });
        self.newest.send_if_modified(|before| std::mem::replace(before, newest) != newest);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Event(event) => {
                match &event {
                    Event::Ballot { from, ballot: Some(_), .. } => {
                        self.refusing.remove(from);
                    }
                    Event::Members(peers) => {
                        self.peers = peers.iter().copied().collect();
                        self.refusing.retain(|peer| peers.contains(peer));
                    }
                    _ => {}
                }
                let heartbeat = match &event {
                    Event::Heartbeat(heartbeat) => Some(heartbeat.clone()),
                    _ => None,
                };
                self.handle(event);
                if let Some(heartbeat) = heartbeat {
                    self.heard_durable(&heartbeat);
                }
            }
            Command::Startable { term, remote } => {
                self.startable = Some((term, remote));
                self.handle(Event::Gathered { term });
            }
            Command::Poll { from, lost, answer } => {
                let _ = answer.send(self.machine.ballot(self.clock.now_ms()));
                self.handle(Event::Polled { from, lost });
            }
            Command::Claim { term, origin, answer } => {
                self.handle(Event::Claimed { term, origin });
                let _ = answer.send(self.machine.greatest());
            }
            Command::Status { answer } => {
                let _ = answer.send(self.status());
            }
            Command::Level { snapshot, level } => self.level(snapshot, level),
            Command::Trouble(trouble, what) => self.troubles.begin(trouble, what, self.clock.now_ms()),
            Command::Refused(peer) => drop(self.refusing.insert(peer)),
            Command::Refresh => self.refresh(),
            Command::Known(known, lacking) => {
                self.held = known.clone();
                self.note_key(lacking);
                self.handle(Event::Readable(lacking.is_none()));
                self.handle(Event::Known(known));
                self.mark_durable();
            }
        }
    }

    fn noted(&mut self, note: VmNote) {
        match note {
            VmNote::Event(event) => {
                if matches!(event, Event::Exited { .. } | Event::StartFailed { .. } | Event::Stopped) {
                    self.vm_gone();
                    self.close_channel();
                }
                self.troubles.end(over_with(&event));
                self.handle(event);
            }
            VmNote::Running { ports, pid, channel, rest } => {
                self.ports = Some(ports);
                self.vm_pid = Some(pid);
                // A VM that takes no first snapshot is late too.
                self.taken_at_ms = Some(self.clock.now_ms());
                self.rest = rest;
                match channel {
                    Some(OpenChannel { term, link, restored }) => self.open_channel(term, link, restored),
                    None => self.close_channel(),
                }
                if self.rest.is_none() {
                    self.retain();
                }
            }
            VmNote::Asked { term, input } => self.guest_asked(term, input),
            VmNote::Stalled(stalled) => {
                self.stalled = stalled;
                if stalled {
                    let what = "the guest stands still: its disk can't be read or written now";
                    self.problem(what.to_owned());
                }
            }
            VmNote::SnapshotDone { token, outcome } => self.guest_snapshot_done(token, outcome),
            VmNote::Woken(report) => {
                let service = self.service.clone();
                self.events.add(Happening::Woken { service, report: report.into() });
            }
            VmNote::Restored { snapshot, seq } => {
                let service = self.service.clone();
                self.events.add(Happening::Restored { service, snapshot, seq });
            }
            VmNote::Whole { snapshot, bytes_fetched } => {
                self.rest = None;
                let service = self.service.clone();
                self.events.add(Happening::Gathered { service, snapshot, bytes_fetched });
                self.retain();
                self.refresh();
            }
            VmNote::Snapshot(note) => self.snapshot_taken(*note),
            VmNote::Rebased { base, newest, dropped } => {
                tracing::debug!(service = %self.service, newest = %newest.short(), "a new generation");
                self.troubles.end(&[Trouble::Rebase]);
                let service = self.service.clone();
                self.events.add(Happening::Rebased { service, base, dropped });
                self.retain();
                self.refresh();
            }
            VmNote::Problem(what) => self.problem(what),
            VmNote::Trouble(trouble, what) => {
                self.troubles.begin(trouble, what.clone(), self.clock.now_ms());
                self.problem(what);
            }
        }
    }

    pub(super) fn vm_gone(&mut self) {
        self.ports = None;
        self.vm_pid = None;
        self.stalled = false;
        self.rest = None;
    }

    pub(super) fn problem(&self, what: String) {
        self.events.add(Happening::Problem { service: Some(self.service.clone()), what });
    }

    fn snapshot_taken(&mut self, note: SnapshotNote) {
        self.troubles.end(&[Trouble::Snapshot]);
        if self.pauses_ms.len() == PAUSES_KEPT {
            self.pauses_ms.remove(0);
        }
        self.pauses_ms.push(note.pause_ms);
        self.snapshots_taken += 1;
        self.taken_at_ms = Some(self.clock.now_ms());
        let taken_unix_ms = clock::wall_ms().saturating_sub(clock::since_ms(note.resumed_at));
        self.last_times.taken = Some((taken_unix_ms, note.resumed_at));
        let report = note.report;
        self.retain();
        self.events.add(Happening::Snapshot {
            service: self.service.clone(),
            snapshot: report.snapshot,
            seq: report.seq,
            pause_ms: note.pause_ms,
            bytes_in: report.bytes_in,
            bytes_new: report.bytes_new,
            chunks_changed: report.chunks_changed,
            seconds: note.seconds,
        });
        self.refresh();
    }

    /// Reads the service's snapshots from the store, off the task's thread.
    fn refresh(&self) {
        let (store, service, own) = (self.store.clone(), self.service.clone(), self.own.clone());
        self.tasks.spawn(async move {
            let asked = service.clone();
            let look = move || Ok::<_, ReadError>((store.snapshots(Some(&asked))?, store.lacks_key(&asked)));
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok((list, lacking))) => {
                    let known = list.iter().map(sustain_store::SnapshotInfo::summary).collect();
                    let _ = own.send(Command::Known(known, lacking)).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%service, error = %error_chain(&error), "can't list the store's snapshots")
                }
                Err(error) => tracing::error!(%error, "listing the store's snapshots failed"),
            }
        });
    }
}
