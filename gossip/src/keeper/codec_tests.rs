//! What a keeper's messages are as bytes.

use std::sync::Arc;

use sustain_proto::{Cut, Held, PackId, Signature, SnapshotId, TermOrigin};

use super::super::message::{Page, Refusal, Report};
use super::super::part::{Pack, Part, Which};
use super::super::ranges::Ranges;
use super::*;

fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; 32])
}

fn term() -> Term {
    Term { counter: 3, node: node(9), nonce: 4 }
}

fn service() -> ServiceName {
    ServiceName::new("mail").unwrap()
}

fn entry(added: u64, manifest_bytes: usize, packs: usize) -> Entry {
    let manifest = vec![added as u8; manifest_bytes];
    let cut = Some(Cut { needed: 6, total: 24, extent_bytes: 6 << 16 });
    let pack = |number: usize| {
        let id = PackId::of(&number.to_le_bytes());
        Pack { id, bytes: 16 << 20, cut, sheet: Some([7; 32]), added }
    };
    Entry {
        id: SnapshotId::of_manifest(&manifest),
        term: term(),
        origin: Some(TermOrigin { parent: term(), seq: u64::MAX }),
        seq: added,
        added,
        base: Some(SnapshotId::from_bytes([1; 32])),
        manifest: Arc::from(manifest),
        packs: (0..packs).map(pack).collect(),
    }
}

fn catalog(entries: Vec<Entry>) -> Catalog {
    Catalog {
        service: service(),
        version: Version { term: term(), number: 1 << 20 },
        inherits: Some(Version { term: term(), number: 4 }),
        server: node(9),
        tolerance: 2,
        warm: [node(1), node(2)].into(),
        encoders: [node(3)].into(),
        spread_to: 5,
        terms: [(term(), None)].into(),
        merged: [Held { term: term(), seq: 8 }].into(),
        entries,
        signature: Signature::from_bytes(&[5; 64]),
    }
}

/// One of each kind, in the order of the kinds.
pub(crate) fn one_of_each() -> Vec<Message> {
    let part = Part { pack: PackId::of(b"pack"), which: Which::Fragment(7) };
    let version = Version { term: term(), number: 6 };
    let page = Page {
        catalog: catalog(vec![entry(6, 100, 2)]),
        entries: 3,
        since: Some(version),
        kept: Ranges::one(1, 3),
    };
    let claim =
        super::super::claims::Claim { node: node(1), life: 2, number: 3, index: Some(4), moving: None };
    let report = Report {
        service: service(),
        term: term(),
        node: node(1),
        life: 2,
        number: 3,
        is_whole: false,
        index: Some(4),
        to: 5,
        is_capped: true,
    };
    vec![
        Message::Digest {
            catalogs: vec![(service(), version)],
            buckets: Some(Box::new([3; limits::CLAIM_BUCKETS])),
        },
        Message::Get { service: service(), term: term(), known: vec![version] },
        Message::Catalog(Box::new(page)),
        Message::Claims { claims: vec![claim], differing: 5 },
        Message::Ask { request: 1, part, missing: Ranges::one(0, 9), is_stuck: false },
        Message::Grant { request: 1, range: (0, 9) },
        Message::Refuse { request: 1, why: Refusal::Elsewhere { nodes: vec![node(2)] } },
        Message::Have { part, ranges: Ranges::whole(9) },
        Message::Report(report),
        Message::Counted { service: service(), term: term(), life: 2, number: 3, spread_to: 4 },
    ]
}

/// What kind of message a body is, is its first byte: a new kind goes to the end.
#[test]
fn every_kind_is_read_as_it_was_written_and_keeps_its_number() {
    for (kind, message) in one_of_each().iter().enumerate() {
        let bytes = encode(message).unwrap();
        assert_eq!(usize::from(bytes[6]), kind, "{message:?}");
        assert_eq!(decode(&bytes).unwrap(), *message);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn a_message_is_exactly_these_bytes() {
    let message = Message::Grant { request: 300, range: (5, 70_000) };
    let expected = [&b"SUKM"[..], &[1, 0], &[5], &[0xac, 2], &[5], &[0xf0, 0xa2, 4]].concat();
    assert_eq!(encode(&message).unwrap(), expected);
}

#[test]
fn ranges_that_are_none_are_refused() {
    let part = Part { pack: PackId::of(b"pack"), which: Which::Whole };
    let good = encode(&Message::Have { part, ranges: Ranges::one(1, 2) }).unwrap();
    let start = good.len() - 2;
    assert_eq!(good[start..], [1, 2]);
    for ends in [[2, 2], [3, 2]] {
        let mut bytes = good.clone();
        bytes[start..].copy_from_slice(&ends);
        assert!(decode(&bytes).is_err(), "{ends:?}");
    }
}

#[test]
fn too_long_lists_are_refused() {
    let nodes = vec![node(1); limits::HINTS_MAX + 1];
    let bytes = encode(&Message::Refuse { request: 1, why: Refusal::Elsewhere { nodes } }).unwrap();
    assert!(decode(&bytes).is_err());
    let known = vec![Version { term: term(), number: 1 }; limits::LINES_MAX + 1];
    let bytes = encode(&Message::Get { service: service(), term: term(), known }).unwrap();
    assert!(decode(&bytes).is_err());
}

/// The largest of everything fits, and what is taken for the size of an entry is not less than it is.
#[test]
fn the_largest_messages_fit_a_frame() {
    let largest = entry(u64::MAX >> 16, sustain_proto::limits::MANIFEST_BYTES_MAX, 1_500);
    let bytes = sustain_proto::encode(ENTRY, &largest).unwrap().len();
    assert!(bytes <= entry_bytes(&largest), "{bytes}");
    let mut page =
        Page { catalog: catalog(vec![largest]), entries: 512, since: None, kept: Ranges::default() };
    let terms = (0..limits::TERMS_MAX as u64).map(|counter| {
        (Term { counter, nonce: u64::MAX, ..term() }, Some(TermOrigin { parent: term(), seq: u64::MAX }))
    });
    page.catalog.terms = terms.collect();
    page.catalog.merged = (0..limits::MERGED_MAX as u64).map(|seq| Held { term: term(), seq }).collect();
    page.catalog.warm = (0..limits::WARM_MAX as u8).map(node).collect();
    page.catalog.encoders = page.catalog.warm.clone();
    (0..limits::ENTRIES_MAX as u64).for_each(|added| page.kept.insert(2 * added, 2 * added + 1));
    encode(&Message::Catalog(Box::new(page))).unwrap();
    let name = "m".repeat(sustain_proto::limits::SERVICE_NAME_BYTES_MAX);
    let named = (
        ServiceName::new(name).unwrap(),
        Version { term: Term { counter: u64::MAX, nonce: u64::MAX, ..term() }, number: u64::MAX },
    );
    let catalogs = vec![named; limits::LINES_TOLD_MAX];
    encode(&Message::Digest { catalogs, buckets: Some(Box::new([u64::MAX; limits::CLAIM_BUCKETS])) })
        .unwrap();
}

#[test]
fn a_catalog_is_read_as_it_was_written() {
    let catalog = catalog(vec![entry(1, 50, 1), entry(4, 60, 3)]);
    let bytes = encode_catalog(&catalog).unwrap();
    assert_eq!(decode_catalog(&bytes).unwrap(), catalog);
    assert!(decode_catalog(&bytes[..bytes.len() - 1]).is_err());
}

/// Whatever is changed, the signature is over something else.
#[test]
fn all_of_a_catalog_is_signed() {
    let good = catalog(vec![entry(1, 50, 1), entry(4, 60, 3)]);
    let hash = signed(&good).unwrap();
    let changes: [fn(&mut Catalog); 12] = [
        |it| it.service = ServiceName::new("web").unwrap(),
        |it| it.version.number += 1,
        |it| it.inherits = None,
        |it| it.server = node(8),
        |it| it.tolerance = 0,
        |it| it.warm = it.encoders.clone(),
        |it| it.encoders.clear(),
        |it| it.spread_to += 1,
        |it| it.terms.clear(),
        |it| it.merged.clear(),
        |it| drop(it.entries.pop()),
        |it| it.entries[0].packs[0].added += 1,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut changed = good.clone();
        change(&mut changed);
        assert_ne!(signed(&changed).unwrap(), hash, "change {number}");
    }
    let signature = Signature::from_bytes(&[0; 64]);
    assert_eq!(signed(&Catalog { signature, ..good }).unwrap(), hash);
}
