//! What is pushed, pinned or listed lasts, whatever is collected and read in between.

use std::path::Path;

use sustain_proto::PinName;
use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{NoProgress, RebaseOptions, Retention, Store, StoreOptions};

use crate::common::*;

fn reopen(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

/// Three states: the second changes a few bytes of the first chunk and fills all others, the third changes the first
/// chunk altogether. So the second's pack is alive but for one chunk, which refers to one that nobody has any more.
fn states() -> [Regions; 3] {
    let mut ram = vec![0; 40 * CHUNK_BYTES];
    ram[..CHUNK_BYTES].copy_from_slice(&noise(1, CHUNK_BYTES));
    let first = regions(&[("ram", ram.clone())]);
    ram[100..107].fill(9);
    ram[CHUNK_BYTES..].copy_from_slice(&noise(2, 39 * CHUNK_BYTES));
    let second = regions(&[("ram", ram.clone())]);
    ram[..CHUNK_BYTES].copy_from_slice(&noise(3, CHUNK_BYTES));
    [first, second, regions(&[("ram", ram)])]
}

/// The pack stayed with the new base, and a later push took its dead chunk for stored: exit 0, and unreadable.
#[test]
fn a_chunk_whose_reference_went_is_not_taken_for_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let [first, second, third] = states();
    for state in [&first, &second, &third] {
        push(&store, "mail", state);
    }
    store.rebase(&service("mail"), None).unwrap();
    verify_good(&store);
    let again = push(&store, "mail", &second);
    assert_eq!(restore(&store, again.snapshot), second);
    verify_good(&store);
}

/// The same chunk was looked for in the kept pack by a snapshot that a pin or a retention had kept.
#[test]
fn what_a_rebase_keeps_does_not_count_on_a_chunk_whose_reference_went() {
    for is_pinned in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let [first, second, third] = states();
        push(&store, "mail", &first);
        let kept = push(&store, "mail", &second).snapshot;
        push(&store, "mail", &third);
        let mut retention = Retention::NOTHING;
        if is_pinned {
            store.pin(kept, &PinName::new("keep").unwrap()).unwrap();
        } else {
            retention.keep_last = 2;
        }
        let options = RebaseOptions { retention, ..RebaseOptions::default() };
        let prepared = store.prepare_rebase_with(&service("mail"), options, &NoProgress).unwrap();
        prepared.commit(std::time::Duration::ZERO).unwrap();
        let kept = store.resolve(&kept.to_string()).unwrap();
        assert_eq!(restore(&store, kept), second, "pinned: {is_pinned}");
        verify_good(&store);
    }
}

/// A pack of the wrong size counted as not here, and whoever had read something took it for one that was dropped.
#[test]
fn reading_removes_no_pack_that_a_snapshot_lists() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", noise(1, 3 * CHUNK_BYTES))]);
    let report = push(&store, "mail", &content);
    drop(store);
    let pack = pack_file(dir.path(), report.packs[0].id);
    let whole = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, [&whole[..], b"more"].concat()).unwrap();
    let store = reopen(dir.path());
    assert!(try_restore(&store, report.snapshot).is_err());
    drop(store);
    let name = pack.file_name().unwrap();
    assert!(pack.exists() || dir.path().join("aside").join(name).exists(), "it is still there");
    std::fs::write(&pack, whole).unwrap();
    assert_eq!(restore(&reopen(dir.path()), report.snapshot), content);
}

/// A flipped bit in its file made a pin that of a snapshot that is not here, and the pinned one went.
#[test]
fn a_pin_with_a_flipped_bit_stops_what_it_may_forbid() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let first = push(&store, "mail", &regions(&[("ram", noise(1, 5_000))]));
    push(&store, "mail", &regions(&[("ram", noise(2, 5_000))]));
    store.pin(first.snapshot, &PinName::new("keep").unwrap()).unwrap();
    let path = dir.path().join("pins/keep");
    let good = std::fs::read(&path).unwrap();
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(store.rebase(&service("mail"), None).is_err(), "byte {byte}");
    }
    assert_eq!(store.verify(&NoProgress).unwrap().bad.len(), 1, "it is named");
    std::fs::write(&path, good).unwrap();
    store.rebase(&service("mail"), None).unwrap();
    assert!(store.pins().unwrap()[0].snapshot.is_some());
}

/// What was pushed after damage had a number that was taken: the damaged one stayed the newest.
#[test]
fn what_is_pushed_after_damage_is_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    push(&store, "mail", &regions(&[("ram", noise(1, 5_000))]));
    let lost = push(&store, "mail", &regions(&[("ram", noise(2, 5_000))]));
    std::fs::write(pack_file(dir.path(), lost.packs.last().unwrap().id), b"no pack").unwrap();
    assert!(store.set_aside_if_damaged(lost.packs.last().unwrap().id).unwrap());
    let content = regions(&[("ram", noise(3, 5_000))]);
    let pushed = push(&store, "mail", &content);
    assert_eq!(pushed.seq, lost.seq + 1);
    assert_eq!(store.resolve("mail@latest").unwrap(), pushed.snapshot);
    assert_eq!(restore(&store, pushed.snapshot), content);
    // A rebase lets go of what is damaged, and what was set aside of it.
    assert!(store.verify(&NoProgress).is_ok_and(|report| !report.is_good()));
    let base = store.rebase(&service("mail"), None).unwrap().base;
    assert_eq!(restore(&store, base), content);
    verify_good(&store);
}

/// A restore met damage, and the next push referred to what could not be read: exit 0, and nothing to restore.
#[test]
fn what_a_restore_finds_damaged_is_not_relied_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("ram", noise(1, 3 * CHUNK_BYTES))]);
    let report = push(&store, "mail", &content);
    drop(store);
    let pack = pack_file(dir.path(), report.packs[0].id);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let store = reopen(dir.path());
    assert!(try_restore(&store, report.snapshot).is_err());
    let again = push(&store, "mail", &content);
    assert_eq!(restore(&store, again.snapshot), content);
}
