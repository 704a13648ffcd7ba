//! Programs beside a service of the command driver: what programs in the guest are to a VM.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use super::error::ProgramError;
use super::job::Call;
use super::stream::{StreamError, Streamed};
use crate::guest::{GuestAgent, GuestCommand, GuestError, GuestExit};
use crate::limits;
use crate::memory_file;

/// The user's program `run-in-guest`.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) call: Call,
}

impl GuestAgent for Beside {
    fn run(
        &self,
        command: &GuestCommand,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<GuestExit, GuestError> {
        command.validate()?;
        let mut file = memory_file::create("sustain-input").map_err(|source| GuestError::Input { source })?;
        let copied = io::copy(&mut input.take(limits::COMMAND_INPUT_BYTES_MAX + 1), &mut file);
        let input_bytes = copied.map_err(|source| GuestError::Input { source })?;
        if input_bytes > limits::COMMAND_INPUT_BYTES_MAX {
            return Err(GuestError::Input { source: io::ErrorKind::FileTooLarge.into() });
        }
        let mut call = self.call.clone();
        // Opened anew by that name, it is read from its beginning.
        call.input = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        for (name, value) in &command.environment {
            call = call.with(name, value);
        }
        call.arguments.push(OsString::from(&command.program));
        call.arguments.extend(command.arguments.iter().map(OsString::from));
        let deadline = command.deadline.min(limits::COMMAND_GUEST_TIMEOUT);
        let streamed = call.stream(deadline, output).map_err(|error| match error {
            StreamError::Output(source) => GuestError::Output { source },
            StreamError::Program(ProgramError::TimedOut { .. }) => GuestError::Deadline { deadline },
            StreamError::Program(error) => {
                GuestError::Failed { doing: "running a program beside the service", source: error.into() }
            }
        })?;
        let Streamed { report, output_bytes, stderr: stderr_tail } = streamed;
        Ok(GuestExit { code: report.code, signal: report.signal, stderr_tail, input_bytes, output_bytes })
    }
}
