//! The thread that owns a service's VM. Nobody else touches it: others send commands and get notes.
//!
//! A thread, not a task: the driver blocks, and QEMU is told to die with the thread that spawned it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{io, thread};

use sustain_gossip::{Cluster, RemoteSnapshot};
use sustain_proto::{ServiceName, SnapshotId, Term, TermOrigin};
use sustain_store::{RebasePolicy, Retention, Store};
use sustain_vmdriver::{ChannelInput, ChannelLink, Vm, VmDriver, VmSpec, WakeReport, remove_left_behind};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::fill::{Filled, Filler};
use super::handle::Ports;
use super::rest::Rest;
use super::trouble::Trouble;
use super::vm_running::{Running, Saving};
use crate::limits;
use crate::logic::{Event, SnapshotToken};
use sustain_store::error_chain;

/// What the thread is told.
pub(super) enum VmCommand {
    Boot {
        term: Term,
    },
    Prepare {
        term: Term,
        snapshot: SnapshotId,
        /// The snapshot, where a part of it is elsewhere.
        remote: Option<Arc<RemoteSnapshot>>,
    },
    Resume {
        term: Term,
        origin: Option<TermOrigin>,
        parent: SnapshotId,
    },
    /// The guest asks for a snapshot: one that is begun from now on.
    Snapshot {
        token: SnapshotToken,
    },
    Stop,
}

/// What the thread says.
pub(super) enum VmNote {
    Event(Event),
    Running {
        ports: Ports,
        pid: u32,
        channel: Option<OpenChannel>,
        rest: Option<Arc<RemoteSnapshot>>,
    },
    /// All of the snapshot that the VM was restored from is here now.
    Whole {
        snapshot: SnapshotId,
        bytes_fetched: u64,
    },
    Restored {
        snapshot: SnapshotId,
        seq: u64,
    },
    /// What a restored guest was told of where and when it is.
    Woken(WakeReport),
    /// The guest of this reign's VM says something.
    Asked {
        term: Term,
        input: ChannelInput,
    },
    /// The guest stands still by itself, since its disk can't be used now; or no longer.
    Stalled(bool),
    /// What became of a snapshot that the guest asked for.
    SnapshotDone {
        token: SnapshotToken,
        outcome: Result<u64, String>,
    },
    Snapshot(Box<SnapshotNote>),
    Rebased {
        base: SnapshotId,
        newest: SnapshotId,
        dropped: usize,
    },
    Problem(String),
    /// A problem that lasts until something else is said.
    Trouble(Trouble, String),
}

/// The channel of a guest that runs from now on.
pub(super) struct OpenChannel {
    pub(super) term: Term,
    pub(super) link: ChannelLink,
    /// The number of the snapshot that it was restored from, if it had the channel open then.
    pub(super) restored: Option<u64>,
}

/// A snapshot that was taken and committed.
pub(super) struct SnapshotNote {
    pub(super) report: sustain_store::PushReport,
    pub(super) pause_ms: f64,
    /// When the guest went on after it.
    pub(super) resumed_at: Instant,
    pub(super) seconds: f64,
}

/// What the thread needs.
pub(crate) struct VmSettings {
    pub(crate) service: ServiceName,
    pub(crate) spec: VmSpec,
    pub(crate) interval: std::time::Duration,
    pub(crate) policy: RebasePolicy,
    pub(crate) retention: Retention,
    pub(crate) run: PathBuf,
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) runtime: Handle,
    pub(crate) driver: Arc<dyn VmDriver>,
}

/// A handle on the thread.
pub(super) struct VmThread {
    commands: SyncSender<VmCommand>,
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VmThread {
    /// Starts the thread, without a VM yet.
    pub(super) fn start(settings: VmSettings) -> io::Result<(Self, mpsc::Receiver<VmNote>)> {
        let (commands, inbox) = sync_channel(limits::VM_QUEUE);
        let (notes, outbox) = mpsc::channel(limits::VM_NOTES);
        let cancelled = Arc::new(AtomicBool::new(false));
        let owner = Owner { settings, inbox, notes, cancelled: cancelled.clone(), vm: Held::Nothing };
        let thread = thread::Builder::new().name("vm".to_owned()).spawn(move || owner.run())?;
        Ok((Self { commands, cancelled, thread: Some(thread) }, outbox))
    }

    /// Gives a command. A full queue would be a bug in the state machine, which has one take-over under
    /// way at a time; the command is refused then.
    pub(super) fn tell(&self, command: VmCommand) -> bool {
        if matches!(command, VmCommand::Stop) {
            self.cancelled.store(true, Ordering::Release);
        }
        self.commands.try_send(command).is_ok()
    }

    /// Stops the VM and ends the thread. Blocks until both are done.
    pub(super) fn end(mut self) {
        self.cancelled.store(true, Ordering::Release);
        let (closed, _) = sync_channel(1);
        drop(std::mem::replace(&mut self.commands, closed));
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the VM's thread panicked");
            }
        }
    }
}

enum Held {
    Nothing,
    Prepared { term: Term, filled: Filled },
    Running(Box<Running>),
}

struct Owner {
    settings: VmSettings,
    inbox: Receiver<VmCommand>,
    notes: mpsc::Sender<VmNote>,
    cancelled: Arc<AtomicBool>,
    vm: Held,
}

impl Owner {
    fn run(mut self) {
        // A killed node leaves its VM's disk.
        if let Err(error) = remove_left_behind(&self.settings.run) {
            let run = self.settings.run.display();
            self.say(VmNote::Problem(format!("can't tidy {run}: {error}")));
        }
        loop {
            let wait = match &self.vm {
                Held::Running(running) => running.due_in().min(limits::VM_WATCH),
                _ => limits::VM_WATCH,
            };
            match self.inbox.recv_timeout(wait) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.stop();
                    return;
                }
            }
            self.look_after();
        }
    }

    fn say(&self, note: VmNote) {
        // It fails only when the service's task has ended; the inbox will say so too.
        let _ = self.notes.blocking_send(note);
    }

    fn obey(&mut self, command: VmCommand) {
        match command {
            VmCommand::Boot { term } => self.boot(term),
            VmCommand::Prepare { term, snapshot, remote } => self.prepare(term, snapshot, remote),
            VmCommand::Resume { term, origin, parent } => self.resume(term, origin, parent),
            VmCommand::Snapshot { token } => {
                let outcome = self.take_snapshot();
                self.say(VmNote::SnapshotDone { token, outcome });
            }
            VmCommand::Stop => {
                self.stop();
                self.cancelled.store(false, Ordering::Release);
                self.say(VmNote::Event(Event::Stopped));
            }
        }
    }

    fn failed(&self, term: Term, doing: &str, error: &(dyn std::error::Error + 'static)) {
        self.say(VmNote::Trouble(Trouble::Start, format!("{doing}: {}", error_chain(error))));
        self.say(VmNote::Event(Event::StartFailed { term }));
    }

    fn boot(&mut self, term: Term) {
        self.stop();
        match self.settings.driver.start(&self.settings.spec, &self.settings.run) {
            Ok(vm) => self.started(term, None, None, vm, None),
            Err(error) => self.failed(term, "can't start the VM", &error),
        }
    }

    fn prepare(&mut self, term: Term, snapshot: SnapshotId, remote: Option<Arc<RemoteSnapshot>>) {
        self.stop();
        let filler = Filler { settings: &self.settings, cancelled: &self.cancelled };
        let filled = match filler.fill_or_mend(snapshot, remote, |what| self.say(VmNote::Problem(what))) {
            Ok(filled) => filled,
            Err(error) => return self.failed(term, "can't make the VM ready", &error),
        };
        self.vm = Held::Prepared { term, filled };
        self.say(VmNote::Event(Event::Prepared { term }));
    }

    fn resume(&mut self, term: Term, origin: Option<TermOrigin>, parent: SnapshotId) {
        match std::mem::replace(&mut self.vm, Held::Nothing) {
            Held::Prepared { term: prepared_for, filled } if prepared_for == term => {
                let Filled { vm, remote } = filled;
                match vm.resume() {
                    Ok(vm) => {
                        let seq = origin.map_or(0, |origin| origin.seq);
                        self.say(VmNote::Restored { snapshot: parent, seq });
                        let rest = remote.map(|blocks| Rest::fetch(blocks, self.notes.clone()));
                        self.started(term, origin, Some(parent), vm, rest);
                    }
                    Err(error) => self.failed(term, "can't resume the VM", &error),
                }
            }
            other => {
                drop(other);
                self.say(VmNote::Problem("told to resume a VM that was not prepared".to_owned()));
                self.say(VmNote::Event(Event::StartFailed { term }));
            }
        }
    }

    fn started(
        &mut self,
        term: Term,
        origin: Option<TermOrigin>,
        parent: Option<SnapshotId>,
        mut vm: Box<dyn Vm>,
        rest: Option<Rest>,
    ) {
        let channel = self.open_channel(term, origin, &mut *vm);
        let (ports, pid, remote) = (Ports::new(vm.forwards()), vm.pid(), rest.as_ref().map(Rest::remote));
        self.say(VmNote::Running { ports, pid, channel, rest: remote });
        let VmSettings { service, store, interval, policy, retention, .. } = &self.settings;
        let (service, store) = (service.clone(), store.clone());
        let (interval, policy, retention) = (*interval, *policy, *retention);
        let cancelled = self.cancelled.clone();
        let saving = Saving { service, store, interval, policy, retention, cancelled };
        self.vm = Held::Running(Box::new(Running::new(vm, term, origin, parent, saving, rest)));
        self.say(VmNote::Event(Event::Running { term }));
    }

    fn open_channel(&self, term: Term, origin: Option<TermOrigin>, vm: &mut dyn Vm) -> Option<OpenChannel> {
        let end = vm.take_channel()?;
        let restored = end.waiting.then(|| origin.map_or(0, |origin| origin.seq));
        let notes = self.notes.clone();
        // Blocks while the service's task is behind: the guest waits then.
        let input = move |input| {
            let _ = notes.blocking_send(VmNote::Asked { term, input });
            thread::sleep(limits::CHANNEL_LINE_PAUSE);
        };
        match ChannelLink::start(end, input) {
            Ok(link) => Some(OpenChannel { term, link, restored }),
            Err(error) => {
                self.say(VmNote::Problem(format!("the guest has no channel: {error}")));
                None
            }
        }
    }

    fn take_snapshot(&mut self) -> Result<u64, String> {
        let Held::Running(running) = &mut self.vm else { return Err("the VM does not run".to_owned()) };
        let mut notes = Vec::new();
        let outcome = running.take_snapshot(&mut notes);
        notes.into_iter().for_each(|note| self.say(note));
        outcome
    }

    fn look_after(&mut self) {
        let Held::Running(running) = &mut self.vm else { return };
        if let Some(how) = running.exited() {
            let term = running.term();
            let lost = std::mem::replace(&mut self.vm, Held::Nothing);
            self.say(VmNote::Trouble(Trouble::Lost, format!("the VM is lost: {how}")));
            self.say(VmNote::Event(Event::Exited { term }));
            // Last: a rebase beside it is waited for.
            drop(lost);
            return;
        }
        let (due, woken) = (running.due_in().is_zero(), running.wake_report());
        let mut notes: Vec<_> = running.stall_change().map(VmNote::Stalled).into_iter().collect();
        running.finish_rebase(&mut notes);
        notes.into_iter().for_each(|note| self.say(note));
        if let Some(report) = woken {
            self.say(VmNote::Woken(report));
        }
        if due {
            // Its notes tell what became of it.
            let _ = self.take_snapshot();
        }
    }

    fn stop(&mut self) {
        if let Held::Running(running) = std::mem::replace(&mut self.vm, Held::Nothing) {
            if let Err(error) = running.stop() {
                self.say(VmNote::Problem(format!("stopping the VM: {}", error_chain(&*error))));
            }
        }
    }
}
