//! Logic: the simulated service: its server takes snapshots, and rebases now and then.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use sustain_proto::{Cut, PackId, SnapshotId, Term, TermOrigin};

use crate::code::Code;
use crate::keeper::{Entry, Pack};

/// Bytes of an extent.
const EXTENT_BYTES: u32 = 256 << 10;

/// How the service behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// Between two snapshots.
    pub snapshot_ms: u64,
    /// Deltas on one base, at most.
    pub deltas_max: usize,
    /// Deltas that are retained.
    pub retained: usize,
    /// Bytes of the largest pack of a delta. A base has four packs of up to twice that.
    pub pack_bytes_max: u64,
}

/// How a snapshot is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) code: Code,
    pub(super) term: Term,
    pub(super) origin: Option<TermOrigin>,
}

/// The snapshots of the server's store.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) habits: Habits,
    entries: Vec<Entry>,
    /// The bases before the last one, which go when that one is durable.
    seq: u64,
    deltas: usize,
    /// Packs made, and their bytes.
    pub(super) made: Vec<(PackId, u64)>,
}

impl Service {
    pub(super) fn new(habits: Habits) -> Self {
        Self { habits, entries: Vec::new(), seq: 0, deltas: 0, made: Vec::new() }
    }

    fn pack(&mut self, random: &mut StdRng, taken: Taken, bytes_max: u64) -> Pack {
        // Small ones are as frequent as large ones: the exponent is drawn.
        let exponent = random.random_range(12.0..(bytes_max as f64).log2());
        let bytes = exponent.exp2() as u64;
        let code = taken.code;
        let needed = u8::try_from(code.needed).unwrap_or(u8::MAX);
        let total = u8::try_from(code.total).unwrap_or(u8::MAX);
        let cut = (!code.is_whole()).then_some(Cut { needed, total, extent_bytes: EXTENT_BYTES });
        let sheet = cut.map(|_| random.random());
        let pack = Pack { id: PackId::from_bytes(random.random()), bytes, cut, sheet, added: 0 };
        self.made.push((pack.id, bytes));
        pack
    }

    /// Takes the next snapshot. `durable_to` is the greatest number of an entry that survives what it should.
    pub(super) fn snapshot(
        &mut self,
        random: &mut StdRng,
        taken: Taken,
        is_durable: impl Fn(&Entry) -> bool,
    ) {
        let base = self.entries.iter().rev().find(|entry| entry.base.is_none()).cloned();
        match base {
            None => {
                self.seq += 1;
                let packs =
                    (0..4).map(|_| self.pack(random, taken, 2 * self.habits.pack_bytes_max)).collect();
                self.add(random, taken, None, self.seq, packs);
            }
            Some(base) if self.deltas >= self.habits.deltas_max => {
                self.rebase(random, taken, &base, &is_durable)
            }
            Some(base) => {
                self.seq += 1;
                self.deltas += 1;
                let last = self.entries.iter().rev().find(|entry| entry.base == Some(base.id));
                let mut packs = last.map(|last| last.packs.clone()).unwrap_or_default();
                packs.push(self.pack(random, taken, self.habits.pack_bytes_max));
                self.add(random, taken, Some(base.id), self.seq, packs);
            }
        }
        self.retire(&is_durable);
    }

    /// The newest durable snapshot becomes a base, which keeps most packs of the old one.
    fn rebase(
        &mut self,
        random: &mut StdRng,
        taken: Taken,
        base: &Entry,
        is_durable: &impl Fn(&Entry) -> bool,
    ) {
        let newest = self.entries.iter().rev().find(|entry| entry.base == Some(base.id) && is_durable(entry));
        let Some(seq) = newest.map(|entry| entry.seq) else { return };
        let mut packs = base.packs.clone();
        if packs.len() > 3 {
            packs.remove(0);
        }
        packs.push(self.pack(random, taken, 2 * self.habits.pack_bytes_max));
        self.deltas = 0;
        self.add(random, taken, None, seq, packs);
    }

    fn add(
        &mut self,
        random: &mut StdRng,
        taken: Taken,
        base: Option<SnapshotId>,
        seq: u64,
        packs: Vec<Pack>,
    ) {
        // About as large as real ones.
        let manifest = random.random::<[u8; 32]>().repeat(10 + packs.len());
        let manifest: Arc<[u8]> = Arc::from(manifest);
        let id = SnapshotId::of_manifest(&manifest);
        let Taken { term, origin, .. } = taken;
        self.entries.push(Entry { id, term, origin, seq, added: 0, base, manifest, packs });
    }

    /// Old deltas go, and old generations when the new base is durable.
    fn retire(&mut self, is_durable: &impl Fn(&Entry) -> bool) {
        let newest = self.entries.iter().rev().find(|entry| entry.base.is_none());
        if let Some(newest) = newest.filter(|entry| is_durable(entry)).map(|entry| entry.id) {
            self.entries.retain(|entry| entry.id == newest || entry.base == Some(newest));
        }
        let deltas = self.entries.iter().filter(|entry| entry.base.is_some()).count();
        let mut surplus = deltas.saturating_sub(self.habits.retained);
        // Only what a newer durable one stands in for.
        let durable = self.entries.iter().rev().find(|entry| is_durable(entry)).map_or(0, |entry| entry.seq);
        self.entries.retain(|entry| {
            let goes = surplus > 0 && entry.base.is_some() && entry.seq < durable;
            surplus -= usize::from(goes);
            !goes
        });
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Another server goes on with what it has.
    pub(super) fn restore(&mut self, entries: Vec<Entry>) {
        let base = entries.iter().rev().find(|entry| entry.base.is_none()).map(|entry| entry.id);
        self.deltas = entries.iter().filter(|entry| entry.base == base).count();
        self.seq = entries.iter().map(|entry| entry.seq).max().unwrap_or(0);
        self.entries = entries;
    }
}
