//! What every operation's error has in common: its kind, and faults of files and of the database.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use sustain_proto::{KeyId, ServiceName};
use sustain_seal::TooLong;

/// What a caller can do about an error. The command line's exit codes follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// There is no such store, snapshot or pack.
    NotFound,
    /// Somebody else is at it; try again later.
    Busy,
    /// Stored or received data is damaged or can't be verified.
    Corrupt,
    /// The disk is full.
    NoSpace,
    /// The key is missing, or it is not the one that things are sealed under.
    Key,
    /// The file system is read-only: what reads works, what changes does not.
    ReadOnly,
    /// The request can't be granted as it is.
    Refused,
    /// Anything else, mostly failing disks.
    Failed,
}

/// Trouble below an operation: with a file or with the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A call to the operating system failed.
    #[error("could not {doing} {}", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process is in the middle of a commit, and does not get on with it.
    #[error("the store at {} is being changed by {}, which does not get on with it", path.display(), named(*process))]
    Busy {
        /// The store.
        path: PathBuf,
        /// The other process, if it is known.
        process: Option<u32>,
    },
    /// The file system has no locks, without which processes could not tell who lives.
    #[error("the file system of {} has no locks (flock), and a store can't do without", path.display())]
    NoLocks {
        /// What was to be locked.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the store does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is wanted is here, but not the key that it is sealed under.
    #[error("key {key} is not here, and nothing that is sealed under it can be read without it")]
    KeyMissing {
        /// Its id.
        key: KeyId,
    },
    /// Nothing of the service can be sealed.
    #[error("there is no key of {service} here, so that nothing of it can be stored")]
    ServiceKeyMissing {
        /// The service.
        service: ServiceName,
    },
    /// The system's source of randomness failed.
    #[error("could not get random bytes: {reason}")]
    Random {
        /// What it says.
        reason: String,
    },
}

fn named(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |number| format!("process {number}"))
}

impl From<TooLong> for Fault {
    /// Blocks and directories are bounded far below what the cipher takes.
    fn from(_: TooLong) -> Self {
        let source = io::Error::from(io::ErrorKind::FileTooLarge);
        Self::Disk { doing: "seal", path: PathBuf::from("a block"), source }
    }
}

impl Fault {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { source, .. } => io_kind(source),
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::KeyMissing { .. } | Self::ServiceKeyMissing { .. } => ErrorKind::Key,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::NoLocks { .. } | Self::Random { .. } => ErrorKind::Failed,
        }
    }

    /// Whether a file can't be read as it is: it does not hold what it should, or the disk has lost a part of it.
    pub(crate) fn is_unreadable(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Disk { source, .. } => source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
            _ => false,
        }
    }

    pub(crate) fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.to_string() }
    }

    /// For listing a folder of the store: something else in its place is damage.
    pub(crate) fn listing(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                Self::damaged(path, "this is no folder")
            }
            _ if is_loop(&source) => Self::damaged(path, LOOP),
            _ => Self::Disk { doing: "list", path: path.to_owned(), source },
        }
    }

    /// For reading what the store itself has put there: if it is gone or shorter, that is damage.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::damaged(path, "the file is missing"),
            io::ErrorKind::UnexpectedEof => Self::damaged(path, "the file is cut short"),
            io::ErrorKind::IsADirectory => Self::damaged(path, "this is a folder"),
            _ if is_loop(&source) => Self::damaged(path, LOOP),
            _ => Self::Disk { doing: "read", path: path.to_owned(), source },
        }
    }
}

const LOOP: &str = "this is a link that leads to itself";

/// Whether a name can't be followed to any file.
pub(crate) fn is_loop(source: &io::Error) -> bool {
    source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// The kind of an input or output error.
pub(crate) fn io_kind(source: &io::Error) -> ErrorKind {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        _ => ErrorKind::Failed,
    }
}

/// Names what was being done when a call to the disk failed.
pub(crate) trait DiskContext<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T, Fault>;
}

impl<T> DiskContext<T> for io::Result<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T, Fault> {
        self.map_err(|source| Fault::Disk { doing, path: path.to_owned(), source })
    }
}

/// An error and its causes in one line, for logs and for people.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors, and some libraries' errors, repeat their cause.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
