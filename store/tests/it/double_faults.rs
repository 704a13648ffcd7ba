//! Two faults at once: the journal is lost, and something else with it. What may come back is kept until somebody says
//! that it will not.

use std::fs;
use std::path::{Path, PathBuf};

use sustain_proto::SnapshotId;
use sustain_store::{
    ErrorKind, NoProgress, RebaseOptions, Retention, Scope, Store, StoreOptions, VerifyOptions,
};

use crate::common::*;
use crate::keeping::state;
use crate::simulated_disk::{Fault, Simulated};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

fn manifest(dir: &Path, id: SnapshotId) -> PathBuf {
    dir.join("manifests").join(format!("{id}.manifest"))
}

/// Collects a service by the narrowest rule, and what no snapshot lists.
fn collect(store: &Store, name: &str) {
    store.remove_unlisted(false).unwrap();
    let options = RebaseOptions { retention: Retention::NOTHING, ..RebaseOptions::default() };
    let prepared = store.prepare_gc(&service(name), options, &NoProgress).unwrap();
    prepared.commit(std::time::Duration::ZERO).unwrap();
}

/// A collection of another service took the packs of the base, which nothing listed any more.
#[test]
fn a_base_that_is_lost_with_the_journal_keeps_its_packs_until_it_is_put_back() {
    for is_damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
        for number in 1..4 {
            push(&store, "web", &state(number));
        }
        drop(store);
        let base = manifest(dir.path(), ids[0]);
        let good = fs::read(&base).unwrap();
        fs::remove_file(dir.path().join("journal")).unwrap();
        if is_damaged {
            fs::write(&base, b"none").unwrap()
        } else {
            fs::remove_file(&base).unwrap()
        }
        for _ in 0..3 {
            let store = open(dir.path());
            assert!(store.opened().bad.iter().any(|bad| bad.path == base), "{:?}", store.opened());
            assert!(store.remove_unlisted(false).unwrap().uncertain);
            if !is_damaged {
                // It is known whose it was.
                collect(&store, "web");
            }
            assert!(try_restore(&store, ids[1]).is_err());
        }
        fs::write(&base, good).unwrap();
        let store = open(dir.path());
        assert_eq!(store.opened().bad, []);
        for (id, number) in ids.into_iter().zip(1..) {
            assert_eq!(restore(&store, id), state(number), "damaged: {is_damaged}");
        }
        verify_good(&store);
    }
}

/// There was no such snapshot, it was said, and verifying a delta blamed that one's good manifest.
#[test]
fn a_lost_base_is_damage_to_its_manifest_for_itself_and_its_deltas() {
    for (is_damaged, is_journal_lost) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let [base, delta] = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
        drop(store);
        let path = manifest(dir.path(), base);
        fs::remove_file(&path).unwrap();
        if is_damaged {
            fs::write(&path, b"none").unwrap();
        }
        if is_journal_lost {
            fs::remove_file(dir.path().join("journal")).unwrap();
        }
        let store = open(dir.path());
        let failures = [
            store.resolve(&base.to_string()).map(drop),
            store.resolve(&base.to_string()[..12]).map(drop),
            store.open_snapshot(delta).map(drop),
            store.packs_needed(delta).map(drop),
        ];
        for failure in failures {
            let error = failure.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(store.resolve(&delta.to_string()).unwrap(), delta);
        assert_eq!(store.resolve(&"ab".repeat(32)).unwrap_err().kind(), ErrorKind::NotFound);
        let options = VerifyOptions { scope: Scope::Snapshot(delta), ..VerifyOptions::default() };
        let bad = store.verify_with(&options, &NoProgress).unwrap().bad;
        let bad: Vec<_> = bad.into_iter().map(|bad| bad.path).collect();
        assert_eq!(bad, [path]);
    }
}

/// Takes a manifest out of a store, to be put back later.
fn take(dir: &Path, id: SnapshotId) -> impl FnOnce() + use<> {
    let path = manifest(dir, id);
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    move || fs::write(&path, good).unwrap()
}

fn packs_on_disk(dir: &Path) -> usize {
    files(&dir.join("packs")).len()
}

/// Whatever was run next, `log` even, took the store for a new one, and all its packs for leftovers.
#[test]
fn packs_without_journal_and_manifests_stay_until_these_are_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
    drop(store);
    let before = packs_on_disk(dir.path());
    let back = ids.map(|id| take(dir.path(), id));
    fs::remove_file(dir.path().join("journal")).unwrap();
    for _ in 0..3 {
        assert_eq!(open(dir.path()).snapshots(None).unwrap(), []);
        assert_eq!(packs_on_disk(dir.path()), before);
    }
    for back in back {
        back();
        drop(open(dir.path()));
    }
    let store = open(dir.path());
    for (id, number) in ids.into_iter().zip(1..) {
        assert_eq!(restore(&store, id), state(number));
    }
    verify_good(&store);
}

/// When the one that was known to be missing was back, nothing was, and what only the other one listed went.
#[test]
fn of_several_manifests_lost_with_the_journal_each_finds_its_packs_when_it_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mail = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
    let web = [1, 2].map(|number| push(&store, "web", &state(number)).snapshot);
    drop(store);
    fs::remove_file(dir.path().join("journal")).unwrap();
    // A base that its delta names, and a delta that nothing names.
    for back in [take(dir.path(), mail[0]), take(dir.path(), web[1])] {
        drop(open(dir.path()));
        back();
        drop(open(dir.path()));
    }
    let store = open(dir.path());
    for ids in [mail, web] {
        for (id, number) in ids.into_iter().zip(1..) {
            assert_eq!(restore(&store, id), state(number));
        }
    }
    verify_good(&store);
}

/// It was taken for what an import had left that was cut short, and removed: the one before it was the newest then.
#[test]
fn a_delta_that_is_put_back_before_its_base_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
    push(&store, "web", &state(1));
    drop(store);
    let [base, delta] = ids.map(|id| take(dir.path(), id));
    fs::remove_file(dir.path().join("journal")).unwrap();
    drop(open(dir.path()));
    delta();
    let store = open(dir.path());
    assert!(store.opened().bad.iter().any(|bad| bad.path == manifest(dir.path(), ids[0])));
    assert!(try_restore(&store, ids[1]).is_err());
    drop(store);
    base();
    let store = open(dir.path());
    assert_eq!(store.resolve("mail@latest").unwrap(), ids[1]);
    assert_eq!(restore(&store, ids[1]), state(2));
    verify_good(&store);
}

/// The next push took its number, and it was removed as one whose push had failed when it was put back.
#[test]
fn a_damaged_manifest_that_is_put_back_after_the_next_push_counts_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
    drop(store);
    let path = manifest(dir.path(), ids[1]);
    let good = fs::read(&path).unwrap();
    fs::remove_file(dir.path().join("journal")).unwrap();
    fs::write(&path, b"none").unwrap();
    drop(open(dir.path()));
    let store = open(dir.path());
    let next = push(&store, "mail", &state(3)).snapshot;
    drop(store);
    fs::write(&path, good).unwrap();
    let store = open(dir.path());
    assert_eq!(store.opened().bad, []);
    for (id, number) in ids.into_iter().chain([next]).zip(1..) {
        assert_eq!(restore(&store, id), state(number));
    }
    assert_eq!(store.resolve("mail@latest").unwrap(), next, "what was pushed last is the newest");
    verify_good(&store);
}

/// What a process had not read when it began was looked for at each commit of another one, which failed each time.
#[test]
fn a_lost_manifest_holds_up_nobody_who_has_opened_the_store_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
    push(&store, "web", &state(1));
    drop(store);
    let path = manifest(dir.path(), ids[1]);
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (one, other) = (open(dir.path()), open(dir.path()));
    for number in 4..6 {
        let pushed = [&one, &other].map(|store| push(store, "web", &state(number)).snapshot);
        assert_eq!(restore(&one, pushed[1]), state(number));
        assert_eq!(restore(&other, pushed[0]), state(number));
    }
    fs::write(&path, good).unwrap();
    push(&one, "web", &state(7));
    assert_eq!(restore(&other, ids[1]), state(2), "it has come back");
}

/// A call failed while the database was made anew, and the next one that was made listed everything as dropped.
#[test]
fn a_disk_that_fails_while_the_database_is_made_anew_costs_nothing() {
    for error in [EIO, ENOSPC] {
        let mut calls = 1;
        loop {
            let disk = Simulated::default();
            let store = crate::world::open(&disk).unwrap();
            let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
            drop(store);
            let journal = disk.list_all().into_iter().find(|path| path.ends_with("journal")).unwrap();
            sustain_store::disk::Disk::remove(&disk, &journal).unwrap();
            disk.arm(calls, Fault::Fail(error), calls);
            drop(crate::world::open(&disk));
            let struck = disk.struck();
            disk.disarm();
            for _ in 0..2 {
                let store = crate::world::open(&disk).unwrap();
                for (id, number) in ids.into_iter().zip(1..) {
                    assert_eq!(restore(&store, id), state(number), "error {error} at call {calls}");
                }
            }
            if !struck {
                break;
            }
            calls += 1;
        }
        assert!(calls > 5, "{calls}");
    }
}

/// Nobody can say that what is lost stays lost but who has lost it.
#[test]
fn what_is_lost_for_good_is_let_go_of_on_purpose() {
    for is_damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let ids = [1, 2].map(|number| push(&store, "mail", &state(number)).snapshot);
        push(&store, "web", &state(1));
        drop(store);
        fs::remove_file(dir.path().join("journal")).unwrap();
        let base = manifest(dir.path(), ids[0]);
        let good = fs::read(&base).unwrap();
        if is_damaged {
            fs::write(&base, b"none").unwrap()
        } else {
            fs::remove_file(&base).unwrap()
        }
        let store = open(dir.path());
        assert_eq!(store.resolve("mail@latest").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(restore(&store, store.resolve("web@latest").unwrap()), state(1), "it is not web's");
        assert_eq!(store.forget_lost(true).unwrap(), ids.into());
        assert_eq!(store.forget_lost(false).unwrap(), ids.into());
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.opened().bad, []);
        // Without the journal nobody knows what else is lost: so packs go when they are collected, and not before.
        store.remove_unlisted(false).unwrap();
        assert_eq!(packs_on_disk(dir.path()), 1);
        push(&store, "mail", &state(3));
        assert_eq!(store.snapshots(Some(&service("mail"))).unwrap().len(), 1);
        verify_good(&store);
        drop(store);
        // Once it is forgotten, it is known no more than any other file.
        fs::write(&base, &good).unwrap();
        drop(open(dir.path()));
    }
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let id = push(&store, "mail", &state(1)).snapshot;
    drop(store);
    let good = fs::read(manifest(dir.path(), id)).unwrap();
    fs::remove_file(manifest(dir.path(), id)).unwrap();
    let store = open(dir.path());
    fs::write(manifest(dir.path(), id), good).unwrap();
    assert!(store.forget_lost(false).unwrap().is_empty(), "it is back");
    drop(store);
    assert_eq!(restore(&open(dir.path()), id), state(1));
}
