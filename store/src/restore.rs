//! Restoring: every chunk is checked against its id before it counts.

use std::fs::File;
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
use crate::rebase_error::RebaseError;
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

/// One chunk to write. They are worked on in the order of their positions: what a position's chunk refers to, and the
/// chunks of its block, are then needed at about the same time, so that each block is decoded about once.
#[derive(Debug, Clone, Copy)]
struct Job {
    place: Place,
    region: u32,
    position: u64,
}

/// How finely the progress of regions is compared.
const BATCHES_SCALE: usize = 1 << 20;

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
    /// has then removed what was written. A pack that is found to be damaged is set aside.
    pub fn restore(
        &self,
        id: SnapshotId,
        target: &dyn RestoreTarget,
        progress: &dyn Progress,
    ) -> Result<RestoreReport, RestoreError> {
        let outcome = match self.open_snapshot(id) {
            Ok(reader) => reader.restore(target, progress),
            Err(error) => {
                target.abandon();
                Err(error.into())
            }
        };
        if let Err(RestoreError::Fault(fault) | RestoreError::Read(ReadError::Fault(fault))) = &outcome {
            self.set_aside_found(fault);
        }
        outcome
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
    pace: Pace,
) -> Result<(), RebaseError> {
    let reader = SnapshotReader::open(shared, id)?;
    match restore(&reader, None, progress, pace, &BlockCache::default()) {
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
        let chunks = whole.located.chunks_from(&region.name, 0);
        jobs.extend(chunks.map(|(position, chunk)| {
            let place = whole.catalogue.place(chunk);
            Job { place, region: number as u32, position }
        }));
    }
    jobs
}

/// The jobs in batches, each of one region, with the regions side by side: whoever writes to a file keeps the others
/// from writing to it.
fn batches(jobs: &[Job]) -> Vec<&[Job]> {
    let mut batches = Vec::new();
    for jobs in jobs.chunk_by(|one, next| one.region == next.region) {
        let count = jobs.len().div_ceil(limits::BATCH_JOBS);
        for (number, batch) in jobs.chunks(limits::BATCH_JOBS).enumerate() {
            batches.push(((2 * number + 1) * BATCHES_SCALE / count, batch));
        }
    }
    batches.sort_by_key(|(progress, _)| *progress);
    batches.into_iter().map(|(_, batch)| batch).collect()
}

impl Restore<'_> {
    fn run(&self, pace: Pace) -> Result<(), RestoreError> {
        let catalogue = &self.reader.whole.catalogue;
        let total = self.jobs.iter().map(|job| u64::from(catalogue.plain_bytes(job.place)));
        self.progress.total(total.sum());
        let batches = batches(&self.jobs);
        let make = || Ok(ChunkReader::new()?);
        for_each_batch(pace, batches.len() as u64, 1, make, |reader, number| {
            self.work(reader, batches[number.start as usize])
        })?;
        Ok(())
    }

    fn work(&self, reader: &mut ChunkReader, batch: &[Job]) -> Result<(), RestoreError> {
        if self.progress.cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let from = Chunks { cache: self.cache, ..self.reader.chunks() };
        let mut bytes = 0;
        for job in batch {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_advance_side_by_side() {
        let job = |region, position| Job { place: Place { pack: 0, chunk: 0 }, region, position };
        let long = (0..4 * limits::BATCH_JOBS as u64 - 1).map(|position| job(0, position));
        let jobs: Vec<Job> = long.chain((0..limits::BATCH_JOBS as u64 + 1).map(|at| job(7, at))).collect();
        let batches = batches(&jobs);
        let regions: Vec<u32> = batches.iter().map(|batch| batch[0].region).collect();
        assert_eq!(regions, [0, 7, 0, 0, 7, 0]);
        let mut all: Vec<(u32, u64)> =
            batches.concat().iter().map(|job| (job.region, job.position)).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(jobs.iter().map(|job| (job.region, job.position))));
        assert!(super::batches(&[]).is_empty());
    }
}
