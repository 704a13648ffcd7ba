//! Files in, files out: identical, whatever their size, and cheap where nothing changed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use sustain_proto::SnapshotId;
use sustain_store::{
    DirectoryTarget, ErrorKind, FileSource, KeySource, NoProgress, Progress, PushError, RestoreError, Store,
    StoreOptions,
};

use crate::common::*;

const CHUNK: usize = 65_536;

#[test]
fn sizes_around_the_grid_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    for (seed, bytes) in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 17].into_iter().enumerate() {
        let name = format!("s{bytes}");
        for content in [noise(seed as u64, bytes), vec![0; bytes], memory_like(seed as u64, bytes)] {
            let content = regions(&[("ram", content), ("device", vec![1; 3])]);
            let report = push(&store, &name, &content);
            assert_eq!(restore(&store, report.snapshot), content);
        }
    }
    verify_good(&store);
}

#[test]
fn unchanged_data_stores_no_chunk_and_soon_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", memory_like(1, 40 * CHUNK + 5))]);
    let first = push(&store, "mail", &content);
    assert_eq!((first.base, first.seq, first.chunks_changed, first.chunks_new), (None, 1, 41, 41));
    let second = push(&store, "mail", &content);
    assert_eq!(second.base, Some(first.snapshot));
    assert_eq!((second.seq, second.chunks_changed, second.chunks_new), (2, 0, 0));
    assert!(second.bytes_new < 300, "{} bytes for an empty index", second.bytes_new);
    let third = push(&store, "mail", &content);
    assert_eq!((third.chunks_new, third.bytes_new, third.packs), (0, 0, second.packs));
    assert_eq!(restore(&store, third.snapshot), content);
}

#[test]
fn changed_pages_cost_no_more_than_their_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = regions(&[("ram", noise(1, 100 * CHUNK))]);
    let first = push(&store, "mail", &content);
    let ram = content.get_mut("ram").unwrap();
    for position in [3, 50, 99] {
        ram[position * CHUNK + 4_096..][..4_096].copy_from_slice(&noise(position as u64 + 7, 4_096));
    }
    let second = push(&store, "mail", &content);
    assert_eq!((second.chunks_changed, second.chunks_new), (3, 3));
    assert!(second.bytes_new <= 3 * CHUNK as u64 + 1_000, "{}", second.bytes_new);
    // What goes back to the base's contents, or to an earlier delta's, is not stored again.
    let changed = content.clone();
    content.insert("ram".into(), noise(1, 100 * CHUNK));
    let third = push(&store, "mail", &content);
    assert_eq!((third.chunks_changed, third.chunks_new), (3, 0));
    let fourth = push(&store, "mail", &changed);
    assert_eq!((fourth.chunks_changed, fourth.chunks_new, fourth.bytes_new), (3, 0, 0));
    for (report, expected) in [(first, &content), (second, &changed), (third, &content), (fourth, &changed)] {
        assert_eq!(&restore(&store, report.snapshot), expected);
    }
    verify_good(&store);
}

#[test]
fn regions_grow_shrink_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let whole = noise(4, 6 * CHUNK);
    let mut history = Vec::new();
    for bytes in [3 * CHUNK + 100, 3 * CHUNK + 200, 6 * CHUNK, 100, 0, 2 * CHUNK, 3 * CHUNK + 100] {
        let mut content = regions(&[("ram", whole[..bytes].to_vec())]);
        if bytes % 200 == 100 {
            content.insert("disk0".into(), noise(bytes as u64, 70_000));
        }
        history.push((push(&store, "mail", &content).snapshot, content));
        // Grown by zeros: the last chunk's bytes differ only by their number.
        let mut content = regions(&[("ram", whole[..bytes].to_vec())]);
        content.get_mut("ram").unwrap().resize(bytes + CHUNK / 2, 0);
        history.push((push(&store, "mail", &content).snapshot, content));
    }
    for (id, content) in &history {
        assert_eq!(&restore(&store, *id), content);
    }
    verify_good(&store);
}

#[test]
fn a_sparse_gibibyte_stays_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("store"));
    let path = dir.path().join("ram");
    let file = File::create_new(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let tail = noise(9, 70_000);
    file.write_all_at(&tail, (1 << 30) - 70_000).unwrap();
    file.write_all_at(b"middle", 500_000_000).unwrap();
    let mut push = begin(&store, "mail").unwrap();
    push.ingest(&region("ram"), &FileSource::open(&path).unwrap()).unwrap();
    let report = push.commit().unwrap();
    assert_eq!((report.bytes_in, report.chunks_new), (1 << 30, 3));
    let out = dir.path().join("out");
    let restored = store.restore(report.snapshot, &DirectoryTarget::new(&out), &NoProgress).unwrap();
    assert_eq!((restored.bytes_out, restored.chunks), (1 << 30, 3));
    let file = File::open(out.join("ram")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let mut read = vec![0; 70_000];
    file.read_exact_at(&mut read, (1 << 30) - 70_000).unwrap();
    assert_eq!(read, tail);
    file.read_exact_at(&mut read[..8], 499_999_999).unwrap();
    assert_eq!(&read[..8], b"\0middle\0");
}

#[test]
fn several_packs_and_all_cores() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", noise(1, 40 << 20))]);
    let report = push(&store, "mail", &content);
    assert_eq!(report.packs.len(), 3);
    assert_eq!(restore(&store, report.snapshot), content);
}

#[test]
fn repeated_chunks_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", noise(1, CHUNK).repeat(64))]);
    let report = push(&store, "mail", &content);
    assert_eq!((report.chunks_changed, report.chunks_new), (64, 1));
    assert_eq!(restore(&store, report.snapshot), content);
}

#[test]
fn a_dropped_push_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut abandoned = begin(&store, "mail").unwrap();
    abandoned.ingest(&region("ram"), &Bytes(&noise(1, 20 << 20))).unwrap();
    assert!(matches!(begin(&store, "mail"), Err(PushError::Busy { .. })));
    drop(abandoned);
    assert_eq!(store.snapshots(None).unwrap(), []);
    drop(begin(&store, "mail").unwrap());
    drop(store);
    let left = files(dir.path());
    let names: Vec<_> = left.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["journal", "mail", "reserve"]);
}

#[test]
fn a_source_that_fails_breaks_the_push() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    struct Short;
    impl sustain_store::RegionSource for Short {
        fn bytes(&self) -> u64 {
            1 << 20
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            buf.fill(1);
            if offset < 500_000 { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
        }
    }
    let mut push = begin(&store, "mail").unwrap();
    let error = push.ingest(&region("ram"), &Short).unwrap_err();
    assert!(matches!(error, PushError::Source { .. }), "{error:?}");
    assert!(matches!(push.commit(), Err(PushError::Broken)));
    assert_eq!(store.snapshots(None).unwrap(), []);
}

#[test]
fn a_cancelled_restore_leaves_no_file() {
    struct Stop;
    impl Progress for Stop {
        fn total(&self, _bytes: u64) {}
        fn advance(&self, _bytes: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("store"));
    let report = push(&store, "mail", &regions(&[("ram", noise(1, 100_000))]));
    let out = dir.path().join("out");
    let outcome = store.restore(report.snapshot, &DirectoryTarget::new(&out), &Stop);
    assert!(matches!(outcome, Err(RestoreError::Cancelled)));
    assert_eq!(files(&out), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_store_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let missing = Store::open(&path, StoreOptions::default()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let store = create(&path);
    let content = regions(&[("ram", noise(1, 100_000))]);
    let first = push(&store, "mail", &content);
    store.mark_durable(first.snapshot, 2).unwrap();
    drop(store);
    let store = Store::open(&path, StoreOptions::default()).unwrap();
    assert_eq!(store.opened(), &sustain_store::OpenReport::default());
    let list = store.snapshots(None).unwrap();
    assert_eq!((list.len(), list[0].durable, list[0].level), (1, true, Some(2)));
    assert_eq!(restore(&store, first.snapshot), content);
    assert_eq!(push(&store, "mail", &content).chunks_new, 0);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter"), "dear").unwrap();
    let options = StoreOptions { create: true, ..StoreOptions::default() };
    assert_eq!(Store::open(dir.path(), options).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn the_key_is_private_and_no_other_opens() {
    let dir = tempfile::tempdir().unwrap();
    let own = create(&dir.path().join("own"));
    assert!(!dir.path().join("own/keys").exists());
    push(&own, "mail", &regions(&[("ram", vec![1; 9])]));
    drop(own);
    let mode = std::fs::metadata(dir.path().join("own/keys/mail")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let path = dir.path().join("given");
    let open = |key| Store::open(&path, StoreOptions { key, create: true, ..StoreOptions::default() });
    let store = open(KeySource::Given([1; 32])).unwrap();
    push(&store, "mail", &regions(&[("ram", vec![1; 9])]));
    drop(store);
    let text = std::fs::read_to_string(path.join("key")).unwrap();
    assert!(!text.contains("0101010101"), "the cluster's key stays with the cluster");
    assert_eq!(open(KeySource::Own).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(open(KeySource::Given([2; 32])).unwrap_err().kind(), ErrorKind::Key);
    // Without the file, the manifests tell.
    std::fs::remove_file(path.join("key")).unwrap();
    assert_eq!(open(KeySource::Given([2; 32])).unwrap_err().kind(), ErrorKind::Key);
    open(KeySource::Given([1; 32])).unwrap();
}

#[test]
fn selectors_name_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids: Vec<SnapshotId> =
        (0..3).map(|seed| push(&store, "mail", &regions(&[("ram", noise(seed, 100))])).snapshot).collect();
    push(&store, "web", &regions(&[("ram", noise(5, 100))]));
    assert_eq!(store.resolve("mail@latest").unwrap(), ids[2]);
    assert_eq!(store.resolve("mail@-2").unwrap(), ids[0]);
    assert_eq!(store.resolve(&ids[1].to_string()).unwrap(), ids[1]);
    assert_eq!(store.resolve(&ids[1].short()).unwrap(), ids[1]);
    for (selector, kind) in [
        ("mail@-3", ErrorKind::NotFound),
        ("other@latest", ErrorKind::NotFound),
        ("mail@newest", ErrorKind::Refused),
        ("mail@-", ErrorKind::Refused),
        ("ab", ErrorKind::Refused),
        ("xyz1", ErrorKind::Refused),
        ("000000000000", ErrorKind::NotFound),
    ] {
        assert_eq!(store.resolve(selector).unwrap_err().kind(), kind, "{selector}");
    }
    let list = store.snapshots(Some(&service("mail"))).unwrap();
    assert_eq!(list.iter().map(|info| info.id).collect::<Vec<_>>(), ids);
    assert_eq!(list[2].parents, [ids[1]]);
    assert_eq!(store.services().unwrap(), [service("mail"), service("web")]);
}
