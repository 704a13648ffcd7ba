//! What `snapctl` does with a store: the same on a folder of one's own and behind a daemon's admin API.
//!
//! Every function blocks. Failures carry the exit code and, where one helps, the next command to try.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sustain_proto::human::counted;
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    DirectoryTarget, ErrorKind, FileSource, Progress, PushLineage, PushReport, PushRequest, RebaseReport,
    SnapshotInfo, Store, VerifyReport,
};

use crate::clock;
use sustain_store::error_chain;

/// A failure as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, with its causes.
    pub error: String,
    /// The process's exit code.
    pub exit_code: u8,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(exit_code: u8, error: impl Into<String>) -> Self {
        Self { error: error.into(), exit_code, hint: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// From a store's error.
    #[must_use]
    pub fn of(error: &(dyn std::error::Error + 'static), kind: ErrorKind) -> Self {
        let failure = Self::new(exit_code(kind), error_chain(error));
        match kind {
            ErrorKind::Busy => failure.with_hint("run the command again when that is done"),
            ErrorKind::Corrupt => failure.with_hint("`snapctl verify` names every damaged file"),
            ErrorKind::NotFound => {
                failure.with_hint("`snapctl log SERVICE` lists the snapshots that are here")
            }
            ErrorKind::NoSpace => {
                failure.with_hint("free some space and run the command again: nothing is lost")
            }
            ErrorKind::ReadOnly => failure.with_hint(
                "mount the file system writable, or name another folder; a store that is read-only can be read",
            ),
            ErrorKind::Refused | ErrorKind::Failed => failure,
        }
    }
}

/// The published exit code for each kind of error.
#[must_use]
pub const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 10,
        ErrorKind::Busy => 11,
        ErrorKind::Corrupt => 13,
        ErrorKind::Refused => 2,
        ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::Failed => 1,
    }
}

/// A region to push: a name and the file with its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionFile {
    /// The region's name.
    pub name: RegionName,
    /// The file.
    pub path: PathBuf,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PushOutput {
    /// The store's report.
    #[serde(flatten)]
    pub report: PushReport,
    /// How long it took.
    pub seconds: f64,
}

/// What a gather did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GatherOutput {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Bytes of the regions that were written.
    pub bytes_out: u64,
    /// Bytes that came from other nodes.
    pub bytes_fetched: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Pushes files as a snapshot that continues the service's newest.
///
/// # Errors
/// If a file can't be read, or the store can't take the snapshot.
pub fn push(
    store: &Store,
    service: &ServiceName,
    regions: &[RegionFile],
    node: NodeId,
    progress: &dyn Progress,
) -> Result<PushOutput, Failure> {
    let started = Instant::now();
    let failed = |error: sustain_store::PushError| {
        let kind = error.kind();
        Failure::of(&error, kind)
    };
    let sources = regions.iter().map(open_region).collect::<Result<Vec<_>, _>>()?;
    progress.total(sources.iter().map(sustain_store::RegionSource::bytes).sum());
    let lineage = PushLineage::ContinueNewest { node, nonce: rand::random() };
    let request = PushRequest { service: service.clone(), lineage, time_ms: clock::wall_ms() };
    let mut push = store.begin_push(request).map_err(failed)?;
    for (region, source) in regions.iter().zip(&sources) {
        push.ingest(&region.name, source).map_err(failed)?;
        progress.advance(sustain_store::RegionSource::bytes(source));
        if progress.cancelled() {
            return Err(Failure::new(130, "interrupted; nothing was stored"));
        }
    }
    let report = push.commit().map_err(failed)?;
    Ok(PushOutput { report, seconds: started.elapsed().as_secs_f64() })
}

fn open_region(region: &RegionFile) -> Result<FileSource, Failure> {
    FileSource::open(&region.path).map_err(|error| {
        Failure::new(1, format!("can't read {} for region {}: {error}", region.path.display(), region.name))
            .with_hint("a region is given as NAME=FILE, such as --region ram=memory.img")
    })
}

/// Finds the snapshot that a text names: an id, the beginning of one, or `SERVICE@latest`, `SERVICE@-1`.
///
/// # Errors
/// If there is none, or several.
pub fn resolve(store: &Store, selector: &str) -> Result<SnapshotId, Failure> {
    store.resolve(selector).map_err(|error| Failure::of(&error, error.kind()))
}

/// Writes a snapshot's regions into a folder, all or nothing.
///
/// # Errors
/// If the snapshot is not here, is damaged, or the folder can't be written.
pub fn gather(
    store: &Store,
    snapshot: SnapshotId,
    to: &Path,
    progress: &dyn Progress,
) -> Result<GatherOutput, Failure> {
    let started = Instant::now();
    let target = DirectoryTarget::new(to);
    let report = store.restore(snapshot, &target, progress).map_err(|error| match error {
        sustain_store::RestoreError::Cancelled => Failure::new(130, "interrupted; nothing was written"),
        error => Failure::of(&error, error.kind()),
    })?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(GatherOutput { snapshot: report.snapshot, bytes_out: report.bytes_out, bytes_fetched: 0, seconds })
}

/// Makes the newest snapshot the base of a new generation.
///
/// # Errors
/// If there is none, or the store can't be written.
pub fn rebase(store: &Store, service: &ServiceName) -> Result<RebaseReport, Failure> {
    store.rebase(service, None).map_err(|error| Failure::of(&error, error.kind()))
}

/// The service's snapshots, oldest first.
///
/// # Errors
/// If there are none, or the store can't be read.
pub fn log(store: &Store, service: &ServiceName) -> Result<Vec<SnapshotInfo>, Failure> {
    let list = store.snapshots(Some(service)).map_err(|error| Failure::of(&error, error.kind()))?;
    let bad = store.opened().bad.iter().find(|bad| bad.path.extension().is_some_and(|end| end == "manifest"));
    if let (true, Some(bad)) = (list.is_empty(), bad) {
        let what =
            format!("no snapshot of {service} can be read: {} is bad: {}", bad.path.display(), bad.reason);
        return Err(Failure::new(13, what).with_hint("`snapctl verify` names every damaged file"));
    }
    let incomplete = store.snapshots_incomplete(service) as u64;
    if list.is_empty() && incomplete > 0 {
        let what = counted(incomplete, "snapshot", "snapshots");
        return Err(Failure::new(13, format!("{what} of {service} can't be read: files are missing"))
            .with_hint("`snapctl verify` names every damaged file"));
    }
    if list.is_empty() {
        return Err(Failure::new(10, format!("there is no snapshot of {service} here"))
            .with_hint("`snapctl push SERVICE --region NAME=FILE` takes the first one"));
    }
    Ok(list)
}

/// Reads and checks everything.
///
/// # Errors
/// If the store can't be read at all. What is damaged is in the report.
pub fn verify(store: &Store, progress: &dyn Progress) -> Result<VerifyReport, Failure> {
    store.verify(progress).map_err(|error| match error {
        sustain_store::VerifyError::Cancelled => Failure::new(130, "interrupted"),
        error => Failure::of(&error, error.kind()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asked a daemon was once told to leave out `--store`, which was not there.
    #[test]
    fn a_busy_service_is_to_be_waited_for() {
        let error = sustain_store::RebaseError::Busy { service: "notes".parse().unwrap() };
        let failure = Failure::of(&error, error.kind());
        assert_eq!(failure.exit_code, 11);
        assert_eq!(failure.hint.as_deref(), Some("run the command again when that is done"));
    }
}
