//! The formats, byte for byte. If one of these fails, what earlier builds wrote can't be read any more:
//! raise the format's version instead of changing the literal.

use std::num::NonZeroU16;

use sustain_proto::wire::{Ask, Denial, Granted, Message, Request, Response};
use sustain_proto::{
    Admission, ChunkId, ChunkKey, ContentHash, Details, FRAME_HEADER_BYTES, Held, IndexRoot, KeyId, Manifest,
    NodeId, PackId, PackRef, Record, Region, RegionName, Removal, ServiceName, SnapshotId, SnapshotIndex,
    SnapshotKind, Statement, Term, TermOrigin, encode_frame,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of 32 equal bytes.
fn id(byte: &str) -> String {
    byte.repeat(32)
}

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn term() -> Term {
    Term { counter: 3, node: NodeId::from_bytes([0x11; 32]), nonce: 300 }
}

pub(crate) fn manifest() -> Manifest {
    let parent = Term { counter: 2, node: NodeId::from_bytes([0x22; 32]), nonce: 1 };
    Manifest {
        service: ServiceName::new("mail").unwrap(),
        key: KeyId::from_bytes([0x99; 8]),
        term: term(),
        origin: Some(TermOrigin { parent, seq: 41 }),
        seq: 42,
        time_ms: 1_767_225_600_000,
        kind: SnapshotKind::Delta { base: SnapshotId::from_bytes([0x33; 32]) },
        parents: vec![SnapshotId::from_bytes([0x44; 32])],
        regions: vec![
            Region { name: region("ram"), bytes: 256 << 20 },
            Region { name: region("device"), bytes: 65_537 },
        ],
        indexes: vec![IndexRoot::from_bytes([0x55; 32])],
        content: ContentHash::from_bytes([0x66; 32]),
        first_content: None,
        packs: vec![PackRef { id: PackId::from_bytes([0x77; 32]), bytes: 1_000 }],
    }
}

pub(crate) fn index() -> SnapshotIndex {
    let chunk = Some(ChunkId::from_bytes([0x88; 32]));
    let regions = [(region("ram"), [(0, chunk), (300, None)].into()), (region("device"), [].into())];
    SnapshotIndex { regions: regions.into() }
}

#[test]
fn a_manifest() {
    let expected = [
        "5355534d0100",     // magic number, version
        "046d61696c",       // service
        "9999999999999999", // key
        "03",               // term: counter, node, nonce
        &id("11"),
        "ac02",
        "01", // origin: there is one; its term, its number
        "02",
        &id("22"),
        "01",
        "29",
        "2a",           // number
        "80d0eab6b733", // time
        "01",           // a delta, its base
        &id("33"),
        "01", // parents
        &id("44"),
        "02", // regions: name, bytes
        "0372616d",
        "8080808001",
        "06646576696365",
        "818004",
        "01", // roots of the index's parts
        &id("55"),
        &id("66"), // contents
        "00",      // under no other key before
        "01",      // packs: id, bytes
        &id("77"),
        "e807",
    ];
    let (_, bytes) = manifest().encode().unwrap();
    assert_eq!(hex(&bytes), expected.concat());
}

#[test]
fn a_base() {
    let mut base = manifest();
    let held = vec![Held { term: term(), seq: 41 }];
    base.kind = SnapshotKind::Base { came_from: vec![SnapshotId::from_bytes([0x33; 32])], held };
    let (_, bytes) = base.encode().unwrap();
    let expected = [
        "80d0eab6b733", // time
        "00",           // a base; what it came from
        "01",
        &id("33"),
        "01", // what was kept: term, number
        "03",
        &id("11"),
        "ac02",
        "29",
        "01", // parents
        &id("44"),
    ];
    assert!(hex(&bytes).contains(&expected.concat()), "{}", hex(&bytes));
}

#[test]
fn an_index() {
    let expected = [
        "535553690100", // magic number, version
        "02",           // regions, by name
        "06646576696365",
        "00",
        "0372616d",
        "02",
        "00", // position 0: a chunk
        "01",
        &id("88"),
        "ac02", // position 300: zeros
        "00",
    ];
    let (_, bytes) = index().encode().unwrap();
    assert_eq!(hex(&bytes), expected.concat());
}

#[test]
fn a_frame() {
    let service = ServiceName::new("mail").unwrap();
    let frame = encode_frame(&Request::Poll { service, lost: Some(term()) }, 1_000).unwrap();
    let expected = [
        "5355536601003000".to_owned() + "0000", // magic number, version, bytes of the body
        "5355536d0100".to_owned(),              // the body's magic number, version
        "00".to_owned(),                        // a poll
        "046d61696c".to_owned(),                // service
        "01".to_owned() + "03" + &id("11") + "ac02", // the lost term
    ];
    assert_eq!(hex(&frame), expected.concat());
}

#[test]
fn a_request_for_a_part_of_a_pack() {
    let id_of = PackId::from_bytes([0x77; 32]);
    let frame = encode_frame(&Request::GetPack { id: id_of, offset: 300, bytes: 5 }, 1_000).unwrap();
    let expected = ["5355536d0100", "05", &id("77"), "ac02", "05"];
    assert_eq!(hex(&frame[FRAME_HEADER_BYTES..]), expected.concat());
}

fn ask() -> Ask {
    Ask {
        pack: PackId::from_bytes([0x77; 32]),
        fragment: Some(5),
        missing: vec![(0, 7), (65_536, 65_537)],
        is_stuck: false,
        wants_list: true,
    }
}

#[test]
fn bytes_of_a_part_are_asked_for_and_given_or_not() {
    let body = |frame: Vec<u8>| hex(&frame[FRAME_HEADER_BYTES..]);
    let asked = body(encode_frame(&Request::Ask(ask()), 1_000).unwrap());
    assert_eq!(
        asked,
        ["5355536d0100", "0a", &id("77"), "0105", "02", "0007", "808004818004", "0001"].concat()
    );
    let granted =
        Granted { range: (65_536, 65_537), groups: vec![[0x88; 32]; 2], sheet: Some(vec![0x99; 3]) };
    let granted = body(encode_frame(&Response::Granted(granted), 1_000).unwrap());
    let values = [id("88"), id("88")].concat();
    assert_eq!(granted, ["5355536d0100", "0b", "808004818004", "02", &values, "0103999999"].concat());
    let lack = Response::Denied(Denial::Lack { have: vec![(0, 9)], is_coming: true });
    let elsewhere = Response::Denied(Denial::Elsewhere { nodes: vec![NodeId::from_bytes([0x11; 32])] });
    assert_eq!(body(encode_frame(&lack, 1_000).unwrap()), "5355536d01000c0001000901");
    let busy = Response::Denied(Denial::Busy);
    assert_eq!(body(encode_frame(&busy, 1_000).unwrap()), "5355536d01000c01");
    let elsewhere = body(encode_frame(&elsewhere, 1_000).unwrap());
    assert_eq!(elsewhere, ["5355536d0100", "0c", "0201", &id("11")].concat());
}

/// What kind of message a body is, is its first byte: a new kind goes to the end.
#[test]
fn kinds_of_messages() {
    fn kinds<T: serde::Serialize>(messages: &[T]) -> Vec<u8> {
        let frame = |message: &T| encode_frame(message, 1_000).unwrap();
        messages.iter().map(|message| frame(message)[FRAME_HEADER_BYTES + 6]).collect()
    }
    let service = ServiceName::new("mail").unwrap();
    let pack = PackId::from_bytes([0x77; 32]);
    let requests = [
        Request::Poll { service: service.clone(), lost: None },
        Request::Claim { service: service.clone(), term: term(), origin: None },
        Request::Snapshots { service: service.clone() },
        Request::GetManifest { id: SnapshotId::from_bytes([0x33; 32]) },
        Request::HavePacks { ids: Vec::new() },
        Request::GetPack { id: pack, offset: 0, bytes: 1 },
        Request::Connect { service: service.clone(), guest_port: NonZeroU16::MIN },
        Request::GetGroups { pieces: Vec::new() },
        Request::GetRanges { ranges: Vec::new() },
        Request::Roster { nonce: 1, hashes: Vec::new() },
        Request::Ask(ask()),
        Request::HaveFragments { ids: Vec::new() },
        Request::GetSheets { packs: Vec::new() },
    ];
    assert_eq!(kinds(&requests), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    let (hears, term_known, snapshots) = (None, None, Vec::new());
    let (eligible, able, failed) = (true, true, Vec::new());
    let ballot =
        sustain_proto::wire::Ballot { hears, term_known, priority: 1, eligible, able, failed, snapshots };
    let responses = [
        Response::Ballot(ballot),
        Response::Claimed { greatest: term() },
        Response::Snapshots { list: Vec::new() },
        Response::Manifest { bytes: Vec::new() },
        Response::Having { packs: Vec::new() },
        Response::Pack { bytes: 0 },
        Response::Connected,
        Response::Refused { reason: String::new() },
        Response::Groups { counts: Vec::new() },
        Response::Ranges { here: Vec::new() },
        Response::Facts { facts: Vec::new() },
        Response::Granted(Granted { range: (0, 1), groups: Vec::new(), sheet: None }),
        Response::Denied(Denial::Busy),
        Response::Fragments { held: Vec::new() },
        Response::Sheets { sheets: Vec::new() },
    ];
    assert_eq!(kinds(&responses), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);

    let durable = None;
    let heartbeat = sustain_proto::wire::Heartbeat {
        service,
        term: term(),
        origin: None,
        running_seq: 0,
        durable,
        level: 0,
    };
    let messages = [
        Message::Probe { nonce: 1 },
        Message::ProbeReply { nonce: 1 },
        Message::Heartbeat(heartbeat),
        Message::Roster { digest: [0; 32], is_reply: false, record: None },
    ];
    assert_eq!(kinds(&messages), [0, 1, 2, 3]);
}

/// What is signed: if it changes, no roster that is kept anywhere is believed any more.
#[test]
fn statements_of_the_roster() {
    let (node, by) = (NodeId::from_bytes([0x11; 32]), NodeId::from_bytes([0x22; 32]));
    let details = Details {
        name: "attic".to_owned(),
        address: "192.0.2.1:7411".parse().unwrap(),
        domain: "up".to_owned(),
        priority: 1_000,
    };
    // The name, IPv4 and the address, the port, the domain, the priority.
    let said = concat!("05", "6174746963", "00", "c0000201", "f339", "02", "7570", "e807");
    let record = Record { node, version: 300, details: details.clone() };
    assert_eq!(hex(&record.signed_bytes().unwrap()), "535552720100".to_owned() + &id("11") + "ac02" + said);
    let admission = Admission { node, by, details };
    assert_eq!(
        hex(&admission.signed_bytes().unwrap()),
        "535552610100".to_owned() + &id("11") + &id("22") + said
    );
    let removal = Removal { node, by };
    assert_eq!(hex(&removal.signed_bytes().unwrap()), "535552780100".to_owned() + &id("11") + &id("22"));
}

/// Ids are named by what they hash and under which context; changing either orphans every store.
#[test]
fn hashes() {
    let (snapshot, bytes) = manifest().encode().unwrap();
    let (root, _) = index().encode().unwrap();
    let regions = manifest().regions;
    let key = ChunkKey::derive(&[9; 32]);
    let found = [
        ("snapshot", snapshot.to_string()),
        ("index", root.to_string()),
        ("contents", index().content_hash(&regions).to_string()),
        ("pack", PackId::of(&bytes).to_string()),
        ("chunk", key.chunk_id(b"plain").to_string()),
        ("key", key.id().to_string()),
    ];
    let expected = [
        ("snapshot", "0e94e94d141f49ec478b77427c1e97db9ffbdc30f57ee930f308eb76c2f09731"),
        ("index", "3a713329d7f30591d766fd06673cfc9d68b475920866e14987b41460c115826d"),
        ("contents", "5a11db41a2c66dcf72f017dd27588cf8e9e83fbea3320a8ff8b788d2662ca0dd"),
        ("pack", "0e94e94d141f49ec478b77427c1e97db9ffbdc30f57ee930f308eb76c2f09731"),
        ("chunk", "364082d43c6d620b09b133978fe134542d5f121cc8fad9de4bec69ff2187713b"),
        ("key", "85ea4d0532e635c2"),
    ];
    for ((what, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{what}");
    }
}
