//! From a checked spec to a QEMU that answers.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::command_line::{self, Origin};
use crate::device_state;
use crate::driver::ExitReport;
use crate::error::{CheckError, StartError};
use crate::forwards;
use crate::limits;
use crate::output::ConsoleFile;
use crate::process::{Launch, Process};
use crate::qmp::{Client, QmpError};
use crate::spec::{Accel, PortForward, VmSpec};

/// A QEMU that answers, and the memory that it shares with us.
pub(crate) struct Machine {
    pub(crate) spec: VmSpec,
    pub(crate) process: Process,
    pub(crate) qmp: Client,
    pub(crate) memory: File,
    pub(crate) forwards: Vec<PortForward>,
}

/// A spec that passed all checks, and where and how to run it.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a VmSpec,
    pub(crate) qemu: &'a Path,
    pub(crate) accel: Accel,
    pub(crate) run_dir: &'a Path,
}

impl Plan<'_> {
    /// Starts QEMU on this memory and waits until it answers.
    pub(crate) fn launch(&self, origin: Origin, memory: File) -> Result<Machine, StartError> {
        let console = ConsoleFile::create(self.run_dir)
            .map_err(|source| StartError::RunDir { path: self.run_dir.to_owned(), source })?;
        let spawn_failed = |source: io::Error| StartError::Spawn { source };
        let (ours, theirs) = UnixStream::pair().map_err(spawn_failed)?;
        let mut line: Vec<OsString> = vec![self.qemu.into()];
        line.extend(command_line::arguments(self.spec, self.accel, origin));
        tracing::debug!(command_line = ?line, "starting QEMU");
        let stdin = memory.try_clone().map_err(spawn_failed)?.into();
        let launch = Launch { command_line: line, stdin, stdout: theirs.into(), console: Some(console) };
        let process = Process::start(launch).map_err(spawn_failed)?;
        let doing = "starting";
        let explain = |source| start_failure(&process, doing, source);
        let mut qmp = Client::connect(ours, limits::QEMU_START_TIMEOUT).map_err(explain)?;
        self.check_version(&qmp)?;
        device_state::configure(&mut qmp).map_err(explain)?;
        let forwards = find_forwards(&mut qmp, &self.spec.forwards).map_err(explain)?;
        Ok(Machine { spec: self.spec.clone(), process, qmp, memory, forwards })
    }

    fn check_version(&self, qmp: &Client) -> Result<(), StartError> {
        let (major, minor, micro) = qmp.version();
        if crate::host::is_recent(major, minor) {
            return Ok(());
        }
        let found = format!("version {major}.{minor}.{micro}");
        let oldest = crate::host::QEMU_OLDEST_TEXT;
        Err(CheckError::QemuVersion { path: self.qemu.to_owned(), found, oldest }.into())
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
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

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
