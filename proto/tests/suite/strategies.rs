//! Random values of every type that is stored or sent, within the limits.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use sustain_proto::wire::{
    Ask, Ballot, Denial, Granted, Heartbeat, Message, Request, Response, SnapshotSummary,
};
use sustain_proto::{
    ChunkId, ContentHash, Held, IndexRoot, KeyId, Manifest, NodeId, PackId, PackRef, Region, RegionName,
    ServiceName, SnapshotId, SnapshotIndex, SnapshotKind, Term, TermOrigin, limits,
};

macro_rules! id {
    ($function:ident, $name:ident) => {
        pub(crate) fn $function() -> impl Strategy<Value = $name> {
            any::<[u8; 32]>().prop_map($name::from_bytes)
        }
    };
}

id!(chunk_id, ChunkId);
id!(content_hash, ContentHash);
id!(index_root, IndexRoot);
id!(node_id, NodeId);
id!(pack_id, PackId);
id!(snapshot_id, SnapshotId);

fn name(bytes_max: usize) -> impl Strategy<Value = String> {
    let first = prop::sample::select(b"abcxyz0189".to_vec());
    let rest = vec(prop::sample::select(b"abcxyz0189-_".to_vec()), 0..bytes_max);
    (first, rest).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        String::from_utf8(rest).unwrap()
    })
}

pub(crate) fn service() -> impl Strategy<Value = ServiceName> {
    name(limits::SERVICE_NAME_BYTES_MAX).prop_map(|text| ServiceName::new(text).unwrap())
}

pub(crate) fn region_name() -> impl Strategy<Value = RegionName> {
    name(limits::REGION_NAME_BYTES_MAX).prop_map(|text| RegionName::new(text).unwrap())
}

pub(crate) fn term() -> impl Strategy<Value = Term> {
    (any::<u64>(), node_id(), any::<u64>()).prop_map(|(counter, node, nonce)| Term { counter, node, nonce })
}

pub(crate) fn origin() -> impl Strategy<Value = TermOrigin> {
    (term(), any::<u64>()).prop_map(|(parent, seq)| TermOrigin { parent, seq })
}

fn held() -> impl Strategy<Value = Held> {
    (term(), any::<u64>()).prop_map(|(term, seq)| Held { term, seq })
}

fn kind() -> impl Strategy<Value = SnapshotKind> {
    prop_oneof![
        (vec(snapshot_id(), 0..=limits::CAME_FROM_MAX), vec(held(), 0..=limits::HELD_MAX))
            .prop_map(|(came_from, held)| SnapshotKind::Base { came_from, held }),
        snapshot_id().prop_map(|base| SnapshotKind::Delta { base }),
    ]
}

fn regions() -> impl Strategy<Value = Vec<Region>> {
    btree_map(region_name(), 0..=limits::REGION_BYTES_MAX, 0..5)
        .prop_map(|regions| regions.into_iter().rev().map(|(name, bytes)| Region { name, bytes }).collect())
}

fn pack_ref() -> impl Strategy<Value = PackRef> {
    (pack_id(), 0..=limits::PACK_BYTES_MAX).prop_map(|(id, bytes)| PackRef { id, bytes })
}

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let head =
        ((service(), any::<[u8; 8]>()), term(), option::of(origin()), any::<u64>(), any::<u64>(), kind());
    let lists = (vec(snapshot_id(), 0..=limits::PARENTS_MAX), regions(), vec(pack_ref(), 0..20));
    let contents = (content_hash(), option::of(content_hash()));
    (head, lists, prop::collection::vec(index_root(), 0..4), contents).prop_map(
        |(head, lists, indexes, (content, first_content))| {
            let ((service, key), term, origin, seq, time_ms, kind) = head;
            let key = KeyId::from_bytes(key);
            let (parents, regions, packs) = lists;
            Manifest {
                service,
                key,
                term,
                origin,
                seq,
                time_ms,
                kind,
                parents,
                regions,
                indexes,
                content,
                first_content,
                packs,
            }
        },
    )
}

pub(crate) fn index() -> impl Strategy<Value = SnapshotIndex> {
    let positions = 0..sustain_proto::chunk_count(limits::REGION_BYTES_MAX);
    let region = btree_map(positions, option::of(chunk_id()), 0..20);
    btree_map(region_name(), region.prop_map(|region| region.into_iter().collect()), 0..5)
        .prop_map(|regions| SnapshotIndex { regions })
}

pub(crate) fn summary() -> impl Strategy<Value = SnapshotSummary> {
    let flags = (any::<bool>(), any::<bool>());
    (snapshot_id(), term(), option::of(origin()), any::<u64>(), flags).prop_map(
        |(id, term, origin, seq, (durable, whole))| SnapshotSummary { id, term, origin, seq, durable, whole },
    )
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let durable = option::of((snapshot_id(), any::<u64>()));
    (service(), term(), option::of(origin()), any::<u64>(), durable, any::<u32>()).prop_map(
        |(service, term, origin, running_seq, durable, level)| Heartbeat {
            service,
            term,
            origin,
            running_seq,
            durable,
            level,
        },
    )
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<u64>().prop_map(|nonce| Message::Probe { nonce }),
        any::<u64>().prop_map(|nonce| Message::ProbeReply { nonce }),
        heartbeat().prop_map(Message::Heartbeat),
    ]
}

fn ballot() -> impl Strategy<Value = Ballot> {
    let terms = (option::of(term()), option::of(term()));
    let failed = vec(any::<[u8; 32]>().prop_map(SnapshotId::from_bytes), 0..=limits::CONTROL_FAILED_MAX);
    (terms, any::<u32>(), any::<(bool, bool)>(), failed, vec(summary(), 0..10)).prop_map(
        |((hears, term_known), priority, (eligible, able), failed, snapshots)| Ballot {
            hears,
            term_known,
            priority,
            eligible,
            able,
            failed,
            snapshots,
        },
    )
}

/// Ranges as they are asked for: from groups' beginnings on, in order, with room between.
fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let lengths = vec(1..=limits::GROUP_BYTES, 0..=limits::MESSAGE_ASKED_RANGES_MAX);
    lengths.prop_map(|lengths| {
        let start = |position: u64| 2 * position * limits::GROUP_BYTES;
        (0..).zip(lengths).map(|(position, bytes)| (start(position), start(position) + bytes)).collect()
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let flags = any::<(Option<u8>, bool, bool)>();
    (pack_id(), ranges(), flags).prop_map(|(pack, missing, (fragment, is_stuck, wants_list))| Ask {
        pack,
        fragment,
        missing,
        is_stuck,
        wants_list,
    })
}

fn granted() -> impl Strategy<Value = Granted> {
    let range = (0..100_u64, 1..limits::GROUP_BYTES)
        .prop_map(|(group, bytes)| (group * limits::GROUP_BYTES, group * limits::GROUP_BYTES + bytes));
    let sheet = option::of(vec(any::<u8>(), 0..100));
    (range, vec(any::<[u8; 32]>(), 0..10), sheet).prop_map(|(range, groups, sheet)| Granted {
        range,
        groups,
        sheet,
    })
}

fn denial() -> impl Strategy<Value = Denial> {
    let nodes = vec(any::<[u8; 32]>().prop_map(NodeId::from_bytes), 0..=limits::MESSAGE_HINTS_MAX);
    prop_oneof![
        (ranges(), any::<bool>()).prop_map(|(have, is_coming)| Denial::Lack { have, is_coming }),
        Just(Denial::Busy),
        nodes.prop_map(|nodes| Denial::Elsewhere { nodes }),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let packs = || vec(pack_id(), 0..20);
    let bytes = || 0..=limits::PACK_BYTES_MAX;
    prop_oneof![
        (service(), option::of(term())).prop_map(|(service, lost)| Request::Poll { service, lost }),
        (service(), term(), option::of(origin())).prop_map(|(service, term, origin)| Request::Claim {
            service,
            term,
            origin
        }),
        service().prop_map(|service| Request::Snapshots { service }),
        snapshot_id().prop_map(|id| Request::GetManifest { id }),
        packs().prop_map(|ids| Request::HavePacks { ids }),
        (pack_id(), bytes(), bytes()).prop_map(|(id, offset, bytes)| Request::GetPack { id, offset, bytes }),
        (service(), any::<std::num::NonZeroU16>())
            .prop_map(|(service, guest_port)| Request::Connect { service, guest_port }),
        ask().prop_map(Request::Ask),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let packs = || vec(pack_id(), 0..20);
    prop_oneof![
        ballot().prop_map(Response::Ballot),
        term().prop_map(|greatest| Response::Claimed { greatest }),
        vec(summary(), 0..10).prop_map(|list| Response::Snapshots { list }),
        vec(any::<u8>(), 0..100).prop_map(|bytes| Response::Manifest { bytes }),
        packs().prop_map(|packs| Response::Having { packs }),
        (0..=limits::PACK_BYTES_MAX).prop_map(|bytes| Response::Pack { bytes }),
        Just(Response::Connected),
        "\\PC{0,40}".prop_map(|reason| Response::Refused { reason }),
        granted().prop_map(Response::Granted),
        denial().prop_map(Response::Denied),
    ]
}
