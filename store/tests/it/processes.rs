//! Several processes on one store. Each `Store::open` is one: nothing but files is between them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sustain_proto::{PackId, PinName};
use sustain_store::disk::{Disk, RealDisk};
use sustain_store::{ErrorKind, NoProgress, Progress, PushError, Store, StoreOptions};

use crate::common::*;

const CHUNK: usize = 65_536;

/// A state of four chunks that don't compress, of which one is this state's.
fn state(number: u64) -> Regions {
    let mut ram = noise(1, 4 * CHUNK);
    ram[CHUNK..2 * CHUNK].copy_from_slice(&noise(number + 10, CHUNK));
    regions(&[("ram", ram)])
}

/// Two processes, with these states pushed by the first.
fn pair(dir: &Path, states: std::ops::Range<u64>) -> [Store; 2] {
    let one = create(dir);
    for number in states {
        push(&one, "mail", &state(number));
    }
    [one, Store::open(dir, StoreOptions::default()).unwrap()]
}

fn seqs(store: &Store) -> Vec<u64> {
    store.snapshots(None).unwrap().iter().map(|info| info.seq).collect()
}

fn newest(store: &Store) -> Regions {
    restore(store, store.resolve("mail@latest").unwrap())
}

fn packs_on_disk(dir: &Path) -> usize {
    files(&dir.join("packs")).len()
}

#[test]
fn what_one_changes_the_other_sees() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..1);
    assert_eq!(newest(&other), state(0));
    let second = push(&other, "mail", &state(1));
    assert_eq!((second.seq, seqs(&one)), (2, vec![1, 2]));
    assert_eq!(newest(&one), state(1));
    one.mark_durable(second.snapshot, 3).unwrap();
    assert_eq!(other.snapshots(None).unwrap()[1].level, Some(3));
    let name = PinName::new("p").unwrap();
    one.pin(second.snapshot, &name).unwrap();
    assert_eq!(other.pins().unwrap()[0].snapshot, Some(second.snapshot));
    other.unpin(&name).unwrap();
    let rebased = other.rebase(&service("mail"), None).unwrap();
    assert_eq!(one.resolve(&second.snapshot.to_string()).unwrap(), rebased.base);
    assert_eq!((seqs(&one), newest(&one)), (vec![2], state(1)));
    verify_good(&one);
    verify_good(&other);
}

#[test]
fn pushes_at_once_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    // Also the first ones, which make the store's key.
    let one = create(dir.path());
    let other = create(dir.path());
    for round in 0..3 {
        let mut pushes = [begin(&one, "mail").unwrap(), begin(&other, "mail").unwrap()];
        for (number, push) in pushes.iter_mut().enumerate() {
            push.ingest(&region("ram"), &Bytes(&state(2 * round + number as u64)["ram"])).unwrap();
        }
        let committed = pushes.map(|push| push.commit().unwrap());
        assert_eq!(committed.each_ref().map(|report| report.seq), [2 * round + 1, 2 * round + 2]);
        let parents = one.manifest(committed[1].snapshot).unwrap().0.parents;
        assert_eq!(parents, [committed[0].snapshot]);
        for (number, report) in committed.iter().enumerate() {
            assert_eq!(restore(&one, report.snapshot), state(2 * round + number as u64));
        }
    }
    drop((one, other));
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(seqs(&store), [1, 2, 3, 4, 5, 6]);
    verify_good(&store);
}

#[test]
fn a_push_of_changes_is_overtaken_by_another_push() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..1);
    let changes = |push: &mut sustain_store::Push| {
        let (start, end) = (CHUNK as u64, 2 * CHUNK as u64);
        push.ingest_changes(&region("ram"), &Bytes(&state(7)["ram"]), &[start..start + 9, end - 9..end])
    };
    let mut overtaken = begin(&one, "mail").unwrap();
    changes(&mut overtaken).unwrap();
    push(&other, "mail", &state(1));
    let error = overtaken.commit().unwrap_err();
    assert!(matches!(error, PushError::Overtaken { .. }) && error.kind() == ErrorKind::Busy, "{error}");
    assert_eq!(newest(&one), state(1));
    let mut again = begin(&one, "mail").unwrap();
    changes(&mut again).unwrap();
    again.commit().unwrap();
    assert_eq!(newest(&other), state(7));
}

#[test]
fn a_push_whose_generation_ends_is_overtaken_and_nothing_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    let mut overtaken = begin(&one, "mail").unwrap();
    overtaken.ingest(&region("ram"), &Bytes(&state(5)["ram"])).unwrap();
    let prepared = other.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    // As one that was stopped would hold it up for ever.
    prepared.commit(Duration::ZERO).unwrap();
    assert!(matches!(overtaken.commit().unwrap_err(), PushError::Overtaken { .. }));
    assert_eq!((seqs(&one), newest(&one)), (vec![2], state(1)));
    push(&one, "mail", &state(5));
    assert_eq!(newest(&other), state(5));
    drop(other.rebase(&service("mail"), None).unwrap());
    assert_eq!(other.remove_unlisted(true).unwrap().packs, 0);
    verify_good(&one);
}

#[test]
fn a_rebase_waits_for_another_ones_push_and_takes_it_in() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    let mut going_on = begin(&one, "mail").unwrap();
    let prepared = other.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    std::thread::scope(|scope| {
        let rebase = scope.spawn(move || prepared.commit(Duration::from_secs(60)));
        going_on.ingest(&region("ram"), &Bytes(&state(2)["ram"])).unwrap();
        going_on.commit().unwrap();
        assert_eq!(rebase.join().unwrap().unwrap().kept.len(), 2);
    });
    assert_eq!((seqs(&one), newest(&one)), (vec![2, 3], state(2)));
    assert_eq!(restore(&other, other.resolve("mail@-1").unwrap()), state(1));
    verify_good(&other);
}

/// Each look of the rebase found another push, until there were no looks left.
#[test]
fn pushes_that_follow_each_other_do_not_hold_up_a_rebase() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(begin(&one, "mail"));
            }
        });
        let prepared = other.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
        let outcome = prepared.commit(Duration::from_secs(60));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    assert_eq!((seqs(&one), newest(&one)), (vec![2], state(1)));
}

#[test]
fn of_two_rebases_at_once_the_later_one_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    let prepare = |store: &Store| store.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    let (first, second) = (prepare(&one), prepare(&other));
    first.commit(Duration::ZERO).unwrap();
    assert_eq!(second.commit(Duration::ZERO).unwrap_err().kind(), ErrorKind::Busy);
    for store in [&one, &other] {
        assert_eq!((seqs(store), newest(store)), (vec![2], state(1)));
        verify_good(store);
    }
}

#[test]
fn a_rebase_keeps_what_another_process_pins_or_pushes_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..3);
    let prepared = one.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    other.pin(other.resolve("mail@-2").unwrap(), &PinName::new("keep").unwrap()).unwrap();
    push(&other, "mail", &state(3));
    prepared.commit(Duration::ZERO).unwrap();
    assert_eq!(seqs(&other), [1, 3, 4]);
    for (back, number) in [("mail@-2", 0), ("mail@-1", 2), ("mail@latest", 3)] {
        assert_eq!(restore(&other, other.resolve(back).unwrap()), state(number));
    }
    verify_good(&other);
}

#[test]
fn what_one_process_reads_another_does_not_remove_before_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    let reader = one.open_snapshot(one.resolve("mail@-1").unwrap()).unwrap();
    for number in 2..4 {
        let ram = noise(number + 100, 4 * CHUNK);
        push(&other, "mail", &regions(&[("ram", ram)]));
        other.rebase(&service("mail"), None).unwrap();
    }
    assert_eq!((seqs(&one), packs_on_disk(dir.path()) > 1), (vec![4], true));
    let mut chunk = vec![0; CHUNK];
    for position in 0..4 {
        reader.read_chunk(&region("ram"), position as u64, &mut chunk).unwrap();
        assert!(chunk == state(0)["ram"][position * CHUNK..(position + 1) * CHUNK]);
    }
    // One that opens the store now leaves it alone, too.
    let third = Store::open(dir.path(), StoreOptions::default()).unwrap();
    reader.read_chunk(&region("ram"), 1, &mut chunk).unwrap();
    drop(reader);
    assert_eq!(packs_on_disk(dir.path()), 1, "who was the last to need a pack removes it");
    verify_good(&third);
}

/// The rebase of another process, just when a run has decided what it reads.
struct RebasedMeanwhile<'a>(&'a Store);

impl Progress for RebasedMeanwhile<'_> {
    fn total(&self, _: u64) {
        self.0.rebase(&service("mail"), None).unwrap();
    }
    fn advance(&self, _: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn what_a_verification_began_with_stays_until_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..3);
    let before = packs_on_disk(dir.path()) as u64;
    let report = one.verify(&RebasedMeanwhile(&other)).unwrap();
    assert_eq!((report.bad, report.packs), (vec![], before));
    assert_eq!((seqs(&one), newest(&one)), (vec![3], state(2)));
    assert!((packs_on_disk(dir.path()) as u64) < before, "a run's end lets go of what was dropped");
}

#[test]
fn an_opening_spares_what_others_are_writing_and_have_received() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let key = sustain_store::KeySource::Given([4; 32]);
    let open = |path| {
        let options = StoreOptions { create: true, key: key.clone(), ..StoreOptions::default() };
        Store::open(path, options).unwrap()
    };
    let (one, offering) = (open(dir.path()), open(elsewhere.path()));
    let mut going_on = begin(&one, "mail").unwrap();
    going_on.ingest(&region("ram"), &Bytes(&noise(1, 3 << 20))).unwrap();
    let offered = push(&offering, "web", &state(1));
    let pack: PackId = offered.packs[0].id;
    let reader = offering.read_pack(pack).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    let mut receiver = one.receive_pack(pack, reader.len()).unwrap();
    receiver.write(&bytes).unwrap();
    let other = open(dir.path());
    receiver.finish().unwrap();
    assert_eq!(other.remove_unlisted(false).unwrap().packs, 0, "a snapshot may be still to come");
    other.import(&offering.manifests_for(offered.snapshot).unwrap()).unwrap();
    going_on.commit().unwrap();
    assert_eq!(restore(&one, offered.snapshot), state(1));
    verify_good(&other);
}

#[test]
fn a_journal_that_is_lost_while_the_store_is_open_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    std::fs::remove_file(dir.path().join("journal")).unwrap();
    push(&one, "mail", &state(2));
    assert_eq!((seqs(&other), newest(&other)), (vec![1, 2, 3], state(2)));
    std::fs::write(dir.path().join("journal"), noise(3, 5_000)).unwrap();
    let third = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert!(third.opened().rebuilt.is_some());
    push(&other, "mail", &state(3));
    for store in [&one, &other, &third] {
        assert_eq!((seqs(store), newest(store)), (vec![1, 2, 3, 4], state(3)));
    }
    verify_good(&one);
}

#[test]
fn a_journal_that_one_has_tidied_is_read_on_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..1);
    let id = one.resolve("mail@latest").unwrap();
    let before = one.opened().clone();
    let journal = dir.path().join("journal");
    let (mut shrunk, mut last) = (0, 0);
    for level in 0..3_000 {
        one.mark_durable(id, level % 7 + 1).unwrap();
        let bytes = std::fs::metadata(&journal).unwrap().len();
        shrunk += u32::from(bytes < last);
        last = bytes;
    }
    assert!(shrunk > 0 && last < 300_000, "{last}");
    assert_eq!(other.snapshots(None).unwrap()[0].level, Some(2_999 % 7 + 1));
    push(&other, "mail", &state(1));
    assert_eq!((newest(&one), before.bad.len()), (state(1), 0));
}

#[test]
fn who_only_looks_does_not_wait_for_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = pair(dir.path(), 0..2);
    // As a process holds it that was stopped in the middle of a commit.
    let _commit = RealDisk.lock(dir.path()).unwrap();
    for store in [&one, &other] {
        assert_eq!((seqs(store), newest(store)), (vec![1, 2], state(1)));
    }
}

#[test]
fn a_process_that_ends_leaves_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let stores = pair(dir.path(), 0..1);
    assert_eq!(files(&dir.path().join("processes")).len(), 2);
    drop(stores);
    assert_eq!(files(&dir.path().join("processes")), Vec::<std::path::PathBuf>::new());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn two_nodes_do_not_share_a_store_which_counts_as_one_copy() {
    let dir = tempfile::tempdir().unwrap();
    let open = |node| Store::open(dir.path(), StoreOptions { create: true, node, ..StoreOptions::default() });
    let node = open(true).unwrap();
    open(false).unwrap();
    let error = open(true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(node);
    open(true).unwrap();
}
