//! The thread that owns a service's VM. Nobody else touches it: others send commands and get notes.
//!
//! A thread, not a task: the driver blocks, and QEMU is told to die with the thread that spawned it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::{io, thread};

use sustain_gossip::Cluster;
use sustain_proto::{ServiceName, SnapshotId, Term, TermOrigin};
use sustain_store::{ErrorKind, Progress, RestoreError, Store};
use sustain_vmdriver::{
    ChannelInput, ChannelLink, PreparedVm, StartError, Vm, VmDriver, VmSpec, WakeReport, remove_left_behind,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::handle::Ports;
use super::mend::Mender;
use super::trouble::Trouble;
use super::vm_running::Running;
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
    pub(super) seconds: f64,
}

/// What the thread needs.
pub(crate) struct VmSettings {
    pub(crate) service: ServiceName,
    pub(crate) spec: VmSpec,
    pub(crate) interval: std::time::Duration,
    pub(crate) rebase_after: u32,
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
    Prepared { term: Term, vm: Box<dyn PreparedVm> },
    Running(Running),
}

struct Owner {
    settings: VmSettings,
    inbox: Receiver<VmCommand>,
    notes: mpsc::Sender<VmNote>,
    cancelled: Arc<AtomicBool>,
    vm: Held,
}

/// Why a VM can't be made ready to go on.
#[derive(Debug, thiserror::Error)]
enum FillError {
    /// The driver refuses.
    #[error("can't prepare the VM")]
    Prepare(#[from] StartError),
    /// The snapshot can't be had from the store.
    #[error("can't restore the snapshot")]
    Restore(#[from] RestoreError),
}

impl FillError {
    fn is_damage(&self) -> bool {
        matches!(self, Self::Restore(error) if error.kind() == ErrorKind::Corrupt)
    }
}

/// Lets a restore be given up when the VM is to stop anyway.
struct Cancel<'a>(&'a AtomicBool);

impl Progress for Cancel<'_> {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
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
            VmCommand::Prepare { term, snapshot } => self.prepare(term, snapshot),
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
            Ok(vm) => self.started(term, None, None, vm),
            Err(error) => self.failed(term, "can't start the VM", &error),
        }
    }

    fn prepare(&mut self, term: Term, snapshot: SnapshotId) {
        self.stop();
        let filled = self.fill(snapshot).or_else(|error| self.mend_and_fill(snapshot, error));
        let prepared = match filled {
            Ok(prepared) => prepared,
            Err(error) => return self.failed(term, "can't make the VM ready", &error),
        };
        self.vm = Held::Prepared { term, vm: prepared };
        self.say(VmNote::Event(Event::Prepared { term }));
    }

    fn mender(&self) -> Mender {
        let VmSettings { store, cluster, runtime, .. } = &self.settings;
        Mender { store: store.clone(), cluster: cluster.clone(), runtime: runtime.clone() }
    }

    /// Makes a VM whose memory is filled from the store, and that knows where its disk is to be had.
    fn fill(&self, snapshot: SnapshotId) -> Result<Box<dyn PreparedVm>, FillError> {
        let settings = &self.settings;
        let mut prepared = settings.driver.prepare(&settings.spec, &settings.run)?;
        if let Some(blocks) = self.mender().disk(snapshot).map_err(RestoreError::from)? {
            prepared.set_disk(blocks);
        }
        settings.store.restore(snapshot, prepared.target(), &Cancel(&self.cancelled))?;
        Ok(prepared)
    }

    /// A second try after what is damaged here was sent again by the others.
    fn mend_and_fill(
        &self,
        snapshot: SnapshotId,
        error: FillError,
    ) -> Result<Box<dyn PreparedVm>, FillError> {
        if !error.is_damage() {
            return Err(error);
        }
        match self.mender().snapshot(snapshot) {
            Ok(0) => Err(error),
            Ok(damaged) => {
                let why = error_chain(&error);
                let what = format!("{damaged} damaged packs were sent again by the others: {why}");
                self.say(VmNote::Problem(what));
                self.fill(snapshot)
            }
            Err(failed) => {
                self.say(VmNote::Problem(error_chain(&failed)));
                Err(error)
            }
        }
    }

    fn resume(&mut self, term: Term, origin: Option<TermOrigin>, parent: SnapshotId) {
        match std::mem::replace(&mut self.vm, Held::Nothing) {
            Held::Prepared { term: prepared_for, vm } if prepared_for == term => match vm.resume() {
                Ok(vm) => {
                    let seq = origin.map_or(0, |origin| origin.seq);
                    self.say(VmNote::Restored { snapshot: parent, seq });
                    self.started(term, origin, Some(parent), vm);
                }
                Err(error) => self.failed(term, "can't resume the VM", &error),
            },
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
    ) {
        let channel = self.open_channel(term, origin, &mut *vm);
        self.say(VmNote::Running { ports: Ports::new(vm.forwards()), pid: vm.pid(), channel });
        self.vm = Held::Running(Running::new(vm, term, origin, parent, self.settings.interval));
        self.say(VmNote::Event(Event::Running { term }));
    }

    fn open_channel(&self, term: Term, origin: Option<TermOrigin>, vm: &mut dyn Vm) -> Option<OpenChannel> {
        let end = vm.take_channel()?;
        let restored = end.waiting.then(|| origin.map_or(0, |origin| origin.seq));
        let notes = self.notes.clone();
        // Blocks while the service's task is behind: the guest waits then.
        let input = move |input| drop(notes.blocking_send(VmNote::Asked { term, input }));
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
        let outcome = running.take_snapshot(&self.settings, &mut notes);
        notes.into_iter().for_each(|note| self.say(note));
        outcome
    }

    fn look_after(&mut self) {
        let Held::Running(running) = &mut self.vm else { return };
        if let Some(how) = running.exited() {
            let term = running.term();
            self.vm = Held::Nothing;
            self.say(VmNote::Trouble(Trouble::Lost, format!("the VM is lost: {how}")));
            self.say(VmNote::Event(Event::Exited { term }));
            return;
        }
        let (due, woken) = (running.due_in().is_zero(), running.wake_report());
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
