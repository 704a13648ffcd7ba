//! Verifying: everything is read, and what is bad is named.

use std::path::PathBuf;

use serde::Serialize;

use crate::{ErrorKind, Fault};

/// A file that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BadFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What was read, and what is bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Bad files. Empty if all is well.
    pub bad: Vec<BadFile>,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Chunks that were decoded and compared with their ids.
    pub chunks: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is bad.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad.is_empty()
    }
}

/// Why verifying could not be finished. Damage is no error: it is in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Stopped on request.
    #[error("verifying was stopped")]
    Cancelled,
    /// A disk or the database fails.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl VerifyError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled => ErrorKind::Failed,
            Self::Fault(fault) => fault.kind(),
        }
    }
}
