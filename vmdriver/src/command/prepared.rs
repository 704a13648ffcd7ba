//! A service about to be restored.

use sustain_store::RestoreTarget;

use super::error::ProgramError;
use super::programs::{Programs, Verb};
use super::regions::FolderTarget;
use super::vm::CommandVm;
use crate::driver::{PreparedVm, Vm};
use crate::error::StartError;

/// Folders that wait for a snapshot's files.
#[derive(Debug)]
pub(super) struct PreparedCommand {
    programs: Programs,
    target: FolderTarget,
}

impl PreparedCommand {
    pub(super) fn new(programs: Programs) -> Result<Self, ProgramError> {
        let target = FolderTarget::new(programs.snapshot_folder()?.to_owned());
        Ok(Self { programs, target })
    }
}

impl PreparedVm for PreparedCommand {
    fn target(&self) -> &dyn RestoreTarget {
        &self.target
    }

    fn resume(self: Box<Self>) -> Result<Box<dyn Vm>, StartError> {
        if !self.target.is_complete() {
            return Err(ProgramError::Incomplete.into());
        }
        let call = self.programs.call(Verb::Restore).ok_or(ProgramError::Incomplete)?;
        call.run(self.programs.settings().start_timeout)?;
        Ok(Box::new(CommandVm::start(self.programs, true)?))
    }
}
