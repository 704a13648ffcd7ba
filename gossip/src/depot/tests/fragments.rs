//! Cut packs: nodes that hold a fragment of each, encoders that have them whole for a while, and warm candidates.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::world::*;
use crate::depot::DepotError;
use crate::keeper::{Catalog, Pack, Part};
use sustain_proto::{Cut, SnapshotId};

const CUT: Option<Cut> = Cut::in_groups(3, 7);

/// Snapshots with what they hold.
type Pushed = Vec<(SnapshotId, Vec<u8>)>;

/// A server with a base and a delta, whose packs are cut.
fn server() -> (Node, Arc<Catalog>, Pushed) {
    let server = Node::new(1);
    let mut bytes = noise(1, 20 * GROUP);
    let mut pushed = vec![(server.push(&bytes), bytes.clone())];
    bytes[3 * GROUP..8 * GROUP].copy_from_slice(&noise(2, 5 * GROUP));
    pushed.push((server.push(&bytes), bytes));
    let catalog = published(&server, None, CUT, &[]);
    (server, catalog, pushed)
}

fn with(catalog: &Catalog, change: impl FnOnce(&mut Catalog)) -> Arc<Catalog> {
    let mut changed = catalog.clone();
    changed.version.number += 1;
    change(&mut changed);
    Arc::new(changed)
}

/// Has a node take parts, and sync them.
fn take(from: &Node, to: &Node, catalog: &Catalog, part: impl Fn(&Pack) -> Part) -> BTreeSet<Part> {
    let parts: Vec<(Part, Pack)> = catalog.packs().into_iter().map(|pack| (part(&pack), pack)).collect();
    for (part, pack) in &parts {
        receive(from.depot(), to.depot(), part, pack).unwrap();
    }
    let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
    let report = to.depot().sync(&parts);
    assert!(report.parts.iter().all(|(_, outcome)| outcome.is_ok()), "{report:?}");
    synced(&report)
}

#[test]
fn a_holder_gets_its_fragment_of_each_pack_and_passes_it_on() {
    let (server, catalog, _) = server();
    assert!(catalog.packs().iter().all(|pack| pack.cut == CUT && pack.sheet.is_some()));
    let again = server.depot().entries(&service(SERVICE), CUT, None).unwrap();
    assert_eq!(
        again.iter().flat_map(|e| &e.packs).map(|p| p.sheet).collect::<Vec<_>>(),
        catalog.entries.iter().flat_map(|e| &e.packs).map(|p| p.sheet).collect::<Vec<_>>(),
        "the sheets are kept"
    );
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let took = take(&server, &to, &catalog, |pack| pack.share(4));
    assert_eq!(took, catalog.packs().iter().map(|pack| pack.share(4)).collect());
    assert_eq!(to.store.snapshots(None).unwrap(), []);
    assert_eq!(
        to.store.sweep_fragments(false).unwrap().unwrap().fragments,
        0,
        "the manifests say what they are for"
    );
    let to = to.again();
    assert_eq!(to.parts(), took);
    let third = Node::new(3);
    third.depot().remember(&catalog).unwrap();
    take(&to, &third, &catalog, |pack| pack.share(4));
    for pack in catalog.packs() {
        let [one, other] =
            [&server, &third].map(|node| bytes_of(node.depot(), &pack.share(4), &pack).unwrap());
        assert!(one == other);
        let error = bytes_of(third.depot(), &pack.share(5), &pack).unwrap_err();
        assert!(matches!(error, DepotError::NotHere { .. }), "{error}");
    }
}

#[test]
fn an_encoder_has_packs_for_a_while_and_makes_fragments_of_them() {
    let (server, catalog, _) = server();
    let catalog = with(&catalog, |catalog| catalog.encoders = [node(2)].into());
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let whole = take(&server, &to, &catalog, Pack::whole);
    assert_eq!(whole.len(), catalog.packs().len(), "nothing is to be imported: they count at once");
    let to = to.again();
    assert_eq!(to.parts(), whole);
    let made: Vec<Part> = catalog.packs().iter().map(|pack| pack.share(6)).collect();
    for (part, from) in made.iter().zip(&whole) {
        let from = Part { pack: part.pack, ..*from };
        to.depot().make(part, &[from]).unwrap();
    }
    assert_eq!(synced(&to.depot().sync(&made)), made.iter().copied().collect());
    to.depot().drop_parts(&whole.iter().copied().collect::<Vec<_>>()).unwrap();
    assert!(catalog.packs().iter().all(|pack| !to.store.has_pack(&pack.id)));
    let to = to.again();
    assert_eq!(to.parts(), made.into_iter().collect());
    for pack in catalog.packs() {
        let [one, other] = [&server, &to].map(|node| bytes_of(node.depot(), &pack.share(6), &pack).unwrap());
        assert!(one == other);
    }
}

#[test]
fn fragments_and_packs_are_made_of_those_that_are_held_and_those_that_just_came() {
    let (server, catalog, pushed) = server();
    let catalog = with(&catalog, |catalog| catalog.warm = [node(3)].into());
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    take(&server, &to, &catalog, |pack| pack.share(5));
    for pack in catalog.packs() {
        let from = [1, 5, 6].map(|index| pack.share(index));
        for part in [&from[0], &from[2]] {
            receive(server.depot(), to.depot(), part, &pack).unwrap();
        }
        to.depot().make(&pack.share(0), &from).unwrap();
        // What came only for that goes.
        to.depot().drop_parts(&[from[0], from[2]]).unwrap();
    }
    let made: Vec<Part> = catalog.packs().iter().map(|pack| pack.share(0)).collect();
    assert_eq!(synced(&to.depot().sync(&made)).len(), made.len());
    assert_eq!(to.again().parts().len(), 2 * made.len());

    let warm = Node::new(3);
    warm.depot().remember(&catalog).unwrap();
    for pack in catalog.packs() {
        let from = [2, 3, 4].map(|index| pack.share(index));
        from.iter().for_each(|part| receive(server.depot(), warm.depot(), part, &pack).unwrap());
        warm.depot().make(&pack.whole(), &from).unwrap();
        warm.depot().drop_parts(&from).unwrap();
    }
    let whole: Vec<Part> = catalog.packs().iter().map(Pack::whole).collect();
    let report = warm.depot().sync(&whole);
    assert_eq!((synced(&report).len(), report.imported.len()), (whole.len(), 2));
    let (id, bytes) = &pushed[1];
    assert_eq!(warm.restored(*id), *bytes);
}

#[test]
fn a_sheet_that_the_catalog_does_not_name_is_refused() {
    let (server, catalog, _) = server();
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let pack = catalog.packs()[0];
    let part = pack.share(1);
    let good = server.depot().list(&part, &pack).unwrap().unwrap();
    let mut sheet = sustain_proto::Sheet::decode(good.sheet.as_ref().unwrap()).unwrap();
    sheet.fragments.swap(0, 1);
    let bad = crate::depot::PartList { sheet: Some(sheet.encode().unwrap()), ..good.clone() };
    let error = to.depot().receive(&pack, &part, bad).err().unwrap();
    assert!(matches!(error, DepotError::WrongSheet { .. }), "{error}");
    let none = crate::depot::PartList { sheet: None, ..good };
    let error = to.depot().receive(&pack, &part, none).err().unwrap();
    assert!(matches!(error, DepotError::NoSheet { .. }), "{error}");
    // It comes once.
    receive(server.depot(), to.depot(), &part, &pack).unwrap();
    assert_eq!(to.depot().sync(&[part]).parts.len(), 1);
    let other = server.depot().list(&pack.share(2), &pack).unwrap().unwrap();
    to.depot().receive(&pack, &pack.share(2), crate::depot::PartList { sheet: None, ..other }).unwrap();
}

#[test]
fn a_node_that_moves_to_another_fragment_drops_the_one_that_it_had() {
    let (server, catalog, _) = server();
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let old = take(&server, &to, &catalog, |pack| pack.share(4));
    let new = take(&server, &to, &catalog, |pack| pack.share(2));
    to.depot().drop_parts(&old.iter().copied().collect::<Vec<_>>()).unwrap();
    assert_eq!(to.depot().lost(), []);
    for pack in catalog.packs() {
        assert!(bytes_of(to.depot(), &pack.share(4), &pack).is_err());
        bytes_of(to.depot(), &pack.share(2), &pack).unwrap();
    }
    assert_eq!(to.again().parts(), new);
}

#[test]
fn what_no_catalog_lists_any_more_goes_unless_one_is_damaged() {
    let (server, catalog, _) = server();
    let to = Node::new(2);
    to.depot().remember(&catalog).unwrap();
    let all = take(&server, &to, &catalog, |pack| pack.share(4));
    // Another line lists the base only.
    let other = with(&catalog, |catalog| {
        catalog.version.term = term(2, 5);
        catalog.server = node(5);
        catalog.entries.truncate(1);
    });
    to.depot().remember(&other).unwrap();
    let name = format!("mail.2.{}.1.catalog", node(5));
    let mut bytes = std::fs::read(to.file(&name)).unwrap();
    bytes[20] ^= 1;
    std::fs::write(to.file(&name), bytes).unwrap();
    let to = to.again();
    assert_eq!(to.kept.catalogs.len(), 1);
    to.depot().forget(&service(SERVICE), term(1, 1)).unwrap();
    let held = |node: &Node| node.store.fragments().unwrap().held(&service(SERVICE)).len();
    assert_eq!(held(&to), all.len(), "nobody knows what the damaged one lists");
    to.depot().remember(&other).unwrap();
    assert_eq!(held(&to), other.packs().len(), "now it is known");
    let to = to.again();
    assert_eq!(to.parts(), other.packs().iter().map(|pack| pack.share(4)).collect());
    to.depot().forget(&service(SERVICE), term(2, 5)).unwrap();
    assert_eq!(held(&to), 0);
}

#[test]
fn a_warm_candidate_that_is_none_any_more_lets_snapshots_go_but_not_its_own() {
    let (server, catalog, pushed) = server();
    let warm = with(&catalog, |catalog| catalog.warm = [node(2)].into());
    let to = Node::new(2);
    to.depot().remember(&warm).unwrap();
    let whole = take(&server, &to, &warm, Pack::whole);
    assert_eq!(to.store.snapshots(None).unwrap().len(), 2);
    // What it pushes itself nobody else has.
    let own = push(&to.store, "news", to.me, &noise(9, GROUP));
    let cold = with(&warm, |catalog| catalog.warm = BTreeSet::new());
    to.depot().remember(&cold).unwrap();
    take(&server, &to, &cold, |pack| pack.share(3));
    let delta: Vec<Part> = cold.entries[1].packs.iter().map(Pack::whole).collect();
    to.depot().drop_parts(&delta).unwrap();
    let left: Vec<SnapshotId> =
        to.store.snapshots(Some(&service(SERVICE))).unwrap().iter().map(|i| i.id).collect();
    assert_eq!(left, [pushed[0].0], "the base is not to go yet");
    to.depot().drop_parts(&whole.iter().copied().collect::<Vec<_>>()).unwrap();
    assert_eq!(to.store.snapshots(Some(&service(SERVICE))).unwrap(), []);
    assert!(to.store.has_snapshot(&own));
    let to = to.again();
    assert_eq!(to.parts(), cold.packs().iter().map(|pack| pack.share(3)).collect());
}
