//! A failing call, or a power cut, at every single step of a script of pushes, rebases and imports: what
//! was acknowledged is there bit for bit, nothing is half there, and the store works on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sustain_proto::{PackId, SnapshotId};
use sustain_store::{KeySource, NoProgress, Store, StoreOptions};

use crate::common::*;
use crate::simulated_disk::{Fault, Simulated};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn open(disk: &Simulated) -> Option<Store> {
    let options = StoreOptions {
        key: KeySource::Given([3; 32]),
        create: true,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::default()
    };
    Store::open(Path::new("/store"), options).ok()
}

fn state(step: usize) -> Regions {
    let mut ram = noise(1, 5 * 65_536 + 77);
    ram[step * 40_000..][..30_000].copy_from_slice(&noise(step as u64 + 10, 30_000));
    regions(&[("ram", ram), ("device", noise(step as u64, 100 + step))])
}

/// What another store offers for import: a base and a delta of another service.
struct Offer {
    manifests: Vec<Vec<u8>>,
    packs: Vec<(PackId, Vec<u8>)>,
    content: BTreeMap<SnapshotId, Regions>,
}

fn offer() -> Offer {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let ids: Vec<_> = (0..2).map(|step| (push(&store, "web", &state(step)).snapshot, state(step))).collect();
    let read = |id| {
        let reader = store.read_pack(id).unwrap();
        let mut bytes = vec![0; reader.len() as usize];
        reader.read_at(0, &mut bytes).unwrap();
        (id, bytes)
    };
    Offer {
        manifests: store.manifests_for(ids[1].0).unwrap(),
        packs: store.packs_needed(ids[1].0).unwrap().iter().map(|pack| read(pack.id)).collect(),
        content: ids.into_iter().collect(),
    }
}

/// What the script was told is there, and what it was told nothing about.
#[derive(Default)]
struct Acknowledged {
    /// Contents by seq of service mail, and whether they must be there.
    mail: BTreeMap<u64, Regions>,
    durable: Vec<u64>,
    imported: bool,
    /// Seqs of a push or rebase that failed: they may be there or not.
    doubtful: BTreeMap<u64, Regions>,
}

/// Pushes, a rebase of an older one, an import, a rebase of the newest. Stops at the first failure.
fn script(disk: &Simulated, offer: &Offer, done: &mut Acknowledged) -> Option<()> {
    let store = open(disk)?;
    for step in 0..3 {
        push_step(&store, step, done)?;
    }
    let first = store.snapshots(Some(&service("mail"))).ok()?;
    store.mark_durable(first[2].id, 1).ok()?;
    done.durable.push(3);
    rebase(&store, first[1].id, done)?;
    for (id, bytes) in &offer.packs {
        let mut receiver = store.receive_pack(*id, bytes.len() as u64).ok()?;
        receiver.write(bytes).ok()?;
        receiver.finish().ok()?;
    }
    store.import(&offer.manifests).ok()?;
    done.imported = true;
    push_step(&store, 3, done)?;
    drop(store);
    let store = open(disk)?;
    let newest = store.resolve("mail@latest").ok()?;
    rebase(&store, newest, done)?;
    push_step(&store, 4, done)?;
    Some(())
}

fn push_step(store: &Store, step: usize, done: &mut Acknowledged) -> Option<()> {
    let content = state(step);
    let seq = done.mail.keys().last().map_or(1, |last| last + 1);
    done.doubtful.insert(seq, content.clone());
    try_push(store, "mail", &content).ok()?;
    done.doubtful.remove(&seq);
    done.mail.insert(seq, content);
    Some(())
}

fn rebase(store: &Store, promote: SnapshotId, done: &mut Acknowledged) -> Option<()> {
    let list = store.snapshots(Some(&service("mail"))).ok()?;
    let seq = list.iter().find(|info| info.id == promote)?.seq;
    // While it runs, what it drops may be there or not.
    let kept = done.mail.split_off(&seq);
    done.doubtful.append(&mut done.mail);
    done.mail = kept;
    let is_durable = list.iter().any(|info| info.id == promote && info.durable);
    store.rebase(&service("mail"), Some(promote)).ok()?;
    // Nothing durable goes for something that is not.
    let newest_durable = done.durable.iter().max().filter(|durable| !is_durable && **durable < seq);
    done.doubtful.retain(|seq, _| Some(seq) == newest_durable);
    done.mail.append(&mut done.doubtful);
    Some(())
}

fn check(store: &Store, done: &Acknowledged, offer: &Offer, context: &str) {
    let list = store.snapshots(Some(&service("mail"))).unwrap();
    for info in &list {
        let content = done.mail.get(&info.seq).or_else(|| done.doubtful.get(&info.seq));
        let content = content.unwrap_or_else(|| panic!("{context}: seq {} came from nowhere", info.seq));
        assert_eq!(&restore(store, info.id), content, "{context}");
    }
    for seq in done.mail.keys() {
        assert_eq!(
            list.iter().filter(|info| info.seq == *seq).count(),
            1,
            "{context}: seq {seq} of {list:?}"
        );
    }
    for seq in &done.durable {
        if done.mail.contains_key(seq) {
            assert!(
                list.iter().any(|info| info.seq == *seq && info.durable),
                "{context}: mark of {seq}: {:?}",
                store.opened()
            );
        }
    }
    for (id, content) in &offer.content {
        match try_restore(store, *id) {
            Ok(restored) => assert_eq!(&restored, content, "{context}"),
            Err(error) => assert!(!done.imported, "{context}: {error}"),
        }
    }
    let report = store.verify(&NoProgress).unwrap();
    assert_eq!(report.bad, [], "{context}");
}

fn works_on(store: &Store, done: &Acknowledged, context: &str) {
    let content = state(4);
    let id =
        try_push(store, "mail", &content).unwrap_or_else(|error| panic!("{context}: {error:?}")).snapshot;
    assert_eq!(restore(store, id), content, "{context}");
    let report = store.rebase(&service("mail"), None).unwrap();
    assert_eq!(restore(store, report.base), content, "{context}");
    let held = report.kept.len().saturating_sub(1);
    assert!(done.mail.len() <= report.dropped.len() + 1 + held && held <= 1, "{context}");
}

fn no_leftovers(disk: &Simulated, store: &Store, context: &str) {
    let listed: Vec<PackId> = store
        .snapshots(None)
        .unwrap()
        .iter()
        .flat_map(|info| store.packs_needed(info.id).unwrap())
        .map(|pack| pack.id)
        .collect();
    for path in disk.list_all() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let in_temporaries = path.starts_with("/store/tmp");
        let stray = name.strip_suffix(".pack").and_then(|id| id.parse().ok()).is_some_and(|id| {
            // Received packs wait for their manifest.
            !listed.contains(&id) && store.read_pack(id).is_err()
        });
        assert!(!in_temporaries && !stray, "{context}: {} is left", path.display());
    }
}

/// What a power cut forgets is chosen by this; other numbers make other runs.
fn seed() -> u64 {
    std::env::var("SUSTAIN_STORE_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn run(fault: Fault, stride: u64) {
    let offer = offer();
    let mut nth = 1;
    loop {
        let disk = Simulated::default();
        disk.arm(nth, fault);
        let mut done = Acknowledged::default();
        let finished = script(&disk, &offer, &mut done).is_some();
        let struck = disk.struck();
        let context = format!("{fault:?} at call {nth}");
        if fault == Fault::PowerCut {
            disk.restart(nth + seed() * 10_000);
        } else {
            disk.disarm();
        }
        let store = open(&disk).unwrap_or_else(|| panic!("{context}: does not open"));
        check(&store, &done, &offer, &context);
        no_leftovers(&disk, &store, &context);
        works_on(&store, &done, &context);
        if !struck {
            assert!(finished);
            assert!(nth > 200, "the script has {nth} calls: it does not do what it should");
            return;
        }
        nth += stride;
    }
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    run(Fault::PowerCut, 1);
}

#[test]
fn a_full_disk_at_many_calls_loses_nothing_acknowledged() {
    run(Fault::Fail(ENOSPC), 3);
}

#[test]
fn a_failing_disk_at_many_calls_loses_nothing_acknowledged() {
    run(Fault::Fail(EIO), 5);
}

#[test]
fn a_lost_or_older_database_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let first = push(&store, "mail", &state(0)).snapshot;
    drop(store);
    let index = dir.path().join("index.redb");
    let old = std::fs::read(&index).unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let second = push(&store, "mail", &state(1)).snapshot;
    drop(store);
    for damage in ["older", "gone", "empty", "noise"] {
        match damage {
            "older" => std::fs::write(&index, &old).unwrap(),
            "gone" => std::fs::remove_file(&index).unwrap(),
            "empty" => std::fs::write(&index, []).unwrap(),
            _ => std::fs::write(&index, noise(1, 100_000)).unwrap(),
        }
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.opened().rebuilt.is_some(), damage != "older", "{damage}: {:?}", store.opened());
        assert_eq!(store.opened().bad, []);
        assert_eq!(restore(&store, first), state(0));
        assert_eq!(restore(&store, second), state(1));
        verify_good(&store);
        drop(store);
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.opened(), &sustain_store::OpenReport::default(), "{damage}");
    }
}
