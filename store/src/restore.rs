//! Restoring: every chunk is checked against its id before it counts.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{Region, RegionName, SnapshotId};

use crate::block_cache::BlockCache;
use crate::catalogue::Place;
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::error::io_kind;
use crate::generation::Whole;
use crate::parallel::{Pace, for_each_batch};
use crate::reader::SnapshotReader;
use crate::rebase::RebaseError;
use crate::store::{Shared, Store};
use crate::{ErrorKind, Fault, Progress, ReadError, RestoreTarget, limits};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Bytes of its regions, zeros included.
    pub bytes_out: u64,
    /// Bytes that were written; the rest are holes.
    pub bytes_written: u64,
    /// Chunks that were written.
    pub chunks: u64,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The target can't be written.
    #[error("could not write region {region}")]
    Target {
        /// Which region.
        region: RegionName,
        /// What the system says.
        source: std::io::Error,
    },
    /// The target's files are complete but can't be made visible.
    #[error("could not finish the restored files")]
    Finish {
        /// What the system says.
        source: std::io::Error,
    },
    /// Stopped on request.
    #[error("the restore was stopped")]
    Cancelled,
    /// The snapshot is not here, or can't be put together.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RestoreError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Target { source, .. } | Self::Finish { source } => io_kind(source),
            Self::Cancelled => ErrorKind::Failed,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// One chunk to write. They are worked on in the order of the packs, so that each is read once through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    place: Place,
    region: u32,
    position: u64,
}

struct Restore<'a> {
    reader: &'a SnapshotReader,
    /// None: everything is read and checked, and nothing is written. A region without a file is left out.
    files: Option<Vec<Option<File>>>,
    jobs: Vec<Job>,
    written: AtomicU64,
    progress: &'a dyn Progress,
    cache: &'a BlockCache,
}

impl Store {
    /// Writes a snapshot's regions. Every chunk is compared with its id before it is written, and the
    /// index with the manifest's hash of the contents.
    ///
    /// # Errors
    /// If the snapshot is not here, is damaged, or the target can't be written. A target that can do so
    /// has then removed what was written.
    pub fn restore(
        &self,
        id: SnapshotId,
        target: &dyn RestoreTarget,
        progress: &dyn Progress,
    ) -> Result<RestoreReport, RestoreError> {
        match self.open_snapshot(id) {
            Ok(reader) => reader.restore(target, progress),
            Err(error) => {
                target.abandon();
                Err(error.into())
            }
        }
    }
}

impl SnapshotReader {
    /// As [`Store::restore`]. Of a snapshot of which not all is here, the target leaves out the regions that can wait.
    ///
    /// # Errors
    /// As for [`Store::restore`], or if what is wanted is not here.
    pub fn restore(
        &self,
        target: &dyn RestoreTarget,
        progress: &dyn Progress,
    ) -> Result<RestoreReport, RestoreError> {
        let cache = &self.shared.blocks;
        let outcome = restore(self, Some(target), progress, Pace::Full, cache).and_then(|report| {
            target.finish().map_err(|source| RestoreError::Finish { source })?;
            Ok(report)
        });
        if outcome.is_err() {
            target.abandon();
        }
        outcome
    }
}

/// Reads and checks all that a restore would, before what could replace it is dropped.
pub(crate) fn check_restorable(
    shared: &Arc<Shared>,
    id: SnapshotId,
    progress: &dyn Progress,
) -> Result<(), RebaseError> {
    let reader = SnapshotReader::open(shared, id)?;
    // A rebase runs beside the VM that it is for.
    match restore(&reader, None, progress, Pace::Behind, &BlockCache::default()) {
        Ok(_) => Ok(()),
        Err(RestoreError::Read(error)) => Err(error.into()),
        Err(RestoreError::Fault(fault)) => Err(fault.into()),
        Err(RestoreError::Cancelled) => Err(RebaseError::Cancelled),
        Err(error) => Err(Fault::damaged(shared.layout.root(), error).into()),
    }
}

fn restore(
    reader: &SnapshotReader,
    target: Option<&dyn RestoreTarget>,
    progress: &dyn Progress,
    pace: Pace,
    cache: &BlockCache,
) -> Result<RestoreReport, RestoreError> {
    let snapshot = &reader.whole.snapshot;
    let regions = &snapshot.manifest.regions;
    let files = match target {
        Some(target) => {
            Some(regions.iter().map(|region| open_target(target, region)).collect::<Result<Vec<_>, _>>()?)
        }
        None => None,
    };
    let wanted = |region: usize| files.as_ref().is_none_or(|files| files[region].is_some());
    let jobs = jobs(&reader.whole, regions, wanted);
    let restore = Restore { reader, files, jobs, written: AtomicU64::new(0), progress, cache };
    restore.run(pace)?;
    Ok(RestoreReport {
        snapshot: snapshot.id,
        bytes_out: snapshot.manifest.bytes(),
        bytes_written: restore.written.into_inner(),
        chunks: restore.jobs.len() as u64,
    })
}

fn open_target(target: &dyn RestoreTarget, region: &Region) -> Result<Option<File>, RestoreError> {
    let prepare = || {
        let file = target.open(region)?;
        if let Some(file) = file.as_ref().filter(|_| !target.is_blank(region)) {
            // Emptied first: what a reused file held must not show through the holes.
            file.set_len(0)?;
            file.set_len(region.bytes)?;
        }
        Ok(file)
    };
    prepare().map_err(|source| RestoreError::Target { region: region.name.clone(), source })
}

fn jobs(whole: &Whole, regions: &[Region], wanted: impl Fn(usize) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (number, region) in regions.iter().enumerate().filter(|(number, _)| wanted(*number)) {
        for (position, chunk) in whole.index.regions.get(&region.name).into_iter().flatten() {
            // Loading has checked that the catalogue has every chunk.
            if let Some(place) = chunk.as_ref().and_then(|chunk| whole.catalogue.chunk(chunk)) {
                jobs.push(Job { place, region: number as u32, position: *position });
            }
        }
    }
    jobs.sort_unstable();
    jobs
}

impl Restore<'_> {
    fn run(&self, pace: Pace) -> Result<(), RestoreError> {
        let catalogue = &self.reader.whole.catalogue;
        let total = self.jobs.iter().map(|job| u64::from(catalogue.entry(job.place).plain_bytes));
        self.progress.total(total.sum());
        let make = || Ok(ChunkReader::new()?);
        for_each_batch(pace, self.jobs.len() as u64, limits::BATCH_JOBS, make, |reader, batch| {
            self.work(reader, batch)
        })?;
        Ok(())
    }

    fn work(&self, reader: &mut ChunkReader, batch: Range<u64>) -> Result<(), RestoreError> {
        if self.progress.cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let from = Chunks { cache: self.cache, ..self.reader.chunks() };
        let mut bytes = 0;
        for job in &self.jobs[batch.start as usize..batch.end as usize] {
            let plain = reader.chunk(from, job.place)?;
            if let Some(file) = self.files.as_ref().and_then(|files| files[job.region as usize].as_ref()) {
                file.write_all_at(plain, job.position * CHUNK_BYTES as u64)
                    .map_err(|source| self.target_error(job, source))?;
            }
            bytes += plain.len() as u64;
        }
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advance(bytes);
        Ok(())
    }

    fn target_error(&self, job: &Job, source: std::io::Error) -> RestoreError {
        let region = self.reader.whole.snapshot.manifest.regions[job.region as usize].name.clone();
        RestoreError::Target { region, source }
    }
}
