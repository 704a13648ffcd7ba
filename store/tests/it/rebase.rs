//! Rebasing drops what nobody needs and keeps everything else bit for bit.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sustain_proto::{NodeId, SnapshotId, Term, TermOrigin};
use sustain_store::{
    ErrorKind, NoProgress, Progress, PushLineage, PushRequest, RebaseError, Store, StoreOptions,
};

use crate::common::*;
use crate::replication::replicate;

/// Ten states, each a change of the one before, with a region that grows and one that comes and goes.
fn states() -> Vec<Regions> {
    let mut ram = memory_like(1, 30 * 65_536);
    (0..10_usize)
        .map(|step| {
            for page in 0..4 {
                let at = (step * 7 + page * 5) % 30 * 65_536 + page * 4_096;
                ram[at..at + 4_096].copy_from_slice(&noise((step * 10 + page) as u64, 4_096));
            }
            ram[step * 65_536..][..65_536].fill(0);
            let mut state =
                regions(&[("ram", ram.clone()), ("disk0", noise(step as u64, 50_000 + step * 9_000))]);
            if step % 3 == 0 {
                state.insert("device".into(), noise(step as u64, 700));
            }
            state
        })
        .collect()
}

fn check(store: &Store, expected: &[(SnapshotId, &Regions)]) {
    for (id, state) in expected {
        assert_eq!(&&restore(store, *id), state, "{}", id.short());
    }
    verify_good(store);
    assert_eq!(store.snapshots(None).unwrap().len(), expected.len());
}

#[test]
fn ten_snapshots_with_a_rebase_between_any_two() {
    let states = states();
    for rebase_after in 0..states.len() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = create(dir.path());
        let mut kept: Vec<(SnapshotId, &Regions)> = Vec::new();
        for (step, state) in states.iter().enumerate() {
            kept.push((push(&store, "mail", state).snapshot, state));
            if step == rebase_after {
                let before: Vec<_> = kept.iter().map(|(id, _)| *id).collect();
                let report = store.rebase(&service("mail"), None).unwrap();
                if step == 0 {
                    assert_eq!((report.base, report.generation_dropped), (before[0], None));
                    continue;
                }
                assert_eq!(report.dropped, before[..step]);
                assert_eq!(report.kept, [(before[step], report.base)]);
                assert_eq!(report.generation_dropped, Some(before[0]));
                assert!(report.bytes_freed > 0);
                kept = vec![(report.base, state)];
                // The former id still leads there; a dropped one leads nowhere.
                assert_eq!(store.resolve(&before[step].to_string()).unwrap(), report.base);
                let gone = store.resolve(&before[0].to_string()).unwrap_err();
                assert_eq!(gone.kind(), ErrorKind::NotFound);
            }
        }
        check(&store, &kept);
        drop(store);
        store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.opened(), &sustain_store::OpenReport::default());
        check(&store, &kept);
        let on_disk = files(&dir.path().join("packs")).len();
        let listed: std::collections::BTreeSet<_> =
            kept.iter().flat_map(|(id, _)| store.packs_needed(*id).unwrap()).map(|pack| pack.id).collect();
        assert_eq!(on_disk, listed.len(), "no pack is left over");
    }
}

#[test]
fn promoting_an_older_one_keeps_the_newer_ones() {
    let states = states();
    for promote in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = create(dir.path());
        let ids: Vec<_> = states[..6].iter().map(|state| push(&store, "mail", state).snapshot).collect();
        for id in &ids {
            store.mark_durable(*id, 1).unwrap();
        }
        let seqs: Vec<_> = store.snapshots(None).unwrap().iter().map(|info| info.seq).collect();
        let report = store.rebase(&service("mail"), Some(ids[promote])).unwrap();
        assert_eq!(report.dropped, ids[..promote]);
        let expected: Vec<_> = (promote..6)
            .map(|step| (store.resolve(&ids[step].to_string()).unwrap(), &states[step]))
            .collect();
        if promote > 0 {
            let kept: Vec<_> = (promote..6).map(|step| (ids[step], expected[step - promote].0)).collect();
            assert_eq!(report.kept, kept);
        }
        check(&store, &expected);
        let list = store.snapshots(None).unwrap();
        assert!(list.iter().all(|info| info.durable));
        assert_eq!(list.iter().map(|info| info.seq).collect::<Vec<_>>(), seqs[promote..]);
        for pair in list.windows(2) {
            assert_eq!(pair[1].parents, [pair[0].id]);
            assert_eq!(pair[1].base, Some(list[0].id));
        }
        let mut expected = expected;
        expected.push((push(&store, "mail", &states[7]).snapshot, &states[7]));
        store.mark_durable(expected.last().unwrap().0, 1).unwrap();
        // A second rebase of the rebased; aliases make two steps.
        let report = store.rebase(&service("mail"), Some(expected[1].0)).unwrap();
        assert_eq!(report.dropped, [expected[0].0]);
        expected.remove(0);
        for (id, _) in &mut expected {
            *id = store.resolve(&id.to_string()).unwrap();
        }
        check(&store, &expected);
        drop(store);
        store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        check(&store, &expected);
        if promote < 4 {
            let old = store.resolve(&ids[5].to_string()).unwrap();
            assert_eq!(restore(&store, old), states[5]);
        }
    }
}

#[test]
fn dead_packs_are_rewritten_and_live_ones_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    // Two packs of noise in the base; then all of the first one's chunks change but a few.
    let mut content = regions(&[("ram", noise(1, 24 << 20))]);
    let first = push(&store, "mail", &content);
    assert_eq!(first.packs.len(), 2);
    let ram = content.get_mut("ram").unwrap();
    for position in 10..250 {
        ram[position * 65_536] ^= 1;
    }
    let second = push(&store, "mail", &content);
    let report = store.rebase(&service("mail"), None).unwrap();
    let packs = store.packs_needed(report.base).unwrap();
    assert!(packs.contains(&first.packs[1]) && !packs.contains(&first.packs[0]));
    // What had referred to the old base's chunks is written whole: 240 of them, and what was left of the first pack, of
    // which it is up to the threads that wrote it how much that is.
    assert!(!second.packs.iter().any(|pack| packs.contains(pack)) && second.bytes_new < 100 << 10);
    assert!((240 << 16..18 << 20).contains(&report.bytes_rewritten), "{}", report.bytes_rewritten);
    assert!(!store.has_pack(&first.packs[0].id));
    assert_eq!(restore(&store, report.base), content);
    verify_good(&store);
}

#[test]
fn nothing_to_rebase_and_others_snapshots_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    assert_eq!(store.rebase(&service("mail"), None).unwrap_err().kind(), ErrorKind::NotFound);
    let web = push(&store, "web", &regions(&[("ram", vec![1; 10])]));
    let error = store.rebase(&service("mail"), Some(web.snapshot)).unwrap_err();
    assert!(matches!(error, RebaseError::OtherService { .. }));
    let _push = begin(&store, "web").unwrap();
    let prepared = store.prepare_rebase(&service("web"), None, &NoProgress).unwrap();
    assert_eq!(store.rebase(&service("web"), None).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(prepared.commit(Duration::ZERO).unwrap_err().kind(), ErrorKind::Busy);
}

/// A rebase reads all of the promoted snapshot, and no snapshot could be taken while it did.
#[test]
fn pushes_go_on_while_a_rebase_is_prepared_and_are_kept_by_it() {
    let states = states();
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    let ids: Vec<_> = states[..4].iter().map(|state| push(&store, "mail", state).snapshot).collect();
    let prepared = store.prepare_rebase(&service("mail"), Some(ids[2]), &NoProgress).unwrap();
    let more: Vec<_> = states[4..7].iter().map(|state| push(&store, "mail", state).snapshot).collect();
    // Both have become durable since the first one of them was described anew.
    store.mark_durable(ids[3], 1).unwrap();
    store.mark_durable(more[0], 2).unwrap();
    let report = prepared.commit(Duration::ZERO).unwrap();
    assert_eq!(report.dropped, ids[..2]);
    let old: Vec<_> = report.kept.iter().map(|(old, _)| *old).collect();
    assert_eq!(old, [&ids[2..], &more].concat());
    let kept: Vec<_> = report.kept.iter().zip(&states[2..]).map(|((_, new), state)| (*new, state)).collect();
    check(&store, &kept);
    let list = store.snapshots(None).unwrap();
    assert_eq!(list.iter().map(|info| info.level).collect::<Vec<_>>(), [None, Some(1), Some(2), None, None]);
    assert!(list.windows(2).all(|pair| pair[1].parents == [pair[0].id]));
    drop(store);
    store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.opened(), &sustain_store::OpenReport::default());
    check(&store, &kept);
}

#[test]
fn a_rebase_that_is_given_up_leaves_everything_as_it_was() {
    /// Stopped after so many questions.
    struct Stop(AtomicUsize);
    impl Progress for Stop {
        fn total(&self, _: u64) {}
        fn advance(&self, _: u64) {}
        fn cancelled(&self) -> bool {
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        }
    }
    let states = states();
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let kept: Vec<_> =
        states[..5].iter().map(|state| (push(&store, "mail", state).snapshot, state)).collect();
    let before = files(dir.path());
    let mail = service("mail");
    let mut asked = 0;
    loop {
        match store.prepare_rebase(&mail, None, &Stop(AtomicUsize::new(asked))) {
            Err(RebaseError::Cancelled) => assert_eq!(files(dir.path()), before),
            prepared => {
                // Dropped before it was committed: as when its VM is stopped.
                drop(prepared.unwrap());
                break;
            }
        }
        asked += 1;
    }
    // It asks once a chunk.
    assert!(asked > 4, "it can hardly be stopped: {asked}");
    assert_eq!(files(dir.path()), before);
    check(&store, &kept);
    assert_eq!(store.rebase(&mail, None).unwrap().dropped.len(), 4);
}

/// What was checked may rot before it is promoted: the old generation must not be dropped for it.
#[test]
fn a_snapshot_that_turns_out_damaged_after_its_check_is_not_promoted() {
    let states = states();
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let kept: Vec<_> = states[..3].iter().map(|state| (push(&store, "mail", state), state)).collect();
    let prepared = store.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    let pack = kept[2].0.packs.last().unwrap().id;
    let path = files(&dir.path().join("packs"))
        .into_iter()
        .find(|p| p.to_string_lossy().contains(&pack.to_string()));
    let bytes = fs::read(path.as_ref().unwrap()).unwrap();
    fs::write(path.as_ref().unwrap(), &bytes[1..]).unwrap();
    assert!(store.set_aside_if_damaged(pack).unwrap());
    assert_eq!(prepared.commit(Duration::ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(&restore(&store, kept[1].0.snapshot), kept[1].1);
}

#[test]
fn a_fork_is_not_an_ancestor_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let term = |counter, node| Term { counter, node: NodeId::from_bytes([node; 32]), nonce: 1 };
    let explicit = |term, origin, parent: Option<SnapshotId>, seq, seed| {
        let parents = parent.into_iter().collect();
        let lineage = PushLineage::Explicit { term, origin, parents, seq };
        let mut push =
            store.begin_push(PushRequest { service: service("mail"), lineage, time_ms: 5 }).unwrap();
        push.ingest(&region("ram"), &Bytes(&noise(seed, 200_000))).unwrap();
        push.commit().unwrap().snapshot
    };
    let first = explicit(term(1, 1), None, None, 1, 1);
    let second = explicit(term(1, 1), None, Some(first), 2, 2);
    let origin = Some(TermOrigin { parent: term(1, 1), seq: 2 });
    let left = explicit(term(2, 1), origin, Some(second), 3, 3);
    let right = explicit(term(2, 2), origin, Some(second), 3, 4);
    assert_eq!(store.resolve("mail@latest").unwrap(), right);
    let report = store.rebase(&service("mail"), Some(left)).unwrap();
    assert_eq!(report.dropped, [first, second]);
    assert_eq!(report.kept.iter().map(|(old, _)| *old).collect::<Vec<_>>(), [left, right]);
    let right = store.resolve(&right.to_string()).unwrap();
    assert_eq!(restore(&store, right)["ram"], noise(4, 200_000));
    assert_eq!(restore(&store, report.base)["ram"], noise(3, 200_000));
    verify_good(&store);
}

#[test]
fn a_follower_retires_what_a_received_base_supersedes() {
    let states = states();
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &tempfile::TempDir| {
        let key = sustain_store::KeySource::Given([3; 32]);
        Store::open(dir.path(), StoreOptions { key, create: true, ..StoreOptions::default() }).unwrap()
    };
    let (server, mut follower) = (open(&a), open(&b));
    let ids: Vec<_> = states[..5]
        .iter()
        .map(|state| {
            let id = push(&server, "mail", state).snapshot;
            replicate(&server, &follower, id);
            id
        })
        .collect();
    let error = follower.retire_superseded(ids[3]).unwrap_err();
    assert!(matches!(error, RebaseError::NoBase { .. }));
    assert_eq!(follower.retire_superseded(ids[0]).unwrap().dropped, []);
    let base = server.rebase(&service("mail"), Some(ids[3])).unwrap().base;
    replicate(&server, &follower, base);
    let newest = server.resolve("mail@latest").unwrap();
    replicate(&server, &follower, newest);
    // Nothing is lost before it is told to let go.
    assert_eq!(follower.snapshots(None).unwrap().len(), 7);
    assert_eq!(follower.resolve("mail@latest").unwrap(), newest);
    let report = follower.retire_superseded(base).unwrap();
    // The newest one is here by its new id, to which the old one leads.
    assert_eq!(report.dropped.len(), 5);
    assert_eq!(follower.resolve(&ids[4].to_string()).unwrap(), newest);
    assert_eq!(restore(&follower, newest), states[4]);
    assert_eq!(restore(&follower, base), states[3]);
    assert_eq!(follower.resolve(&ids[3].to_string()).unwrap(), base);
    let last = push(&server, "mail", &states[7]).snapshot;
    replicate(&server, &follower, last);
    let base = server.rebase(&service("mail"), None).unwrap().base;
    replicate(&server, &follower, base);
    follower.retire_superseded(base).unwrap();
    drop(follower);
    follower = open(&b);
    assert_eq!(follower.snapshots(None).unwrap().len(), 1);
    assert_eq!(restore(&follower, base), states[7]);
    verify_good(&follower);
    let packs: u64 =
        files(&b.path().join("packs")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let needed: u64 = follower.packs_needed(base).unwrap().iter().map(|pack| pack.bytes).sum();
    assert_eq!(packs, needed);
}
