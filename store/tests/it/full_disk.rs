//! A disk on which nothing fits any more: what is there can be read and let go of, and what needs room says so.

use std::path::Path;
use std::time::Duration;

use sustain_proto::PinName;
use sustain_store::disk::Disk;
use sustain_store::{ErrorKind, KeySource, NoProgress, RebaseOptions, Retention, Store, StoreOptions};

use crate::common::*;
use crate::keeping::state;
use crate::simulated_disk::{Fault, Simulated};
use crate::world::open;

fn full() -> (Simulated, Vec<sustain_proto::SnapshotId>) {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let ids = (0..4).map(|number| push(&store, "mail", &state(number)).snapshot).collect();
    store.pin(store.resolve("mail@-2").unwrap(), &PinName::new("keep").unwrap()).unwrap();
    drop(store);
    disk.arm(1, Fault::Full, 0);
    (disk, ids)
}

/// No command could open the store: a process could not be registered.
#[test]
fn what_a_full_disk_holds_can_be_read_and_the_next_push_works_when_there_is_room() {
    let (disk, ids) = full();
    let store = open(&disk).unwrap();
    for (id, number) in ids.iter().zip(0..) {
        assert_eq!(restore(&store, *id), state(number));
    }
    verify_good(&store);
    assert_eq!(store.pins().unwrap().len(), 1);
    let error = try_push(&store, "mail", &state(9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    store.unpin(&PinName::new("keep").unwrap()).unwrap();
    disk.disarm();
    // In the process that has opened the store, and in the next one.
    let pushed = push(&store, "mail", &state(9));
    assert_eq!(restore(&store, pushed.snapshot), state(9));
    assert!(
        disk.list_all().iter().any(|path| path.parent().is_some_and(|folder| folder.ends_with("processes")))
    );
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(store.pins().unwrap(), []);
    push(&store, "mail", &state(10));
    verify_good(&store);
}

/// What is removed leaves room, whoever uses it.
#[test]
fn a_process_that_could_not_register_is_seen_as_soon_as_there_is_room() {
    let (disk, ids) = full();
    let store = open(&disk).unwrap();
    disk.disarm();
    let reader = store.open_snapshot(ids[1]).unwrap();
    let other = open(&disk.process(1)).unwrap();
    for number in 20..22 {
        push(&other, "mail", &regions(&[("ram", noise(number, 900_000)), ("device", noise(1, 9))]));
        other.rebase(&service("mail"), None).unwrap();
    }
    let mut chunk = vec![0; 65_536];
    for position in 0..20 {
        reader.read_chunk(&region("ram"), position, &mut chunk).unwrap();
        assert!(chunk == state(1)["ram"][position as usize * 65_536..][..65_536]);
    }
    drop(reader);
    verify_good(&store);
}

/// Others can't know what is read here. It ends in an error that says so, and never in wrong bytes.
#[test]
fn what_others_remove_under_a_reader_that_could_not_register_is_no_damage() {
    let (disk, ids) = full();
    let store = open(&disk).unwrap();
    let reader = store.open_snapshot(ids[1]).unwrap();
    disk.disarm();
    let other = open(&disk.process(1)).unwrap();
    other.unpin(&PinName::new("keep").unwrap()).unwrap();
    for number in 20..22 {
        push(&other, "mail", &regions(&[("ram", noise(number, 900_000)), ("device", noise(1, 9))]));
        other.rebase(&service("mail"), None).unwrap();
    }
    let mut chunk = vec![0; 65_536];
    let error = (0..20).find_map(|at| reader.read_chunk(&region("ram"), at, &mut chunk).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(store.resolve("mail@latest").unwrap(), other.resolve("mail@latest").unwrap());
    verify_good(&store);
}

/// Its reserve was made when the store was: what drops snapshots has room to say so.
#[test]
fn a_node_does_not_run_on_a_disk_on_which_it_can_not_be_seen() {
    let (disk, _) = full();
    let node = |process| {
        let disk = std::sync::Arc::new(disk.process(process));
        let options =
            StoreOptions { key: KeySource::Given([3; 32]), disk, node: true, ..StoreOptions::default() };
        Store::open(Path::new(crate::world::ROOT), options)
    };
    assert_eq!(node(1).unwrap_err().kind(), ErrorKind::NoSpace);
    disk.disarm();
    let one = node(1).unwrap();
    assert_eq!(node(2).unwrap_err().kind(), ErrorKind::Busy);
    drop(one);
}

/// A store whose last user died on a full disk has something to put right, and no room to note it.
#[test]
fn what_opening_puts_right_on_a_full_disk_is_noted_when_there_is_room() {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let ids: Vec<_> = (0..3).map(|number| push(&store, "mail", &state(number)).snapshot).collect();
    drop(store);
    let journal = disk.list_all().into_iter().find(|path| path.ends_with("journal")).unwrap();
    disk.remove(&journal).unwrap();
    disk.arm(1, Fault::Full, 0);
    let store = open(&disk).unwrap();
    assert!(store.opened().rebuilt.is_some());
    assert_eq!(restore(&store, ids[2]), state(2));
    assert_eq!(try_push(&store, "mail", &state(9)).unwrap_err().kind(), ErrorKind::NoSpace);
    disk.disarm();
    push(&store, "mail", &state(9));
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(store.opened(), &sustain_store::OpenReport::default());
    for (id, number) in ids.iter().zip(0..) {
        assert_eq!(restore(&store, *id), state(number));
    }
    let options = RebaseOptions { retention: Retention::NOTHING, ..RebaseOptions::default() };
    let gc = store.prepare_gc(&service("mail"), options, &NoProgress).unwrap();
    gc.commit(Duration::ZERO).unwrap();
    verify_good(&store);
}
