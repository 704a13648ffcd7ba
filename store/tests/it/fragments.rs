//! Fragments: cut from packs, kept, received in any order, built into packs and into other fragments; and everything
//! that may be wrong with them.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use sustain_proto::{Cut, FragmentId, GroupHasher, GroupList, PackId, PackRef, Sheet, SnapshotId};
use sustain_store::{
    Depth, ErrorKind, FragmentError, Fragments, NoProgress, Pace, Received, Store, StoredSheet, VerifyOptions,
};

use crate::common::*;

pub(crate) const CUT: Cut = Cut { needed: 3, total: 7, extent_bytes: 32 << 10 };
const GROUP: usize = 64 << 10;

/// A pack with its sheet and all its fragments.
pub(crate) struct Whole {
    pub(crate) pack: PackRef,
    pub(crate) bytes: Vec<u8>,
    pub(crate) sheet: StoredSheet,
    pub(crate) fragments: Vec<Vec<u8>>,
}

pub(crate) fn cut(store: &Store, name: &str, pack: PackId, cut: Cut) -> Whole {
    let mut fragments = vec![Vec::new(); usize::from(cut.total)];
    let all: Vec<u8> = (0..cut.total).collect();
    let mut sink = |index: u8, bytes: &[u8]| {
        fragments[usize::from(index)].extend_from_slice(bytes);
        Ok(())
    };
    let sheet = store.cut_pack(&service(name), pack, cut, &all, Pace::Full, &mut sink).unwrap();
    let reader = store.read_pack(pack).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    Whole { pack: sheet.pack, bytes, sheet: StoredSheet::unsigned(sheet).unwrap(), fragments }
}

pub(crate) fn list(bytes: &[u8]) -> GroupList {
    let mut hasher = GroupHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn groups(bytes: &[u8]) -> impl DoubleEndedIterator<Item = (usize, &[u8])> + ExactSizeIterator {
    bytes.chunks(GROUP).enumerate()
}

pub(crate) fn read(fragments: &Fragments, id: &FragmentId) -> Result<Vec<u8>, FragmentError> {
    let reader = fragments.open(id)?;
    let mut bytes = vec![0; reader.bytes() as usize];
    reader.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A store with a pack of some groups, and what it is cut into.
fn source(dir: &Path, bytes: usize) -> (Store, SnapshotId, Whole) {
    let store = create(dir);
    let report = push(&store, "mail", &regions(&[("ram", noise(1, bytes))]));
    let whole = cut(&store, "mail", report.packs[0].id, CUT);
    (store, report.snapshot, whole)
}

#[test]
fn a_pack_is_cut_built_again_and_imported() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, snapshot, whole) = source(a.path(), 900_000);
    assert_eq!(whole.fragments.iter().map(Vec::len).collect::<BTreeSet<_>>().len(), 1);
    for (id, bytes) in whole.sheet.sheet.fragments.iter().zip(&whole.fragments) {
        assert_eq!(*id, FragmentId::of(bytes));
        assert_eq!(bytes.len() as u64, CUT.fragment_bytes(whole.pack.bytes));
    }
    let to = create(b.path());
    let fragments = to.fragments().unwrap();
    let held = fragments.put(&whole.sheet, 5, &whole.fragments[5]).unwrap();
    fragments.sync(&[held]).unwrap();
    // One fragment is held, two come in any order.
    let builder = fragments.build_pack(&whole.sheet.sheet).unwrap();
    for index in [6, 1] {
        let here = builder.add(index, list(&whole.fragments[usize::from(index)])).unwrap();
        assert!(here.iter().all(|here| !here));
    }
    let (one, other) = (&whole.fragments[6], &whole.fragments[1]);
    for ((group, bytes), (back, late)) in groups(one).zip(groups(other).rev()) {
        assert_eq!(builder.write(6, group, bytes).unwrap(), Received::New);
        assert_eq!(builder.write(6, group, bytes).unwrap(), Received::Known);
        assert_eq!(builder.write(1, back, &vec![1; late.len()]).unwrap(), Received::Wrong);
        assert!(!builder.is_whole().unwrap());
        assert_eq!(builder.write(1, back, late).unwrap(), Received::New);
    }
    assert_eq!(builder.decoded(), whole.pack.bytes);
    assert_eq!(builder.finish().unwrap(), whole.pack);
    assert_eq!(files(b.path()).iter().filter(|path| path.ends_with("incoming")).count(), 0);
    let manifests = from.manifests_for(snapshot).unwrap();
    assert_eq!(to.packs_lacking(&manifests).unwrap(), []);
    let reader = to.read_pack(whole.pack.id).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    assert!(bytes == whole.bytes);
}

#[test]
fn what_is_held_is_there_after_opening_again() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 400_000);
    let signed =
        StoredSheet { bytes: b"a sheet, its maker, and his signature".to_vec(), ..whole.sheet.clone() };
    let mut store = create(b.path());
    for _ in 0..3 {
        let fragments = store.fragments().unwrap();
        let appended = fragments.put(&signed, 3, &whole.fragments[3]).unwrap();
        assert_eq!(appended.fragment(), whole.sheet.sheet.fragments[3]);
        fragments.sync(&[appended]).unwrap();
        let held = fragments.held(&service("mail"));
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].pack, held[0].cut, held[0].index), (whole.pack, CUT, Some(3)));
        assert!(read(&fragments, &held[0].fragment).unwrap() == whole.fragments[3]);
        assert_eq!(fragments.sheet(&service("mail"), &whole.pack.id).unwrap(), Some(signed.bytes.clone()));
        let usage = fragments.usage()[&service("mail")];
        assert_eq!((usage.fragments, usage.aside), (1, 0));
        assert!(usage.bytes > held[0].bytes && usage.bytes < held[0].bytes + 1_000);
        drop(fragments);
        drop(store);
        store = create(b.path());
    }
}

#[test]
fn what_was_not_synced_does_not_count() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 100_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let appended = fragments.put(&whole.sheet, 0, &whole.fragments[0]).unwrap();
    assert_eq!(fragments.held(&service("mail")), []);
    assert_eq!(fragments.open(&appended.fragment()).unwrap_err().kind(), ErrorKind::NotFound);
    fragments.sync(&[]).unwrap();
    assert_eq!(fragments.held(&service("mail")).len(), 1);
    fragments.sync(&[appended]).unwrap();
}

#[test]
fn many_threads_put_and_sync_at_once() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 300_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    std::thread::scope(|scope| {
        for (index, bytes) in (0..).zip(&whole.fragments) {
            let (fragments, sheet) = (&fragments, &whole.sheet);
            scope.spawn(move || {
                for _ in 0..3 {
                    let appended = fragments.put(sheet, index, bytes).unwrap();
                    let id = appended.fragment();
                    fragments.sync(&[appended]).unwrap();
                    assert!(read(fragments, &id).unwrap() == *bytes);
                }
            });
        }
    });
    drop((fragments, store));
    let held = create(b.path()).fragments().unwrap().held(&service("mail"));
    assert_eq!(held.len(), whole.fragments.len(), "each once");
}

#[test]
fn a_reception_goes_on_where_it_stopped() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 1_500_000);
    let bytes = &whole.fragments[4];
    let store = create(b.path());
    {
        let fragments = store.fragments().unwrap();
        let receiver = fragments.receive(whole.sheet.clone(), 4, list(bytes)).unwrap();
        let again = fragments.receive(whole.sheet.clone(), 4, list(bytes)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Busy);
        for (group, bytes) in groups(bytes).rev().step_by(2) {
            assert_eq!(receiver.write(group, bytes).unwrap(), Received::New);
        }
        assert_eq!(receiver.write(99, b"").unwrap(), Received::Wrong);
        assert!(matches!(receiver.finish(), Err(FragmentError::Incomplete { .. })));
    }
    drop(store);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let receiver = fragments.receive(whole.sheet.clone(), 4, list(bytes)).unwrap();
    let here = receiver.here();
    assert!(here.iter().filter(|here| **here).count() >= here.len() / 2);
    for (group, bytes) in groups(bytes).filter(|(group, _)| !here[*group]) {
        assert_eq!(receiver.write(group, bytes).unwrap(), Received::New);
    }
    let appended = receiver.finish().unwrap();
    fragments.sync(std::slice::from_ref(&appended)).unwrap();
    assert!(read(&fragments, &appended.fragment()).unwrap() == *bytes);
    assert!(!files(b.path()).iter().any(|path| path.extension().is_some_and(|end| end == "fragment")));
}

#[test]
fn another_fragment_is_built_of_others() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 700_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let builder = fragments.build_fragment(whole.sheet.clone(), 6).unwrap();
    for index in [0_u8, 4, 5] {
        assert!(!builder.is_whole().unwrap());
        let bytes = &whole.fragments[usize::from(index)];
        builder.add(index, list(bytes)).unwrap();
        for (group, bytes) in groups(bytes) {
            builder.write(index, group, bytes).unwrap();
        }
    }
    let appended = builder.finish().unwrap();
    fragments.sync(std::slice::from_ref(&appended)).unwrap();
    assert!(read(&fragments, &appended.fragment()).unwrap() == whole.fragments[6]);
}

#[test]
fn fragments_are_made_when_they_are_asked_for() {
    let a = tempfile::tempdir().unwrap();
    let (store, _, whole) = source(a.path(), 300_000);
    for (index, expected) in (0..).zip(&whole.fragments) {
        let reader = store.open_cut(whole.pack.id, CUT, index).unwrap();
        assert_eq!(reader.bytes(), expected.len() as u64);
        assert_eq!(reader.groups().unwrap(), list(expected));
        for (start, bytes) in [(0, 10), (10_000, 30_000), (expected.len() - 7, 7), (5, 0)] {
            let mut buffer = vec![0; bytes];
            reader.read_at(start as u64, &mut buffer).unwrap();
            assert!(buffer == expected[start..start + bytes], "{index}: {start}");
        }
        assert!(reader.read_at(expected.len() as u64 - 1, &mut [0; 2]).is_err());
    }
    assert!(matches!(store.open_cut(whole.pack.id, CUT, 7), Err(FragmentError::NoIndex { .. })));
    let mut made = Vec::new();
    let mut sink = |index: u8, bytes: &[u8]| {
        made.extend_from_slice(bytes);
        assert_eq!(index, 5);
        Ok(())
    };
    store.make_fragments(&whole.sheet.sheet, &[5], Pace::Behind, &mut sink).unwrap();
    assert!(made == whole.fragments[5]);
    let mut wrong: Sheet = whole.sheet.sheet.clone();
    wrong.fragments[5] = FragmentId::of(b"other");
    let error = store.make_fragments(&wrong, &[5], Pace::Full, &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(store.has_pack(&whole.pack.id), "it is the sheet that is wrong");
}

/// A sheet of what a damaged pack was cut into would have named fragments that make no pack.
#[test]
fn a_damaged_pack_is_not_cut() {
    let a = tempfile::tempdir().unwrap();
    let (store, _, whole) = source(a.path(), 300_000);
    flip(&pack_file(a.path(), whole.pack.id), 100_000);
    let cut = store.cut_pack(&service("mail"), whole.pack.id, CUT, &[], Pace::Full, &mut |_, _| Ok(()));
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!store.has_pack(&whole.pack.id), "it is set aside");
}

#[test]
fn what_is_not_what_its_sheet_names_is_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 300_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let wrong =
        |outcome: Result<_, FragmentError>| assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    wrong(fragments.put(&whole.sheet, 1, &whole.fragments[2]).map(drop));
    wrong(fragments.receive(whole.sheet.clone(), 1, list(&whole.fragments[2])).map(drop));
    wrong(fragments.build_pack(&whole.sheet.sheet).unwrap().add(1, list(&whole.fragments[2])).map(drop));
    assert!(matches!(fragments.put(&whole.sheet, 7, b""), Err(FragmentError::NoIndex { .. })));
    let mut large = whole.sheet.clone();
    large.bytes = vec![0; 1 << 20];
    assert!(matches!(fragments.put(&large, 1, b""), Err(FragmentError::SheetTooLarge { .. })));
    // A sheet whose fragments make another pack than it says.
    let mut other = whole.sheet.sheet.clone();
    other.pack.id = PackId::of(b"another pack");
    let builder = fragments.build_pack(&other).unwrap();
    for index in [0_u8, 1, 2] {
        let bytes = &whole.fragments[usize::from(index)];
        builder.add(index, list(bytes)).unwrap();
        groups(bytes).for_each(|(group, bytes)| _ = builder.write(index, group, bytes).unwrap());
    }
    assert_eq!(builder.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!store.has_pack(&other.pack.id));
}

/// Where a held fragment's bytes are in its segment.
fn place_of(segment: &Path, bytes: &[u8]) -> usize {
    let all = std::fs::read(segment).unwrap();
    (0..all.len() - 100).find(|at| all[*at..at + 100] == bytes[..100]).unwrap()
}

#[test]
fn a_damaged_fragment_is_not_given_out_and_comes_again() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 900_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let appended =
        [2, 3].map(|index| fragments.put(&whole.sheet, index, &whole.fragments[index as usize]).unwrap());
    fragments.sync(&appended).unwrap();
    let segment = b.path().join("fragments/mail/00000001.segment");
    let start = place_of(&segment, &whole.fragments[2]);
    let id = whole.sheet.sheet.fragments[2];
    let reader = fragments.open(&id).unwrap();
    flip(&segment, start + 2 * GROUP + 5);
    let mut buffer = vec![0; 3 * GROUP];
    // What is sound is still read, and a wrong question is no damage.
    reader.read_at(0, &mut buffer[..2 * GROUP]).unwrap();
    assert!(reader.read_at(reader.bytes(), &mut buffer).is_err());
    assert_eq!(fragments.usage()[&service("mail")].aside, 0);
    assert!(matches!(reader.read_at(9, &mut buffer), Err(FragmentError::Damaged { .. })));
    assert!(matches!(fragments.open(&id), Err(FragmentError::NotFound { .. })));
    assert_eq!(fragments.usage()[&service("mail")].aside, 1);
    drop((reader, fragments, store));
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    assert_eq!(fragments.held(&service("mail")).len(), 1, "it stays aside");
    let again = fragments.put(&whole.sheet, 2, &whole.fragments[2]).unwrap();
    fragments.sync(&[again]).unwrap();
    assert!(read(&fragments, &id).unwrap() == whole.fragments[2]);
}

/// Three fragments in a segment that was closed, and the places of their records.
fn closed(dir: &Path, whole: &Whole) -> (std::path::PathBuf, Vec<usize>) {
    let store = create(dir);
    let fragments = store.fragments().unwrap();
    let put = |index: u8| fragments.put(&whole.sheet, index, &whole.fragments[usize::from(index)]).unwrap();
    let appended = [0, 1, 2].map(put);
    fragments.sync(&appended).unwrap();
    drop((fragments, store));
    let segment = dir.join("fragments/mail/00000001.segment");
    let bytes = std::fs::read(&segment).unwrap();
    let places = (0..bytes.len() - 4).step_by(8).filter(|at| bytes[*at..].starts_with(b"SUSr")).collect();
    (segment, places)
}

#[test]
fn what_is_behind_a_damaged_record_is_found() {
    let a = tempfile::tempdir().unwrap();
    let (_, _, whole) = source(a.path(), 300_000);
    for damaged in 0..3 {
        let b = tempfile::tempdir().unwrap();
        let (segment, places) = closed(b.path(), &whole);
        assert_eq!(places.len(), 4, "three, and a mark");
        flip(&segment, places[damaged] + 50);
        let store = create(b.path());
        let fragments = store.fragments().unwrap();
        let indices =
            || -> Vec<u8> { fragments.held(&service("mail")).iter().filter_map(|held| held.index).collect() };
        let left: Vec<u8> = (0..3).filter(|index| usize::from(*index) != damaged).collect();
        assert_eq!(indices(), left);
        assert_eq!(fragments.bad().len(), 1, "{:?}", fragments.bad());
        assert_eq!(store.verify(&NoProgress).unwrap().bad.len(), 1);
        let index = damaged as u8;
        let again = fragments.put(&whole.sheet, index, &whole.fragments[damaged]).unwrap();
        fragments.sync(&[again]).unwrap();
        drop((fragments, store));
        let store = create(b.path());
        let fragments = store.fragments().unwrap();
        assert_eq!(fragments.held(&service("mail")).len(), 3);
        for (id, bytes) in whole.sheet.sheet.fragments.iter().zip(&whole.fragments).take(3) {
            assert!(read(&fragments, id).unwrap() == *bytes);
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_written_over() {
    let a = tempfile::tempdir().unwrap();
    let (_, _, whole) = source(a.path(), 300_000);
    let b = tempfile::tempdir().unwrap();
    let (segment, places) = closed(b.path(), &whole);
    let bytes = std::fs::read(&segment).unwrap();
    // Of a record that was begun when the power went, any part may be there.
    for torn in [1, 100, 144, 5_000, places[1] - places[0] - 1] {
        let mut with_end = bytes.clone();
        with_end.extend_from_slice(&bytes[places[0]..places[0] + torn]);
        std::fs::write(&segment, &with_end).unwrap();
        let store = create(b.path());
        let fragments = store.fragments().unwrap();
        assert_eq!((fragments.bad().len(), fragments.held(&service("mail")).len()), (0, 3));
        assert_eq!(std::fs::metadata(&segment).unwrap().len(), bytes.len() as u64, "{torn} bytes");
    }
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let more = fragments.put(&whole.sheet, 3, &whole.fragments[3]).unwrap();
    fragments.sync(&[more]).unwrap();
    drop((fragments, store));
    assert_eq!(create(b.path()).fragments().unwrap().held(&service("mail")).len(), 4);
}

#[test]
fn a_segment_that_can_not_be_read_costs_no_other() {
    let a = tempfile::tempdir().unwrap();
    let (_, _, whole) = source(a.path(), 300_000);
    let b = tempfile::tempdir().unwrap();
    let (segment, _) = closed(b.path(), &whole);
    // Of a version that is still to come.
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4] = 2;
    std::fs::write(&segment, &bytes).unwrap();
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    assert!(fragments.bad()[0].reason.contains("version 2"), "{:?}", fragments.bad());
    let put = fragments.put(&whole.sheet, 3, &whole.fragments[3]).unwrap();
    fragments.sync(&[put]).unwrap();
    fragments.sweep().unwrap();
    drop((fragments, store));
    // Nothing of it was changed, and all of it is back with whoever can read it.
    assert!(std::fs::read(&segment).unwrap() == bytes);
    bytes[4] = 1;
    std::fs::write(&segment, &bytes).unwrap();
    assert_eq!(create(b.path()).fragments().unwrap().held(&service("mail")).len(), 3);
}

#[test]
fn verifying_finds_damaged_fragments_and_sets_them_aside() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, whole) = source(a.path(), 900_000);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let appended =
        [2, 3].map(|index| fragments.put(&whole.sheet, index, &whole.fragments[index as usize]).unwrap());
    fragments.sync(&appended).unwrap();
    let report = store.verify(&NoProgress).unwrap();
    assert_eq!((report.bad.len(), report.fragments), (0, 2));
    let segment = b.path().join("fragments/mail/00000001.segment");
    flip(&segment, place_of(&segment, &whole.fragments[3]));
    for depth in [Depth::Contents, Depth::Packs] {
        let report =
            store.verify_with(&VerifyOptions { depth, ..VerifyOptions::default() }, &NoProgress).unwrap();
        assert_eq!((report.bad.len(), report.fragments), (1, 1), "{:?}", report.bad);
        assert_eq!(report.bad[0].path, segment);
        assert!(report.bad[0].reason.contains(&whole.sheet.sheet.fragments[3].short()));
    }
    // Beside the process that keeps them, too.
    drop(fragments);
    let other = create(b.path());
    let _kept = other.fragments().unwrap();
    assert_eq!(store.verify(&NoProgress).unwrap().bad.len(), 1);
    let options = VerifyOptions { set_aside: true, ..VerifyOptions::default() };
    other.verify_with(&options, &NoProgress).unwrap();
    assert_eq!(other.fragments().unwrap().usage()[&service("mail")].aside, 1);
}

#[test]
fn fragments_go_when_no_kept_manifest_lists_their_pack() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = create(a.path());
    let mut content = regions(&[("ram", noise(5, 300_000))]);
    let base = push(&from, "mail", &content);
    content.get_mut("ram").unwrap()[7] ^= 1;
    let delta = push(&from, "mail", &content);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let manifests = from.manifests_for(delta.snapshot).unwrap();
    // The delta came first: which packs its base lists nobody knows.
    assert_eq!(fragments.keep_manifests(&manifests[1..]).unwrap(), [delta.snapshot]);
    let packs = from.packs_needed(delta.snapshot).unwrap();
    assert_eq!(packs.len(), 2);
    let wholes: Vec<Whole> = packs.iter().map(|pack| cut(&from, "mail", pack.id, CUT)).collect();
    for whole in &wholes {
        let appended = fragments.put(&whole.sheet, 1, &whole.fragments[1]).unwrap();
        fragments.sync(&[appended]).unwrap();
    }
    assert_eq!(fragments.sweep().unwrap().uncertain, BTreeSet::from([service("mail")]));
    assert_eq!(fragments.held(&service("mail")).len(), 2);
    fragments.keep_manifests(&manifests).unwrap();
    assert_eq!(fragments.packs_without(&service("mail")), []);
    assert_eq!(fragments.sweep().unwrap().fragments, 0);
    let needed = fragments.release(&BTreeSet::from([base.snapshot]));
    assert!(matches!(needed, Err(FragmentError::BaseNeeded { .. })));
    let reader = fragments.open(&wholes[1].sheet.sheet.fragments[1]).unwrap();
    let freed = fragments.release(&BTreeSet::from([delta.snapshot])).unwrap();
    assert_eq!(freed.fragments, 1);
    assert!(reader.read_at(0, &mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    let held = fragments.held(&service("mail"));
    assert_eq!((held.len(), held[0].pack), (1, wholes[0].pack));
    assert!(read(&fragments, &held[0].fragment).unwrap() == wholes[0].fragments[1]);
    // What is dropped stays so, and the last one takes the file with it.
    drop((reader, fragments, store));
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    assert_eq!(fragments.held(&service("mail")).len(), 1);
    assert_eq!(fragments.manifests(&service("mail")).len(), 1);
    fragments.release(&BTreeSet::from([base.snapshot])).unwrap();
    assert_eq!(fragments.held(&service("mail")), []);
    let segments = || -> Vec<_> {
        files(b.path())
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "segment"))
            .collect()
    };
    assert!(segments().is_empty());
    // The next one does not get the name of one that may be on its way out.
    let appended = fragments.put(&wholes[0].sheet, 1, &wholes[0].fragments[1]).unwrap();
    fragments.sync(&[appended]).unwrap();
    assert!(segments()[0].ends_with("00000002.segment"), "{:?}", segments());
}

/// Blocks that the file has on the disk.
fn blocks(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap())
}

#[test]
fn what_is_dropped_frees_its_room() {
    let b = tempfile::tempdir().unwrap();
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    let mut kept = Vec::new();
    for seed in 0..3 {
        let a = tempfile::tempdir().unwrap();
        let from = create(a.path());
        let snapshot = push(&from, "mail", &regions(&[("ram", noise(seed, 600_000))]));
        fragments.keep_manifests(&from.manifests_for(snapshot.snapshot).unwrap()).unwrap();
        let whole = cut(&from, "mail", snapshot.packs[0].id, CUT);
        let appended = fragments.put(&whole.sheet, 0, &whole.fragments[0]).unwrap();
        fragments.sync(&[appended]).unwrap();
        kept.push(snapshot.snapshot);
    }
    // Something that is listed by a snapshot here, and by nothing else.
    let own = push(&store, "news", &regions(&[("ram", noise(9, 200_000))]));
    let whole = cut(&store, "news", own.packs[0].id, CUT);
    let appended = fragments.put_sheet(&whole.sheet).unwrap();
    fragments.sync(&[appended]).unwrap();
    let segment = b.path().join("fragments/mail/00000001.segment");
    let before = blocks(&segment);
    let bytes = fragments.usage()[&service("mail")].bytes;
    let freed = fragments.release(&BTreeSet::from([kept[1]])).unwrap();
    assert_eq!(freed.fragments, 1);
    assert!(freed.bytes > 200_000);
    assert_eq!(fragments.usage()[&service("mail")].bytes, bytes - freed.bytes);
    assert!(before - blocks(&segment) >= 190_000 / 512, "{} of {before}", blocks(&segment));
    assert!(fragments.sheet(&service("news"), &own.packs[0].id).unwrap().is_some());
    verify_good(&store);
    // By whoever collects the store, unless another process keeps them.
    drop(fragments);
    assert_eq!(store.sweep_fragments(true).unwrap().unwrap().fragments, 0);
    std::fs::remove_file(b.path().join(format!("fragments/mail/manifests/{}.manifest", kept[0]))).unwrap();
    let swept = store.sweep_fragments(true).unwrap();
    assert_eq!(swept.as_ref().unwrap().fragments, 1);
    let other = create(b.path());
    let kept_elsewhere = other.fragments().unwrap();
    assert_eq!(store.sweep_fragments(false).unwrap(), None);
    drop(kept_elsewhere);
    assert_eq!(store.sweep_fragments(false).unwrap(), swept);
    assert_eq!(store.sweep_fragments(true).unwrap().unwrap().fragments, 0);
}

#[test]
fn a_damaged_manifest_keeps_all_fragments_until_it_comes_again() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, snapshot, whole) = source(a.path(), 300_000);
    let manifests = from.manifests_for(snapshot).unwrap();
    {
        let store = create(b.path());
        let fragments = store.fragments().unwrap();
        fragments.keep_manifests(&manifests).unwrap();
        let appended = fragments.put(&whole.sheet, 0, &whole.fragments[0]).unwrap();
        fragments.sync(&[appended]).unwrap();
    }
    let file = b.path().join(format!("fragments/mail/manifests/{snapshot}.manifest"));
    flip(&file, 30);
    let store = create(b.path());
    let fragments = store.fragments().unwrap();
    assert_eq!((fragments.bad().len(), fragments.manifests(&service("mail")).len()), (1, 0));
    assert_eq!(fragments.sweep().unwrap().uncertain.len(), 1);
    assert_eq!(fragments.held(&service("mail")).len(), 1);
    fragments.keep_manifests(&manifests).unwrap();
    let swept = fragments.sweep().unwrap();
    assert_eq!((swept.fragments, swept.uncertain.len()), (0, 0));
    assert_eq!(fragments.held(&service("mail")).len(), 1);
}

#[test]
fn one_process_keeps_the_fragments_and_others_look() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, snapshot, whole) = source(a.path(), 300_000);
    let (store, other) = (create(b.path()), create(b.path()));
    assert!(other.look_at_fragments().unwrap().is_none(), "there are none");
    let fragments = store.fragments().unwrap();
    fragments.keep_manifests(&from.manifests_for(snapshot).unwrap()).unwrap();
    let appended = fragments.put(&whole.sheet, 0, &whole.fragments[0]).unwrap();
    let id = appended.fragment();
    fragments.sync(&[appended]).unwrap();
    assert_eq!(other.fragments().unwrap_err().kind(), ErrorKind::Busy);
    let seen = other.look_at_fragments().unwrap().unwrap();
    assert!(read(&seen, &id).unwrap() == whole.fragments[0]);
    assert_eq!(seen.put(&whole.sheet, 1, &whole.fragments[1]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(seen.sweep().unwrap_err().kind(), ErrorKind::ReadOnly);
    let appended = fragments.put(&whole.sheet, 1, &whole.fragments[1]).unwrap();
    fragments.sync(&[appended]).unwrap();
    fragments.release(&BTreeSet::from([snapshot])).unwrap();
    assert_eq!(
        read(&seen, &id).unwrap_err().kind(),
        ErrorKind::NotFound,
        "it was dropped, and is not damaged"
    );
    // Another handle of the same process is the same.
    assert_eq!(store.fragments().unwrap().held(&service("mail")), fragments.held(&service("mail")));
    drop((store, fragments));
    other.fragments().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_needed_fragments_build_any_pack(
        (needed, total, order) in (2_u8..7, 0_u8..8).prop_flat_map(|(needed, more)| {
            let all: Vec<u8> = (0..needed + more).collect();
            (Just(needed), Just(needed + more), Just(all).prop_shuffle())
        }),
        extent_bytes in 4_096_u32..40_000,
        bytes in 1_usize..300_000,
        seed in any::<u64>(),
    ) {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = create(a.path());
        let pack = push(&from, "mail", &regions(&[("ram", noise(seed, bytes))])).packs[0].id;
        let whole = cut(&from, "mail", pack, Cut { needed, total, extent_bytes });
        let store = create(b.path());
        let fragments = store.fragments().unwrap();
        let builder = fragments.build_pack(&whole.sheet.sheet).unwrap();
        for index in &order[..usize::from(needed)] {
            let bytes = &whole.fragments[usize::from(*index)];
            builder.add(*index, list(bytes)).unwrap();
            for (group, bytes) in groups(bytes) {
                builder.write(*index, group, bytes).unwrap();
            }
        }
        prop_assert_eq!(builder.finish().unwrap(), whole.pack);
    }
}
