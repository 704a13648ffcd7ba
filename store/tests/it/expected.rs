//! What a node counts on while its snapshots come, and what it lets go of and discards.

use std::collections::BTreeSet;
use std::time::Duration;

use sustain_proto::{Cut, NodeId, PackId, PackRef, SnapshotId};
use sustain_store::{NoProgress, RebaseError, Store, limits};

use crate::common::*;
use crate::fragments::cut;
use crate::receive_groups::listed;
use crate::replication::{copy_pack, open, replicate};
use crate::simulated_disk::Simulated;
use crate::world;

fn packs(store: &Store, id: SnapshotId) -> BTreeSet<PackId> {
    store.packs_needed(id).unwrap().iter().map(|pack| pack.id).collect()
}

fn bytes_of(store: &Store, pack: PackId) -> Vec<u8> {
    let reader = store.read_pack(pack).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// With as many packs of which no snapshot was whole yet, the oldest ones were dropped and had to come again: of
/// several large services that came at once none ever became whole.
#[test]
fn packs_that_are_counted_on_are_not_dropped_for_being_too_many() {
    // Without real syncs it takes a moment.
    let [from, to] = [(); 2].map(|()| world::open(&Simulated::default()).unwrap());
    let content = regions(&[("ram", noise(1, 2_000))]);
    let id = push(&from, "mail", &content).snapshot;
    let needed = packs(&from, id);
    needed.iter().for_each(|pack| copy_pack(&from, &to, *pack));
    to.expect(&service("mail"), BTreeSet::new(), needed.clone());
    let mut receivers = Vec::new();
    for number in 0..limits::RECEIVED_PACKS_MAX as u64 + 10 {
        // Another pack with the same directory.
        let mut bytes = bytes_of(&from, *needed.first().unwrap());
        bytes[600..608].copy_from_slice(&number.to_le_bytes());
        let (pack, list) = listed(PackId::of(&bytes), &bytes);
        let receiver = to.receive_groups(pack, list).unwrap();
        bytes.chunks(65_536).enumerate().for_each(|(group, bytes)| _ = receiver.write(group, bytes).unwrap());
        receivers.push(receiver);
        if receivers.len() == 64 {
            to.keep_received(&receivers).unwrap();
            receivers.clear();
        }
    }
    to.keep_received(&receivers).unwrap();
    assert!(needed.iter().all(|pack| to.has_pack(pack)));
    to.import(&from.manifests_for(id).unwrap()).unwrap();
    assert_eq!(restore(&to, id), content);
}

#[test]
fn snapshots_that_are_counted_on_are_not_retired_and_packs_that_are_stay() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let mut content = regions(&[("ram", noise(1, 200_000))]);
    let old = push(&from, "mail", &content).snapshot;
    content.get_mut("ram").unwrap()[7] ^= 1;
    let newest = push(&from, "mail", &content).snapshot;
    replicate(&from, &to, newest);
    from.mark_durable(newest, 1).unwrap();
    from.prepare_rebase(&service("mail"), None, &NoProgress).unwrap().commit(Duration::ZERO).unwrap();
    let base = from.snapshots(None).unwrap()[0].id;
    replicate(&from, &to, base);
    to.expect(&service("mail"), [old, newest].into(), BTreeSet::new());
    assert_eq!(to.retire_superseded(base).unwrap().dropped, []);
    assert_eq!(restore(&to, newest), content);
    let kept = packs(&to, newest);
    to.expect(&service("mail"), BTreeSet::new(), kept.clone());
    assert_eq!(to.retire_superseded(base).unwrap().dropped.len(), 2);
    assert!(kept.iter().all(|pack| to.has_pack(pack)), "something is still to come that lists them");
    to.discard_received(&kept).unwrap();
    let listed = packs(&to, base);
    assert!(kept.iter().all(|pack| to.has_pack(pack) == listed.contains(pack)));
    assert_eq!(restore(&to, base), content);
}

#[test]
fn what_others_have_is_let_go_and_what_they_may_not_have_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let own = NodeId::from_bytes([7; 32]);
    let mut content = regions(&[("ram", noise(1, 200_000))]);
    let base = push(&store, "mail", &content).snapshot;
    content.get_mut("ram").unwrap()[7] ^= 1;
    let delta = push(&store, "mail", &content).snapshot;
    let both: BTreeSet<SnapshotId> = [base, delta].into();
    let gone = |node| store.let_go(&service("mail"), &both, node).unwrap().dropped;
    assert_eq!(gone(own), BTreeSet::new(), "nobody else was said to have them");
    store.mark_durable(base, 1).unwrap();
    assert_eq!(gone(own), BTreeSet::new(), "the base is needed");
    store.pin(delta, &crate::keeping::pin_name("mine")).unwrap();
    store.mark_durable(delta, 1).unwrap();
    assert_eq!(gone(own), BTreeSet::new(), "it is pinned");
    let other = store.let_go(&service("mail"), &both, NodeId::from_bytes([8; 32])).unwrap();
    assert_eq!(other.dropped, BTreeSet::new());
    store.unpin(&crate::keeping::pin_name("mine")).unwrap();
    let pushing = begin(&store, "mail").unwrap();
    let busy = store.let_go(&service("mail"), &both, own);
    assert!(matches!(busy, Err(RebaseError::Busy { .. })));
    drop(pushing);
    assert_eq!(gone(own), both);
    assert_eq!(store.snapshots(None).unwrap(), []);
    drop(store);
    assert_eq!(open(&dir).snapshots(None).unwrap(), []);
    assert!(files(&dir.path().join("packs")).is_empty());
}

#[test]
fn what_is_coming_can_be_read_and_discarded() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let id = push(&from, "mail", &regions(&[("ram", noise(1, 400_000))])).snapshot;
    let pack = *packs(&from, id).first().unwrap();
    let bytes = bytes_of(&from, pack);
    let (reference, list) = listed(pack, &bytes);
    let receiver = to.receive_groups(reference, list.clone()).unwrap();
    receiver.write(1, &bytes[65_536..2 * 65_536]).unwrap();
    let mut buffer = vec![0; 65_536];
    assert!(receiver.read_at(65_536, &mut buffer).unwrap());
    assert!(buffer == bytes[65_536..2 * 65_536]);
    assert!(!receiver.read_at(65_535, &mut buffer).unwrap(), "the group before has not come");
    assert!(!receiver.read_at(u64::MAX, &mut buffer).unwrap());
    receiver.discard();
    assert!(files(&b.path().join("incoming")).is_empty());
    let PackRef { id: again, .. } = to.receive_groups(reference, list).unwrap().pack();
    assert_eq!(again, pack);
    bytes.chunks(65_536).enumerate().for_each(|(group, bytes)| _ = receiver.write(group, bytes).unwrap());
    assert!(to.keep_received(&[receiver]).is_err(), "it was discarded");
    assert!(!to.has_pack(&pack));
}

#[test]
fn one_fragment_is_discarded_and_others_of_its_pack_stay() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (create(a.path()), create(b.path()));
    let report = push(&from, "mail", &regions(&[("ram", noise(1, 400_000))]));
    let cut_as = Cut { needed: 2, total: 4, extent_bytes: 128 << 10 };
    let whole = cut(&from, "mail", report.packs[0].id, cut_as);
    let fragments = to.fragments().unwrap();
    let put = |index: u8| fragments.put(&whole.sheet, index, &whole.fragments[usize::from(index)]).unwrap();
    fragments.sync(&[put(0), put(2)]).unwrap();
    // One that is not synced yet, too.
    let third = put(3);
    let going = [(whole.pack.id, 2), (whole.pack.id, 3), (whole.pack.id, 1)].into();
    assert_eq!(fragments.discard(&service("mail"), &going).unwrap().fragments, 2);
    assert!(fragments.sync(&[third]).is_err());
    let left = |to: &Store| {
        let held = to.fragments().unwrap().held(&service("mail"));
        held.iter().filter_map(|held| held.index).collect::<Vec<_>>()
    };
    assert_eq!(left(&to), [0]);
    drop((fragments, to));
    let to = create(b.path());
    assert_eq!(left(&to), [0]);
}
