//! The targets. Each checks what it can besides that nothing panics: what is read is written again as it was.

use sustain_proto::wire::{Lane, Message, Request, Response};
use sustain_proto::{
    FRAME_HEADER_BYTES, FrameHeader, Manifest, Sheet, SnapshotIndex, decode_frame, encode_frame,
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
pub const TARGETS: [Target; 15] = [
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
            if let Request::Offer { manifests } | Request::Commit { manifests } = request {
                manifests.iter().for_each(|bytes| manifest(bytes));
            }
        }
        if let Ok(response) = decode_frame::<Response>(body, most) {
            if response.check().is_ok() {
                assert!(encode_frame(&response, most).is_ok());
            }
        }
    }
}
