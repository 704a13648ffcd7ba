//! A power cut, a kill or a failing call at every single call of a script that takes catalogs and packs: what was said
//! to be synced is here and can be restored, what a restart says to be here is here for good, and all works on.
//!
//! `SUSTAIN_CRASH_SEEDS` is as for the store's tests: with it every call is tried, with so many seeds.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use sustain_proto::{Cut, SnapshotId};
use sustain_store::disk::Disk;
use sustain_store::{DirectoryTarget, KeySource, NoProgress, Store};

use super::simulated_disk::{Fault, Simulated};
use super::world::*;
use crate::depot::{Depot, DepotError, PartList};
use crate::keeper::{Catalog, Claim, Kept, Pack, Part, Which};

const EIO: i32 = 5;

/// What a server published, one after the other, and all packs.
struct Offer {
    catalogs: Vec<Arc<Catalog>>,
    parts: Vec<(Pack, Part, PartList, Vec<u8>)>,
    content: Vec<(SnapshotId, Vec<u8>)>,
}

static WHOLE: LazyLock<Offer> = LazyLock::new(|| Offer::new(None));
static CUT: LazyLock<Offer> = LazyLock::new(|| Offer::new(Cut::in_groups(2, 4)));

impl Offer {
    fn new(cut: Option<Cut>) -> Self {
        let server = Node::new(1);
        let mut offer = Self { catalogs: Vec::new(), parts: Vec::new(), content: Vec::new() };
        let mut bytes = noise(1, 3 * GROUP);
        for step in 0..3_usize {
            bytes[step * GROUP..][..5_000].copy_from_slice(&noise(step as u64, 5_000));
            offer.content.push((server.push(&bytes), bytes.clone()));
            offer.publish(&server, cut);
        }
        let newest = offer.content[2].0;
        server.store.mark_durable(newest, 1).unwrap();
        let prepared = server.store.prepare_rebase(&service(SERVICE), None, &NoProgress).unwrap();
        prepared.commit(std::time::Duration::ZERO).unwrap();
        offer.publish(&server, cut);
        offer.content.push((offer.catalogs[3].entries[0].id, bytes));
        offer
    }

    fn publish(&mut self, server: &Node, cut: Option<Cut>) {
        let known = self.catalogs.last().map(|known| &**known);
        let catalog = published(server, known, cut, &[node(3)]);
        for pack in catalog.packs() {
            let fragments = (0..pack.cut.map_or(0, |cut| cut.total)).map(|index| pack.share(index));
            for part in fragments.chain([pack.whole()]) {
                if self.parts.iter().all(|(_, known, ..)| *known != part) {
                    let list = server.depot().list(&part, &pack).unwrap().unwrap();
                    let bytes = bytes_of(server.depot(), &part, &pack).unwrap();
                    self.parts.push((pack, part, list, bytes));
                }
            }
        }
        self.catalogs.push(catalog);
    }

    /// The parts of this sort of a catalog's packs.
    fn of(&self, catalog: usize, which: Which) -> Vec<&(Pack, Part, PartList, Vec<u8>)> {
        let listed: BTreeSet<_> = self.catalogs[catalog].packs().iter().map(|pack| pack.id).collect();
        let parts = self.parts.iter();
        parts.filter(|(_, part, ..)| part.which == which && listed.contains(&part.pack)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Keep(u64),
    Remember(usize),
    /// Receive these parts of all packs of this catalog but of so many, and sync them together.
    Take(usize, Which, usize),
    /// Make these fragments of all packs of this catalog, of others that come for that and are not synced, or of the
    /// whole packs; and sync them.
    Make(usize, u8, &'static [Which]),
    /// Drop these parts of this catalog's packs.
    Drop(usize, Which),
    /// Drop the parts of this catalog that the next one does not list, and retire.
    Leave(usize),
    Reopen,
}

const ALL: Which = Which::Whole;

const SCRIPT: [Step; 14] = [
    Step::Keep(1),
    Step::Remember(0),
    Step::Take(0, ALL, 1),
    Step::Take(0, ALL, 0),
    Step::Remember(1),
    Step::Take(1, ALL, 0),
    Step::Keep(2),
    Step::Reopen,
    Step::Remember(2),
    Step::Take(2, ALL, 1),
    Step::Take(2, ALL, 0),
    Step::Remember(3),
    Step::Take(3, ALL, 0),
    Step::Leave(2),
];

const SCRIPT_CUT: [Step; 14] = [
    Step::Remember(0),
    Step::Take(0, Which::Fragment(1), 0),
    Step::Remember(2),
    Step::Take(2, Which::Fragment(1), 1),
    Step::Take(2, Which::Fragment(1), 0),
    Step::Make(2, 3, &[Which::Fragment(1), Which::Fragment(2)]),
    Step::Reopen,
    // It moves to another fragment.
    Step::Drop(2, Which::Fragment(1)),
    Step::Take(2, ALL, 0),
    Step::Make(2, 0, &[ALL]),
    Step::Drop(2, ALL),
    Step::Remember(3),
    Step::Take(3, Which::Fragment(3), 0),
    Step::Leave(2),
];

fn claim(number: u64) -> Claim {
    Claim { node: node(2), life: number, number, index: None, moving: None }
}

/// The node on its simulated disk, beside what it has acknowledged.
struct World {
    offer: &'static Offer,
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
    fn new(offer: &'static Offer) -> Self {
        Self {
            offer,
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
                depot.remember(&self.offer.catalogs[number])?;
                (self.catalog, self.catalog_doubtful) = (Some(number), None);
            }
            Step::Take(catalog, which, without) => {
                let wanted = self.offer.of(catalog, which);
                let wanted = &wanted[..wanted.len() - without];
                wanted.iter().try_for_each(|part| take(depot, part))?;
                let parts: Vec<Part> = wanted.iter().map(|(_, part, ..)| *part).collect();
                self.synced.extend(synced(&depot.sync(&parts)));
            }
            Step::Make(catalog, index, from) => {
                let mut made = Vec::new();
                for pack in self.offer.catalogs[catalog].packs() {
                    let from: Vec<Part> =
                        from.iter().map(|which| Part { pack: pack.id, which: *which }).collect();
                    for part in self.offer.parts.iter().filter(|(_, part, ..)| from.contains(part)) {
                        take(depot, part)?;
                    }
                    depot.make(&pack.share(index), &from)?;
                    let fetched: Vec<Part> =
                        from.into_iter().filter(|part| !self.synced.contains(part)).collect();
                    depot.drop_parts(&fetched)?;
                    made.push(pack.share(index));
                }
                self.synced.extend(synced(&depot.sync(&made)));
            }
            Step::Drop(catalog, which) => {
                let gone: Vec<Part> =
                    self.offer.of(catalog, which).iter().map(|(_, part, ..)| *part).collect();
                gone.iter().for_each(|part| _ = self.synced.remove(part));
                depot.drop_parts(&gone)?;
            }
            Step::Leave(catalog) => {
                let next = self.offer.catalogs[catalog + 1].packs();
                let listed = |part: &Part| next.iter().any(|pack| pack.id == part.pack);
                let gone: Vec<Part> = self.synced.iter().filter(|part| !listed(part)).copied().collect();
                gone.iter().for_each(|part| _ = self.synced.remove(part));
                depot.drop_parts(&gone)?;
                // As the node does when a new base has come. It may be at work elsewhere.
                let _ = store.retire_superseded(self.offer.catalogs[catalog + 1].entries[0].id);
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
        let catalogs = &self.offer.catalogs;
        let found = found.map(|found| catalogs.iter().position(|catalog| catalog == found).unwrap());
        assert!(
            found == self.catalog || found == self.catalog_doubtful,
            "{context}: catalog {found:?} instead of {:?}",
            self.catalog
        );
        (self.catalog, self.catalog_doubtful) = (found, None);
        let parts: BTreeSet<Part> = kept.parts.iter().map(|(part, _)| *part).collect();
        let listed = found.map(|found| catalogs[found].packs()).unwrap_or_default();
        let listed: BTreeSet<_> = listed.iter().map(|pack| pack.id).collect();
        let lost = self.synced.iter().filter(|part| listed.contains(&part.pack) && !parts.contains(part));
        let lost: Vec<_> = lost.collect();
        assert!(lost.is_empty(), "{context}: {lost:?} were synced");
        let Some((store, depot)) = &self.open else { panic!("{context}") };
        for part in &parts {
            let (pack, _, _, bytes) = self.offer.parts.iter().find(|(_, known, ..)| known == part).unwrap();
            assert!(bytes_of(depot, part, pack).unwrap() == *bytes, "{context}: other bytes");
        }
        let entries = found.map(|found| &catalogs[found].entries);
        for entry in entries.into_iter().flatten() {
            if entry.packs.iter().all(|pack| pack.cut.is_none() && parts.contains(&pack.whole())) {
                let folder = tempfile::tempdir().unwrap();
                let outcome = store.restore(entry.id, &DirectoryTarget::new(folder.path()), &NoProgress);
                assert!(outcome.is_ok(), "{context}: {outcome:?}");
                let expected = &self.offer.content.iter().find(|(id, _)| *id == entry.id).unwrap().1;
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

fn take(
    depot: &Depot,
    (pack, part, list, bytes): &(Pack, Part, PartList, Vec<u8>),
) -> Result<(), DepotError> {
    let receiver = depot.receive(pack, part, list.clone())?;
    for (group, bytes) in bytes.chunks(GROUP).enumerate() {
        receiver.write(group, bytes)?;
    }
    Ok(())
}

/// What is done, and what is to be here at the end.
#[derive(Clone, Copy)]
struct Plan {
    offer: &'static Offer,
    script: &'static [Step],
    ends_with: Which,
}

impl Plan {
    fn step(world: &mut World, step: Step) -> Result<(), String> {
        if matches!(step, Step::Reopen) {
            return world.open().map(|_| ());
        }
        world.step(step).map_err(|error| sustain_store::error_chain(&error))
    }

    /// Runs the script with a fault at this call. Whether it has struck.
    fn run(self, fault: Fault, nth: u64, seed: u64) -> bool {
        let context = format!("{fault:?} at call {nth}, seed {seed}");
        let mut world = World::new(self.offer);
        let disk = world.disk.clone();
        world.open().unwrap();
        disk.arm(nth, fault, seed);
        let mut done = 0;
        for step in self.script {
            if Self::step(&mut world, *step).is_err() || disk.struck() {
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
        for step in &self.script[done..] {
            assert_eq!(Self::step(&mut world, *step), Ok(()), "{context}: {step:?}");
        }
        let parts = world.check(&format!("{context}, at the end"));
        let expected: BTreeSet<Part> =
            self.offer.of(3, self.ends_with).iter().map(|(_, part, ..)| *part).collect();
        assert!(parts.is_superset(&expected), "{context}: {parts:?}");
        true
    }

    fn sweep(self, fault: Fault, stride: usize) {
        let seeds: Option<u64> = std::env::var("SUSTAIN_CRASH_SEEDS").ok().and_then(|text| text.parse().ok());
        let stride = if seeds.is_some() { 1 } else { stride };
        for nth in (1..).step_by(stride) {
            for seed in 0..seeds.unwrap_or(1) {
                let seed = if seeds.is_some() { seed } else { nth };
                if !self.run(fault, nth, seed) {
                    assert!(nth > 100, "the script has {nth} calls: it does not do what it should");
                    return;
                }
            }
        }
    }
}

fn whole() -> Plan {
    Plan { offer: &WHOLE, script: &SCRIPT, ends_with: Which::Whole }
}

fn cut() -> Plan {
    Plan { offer: &CUT, script: &SCRIPT_CUT, ends_with: Which::Fragment(3) }
}

#[test]
fn a_power_cut_at_any_call_leaves_what_was_said_to_be_synced() {
    whole().sweep(Fault::PowerCut, 5);
    cut().sweep(Fault::PowerCut, 5);
}

#[test]
fn a_kill_at_any_call_does_too() {
    whole().sweep(Fault::Kill, 9);
    cut().sweep(Fault::Kill, 9);
}

#[test]
fn a_failing_call_does_too() {
    whole().sweep(Fault::Fail(EIO), 9);
    cut().sweep(Fault::Fail(EIO), 9);
}

#[test]
fn a_full_disk_does_too() {
    whole().sweep(Fault::Full, 13);
    cut().sweep(Fault::Full, 13);
}
