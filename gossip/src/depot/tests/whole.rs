//! Whole packs: what comes is imported when all of a snapshot is here, and counts then.

use std::collections::BTreeSet;

use sustain_proto::SnapshotId;
use sustain_store::KeySource;

use super::world::*;
use crate::depot::{DepotError, PartList};
use crate::keeper::{Catalog, Claim, Pack, Part};

/// A server with a base and two deltas, of which the second lists what the first does, too.
fn server() -> (Node, Vec<(SnapshotId, Vec<u8>)>) {
    let server = Node::new(1);
    let mut bytes = noise(1, 40 * GROUP);
    let mut pushed = vec![(server.push(&bytes), bytes.clone())];
    for step in 0..2_usize {
        let at = (2 + step * 9) * GROUP;
        bytes[at..at + 5 * GROUP].copy_from_slice(&noise(10 + step as u64, 5 * GROUP));
        pushed.push((server.push(&bytes), bytes.clone()));
    }
    (server, pushed)
}

fn whole(catalog: &Catalog) -> Vec<(Part, Pack)> {
    catalog.packs().into_iter().map(|pack| (pack.whole(), pack)).collect()
}

fn take_all(from: &Node, to: &Node, catalog: &Catalog) -> super::super::SyncReport {
    let parts = whole(catalog);
    for (part, pack) in &parts {
        receive(from.depot(), to.depot(), part, pack).unwrap();
    }
    to.depot().sync(&parts.iter().map(|(part, _)| *part).collect::<Vec<_>>())
}

#[test]
fn what_a_server_retains_comes_is_imported_and_is_here_after_a_restart() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    assert_eq!(
        catalog.entries.iter().map(|e| e.id).collect::<Vec<_>>(),
        pushed.iter().map(|p| p.0).collect::<Vec<_>>()
    );
    assert!(catalog.entries[2].packs.iter().any(|pack| catalog.entries[1].packs.contains(pack)));
    let to = Node::new(2);
    assert_eq!(to.depot().remember(&catalog).unwrap().imported, []);
    let report = take_all(&server, &to, &catalog);
    assert_eq!(synced(&report), whole(&catalog).iter().map(|(part, _)| *part).collect());
    assert_eq!(report.imported.len(), 3);
    for (id, bytes) in &pushed {
        assert_eq!(to.restored(*id), *bytes);
    }
    assert_eq!(to.depot().lost(), []);
    let to = to.again();
    assert_eq!(to.kept.catalogs, std::slice::from_ref(&catalog));
    assert_eq!(to.parts(), whole(&catalog).iter().map(|(part, _)| *part).collect());
    let bytes: u64 = to.kept.parts.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(bytes, catalog.bytes());
}

#[test]
fn packs_count_only_when_a_snapshot_that_lists_them_is_whole() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let base: BTreeSet<Part> = catalog.entries[0].packs.iter().map(Pack::whole).collect();
    let mut waiting = BTreeSet::new();
    for (part, pack) in whole(&catalog).iter().filter(|(part, _)| !base.contains(part)) {
        receive(server.depot(), to.depot(), part, pack).unwrap();
        let report = to.depot().sync(&[*part]);
        assert!(report.parts.is_empty() && report.imported.is_empty(), "{report:?}");
        waiting.insert(*part);
    }
    assert_eq!(to.store.snapshots(None).unwrap(), []);
    // A node that ends now has nothing that counts, and need not fetch what it has.
    let to = to.again();
    assert_eq!(to.parts(), BTreeSet::new());
    for (part, pack) in whole(&catalog) {
        let list = server.depot().list(&part, &pack).unwrap().unwrap();
        let receiver = to.depot().receive(&pack, &part, list).unwrap();
        assert_eq!(receiver.is_whole(), waiting.contains(&part));
    }
    let mut report = to.depot().sync(&waiting.iter().copied().collect::<Vec<_>>());
    assert!(report.parts.is_empty(), "{report:?}");
    for part in &base {
        let pack = catalog.packs().into_iter().find(|pack| pack.id == part.pack).unwrap();
        receive(server.depot(), to.depot(), part, &pack).unwrap();
        report = to.depot().sync(&[*part]);
    }
    let all: BTreeSet<Part> = waiting.union(&base).copied().collect();
    assert_eq!(synced(&report), all, "the last one has all of them count");
    assert_eq!(to.restored(pushed[2].0), pushed[2].1);
}

#[test]
fn what_was_here_by_other_ways_counts_when_the_catalog_comes() {
    let (server, pushed) = server();
    let to = Node::new(2);
    // As a gathering does.
    let id = pushed[2].0;
    let manifests = server.store.manifests_for(id).unwrap();
    for pack in to.store.packs_lacking(&manifests).unwrap() {
        let reader = server.store.read_pack(pack).unwrap();
        let mut bytes = vec![0; reader.len() as usize];
        reader.read_at(0, &mut bytes).unwrap();
        let mut receiver = to.store.receive_pack(pack, reader.len()).unwrap();
        receiver.write(&bytes).unwrap();
        receiver.finish().unwrap();
    }
    let catalog = published(&server, None, None, &[]);
    let imported = to.depot().remember(&catalog).unwrap().imported;
    assert_eq!(imported.len(), 3, "all packs were here: {imported:?}");
    let (part, pack) = whole(&catalog)[0];
    let list = server.depot().list(&part, &pack).unwrap().unwrap();
    assert!(to.depot().receive(&pack, &part, list).unwrap().is_whole());
    assert_eq!(synced(&to.depot().sync(&[part])), [part].into());
}

#[test]
fn who_has_fetched_the_first_half_passes_it_on() {
    let (server, _) = server();
    let catalog = published(&server, None, None, &[]);
    let (one, other) = (Node::new(2), Node::new(3));
    one.depot().remember(&catalog).unwrap();
    other.depot().remember(&catalog).unwrap();
    let (part, pack) = whole(&catalog).into_iter().max_by_key(|(_, pack)| pack.bytes).unwrap();
    let bytes = bytes_of(server.depot(), &part, &pack).unwrap();
    let receiver =
        one.depot().receive(&pack, &part, server.depot().list(&part, &pack).unwrap().unwrap()).unwrap();
    let half = bytes.len() / GROUP / 2;
    for (group, bytes) in bytes.chunks(GROUP).enumerate().take(half) {
        receiver.write(group, bytes).unwrap();
    }
    let list = one.depot().list(&part, &pack).unwrap().unwrap();
    let mut came = Vec::new();
    let mut take = |bytes: Vec<u8>| {
        came.extend(bytes);
        true
    };
    one.depot().read(&part, &pack, 0..(half * GROUP) as u64, &mut take).unwrap();
    let error = one.depot().read(&part, &pack, 0..pack.bytes, &mut |_| true).unwrap_err();
    assert!(matches!(error, DepotError::NotHere { .. }), "{error}");
    let receiver = other.depot().receive(&pack, &part, list).unwrap();
    for (group, bytes) in came.chunks(GROUP).enumerate() {
        assert_eq!(receiver.write(group, bytes).unwrap(), sustain_store::Received::New);
    }
    assert_eq!(receiver.here().iter().filter(|here| **here).count(), half);
    // A node that ends goes on where it was.
    drop(receiver);
    let other = other.again();
    let list = server.depot().list(&part, &pack).unwrap().unwrap();
    let receiver = other.depot().receive(&pack, &part, list).unwrap();
    assert_eq!(receiver.here().iter().filter(|here| **here).count(), half);
}

#[test]
fn wrong_lists_and_groups_are_refused() {
    let (server, _) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let (part, pack) = whole(&catalog)[0];
    let mut list = server.depot().list(&part, &pack).unwrap().unwrap();
    list.values[0][0] ^= 1;
    let error = to.depot().receive(&pack, &part, list).err().unwrap();
    assert!(matches!(error, DepotError::List { .. }), "{error}");
    let error = to.depot().receive(&pack, &part, PartList { values: Vec::new(), sheet: None });
    assert!(matches!(error.err(), Some(DepotError::List { .. })));
    let list = server.depot().list(&part, &pack).unwrap().unwrap();
    let receiver = to.depot().receive(&pack, &part, list).unwrap();
    assert_eq!(receiver.write(0, &vec![7; GROUP]).unwrap(), sustain_store::Received::Wrong);
}

/// A server that publishes what contradicts itself, by a fault or on purpose: with whose packs a manifest says
/// something else than they hold.
#[test]
fn a_snapshot_that_its_packs_contradict_is_refused_once_and_never_counts() {
    let (server, pushed) = server();
    let mut entries = server.depot().entries(&service(SERVICE), None, None).unwrap();
    let (mut manifest, _) = server.store.manifest(pushed[2].0).unwrap();
    manifest.content = sustain_proto::ContentHash::from_bytes([9; 32]);
    let (id, encoded) = manifest.encode().unwrap();
    (entries[2].id, entries[2].manifest) = (id, encoded.into());
    let catalog = catalog(1, None, entries, &[]);
    server.depot().remember(&catalog).unwrap();
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let report = take_all(&server, &to, &catalog);
    assert_eq!(report.imported, [pushed[0].0, pushed[1].0]);
    let only: BTreeSet<Part> = catalog.entries[2]
        .packs
        .iter()
        .filter(|p| !catalog.entries[1].packs.contains(p))
        .map(Pack::whole)
        .collect();
    let failed: Vec<_> = report.parts.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert_eq!(failed.iter().map(|(part, _)| *part).collect::<BTreeSet<_>>(), only);
    assert!(failed.iter().all(|(_, outcome)| outcome.as_ref().is_err_and(|error| error.is_lasting())));
    let report = to.depot().sync(&[]);
    assert!(report.parts.is_empty() && report.imported.is_empty(), "it is said once: {report:?}");
    let to = to.again();
    assert!(to.parts().is_disjoint(&only));
    assert_eq!(to.restored(pushed[1].0), pushed[1].1);
}

#[test]
fn a_node_without_the_services_key_holds_it_all_the_same() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::with_key(2, KeySource::None);
    to.depot().remember(&catalog).unwrap();
    assert_eq!(take_all(&server, &to, &catalog).imported.len(), 3);
    let to = to.again();
    assert_eq!(to.parts().len(), catalog.packs().len());
    let third = Node::new(3);
    third.depot().remember(&catalog).unwrap();
    take_all(&to, &third, &catalog);
    assert_eq!(third.restored(pushed[2].0), pushed[2].1);
}

#[test]
fn the_claim_is_kept_and_damaged_files_are_set_aside_and_cost_nothing() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    let claim = Claim { node: to.me, life: 7, number: 3, index: Some(5), moving: None };
    to.depot().keep(&claim).unwrap();
    to.depot().remember(&catalog).unwrap();
    take_all(&server, &to, &catalog);
    let to = to.again();
    assert_eq!(to.kept.claim, Some(claim));
    let name = format!("mail.1.{}.1.catalog", node(1));
    for name in ["claim", &name] {
        let mut bytes = std::fs::read(to.file(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(to.file(name), bytes).unwrap();
    }
    let to = to.again();
    assert_eq!((to.kept.claim, to.kept.catalogs.len()), (None, 0));
    assert_eq!(to.parts(), BTreeSet::new(), "nobody drops what nobody was told of");
    assert!(to.file("claim.damaged").exists() && to.file(&format!("{name}.damaged")).exists());
    assert_eq!(to.restored(pushed[2].0), pushed[2].1);
    // It comes again, and everything is here.
    to.depot().remember(&catalog).unwrap();
    let (part, pack) = whole(&catalog)[0];
    let list = server.depot().list(&part, &pack).unwrap().unwrap();
    assert!(to.depot().receive(&pack, &part, list).unwrap().is_whole());
    let to = to.again();
    assert_eq!(to.parts().len(), catalog.packs().len());
}

#[test]
fn what_is_damaged_or_gone_is_lost_and_can_come_again() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    take_all(&server, &to, &catalog);
    let (part, pack) = whole(&catalog).into_iter().max_by_key(|(_, pack)| pack.bytes).unwrap();
    to.depot().list(&part, &pack).unwrap().unwrap();
    let name = pack.id.to_string();
    let path = to.folder.path().join("store/packs").join(&name[..2]).join(format!("{name}.pack"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[GROUP + 7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = bytes_of(to.depot(), &part, &pack).unwrap_err();
    assert!(
        matches!(error, DepotError::Damaged { .. }),
        "a damaged disk is found here, not by others: {error}"
    );
    assert_eq!(to.depot().lost(), [part]);
    assert_eq!(to.depot().lost(), [], "it is said once");
    receive(server.depot(), to.depot(), &part, &pack).unwrap();
    assert_eq!(synced(&to.depot().sync(&[part])), [part].into());
    assert_eq!(to.restored(pushed[2].0), pushed[2].1);
}

/// The follower's half of a rebase dropped what the newest catalog here still listed: its server had been the first to
/// know that a newer snapshot is durable. The node then said to hold what it had let go.
#[test]
fn what_a_catalog_lists_is_not_retired() {
    let (server, pushed) = server();
    let old = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&old).unwrap();
    take_all(&server, &to, &old);
    server.store.mark_durable(pushed[2].0, 1).unwrap();
    server
        .store
        .prepare_rebase(&service(SERVICE), None, &sustain_store::NoProgress)
        .unwrap()
        .commit(std::time::Duration::ZERO)
        .unwrap();
    let new = published(&server, Some(&old), None, &[]);
    assert!(
        new.entries.iter().all(|entry| old.entries.iter().all(|before| before.id != entry.id)),
        "{new:?}"
    );
    // It has both, as while the new base comes.
    let mut both = old.entries.clone();
    both.extend(new.entries.iter().cloned());
    let both = catalog(1, Some(&old), both, &[]);
    to.depot().remember(&both).unwrap();
    take_all(&server, &to, &new);
    let base = new.entries[0].id;
    assert_eq!(to.store.retire_superseded(base).unwrap().dropped, []);
    assert_eq!(to.depot().lost(), []);
    assert_eq!(to.restored(pushed[1].0), pushed[1].1);
    let unlisted = to.depot().remember(&new).unwrap().unlisted;
    assert_eq!(unlisted, 3);
    assert_eq!(to.store.retire_superseded(base).unwrap().dropped.len(), 3);
    let to = to.again();
    assert_eq!(to.parts(), whole(&new).iter().map(|(part, _)| *part).collect());
}

#[test]
fn dropped_parts_go_and_those_that_snapshots_need_stay() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let parts = whole(&catalog);
    let (part, pack) = parts[parts.len() - 1];
    receive(server.depot(), to.depot(), &part, &pack).unwrap();
    to.depot().drop_parts(&[part]).unwrap();
    let list = server.depot().list(&part, &pack).unwrap().unwrap();
    assert!(!to.depot().receive(&pack, &part, list).unwrap().here().contains(&true), "it begins anew");
    take_all(&server, &to, &catalog);
    let all: Vec<Part> = parts.iter().map(|(part, _)| *part).collect();
    to.depot().drop_parts(&all).unwrap();
    assert_eq!(to.restored(pushed[2].0), pushed[2].1, "the store decides");
    // One that waits is not needed by anything.
    let third = Node::new(3);
    third.depot().remember(&catalog).unwrap();
    receive(server.depot(), third.depot(), &part, &pack).unwrap();
    assert!(third.depot().sync(&[part]).parts.is_empty());
    assert!(third.store.has_pack(&pack.id));
    third.depot().drop_parts(&[part]).unwrap();
    assert!(!third.store.has_pack(&pack.id));
}

#[test]
fn a_server_publishes_what_is_damaged_in_its_store_and_says_what_it_lacks() {
    let (server, pushed) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    take_all(&server, &to, &catalog);
    let lost = catalog.entries[2].packs.iter().find(|pack| !catalog.entries[1].packs.contains(pack)).unwrap();
    let name = lost.id.to_string();
    std::fs::remove_file(
        server.folder.path().join("store/packs").join(&name[..2]).join(format!("{name}.pack")),
    )
    .unwrap();
    let manifest = server.folder.path().join("store/manifests").join(format!("{}.manifest", pushed[1].0));
    std::fs::remove_file(manifest).unwrap();
    let server = server.again();
    let entries = server.depot().entries(&service(SERVICE), None, Some(&catalog)).unwrap();
    let ids =
        |entries: &[crate::keeper::Entry]| entries.iter().map(|entry| entry.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&entries), ids(&catalog.entries), "else everybody would drop it");
    assert_eq!(server.depot().lacking(&entries), [lost.whole()]);
    receive(to.depot(), server.depot(), &lost.whole(), lost).unwrap();
    assert_eq!(synced(&server.depot().sync(&[lost.whole()])), [lost.whole()].into());
    assert_eq!(server.restored(pushed[2].0), pushed[2].1);
    assert_eq!(server.restored(pushed[1].0), pushed[1].1, "its manifest is back");
}

#[test]
fn forgotten_lines_are_gone() {
    let (server, _) = server();
    let catalog = published(&server, None, None, &[]);
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    to.depot().forget(&service(SERVICE), term(1, 1)).unwrap();
    to.depot().forget(&service(SERVICE), term(1, 1)).unwrap();
    let to = to.again();
    assert_eq!(to.kept.catalogs.len(), 0);
}
