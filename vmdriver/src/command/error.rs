//! What can go wrong with a user's program.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::driver::ExitReport;
use crate::error::ErrorKind;

/// Why a program of the user's own did not do what it is for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It is needed, and not there.
    #[error("there is no program {}, or it may not be executed", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// No process, pipe or file to be had.
    #[error("can't start {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was killed because it took too long.
    #[error("{} was killed: it was not done after {} s", path.display(), patience.as_secs_f64())]
    TimedOut {
        /// The program.
        path: PathBuf,
        /// How long it had.
        patience: Duration,
    },
    /// It failed.
    #[error("{} failed: {report}", path.display())]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        report: Box<ExitReport>,
    },
    /// It is not needed any more.
    #[error("it was given up: the service is to end")]
    Cancelled,
    /// The service ended beside it.
    #[error("the service ended: {report}")]
    Gone {
        /// How it ended.
        report: Box<ExitReport>,
    },
    /// It said that all is well, and did nothing.
    #[error(
        "`snapshot` ended with 0 and wrote to no file in {}: what is there is of an earlier call. \
         If nothing has changed, it has to `touch` one",
        path.display()
    )]
    Untouched {
        /// The folder.
        path: PathBuf,
    },
    /// The service ended before it was alive.
    #[error("the service ended before it was alive: {report}")]
    Ended {
        /// How it ended.
        report: Box<ExitReport>,
    },
    /// The service never answered.
    #[error("the service was not alive after {} s: {last}", patience.as_secs_f64())]
    NotAlive {
        /// How long it had.
        patience: Duration,
        /// What `alive` did last.
        last: String,
    },
    /// A folder can't be used.
    #[error("can't {doing} {}", path.display())]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What `snapshot` left is no snapshot.
    #[error("{} is no region of a snapshot: {reason}", path.display())]
    Region {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `snapshot` left nothing, or too much.
    #[error("`snapshot` left {found} files in {}: there must be from 1 to {max}", path.display())]
    Regions {
        /// The folder.
        path: PathBuf,
        /// How many.
        found: usize,
        /// Most.
        max: usize,
    },
    /// The regions to restore are not complete.
    #[error("the snapshot is not restored whole: the service is not started from it")]
    Incomplete,
    /// No free port.
    #[error("can't find a free port for guest port {guest_port}")]
    Port {
        /// The guest's side.
        guest_port: u16,
        /// Why.
        source: io::Error,
    },
}

impl ProgramError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Ended { .. } | Self::Gone { .. } => ErrorKind::Gone,
            Self::Region { .. } | Self::Regions { .. } | Self::Incomplete => ErrorKind::Corrupt,
            _ => ErrorKind::Failed,
        }
    }
}
