//! Packs that come group by group, in any order, with interruptions, and not always true.

use std::path::PathBuf;
use std::sync::Arc;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{GroupList, PackId, PackRef, SnapshotId, group_value};
use sustain_store::{ErrorKind, Received, Store};

use crate::common::*;
use crate::replication::{copy_pack, open};
use crate::simulated_disk::{Fault, Simulated};
use crate::world;

const GROUP: usize = GROUP_BYTES as usize;

/// A pack's list, made from its bytes.
pub(crate) fn listed(id: PackId, bytes: &[u8]) -> (PackRef, GroupList) {
    let values =
        bytes.chunks(GROUP).enumerate().map(|(number, group)| group_value((number * GROUP) as u64, group));
    let list = GroupList::check(*id.as_bytes(), bytes.len() as u64, values.collect()).unwrap();
    (PackRef { id, bytes: bytes.len() as u64 }, list)
}

fn bytes_of(store: &Store, id: PackId) -> Vec<u8> {
    let reader = store.read_pack(id).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Another store with a snapshot of 40 groups, and its largest pack.
struct Source {
    _dir: tempfile::TempDir,
    store: Store,
    id: SnapshotId,
    content: Regions,
    pack: PackRef,
    list: GroupList,
    bytes: Vec<u8>,
}

impl Source {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let content = regions(&[("ram", noise(1, 40 * GROUP))]);
        let id = push(&store, "mail", &content).snapshot;
        let pack = store.packs_needed(id).unwrap().into_iter().max_by_key(|pack| pack.bytes).unwrap();
        let bytes = bytes_of(&store, pack.id);
        let (pack, list) = listed(pack.id, &bytes);
        Self { _dir: dir, store, id, content, pack, list, bytes }
    }

    fn group(&self, number: usize) -> &[u8] {
        &self.bytes[number * GROUP..self.bytes.len().min((number + 1) * GROUP)]
    }

    /// Imports the snapshot where the largest pack is, and checks it.
    fn arrives(&self, to: &Store) {
        let manifests = self.store.manifests_for(self.id).unwrap();
        for id in to.packs_lacking(&manifests).unwrap() {
            assert_ne!(id, self.pack.id);
            copy_pack(&self.store, to, id);
        }
        to.import(&manifests).unwrap();
        assert_eq!(restore(to, self.id), self.content);
        verify_good(to);
    }
}

fn incoming(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    files(dir.path()).into_iter().filter(|path| path.starts_with(dir.path().join("incoming"))).collect()
}

#[test]
fn groups_come_in_any_order_from_several_threads() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    let to = open(&dir);
    assert_eq!(source.store.pack_groups(source.pack.id).unwrap().len(), source.list.count());
    let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
    let news = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (receiver, source, news) = (&receiver, &source, &news);
            scope.spawn(move || {
                let count = source.list.count();
                for step in 0..count {
                    let number = (step * 7 + thread * 13) % count;
                    if receiver.write(number, source.group(number)).unwrap() == Received::New {
                        news.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(news.into_inner(), source.list.count(), "each counts once");
    assert!(receiver.is_whole());
    to.keep_received(&[receiver]).unwrap();
    source.arrives(&to);
    assert_eq!(incoming(&dir), Vec::<PathBuf>::new());
}

#[test]
fn what_came_is_there_after_the_end_of_the_process_but_for_what_was_damaged() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    let to = open(&dir);
    let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
    for number in [0, 1, 5, 20] {
        assert_eq!(receiver.write(number, source.group(number)).unwrap(), Received::New);
    }
    drop((receiver, to));
    let [path] = incoming(&dir).try_into().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5 * GROUP + 77] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let to = open(&dir);
    let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
    let here: Vec<usize> =
        receiver.here().into_iter().enumerate().filter(|(_, here)| *here).map(|(n, _)| n).collect();
    assert_eq!(here, [0, 1, 20]);
    for number in 0..source.list.count() {
        let expected = if here.contains(&number) { Received::Known } else { Received::New };
        assert_eq!(receiver.write(number, source.group(number)).unwrap(), expected);
    }
    to.keep_received(&[receiver]).unwrap();
    source.arrives(&to);
}

#[test]
fn wrong_groups_are_not_written_and_what_is_not_whole_is_not_kept() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    let to = open(&dir);
    let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
    assert_eq!(receiver.write(1, source.group(0)).unwrap(), Received::Wrong);
    assert_eq!(receiver.write(0, &source.group(0)[1..]).unwrap(), Received::Wrong);
    assert_eq!(receiver.write(source.list.count(), &[]).unwrap(), Received::Wrong);
    assert!(receiver.here().iter().all(|here| !here));
    assert_eq!(to.keep_received(&[receiver]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!to.has_pack(&source.pack.id));
    let large = PackRef { bytes: source.pack.bytes + 1, ..source.pack };
    assert!(to.receive_groups(large, source.list).is_err(), "the list is not that of so many bytes");
}

#[test]
fn two_processes_may_receive_the_same_pack() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    let stores = [open(&dir), open(&dir)];
    let receive = |store: &Store| store.receive_groups(source.pack, source.list.clone()).unwrap();
    let receivers = [receive(&stores[0]), receive(&stores[0]), receive(&stores[1])];
    assert!(Arc::ptr_eq(&receivers[0], &receivers[1]), "in one process there is one");
    assert_eq!(incoming(&dir).len(), 1, "the other process has a file of its own");
    for (number, receiver) in receivers.into_iter().enumerate() {
        (0..source.list.count())
            .for_each(|n| assert_ne!(receiver.write(n, source.group(n)).unwrap(), Received::Wrong));
        stores[number / 2].keep_received(&[receiver]).unwrap();
    }
    source.arrives(&stores[0]);
    assert_eq!(incoming(&dir), Vec::<PathBuf>::new());
}

#[test]
fn what_nobody_receives_any_more_goes() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    let to = open(&dir);
    let begin = |to: &Store| to.receive_groups(source.pack, source.list.clone()).unwrap();
    let receiver = begin(&to);
    receiver.write(3, source.group(3)).unwrap();
    to.remove_incoming();
    assert_eq!(incoming(&dir).len(), 1, "it is being received");
    drop(receiver);
    to.remove_unlisted(true).unwrap();
    assert_eq!(incoming(&dir).len(), 1, "it was not meant");
    to.remove_unlisted(false).unwrap();
    assert_eq!(incoming(&dir), Vec::<PathBuf>::new());
    // The pack comes another way, and this process ends without a word.
    let receiver = begin(&to);
    receiver.write(3, source.group(3)).unwrap();
    copy_pack(&source.store, &to, source.pack.id);
    drop((receiver, to));
    assert_eq!(incoming(&dir).len(), 1);
    let stray = dir.path().join("processes/1-0011223344556677");
    std::fs::write(stray, b"").unwrap();
    assert!(open(&dir).opened().swept >= 1);
    assert_eq!(incoming(&dir), Vec::<PathBuf>::new());
}

#[test]
fn without_the_folder_packs_come_all_the_same() {
    let (source, dir) = (Source::new(), tempfile::tempdir().unwrap());
    drop(open(&dir));
    std::fs::write(dir.path().join("incoming"), b"what?").unwrap();
    let to = open(&dir);
    let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
    for number in 0..source.list.count() {
        assert_eq!(receiver.write(number, source.group(number)).unwrap(), Received::New);
    }
    to.keep_received(&[receiver]).unwrap();
    to.remove_incoming();
    source.arrives(&to);
}

/// After a sync that had failed, the pack was synced again, which said that all is well, and named: a power cut then
/// took it, though it had been acknowledged.
#[test]
fn what_a_failed_sync_has_lost_comes_again() {
    let source = Source::new();
    let mut failed = 0;
    for nth in 1..30 {
        let disk = Simulated::default();
        let to = world::open(&disk).unwrap();
        let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
        (0..source.list.count()).for_each(|group| _ = receiver.write(group, source.group(group)).unwrap());
        disk.arm(nth, Fault::Fail(5), nth);
        let receivers = [receiver];
        let first = to.keep_received(&receivers);
        disk.disarm();
        failed += usize::from(first.is_err());
        let is_here = first.or_else(|_| to.keep_received(&receivers)).is_ok();
        drop((receivers, to));
        disk.cut();
        disk.restart(nth);
        let to = world::open(&disk).unwrap();
        if is_here {
            assert!(bytes_of(&to, source.pack.id) == source.bytes, "a failure at call {nth}");
        }
        // Or what is there counts for nothing, and it comes.
        let receiver = to.receive_groups(source.pack, source.list.clone()).unwrap();
        (0..source.list.count()).for_each(|group| _ = receiver.write(group, source.group(group)).unwrap());
        to.keep_received(&[receiver]).unwrap();
    }
    assert!(failed > 3);
}
