//! Blocks of a restored disk that are not on this host yet: who has them, and the way from there into the
//! disk's process.
//!
//! ```text
//! node: BlockSource ── Server ══ Unix socket ══ Client ── Lazy (the disk's process)
//! ```

mod client;
mod server;
mod wire;

use std::fmt;

pub(crate) use client::Client;
pub(crate) use server::Server;

/// Has the chunks of a disk as a snapshot has them.
pub trait BlockSource: Send + Sync {
    /// The disk's size.
    fn bytes(&self) -> u64;

    /// Fills the buffer with one chunk of 64 KiB ([`sustain_proto::limits::CHUNK_BYTES`]); the disk's last
    /// one may be shorter. Called from several threads at once. May take its time, as long as it does
    /// take an end.
    ///
    /// # Errors
    /// If the chunk is not to be had now. It is asked for again: the guest waits, it sees no error.
    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable>;

    /// The same for a chunk that nobody waits for. None: it is on its way, and to be asked for again.
    ///
    /// # Errors
    /// As for [`BlockSource::read_chunk`].
    fn prefetch_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<Option<ChunkContent>, Unavailable> {
        self.read_chunk(chunk, buffer).map(Some)
    }
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkContent {
    /// The bytes in the buffer.
    Data,
    /// Zeros; the buffer was not touched.
    Zero,
}

/// A chunk is not to be had now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// Why, in words.
    pub reason: String,
}

impl Unavailable {
    /// For this reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not to be had now: {}", self.reason)
    }
}

impl std::error::Error for Unavailable {}

/// How many bytes this chunk of a disk has; none if there is no such chunk.
pub(crate) fn chunk_bytes(chunk: u64, disk_bytes: u64) -> Option<usize> {
    let size = sustain_proto::limits::CHUNK_BYTES as u64;
    let left = disk_bytes.checked_sub(chunk.checked_mul(size)?)?;
    // At most 64 KiB.
    (left > 0).then_some(left.min(size) as usize)
}
