//! The stored formats: the examples of docs/format.md are what is written, and a store of version 1 stays readable.
//!
//! `SUSTAIN_WRITE_FIXTURE=1` (`make fixture`) writes the examples anew. The store of version 1 is frozen: it is written
//! if it is missing, and never changed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sustain_proto::{Cut, Manifest, NodeId, PackId, PinName, SnapshotKind};
use sustain_store::{KeySource, Pace, PushLineage, PushRequest, Store, StoreOptions, StoredSheet, fuzzing};

use crate::common::*;

fn writes() -> bool {
    std::env::var_os("SUSTAIN_WRITE_FIXTURE").is_some()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn given(dir: &Path) -> Store {
    let key = KeySource::Given(fuzzing::SECRET);
    Store::open(dir, StoreOptions { key, create: true, ..StoreOptions::default() }).unwrap()
}

fn push_at(store: &Store, name: &str, content: &Regions, time_ms: u64) -> sustain_store::PushReport {
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([7; 32]), nonce: 9 };
    let mut push = store.begin_push(PushRequest { service: service(name), lineage, time_ms }).unwrap();
    for (name, bytes) in content {
        push.ingest(&region(name), &Bytes(bytes)).unwrap();
    }
    push.commit().unwrap()
}

/// Bytes with what they are, sixteen a line.
fn dump(text: &mut String, what: &str, bytes: &[u8]) {
    for (number, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let note = if number == 0 { what } else { "" };
        writeln!(text, "{:47}  {note}", hex.join(" ")).unwrap();
    }
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Bytes of the example's manifest before the last number.
const MANIFEST_BYTES_BEFORE: usize =
    6 + 5 + 8 + 1 + 32 + 1 + 1 + 1 + 6 + 3 + 1 + 6 + 1 + 32 + 32 + 1 + 1 + 32;

/// The parts of a manifest, which are its bytes put together.
fn manifest_example(encoded: &[u8], manifest: &Manifest) -> String {
    let mut text = String::new();
    let mut rest = encoded;
    let mut take = |what: &str, count: usize| {
        let (now, later) = rest.split_at(count);
        rest = later;
        dump(&mut text, what, now);
    };
    take("`SUSM`, version 1", 6);
    take("service: 4 characters, `mail`", 5);
    take("key", 8);
    take("term: counter 1", 1);
    take("term: node", 32);
    take("term: nonce 9", 1);
    take("origin: none", 1);
    take("seq: 1", 1);
    take("time: 1,767,225,600,000", 6);
    assert!(matches!(&manifest.kind, SnapshotKind::Base { .. }));
    take("kind: base; made of 0 others; 0 were kept", 3);
    take("parents: none", 1);
    take("regions: 1, `ram`, 5 bytes", 6);
    take("indexes: 1", 1);
    take("its root", 32);
    take("content", 32);
    take("first content: none", 1);
    take("packs: 1", 1);
    take("its id", 32);
    let bytes = manifest.packs[0].bytes;
    let left = encoded.len() - MANIFEST_BYTES_BEFORE;
    take(&format!("its bytes: {bytes}"), left);
    text
}

fn pack_example(pack: &[u8]) -> String {
    let mut text = String::new();
    let end = pack.len() - 36;
    let trailer = &pack[end..];
    let start = u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize;
    dump(&mut text, "header", &pack[..8]);
    dump(&mut text, "blocks, sealed", &pack[8..start]);
    dump(&mut text, "directory, sealed", &pack[start..end]);
    dump(&mut text, "trailer: offset of the directory", &trailer[..8]);
    dump(&mut text, "key", &trailer[8..16]);
    dump(&mut text, "nonce of the directory", &trailer[16..28]);
    dump(&mut text, "check", &trailer[28..32]);
    dump(&mut text, "`KCPS`", &trailer[32..]);
    let (directory, blocks) = fuzzing::opened(pack).expect("the pack is read");
    text.push('\n');
    dump(&mut text, "the directory, opened", &directory[4..]);
    for block in blocks {
        text.push('\n');
        // Behind what fuzzing puts before it.
        dump(&mut text, "a block, opened", &block[10..]);
    }
    text
}

/// What the example's pack is cut into, and the segment that has its last fragment.
fn segment_example(store: &Store, pack: PackId) -> String {
    let cut = Cut { needed: 2, total: 3, extent_bytes: 4_096 };
    let mut fragment = Vec::new();
    let mut sink = |_: u8, bytes: &[u8]| {
        fragment.extend_from_slice(bytes);
        Ok(())
    };
    let sheet = store.cut_pack(&service("mail"), pack, cut, &[2], Pace::Full, &mut sink).unwrap();
    let sheet = StoredSheet::unsigned(sheet).unwrap();
    let segment = fuzzing::segment_of([9; 16], &sheet, 2, &fragment).unwrap();
    let mut text = String::new();
    let mut rest = segment.as_slice();
    let mut take = |what: &str, count: usize| {
        let (now, later) = rest.split_at(count);
        rest = later;
        dump(&mut text, what, now);
    };
    let header = |take: &mut dyn FnMut(&str, usize), kind: &str| {
        take(&format!("`SUSr`; {kind}"), 5);
        take("number, fragments needed, fragments in all", 3);
        take("bytes of an extent, of the sheet", 8);
        take("bytes of the fragment, of the pack", 16);
        take("bytes that were synced", 8);
        take("pack", 32);
        take("fragment", 32);
        take("check of the sheet", 16);
        take("check", 16);
        take("state: here", 8);
    };
    take("`SUSg`, version 1", 8);
    take("salt", 16);
    header(&mut take, "a fragment");
    take("sheet: `SUSF`, version 1", 6);
    take("service: 4 characters, `mail`", 5);
    take("pack", 32);
    take("its bytes: 236", 2);
    take("2 of 3 fragments, extents of 4,096 bytes", 4);
    take("3 fragments", 1);
    take("fragment 0", 32);
    take("fragment 1", 32);
    take("fragment 2", 32);
    take("the fragment", fragment.len());
    let filling = (segment.len() - fragment.len() - 24 - 2 * 144 - sheet.bytes.len()) % 8;
    take("zeros, up to a multiple of 8", filling);
    header(&mut take, "a mark");
    text
}

fn place_of(document: &str, name: &str) -> std::ops::Range<usize> {
    let begin = format!("<!-- example: {name} -->\n```\n");
    let start = document.find(&begin).expect("the document has the example's place") + begin.len();
    let end = start + document[start..].find("```\n<!-- end -->").expect("the example ends");
    start..end
}

/// A document that nobody compares with the code is soon about another format.
#[test]
fn the_examples_of_the_document_are_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = given(dir.path());
    let content = regions(&[("ram", b"hello".to_vec())]);
    let report = push_at(&store, "mail", &content, 1_767_225_600_000);
    let (manifest, encoded) = store.manifest(report.snapshot).unwrap();
    let reader = store.read_pack(report.packs[0].id).unwrap();
    let mut pack = vec![0; reader.len() as usize];
    reader.read_at(0, &mut pack).unwrap();
    let path = root().join("docs/format.md");
    let mut document = fs::read_to_string(&path).unwrap();
    let secret = format!("The secret is made of 32 bytes of {}, as that of `mail`.\n", fuzzing::SECRET[0]);
    for (name, example) in [
        ("manifest", manifest_example(&encoded, &manifest)),
        ("pack", format!("{secret}\n{}", pack_example(&pack))),
        ("segment", segment_example(&store, report.packs[0].id)),
    ] {
        let example = trimmed(&example) + "\n";
        let place = place_of(&document, name);
        if writes() {
            document.replace_range(place, &example);
        } else {
            assert!(
                document[place.clone()] == example,
                "{name} is now\n{example}\n(`make fixture` writes it)"
            );
        }
    }
    if writes() {
        fs::write(path, document).unwrap();
    }
}

/// The states of the store of version 1, oldest first.
fn states() -> Vec<Regions> {
    let mut content = regions(&[("device", b"registers".to_vec()), ("ram", vec![0; 5 * 65_536 + 17])]);
    for (at, byte) in content.get_mut("ram").unwrap().iter_mut().enumerate().take(200_000) {
        *byte = (at / 4_096 * 31) as u8;
    }
    let mut states = vec![content.clone()];
    // A changed page, a page of noise, one that was there before, a chunk that is zero now, a region that grows.
    content.get_mut("ram").unwrap()[70_000..70_010].fill(0xee);
    states.push(content.clone());
    content.get_mut("ram").unwrap()[4_096..8_192].copy_from_slice(&noise(3, 4_096));
    content.get_mut("ram").unwrap()[131_072..196_608].fill(0);
    states.push(content.clone());
    content.get_mut("ram").unwrap().extend_from_slice(&[9; 70_000]);
    content.insert("device".to_owned(), b"other registers".to_vec());
    states.push(content);
    states
}

fn build(dir: &Path) {
    let store = given(dir);
    for (number, state) in states().iter().enumerate() {
        push_at(&store, "mail", state, 1_767_225_600_000 + number as u64);
    }
    store.pin(store.resolve("mail@-2").unwrap(), &PinName::new("kept").unwrap()).unwrap();
    drop(store);
    // No part of the format: it is made anew.
    fs::remove_file(dir.join("journal")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

/// What is stored once is to be read for ever. If this fails, a new version of a format is called for, and a reader of
/// this one beside it.
#[test]
fn a_store_of_version_1_is_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store-v1");
    if writes() && !fixture.exists() {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        copy(dir.path(), &fixture);
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture, dir.path());
    let store = given(dir.path());
    assert_eq!(store.opened().bad, []);
    let states = states();
    let listed = store.snapshots(Some(&service("mail"))).unwrap();
    assert_eq!(listed.len(), states.len());
    for (info, state) in listed.iter().zip(&states) {
        assert_eq!(&restore(&store, info.id), state, "number {}", info.seq);
    }
    let pins = store.pins().unwrap();
    assert_eq!((pins.len(), pins[0].snapshot), (1, Some(listed[1].id)));
    verify_good(&store);
    // It is a store like any other.
    let last = states.last().unwrap();
    let mut next = last.clone();
    next.get_mut("ram").unwrap()[3] ^= 1;
    let pushed = push_at(&store, "mail", &next, 1_767_225_600_009);
    assert_eq!(restore(&store, pushed.snapshot), next);
    let base = store.rebase(&service("mail"), None).unwrap().base;
    let kept = store.pins().unwrap()[0].snapshot.expect("what is pinned stays");
    assert_eq!(&restore(&store, kept), &states[1]);
    assert_eq!(restore(&store, base), next);
}
