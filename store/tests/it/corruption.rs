//! Flipped, cut and zeroed bytes anywhere: an honest error or the right bytes, never wrong ones, no panic.

use std::fs;
use std::path::Path;

use sustain_proto::SnapshotId;
use sustain_store::{ErrorKind, NoProgress, Store, StoreOptions};

use crate::common::*;
use crate::simulated_disk::Random;

fn build(dir: &Path) -> Vec<(SnapshotId, Regions)> {
    let store = create(dir);
    let mut content = regions(&[("ram", memory_like(1, 12 * 65_536)), ("device", noise(2, 500))]);
    let mut history = Vec::new();
    for step in 0..4_usize {
        content.get_mut("ram").unwrap()[step * 65_536 + 9] ^= 1;
        history.push((push(&store, "mail", &content).snapshot, content.clone()));
    }
    history
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    Cut,
    Zero,
    Grow,
}

fn damage(bytes: &mut Vec<u8>, damage: Damage, random: &mut Random) {
    let at = random.below(bytes.len().max(1) as u64) as usize;
    match damage {
        Damage::Flip => bytes[at] ^= 1 << random.below(8),
        Damage::Cut => bytes.truncate(at),
        Damage::Zero => {
            let end = bytes.len().min(at + 1 + random.below(5_000) as usize);
            bytes[at..end].fill(0);
        }
        Damage::Grow => bytes.extend_from_slice(&noise(at as u64, 100)),
    }
}

/// Every snapshot restores right, or says why not; verify names the file if something is wrong.
fn check(dir: &Path, path: &Path, history: &[(SnapshotId, Regions)], context: &str) {
    let store = match Store::open(dir, StoreOptions::default()) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{context}: {error}");
            return;
        }
    };
    let mut failed = false;
    for (id, content) in history {
        match try_restore(&store, *id) {
            Ok(restored) => assert_eq!(&restored, content, "{context}: wrong bytes"),
            Err(error) => {
                failed = true;
                let lost_key = path.ends_with("keys/mail") && error.kind() == ErrorKind::Key;
                assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) || lost_key,
                    "{context}: {error:?}"
                );
            }
        }
    }
    let report = store.verify(&NoProgress).unwrap();
    // What the reserve holds means nothing.
    let is_index = path.ends_with("journal") || path.ends_with("reserve");
    assert!(!(failed && is_index), "{context}: the database can be made anew");
    // By its name: a pack may have been set aside.
    let named = report.bad.iter().any(|bad| bad.path.file_name() == path.file_name());
    assert!(is_index || named, "{context}: {report:?}");
    assert!(report.bad.iter().all(|bad| !is_index || bad.path != path), "{context}: {report:?}");
}

#[test]
fn damage_anywhere_is_found_and_never_restored() {
    let original = tempfile::tempdir().unwrap();
    let history = build(original.path());
    let mut tried = 0;
    for path in files(original.path()) {
        let relative = path.strip_prefix(original.path()).unwrap();
        let good = fs::read(&path).unwrap();
        // The database has its own places to break: its header, and pages of every kind.
        let rounds = if relative.ends_with("journal") { 40 } else { 5 };
        for round in 0..rounds {
            for kind in [Damage::Flip, Damage::Cut, Damage::Zero, Damage::Grow] {
                let mut random = Random::new(round * 4 + kind as u64 + 1);
                let mut bytes = good.clone();
                damage(&mut bytes, kind, &mut random);
                if bytes == good {
                    continue;
                }
                let dir = tempfile::tempdir().unwrap();
                copy(original.path(), dir.path());
                fs::write(dir.path().join(relative), &bytes).unwrap();
                let context = format!("{kind:?} {round} of {}", relative.display());
                check(dir.path(), &dir.path().join(relative), &history, &context);
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn the_first_pages_of_the_database_may_hold_anything() {
    let original = tempfile::tempdir().unwrap();
    let history = build(original.path());
    let index = original.path().join("journal");
    let good = fs::read(&index).unwrap();
    for at in (0..good.len().min(600)).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let path = dir.path().join("journal");
        fs::write(&path, &bytes).unwrap();
        check(dir.path(), &path, &history, &format!("byte {at}"));
    }
}

#[test]
fn missing_files_are_named_and_the_rest_works() {
    let original = tempfile::tempdir().unwrap();
    let history = build(original.path());
    for path in files(original.path()) {
        let relative = path.strip_prefix(original.path()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let path = dir.path().join(relative);
        fs::remove_file(&path).unwrap();
        check(dir.path(), &path, &history, &format!("without {}", relative.display()));
    }
}

#[test]
fn a_pack_damaged_while_the_store_is_open_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let history = build(dir.path());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let (id, content) = history.last().unwrap();
    assert_eq!(&restore(&store, *id), content);
    for pack in store.packs_needed(*id).unwrap() {
        let path = files(dir.path()).into_iter().find(|p| p.to_str().unwrap().contains(&pack.id.to_string()));
        let path = path.unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[8..40].fill(0x55);
        fs::write(&path, &bytes).unwrap();
        let report = store.verify(&NoProgress).unwrap();
        assert!(report.bad.iter().any(|bad| bad.path == path), "{report:?}");
    }
    assert_eq!(try_restore(&store, *id).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_damaged_pack_received_again_heals() {
    let dir = tempfile::tempdir().unwrap();
    let history = build(dir.path());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let (id, content) = history.last().unwrap();
    let pack = store.packs_needed(*id).unwrap()[0];
    let mut good = vec![0; pack.bytes as usize];
    store.read_pack(pack.id).unwrap().read_at(0, &mut good).unwrap();
    drop(store);
    let path =
        files(dir.path()).into_iter().find(|p| p.to_str().unwrap().contains(&pack.id.to_string())).unwrap();
    fs::write(&path, &good[..1_000]).unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(!store.has_pack(&pack.id));
    assert_eq!(try_restore(&store, *id).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.packs_lacking(&store.manifests_for(*id).unwrap()).unwrap(), [pack.id]);
    let mut receiver = store.receive_pack(pack.id, pack.bytes).unwrap();
    receiver.write(&good).unwrap();
    receiver.finish().unwrap();
    assert_eq!(&restore(&store, *id), content);
    verify_good(&store);
}

/// A state of one service: so many steps on.
fn state(step: usize) -> Regions {
    let mut ram = noise(1, 5 * 65_536 + 77);
    ram[step * 40_000..][..30_000].copy_from_slice(&noise(step as u64 + 10, 30_000));
    regions(&[("ram", ram), ("device", noise(step as u64, 100 + step))])
}

#[test]
fn a_lost_or_older_database_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let first = push(&store, "mail", &state(0)).snapshot;
    drop(store);
    let index = dir.path().join("journal");
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

/// Writes a manifest under the name that its hash gives it.
fn add_manifest(dir: &Path, encoded: &[u8]) -> std::path::PathBuf {
    let path = dir.join("manifests").join(format!("{}.manifest", SnapshotId::of_manifest(encoded)));
    fs::write(&path, encoded).unwrap();
    path
}

#[test]
fn a_manifest_of_a_newer_version_is_named_and_what_it_may_need_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let history = build(dir.path());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let mut newer = store.manifest(history[1].0).unwrap().1;
    drop(store);
    // After the magic number of four bytes.
    newer[4] = 9;
    let path = add_manifest(dir.path(), &newer);
    // A pack that none of the known manifests lists may be listed by that one.
    let pack = files(&dir.path().join("packs")).remove(0);
    let unlisted = dir.path().join("packs/ab").join(format!("{}.pack", "ab".repeat(32)));
    fs::create_dir_all(unlisted.parent().unwrap()).unwrap();
    fs::copy(pack, &unlisted).unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let [bad] = store.opened().bad.as_slice() else { panic!("{:?}", store.opened()) };
    assert!(bad.path == path && bad.reason.contains("version 9"), "{bad:?}");
    for (id, content) in &history {
        assert_eq!(&restore(&store, *id), content);
    }
    assert!(unlisted.exists() && path.exists());
}

#[test]
fn a_manifest_of_the_largest_sizes_costs_neither_memory_nor_time() {
    let dir = tempfile::tempdir().unwrap();
    let history = build(dir.path());
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let honest = store.manifest(history[0].0).unwrap().0;
    drop(store);
    let mut huge = honest.clone();
    huge.regions[0].bytes = sustain_proto::limits::REGION_BYTES_MAX;
    let mut many = honest;
    many.packs = (0..sustain_proto::limits::MANIFEST_PACKS_MAX as u64)
        .map(|number| sustain_proto::PackRef {
            id: sustain_proto::PackId::of(&number.to_le_bytes()),
            bytes: sustain_proto::limits::PACK_BYTES_MAX,
        })
        .collect();
    let absurd = [huge, many].map(|manifest| manifest.encode().unwrap());
    absurd.iter().for_each(|(_, encoded)| _ = add_manifest(dir.path(), encoded));
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    for (id, _) in absurd {
        let error = try_restore(&store, id).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{error:?}");
    }
    for (id, content) in &history {
        assert_eq!(&restore(&store, *id), content);
    }
}
