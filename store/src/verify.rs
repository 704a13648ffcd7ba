//! Verifying: everything is read, or a part of it, and what is bad is named and set aside.

use std::path::PathBuf;

use serde::Serialize;
use sustain_proto::{PackId, ServiceName, SnapshotId};

use crate::parallel::Pace;
use crate::scrub_plan::Sample;
use crate::store::Store;
use crate::verify_run::Run;
use crate::{ErrorKind, Fault, Progress, ReadError};

/// A file that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BadFile {
    /// Where it is: in the folder `aside` if it was set aside.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A snapshot that needs something which is missing or damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DamagedSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whose state it is.
    pub service: ServiceName,
    /// Its number along the lineage.
    pub seq: u64,
}

/// What is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that is in the store.
    #[default]
    Everything,
    /// What the snapshots of a service need.
    Service(ServiceName),
    /// What a snapshot needs.
    Snapshot(SnapshotId),
}

/// How thoroughly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Packs are compared with their ids, and every chunk is decoded and compared with its id; every snapshot's index
    /// is put together; the key's file and the database are compared with the rest.
    #[default]
    Contents,
    /// Packs are compared with their ids: any bit that changed since they were written is found.
    Packs,
    /// The same, of some of the packs.
    Sample(Sample),
}

/// How to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// What is looked at.
    pub scope: Scope,
    /// How thoroughly.
    pub depth: Depth,
    /// Decides which packs a sample has, and the order of those that were never checked.
    pub seed: u64,
    /// Most bytes of packs that are read in a second.
    pub rate_bytes: Option<u64>,
    /// Go on with a run that was stopped: leave out what was found good since it began.
    pub resume: bool,
    /// Set damaged packs aside, and note what was checked when. Otherwise nothing in the store changes.
    pub set_aside: bool,
    /// How much of the machine it takes.
    pub pace: Pace,
}

/// What was read, and what is bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Bad files. Empty if all is well.
    pub bad: Vec<BadFile>,
    /// Packs that were set aside in this run.
    pub set_aside: Vec<PackId>,
    /// Snapshots of the scope that need a pack which is missing or damaged.
    pub damaged: Vec<DamagedSnapshot>,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Those of them that could only be compared with their ids, as the key that they are sealed under is not here.
    pub packs_sealed: u64,
    /// Packs of the scope that were left out: not in the sample, or found good before the run was resumed.
    pub packs_left_out: u64,
    /// Chunks that were decoded and compared with their ids.
    pub chunks: u64,
    /// Fragments that were compared with their ids and found good, and sheets alone.
    pub fragments: u64,
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
    /// Stopped on request. What was checked is noted.
    #[error("verifying was stopped")]
    Cancelled,
    /// There is no such service or snapshot.
    #[error(transparent)]
    Scope(ReadError),
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
            Self::Scope(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

impl Store {
    /// Reads everything, and changes nothing: [`Store::verify_with`] as it is unless told otherwise.
    ///
    /// # Errors
    /// Only if it was stopped, or the disk fails.
    pub fn verify(&self, progress: &dyn Progress) -> Result<VerifyReport, VerifyError> {
        self.verify_with(&VerifyOptions::default(), progress)
    }

    /// Reads what the options say, and names what is damaged. Of what is sealed under a key that is not here, the
    /// hashes of packs and manifests are checked. Work goes on beside it.
    ///
    /// # Errors
    /// If it was stopped, the scope names nothing, or the disk fails.
    pub fn verify_with(
        &self,
        options: &VerifyOptions,
        progress: &dyn Progress,
    ) -> Result<VerifyReport, VerifyError> {
        let mut run = Run::begin(self, options, progress)?;
        let outcome = run.check();
        // Also what was found before it was stopped.
        run.end(outcome)
    }
}
