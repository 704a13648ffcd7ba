//! One of several processes is killed at any of its calls: what it had been told is there, the others work on, and
//! whoever opens the store next finds nothing of it.

use std::collections::BTreeSet;
use std::path::Path;

use sustain_store::{NoProgress, SnapshotInfo, Store};

use crate::common::*;
use crate::simulated_disk::{Fault, Simulated};
use crate::world::open;

fn state(number: u64) -> Regions {
    regions(&[("ram", noise(number, 70_000)), ("device", noise(9, 500))])
}

fn newest(store: &Store) -> Regions {
    restore(store, store.resolve("mail@latest").unwrap())
}

/// Files of the store in a folder.
fn inside(disk: &Simulated, folder: &str) -> usize {
    let folder = Path::new("/store").join(folder);
    disk.list_all().iter().filter(|path| path.starts_with(&folder)).count()
}

/// What the process does that is killed: whether it was told that its push is stored.
fn work(disk: &Simulated) -> bool {
    let Ok(store) = open(disk) else { return false };
    let first = store.snapshots(None).unwrap_or_default().first().map(|info| info.id);
    let reader = first.map(|id| store.open_snapshot(id));
    let pushed = try_push(&store, "mail", &state(3)).is_ok();
    let _ = store.rebase(&service("mail"), None);
    drop(reader);
    let _ = store.mark_durable(store.snapshots(None).unwrap_or_default()[0].id, 1);
    pushed
}

/// Whether the work was long enough for the kill.
fn run(nth: u64) -> bool {
    let disk = Simulated::default();
    let living = open(&disk).unwrap();
    push(&living, "mail", &state(1));
    push(&living, "mail", &state(2));
    let doomed = disk.process(1);
    disk.arm(nth, Fault::Kill, nth);
    let told = work(&doomed);
    let killed = disk.struck();
    assert_eq!(killed, doomed.is_killed());
    disk.disarm();
    doomed.kill();
    let found = newest(&living);
    assert!(found == state(3) || (!told && found == state(2)), "{nth}: told {told}");
    push(&living, "mail", &state(4));
    let next = open(&disk.process(2)).unwrap();
    assert_eq!((&next.opened().bad, &next.opened().rebuilt), (&Vec::new(), &None), "{nth}");
    for store in [&living, &next] {
        assert!(newest(store) == state(4), "{nth}");
        assert_eq!(store.verify(&NoProgress).unwrap().bad, [], "{nth}");
    }
    assert_eq!((inside(&disk, "processes"), inside(&disk, "tmp")), (2, 0), "{nth}");
    next.rebase(&service("mail"), None).unwrap();
    let needed = |info: &SnapshotInfo| living.packs_needed(info.id).unwrap();
    let listed: BTreeSet<_> =
        living.snapshots(None).unwrap().iter().flat_map(needed).map(|pack| pack.id).collect();
    assert_eq!(inside(&disk, "packs"), listed.len(), "{nth}: packs are left");
    push(&living, "mail", &state(5));
    disk.cut();
    drop((living, next));
    disk.restart(nth);
    let store = open(&disk).unwrap();
    assert_eq!((&store.opened().bad, &store.opened().rebuilt), (&Vec::new(), &None), "{nth}");
    assert!(newest(&store) == state(5), "{nth}");
    killed
}

#[test]
fn a_process_killed_at_any_call_holds_nothing_up_and_loses_nothing() {
    let mut last = 0;
    for nth in 1.. {
        if !run(nth) {
            last = nth;
            break;
        }
    }
    assert!(last > 40, "{last}");
}
