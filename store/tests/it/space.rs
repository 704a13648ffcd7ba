//! After a rebase or a collection a store takes no more than what is alive, the policy's share of it, one generation,
//! and what pins and retention hold. Checked with the sizes of files.

use std::time::Duration;

use proptest::prelude::*;
use sustain_proto::{PinName, SnapshotId};
use sustain_store::{NoProgress, RebaseOptions, RebasePolicy, Retention, Store};

use crate::common::*;

#[derive(Debug, Clone)]
enum Operation {
    /// Overwrite so many pages from this one on, and push.
    Push(usize, usize, u64),
    /// A rebase to the newest.
    Rebase,
    /// A collection that keeps so many of the newest.
    Collect(u32),
    /// Pin the snapshot so many before the newest.
    Pin(usize),
    /// Unpin one.
    Unpin,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        8 => (0..PAGES, 1..PAGES / 2, any::<u64>()).prop_map(|(at, count, seed)| Operation::Push(at, count, seed)),
        2 => Just(Operation::Rebase),
        2 => (0..4_u32).prop_map(Operation::Collect),
        1 => (0..4_usize).prop_map(Operation::Pin),
        1 => Just(Operation::Unpin),
    ];
    prop::collection::vec(operation, 1..30)
}

const PAGES: usize = 16 * 16;

fn bytes_of(store: &Store) -> u64 {
    let folders = ["packs", "manifests", "tmp", "pins"].map(|folder| store.path().join(folder));
    let there = folders.iter().filter(|folder| folder.exists());
    there.flat_map(|folder| files(folder)).map(|path| std::fs::metadata(path).unwrap().len()).sum()
}

/// What a store takes that never held anything but these states, the first as a base and one more as a delta.
fn bytes_alone(states: &[&Regions]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    states.iter().for_each(|state| drop(push(&store, "mail", state)));
    bytes_of(&store)
}

/// What a manifest and the ends of a few packs take.
const SMALL: u64 = 4_096;

/// A snapshot, as the test knows it.
struct Known {
    seq: u64,
    state: Regions,
    pinned: Option<PinName>,
}

/// `generation` is what was written since a generation began, or nothing right after that.
fn check(store: &Store, known: &[Known], policy: &RebasePolicy, generation: u64) {
    let list = store.snapshots(None).unwrap();
    let state_of = |seq: u64| &known.iter().find(|known| known.seq == seq).unwrap().state;
    let base = list.iter().find(|info| info.base.is_none()).unwrap();
    let live = bytes_alone(&[state_of(base.seq)]);
    // Each of the others by itself: what they share is stored once and counted several times here.
    let others = list.iter().filter(|info| info.id != base.id);
    let beside: u64 =
        others.map(|info| bytes_alone(&[state_of(base.seq), state_of(info.seq)]) - live + SMALL).sum();
    let bound = live * (100 + u64::from(policy.dead_percent)) / 100 + beside + SMALL + generation;
    let found = bytes_of(store);
    assert!(found <= bound, "{found} bytes, {live} alive, {beside} for {} others", list.len() - 1);
    for info in &list {
        assert_eq!(&restore(store, info.id), state_of(info.seq));
    }
}

fn newest(store: &Store, back: usize) -> Option<(SnapshotId, u64)> {
    let list = store.snapshots(None).unwrap();
    list.iter().rev().nth(back).map(|info| (info.id, info.seq))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_store_takes_no_more_than_it_may((operations, dead_percent) in (operations(), 10..200_u32)) {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let policy = RebasePolicy { dead_percent, ..RebasePolicy::default() };
        let mut content = regions(&[("ram", memory_like(1, PAGES * 4_096))]);
        let mut known: Vec<Known> = Vec::new();
        let mut generation = 0;
        for (number, operation) in (0..).zip(operations) {
            let options = |keep_last| RebaseOptions {
                retention: Retention { keep_last, ..Retention::NOTHING },
                policy,
                ..RebaseOptions::default()
            };
            match operation {
                Operation::Push(at, count, seed) => {
                    let ram = content.get_mut("ram").unwrap();
                    let end = (at + count).min(PAGES);
                    ram[at * 4_096..end * 4_096].copy_from_slice(&memory_like(seed, (end - at) * 4_096));
                    let report = push(&store, "mail", &content);
                    let seq = report.seq;
                    generation += report.bytes_new;
                    known.push(Known { seq, state: content.clone(), pinned: None });
                }
                _ if known.is_empty() => {}
                Operation::Rebase => {
                    let prepared = store.prepare_rebase_with(&service("mail"), options(0), &NoProgress).unwrap();
                    let report = prepared.commit(Duration::ZERO).unwrap();
                    let begins = report.generation_dropped.is_some();
                    check(&store, &known, &policy, if begins { 0 } else { generation });
                    generation = if begins { report.bytes_rewritten } else { generation };
                }
                Operation::Collect(keep) => {
                    let prepared = store.prepare_gc(&service("mail"), options(keep), &NoProgress).unwrap();
                    let report = prepared.commit(Duration::ZERO).unwrap();
                    let begins = report.new_generation.is_some();
                    let there: Vec<u64> = store.snapshots(None).unwrap().iter().map(|info| info.seq).collect();
                    let pinned = known.iter().filter(|known| known.pinned.is_some());
                    prop_assert!(pinned.map(|known| known.seq).all(|seq| there.contains(&seq)));
                    check(&store, &known, &policy, if begins { 0 } else { generation });
                    generation = if begins { report.bytes_rewritten } else { generation };
                }
                Operation::Pin(back) => {
                    if let Some((id, seq)) = newest(&store, back) {
                        let name = PinName::new(format!("p{number}")).unwrap();
                        let one = known.iter_mut().find(|known| known.seq == seq).unwrap();
                        if one.pinned.is_none() {
                            store.pin(id, &name).unwrap();
                            one.pinned = Some(name);
                        }
                    }
                }
                Operation::Unpin => {
                    if let Some(name) = known.iter_mut().find_map(|known| known.pinned.take()) {
                        store.unpin(&name).unwrap();
                    }
                }
            }
        }
        verify_good(&store);
    }
}
