//! What a rebase or a collection keeps besides the newest: retention, pins, heads, durable snapshots.

use std::collections::BTreeMap;
use std::time::Duration;

use sustain_proto::{NodeId, PinName, SnapshotId, Term, TermOrigin};
use sustain_store::{
    ErrorKind, GcReport, NewGeneration, NoProgress, PinError, Progress, PushLineage, PushRequest, Reason,
    RebaseError, RebaseOptions, RebasePolicy, Retention, Rule, Store, StoreOptions, Trigger,
};

use crate::common::*;

const HOUR_MS: u64 = 3_600_000;

pub(crate) fn pin_name(name: &str) -> PinName {
    PinName::new(name).unwrap()
}

/// The state after so many steps: each changes a page here and there.
pub(crate) fn state(step: usize) -> Regions {
    let mut ram = memory_like(1, 20 * 65_536);
    for step in 1..=step {
        let at = step * 7 % 20 * 65_536 + step % 16 * 4_096;
        ram[at..at + 4_096].copy_from_slice(&noise(step as u64, 4_096));
    }
    regions(&[("ram", ram), ("device", noise(step as u64, 300))])
}

/// Pushes a state as if it had been taken at this time.
fn push_at(store: &Store, step: usize, time_ms: u64) -> SnapshotId {
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([7; 32]), nonce: 9 };
    let mut push = store.begin_push(PushRequest { service: service("mail"), lineage, time_ms }).unwrap();
    for (name, bytes) in &state(step) {
        push.ingest(&region(name), &Bytes(bytes)).unwrap();
    }
    push.commit().unwrap().snapshot
}

fn options(retention: Retention, now_ms: u64) -> RebaseOptions {
    RebaseOptions { retention, now_ms, ..RebaseOptions::default() }
}

fn gc(store: &Store, options: RebaseOptions) -> GcReport {
    let prepared = store.prepare_gc(&service("mail"), options, &NoProgress).unwrap();
    let preview = prepared.preview().unwrap();
    let report = prepared.commit(Duration::ZERO).unwrap();
    assert_eq!(report, preview, "what it did is not what it said that it would do");
    report
}

/// Bytes of the manifests that a collection has written.
fn new_manifests(store: &Store, report: &GcReport) -> u64 {
    let list = store.snapshots(None).unwrap();
    let is_new = |id: &SnapshotId| !report.stays.iter().any(|stays| stays.id == *id);
    list.iter()
        .filter(|info| is_new(&info.id))
        .map(|info| store.manifest(info.id).unwrap().1.len() as u64)
        .sum()
}

fn seqs(store: &Store) -> Vec<u64> {
    store.snapshots(None).unwrap().iter().map(|info| info.seq).collect()
}

/// Of packs and manifests.
fn bytes_on_disk(store: &Store) -> u64 {
    let folders = ["packs", "manifests"].map(|folder| store.path().join(folder));
    let files = folders.iter().flat_map(|folder| files(folder));
    files.map(|path| std::fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn what_retention_keeps_is_described_by_the_new_base_and_nothing_else_changes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    // One each half an hour.
    let ids: Vec<_> = (0..12).map(|step| push_at(&store, step, step as u64 * HOUR_MS / 2)).collect();
    let before = store.snapshots(None).unwrap();
    let retention = Retention { keep_last: 2, keep_hourly: 3, keep_daily: 1 };
    let options = options(retention, 6 * HOUR_MS);
    let report = store
        .prepare_rebase_with(&service("mail"), options, &NoProgress)
        .unwrap()
        .commit(Duration::ZERO)
        .unwrap();
    let expected = [7, 9, 10, 11];
    assert_eq!(report.kept.iter().map(|(old, _)| *old).collect::<Vec<_>>(), [11, 7, 9, 10].map(|at| ids[at]));
    assert_eq!(report.held.len(), 3);
    assert_eq!(report.dropped.len(), 8);
    drop(store);
    store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let after = store.snapshots(None).unwrap();
    assert_eq!(store.held(&service("mail")).unwrap().len(), 3);
    for (at, info) in expected.into_iter().zip(&after) {
        let old = &before[at];
        assert_eq!((info.seq, info.term, info.time_ms), (old.seq, old.term, old.time_ms));
        assert_eq!(info.base, (at != 11).then_some(report.base));
        assert_eq!(store.resolve(&old.id.to_string()).unwrap(), info.id);
        assert_eq!(restore(&store, info.id), state(at));
    }
    // A parent that is there is named as it is now.
    assert_eq!(after[2].parents, [after[1].id]);
    verify_good(&store);
}

/// Each rebase adds a step to the way from a former id; after a thousand the first one led nowhere.
#[test]
fn a_former_id_leads_to_its_snapshot_after_any_number_of_rebases() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    let first = push_at(&store, 1, 0);
    store.pin(first, &pin_name("first")).unwrap();
    for step in 2..20 {
        push_at(&store, step, 0);
        store.rebase(&service("mail"), None).unwrap();
    }
    let found = store.resolve(&first.to_string()).unwrap();
    assert_eq!(restore(&store, found), state(1));
    drop(store);
    store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.resolve(&first.to_string()).unwrap(), found);
    assert_eq!(seqs(&store), [1, 19]);
}

#[test]
fn a_pinned_snapshot_survives_rebases_collections_and_the_loss_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    let ids: Vec<_> = (1..=4).map(|step| push_at(&store, step, 0)).collect();
    let pinned = store.pin(ids[1], &pin_name("before-upgrade")).unwrap();
    assert_eq!((pinned.snapshot, pinned.seq), (Some(ids[1]), 2));
    assert_eq!(store.pin(ids[1], &pin_name("before-upgrade")).unwrap(), pinned, "again changes nothing");
    let error = store.pin(ids[2], &pin_name("before-upgrade")).unwrap_err();
    assert!(matches!(error, PinError::Exists { .. }));
    store.rebase(&service("mail"), None).unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("journal")).unwrap();
    store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    push_at(&store, 5, 0);
    let report = gc(&store, options(Retention::NOTHING, 0));
    assert_eq!(report.stays[0].why, [Reason::Pinned { name: pin_name("before-upgrade") }].into());
    assert_eq!(seqs(&store), [2, 5]);
    let now = store.pins().unwrap().remove(0);
    assert_eq!((now.pinned_as, now.seq), (ids[1], 2));
    assert_eq!(restore(&store, now.snapshot.unwrap()), state(2));
    store.unpin(&pin_name("before-upgrade")).unwrap();
    assert_eq!(store.unpin(&pin_name("before-upgrade")).unwrap_err().kind(), ErrorKind::NotFound);
    let report = gc(&store, options(Retention::NOTHING, 0));
    assert_eq!((report.goes.len(), report.new_generation), (1, None), "nothing has to be written for it");
    assert!(report.bytes_freed > 0 && report.bytes_rewritten == 0);
    assert_eq!(seqs(&store), [5]);
    verify_good(&store);
}

/// It was decided that a snapshot goes; then somebody pinned it.
#[test]
fn what_is_pinned_while_a_rebase_is_prepared_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids: Vec<_> = (1..=3).map(|step| push_at(&store, step, 0)).collect();
    let prepared = store.prepare_rebase(&service("mail"), None, &NoProgress).unwrap();
    store.pin(ids[0], &pin_name("late")).unwrap();
    prepared.commit(Duration::ZERO).unwrap();
    assert_eq!(seqs(&store), [1, 3]);
    let first = store.resolve(&ids[0].to_string()).unwrap();
    assert_eq!(restore(&store, first), state(1));
}

/// With a pin that can't be read nobody knows what is to stay.
#[test]
fn a_damaged_pin_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids: Vec<_> = (1..=3).map(|step| push_at(&store, step, 0)).collect();
    store.pin(ids[0], &pin_name("first")).unwrap();
    std::fs::write(dir.path().join("pins/first"), b"what?").unwrap();
    assert_eq!(store.rebase(&service("mail"), None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        store.prepare_gc(&service("mail"), options(Retention::NOTHING, 0), &NoProgress).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(store.pins().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(seqs(&store), [1, 2, 3]);
}

#[test]
fn the_newest_durable_snapshot_outlives_a_rebase_to_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let ids: Vec<_> = (1..=5).map(|step| push_at(&store, step, 0)).collect();
    store.mark_durable(ids[0], 1).unwrap();
    store.mark_durable(ids[2], 2).unwrap();
    let report = store.rebase(&service("mail"), None).unwrap();
    assert_eq!(report.dropped, [ids[0], ids[1], ids[3]]);
    let list = store.snapshots(None).unwrap();
    assert_eq!(list.iter().map(|info| (info.seq, info.level)).collect::<Vec<_>>(), [(3, Some(2)), (5, None)]);
    // Once what came later is durable, it has no reason to stay.
    store.mark_durable(report.base, 1).unwrap();
    push_at(&store, 6, 0);
    assert_eq!(gc(&store, options(Retention::NOTHING, 0)).goes.len(), 1);
    // The base is the newest durable one: nothing is dropped for the newest.
    assert_eq!(seqs(&store), [5, 6]);
}

#[test]
fn of_a_branch_that_lost_its_election_the_head_stays_and_what_led_to_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let term = |counter, node| Term { counter, node: NodeId::from_bytes([node; 32]), nonce: 1 };
    let origin = Some(TermOrigin { parent: term(1, 1), seq: 2 });
    let mut ids = BTreeMap::new();
    for (number, (of, origin, parent, seq)) in [
        (term(1, 1), None, None, 1),
        (term(1, 1), None, Some(1), 2),
        (term(2, 2), origin, Some(2), 3),
        (term(2, 2), origin, Some(3), 4),
        (term(2, 2), origin, Some(4), 5),
        (term(3, 1), origin, Some(2), 3),
        (term(3, 1), origin, Some(6), 4),
    ]
    .into_iter()
    .enumerate()
    {
        let parents = parent.map(|parent| ids[&parent]).into_iter().collect();
        let lineage = PushLineage::Explicit { term: of, origin, parents, seq };
        let request = PushRequest { service: service("mail"), lineage, time_ms: 5 };
        let mut push = store.begin_push(request).unwrap();
        for (name, bytes) in &state(number) {
            push.ingest(&region(name), &Bytes(bytes)).unwrap();
        }
        ids.insert(number + 1, push.commit().unwrap().snapshot);
    }
    // Its last snapshot that was durable is not its head.
    store.mark_durable(ids[&4], 1).unwrap();
    let report = store.rebase(&service("mail"), None).unwrap();
    assert_eq!(report.dropped, [1, 2, 3, 6].map(|number| ids[&number]));
    for number in [4, 5, 7] {
        let now = store.resolve(&ids[&number].to_string()).unwrap();
        assert_eq!(restore(&store, now), state(number - 1));
    }
    verify_good(&store);
}

#[test]
fn a_collection_without_a_rule_keeps_every_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    for step in 1..=6 {
        push_at(&store, step, 0);
    }
    let report = gc(&store, options(Retention::EVERYTHING, 0));
    assert_eq!((report.goes.len(), report.stays.len(), report.new_generation), (0, 6, None));
    let rule = Reason::Retained { rule: Rule::KeepAll };
    assert!(report.stays.iter().all(|stays| stays.why.contains(&rule)));
    assert_eq!((report.packs_freed, report.bytes_freed, report.bytes_rewritten), (0, 0, 0));
}

/// While the base is kept itself, a collection lets go and writes nothing; then it begins a new generation.
#[test]
fn a_collection_rebases_only_when_nothing_keeps_the_base_or_it_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let keep = Retention { keep_last: 3, ..Retention::NOTHING };
    let mut rebased = Vec::new();
    for step in 1..=12 {
        push_at(&store, step, 0);
        let before = bytes_on_disk(&store);
        let report = gc(&store, options(keep, 0));
        let after = bytes_on_disk(&store) - new_manifests(&store, &report);
        assert_eq!(before + report.bytes_rewritten, after + report.bytes_freed, "step {step}");
        rebased.extend(report.new_generation.map(|why| (step, why)));
        assert_eq!(seqs(&store), ((step as u64).saturating_sub(2).max(1)..=step as u64).collect::<Vec<_>>());
    }
    let unneeded = NewGeneration::BaseUnneeded;
    assert_eq!(rebased, [(4, unneeded), (7, unneeded), (10, unneeded)]);
    push_at(&store, 13, 0);
    let policy = RebasePolicy { deltas: 1, ..RebasePolicy::default() };
    let due = RebaseOptions { policy, ..options(Retention { keep_last: 9, ..keep }, 0) };
    assert_eq!(gc(&store, due).new_generation, Some(NewGeneration::Due(Trigger::Deltas)));
    for (info, step) in store.snapshots(None).unwrap().iter().zip(10..) {
        assert_eq!(restore(&store, info.id), state(step));
    }
    verify_good(&store);
}

#[test]
fn a_collection_that_is_stopped_leaves_everything_as_it_was() {
    struct Stopped;
    impl Progress for Stopped {
        fn total(&self, _: u64) {}
        fn advance(&self, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    for step in 1..=4 {
        push_at(&store, step, 0);
    }
    let before = files(dir.path());
    let options = options(Retention::NOTHING, 0);
    let error = store.prepare_gc(&service("mail"), options, &Stopped).unwrap_err();
    assert!(matches!(error, RebaseError::Cancelled));
    // Dropped before it came true: a dry run.
    let prepared = store.prepare_gc(&service("mail"), options, &NoProgress).unwrap();
    assert_eq!(prepared.preview().unwrap().goes.len(), 3);
    drop(prepared);
    assert_eq!(files(dir.path()), before);
    assert_eq!(seqs(&store), [1, 2, 3, 4]);
}

#[test]
fn packs_that_no_snapshot_lists_go() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (crate::replication::open(&one), crate::replication::open(&other));
    let ids: Vec<_> = (1..=2).map(|step| push_at(&from, step, 0)).collect();
    crate::replication::replicate(&from, &to, ids[0]);
    // Of the second only its pack came.
    let manifests = from.manifests_for(ids[1]).unwrap();
    let lacking = to.packs_lacking(&manifests).unwrap();
    crate::replication::copy_pack(&from, &to, lacking[0]);
    let said = to.remove_unlisted(true).unwrap();
    assert_eq!(said.packs, 1);
    assert_eq!(to.packs_lacking(&manifests).unwrap(), []);
    assert_eq!(to.remove_unlisted(false).unwrap(), said);
    assert_eq!(to.packs_lacking(&manifests).unwrap(), lacking);
    assert_eq!(to.remove_unlisted(false).unwrap().packs, 0);
    crate::replication::replicate(&from, &to, ids[1]);
    assert_eq!(restore(&to, ids[1]), state(2));
    verify_good(&to);
}
