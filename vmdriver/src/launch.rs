//! From a checked spec to a QEMU that answers, in two steps: what takes QEMU a while to start can be used by a restore.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::command_line::{self, Origin};
use crate::device_header::MachineDescription;
use crate::device_state::{self, StateFile};
use crate::disk::Disk;
use crate::driver::ExitReport;
use crate::error::{CheckError, StartError};
use crate::features::QemuFeatures;
use crate::forwards;
use crate::guest::Guest;
use crate::limits;
use crate::output::ConsoleFile;
use crate::precopy::GuestMemory;
use crate::process::{Launch, Process};
use crate::qemu::Settings;
use crate::qmp::{Client, QmpError};
use crate::spec::{Accel, PortForward, VmSpec};
use crate::tracking::{self, Announcement, PageSet};

/// A QEMU that answers, and the memory that it shares with us.
pub(crate) struct Machine {
    pub(crate) spec: VmSpec,
    pub(crate) process: Process,
    pub(crate) qmp: Client,
    pub(crate) forwards: Vec<PortForward>,
    /// Where it saves the state of its devices.
    pub(crate) state_file: StateFile,
    /// Ends after the process that uses it.
    pub(crate) disk: Option<Disk>,
    pub(crate) guest: Guest,
}

/// A spec that passed all checks, and where and how to run it.
pub(crate) struct Plan {
    pub(crate) spec: VmSpec,
    pub(crate) qemu: PathBuf,
    pub(crate) features: QemuFeatures,
    pub(crate) settings: Settings,
    pub(crate) accel: Accel,
    pub(crate) run_dir: PathBuf,
}

/// A QEMU that is on its way. Dropping it ends it.
pub(crate) struct Launched {
    process: Process,
    control: UnixStream,
    announcement: Option<Announcement>,
    origin: Origin,
    memory: File,
    /// Ends after the process that uses it.
    disk: Option<Disk>,
}

impl Plan {
    /// Starts QEMU on this memory, which has its full size, and waits for nothing.
    pub(crate) fn launch(
        &self,
        origin: Origin,
        memory: File,
        disk: Option<Disk>,
    ) -> Result<Launched, StartError> {
        let console = ConsoleFile::create(&self.run_dir)
            .map_err(|source| StartError::RunDir { path: self.run_dir.clone(), source })?;
        let spawn_failed = |source: io::Error| StartError::Spawn { source };
        let (control, theirs) = UnixStream::pair().map_err(spawn_failed)?;
        let mut line: Vec<OsString> = vec![self.qemu.clone().into()];
        let socket = disk.as_ref().map(Disk::socket);
        line.extend(command_line::arguments(&self.spec, &self.features, self.accel, origin, socket));
        tracing::debug!(command_line = ?line, "starting QEMU");
        let announcement = self.announce(&memory);
        if let Some(announcement) = &announcement {
            line = announcement.wrap(line);
        }
        let stdin = memory.try_clone().map_err(spawn_failed)?.into();
        let launch = Launch { command_line: line, stdin, stdout: theirs.into(), console: Some(console) };
        let process = Process::start(launch).map_err(spawn_failed)?;
        Ok(Launched { process, control, announcement, origin, memory, disk })
    }

    /// Waits until QEMU answers. The guest does not run yet, and a restored one's memory is filled by now.
    pub(crate) fn join(&self, launched: Launched) -> Result<(Machine, GuestMemory), StartError> {
        let Launched { process, control, announcement, origin, memory, disk } = launched;
        let doing = "starting";
        let explain = |source| start_failure(&process, doing, source);
        let mut qmp = Client::connect(control, limits::QEMU_START_TIMEOUT).map_err(explain)?;
        self.check_version(&qmp)?;
        device_state::configure(&mut qmp).map_err(explain)?;
        let memory_failed =
            |what| move |source| StartError::MemoryFile { what, bytes: self.spec.memory_bytes, source };
        let state_file = StateFile::create().map_err(memory_failed("device state"))?;
        state_file.hand_over(&mut qmp).map_err(explain)?;
        let forwards = find_forwards(&mut qmp, &self.spec.forwards).map_err(explain)?;
        let guest = Guest::plug(&mut qmp).map_err(explain)?;
        // A guest that boots has nothing stored yet, one that is restored has everything but what is found now.
        let mut unsaved = PageSet::empty(self.spec.memory_bytes);
        if origin == Origin::Boot {
            unsaved.fill();
        }
        let tracker = tracking::choose(announcement, process.pid(), &memory, &mut unsaved)
            .map_err(memory_failed("a copy of the guest's memory"))?;
        let memory = GuestMemory::new(memory, tracker, unsaved, &self.run_dir);
        Ok((Machine { spec: self.spec.clone(), process, qmp, forwards, state_file, disk, guest }, memory))
    }

    fn announce(&self, memory: &File) -> Option<Announcement> {
        if self.settings.compare || tracking::probe(&self.qemu, &self.features).is_some() {
            return None;
        }
        Announcement::new(memory).map_err(|obstacle| obstacle.warn_once()).ok()
    }

    /// The machine that this plan makes, but for the features of its processor.
    pub(crate) fn description(&self, qemu: String) -> MachineDescription {
        MachineDescription {
            machine: self.spec.machine.clone(),
            cpu: self.spec.cpu.clone(),
            accel: self.accel.as_str().to_owned(),
            cpus: self.spec.cpus,
            memory_bytes: self.spec.memory_bytes,
            qemu,
            features: Vec::new(),
        }
    }

    /// The same, of a QEMU that answers.
    pub(crate) fn describe(&self, machine: &mut Machine) -> Result<MachineDescription, StartError> {
        let (major, minor, micro) = machine.qmp.version();
        let mut description = self.description(format!("{major}.{minor}.{micro}"));
        description.features = device_state::features(&mut machine.qmp)
            .map_err(|source| start_failure(&machine.process, "describing its processor", source))?;
        Ok(description)
    }

    fn check_version(&self, qmp: &Client) -> Result<(), StartError> {
        let (major, minor, micro) = qmp.version();
        if crate::host::is_recent(major, minor) {
            return Ok(());
        }
        let found = format!("version {major}.{minor}.{micro}");
        let oldest = crate::host::QEMU_OLDEST_TEXT;
        Err(CheckError::QemuVersion { path: self.qemu.clone(), found, oldest }.into())
    }
}

fn find_forwards(qmp: &mut Client, wanted: &[PortForward]) -> Result<Vec<PortForward>, QmpError> {
    if wanted.iter().all(|forward| forward.host.port() != 0) {
        return Ok(wanted.to_vec());
    }
    let arguments = json!({ "command-line": "info usernet" });
    let table = qmp.execute("human-monitor-command", arguments, limits::QMP_COMMAND_TIMEOUT)?;
    forwards::resolve(wanted, table.as_str().unwrap_or_default())
        .ok_or(QmpError::Protocol { what: "no row for a forwarded port" })
}

/// How long a QEMU whose connection has closed may take to be gone.
pub(crate) const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// How QEMU ended, if that is why it does not do as told.
pub(crate) fn ending(process: &Process, error: &QmpError) -> Option<Box<ExitReport>> {
    let patience = match error {
        QmpError::Closed | QmpError::Io { .. } => ENDING_TIMEOUT,
        _ => Duration::ZERO,
    };
    process.wait(patience).map(Box::new)
}

/// The error of a start that QEMU failed at.
pub(crate) fn start_failure(process: &Process, doing: &'static str, source: QmpError) -> StartError {
    match ending(process, &source) {
        Some(report) => StartError::Exited { doing, report },
        None => StartError::Qmp { doing, source },
    }
}
