//! The targets. Each checks what it can besides that nothing panics: what is read is written again as it was.

use std::collections::BTreeSet;

use sustain_gossip::membership::{Swim, SwimConfig};
use sustain_proto::join::{JoinAnswer, JoinRequest, Token};
use sustain_proto::wire::{Lane, Message, Request, Response};
use sustain_proto::{
    FRAME_HEADER_BYTES, FrameHeader, Manifest, NodeId, Sheet, SnapshotIndex, decode_frame, encode_frame,
};

/// A parser and its name, which is that of its folder in the corpus.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads any bytes.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: [Target; 18] = [
    target("pack", sustain_store::fuzzing::pack),
    target("directory", sustain_store::fuzzing::directory),
    target("block", sustain_store::fuzzing::block),
    target("manifest", manifest),
    target("index", index),
    target("frame", frame),
    target("pin", sustain_store::fuzzing::pin),
    target("checked", sustain_store::fuzzing::checked),
    target("key-file", sustain_store::fuzzing::key_file),
    target("journal", sustain_store::fuzzing::journal),
    target("segment", sustain_store::fuzzing::segment),
    target("sheet", sheet),
    target("ext4", sustain_inspect::fuzzing::ext4),
    target("nbd", sustain_vmdriver::fuzzing::nbd),
    target("image-header", sustain_vmdriver::fuzzing::image_header),
    target("join", join),
    target("swim", swim),
    target("keeper", sustain_gossip::keeper::fuzzing::messages),
];

/// There is one way to write a manifest, or two nodes would have two ids for it.
fn manifest(bytes: &[u8]) {
    let Ok((id, manifest)) = Manifest::decode(bytes) else { return };
    assert!(manifest.encode().is_ok_and(|(same, encoded)| same == id && encoded == bytes));
}

fn index(bytes: &[u8]) {
    let Ok(index) = SnapshotIndex::decode(bytes) else { return };
    let again =
        |(_, encoded): (_, Vec<u8>)| SnapshotIndex::decode(&encoded).is_ok_and(|again| again == index);
    assert!(index.encode().is_ok_and(again));
}

/// What a peer says of a pack's fragments, and what is computed of it before it is believed.
fn sheet(bytes: &[u8]) {
    let Ok(sheet) = Sheet::decode(bytes) else { return };
    if sheet.check().is_ok() {
        assert!(sheet.cut.fragment_bytes(sheet.pack.bytes) <= sheet.pack.bytes.max(1));
        assert!(sheet.encode().is_ok_and(|again| Sheet::decode(&again).is_ok_and(|again| again == sheet)));
    }
}

/// A token as people paste it, and what is said when a node joins.
fn join(bytes: &[u8]) {
    if let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Token>().ok()) {
        let same = |text: String| text.parse::<Token>().is_ok_and(|again| again == token);
        assert!(token.to_text().is_ok_and(same));
    }
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    let most = Lane::Control.frame_bytes_max();
    let Ok(header) = FrameHeader::decode(header, most) else { return };
    let Some(body) = body.get(..header.body_bytes) else { return };
    if let Ok(request) = decode_frame::<JoinRequest>(body, most) {
        // Whatever it says of itself is looked at, and nothing else is done with it here.
        let _ = request.details.check();
        assert!(encode_frame(&request, most).is_ok());
    }
    if let Ok(answer) = decode_frame::<JoinAnswer>(body, most) {
        assert!(encode_frame(&answer, most).is_ok());
    }
}

/// Members of the cluster in which the target `swim` takes place. The second sends.
#[must_use]
pub fn swimmers() -> BTreeSet<NodeId> {
    (1..=4).map(|number| NodeId::from_bytes([number; 32])).collect()
}

/// Packets of a member to another one, each with two bytes of length before it.
fn swim(bytes: &[u8]) {
    let (members, mut now_ms) = (swimmers(), 0);
    let (me, from) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let mut swim = Swim::new(me, &members, SwimConfig::default(), now_ms, 1);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (packet, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        swim.datagram(from, packet, now_ms);
        now_ms += 400;
        swim.tick(now_ms);
    }
    assert!(swim.wake_ms() > now_ms || bytes.len() < 2);
}

/// A frame as it comes from a stream, of each lane.
fn frame(bytes: &[u8]) {
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    for lane in Lane::ALL {
        let most = lane.frame_bytes_max();
        let Ok(header) = FrameHeader::decode(header, most) else { continue };
        let Some(body) = body.get(..header.body_bytes) else { continue };
        if let Ok(message) = decode_frame::<Message>(body, most) {
            assert!(encode_frame(&message, most).is_ok());
        }
        if let Ok(request) = decode_frame::<Request>(body, most) {
            if request.check().is_ok() {
                assert!(encode_frame(&request, most).is_ok());
            }
        }
        if let Ok(response) = decode_frame::<Response>(body, most) {
            if response.check().is_ok() {
                assert!(encode_frame(&response, most).is_ok());
            }
        }
    }
}
