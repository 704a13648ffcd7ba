//! Frames: every message travels, and what is no frame is refused before memory is taken for it.

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use sustain_proto::wire::{Ask, Message, Request, Response};
use sustain_proto::{
    CodecError, FRAME_HEADER_BYTES, FrameError, FrameHeader, PackId, decode_frame, encode_frame, limits,
};

use crate::strategies;

const BYTES_MAX: usize = limits::BULK_FRAME_BYTES_MAX;

/// What a receiver does: header, then exactly the announced body.
fn receive<T: DeserializeOwned>(frame: &[u8], body_bytes_max: usize) -> Result<T, FrameError> {
    let (header, body) = frame.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::decode(header.try_into().unwrap(), body_bytes_max)?;
    assert_eq!(header.body_bytes, body.len(), "the header announces exactly what follows");
    decode_frame(body, body_bytes_max)
}

fn travels<T>(message: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let frame = encode_frame(message, BYTES_MAX).unwrap();
    prop_assert_eq!(&receive::<T>(&frame, BYTES_MAX).unwrap(), message);
    let body = &frame[FRAME_HEADER_BYTES..];
    for cut in 0..body.len() {
        prop_assert!(decode_frame::<T>(&body[..cut], BYTES_MAX).is_err(), "cut at {}", cut);
    }
    let mut longer = body.to_vec();
    longer.push(0);
    let refused = matches!(
        decode_frame::<T>(&longer, BYTES_MAX),
        Err(FrameError::Body(CodecError::Trailing { bytes: 1, .. }))
    );
    prop_assert!(refused, "a byte too many is told as such");
    Ok(())
}

proptest! {
    #[test]
    fn messages_travel(message in strategies::message()) {
        travels(&message)?;
    }

    #[test]
    fn requests_travel(request in strategies::request()) {
        travels(&request)?;
        prop_assert_eq!(request.check(), Ok(()));
    }

    #[test]
    fn responses_travel(response in strategies::response()) {
        travels(&response)?;
        prop_assert_eq!(response.check(), Ok(()));
    }

    #[test]
    fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_frame::<Message>(&body, BYTES_MAX);
        // With the right envelope the bytes reach the decoder proper.
        let mut enveloped = b"SUSm\x01\x00".to_vec();
        enveloped.extend_from_slice(&body);
        let _ = decode_frame::<Message>(&enveloped, BYTES_MAX);
        let _ = decode_frame::<Request>(&enveloped, BYTES_MAX);
        let _ = decode_frame::<Response>(&enveloped, BYTES_MAX);
    }

    #[test]
    fn any_byte_of_a_message_may_change(
        request in strategies::request(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut body = encode_frame(&request, BYTES_MAX).unwrap().split_off(FRAME_HEADER_BYTES);
        let at = at.index(body.len());
        body[at] = to;
        let _ = decode_frame::<Request>(&body, BYTES_MAX);
    }

    #[test]
    fn headers_over_the_limit_are_refused(
        length in any::<u32>(),
        limit in prop::sample::select(vec![limits::CONTROL_FRAME_BYTES_MAX, BYTES_MAX]),
    ) {
        let mut header = *b"SUSf\x01\x00\0\0\0\0";
        header[6..].copy_from_slice(&length.to_le_bytes());
        match FrameHeader::decode(&header, limit) {
            Ok(header) => prop_assert!(header.body_bytes == length as usize && header.body_bytes <= limit),
            Err(FrameError::TooLarge { bytes, .. }) => {
                prop_assert!(bytes == length as usize && bytes > limit);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn random_headers_never_panic(bytes in any::<[u8; FRAME_HEADER_BYTES]>()) {
        if FrameHeader::decode(&bytes, BYTES_MAX).is_ok() {
            prop_assert_eq!(&bytes[..6], b"SUSf\x01\x00");
        }
    }
}

#[test]
fn the_limit_itself_is_allowed_and_one_more_is_not() {
    let header = |length: u32| {
        let mut header = *b"SUSf\x01\x00\0\0\0\0";
        header[6..].copy_from_slice(&length.to_le_bytes());
        FrameHeader::decode(&header, 100)
    };
    assert_eq!(header(100).unwrap().body_bytes, 100);
    assert!(matches!(header(101), Err(FrameError::TooLarge { bytes: 101, bytes_max: 100 })));
}

#[test]
fn a_header_of_another_protocol_or_version_is_refused_by_name() {
    assert!(matches!(FrameHeader::decode(b"GET / HTTP", 100), Err(FrameError::Magic)));
    let error = FrameHeader::decode(b"SUSf\x02\x00\0\0\0\0", 100).unwrap_err();
    assert!(matches!(error, FrameError::Version { found: 2 }));
    assert_eq!(error.to_string(), "the peer's frames have version 2, this build speaks version 1");
}

#[test]
fn a_message_that_is_too_long_is_not_encoded() {
    let response = Response::Manifest { bytes: vec![7; 200] };
    let error = encode_frame(&response, 100).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { bytes_max: 100, .. }), "{error}");
}

/// A megabyte of empty lists once became 24 megabytes of vectors, before anyone could look at the count.
#[test]
fn a_frame_of_short_elements_is_refused_for_their_number() {
    let ask = |count: usize| {
        let (pack, missing) = (PackId::from_bytes([1; 32]), vec![(0, 0); count]);
        let ask = Ask { pack, fragment: None, missing, is_stuck: false, wants_list: false };
        encode_frame(&Request::Ask(ask), BYTES_MAX).unwrap().split_off(FRAME_HEADER_BYTES)
    };
    let most = ask(limits::MESSAGE_ASKED_RANGES_MAX);
    decode_frame::<Request>(&most, BYTES_MAX).unwrap();
    for count in [limits::MESSAGE_ASKED_RANGES_MAX + 1, BYTES_MAX / 2 - 100] {
        decode_frame::<Request>(&ask(count), BYTES_MAX).unwrap_err();
    }
}
