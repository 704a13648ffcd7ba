//! From one store to another: manifests, packs, import; and everything that may be wrong with them.

use sustain_proto::{Manifest, PackId, SnapshotId};
use sustain_store::{DirectoryTarget, ErrorKind, ImportError, KeySource, NoProgress, Store, StoreOptions};

use crate::common::*;

pub(crate) fn open(dir: &tempfile::TempDir) -> Store {
    let options = StoreOptions { key: KeySource::Given([3; 32]), create: true, ..StoreOptions::default() };
    Store::open(dir.path(), options).unwrap()
}

pub(crate) fn copy_pack(from: &Store, to: &Store, id: PackId) {
    let reader = from.read_pack(id).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    let mut receiver = to.receive_pack(id, reader.len()).unwrap();
    for part in bytes.chunks(10_000) {
        receiver.write(part).unwrap();
    }
    assert_eq!(receiver.written(), reader.len());
    receiver.finish().unwrap();
}

pub(crate) fn replicate(from: &Store, to: &Store, id: SnapshotId) -> usize {
    let manifests = from.manifests_for(id).unwrap();
    let lacking = to.packs_lacking(&manifests).unwrap();
    for id in &lacking {
        copy_pack(from, to, *id);
    }
    assert_eq!(to.packs_lacking(&manifests).unwrap(), []);
    let imported = to.import(&manifests).unwrap();
    assert!(imported.contains(&id));
    lacking.len()
}

/// A damaged pack counted as one that is here, so that it was never fetched again.
#[test]
fn a_damaged_pack_is_forgotten_and_received_again_under_an_open_reader() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let content = regions(&[("disk0", noise(1, 3 << 20))]);
    let id = push(&from, "mail", &content).snapshot;
    replicate(&from, &to, id);
    let reader = to.open_snapshot(id).unwrap();
    let disk = region("disk0");
    let mut chunk = vec![0; 65_536];
    reader.read_chunk(&disk, 7, &mut chunk).unwrap();
    let pack = reader.chunk_of(&disk, 7).unwrap().0;
    assert!(!to.set_aside_if_damaged(pack.id).unwrap(), "it is sound");

    let path = files(b.path()).into_iter().find(|path| path.to_string_lossy().contains(&pack.id.to_string()));
    let path = path.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&path, &bytes).unwrap();
    // Another chunk: what was read last is still in memory, and sound.
    assert_eq!(reader.read_chunk(&disk, 8, &mut chunk).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(to.set_aside_if_damaged(pack.id).unwrap());
    assert!(to.set_aside_if_damaged(pack.id).unwrap(), "still lacking");
    assert!(to.restore(id, &DirectoryTarget::new(b.path().join("out")), &NoProgress).is_err());
    assert_eq!(replicate(&from, &to, id), 1, "that pack and no other");
    reader.read_chunk(&disk, 7, &mut chunk).unwrap();
    assert!(chunk == content["disk0"][7 * 65_536..8 * 65_536]);
    assert_eq!(restore(&to, id), content);
    verify_good(&to);
}

#[test]
fn a_snapshot_arrives_whole_and_costs_what_changed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let mut content = regions(&[("ram", noise(1, 3 << 20)), ("device", noise(2, 999))]);
    let first = push(&from, "mail", &content);
    content.get_mut("ram").unwrap()[70_000] ^= 1;
    let second = push(&from, "mail", &content);
    assert_eq!(replicate(&from, &to, second.snapshot), 2);
    assert_eq!(restore(&to, second.snapshot), content);
    assert_eq!(restore(&to, first.snapshot), restore(&from, first.snapshot));
    content.get_mut("ram").unwrap()[170_000] ^= 1;
    let third = push(&from, "mail", &content);
    assert_eq!(replicate(&from, &to, third.snapshot), 1);
    // Again: nothing to do, nothing wrong.
    assert_eq!(replicate(&from, &to, third.snapshot), 0);
    assert_eq!(restore(&to, third.snapshot), content);
    assert_eq!(from.packs_needed(third.snapshot).unwrap(), to.packs_needed(third.snapshot).unwrap());
    verify_good(&to);
    // The follower takes over.
    let fourth = push(&to, "mail", &content);
    assert_eq!((fourth.seq, fourth.chunks_new), (4, 0));
}

#[test]
fn received_packs_wait_for_their_manifest_over_a_reopening() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let report = push(&from, "mail", &regions(&[("ram", noise(1, 1 << 20))]));
    let manifests = from.manifests_for(report.snapshot).unwrap();
    copy_pack(&from, &to, report.packs[0].id);
    drop(to);
    let to = open(&b);
    assert!(to.has_pack(&report.packs[0].id));
    assert_eq!(to.packs_lacking(&manifests).unwrap(), []);
    to.import(&manifests).unwrap();
    assert_eq!(restore(&to, report.snapshot), restore(&from, report.snapshot));
}

#[test]
fn a_broken_transfer_leaves_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let report = push(&from, "mail", &regions(&[("ram", noise(1, 1 << 20))]));
    let pack = report.packs[0];
    let mut bytes = vec![0; pack.bytes as usize];
    from.read_pack(pack.id).unwrap().read_at(0, &mut bytes).unwrap();

    let mut short = to.receive_pack(pack.id, pack.bytes).unwrap();
    short.write(&bytes[..1_000]).unwrap();
    assert!(matches!(short.finish(), Err(ImportError::PackDamaged { .. })));
    let mut long = to.receive_pack(pack.id, pack.bytes).unwrap();
    long.write(&bytes).unwrap();
    assert!(matches!(long.write(&[0]), Err(ImportError::PackTooLarge { .. })));
    drop(long);
    let mut flipped = to.receive_pack(pack.id, pack.bytes).unwrap();
    bytes[500] ^= 1;
    flipped.write(&bytes).unwrap();
    assert_eq!(flipped.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(to.receive_pack(pack.id, 1 << 40).is_err());

    assert!(!to.has_pack(&pack.id));
    let manifests = from.manifests_for(report.snapshot).unwrap();
    assert!(matches!(to.import(&manifests), Err(ImportError::PackMissing { id }) if id == pack.id));
    assert_eq!(to.snapshots(None).unwrap(), []);
    assert_eq!(files(&b.path().join("tmp")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn bytes_that_hash_right_but_are_no_pack_are_refused() {
    let b = tempfile::tempdir().unwrap();
    let to = open(&b);
    for bytes in [Vec::new(), vec![0; 40], noise(1, 500), b"SUSP\x01\0\0\0".repeat(30)] {
        let id = PackId::of(&bytes);
        let mut receiver = to.receive_pack(id, bytes.len() as u64).unwrap();
        receiver.write(&bytes).unwrap();
        assert!(matches!(receiver.finish(), Err(ImportError::PackDamaged { .. })));
    }
}

#[test]
fn lying_manifests_are_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let first = push(&from, "mail", &regions(&[("ram", noise(1, 200_000))]));
    let second = push(&from, "mail", &regions(&[("ram", noise(2, 200_000))]));
    let other = push(&from, "web", &regions(&[("ram", noise(3, 200_000))]));
    for id in [first.snapshot, second.snapshot, other.snapshot] {
        for pack in from.packs_needed(id).unwrap() {
            copy_pack(&from, &to, pack.id);
        }
    }
    let base = from.manifests_for(first.snapshot).unwrap().remove(0);
    let web = from.manifests_for(other.snapshot).unwrap().remove(0);
    let delta = from.manifest(second.snapshot).unwrap();

    assert!(matches!(to.import(std::slice::from_ref(&delta.1)), Err(ImportError::BaseUnknown { .. })));
    assert!(matches!(to.packs_lacking(&[noise(1, 99)]), Err(ImportError::Manifest(_))));
    type Lie = fn(&mut Manifest);
    let lies: [(&str, Lie); 6] = [
        ("no packs", |manifest| manifest.packs.clear()),
        ("larger region", |manifest| manifest.regions[0].bytes += 1),
        ("smaller region", |manifest| manifest.regions[0].bytes = 65_536),
        ("other region", |manifest| manifest.regions[0].name = region("disk0")),
        ("other size of a pack", |manifest| manifest.packs[0].bytes += 1),
        ("other contents", |manifest| {
            manifest.content = sustain_proto::ContentHash::from_bytes([1; 32]);
        }),
    ];
    for (what, lie) in lies {
        for original in [&delta.0, &from.manifest(first.snapshot).unwrap().0] {
            let mut manifest = original.clone();
            lie(&mut manifest);
            let (_, encoded) = manifest.encode().unwrap();
            let outcome = to.import(&[base.clone(), encoded]);
            assert!(matches!(outcome, Err(ImportError::Contradiction { .. })), "{what}: {outcome:?}");
        }
    }
    let mut stranger = delta.0.clone();
    stranger.kind = sustain_proto::SnapshotKind::Delta { base: other.snapshot };
    let outcome = to.import(&[web, stranger.encode().unwrap().1]);
    assert!(matches!(outcome, Err(ImportError::WrongBase { .. })), "{outcome:?}");
    let mut nested = delta.0.clone();
    nested.kind = sustain_proto::SnapshotKind::Delta { base: second.snapshot };
    let outcome = to.import(&[base.clone(), delta.1.clone(), nested.encode().unwrap().1]);
    assert!(matches!(outcome, Err(ImportError::WrongBase { .. })), "{outcome:?}");
    assert_eq!(to.snapshots(None).unwrap(), []);
    to.import(&[delta.1, base]).unwrap();
    assert_eq!(to.snapshots(None).unwrap().len(), 2);
    assert_eq!(to.verify(&NoProgress).unwrap().bad, []);
}

#[test]
fn two_receivers_of_one_pack_both_succeed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let report = push(&from, "mail", &regions(&[("ram", noise(1, 2 << 20))]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| copy_pack(&from, &to, report.packs[0].id));
        }
    });
    to.import(&from.manifests_for(report.snapshot).unwrap()).unwrap();
    assert_eq!(restore(&to, report.snapshot), restore(&from, report.snapshot));
}
