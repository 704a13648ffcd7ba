//! The command driver: a service that is started, snapshotted, restored and stopped by programs of the
//! user's own, so that any other monitor, a container or a plain process can be sustained.
//!
//! The contract with the programs is in `docs/command-driver.md`.
//!
//! ```text
//! programs ... which verbs there are, and what each is told
//! job ........ one program: run it to its end, or for as long as the service lives
//! output ..... what a program writes
//! regions .... the files of a snapshot, as regions
//! prepared ... a service about to be restored
//! vm ......... a running one
//! ```

mod beside;
mod error;
mod job;
mod output;
mod prepared;
mod programs;
mod regions;
mod stream;
mod vm;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ProgramError;
pub use programs::Verb;
pub(crate) use programs::remove_left_behind;

use crate::driver::{CheckReport, PreparedVm, Vm, VmDriver};
use crate::error::{CheckError, StartError};
use crate::spec::{Accel, VmSpec};
use crate::{host, limits};
use prepared::PreparedCommand;
use programs::Programs;
use vm::CommandVm;

/// What the driver is told about the programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// Folder with one program for each verb.
    pub folder: PathBuf,
    /// How long `snapshot` may take.
    pub snapshot_timeout: Duration,
    /// How long `restore` may take, and how long a started service until it is `alive`.
    pub start_timeout: Duration,
    /// Between two calls of `alive` while the service runs.
    pub alive_interval: Duration,
}

/// Runs a service by programs of the user's own.
#[derive(Debug, Clone)]
pub struct CommandDriver {
    settings: CommandSettings,
}

impl CommandDriver {
    /// A driver for one service.
    #[must_use]
    pub fn new(settings: CommandSettings) -> Self {
        Self { settings }
    }

    fn programs(&self, spec: &VmSpec) -> Result<Programs, CheckError> {
        let failed = |source| CheckError::Program { service: spec.service.clone(), source };
        Programs::find(&self.settings, &spec.service).map_err(failed)
    }
}

impl VmDriver for CommandDriver {
    fn check(&self, spec: &VmSpec) -> Result<CheckReport, CheckError> {
        let programs = self.programs(spec)?;
        let failed = |source| CheckError::Program { service: spec.service.clone(), source };
        // It has no folders yet: a check must not touch those of a service that runs.
        let said = match programs.call(Verb::Check) {
            Some(call) => call.run(limits::COMMAND_CHECK_TIMEOUT).map_err(failed)?.stdout,
            None => Vec::new(),
        };
        let said = String::from_utf8_lossy(&said);
        let line: String = said.lines().next().unwrap_or_default().chars().take(200).collect();
        Ok(CheckReport {
            qemu: self.settings.folder.clone(),
            qemu_version: if line.is_empty() { "programs of the user's own".to_owned() } else { line },
            // It is the programs' own affair how they run what they run.
            accel: Accel::Auto,
            memory_available_bytes: host::memory_available()?,
            tracking: None,
            boot_problem: None,
        })
    }

    fn start(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn Vm>, StartError> {
        let programs = self.programs(spec)?.with_folders(run_dir)?.with_ports(&spec.forwards)?;
        Ok(Box::new(CommandVm::start(programs, false)?))
    }

    fn prepare(&self, spec: &VmSpec, run_dir: &Path) -> Result<Box<dyn PreparedVm>, StartError> {
        let programs = self.programs(spec)?.with_folders(run_dir)?.with_ports(&spec.forwards)?;
        Ok(Box::new(PreparedCommand::new(programs)?))
    }
}
