//! Pins: packs that somebody reads are not removed until the reader is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::PackId;

use crate::disk::Disk;
use crate::layout::Layout;

#[derive(Debug, Default)]
struct Counts {
    readers: BTreeMap<PackId, usize>,
    doomed: BTreeSet<PackId>,
}

/// Who reads which packs.
#[derive(Debug)]
pub(crate) struct Pins {
    disk: Arc<dyn Disk>,
    layout: Layout,
    counts: Mutex<Counts>,
}

impl Pins {
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        Self { disk, layout, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps these packs until the pin is dropped.
    pub(crate) fn pin(self: &Arc<Self>, packs: impl Iterator<Item = PackId>) -> Pin {
        let packs: Vec<PackId> = packs.collect();
        let mut counts = self.counts();
        for pack in &packs {
            *counts.readers.entry(*pack).or_default() += 1;
        }
        drop(counts);
        Pin { pins: self.clone(), packs }
    }

    /// Removes a pack's file, now or when its last reader is done. Whether it went now.
    pub(crate) fn remove(&self, pack: PackId) -> std::io::Result<bool> {
        let mut counts = self.counts();
        if counts.readers.contains_key(&pack) {
            counts.doomed.insert(pack);
            return Ok(false);
        }
        self.disk.remove(&self.layout.pack(&pack))?;
        Ok(true)
    }

    /// A pack that was to be removed has come back.
    pub(crate) fn spare(&self, pack: &PackId) {
        self.counts().doomed.remove(pack);
    }

    fn unpin(&self, packs: &[PackId]) {
        let mut counts = self.counts();
        for pack in packs {
            let Some(readers) = counts.readers.get_mut(pack) else {
                continue;
            };
            *readers -= 1;
            if *readers == 0 {
                counts.readers.remove(pack);
                if counts.doomed.remove(pack) {
                    // What can't be removed now is swept at the next opening.
                    let _ = self.disk.remove(&self.layout.pack(pack));
                }
            }
        }
    }
}

/// Keeps packs as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    packs: Vec<PackId>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.unpin(&self.packs);
    }
}
