//! The limits fit one another: what may be listed fits what may be sent, at its very largest.

use sustain_proto::wire::{Ask, Ballot, Denial, Granted, Request, Response, SnapshotSummary, WireError};
use sustain_proto::{
    ChunkId, CodecError, ContentHash, Held, IndexRoot, KeyId, Manifest, ManifestError, NodeId, PackId,
    PackRef, Region, RegionName, ServiceName, SnapshotId, SnapshotIndex, SnapshotKind, Term, TermOrigin,
    chunk_count, encode_frame, limits,
};

/// The longest encoding of a term.
const TERM: Term = Term { counter: u64::MAX, node: NodeId::from_bytes([255; 32]), nonce: u64::MAX };

/// The longest encoding of an origin.
const ORIGIN: TermOrigin = TermOrigin { parent: TERM, seq: u64::MAX };

const ID: SnapshotId = SnapshotId::from_bytes([255; 32]);

fn summary() -> SnapshotSummary {
    let (term, origin) = (TERM, Some(ORIGIN));
    SnapshotSummary { id: ID, term, origin, seq: u64::MAX, durable: true, whole: true }
}

fn packs(count: usize) -> Vec<PackId> {
    vec![PackId::from_bytes([255; 32]); count]
}

fn region_name(number: usize) -> RegionName {
    RegionName::new(format!("{number:0>width$}", width = limits::REGION_NAME_BYTES_MAX)).unwrap()
}

fn base(came_from: usize, held: usize) -> SnapshotKind {
    let held = vec![Held { term: TERM, seq: u64::MAX }; held];
    SnapshotKind::Base { came_from: vec![ID; came_from], held }
}

/// As much of everything as a manifest may list.
fn largest_manifest() -> Manifest {
    let region = |number| Region { name: region_name(number), bytes: limits::REGION_BYTES_MAX };
    let pack = PackRef { id: PackId::from_bytes([255; 32]), bytes: limits::PACK_BYTES_MAX };
    Manifest {
        service: ServiceName::new("s".repeat(limits::SERVICE_NAME_BYTES_MAX)).unwrap(),
        key: KeyId::from_bytes([255; 8]),
        term: TERM,
        origin: Some(ORIGIN),
        seq: u64::MAX,
        time_ms: u64::MAX,
        kind: base(limits::CAME_FROM_MAX, limits::HELD_MAX),
        parents: vec![ID; limits::PARENTS_MAX],
        regions: (0..limits::REGIONS_MAX).map(region).collect(),
        indexes: vec![IndexRoot::from_bytes([255; 32]); limits::INDEX_PARTS_MAX],
        content: ContentHash::from_bytes([255; 32]),
        first_content: Some(ContentHash::from_bytes([255; 32])),
        packs: vec![pack; limits::MANIFEST_PACKS_MAX],
    }
}

#[test]
fn the_largest_manifest_fits() {
    let manifest = largest_manifest();
    let (_, bytes) = manifest.encode().unwrap();
    assert!(bytes.len() <= limits::MANIFEST_BYTES_MAX);
    Manifest::decode(&bytes).unwrap();
    assert_eq!(manifest.bytes(), limits::REGION_BYTES_MAX * limits::REGIONS_MAX as u64);
}

#[test]
fn one_more_of_anything_is_no_manifest() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 5] = [
        ("regions", |manifest| manifest.regions.push(Region { name: region_name(99), bytes: 0 })),
        ("parents", |manifest| manifest.parents.push(ID)),
        ("packs", |manifest| manifest.packs.push(manifest.packs[0])),
        ("snapshots that it came from", |manifest| {
            manifest.kind = base(limits::CAME_FROM_MAX + 1, 0);
        }),
        ("snapshots that were kept", |manifest| manifest.kind = base(0, limits::HELD_MAX + 1)),
    ];
    for (expected, change) in changes {
        let mut manifest = largest_manifest();
        change(&mut manifest);
        let error = manifest.encode().unwrap_err();
        assert!(matches!(error, ManifestError::TooMany { what, .. } if what == expected), "{error}");
    }
}

#[test]
fn absurd_sizes_are_no_manifest() {
    let mut manifest = largest_manifest();
    manifest.regions[1].bytes += 1;
    assert!(matches!(manifest.encode(), Err(ManifestError::TooLarge { .. })));
    let mut manifest = largest_manifest();
    manifest.packs[7].bytes += 1;
    assert!(matches!(manifest.encode(), Err(ManifestError::TooLarge { .. })));
    let mut manifest = largest_manifest();
    manifest.regions[1].name = manifest.regions[0].name.clone();
    assert!(matches!(manifest.encode(), Err(ManifestError::DuplicateRegion { .. })));
}

/// Sizes are summed before anyone has checked them, too.
#[test]
fn unchecked_sizes_do_not_overflow() {
    let mut manifest = largest_manifest();
    manifest.regions.iter_mut().for_each(|region| region.bytes = u64::MAX);
    assert_eq!(manifest.bytes(), u64::MAX);
}

#[test]
fn the_largest_ballot_fits_a_control_frame() {
    let ballot = |count, failed| {
        let failed = vec![summary().id; failed];
        let snapshots = vec![summary(); count];
        let (hears, term_known) = (Some(TERM), Some(TERM));
        let (priority, eligible, able) = (u32::MAX, true, true);
        Response::Ballot(Ballot { hears, term_known, priority, eligible, able, failed, snapshots })
    };
    let largest = ballot(limits::CONTROL_SNAPSHOTS_MAX, limits::CONTROL_FAILED_MAX);
    encode_frame(&largest, limits::CONTROL_FRAME_BYTES_MAX).unwrap();
    assert_eq!(largest.check(), Ok(()));
    assert!(ballot(limits::CONTROL_SNAPSHOTS_MAX + 1, 0).check().is_err());
    assert!(ballot(0, limits::CONTROL_FAILED_MAX + 1).check().is_err());
}

#[test]
fn the_largest_lists_fit_a_bulk_frame() {
    let requests = |more: usize| {
        let ids = packs(limits::MESSAGE_PACKS_MAX + more);
        [Request::HavePacks { ids }]
    };
    let responses = |more: usize| {
        let packs = packs(limits::MESSAGE_PACKS_MAX + more);
        let list = vec![summary(); limits::MESSAGE_SNAPSHOTS_MAX + more];
        [
            Response::Having { packs },
            Response::Snapshots { list },
            Response::Manifest { bytes: vec![7; limits::MANIFEST_BYTES_MAX + more] },
            Response::Refused { reason: "x".repeat(limits::MESSAGE_TEXT_BYTES_MAX + more) },
            Response::Pack { bytes: limits::PACK_BYTES_MAX + more as u64 },
        ]
    };
    for request in requests(0) {
        encode_frame(&request, limits::BULK_FRAME_BYTES_MAX).unwrap();
        assert_eq!(request.check(), Ok(()));
    }
    for response in responses(0) {
        encode_frame(&response, limits::BULK_FRAME_BYTES_MAX).unwrap();
        assert_eq!(response.check(), Ok(()));
    }
    assert!(requests(1).iter().all(|request| request.check().is_err()));
    assert!(responses(1).iter().all(|response| response.check().is_err()));
}

#[test]
fn sizes_in_requests_are_checked() {
    let id = PackId::from_bytes([1; 32]);
    let bytes = limits::PACK_BYTES_MAX + 1;
    let expected = WireError { what: "bytes of a pack", max: limits::PACK_BYTES_MAX, found: bytes };
    assert_eq!(Request::GetPack { id, offset: 1, bytes }.check(), Err(expected));
    assert!(Request::GetPack { id, offset: bytes, bytes: 1 }.check().is_err());
}

/// The last ranges that a pack has, each of one group, with a group between.
fn last_ranges(count: usize) -> Vec<(u64, u64)> {
    let groups = limits::PART_GROUPS_MAX as u64;
    let starts = (0..count as u64).rev().map(|back| groups - 1 - 2 * back).map(|at| at * limits::GROUP_BYTES);
    starts.map(|start| (start, (start + limits::GROUP_BYTES).min(limits::PACK_BYTES_MAX))).collect()
}

#[test]
fn what_is_asked_of_parts_and_answered_fits_and_is_checked() {
    let ask = |missing| {
        Request::Ask(Ask {
            pack: PackId::from_bytes([1; 32]),
            fragment: Some(255),
            missing,
            is_stuck: true,
            wants_list: true,
        })
    };
    let largest = ask(last_ranges(limits::MESSAGE_ASKED_RANGES_MAX));
    encode_frame(&largest, limits::BULK_FRAME_BYTES_MAX).unwrap();
    assert_eq!(largest.check(), Ok(()));
    assert!(ask(last_ranges(limits::MESSAGE_ASKED_RANGES_MAX + 1)).check().is_err());
    let group = limits::GROUP_BYTES;
    for bad in [
        vec![(1, group)],
        vec![(0, 0)],
        vec![(group, 1)],
        vec![(0, group), (group, 2 * group)],
        vec![(2 * group, 3 * group), (0, group)],
        vec![(0, limits::PACK_BYTES_MAX + 1)],
    ] {
        assert!(ask(bad.clone()).check().is_err(), "{bad:?}");
    }
    let granted = |groups, sheet| {
        let (groups, sheet) = (vec![[7; 32]; groups], Some(vec![7; sheet]));
        Response::Granted(Granted { range: last_ranges(1)[0], groups, sheet })
    };
    let largest = granted(limits::PART_GROUPS_MAX, limits::SHEET_BYTES_MAX);
    encode_frame(&largest, limits::BULK_FRAME_BYTES_MAX).unwrap();
    assert_eq!(largest.check(), Ok(()));
    assert!(granted(limits::PART_GROUPS_MAX + 1, 0).check().is_err());
    assert!(granted(0, limits::SHEET_BYTES_MAX + 1).check().is_err());
    let nodes =
        |count| Response::Denied(Denial::Elsewhere { nodes: vec![NodeId::from_bytes([1; 32]); count] });
    assert_eq!(nodes(limits::MESSAGE_HINTS_MAX).check(), Ok(()));
    assert!(nodes(limits::MESSAGE_HINTS_MAX + 1).check().is_err());
    let have = last_ranges(limits::PART_GROUPS_MAX / 2);
    let lack = Response::Denied(Denial::Lack { have, is_coming: true });
    encode_frame(&lack, limits::BULK_FRAME_BYTES_MAX).unwrap();
    assert_eq!(lack.check(), Ok(()));
}

#[test]
fn a_refusal_is_cut_to_fit_between_characters() {
    // Three bytes each, and 1,024 is no multiple of three.
    let response = Response::refused("€".repeat(1_000));
    assert_eq!(response.check(), Ok(()));
    let Response::Refused { reason } = response else { panic!("{response:?}") };
    assert_eq!(reason, "€".repeat(limits::MESSAGE_TEXT_BYTES_MAX / 3));
    assert_eq!(Response::refused("short"), Response::Refused { reason: "short".into() });
}

/// Entries with the longest positions, in as many regions as there may be.
fn index_of(entries: usize) -> SnapshotIndex {
    let last = chunk_count(limits::REGION_BYTES_MAX) - 1;
    let mut index = SnapshotIndex::default();
    let mut left = entries;
    for number in 0..limits::REGIONS_MAX {
        let here = left.div_ceil(limits::REGIONS_MAX - number);
        left -= here;
        let chunk = Some(ChunkId::from_bytes([255; 32]));
        let region = (0..here as u64).map(|back| (last - back, chunk)).collect();
        index.regions.insert(region_name(number), region);
    }
    index
}

#[test]
fn the_largest_index_fits() {
    let mut index = index_of(limits::INDEX_ENTRIES_MAX);
    let (_, bytes) = index.encode().unwrap();
    let decoded = SnapshotIndex::decode(&bytes).unwrap();
    assert!(decoded == index, "too long to print");

    index.regions.get_mut(&region_name(0)).unwrap().insert(0, None);
    assert!(matches!(index.encode(), Err(CodecError::TooMany { what: "entries", .. })));
}

#[test]
fn an_index_of_too_many_regions_or_positions_is_refused() {
    let mut index = index_of(0);
    index.regions.insert(region_name(99), [].into());
    assert!(matches!(index.encode(), Err(CodecError::TooMany { what: "regions", .. })));

    let mut index = index_of(1);
    index.regions.get_mut(&region_name(0)).unwrap().insert(chunk_count(limits::REGION_BYTES_MAX), None);
    assert!(matches!(index.encode(), Err(CodecError::TooMany { what: "grid positions in a region", .. })));
}

/// The decoder's half of the two tests above, with bytes that the encoder would not write.
#[test]
fn a_hostile_index_is_refused_while_it_is_decoded() {
    #[derive(serde::Serialize)]
    struct Regions(std::collections::BTreeMap<String, std::collections::BTreeMap<u64, Option<ChunkId>>>);
    let encoded = |regions: Regions| {
        let format = sustain_proto::Format {
            name: "index",
            magic: *b"SUSi",
            version: 1,
            bytes_max: limits::INDEX_BYTES_MAX,
        };
        sustain_proto::encode(format, &regions).unwrap()
    };
    let name = |number| region_name(number).to_string();

    let most = (0..limits::REGIONS_MAX).map(|number| (name(number), [].into())).collect();
    SnapshotIndex::decode(&encoded(Regions(most))).unwrap();
    let regions = (0..=limits::REGIONS_MAX).map(|number| (name(number), [].into())).collect();
    SnapshotIndex::decode(&encoded(Regions(regions))).unwrap_err();

    let past_the_end = [(chunk_count(limits::REGION_BYTES_MAX), None)].into();
    SnapshotIndex::decode(&encoded(Regions([(name(0), past_the_end)].into()))).unwrap_err();

    // Zeros are two bytes and more each, so the entries' own limit is reached first.
    let half = (0..1 + limits::INDEX_ENTRIES_MAX as u64 / 2).map(|position| (position, None));
    let half: std::collections::BTreeMap<_, _> = half.collect();
    let regions = [(name(0), half.clone()), (name(1), half)].into();
    SnapshotIndex::decode(&encoded(Regions(regions))).unwrap_err();
}
