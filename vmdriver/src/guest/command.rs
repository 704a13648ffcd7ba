//! A program to run inside a guest, and what becomes of it.

use std::error::Error;
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::error::ErrorKind;
use crate::limits;

/// Runs programs inside a guest. A handle of its own, to be used on any thread: a program may run for long,
/// and the VM is saved and looked after meanwhile.
pub trait GuestAgent: Send + Sync {
    /// Runs a program inside the guest to its end. `input` becomes its standard input, read to its end
    /// before the program starts; what it writes to its standard output goes to `output` as it comes.
    /// Programs run one after the other: a second call waits for the first.
    ///
    /// # Errors
    /// Says what kept the program from running to its end; its exit code, whatever it is, is no error.
    fn run(
        &self,
        command: &GuestCommand,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<GuestExit, GuestError>;
}

/// A program to run inside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCommand {
    /// The program: a path, or a name that is looked for in the guest's usual places.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, names and values, beside a plain `PATH` and `HOME=/`.
    pub environment: Vec<(String, String)>,
    /// How long all of it may take, input and output included.
    pub deadline: Duration,
}

impl GuestCommand {
    /// Checks what can be checked without a guest.
    pub(crate) fn validate(&self) -> Result<(), GuestError> {
        let invalid = |reason| Err(GuestError::Invalid { reason });
        if self.program.is_empty() {
            return invalid("the program has no name");
        }
        let variables = self.environment.iter().flat_map(|(name, value)| [name, value]);
        let texts = || std::iter::once(&self.program).chain(&self.arguments).chain(variables.clone());
        if texts().any(|text| text.contains('\0')) {
            return invalid("a NUL ends every text that a program can be given");
        }
        if self.environment.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
            return invalid("a variable has a name, and no = in it");
        }
        if texts().map(String::len).sum::<usize>() > limits::GUEST_ARGUMENTS_BYTES_MAX {
            return invalid("more arguments and variables than a program can be given here");
        }
        Ok(())
    }
}

/// How a program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestExit {
    /// Its exit code; none if a signal ended it. 126 and 127 are the shell's: the program can't be run, or
    /// is not there.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last that it wrote to its standard error.
    pub stderr_tail: String,
    /// Bytes of input that it was given.
    pub input_bytes: u64,
    /// Bytes of output that it wrote.
    pub output_bytes: u64,
}

/// Why a program did not run inside the guest to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// This driver has no way into its guests.
    #[error("the driver of this VM can't run anything inside it")]
    Unsupported,
    /// Nobody in the guest has the agent's port open.
    #[error("no agent runs inside the guest; install qemu-guest-agent there and see that it is started")]
    Absent,
    /// The port is open, and nobody answers.
    #[error(
        "the guest's agent does not answer; look inside the guest whether qemu-guest-agent hangs, \
         or whether the guest does"
    )]
    Silent {
        /// What was asked last.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The agent lacks a command, or was told not to carry it out.
    #[error(
        "the guest's agent (version {version}) has no {command}: it is too old, or its settings switch \
         it off (qemu-ga --block-rpcs, or FILTER_RPC_ARGS)"
    )]
    Incapable {
        /// The agent's version.
        version: String,
        /// What it lacks.
        command: &'static str,
    },
    /// It can't be run anywhere.
    #[error("that is nothing that a guest can run: {reason}")]
    Invalid {
        /// Why.
        reason: &'static str,
    },
    /// The agent can't do what running a program takes.
    #[error("the guest's agent failed at {doing}")]
    Failed {
        /// What it should have done.
        doing: &'static str,
        /// What it says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The VM or its agent ended while the program ran: whether the program did its work is unknown.
    #[error("the program in the guest is lost: the VM or its agent ended or was restored meanwhile")]
    Lost {
        /// How it was noticed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It took too long and was ended.
    #[error("the program in the guest took longer than {} ms and was ended", deadline.as_millis())]
    Deadline {
        /// How long it had.
        deadline: Duration,
    },
    /// What it should be given can't be read.
    #[error("can't read what the program in the guest should be given")]
    Input {
        /// Why.
        source: io::Error,
    },
    /// What it wrote can't be kept.
    #[error("can't keep what the program in the guest wrote")]
    Output {
        /// Why.
        source: io::Error,
    },
}

impl GuestError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported | Self::Incapable { .. } => ErrorKind::Unsupported,
            Self::Absent => ErrorKind::Missing,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Lost { .. } => ErrorKind::Gone,
            _ => ErrorKind::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_program_can_be_given_is_refused_before_the_guest_is_asked() {
        let command = |program: &str, argument: &str, name: &str| GuestCommand {
            program: program.to_owned(),
            arguments: vec![argument.to_owned()],
            environment: vec![(name.to_owned(), "=".to_owned())],
            deadline: Duration::from_secs(1),
        };
        command("a", "", "B").validate().unwrap();
        let long = "x".repeat(limits::GUEST_ARGUMENTS_BYTES_MAX);
        for bad in [
            command("", "", "B"),
            command("a", "\0", "B"),
            command("a", "", "B=C"),
            command("a", "", ""),
            command("a", &long, "B"),
        ] {
            assert!(matches!(bad.validate(), Err(GuestError::Invalid { .. })), "{bad:?}");
        }
    }
}
