//! Writing packs: blocks in, files out, each closed when it is large enough.

use std::path::PathBuf;
use std::sync::Arc;

use sustain_proto::limits::{CHUNK_BYTES, PACK_BYTES_TARGET, PACK_RECORDS_MAX};
use sustain_proto::{PackId, PackRef};

use crate::block::NewBlock;
use crate::directory::PackDirectory;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::pack_ends;
use crate::publish::{TemporaryFile, new_name};
use crate::service_key::ServiceKey;
use crate::syncing::Syncing;
use crate::{Fault, limits};

/// A pack that is written but has no name yet, nor was it waited for that it is synced.
#[derive(Debug)]
pub(crate) struct FinishedPack {
    pub(crate) reference: PackRef,
    pub(crate) directory: PackDirectory,
    // Before the file, so that nothing of it is left to do when it is removed.
    syncing: Syncing,
    pub(crate) file: TemporaryFile,
}

impl FinishedPack {
    /// Has it synced by a thread of its own.
    pub(crate) fn begin_sync(&self) {
        self.syncing.begin();
    }

    /// Waits until it is synced.
    pub(crate) fn sync(&self) -> Result<(), Fault> {
        self.syncing.wait().during("sync", self.file.path())
    }
}

/// Takes blocks and cuts them into packs.
#[derive(Debug)]
pub(crate) struct PackSink {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    key: ServiceKey,
    current: Option<PackWriter>,
    finished: Vec<FinishedPack>,
    records: u64,
}

impl PackSink {
    /// Writes temporary files into this folder, sealed under this key, as the blocks are.
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf, key: ServiceKey) -> Self {
        Self { disk, folder, key, current: None, finished: Vec::new(), records: 0 }
    }

    /// What everything is sealed under.
    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Adds a block.
    pub(crate) fn append(&mut self, block: &NewBlock<'_>) -> Result<(), Fault> {
        let writer = match &mut self.current {
            Some(writer) => writer,
            None => {
                let path = self.folder.join(new_name("pack")?);
                self.current.insert(PackWriter::create(&self.disk, path, self.key.clone())?)
            }
        };
        let before = writer.directory.records();
        writer.append(block)?;
        self.records += (writer.directory.records() - before) as u64;
        if writer.is_full() {
            self.close()?;
            self.sync_behind()?;
        }
        Ok(())
    }

    /// Closes the pack that is being written, if there is one.
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        if let Some(writer) = self.current.take() {
            self.finished.push(writer.finish()?);
        }
        Ok(())
    }

    /// Has the last pack synced while the next one is written. A disk that does not keep up is waited for.
    fn sync_behind(&self) -> Result<(), Fault> {
        if let Some(pack) = self.finished.last() {
            pack.begin_sync();
        }
        let last = self.finished.len().checked_sub(limits::SYNCS_BEHIND_MAX + 1);
        last.and_then(|last| self.finished.get(last)).map_or(Ok(()), FinishedPack::sync)
    }

    /// Chunks and indexes that were added.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// All packs.
    pub(crate) fn finish(mut self) -> Result<Vec<FinishedPack>, Fault> {
        self.close()?;
        Ok(self.finished)
    }

    pub(crate) fn finished_count(&self) -> usize {
        self.finished.len()
    }
}

#[derive(Debug)]
struct PackWriter {
    file: TemporaryFile,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    flushed: u64,
    directory: PackDirectory,
}

impl PackWriter {
    fn create(disk: &Arc<dyn Disk>, path: PathBuf, key: ServiceKey) -> Result<Self, Fault> {
        let mut buffer = Vec::with_capacity(limits::PACK_BUFFER_BYTES + CHUNK_BYTES);
        buffer.extend_from_slice(&pack_ends::header());
        let file = TemporaryFile::create(disk, path)?;
        let hasher = blake3::Hasher::new();
        Ok(Self { file, hasher, buffer, flushed: 0, directory: PackDirectory::new(key) })
    }

    fn bytes(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn is_full(&self) -> bool {
        self.bytes() + self.directory.sealed_bytes() >= PACK_BYTES_TARGET
            || self.directory.records() + limits::BLOCK_CHUNKS_MAX > PACK_RECORDS_MAX
    }

    fn append(&mut self, block: &NewBlock<'_>) -> Result<(), Fault> {
        // A pack is closed at its target, and no block is larger than an index may be: all fit 32 bits.
        self.directory.push(block, self.bytes() as u32);
        self.put(block.stored)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for part in bytes.chunks(limits::PACK_BUFFER_BYTES) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= limits::PACK_BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.hasher.update(&self.buffer);
        self.file.file().write_at(self.flushed, &self.buffer).during("write", self.file.path())?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<FinishedPack, Fault> {
        let end = self.directory.seal()?;
        self.put(&end)?;
        self.flush()?;
        let id = PackId::from_bytes(*self.hasher.finalize().as_bytes());
        let reference = PackRef { id, bytes: self.flushed };
        self.directory.shrink();
        let syncing = Syncing::new(self.file.share());
        Ok(FinishedPack { reference, directory: self.directory, syncing, file: self.file })
    }
}
