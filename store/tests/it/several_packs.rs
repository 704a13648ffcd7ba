//! Pushes and rebases of several packs, each of which is synced while the next one is written: a sync that fails there
//! fails the operation, and what was acknowledged survives a power cut.

use sustain_store::{NoProgress, Store};

use crate::common::*;
use crate::simulated_disk::{Fault, Simulated};

const EIO: i32 = 5;

/// Noise of somewhat more than two packs, so that three are written.
fn content(seed: u64) -> Regions {
    regions(&[("ram", noise(seed, 34 << 20))])
}

fn packs(disk: &Simulated) -> usize {
    disk.list_all()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
        .count()
}

fn reopened(disk: &Simulated, store: Store, seed: u64) -> Store {
    disk.cut();
    drop(store);
    disk.restart(seed);
    crate::world::open(disk).unwrap()
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let (first, second) = (content(1), content(2));
    for seed in 0..3 {
        let disk = Simulated::default();
        let store = crate::world::open(&disk).unwrap();
        let id = push(&store, "mail", &first).snapshot;
        assert_eq!(packs(&disk), 3);
        let store = reopened(&disk, store, seed);
        assert!(restore(&store, id) == first, "seed {seed}");
        push(&store, "mail", &second);
        // All of it is written anew, since none of it stands alone.
        let id = store.rebase(&service("mail"), None).unwrap().base;
        let store = reopened(&disk, store, seed);
        assert!(restore(&store, id) == second, "seed {seed}");
        assert!(store.verify(&NoProgress).unwrap().is_good());
    }
}

#[test]
fn a_call_that_fails_fails_the_push_and_leaves_no_part_of_it() {
    let content = content(1);
    let mut calls = 0;
    for nth in (1..).step_by(6) {
        let disk = Simulated::default();
        let store = crate::world::open(&disk).unwrap();
        disk.arm(nth, Fault::Fail(EIO), nth);
        let outcome = try_push(&store, "mail", &content);
        if !disk.struck() {
            outcome.unwrap();
            calls = nth;
            break;
        }
        assert!(outcome.is_err(), "call {nth}");
        disk.disarm();
        let store = reopened(&disk, store, nth);
        // If it was the database's own commit that failed, all may be there.
        for left in store.snapshots(None).unwrap() {
            assert!(restore(&store, left.id) == content, "call {nth}");
        }
        let small = regions(&[("ram", noise(3, 100_000))]);
        let id = push(&store, "mail", &small).snapshot;
        assert_eq!(restore(&store, id), small);
    }
    assert!(calls > 40, "the push has {calls} calls: it does not do what it should");
}
