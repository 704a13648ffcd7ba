//! A disk at work: the volume, and what goes on behind it.
//!
//! Two threads: one makes the next layer before it is needed, one folds frozen layers once it is told that
//! nobody needs them any more. A third fetches a restored disk's chunks, once it is told that now is the time.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::base::Base;
use super::blocks::BlockSource;
use super::control::DiskStatus;
use super::description::{BaseKind, Description};
use super::lazy::Lazy;
use super::stack::{FreezeError, Stack, copy_down, make_layer};
use super::volume::Volume;
use crate::limits::{DISK_BLOCK_BYTES, FOLD_RETRY_INTERVAL};

/// A disk and its upkeep.
pub(crate) struct Engine {
    volume: Arc<Volume>,
    /// Held while a layer is made, so that no two make the same files.
    making: Mutex<()>,
    orders: Mutex<Orders>,
    ordered: Condvar,
    stop: AtomicBool,
    prefetching: AtomicBool,
    syncs: bool,
}

#[derive(Default)]
struct Orders {
    /// A layer was frozen: the next has to be made.
    prepare: bool,
    /// Layers up to this one may be folded.
    fold_to: u64,
    trouble: Option<String>,
}

impl Engine {
    /// Opens the disk in this folder. A lazy base takes its chunks from the source.
    pub(crate) fn open(
        folder: &Path,
        description: &Description,
        source: impl FnOnce() -> Box<dyn BlockSource>,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        let bytes = description.disk_bytes;
        let base = match &description.base {
            BaseKind::Image { path, bytes } => Base::Image { file: File::open(path)?, bytes: *bytes },
            BaseKind::Lazy => Base::Lazy(Arc::new(Lazy::open(folder, bytes, source(), patience)?)),
        };
        let stack = Stack::open(folder, bytes)?;
        let volume = Arc::new(Volume::new(bytes, stack, base, description.syncs));
        let orders = Mutex::new(Orders { prepare: true, ..Orders::default() });
        Ok(Arc::new(Self {
            volume,
            making: Mutex::new(()),
            orders,
            ordered: Condvar::new(),
            stop: AtomicBool::new(false),
            prefetching: AtomicBool::new(false),
            syncs: description.syncs,
        }))
    }

    /// Starts the upkeep.
    ///
    /// # Errors
    /// If no thread is to be had.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        // Before the first client comes, so that the first freeze finds it made.
        self.prepare()?;
        let spawn = |name: &str, run: fn(&Self)| {
            let engine = Arc::clone(self);
            std::thread::Builder::new().name(name.into()).spawn(move || run(&engine))
        };
        spawn("disk-prepare", Self::run_prepare)?;
        spawn("disk-fold", Self::run_fold)?;
        Ok(())
    }

    /// Begins to fetch all of a restored disk. More than once is as good as once.
    ///
    /// # Errors
    /// If no thread is to be had.
    pub(crate) fn prefetch(self: &Arc<Self>) -> io::Result<()> {
        let Base::Lazy(lazy) = self.volume.base() else { return Ok(()) };
        if self.prefetching.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let (engine, lazy) = (Arc::clone(self), Arc::clone(lazy));
        let run = move || lazy.prefetch(&engine.stop);
        let spawned = std::thread::Builder::new().name("disk-prefetch".into()).spawn(run);
        if spawned.is_err() {
            self.prefetching.store(false, Ordering::SeqCst);
        }
        spawned.map(drop)
    }

    pub(crate) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Freezes the active layer, which must be the one with this number.
    ///
    /// # Errors
    /// As for [`Stack::freeze`].
    pub(crate) fn freeze(&self, layer: u64) -> Result<u64, FreezeError> {
        let active = {
            let _making = lock(&self.making);
            self.volume.change(|stack| stack.freeze(layer).map(|()| stack.active().id()))?
        };
        lock(&self.orders).prepare = true;
        self.ordered.notify_all();
        Ok(active)
    }

    /// Lets all frozen layers up to this one be folded.
    pub(crate) fn fold(&self, layer: u64) {
        let mut orders = lock(&self.orders);
        orders.fold_to = orders.fold_to.max(layer);
        self.ordered.notify_all();
    }

    pub(crate) fn status(&self) -> DiskStatus {
        let folding = lock(&self.orders).trouble.clone();
        let stack = self.volume.stack();
        let (data, zero) = stack.active().map().count();
        let ((chunks_here, chunks), waiting, fetching) = match self.volume.base() {
            Base::Image { .. } => ((0, 0), None, None),
            Base::Lazy(lazy) => (lazy.progress(), lazy.waiting(), lazy.trouble()),
        };
        DiskStatus {
            active: stack.active().id(),
            frozen: stack.frozen(),
            dirty_bytes: (data + zero) * DISK_BLOCK_BYTES,
            lower_bytes: stack.lower().map().count().0 * DISK_BLOCK_BYTES,
            chunks_here,
            chunks,
            waiting_ms: waiting.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            trouble: fetching.or(folding),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        let _making = lock(&self.making);
        let wanted = self.volume.stack().wants_layer();
        if let Some((folder, number, bytes)) = wanted {
            let layer = make_layer(&folder, number, bytes)?;
            self.volume.change(|stack| stack.take_prepared(layer));
        }
        Ok(())
    }

    fn run_prepare(&self) {
        loop {
            {
                let mut orders = lock(&self.orders);
                while !orders.prepare {
                    orders = self.ordered.wait(orders).unwrap_or_else(PoisonError::into_inner);
                }
                orders.prepare = false;
            }
            if let Err(error) = self.prepare() {
                // The freeze will try again, and tell.
                tracing::warn!(%error, "can't prepare a layer of the disk");
            }
        }
    }

    fn run_fold(&self) {
        loop {
            let oldest = {
                let mut orders = lock(&self.orders);
                loop {
                    let oldest = self.volume.stack().oldest_frozen();
                    match oldest {
                        Some((layer, lower)) if layer.id() <= orders.fold_to => break (layer, lower),
                        _ => orders = self.ordered.wait(orders).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            let (layer, lower) = oldest;
            let folded = copy_down(&layer, &lower, || self.stop.load(Ordering::Relaxed))
                .and_then(|()| if self.syncs { lower.sync() } else { Ok(()) })
                .and_then(|()| self.volume.change(|stack| stack.remove_folded(layer.id())));
            let mut orders = lock(&self.orders);
            orders.trouble = folded.as_ref().err().map(|error| format!("folding a layer: {error}"));
            if let Err(error) = folded {
                tracing::warn!(%error, layer = layer.id(), "can't fold a layer of the disk yet");
                // The disk is full, say. Nothing is lost: the layer stays where it is.
                let waited = self.ordered.wait_timeout(orders, FOLD_RETRY_INTERVAL);
                drop(waited);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
