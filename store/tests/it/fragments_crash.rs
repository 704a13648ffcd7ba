//! A failing call, or a power cut, at every single call of a script that keeps, receives and drops fragments: what was
//! acknowledged is there bit for bit, nothing wrong is given out, and all works on. `SUSTAIN_CRASH_SEEDS` is as in
//! `crash`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use sustain_proto::{Cut, FragmentId, SnapshotId};
use sustain_store::{Appended, ErrorKind, FragmentError, Fragments, Store};

use crate::common::*;
use crate::fragments::{Whole, cut, groups, list, read};
use crate::simulated_disk::{Fault, Simulated};
use crate::world::open;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// What comes from elsewhere: two bases with a delta each, all packs cut.
struct Offer {
    /// Id, manifest, and which of the packs it lists.
    snapshots: Vec<(SnapshotId, Vec<u8>, Vec<usize>)>,
    packs: Vec<Whole>,
    expected: BTreeMap<FragmentId, Vec<u8>>,
}

static OFFER: LazyLock<Offer> = LazyLock::new(|| {
    let mut offer = Offer { snapshots: Vec::new(), packs: Vec::new(), expected: BTreeMap::new() };
    for seed in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let mut content = regions(&[("ram", noise(seed, 160_000))]);
        for step in 0..2 {
            content.get_mut("ram").unwrap()[step] ^= 7;
            let id = push(&store, "mail", &content).snapshot;
            let (manifest, encoded) = store.manifest(id).unwrap();
            let mut listed = Vec::new();
            for pack in manifest.packs {
                listed.push(offer.packs.len());
                offer.packs.push(cut(
                    &store,
                    "mail",
                    pack.id,
                    Cut { needed: 2, total: 4, extent_bytes: 8 << 10 },
                ));
            }
            offer.snapshots.push((id, encoded, listed));
        }
    }
    for whole in &offer.packs {
        offer
            .expected
            .extend(whole.sheet.sheet.fragments.iter().copied().zip(whole.fragments.iter().cloned()));
    }
    offer
});

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Keep the manifest of a snapshot.
    Keep(usize),
    /// Put fragments of its packs, all with one sync.
    Put(usize, &'static [u8]),
    /// Receive one of each of its packs, group by group, the last ones first.
    Receive(usize, u8),
    /// Receive some of it, and stop.
    Begin(usize, u8),
    /// Build a fragment of each of its packs of those that are held.
    Build(usize, u8),
    /// Build its packs of fragments that are held.
    Rebuild(usize),
    /// Release snapshots.
    Release(&'static [usize]),
    Reopen,
}

const SCRIPT: [Step; 17] = [
    Step::Keep(0),
    Step::Put(0, &[0]),
    Step::Keep(1),
    Step::Receive(0, 3),
    Step::Begin(1, 1),
    Step::Put(1, &[0, 2]),
    Step::Reopen,
    Step::Receive(1, 1),
    Step::Build(0, 2),
    Step::Rebuild(0),
    Step::Keep(2),
    Step::Put(2, &[1, 3]),
    Step::Release(&[1]),
    Step::Keep(3),
    Step::Receive(3, 2),
    Step::Release(&[0]),
    Step::Build(2, 0),
];

fn packs(snapshot: usize) -> impl Iterator<Item = &'static Whole> {
    OFFER.snapshots[snapshot].2.iter().map(|pack| &OFFER.packs[*pack])
}

fn receive(fragments: &Fragments, snapshot: usize, index: u8) -> Result<Vec<Appended>, FragmentError> {
    let mut appended = Vec::new();
    for whole in packs(snapshot) {
        let bytes = &whole.fragments[usize::from(index)];
        let receiver = fragments.receive(whole.sheet.clone(), index, list(bytes))?;
        for (group, bytes) in groups(bytes).rev() {
            receiver.write(group, bytes)?;
        }
        appended.push(receiver.finish()?);
    }
    Ok(appended)
}

fn build(fragments: &Fragments, snapshot: usize, index: u8) -> Result<Vec<Appended>, FragmentError> {
    let mut appended = Vec::new();
    for whole in packs(snapshot) {
        match fragments.build_fragment(whole.sheet.clone(), index)?.finish() {
            // Earlier steps have failed.
            Err(FragmentError::Incomplete { .. }) => {}
            other => appended.push(other?),
        }
    }
    Ok(appended)
}

/// The store, and what it was told to keep.
struct World {
    disk: Simulated,
    open: Option<(Store, Fragments)>,
    kept: BTreeSet<usize>,
    /// Kept, or released, without an answer.
    doubtful: BTreeSet<usize>,
    held: BTreeSet<FragmentId>,
    /// Packs that were dropped.
    dropped: BTreeSet<usize>,
}

impl World {
    fn new(disk: Simulated) -> Self {
        let (kept, doubtful, held, dropped) = Default::default();
        Self { disk, open: None, kept, doubtful, held, dropped }
    }

    fn open(&mut self) -> Result<Fragments, FragmentError> {
        if self.open.is_none() {
            let opened = open(&self.disk).map_err(|error| match error {
                sustain_store::OpenError::Fault(fault) => FragmentError::Fault(fault),
                other => panic!("{other}"),
            })?;
            let fragments = opened.fragments()?;
            assert_eq!(fragments.bad(), []);
            self.open = Some((opened, fragments));
        }
        Ok(self.open.as_ref().unwrap().1.clone())
    }

    fn step(&mut self, step: Step) -> Result<(), FragmentError> {
        let fragments = self.open()?;
        let appended = match step {
            Step::Keep(snapshot) => {
                self.doubtful.insert(snapshot);
                fragments.keep_manifests(std::slice::from_ref(&OFFER.snapshots[snapshot].1))?;
                self.doubtful.remove(&snapshot);
                self.kept.insert(snapshot);
                Vec::new()
            }
            Step::Put(snapshot, indices) => {
                let put = |(whole, index): (&Whole, &u8)| {
                    fragments.put(&whole.sheet, *index, &whole.fragments[usize::from(*index)])
                };
                let all = packs(snapshot).flat_map(|whole| indices.iter().map(move |index| (whole, index)));
                all.map(put).collect::<Result<_, _>>()?
            }
            Step::Receive(snapshot, index) => receive(&fragments, snapshot, index)?,
            Step::Begin(snapshot, index) => {
                for whole in packs(snapshot) {
                    let bytes = &whole.fragments[usize::from(index)];
                    let receiver = fragments.receive(whole.sheet.clone(), index, list(bytes))?;
                    for (group, bytes) in groups(bytes).skip(1) {
                        receiver.write(group, bytes)?;
                    }
                }
                Vec::new()
            }
            Step::Build(snapshot, index) => build(&fragments, snapshot, index)?,
            Step::Rebuild(snapshot) => {
                for whole in packs(snapshot) {
                    match fragments.build_pack(&whole.sheet.sheet)?.finish() {
                        Err(FragmentError::Incomplete { .. }) => {}
                        other => assert_eq!(other?, whole.pack),
                    }
                }
                Vec::new()
            }
            Step::Release(snapshots) => return self.release(&fragments, snapshots),
            Step::Reopen => {
                self.open = None;
                Vec::new()
            }
        };
        if appended.is_empty() {
            return Ok(());
        }
        fragments.sync(&appended)?;
        self.held.extend(appended.iter().map(Appended::fragment));
        let given = |pack: &usize| {
            let names = &OFFER.packs[*pack].sheet.sheet.fragments;
            appended.iter().any(|appended| names.contains(&appended.fragment()))
        };
        self.dropped.retain(|pack| !given(pack));
        Ok(())
    }

    fn release(&mut self, fragments: &Fragments, snapshots: &[usize]) -> Result<(), FragmentError> {
        self.doubtful.extend(snapshots);
        for snapshot in snapshots {
            self.kept.remove(snapshot);
        }
        self.forget_unlisted();
        let ids = snapshots.iter().map(|snapshot| OFFER.snapshots[*snapshot].0).collect();
        let freed = match fragments.release(&ids) {
            // An earlier release has failed.
            Err(FragmentError::BaseNeeded { .. }) => return Ok(()),
            other => other?,
        };
        if freed.uncertain.is_empty() {
            self.dropped.extend(snapshots.iter().flat_map(|snapshot| &OFFER.snapshots[*snapshot].2));
        }
        snapshots.iter().for_each(|snapshot| _ = self.doubtful.remove(snapshot));
        Ok(())
    }

    /// A sweep drops what no kept manifest lists, also one that could not be kept.
    fn forget_unlisted(&mut self) {
        let kept = &self.kept;
        let is_listed = |id: &FragmentId| {
            let mut packs = kept.iter().flat_map(|snapshot| packs(*snapshot));
            packs.any(|whole| whole.sheet.sheet.fragments.contains(id))
        };
        self.held.retain(is_listed);
    }

    /// What must hold whenever it is open.
    fn check(&mut self, context: &str) {
        let fragments = self.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        let name = service("mail");
        let held: BTreeSet<FragmentId> = fragments.held(&name).iter().map(|held| held.fragment).collect();
        let lost: Vec<String> = self.held.difference(&held).map(FragmentId::short).collect();
        assert!(lost.is_empty(), "{context}: {lost:?} are lost");
        for id in &held {
            let bytes = read(&fragments, id).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(bytes == OFFER.expected[id], "{context}: {} is another one", id.short());
        }
        for pack in &self.dropped {
            let names = &OFFER.packs[*pack].sheet.sheet.fragments;
            assert!(!names.iter().any(|id| held.contains(id)), "{context}: pack {pack} was dropped");
        }
        let kept = fragments.manifests(&name);
        for (number, (id, encoded, _)) in OFFER.snapshots.iter().enumerate() {
            let found = kept.iter().find(|kept| kept.id == *id);
            assert!(found.is_none_or(|kept| kept.encoded == *encoded), "{context}");
            if !self.doubtful.contains(&number) {
                assert_eq!(found.is_some(), self.kept.contains(&number), "{context}: manifest {number}");
            }
        }
        for held in fragments.held(&name) {
            let sheet = fragments.sheet(&name, &held.pack.id).unwrap();
            let whole = OFFER.packs.iter().find(|whole| whole.pack == held.pack).unwrap();
            assert_eq!(sheet.as_ref(), Some(&whole.sheet.bytes), "{context}");
        }
        assert_eq!(fragments.usage().get(&name).map_or(0, |usage| usage.aside), 0, "{context}");
    }
}

#[derive(Debug, Clone, Copy)]
struct Run {
    fault: Fault,
    nth: u64,
    seed: u64,
    recover: bool,
}

impl Run {
    /// Whether the script was long enough for the fault to strike.
    fn go(self) -> bool {
        let Self { fault, nth, seed, recover } = self;
        let disk = Simulated::default();
        // The store itself is another test's.
        drop(open(&disk).unwrap());
        disk.arm(nth, fault, seed);
        let mut world = World::new(disk.clone());
        for step in SCRIPT {
            let struck_before = disk.struck();
            let outcome = world.step(step);
            if disk.is_off() {
                break;
            }
            let Err(error) = outcome else { continue };
            assert!(disk.struck(), "{self:?} {step:?}: fails without a reason: {error}");
            let is_over = struck_before && !matches!(fault, Fault::Dead(_) | Fault::Full);
            let lacks = matches!(error, FragmentError::NotFound { .. } | FragmentError::Incomplete { .. });
            assert!(!is_over || lacks, "{self:?} {step:?}: fails though the fault is over: {error}");
            if fault == Fault::Full {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{self:?} {step:?}: {error}");
                disk.disarm();
            }
            if !matches!(fault, Fault::Dead(_)) {
                world.check(&format!("{self:?} {step:?}"));
            }
        }
        let struck = disk.struck();
        disk.disarm();
        if fault == Fault::PowerCut || seed % 2 == 1 {
            disk.cut();
            world.open = None;
            disk.restart(seed + nth * 1_000);
        }
        world.open = None;
        if recover {
            self.recover(&disk);
        }
        let context = format!("{self:?}");
        // What was appended without an answer, and then dropped, may be found again, and goes with the next sweep.
        world.open().unwrap_or_else(|error| panic!("{context}: {error}")).sweep().unwrap();
        world.forget_unlisted();
        world.check(&context);
        // It works on, and that lasts.
        for step in [Step::Keep(2), Step::Keep(3), Step::Put(2, &[2]), Step::Receive(3, 0), Step::Build(2, 0)]
        {
            world.step(step).unwrap_or_else(|error| panic!("{context}: {step:?}: {error}"));
        }
        world.check(&context);
        disk.cut();
        world.open = None;
        disk.restart(seed + 7);
        world.check(&context);
        struck
    }

    /// Cuts the power at the first call of an opening, at the second of the next one, and so on.
    fn recover(self, disk: &Simulated) {
        for call in 1.. {
            disk.arm(call, Fault::PowerCut, 0);
            let opened = open(disk).map(|store| store.fragments().map(drop));
            if !disk.is_off() {
                assert!(matches!(opened, Ok(Ok(()))), "{self:?}: {opened:?} at call {call} of the recovery");
                disk.disarm();
                return;
            }
            drop(opened);
            disk.restart(self.seed + call);
        }
    }
}

fn sweep(fault: Fault, stride: u64, recover: bool) {
    let seeds = std::env::var("SUSTAIN_CRASH_SEEDS").ok().and_then(|text| text.parse::<u64>().ok());
    let stride = if seeds.is_some() { 1 } else { stride };
    let mut last = 0;
    'calls: for nth in (1..).step_by(stride as usize) {
        for seed in 0..seeds.unwrap_or(1) {
            let seed = if seeds.is_some() { seed } else { nth / stride };
            if !(Run { fault, nth, seed, recover }).go() {
                last = nth;
                break 'calls;
            }
        }
    }
    assert!(last > 100, "the script has {last} calls: it does not do what it should");
}

#[test]
fn a_power_cut_at_any_call_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::PowerCut, 1, false);
}

#[test]
fn power_cuts_while_fragments_are_opened_lose_none_that_was_acknowledged() {
    sweep(Fault::PowerCut, 7, true);
}

#[test]
fn a_full_disk_at_any_call_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::Full, 2, false);
}

#[test]
fn a_call_that_fails_once_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::Fail(EIO), 1, false);
}

#[test]
fn a_call_that_finds_no_room_once_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::Fail(ENOSPC), 3, false);
}

#[test]
fn a_read_that_fails_once_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::FailToRead(EIO), 1, false);
}

#[test]
fn a_read_that_comes_short_loses_no_fragment_that_was_acknowledged() {
    sweep(Fault::ShortRead, 1, false);
}

#[test]
fn a_disk_that_fails_from_some_call_on_keeps_the_fragments_it_had() {
    sweep(Fault::Dead(EIO), 3, false);
}

/// The keeper of the fragments is killed at any call: who keeps them next finds all that was acknowledged.
#[test]
fn a_keeper_that_is_killed_at_any_call_loses_no_fragment_that_was_acknowledged() {
    for nth in 1.. {
        let disk = Simulated::default();
        drop(open(&disk).unwrap());
        let doomed = disk.process(1);
        disk.arm(nth, Fault::Kill, nth);
        let mut world = World::new(doomed.clone());
        for step in SCRIPT {
            if world.step(step).is_err() && doomed.is_killed() {
                break;
            }
        }
        let struck = doomed.is_killed();
        world.open = None;
        world.disk = disk.process(2);
        world.check(&format!("killed at call {nth}"));
        disk.cut();
        world.open = None;
        disk.restart(nth);
        world.check(&format!("killed at call {nth}, and then a power cut"));
        if !struck {
            assert!(nth > 100);
            return;
        }
    }
}

/// One caller's sync has failed, and the next one's found nothing left to do: what the other had appended counted as
/// held, and was lost with the next power cut.
#[test]
fn a_sync_that_failed_for_one_caller_is_told_to_the_other() {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let fragments = store.fragments().unwrap();
    let whole = &OFFER.packs[0];
    let one = fragments.put(&whole.sheet, 0, &whole.fragments[0]).unwrap();
    let other = fragments.put(&whole.sheet, 1, &whole.fragments[1]).unwrap();
    disk.arm(1, Fault::Fail(EIO), 0);
    assert!(fragments.sync(&[one]).is_err());
    assert!(disk.struck());
    assert!(matches!(fragments.sync(&[other]), Err(FragmentError::NotDurable { .. })));
    assert_eq!(fragments.held(&service("mail")), []);
    let again =
        [0, 1].map(|index| fragments.put(&whole.sheet, index, &whole.fragments[index as usize]).unwrap());
    fragments.sync(&again).unwrap();
    drop((fragments, store));
    disk.cut();
    disk.restart(1);
    let fragments = open(&disk).unwrap().fragments().unwrap();
    assert_eq!(fragments.held(&service("mail")).len(), 2);
}
