//! The client of qemu-guest-agent.
//!
//! ```text
//! wire ... bytes and values (pure)        connection ... one command at a time, each with a deadline
//! file ... files in the guest, in parts   run .......... a program, its input and its output
//! shell .. short scripts of ours
//! ```
//!
//! The agent itself can carry a program's input and output, but only whole: it holds both in memory, and
//! stops at 16 MiB of output. So both go through files in the guest, in parts of bounded size, with no more
//! than one part in anybody's memory. Not through pipes: the agent does one thing at a time, and a pipe on which it
//! waits would stop it.

mod connection;
mod file;
mod run;
mod shell;
#[cfg(test)]
mod tests;
mod wire;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use connection::{AgentError, Connection};
pub(crate) use file::GuestFile;
pub(crate) use shell::shell;

use super::command::{GuestAgent, GuestCommand, GuestError, GuestExit};

/// The agent of one VM, shared by whoever wants something of it.
#[derive(Debug, Clone)]
pub(crate) struct Agent(Arc<Mutex<Connection>>);

impl Agent {
    /// Over our end of the port.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(Connection::new(stream))))
    }

    /// The connection, once nobody else uses it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A connection that somebody left in the middle of a command finds its step by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestAgent for Agent {
    fn run(
        &self,
        command: &GuestCommand,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<GuestExit, GuestError> {
        command.validate()?;
        run::run(&mut self.lock(), command, input, output)
    }
}
