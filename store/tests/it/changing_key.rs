//! A service's key changes: its next rebase seals everything anew, and the old key opens nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sustain_proto::{KeyId, SnapshotId};
use sustain_store::{
    ErrorKind, NoProgress, RebaseOptions, RebasePolicy, Retention, Secrets, Store, StoreOptions, Trigger,
};

use crate::common::*;
use crate::keeping::{pin_name, state};
use crate::simulated_disk::{Fault, Simulated};

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { create: true, ..StoreOptions::default() }).unwrap()
}

fn secrets(dir: &Path, name: &str) -> Secrets {
    Secrets::parse(&fs::read_to_string(dir.join("keys").join(name)).unwrap()).unwrap()
}

/// The keys that a service's manifests name.
fn named(store: &Store, name: &str) -> BTreeSet<KeyId> {
    let list = store.snapshots(Some(&service(name))).unwrap();
    list.iter().map(|info| store.manifest(info.id).unwrap().0.key).collect()
}

fn keeping(count: u32) -> RebaseOptions {
    RebaseOptions {
        retention: Retention { keep_last: count, ..Retention::NOTHING },
        ..RebaseOptions::default()
    }
}

fn rebase(store: &Store, options: RebaseOptions) -> SnapshotId {
    let prepared = store.prepare_rebase_with(&service("mail"), options, &NoProgress).unwrap();
    prepared.commit(Duration::ZERO).unwrap().base
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, target).unwrap();
    }
}

#[test]
fn each_service_has_a_key_and_no_other_opens_what_it_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = ["mail", "web"].map(|name| push(&store, name, &state(1)).snapshot);
    assert!(named(&store, "mail").is_disjoint(&named(&store, "web")));
    let packs = ids.map(|id| store.packs_needed(id).unwrap()[0].id);
    assert_ne!(packs[0], packs[1]);
    drop(store);
    fs::copy(dir.path().join("keys/web"), dir.path().join("keys/mail")).unwrap();
    let store = open(dir.path());
    assert_eq!(restore(&store, ids[1]), state(1));
    assert_eq!(try_restore(&store, ids[0]).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(try_push(&store, "mail", &state(2)).unwrap_err().kind(), ErrorKind::Key);
    let report = store.verify(&NoProgress).unwrap();
    assert_eq!(report.bad.iter().map(|bad| &bad.path).collect::<Vec<_>>(), [&dir.path().join("keys/mail")]);
    drop(store);
    // A lost key is not made up for by a new one.
    fs::remove_file(dir.path().join("keys/mail")).unwrap();
    let store = open(dir.path());
    assert_eq!(try_push(&store, "mail", &state(2)).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(store.change_key(&service("mail")).unwrap_err().kind(), ErrorKind::Key);
    assert!(!dir.path().join("keys/mail").exists());
    assert!(!store.keys(&service("mail")).can_seal());
    push(&store, "web", &state(2));
}

#[test]
fn a_rebase_after_the_change_seals_everything_anew() {
    let (dir, before, after) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    let mail = service("mail");
    let mut ids: Vec<_> = (1..=5).map(|step| push(&store, "mail", &state(step)).snapshot).collect();
    store.pin(ids[1], &pin_name("old")).unwrap();
    let old = secrets(dir.path(), "mail");
    copy(dir.path(), before.path());
    let new = store.change_key(&mail).unwrap();
    assert_eq!(store.change_key(&mail).unwrap(), new, "it waits for its rebase already");
    // Until then all goes on as before.
    ids.push(push(&store, "mail", &state(6)).snapshot);
    assert_eq!(named(&store, "mail"), [old.newest().id()].into());
    let growth = store.growth(&mail, &RebaseOptions::default()).unwrap();
    assert_eq!(RebasePolicy::default().due(&growth), Some(Trigger::Key));
    let packs: Vec<PathBuf> = files(&dir.path().join("packs"));
    let keys = store.keys(&mail).keys;
    assert_eq!(
        keys.iter().map(|key| (key.seals, key.snapshots)).collect::<Vec<_>>(),
        [(false, 6), (true, 0)]
    );

    let base = rebase(&store, keeping(3));
    assert_eq!(named(&store, "mail"), [new].into());
    assert!(files(&dir.path().join("packs")).iter().all(|path| !packs.contains(path)));
    let check = |store: &Store| {
        assert_eq!(restore(store, base), state(6));
        for step in [2, 4, 5, 6] {
            let now = store.resolve(&ids[step - 1].to_string()).unwrap();
            assert_eq!(restore(store, now), state(step));
        }
        assert_eq!(restore(store, store.pins().unwrap()[0].snapshot.unwrap()), state(2));
        verify_good(store);
    };
    check(&store);
    assert_eq!(secrets(dir.path(), "mail").iter().map(sustain_store::Secret::id).collect::<Vec<_>>(), [new]);
    assert_eq!(store.keys(&mail).keys.len(), 1);
    // Who has the old secret opens nothing of now; who has the new one, nothing of before.
    drop(store);
    copy(dir.path(), after.path());
    fs::copy(before.path().join("keys/mail"), after.path().join("keys/mail")).unwrap();
    fs::copy(dir.path().join("keys/mail"), before.path().join("keys/mail")).unwrap();
    for (dir, count) in [(&after, 4), (&before, 5)] {
        let store = open(dir.path());
        let list = store.snapshots(None).unwrap();
        assert_eq!(list.len(), count);
        for info in list {
            assert_eq!(try_restore(&store, info.id).unwrap_err().kind(), ErrorKind::Key);
        }
    }

    let store = open(dir.path());
    check(&store);
    let next = push(&store, "mail", &state(7)).snapshot;
    assert_eq!(restore(&store, next), state(7));
    store.unpin(&pin_name("old")).unwrap();
    rebase(&store, RebaseOptions::default());
    assert_eq!(store.snapshots(None).unwrap().len(), 1);
}

/// Promoting a base changed nothing but dropping its ancestors.
#[test]
fn a_base_alone_is_sealed_anew_too_and_by_a_collection() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = push(&store, "mail", &state(1)).snapshot;
    let first = store.change_key(&service("mail")).unwrap();
    let base = rebase(&store, RebaseOptions::default());
    assert_ne!(base, id);
    assert_eq!(named(&store, "mail"), [first].into());
    let second = store.change_key(&service("mail")).unwrap();
    let gc = store.prepare_gc(&service("mail"), keeping(9), &NoProgress).unwrap();
    assert_eq!(gc.preview().unwrap().new_generation, Some(sustain_store::NewGeneration::Due(Trigger::Key)));
    gc.commit(Duration::ZERO).unwrap();
    assert_eq!(named(&store, "mail"), [second].into());
    assert_eq!(restore(&store, store.resolve(&id.to_string()).unwrap()), state(1));
    // It is due once.
    let gc = store.prepare_gc(&service("mail"), keeping(9), &NoProgress).unwrap();
    assert_eq!(gc.preview().unwrap().new_generation, None);
    assert_eq!(secrets(dir.path(), "mail").iter().count(), 1);
    verify_good(&store);
}

/// The base is written with its chunks' new names, and what is pushed while it is prepared has their old ones.
#[test]
fn what_is_pushed_while_a_rebase_is_prepared_is_sealed_anew_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (1..=3).for_each(|step| drop(push(&store, "mail", &state(step))));
    let new = store.change_key(&service("mail")).unwrap();
    let prepared = store.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    (4..=6).for_each(|step| drop(push(&store, "mail", &state(step))));
    prepared.commit(Duration::ZERO).unwrap();
    assert_eq!(named(&store, "mail"), [new].into());
    let list = store.snapshots(None).unwrap();
    assert_eq!(list.iter().map(|info| info.seq).collect::<Vec<_>>(), [3, 4, 5, 6]);
    list.iter().for_each(|info| assert_eq!(restore(&store, info.id), state(info.seq as usize)));
    verify_good(&store);
}

#[test]
fn a_rebase_that_fails_or_is_given_up_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids: Vec<_> = (1..=3).map(|step| push(&store, "mail", &state(step)).snapshot).collect();
    store.change_key(&service("mail")).unwrap();
    drop(store.prepare_rebase(&service("mail"), None, &NoProgress).unwrap());
    drop(store);
    let store = open(dir.path());
    ids.iter().zip(1..).for_each(|(id, step)| assert_eq!(restore(&store, *id), state(step)));
    assert_eq!(secrets(dir.path(), "mail").iter().count(), 2);
    verify_good(&store);
}

fn open_on(disk: &Simulated) -> Result<Store, sustain_store::OpenError> {
    let options = StoreOptions { create: true, disk: Arc::new(disk.clone()), ..StoreOptions::default() };
    Store::open(Path::new("/store"), options)
}

/// A small state: the disk is in memory, and each call is one to fail at.
fn small(step: u64) -> Regions {
    let mut ram = noise(1, 70_000);
    ram[..300].copy_from_slice(&noise(step + 10, 300));
    regions(&[("ram", ram)])
}

/// Pushes, a change of the key with its rebase, and pushes between. Says what was acknowledged.
fn change(disk: &Simulated, kept: &mut BTreeMap<u64, Regions>) -> Result<(), Box<dyn std::error::Error>> {
    let mail = service("mail");
    let put = |store: &Store, step: u64, kept: &mut BTreeMap<u64, Regions>| {
        let report = try_push(store, "mail", &small(step))?;
        kept.insert(report.seq, small(step));
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let store = open_on(disk)?;
    put(&store, 1, kept)?;
    put(&store, 2, kept)?;
    store.change_key(&mail)?;
    put(&store, 3, kept)?;
    let prepared = store.prepare_rebase_with(&mail, keeping(2), &NoProgress)?;
    // What goes with it may be gone from here on.
    *kept = kept.split_off(&2);
    prepared.commit(Duration::ZERO)?;
    put(&store, 4, kept)
}

/// Whether the fault struck.
fn crash(fault: Fault, nth: u64) -> bool {
    let context = format!("{fault:?} at call {nth}");
    let disk = Simulated::default();
    disk.arm(nth, fault, nth);
    let mut kept = BTreeMap::new();
    let outcome = change(&disk, &mut kept);
    let struck = disk.struck();
    assert!(struck || outcome.is_ok(), "{context}: {outcome:?}");
    disk.disarm();
    if fault == Fault::PowerCut || nth % 2 == 1 {
        disk.cut();
        disk.restart(nth);
    }
    for round in 0..2 {
        let store = open_on(&disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
        let list = store.snapshots(None).unwrap();
        for (seq, content) in &kept {
            let found = list.iter().filter(|info| info.seq == *seq);
            let restored: Vec<_> = found.map(|info| try_restore(&store, info.id)).collect();
            assert!(
                restored.iter().any(|r| r.as_ref().is_ok_and(|r| r == content)),
                "{context}: {seq} is gone"
            );
            assert!(restored.iter().all(Result::is_ok), "{context}: {restored:?}");
        }
        assert_eq!(store.verify(&NoProgress).unwrap().bad, [], "{context}");
        if round == 0 {
            // And it goes on: whatever is half done is done.
            try_push(&store, "mail", &small(9)).unwrap();
            let new = store.change_key(&service("mail")).unwrap();
            store.rebase(&service("mail"), None).unwrap();
            assert_eq!(named(&store, "mail"), [new].into(), "{context}");
            let keys = store.keys(&service("mail")).keys;
            assert_eq!(keys.len(), 1, "{context}: {keys:?}");
            kept = store.snapshots(None).unwrap().iter().map(|info| (info.seq, small(9))).collect();
        }
    }
    struck
}

/// At some calls with every `cargo test`, and at each where `SUSTAIN_CRASH_SEEDS` is set.
#[test]
fn a_crash_at_any_call_of_a_change_loses_nothing_acknowledged() {
    let all = std::env::var_os("SUSTAIN_CRASH_SEEDS").is_some();
    let faults = [
        (Fault::PowerCut, 3),
        (Fault::Fail(5), 7),
        (Fault::Full, 13),
        (Fault::Dead(5), 13),
        (Fault::FailToRead(5), 17),
    ];
    for (fault, stride) in faults {
        let calls = (1..).step_by(if all { 1 } else { stride });
        let last = calls.take_while(|nth| crash(fault, *nth)).last().unwrap_or_default();
        assert!(last > 30, "{fault:?}: {last}");
    }
}
