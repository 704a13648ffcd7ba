//! Pins: packs that somebody reads are not removed until the reader is done, whoever drops them. What is pinned is in
//! the process's file, where others look before they remove a pack.
//!
//! Who pins writes first and looks then whether what it pinned is still there; who removes drops first and looks then
//! what is pinned. So one of the two sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::PackId;

use crate::Fault;
use crate::processes::{PIN_BYTES, Pinned, Registration};
use crate::state::State;
use crate::store::Shared;

/// Of something pinned: how many pins it has, and its place in the process's file.
#[derive(Debug)]
struct Held {
    pins: usize,
    place: usize,
}

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<Pinned, Held>,
    free: BTreeSet<usize>,
    places: usize,
    /// Let go while a commit was going on: it looks whether they are to be removed.
    left: BTreeSet<PackId>,
}

/// Who reads which packs.
#[derive(Debug)]
pub(crate) struct Pins {
    registration: Registration,
    table: Mutex<Table>,
    warned: AtomicBool,
}

impl Pins {
    pub(crate) fn new(registration: Registration) -> Self {
        Self { registration, table: Mutex::default(), warned: AtomicBool::new(false) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, pinned: &[Pinned]) {
        let mut table = self.table();
        let mut new = BTreeMap::new();
        for id in pinned {
            if let Some(held) = table.held.get_mut(id) {
                held.pins += 1;
                continue;
            }
            let place = table.free.pop_first().unwrap_or(table.places);
            table.places = table.places.max(place + 1);
            table.held.insert(*id, Held { pins: 1, place });
            new.insert(place, *id);
        }
        self.write(&new);
    }

    /// Takes pins away; what has none left.
    fn subtract(&self, pinned: &[Pinned]) -> Vec<Pinned> {
        let mut table = self.table();
        let (mut cleared, mut let_go) = (BTreeMap::new(), Vec::new());
        for id in pinned {
            let Some(held) = table.held.get_mut(id) else { continue };
            held.pins -= 1;
            if held.pins == 0 {
                let place = held.place;
                table.held.remove(id);
                table.free.insert(place);
                cleared.insert(place, [0; PIN_BYTES]);
                let_go.push(*id);
            }
        }
        self.write(&cleared);
        let_go
    }

    /// Writes places that follow each other at once. The table is locked meanwhile.
    fn write(&self, places: &BTreeMap<usize, Pinned>) {
        let mut rest = places.iter().peekable();
        while let Some((first, pin)) = rest.next() {
            let (mut bytes, mut next) = (pin.to_vec(), first + 1);
            while let Some((_, pin)) = rest.next_if(|(place, _)| **place == next) {
                bytes.extend_from_slice(pin);
                next += 1;
            }
            let written = self.registration.write_at((first * PIN_BYTES) as u64, &bytes);
            // Without it, what is read may be removed by another process, which ends in an error and never in wrong
            // bytes.
            let Err(error) = written else { continue };
            if error.kind() != io::ErrorKind::ReadOnlyFilesystem && !self.warned.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(%error, "other processes can't be told what is being read");
            }
        }
    }

    /// Whether other processes see what is pinned.
    pub(crate) fn are_seen(&self) -> bool {
        self.registration.is_entered()
    }

    /// Has other processes see what is pinned, if that was not possible before. The caller holds the commit lock.
    pub(crate) fn show(&self) -> Result<(), Fault> {
        if self.are_seen() {
            return Ok(());
        }
        let table = self.table();
        self.registration.enter()?;
        self.write(&table.held.iter().map(|(pinned, held)| (held.place, *pinned)).collect());
        Ok(())
    }

    pub(crate) fn has(&self, pack: &PackId) -> bool {
        self.table().held.contains_key(pack.as_bytes())
    }

    fn leave(&self, packs: impl Iterator<Item = PackId>) {
        self.table().left.extend(packs);
    }

    /// Packs that were let go while a commit was going on.
    pub(crate) fn take_left(&self) -> BTreeSet<PackId> {
        std::mem::take(&mut self.table().left)
    }
}

/// Keeps packs as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    shared: Arc<Shared>,
    pinned: Vec<Pinned>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let let_go = self.shared.pins.subtract(&self.pinned);
        self.shared.tidy_packs(let_go.into_iter().map(PackId::from_bytes).collect());
    }
}

impl Shared {
    /// Chooses something to read and pins what it takes. What is chosen was visible after it had been pinned.
    pub(crate) fn pinned<T, E: From<crate::Fault>>(
        self: &Arc<Self>,
        choose: impl Fn(&State) -> Result<(T, Vec<Pinned>), E>,
    ) -> Result<(T, Pin), E> {
        if !self.pins.are_seen() {
            // Which a commit changes.
            drop(self.try_commit(crate::limits::TIDYING_PATIENCE));
        }
        loop {
            let (chosen, pinned, epoch) = {
                let state = self.state();
                let (chosen, mut pinned) = choose(&state)?;
                pinned.sort_unstable();
                pinned.dedup();
                (chosen, pinned, state.epoch)
            };
            self.pins.add(&pinned);
            let pin = Pin { shared: self.clone(), pinned };
            self.refresh()?;
            if self.seen().epoch == epoch {
                return Ok((chosen, pin));
            }
            // Somebody has committed something in this moment: rare, and chosen anew.
        }
    }

    /// Removes those of these packs that were dropped while they were pinned and that nobody needs any more.
    fn tidy_packs(&self, mut packs: Vec<PackId>) {
        if !self.try_refresh() {
            self.pins.leave(packs.into_iter());
            return;
        }
        {
            let state = self.seen();
            packs.retain(|pack| !state.packs.contains_key(pack));
        }
        packs.retain(|pack| self.disk.stamp(&self.layout.pack(pack)).is_ok());
        if packs.is_empty() {
            return;
        }
        self.pins.leave(packs.into_iter());
        // Its end removes them. If it can't begin, another one's does, or the next opening.
        drop(self.try_commit(crate::limits::TIDYING_PATIENCE));
    }
}
