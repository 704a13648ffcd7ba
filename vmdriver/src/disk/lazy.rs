//! A base whose chunks are fetched when they are needed, and kept.
//!
//! ```text
//! read ── is it in the cache? ── no ── is it being fetched? ── no ── fetch, keep, mark
//!                                      └ yes: wait for that
//! prefetch: every chunk in order, standing back while a read waits, and waiting for what is on its way
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blocks::{BlockSource, ChunkContent, Unavailable, chunk_bytes};
use super::layer::Layer;
use super::map::{Geometry, Unit};
use crate::limits::{DEMAND_RETRY_INTERVAL, PREFETCH_RETRY_MAX, PREFETCH_RETRY_MIN};

/// The cache's files. It is a layer whose units are chunks.
pub(crate) const CACHE: &str = "base";

/// What a cache's map is about.
pub(crate) fn cache_geometry(disk_bytes: u64) -> Geometry {
    Geometry { layer: 0, disk_bytes, unit_bytes: sustain_proto::limits::CHUNK_BYTES as u64 }
}

/// Whether a chunk is here now; a prefetch is told to come again where it is on its way.
type Fetched = Result<bool, Unavailable>;

/// One fetch that others may wait for.
#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Fetched>>,
    landed: Condvar,
}

/// Reads that wait for a chunk, by the order in which they came, and since when.
#[derive(Debug, Default)]
struct Waits {
    came: u64,
    since: BTreeMap<u64, Instant>,
}

/// The cache and where the rest comes from.
pub(crate) struct Lazy {
    cache: Layer,
    disk_bytes: u64,
    source: Box<dyn BlockSource>,
    flights: Mutex<BTreeMap<u64, Arc<Flight>>>,
    fetched: AtomicU64,
    waits: Mutex<Waits>,
    patience: Duration,
    last_trouble: Mutex<Option<String>>,
}

impl Lazy {
    /// Opens the cache in this folder.
    pub(crate) fn open(
        folder: &Path,
        disk_bytes: u64,
        source: Box<dyn BlockSource>,
        patience: Duration,
    ) -> io::Result<Self> {
        let cache = Layer::open(folder, CACHE, cache_geometry(disk_bytes))?;
        let (data, zero) = cache.map().count();
        Ok(Self {
            cache,
            disk_bytes,
            source,
            flights: Mutex::new(BTreeMap::new()),
            fetched: AtomicU64::new(data + zero),
            waits: Mutex::default(),
            patience,
            last_trouble: Mutex::new(None),
        })
    }

    fn chunks(&self) -> u64 {
        cache_geometry(self.disk_bytes).units()
    }

    /// Chunks that are here, and chunks in all.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.chunks())
    }

    /// Why a chunk was last not to be had, if the last try failed.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.last_trouble).clone()
    }

    /// For how long the read has waited that waits longest; none if none waits.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        lock(&self.waits).since.values().next().map(Instant::elapsed)
    }

    /// Fills the buffer, waiting for what is not here.
    ///
    /// # Errors
    /// If it can't be had within the patience that a request deserves.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let size = self.cache.unit_bytes();
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let chunk = at / size;
            let stop = end.min((chunk + 1) * size);
            let part = &mut buffer[(at - offset) as usize..(stop - offset) as usize];
            match self.ensure(chunk)? {
                Unit::Data => self.cache.read(at, part)?,
                _ => part.fill(0),
            }
            at = stop;
        }
        Ok(())
    }

    /// Whether a chunk is known to be zero.
    pub(crate) fn is_zero_at(&self, offset: u64) -> bool {
        self.cache.map().get(offset / self.cache.unit_bytes()) == Unit::Zero
    }

    /// Fetches a chunk if it is not here.
    fn ensure(&self, chunk: u64) -> io::Result<Unit> {
        let known = self.cache.map().get(chunk);
        if known != Unit::Absent {
            return Ok(known);
        }
        let ticket = {
            let mut waits = lock(&self.waits);
            waits.came += 1;
            let ticket = waits.came;
            waits.since.insert(ticket, Instant::now());
            ticket
        };
        let result = self.demand(chunk);
        lock(&self.waits).since.remove(&ticket);
        result.map(|()| self.cache.map().get(chunk))
    }

    fn demand(&self, chunk: u64) -> io::Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.fetch(chunk, false) {
                Ok(true) => return Ok(()),
                // A prefetch was at it, and stands back now.
                Ok(false) => {}
                Err(error) if Instant::now() >= deadline => return Err(io::Error::other(error)),
                Err(_) => std::thread::sleep(DEMAND_RETRY_INTERVAL),
            }
        }
    }

    /// Fetches a chunk, or waits for whoever is at it.
    fn fetch(&self, chunk: u64, prefetch: bool) -> Fetched {
        let flight = {
            let mut flights = lock(&self.flights);
            if self.cache.map().get(chunk) != Unit::Absent {
                return Ok(true);
            }
            if let Some(flight) = flights.get(&chunk) {
                let flight = Arc::clone(flight);
                drop(flights);
                return flight.wait();
            }
            let flight = Arc::new(Flight::default());
            flights.insert(chunk, Arc::clone(&flight));
            flight
        };
        let result = self.fetch_alone(chunk, prefetch);
        *lock(&self.last_trouble) = result.as_ref().err().map(|error| error.reason.clone());
        lock(&self.flights).remove(&chunk);
        *lock(&flight.result) = Some(result.clone());
        flight.landed.notify_all();
        result
    }

    fn fetch_alone(&self, chunk: u64, prefetch: bool) -> Fetched {
        let bytes = chunk_bytes(chunk, self.disk_bytes)
            .ok_or_else(|| Unavailable::new("the disk has no such chunk"))?;
        let mut buffer = vec![0; bytes];
        let content = if prefetch {
            let Some(content) = self.source.prefetch_chunk(chunk, &mut buffer)? else { return Ok(false) };
            content
        } else {
            self.source.read_chunk(chunk, &mut buffer)?
        };
        let kept = match content {
            ChunkContent::Data => self.cache.write_units(chunk, &buffer),
            ChunkContent::Zero => self.cache.map().set(chunk..chunk + 1, Unit::Zero),
        };
        kept.map_err(|error| Unavailable::new(format_args!("can't keep it: {error}")))?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Fetches everything that is missing, in order, until it is all here or `stop` is set.
    pub(crate) fn prefetch(&self, stop: &AtomicBool) {
        let mut pause = PREFETCH_RETRY_MIN;
        loop {
            let mut failed = false;
            for chunk in 0..self.chunks() {
                match self.prefetch_one(chunk, stop) {
                    Ok(false) => return,
                    Ok(true) => pause = PREFETCH_RETRY_MIN,
                    Err(error) => {
                        failed = true;
                        tracing::debug!(chunk, %error, "prefetch waits");
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(PREFETCH_RETRY_MAX);
                    }
                }
            }
            if !failed {
                return;
            }
        }
    }

    /// Fetches a chunk once it has come near enough. False if told to stop.
    fn prefetch_one(&self, chunk: u64, stop: &AtomicBool) -> Fetched {
        while !stop.load(Ordering::Relaxed) {
            if self.cache.map().get(chunk) != Unit::Absent {
                return Ok(true);
            }
            if self.waiting().is_some() {
                std::thread::sleep(crate::limits::POLL_INTERVAL);
            } else if self.fetch(chunk, true)? {
                return Ok(true);
            } else {
                std::thread::sleep(PREFETCH_RETRY_MIN);
            }
        }
        Ok(false)
    }
}

impl Flight {
    fn wait(&self) -> Fetched {
        let mut result = lock(&self.result);
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            result = self.landed.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "lazy_tests.rs"]
mod tests;
