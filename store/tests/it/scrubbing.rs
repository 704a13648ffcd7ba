//! Scrubbing: damaged packs are set aside, what can be read of them is read, and they come back; samples, rates, and
//! runs that are stopped and go on.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{PackRef, SnapshotId};
use sustain_store::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskStamp, RealDisk};
use sustain_store::{
    Depth, ErrorKind, NoProgress, Progress, Sample, Scope, Store, StoreOptions, VerifyError, VerifyOptions,
};

use crate::common::*;

fn scrub(depth: Depth) -> VerifyOptions {
    VerifyOptions { depth, set_aside: true, ..VerifyOptions::default() }
}

fn aside(dir: &Path) -> Vec<PathBuf> {
    if dir.join("aside").exists() { files(&dir.join("aside")) } else { Vec::new() }
}

fn receive(store: &Store, pack: PackRef, bytes: &[u8]) {
    let mut receiver = store.receive_pack(pack.id, bytes.len() as u64).unwrap();
    receiver.write(bytes).unwrap();
    receiver.finish().unwrap();
}

/// Which chunks of a region can be read; all that can must be right.
fn readable(store: &Store, id: SnapshotId, content: &[u8]) -> Vec<bool> {
    let reader = store.open_snapshot(id).unwrap();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read = |(position, expected): (usize, &[u8])| match reader.read_chunk(
        &region("ram"),
        position as u64,
        &mut chunk,
    ) {
        Ok(_) => {
            assert!(chunk == expected, "chunk {position} is wrong");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            false
        }
    };
    content.chunks(CHUNK_BYTES).enumerate().map(&mut read).collect()
}

/// What was damaged in one place was lost as a whole, or counted as good.
#[test]
fn a_damaged_pack_is_set_aside_read_as_far_as_it_can_be_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = regions(&[("ram", noise(1, 32 * CHUNK_BYTES))]);
    let base = push(&store, "mail", &content);
    let whole = content.clone();
    content.get_mut("ram").unwrap()[5] ^= 1;
    let delta = push(&store, "mail", &content);
    let other = push(&store, "other", &regions(&[("ram", noise(9, 100_000))]));
    let pack = base.packs[0];
    let path = pack_file(dir.path(), pack.id);
    let good = fs::read(&path).unwrap();
    flip(&path, good.len() / 2);
    let in_place = readable(&store, base.snapshot, &whole["ram"]);
    assert!(in_place.contains(&false) && in_place.iter().filter(|read| **read).count() >= 24, "{in_place:?}");

    for depth in [Depth::Packs, Depth::Contents] {
        let report =
            store.verify_with(&VerifyOptions { depth, ..VerifyOptions::default() }, &NoProgress).unwrap();
        assert_eq!(report.bad.iter().map(|bad| &bad.path).collect::<Vec<_>>(), [&path]);
        assert!(report.set_aside.is_empty() && path.exists(), "it was asked to change nothing");
    }
    let report = store.verify_with(&scrub(Depth::Packs), &NoProgress).unwrap();
    let moved = dir.path().join("aside").join(path.file_name().unwrap());
    assert_eq!(report.bad.iter().map(|bad| &bad.path).collect::<Vec<_>>(), [&moved], "where it is now");
    assert_eq!(report.set_aside, [pack.id]);
    let damaged: BTreeSet<_> = report.damaged.iter().map(|damaged| damaged.id).collect();
    assert_eq!(damaged, BTreeSet::from([base.snapshot, delta.snapshot]));
    assert_eq!(aside(dir.path()).len(), 2, "the pack, and why");

    // It is neither offered nor counted on, and its place is told.
    let check = |store: &Store| {
        assert!(!store.has_pack(&pack.id) && store.read_pack(pack.id).is_err());
        let bad = store.bad_packs();
        assert_eq!((bad.len(), bad[0].id, bad[0].set_aside), (1, pack.id, true));
        assert!(bad[0].reason.contains("hash"), "{}", bad[0].reason);
        assert_eq!(bad[0].snapshots.iter().copied().collect::<BTreeSet<_>>(), damaged);
        let known = store.snapshots_known(&service("mail"));
        assert_eq!(known.iter().map(|(_, whole)| *whole).collect::<Vec<_>>(), [false, false]);
        assert_eq!(store.snapshots(None).unwrap().len(), 1);
        assert_eq!(readable(store, base.snapshot, &whole["ram"]), in_place);
        assert_eq!(restore(store, other.snapshot)["ram"], noise(9, 100_000));
        let report = store.verify_with(&scrub(Depth::Contents), &NoProgress).unwrap();
        assert_eq!(report.bad.iter().map(|bad| &bad.path).collect::<Vec<_>>(), [&moved]);
        assert!(report.set_aside.is_empty(), "it is aside already");
    };
    check(&store);
    drop(store);
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(store.opened().bad[0].reason.contains("set aside"), "{:?}", store.opened());
    check(&store);

    receive(&store, pack, &good);
    assert_eq!((store.bad_packs(), aside(dir.path())), (vec![], vec![]));
    assert_eq!(restore(&store, base.snapshot), whole);
    assert_eq!(restore(&store, delta.snapshot), content);
    verify_good(&store);
    drop(store);
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.opened(), &sustain_store::OpenReport::default());
}

#[test]
fn a_push_stores_again_what_a_damaged_pack_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", memory_like(1, 8 * CHUNK_BYTES))]);
    let first = push(&store, "mail", &content);
    flip(&pack_file(dir.path(), first.packs[0].id), 5_000);
    store.verify_with(&scrub(Depth::Packs), &NoProgress).unwrap();
    let second = push(&store, "mail", &content);
    assert_eq!(restore(&store, second.snapshot), content);
    // What is stored is the same, so the first snapshot is whole again too.
    assert_eq!(second.packs, first.packs);
    assert_eq!(restore(&store, first.snapshot), content);
    assert_eq!((store.bad_packs(), aside(dir.path())), (vec![], vec![]));
    verify_good(&store);
}

#[test]
fn what_is_set_aside_goes_when_nothing_lists_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = regions(&[("ram", memory_like(1, 8 * CHUNK_BYTES))]);
    push(&store, "mail", &content);
    content.get_mut("ram").unwrap()[..90_000].copy_from_slice(&noise(4, 90_000));
    let lost = push(&store, "mail", &content);
    let pack = lost.packs.iter().find(|pack| !store.packs_needed(lost.snapshot).unwrap()[..1].contains(pack));
    flip(&pack_file(dir.path(), pack.unwrap().id), 50);
    store.verify_with(&scrub(Depth::Packs), &NoProgress).unwrap();
    assert_eq!(aside(dir.path()).len(), 2);
    // A later one continues the one that is whole; when it is the base, what is damaged may still be kept.
    content.get_mut("ram").unwrap()[7] ^= 1;
    let next = push(&store, "mail", &content);
    assert_eq!(restore(&store, next.snapshot), content);
    assert_eq!(aside(dir.path()).len(), 2, "a snapshot needs it still");
    store.rebase(&service("mail"), Some(next.snapshot)).unwrap();
    let listed = store.bad_packs().len();
    assert_eq!(aside(dir.path()).len(), 2 * listed);
    drop(store);
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(aside(dir.path()).len(), 2 * listed);
    assert_eq!(restore(&store, store.resolve("mail@latest").unwrap()), content);
}

/// A disk that can't read a place of one pack, wherever its file is.
#[derive(Debug)]
struct BadSector {
    pack: String,
    place: Range<u64>,
}

#[derive(Debug)]
struct WithSector(Box<dyn DiskFile>, Range<u64>);

impl Disk for BadSector {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<DiskEntry>> {
        RealDisk.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, write)?;
        let is_bad = path.ends_with(&self.pack);
        Ok(if is_bad { Box::new(WithSector(file, self.place.clone())) } else { file })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_folder(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<DiskStamp> {
        RealDisk.stamp(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }

    fn lock_holder(&self, path: &Path) -> Option<u32> {
        RealDisk.lock_holder(path)
    }
}

impl DiskFile for WithSector {
    fn number(&self) -> io::Result<u64> {
        self.0.number()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset < self.1.end && offset + buf.len() as u64 > self.1.start {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_bytes(bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.0.punch(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// A place that the disk can't read any more ended the whole run, and was found again by each.
#[test]
fn a_bad_sector_costs_its_block_and_neither_the_pack_nor_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let content = regions(&[("ram", noise(1, 32 * CHUNK_BYTES))]);
    let store = create(dir.path());
    let base = push(&store, "mail", &content);
    push(&store, "other", &regions(&[("ram", noise(2, 70_000))]));
    drop(store);
    let place = 900_000..904_096;
    let disk = Arc::new(BadSector { pack: format!("{}.pack", base.packs[0].id), place });
    let store = Store::open(dir.path(), StoreOptions { disk, ..StoreOptions::default() }).unwrap();
    let report = store.verify_with(&scrub(Depth::Packs), &NoProgress).unwrap();
    assert_eq!((report.set_aside.as_slice(), report.packs), (&[base.packs[0].id][..], 1), "{report:?}");
    assert!(store.bad_packs()[0].set_aside);
    let reader = store.open_snapshot(base.snapshot).unwrap();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read = |position| reader.read_chunk(&region("ram"), position, &mut chunk).is_ok();
    let good = (0..32).filter(|position| read(*position)).count();
    assert!((24..32).contains(&good), "{good} of 32 chunks can be read");
}

/// Stops after so many bytes.
struct Stop {
    left: AtomicU64,
}

impl Progress for Stop {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, bytes: u64) {
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
    }
    fn cancelled(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// A store with a pack each of some services.
fn many(dir: &Path, count: u64) -> Store {
    let store = create(dir);
    for number in 0..count {
        push(&store, &format!("s{number}"), &regions(&[("ram", noise(number, 70_000))]));
    }
    store
}

#[test]
fn a_run_that_is_stopped_goes_on_where_it_was() {
    for depth in [Depth::Packs, Depth::Contents] {
        let dir = tempfile::tempdir().unwrap();
        let store = many(dir.path(), 9);
        let stopped = store.verify_with(&scrub(depth), &Stop { left: AtomicU64::new(300_000) }).unwrap_err();
        assert!(matches!(stopped, VerifyError::Cancelled));
        assert!(store.scrubbed().began_ms.is_some() && store.scrubbed().full_ms.is_none());
        drop(store);
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let on = VerifyOptions { resume: true, ..scrub(depth) };
        let report = store.verify_with(&on, &NoProgress).unwrap();
        assert!(report.packs_left_out > 0 && report.packs > 0, "{report:?}");
        assert_eq!((report.packs + report.packs_left_out, report.is_good()), (9, true));
        assert!(store.scrubbed().began_ms.is_none() && store.scrubbed().full_ms.is_some());
        // There is nothing to go on with, and without being asked to nothing is left out.
        assert_eq!(store.verify_with(&on, &NoProgress).unwrap().packs, 9);
        assert_eq!(store.verify_with(&scrub(depth), &NoProgress).unwrap().packs, 9);
    }
}

#[test]
fn what_was_noted_may_be_anything() {
    let dir = tempfile::tempdir().unwrap();
    let store = many(dir.path(), 3);
    store.verify_with(&scrub(Depth::Packs), &NoProgress).unwrap();
    let notes = dir.path().join("checked");
    let good = fs::read(&notes).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        fs::write(&notes, &bytes[..good.len() - at % 7]).unwrap();
        let report =
            store.verify_with(&VerifyOptions { resume: true, ..scrub(Depth::Packs) }, &NoProgress).unwrap();
        assert!(report.is_good() && report.packs + report.packs_left_out == 3, "byte {at}: {report:?}");
    }
}

#[test]
fn repeated_samples_find_what_is_damaged_whatever_the_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = many(dir.path(), 10);
    let bad = store.packs_needed(store.resolve("s7@latest").unwrap()).unwrap()[0].id;
    flip(&pack_file(dir.path(), bad), 60_000);
    let mut found = Vec::new();
    for seed in 0..10 {
        let options = VerifyOptions { seed, ..scrub(Depth::Sample(Sample::TenThousandths(2_000))) };
        let report = store.verify_with(&options, &NoProgress).unwrap();
        assert!(report.packs <= 2 && report.packs_left_out >= 7, "{report:?}");
        found.extend(report.set_aside);
    }
    assert_eq!(found, [bad]);
    assert!(store.scrubbed().full_ms.is_none(), "samples are no full pass");
}

#[test]
fn a_scope_is_what_its_snapshots_need() {
    let dir = tempfile::tempdir().unwrap();
    let store = many(dir.path(), 3);
    let id = |name: &str| store.resolve(&format!("{name}@latest")).unwrap();
    flip(&pack_file(dir.path(), store.packs_needed(id("s1")).unwrap()[0].id), 60_000);
    let check = |scope| store.verify_with(&VerifyOptions { scope, ..VerifyOptions::default() }, &NoProgress);
    for (scope, good) in [
        (Scope::Service(service("s0")), true),
        (Scope::Service(service("s1")), false),
        (Scope::Snapshot(id("s1")), false),
        (Scope::Snapshot(id("s2")), true),
        (Scope::Everything, false),
    ] {
        let packs = if scope == Scope::Everything { 3 } else { 1 };
        let report = check(scope.clone()).unwrap();
        assert_eq!(report.is_good(), good, "{scope:?}");
        assert_eq!(report.packs + report.bad.len() as u64, packs, "{scope:?}");
    }
    let refused = check(Scope::Service(service("nobody"))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

#[test]
fn a_rate_is_kept_and_a_stop_does_not_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = many(dir.path(), 4);
    let bytes: u64 = store.packs_bytes();
    let options = VerifyOptions { rate_bytes: Some(bytes * 2 / 3), ..scrub(Depth::Packs) };
    let started = Instant::now();
    assert_eq!(store.verify_with(&options, &NoProgress).unwrap().bytes, bytes);
    // A second of the rate is free.
    assert!(started.elapsed() >= Duration::from_millis(499), "{:?}", started.elapsed());
    let options = VerifyOptions { rate_bytes: Some(1), ..scrub(Depth::Packs) };
    let stopped = store.verify_with(&options, &Stop { left: AtomicU64::new(1) }).unwrap_err();
    assert!(matches!(stopped, VerifyError::Cancelled));
}
