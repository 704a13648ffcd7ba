//! Files of keys that are damaged, exchanged or put back: one service's trouble is no other's, and nothing is sealed
//! under a wrong key.

use std::fs;
use std::path::Path;

use sustain_store::{ErrorKind, NoProgress, Store, StoreOptions};

use crate::common::*;
use crate::keeping::state;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

fn bad_paths(store: &Store) -> Vec<std::path::PathBuf> {
    store.verify(&NoProgress).unwrap().bad.into_iter().map(|bad| bad.path).collect()
}

/// No command could open the store.
#[test]
fn a_damaged_key_stops_its_own_service_only_until_it_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let [mail, _] = ["mail", "web"].map(|name| push(&store, name, &state(1)).snapshot);
    drop(store);
    let path = dir.path().join("keys/mail");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[40] ^= 1;
    for damage in [bad, Vec::new(), good[..50].to_vec()] {
        fs::write(&path, &damage).unwrap();
        let store = open(dir.path());
        assert_eq!(restore(&store, store.resolve("web@latest").unwrap()), state(1));
        push(&store, "web", &state(2));
        store.rebase(&service("web"), None).unwrap();
        let web = store.resolve("web@latest").unwrap();
        assert_eq!(restore(&store, web), state(2));
        push(&store, "web", &state(1));
        store.rebase(&service("web"), None).unwrap();
        let failures = [
            try_restore(&store, mail).map(drop).map_err(|error| (error.kind(), error.to_string())),
            try_push(&store, "mail", &state(2)).map(drop).map_err(|error| (error.kind(), error.to_string())),
            store.change_key(&service("mail")).map(drop).map_err(|error| (error.kind(), error.to_string())),
        ];
        for failure in failures {
            let (kind, said) = failure.unwrap_err();
            assert!(kind == ErrorKind::Corrupt && said.contains("keys/mail"), "{said}");
        }
        assert_eq!(bad_paths(&store), [path.as_path()]);
        assert_eq!(fs::read(&path).unwrap(), damage, "it is not written over");
        fs::write(&path, &good).unwrap();
        assert_eq!(restore(&store, mail), state(1), "it is read as soon as it is here again");
    }
}

/// Both were read by their ids, and a rebase took the other's key for a new one.
#[test]
fn exchanged_keys_are_refused_by_what_would_seal_under_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    for name in ["a", "b"] {
        for number in 0..2 {
            push(&store, name, &state(number));
        }
    }
    drop(store);
    let paths = ["a", "b"].map(|name| dir.path().join("keys").join(name));
    let [a, b] = paths.each_ref().map(|path| fs::read(path).unwrap());
    fs::write(&paths[0], &b).unwrap();
    fs::write(&paths[1], &a).unwrap();
    let store = open(dir.path());
    for name in ["a", "b"] {
        let error = store.rebase(&service(name), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&format!("keys/{name}")), "{error}");
        assert!(store.change_key(&service(name)).is_err());
    }
    assert_eq!(bad_paths(&store), paths);
    assert_eq!(store.snapshots(None).unwrap().len(), 4);
    fs::write(&paths[0], &a).unwrap();
    fs::write(&paths[1], &b).unwrap();
    for name in ["a", "b"] {
        store.rebase(&service(name), None).unwrap();
    }
    verify_good(&store);
}

/// A folder with nothing but the key that somebody had put back was no store, and none could be made there.
#[test]
fn a_key_that_is_put_back_first_is_the_new_stores_key() {
    let [before, after] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = create(before.path());
    push(&store, "mail", &state(1));
    fs::create_dir(after.path().join("keys")).unwrap();
    fs::copy(before.path().join("keys/mail"), after.path().join("keys/mail")).unwrap();
    let error = Store::open(after.path(), StoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let again = create(after.path());
    push(&again, "mail", &state(1));
    assert_eq!(again.secrets(&service("mail")).unwrap(), store.secrets(&service("mail")).unwrap());
    let key = |store: &Store| store.manifest(store.resolve("mail@latest").unwrap()).unwrap().0.key;
    assert_eq!(key(&again), key(&store));
}
