//! What another store has to offer, made once for all worlds.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sustain_proto::{PackId, SnapshotId};
use sustain_store::{ForeignDirectory, ReadError, Store};

use super::{CHUNK, IMPORTED, open};
use crate::common::*;
use crate::partial;
use crate::simulated_disk::Simulated;

/// What another store has to offer: states of a service, as a node sends them.
pub(super) struct Offer {
    pub(super) states: Vec<Offered>,
    pub(super) packs: BTreeMap<PackId, Vec<u8>>,
    pub(super) partial: Vec<ForeignDirectory>,
}

pub(super) struct Offered {
    pub(super) manifests: Vec<Vec<u8>>,
    pub(super) packs: Vec<PackId>,
    /// What becomes visible by importing it: numbers and contents, and the oldest number that survives it.
    pub(super) content: BTreeMap<u64, Regions>,
    pub(super) base_seq: u64,
    pub(super) base: SnapshotId,
}

/// The other store's service: three snapshots, of which the second touches the disk alone; then a rebase and one more.
pub(super) static OFFER: LazyLock<Offer> = LazyLock::new(|| {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let mut offer = Offer { states: Vec::new(), packs: BTreeMap::new(), partial: Vec::new() };
    let mut content = regions(&[("ram", noise(1, 2 * CHUNK)), ("disk0", noise(2, 3 * CHUNK + 9))]);
    let mut all = BTreeMap::new();
    for (seq, (name, at)) in [("ram", 0), ("disk0", CHUNK), ("ram", 7)].into_iter().enumerate() {
        content.get_mut(name).unwrap()[at] ^= 1;
        push(&store, IMPORTED, &content);
        all.insert(seq as u64 + 1, content.clone());
    }
    offer.take(&store, &all);
    let list = store.snapshots(None).unwrap();
    offer.partial = partial::directories(&store, list[2].id);
    store.rebase(&service(IMPORTED), None).unwrap();
    content.get_mut("ram").unwrap()[CHUNK] ^= 1;
    push(&store, IMPORTED, &content);
    all.insert(4, content);
    offer.take(&store, &all);
    offer
});

impl Offer {
    fn take(&mut self, store: &Store, all: &BTreeMap<u64, Regions>) {
        let list = store.snapshots(None).unwrap();
        let newest = list.last().unwrap();
        let manifests = list.iter().map(|info| store.manifest(info.id).unwrap().1).collect();
        let packs: Vec<PackId> = store.packs_needed(newest.id).unwrap().iter().map(|pack| pack.id).collect();
        for id in &packs {
            self.packs.entry(*id).or_insert_with(|| bytes_of(store, *id).unwrap());
        }
        let seen = |(seq, _): &(&u64, &Regions)| list.iter().any(|info| info.seq == **seq);
        let content = all.iter().filter(seen).map(|(seq, content)| (*seq, content.clone())).collect();
        self.states.push(Offered {
            manifests,
            packs,
            content,
            base_seq: list[0].seq,
            base: newest.base.unwrap_or(newest.id),
        });
    }
}

pub(super) fn bytes_of(store: &Store, id: PackId) -> Result<Vec<u8>, ReadError> {
    let reader = store.read_pack(id)?;
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes)?;
    Ok(bytes)
}
