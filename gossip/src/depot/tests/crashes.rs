//! A power cut, a kill or a failing call at every single call of a script that takes catalogs and packs: what was said to
//! be synced is here and can be restored, what a restart says to be here is here for good, and all works on.
//!
//! `SUSTAIN_CRASH_SEEDS` is as for the store's tests: with it every call is tried, with so many seeds.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use sustain_proto::SnapshotId;
use sustain_store::disk::Disk;
use sustain_store::{DirectoryTarget, KeySource, NoProgress, Store};

use super::simulated_disk::{Fault, Simulated};
use super::world::*;
use crate::depot::{Depot, DepotError, PartList};
use crate::keeper::{Catalog, Claim, Kept, Pack, Part};

const EIO: i32 = 5;

/// What a server published, one after the other, and all packs.
struct Offer {
    catalogs: Vec<Arc<Catalog>>,
    packs: Vec<(Pack, PartList, Vec<u8>)>,
    content: Vec<(SnapshotId, Vec<u8>)>,
}

static OFFER: LazyLock<Offer> = LazyLock::new(|| {
    let server = Node::new(1);
    let mut offer = Offer { catalogs: Vec::new(), packs: Vec::new(), content: Vec::new() };
    let mut bytes = noise(1, 3 * GROUP);
    for step in 0..3_usize {
        bytes[step * GROUP..][..5_000].copy_from_slice(&noise(step as u64, 5_000));
        offer.content.push((server.push(&bytes), bytes.clone()));
        offer.publish(&server);
    }
    let newest = offer.content[2].0;
    server.store.mark_durable(newest, 1).unwrap();
    let prepared = server.store.prepare_rebase(&service(SERVICE), None, &NoProgress).unwrap();
    prepared.commit(std::time::Duration::ZERO).unwrap();
    offer.publish(&server);
    offer.content.push((offer.catalogs[3].entries[0].id, bytes));
    offer
});

impl Offer {
    fn publish(&mut self, server: &Node) {
        let catalog = published(server, self.catalogs.last().map(|known| &**known), None, &[]);
        for pack in catalog.packs() {
            if self.packs.iter().all(|(known, ..)| known.id != pack.id) {
                let list = server.depot().list(&pack.whole(), &pack).unwrap().unwrap();
                let bytes = bytes_of(server.depot(), &pack.whole(), &pack).unwrap();
                self.packs.push((pack, list, bytes));
            }
        }
        self.catalogs.push(catalog);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Keep(u64),
    Remember(usize),
    /// Receive all packs of this catalog that are not here but for so many, and sync these together.
    Take(usize, usize),
    /// Drop the parts of this catalog that the next one does not list, and retire.
    Drop(usize),
    Reopen,
}

const SCRIPT: [Step; 14] = [
    Step::Keep(1),
    Step::Remember(0),
    Step::Take(0, 1),
    Step::Take(0, 0),
    Step::Remember(1),
    Step::Take(1, 0),
    Step::Keep(2),
    Step::Reopen,
    Step::Remember(2),
    Step::Take(2, 1),
    Step::Take(2, 0),
    Step::Remember(3),
    Step::Take(3, 0),
    Step::Drop(2),
];

fn claim(number: u64) -> Claim {
    Claim { node: node(2), life: number, number, index: None, moving: None }
}

/// The node on its simulated disk, beside what it has acknowledged.
struct World {
    disk: Simulated,
    processes: u32,
    open: Option<(Store, Depot)>,
    claim: Option<u64>,
    claim_doubtful: Option<u64>,
    catalog: Option<usize>,
    catalog_doubtful: Option<usize>,
    synced: BTreeSet<Part>,
}

impl World {
    fn new() -> Self {
        Self {
            disk: Simulated::default(),
            processes: 0,
            open: None,
            claim: None,
            claim_doubtful: None,
            catalog: None,
            catalog_doubtful: None,
            synced: BTreeSet::new(),
        }
    }

    fn open(&mut self) -> Result<Kept, String> {
        self.open = None;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let store = try_open_store(&disk, Path::new("/store"), KeySource::Given([3; 32]));
        let store = store.map_err(|error| sustain_store::error_chain(&error))?;
        let (depot, kept) = Depot::open(store.clone(), node(2), Path::new("/kept"))
            .map_err(|error| sustain_store::error_chain(&error))?;
        self.open = Some((store, depot));
        Ok(kept)
    }

    fn step(&mut self, step: Step) -> Result<(), DepotError> {
        let Some((store, depot)) = self.open.as_ref() else { panic!("it is closed") };
        match step {
            Step::Keep(number) => {
                self.claim_doubtful = Some(number);
                depot.keep(&claim(number))?;
                (self.claim, self.claim_doubtful) = (Some(number), None);
            }
            Step::Remember(number) => {
                self.catalog_doubtful = Some(number);
                depot.remember(&OFFER.catalogs[number])?;
                (self.catalog, self.catalog_doubtful) = (Some(number), None);
            }
            Step::Take(catalog, without) => {
                let listed: BTreeSet<_> =
                    OFFER.catalogs[catalog].packs().iter().map(|pack| pack.id).collect();
                let wanted: Vec<_> =
                    OFFER.packs.iter().filter(|(pack, ..)| listed.contains(&pack.id)).collect();
                let wanted = &wanted[..wanted.len() - without];
                for (pack, list, bytes) in wanted {
                    let receiver = depot.receive(pack, &pack.whole(), list.clone())?;
                    for (group, bytes) in bytes.chunks(GROUP).enumerate() {
                        receiver.write(group, bytes)?;
                    }
                }
                let parts: Vec<Part> = wanted.iter().map(|(pack, ..)| pack.whole()).collect();
                let report = depot.sync(&parts);
                self.synced.extend(synced(&report));
            }
            Step::Drop(catalog) => {
                let next = OFFER.catalogs[catalog + 1].packs();
                let gone = OFFER.catalogs[catalog].packs().into_iter().map(|pack| pack.whole());
                let gone: Vec<Part> =
                    gone.filter(|part| next.iter().all(|pack| pack.id != part.pack)).collect();
                gone.iter().for_each(|part| _ = self.synced.remove(part));
                depot.drop_parts(&gone)?;
                // As the node does when a new base has come. It may be at work elsewhere.
                let _ = store.retire_superseded(OFFER.catalogs[catalog + 1].entries[0].id);
            }
            Step::Reopen => {}
        }
        Ok(())
    }

    /// Opens it after a fault, and checks what it says.
    fn check(&mut self, context: &str) -> BTreeSet<Part> {
        let kept = self.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        let number = kept.claim.map(|claim| claim.number);
        assert!(number == self.claim || number == self.claim_doubtful, "{context}: claim {number:?}");
        (self.claim, self.claim_doubtful) = (number, None);
        let found = kept.catalogs.first();
        let found = found.map(|found| OFFER.catalogs.iter().position(|catalog| catalog == found).unwrap());
        assert!(
            found == self.catalog || found == self.catalog_doubtful,
            "{context}: catalog {found:?} instead of {:?}",
            self.catalog
        );
        (self.catalog, self.catalog_doubtful) = (found, None);
        let parts: BTreeSet<Part> = kept.parts.iter().map(|(part, _)| *part).collect();
        let listed = found.map(|found| OFFER.catalogs[found].packs()).unwrap_or_default();
        let listed: BTreeSet<Part> = listed.iter().map(Pack::whole).collect();
        let lost: Vec<_> = self.synced.intersection(&listed).filter(|part| !parts.contains(part)).collect();
        assert!(lost.is_empty(), "{context}: {lost:?} were synced");
        let Some((store, depot)) = &self.open else { panic!("{context}") };
        for part in &parts {
            let (pack, _, bytes) = OFFER.packs.iter().find(|(pack, ..)| pack.id == part.pack).unwrap();
            assert!(bytes_of(depot, part, pack).unwrap() == *bytes, "{context}: other bytes");
        }
        let entries = found.map(|found| &OFFER.catalogs[found].entries);
        for entry in entries.into_iter().flatten() {
            if entry.packs.iter().all(|pack| parts.contains(&pack.whole())) {
                let folder = tempfile::tempdir().unwrap();
                let outcome = store.restore(entry.id, &DirectoryTarget::new(folder.path()), &NoProgress);
                assert!(outcome.is_ok(), "{context}: {outcome:?}");
                let expected = &OFFER.content.iter().find(|(id, _)| *id == entry.id).unwrap().1;
                assert!(std::fs::read(folder.path().join("ram")).unwrap() == *expected, "{context}");
            }
        }
        parts
    }

    fn end_process(&mut self, disk: &Simulated) {
        self.open = None;
        disk.kill();
        self.processes += 1;
        self.disk = disk.process(self.processes);
    }
}

/// Runs the script with a fault at this call. Whether it has struck.
fn run(fault: Fault, nth: u64, seed: u64) -> bool {
    let context = format!("{fault:?} at call {nth}, seed {seed}");
    let mut world = World::new();
    let disk = world.disk.clone();
    world.open().unwrap();
    disk.arm(nth, fault, seed);
    let mut done = 0;
    for step in SCRIPT {
        let outcome = if matches!(step, Step::Reopen) {
            world.open().map(|_| ())
        } else {
            world.step(step).map_err(|e| e.to_string())
        };
        if outcome.is_err() || disk.struck() {
            break;
        }
        done += 1;
    }
    if !disk.struck() {
        return false;
    }
    match fault {
        Fault::PowerCut => {
            world.open = None;
            disk.restart(seed);
        }
        Fault::Kill => world.end_process(&disk),
        _ => {
            world.open = None;
            world.disk.disarm();
        }
    }
    let said = world.check(&context);
    // What it says now is here after a power cut, too.
    world.open = None;
    disk.cut();
    disk.restart(seed + 1);
    world.processes += 1;
    world.disk = disk.process(world.processes);
    let again = world.check(&format!("{context}, and a power cut"));
    assert!(said.is_subset(&again), "{context}: {said:?} {again:?}");
    for step in SCRIPT.into_iter().skip(done) {
        let outcome = if matches!(step, Step::Reopen) {
            world.open().map(|_| ())
        } else {
            world.step(step).map_err(|e| e.to_string())
        };
        assert_eq!(outcome, Ok(()), "{context}: {step:?}");
    }
    let parts = world.check(&format!("{context}, at the end"));
    assert_eq!(parts, OFFER.catalogs[3].packs().iter().map(Pack::whole).collect(), "{context}");
    true
}

fn sweep(fault: Fault, stride: usize) {
    let seeds: Option<u64> = std::env::var("SUSTAIN_CRASH_SEEDS").ok().and_then(|text| text.parse().ok());
    let stride = if seeds.is_some() { 1 } else { stride };
    for nth in (1..).step_by(stride) {
        for seed in 0..seeds.unwrap_or(1) {
            let seed = if seeds.is_some() { seed } else { nth };
            if !run(fault, nth, seed) {
                assert!(nth > 100, "the script has {nth} calls: it does not do what it should");
                return;
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_call_leaves_what_was_said_to_be_synced() {
    sweep(Fault::PowerCut, 5);
}

#[test]
fn a_kill_at_any_call_does_too() {
    sweep(Fault::Kill, 9);
}

#[test]
fn a_failing_call_does_too() {
    sweep(Fault::Fail(EIO), 9);
}

#[test]
fn a_full_disk_does_too() {
    sweep(Fault::Full, 13);
}
