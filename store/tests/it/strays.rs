//! What does not belong into a store's folder, or is not what it should be there: named, passed over, put right where
//! that is safe.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sustain_store::{ErrorKind, NoProgress, Store, StoreOptions};

use crate::common::*;
use crate::keeping::state;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

/// They could not be removed as files, and no command went on.
#[test]
fn folders_in_the_folders_of_temporary_files_are_swept_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let id = push(&store, "mail", &state(1)).snapshot;
    drop(store);
    let nested = dir.path().join("tmp/1-0011223344556677/one/two");
    fs::create_dir_all(&nested).unwrap();
    fs::write(nested.join("file"), b"half").unwrap();
    symlink("loop", dir.path().join("tmp/loop")).unwrap();
    symlink("loop", dir.path().join("processes/loop")).unwrap();
    let store = open(dir.path());
    assert_eq!(restore(&store, id), state(1));
    assert!(!dir.path().join("tmp/1-0011223344556677").exists());
    push(&store, "mail", &state(2));
    verify_good(&store);
}

/// Nothing could be opened, since what is set aside could not be listed.
#[test]
fn a_file_in_place_of_a_folder_that_may_be_missing_is_named_and_passed_over() {
    for name in ["aside", "pins"] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let id = push(&store, "mail", &state(1)).snapshot;
        drop(store);
        let stray = dir.path().join(name);
        fs::write(&stray, b"what?").unwrap();
        let store = open(dir.path());
        assert_eq!(restore(&store, id), state(1));
        push(&store, "mail", &state(2));
        let bad = store.verify(&NoProgress).unwrap().bad;
        assert!(
            bad.iter().any(|bad| bad.path == stray && bad.reason.contains("no folder")),
            "{name}: {bad:?}"
        );
        assert_eq!(store.rebase(&service("mail"), None).is_ok(), name == "aside", "pins may forbid it");
        assert!(stray.exists());
        drop(store);
        fs::remove_file(&stray).unwrap();
        verify_good(&open(dir.path()));
    }
    for name in ["packs", "manifests", "tmp", "processes", "keys"] {
        let dir = tempfile::tempdir().unwrap();
        drop(create(dir.path()));
        let stray = dir.path().join(name);
        let _ = fs::remove_dir(&stray);
        fs::write(&stray, b"what?").unwrap();
        let error = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(name), "{name}: {error:?}");
    }
}

/// A restore called it a failing disk, and verifying ended there.
#[test]
fn a_loop_of_links_in_place_of_a_file_is_damage_to_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let [mail, web] = ["mail", "web"].map(|name| push(&store, name, &state(1)));
    drop(store);
    let id = mail.packs[0].id.to_string();
    let pack = dir.path().join("packs").join(&id[..2]).join(format!("{id}.pack"));
    let good = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    symlink(pack.file_name().unwrap(), &pack).unwrap();
    let store = open(dir.path());
    assert_eq!(try_restore(&store, mail.snapshot).unwrap_err().kind(), ErrorKind::Corrupt);
    let bad = store.verify(&NoProgress).unwrap().bad;
    assert!(bad.len() == 1 && bad[0].path == pack, "{bad:?}");
    assert_eq!(restore(&store, web.snapshot), state(1));
    push(&store, "mail", &state(2));
    drop(store);
    let _ = fs::remove_file(&pack);
    fs::write(&pack, &good).unwrap();
    let store = open(dir.path());
    assert_eq!(restore(&store, mail.snapshot), state(1));
    verify_good(&store);
    drop(store);
    // The same of a key, a manifest and the journal.
    let manifest = dir.path().join("manifests").join(format!("{}.manifest", mail.snapshot));
    for path in [dir.path().join("keys/mail"), manifest] {
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(path.file_name().unwrap(), &path).unwrap();
        let store = open(dir.path());
        assert_eq!(restore(&store, web.snapshot), state(1));
        assert!(
            store.verify(&NoProgress).unwrap().bad.iter().any(|bad| bad.path == path),
            "{}",
            path.display()
        );
        drop(store);
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    fs::remove_file(dir.path().join("journal")).unwrap();
    symlink("journal", dir.path().join("journal")).unwrap();
    let error = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("journal"), "{error:?}");
}

/// A caller asked other nodes for what nothing needs.
#[test]
fn a_pack_that_no_snapshot_lists_is_not_lacking() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let dropped = push(&store, "mail", &state(1)).packs[0];
    push(&store, "mail", &regions(&[("ram", noise(5, 900_000)), ("device", noise(1, 9))]));
    assert!(!store.set_aside_if_damaged(dropped.id).unwrap(), "it is here and good");
    store.rebase(&service("mail"), None).unwrap();
    assert!(!store.has_pack(&dropped.id));
    assert!(!store.set_aside_if_damaged(dropped.id).unwrap());
}

/// What a push had to leave behind beside a damaged manifest counted as received from then on: nodes keep that.
#[test]
fn what_was_dropped_before_an_opening_with_bad_files_goes_when_they_are_good_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let id = push(&store, "mail", &state(1)).snapshot;
    drop(store);
    let manifest = dir.path().join("manifests").join(format!("{id}.manifest"));
    let good = fs::read(&manifest).unwrap();
    let stray = dir.path().join("packs/ab").join(format!("{}.pack", "ab".repeat(32)));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, noise(1, 900)).unwrap();
    fs::write(&manifest, b"none").unwrap();
    for _ in 0..2 {
        drop(open(dir.path()));
        assert!(stray.exists(), "it may be what the manifest lists");
    }
    fs::write(&manifest, good).unwrap();
    let store = open(dir.path());
    assert!(!stray.exists());
    assert_eq!(restore(&store, id), state(1));
    verify_good(&store);
}
