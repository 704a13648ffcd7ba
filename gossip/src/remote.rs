//! A snapshot of which a part is here, and the rest on peers: its chunks come one by one when they are needed.
//!
//! A chunk is looked up in the directory of the very peer that is asked for it, so that a peer whose directory and
//! bytes don't yield the chunk is the one that lied.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sustain_proto::{ChunkId, NodeId, PackId, PackRef};
use sustain_store::{ForeignDirectory, ForeignError, SnapshotReader, error_chain};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::conduct::What;
use crate::error::{ChunkError, RequestError};
use crate::fetch::read_part;
use crate::limits;
use crate::member::Member;
use crate::sources::Sources;
use crate::transport::links::lock;

/// A snapshot that is not whole here.
pub struct RemoteSnapshot {
    reader: SnapshotReader,
    directories: Mutex<Directories>,
    sources: Mutex<Sources>,
    ahead: Mutex<VecDeque<(ChunkId, Vec<u8>)>>,
    places: Semaphore,
    fetched: AtomicU64,
}

/// Directories as peers gave them.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    given: BTreeMap<(PackId, NodeId), ForeignDirectory>,
    records: usize,
}

impl Directories {
    /// Keeps one. With too many, those before are forgotten, and would be asked for again.
    pub(crate) fn put(&mut self, peer: NodeId, directory: ForeignDirectory) {
        if self.records + directory.records() > limits::FOREIGN_RECORDS_MAX {
            self.given.clear();
            self.records = 0;
        }
        self.records += directory.records();
        self.given.insert((directory.pack().id, peer), directory);
    }
}

/// Why a peer did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// It did not answer, or says no.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What it sent is something else.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// By its directory, the chunk is not in the pack.
    #[error("its pack does not hold the chunk")]
    Absent,
}

impl fmt::Debug for RemoteSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSnapshot").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl RemoteSnapshot {
    pub(crate) fn new(reader: SnapshotReader, directories: Directories) -> Self {
        Self {
            reader,
            directories: Mutex::new(directories),
            sources: Mutex::default(),
            ahead: Mutex::default(),
            places: Semaphore::new(limits::DEMAND_AT_ONCE),
            fetched: AtomicU64::new(0),
        }
    }

    /// Reads what is here, and says where the rest is.
    #[must_use]
    pub fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Bytes of the packs that are not here yet.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.reader.packs_elsewhere().iter().map(|pack| pack.bytes).sum()
    }

    /// Stored bytes of chunks that came one by one.
    #[must_use]
    pub fn bytes_on_demand(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    fn take_ahead(&self, chunk: ChunkId) -> Option<Vec<u8>> {
        let mut ahead = lock(&self.ahead);
        let found = ahead.iter().position(|(id, _)| *id == chunk)?;
        ahead.remove(found).map(|(_, plain)| plain)
    }

    fn keep_ahead(&self, chunks: impl Iterator<Item = (ChunkId, Vec<u8>)>) {
        let mut ahead = lock(&self.ahead);
        ahead.extend(chunks);
        let surplus = ahead.len().saturating_sub(limits::CHUNKS_AHEAD_MAX);
        ahead.drain(..surplus);
    }
}

pub(crate) async fn fetch_chunk(
    member: &Member,
    snapshot: &RemoteSnapshot,
    pack: PackRef,
    chunk: ChunkId,
) -> Result<Vec<u8>, ChunkError> {
    // It is never closed.
    let _place = snapshot.places.acquire().await;
    let mut reason = "there is no other node".to_owned();
    let is_lost = |peer: &NodeId| !member.reach.reachable(peer);
    let peers = lock(&snapshot.sources).order(member.asking_order(), is_lost);
    for peer in peers {
        // It may have come with one before it while this waited.
        if let Some(plain) = snapshot.take_ahead(chunk) {
            return Ok(plain);
        }
        let begun = Instant::now();
        match fetch_from(member, snapshot, peer, pack, chunk).await {
            Ok(chunks) => {
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                lock(&snapshot.sources).answered(peer, took_ms);
                let mut chunks = chunks.into_iter();
                let first = chunks.next().map(|(_, plain)| plain);
                snapshot.keep_ahead(chunks);
                if let Some(plain) = first {
                    return Ok(plain);
                }
            }
            Err(error) => {
                reason = error_chain(&error);
                let mut sources = lock(&snapshot.sources);
                if matches!(error, PartError::Foreign(ForeignError::Wrong { .. })) {
                    tracing::warn!(peer = %peer.short(), pack = %pack.id.short(), reason, "a chunk came wrong");
                    sources.lied(peer);
                    member.misbehaved(peer, What::WrongBytes);
                } else {
                    tracing::debug!(peer = %peer.short(), pack = %pack.id.short(), reason, "no chunk came");
                    sources.failed(peer);
                }
            }
        }
    }
    Err(ChunkError { chunk, pack: pack.id, reason })
}

/// The chunk, and those after it.
pub(crate) async fn fetch_from(
    member: &Member,
    snapshot: &RemoteSnapshot,
    peer: NodeId,
    pack: PackRef,
    chunk: ChunkId,
) -> Result<Vec<(ChunkId, Vec<u8>)>, PartError> {
    let known = lock(&snapshot.directories).given.get(&(pack.id, peer)).cloned();
    let directory = match known {
        Some(directory) => directory,
        None => {
            let directory = read_directory(member, peer, pack, limits::DEMAND_TIMEOUT).await?;
            lock(&snapshot.directories).put(peer, directory.clone());
            directory
        }
    };
    let run = directory.run(&chunk, limits::DEMAND_RUN_BYTES).ok_or(PartError::Absent)?;
    let part = run.offset()..run.offset() + run.bytes();
    let stored = read_part(member, peer, pack, part, limits::DEMAND_TIMEOUT).await?;
    snapshot.fetched.fetch_add(stored.len() as u64, Ordering::Relaxed);
    let store = member.store.clone();
    let opened = member.tasks.blocking(move || store.open_records(&run, &stored)).await;
    Ok(opened.map_err(|_| RequestError::Stopped)??)
}

/// A pack's directory as this peer gives it.
pub(crate) async fn read_directory(
    member: &Member,
    peer: NodeId,
    pack: PackRef,
    patience: Duration,
) -> Result<ForeignDirectory, PartError> {
    let tail = |bytes: u64| pack.bytes.saturating_sub(bytes)..pack.bytes;
    let end = read_part(member, peer, pack, tail(limits::DIRECTORY_TAIL_BYTES), patience).await?;
    match member.store.open_directory(pack, &end) {
        Err(ForeignError::Short { bytes }) if bytes <= pack.bytes => {
            let end = read_part(member, peer, pack, tail(bytes), patience).await?;
            Ok(member.store.open_directory(pack, &end)?)
        }
        decoded => Ok(decoded?),
    }
}
