//! A small synchronous client of QMP, the JSON protocol by which QEMU is told what to do.
//!
//! [`message`] is the pure half: bytes to messages, hostile ones included. [`client`] is the other: one
//! command at a time over a Unix socket, with a deadline each, and the events that came meanwhile.

mod client;
mod message;

use std::io;
use std::time::Duration;

pub(crate) use client::{Client, Pending};
pub(crate) use message::Event;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// QEMU closed the connection: it has ended, or is about to.
    #[error("QEMU closed its control connection")]
    Closed,
    /// The connection broke.
    #[error("QEMU's control connection failed")]
    Io {
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("QEMU did not answer {what} within {} ms", timeout.as_millis())]
    Timeout {
        /// The command, or what was waited for.
        what: &'static str,
        /// How long it had.
        timeout: Duration,
    },
    /// QEMU refuses the command.
    #[error("QEMU refuses {command}: {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What QEMU says.
        description: String,
    },
    /// What came is not QMP.
    #[error("QEMU's control connection carries something that is not QMP: {what}")]
    Protocol {
        /// What is wrong with it.
        what: &'static str,
    },
}
