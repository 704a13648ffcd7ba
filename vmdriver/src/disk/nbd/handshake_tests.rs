//! Tests of the negotiation.

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn begin() -> Handshake {
    Handshake::new(GIB, 3_u32.to_be_bytes()).unwrap()
}

/// Kinds and data of the replies to one option.
fn replies(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut fields = Fields(bytes);
        assert_eq!(fields.u64(), Some(wire::MAGIC_OPTION_REPLY));
        fields.u32().unwrap();
        let kind = fields.u32().unwrap();
        let length = fields.u32().unwrap() as usize;
        found.push((kind, fields.take(length).unwrap().to_vec()));
        bytes = fields.0;
    }
    found
}

fn kinds(bytes: &[u8]) -> Vec<u32> {
    replies(bytes).into_iter().map(|(kind, _)| kind).collect()
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes(), rest].concat()
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut rest = (queries.len() as u32).to_be_bytes().to_vec();
    for query in queries {
        rest.extend(named(query, &[]));
    }
    named(name, &rest)
}

#[test]
fn the_greeting_is_the_specifications() {
    assert_eq!(greeting(), b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn a_client_like_qemu_gets_structured_replies_and_block_status() {
    let mut handshake = begin();
    let (bytes, next) = handshake.option(option::STRUCTURED_REPLY, &[]).unwrap();
    assert_eq!((kinds(&bytes), next), (vec![answer::ACK], Next::Option));
    let (bytes, _) = handshake.option(option::SET_META_CONTEXT, &meta("", &["base:allocation"])).unwrap();
    let context = [&1_u32.to_be_bytes(), b"base:allocation".as_slice()].concat();
    assert_eq!(replies(&bytes), [(answer::META_CONTEXT, context), (answer::ACK, vec![])]);
    let (bytes, next) = handshake.option(option::GO, &named("disk0", &[0, 1, 0, 3])).unwrap();
    assert_eq!(next, Next::Requests(Session { structured: true, block_status: true }));
    let found = replies(&bytes);
    let export = [&[0, 0], GIB.to_be_bytes().as_slice(), &wire::TRANSMISSION_FLAGS.to_be_bytes()].concat();
    assert_eq!(found[0], (answer::INFO, export));
    assert_eq!(found[1].1, [[0, 3, 0, 0, 0, 1].as_slice(), &[0, 0, 16, 0, 2, 0, 0, 0]].concat());
    assert_eq!(found.len(), 3);
}

#[test]
fn names_and_descriptions_are_told_when_asked_for() {
    let (bytes, next) = begin().option(option::INFO, &named("", &[0, 2, 0, 1, 0, 2])).unwrap();
    assert_eq!(next, Next::Option);
    let found = replies(&bytes);
    assert_eq!(found[2].1, b"\0\x01disk0");
    assert!(found[3].1.starts_with(b"\0\x02a disk"));
    let (bytes, _) = begin().option(option::LIST, &[]).unwrap();
    assert_eq!(replies(&bytes)[0], (answer::SERVER, named("disk0", &[])));
}

#[test]
fn a_client_of_the_oldest_kind_is_served_too() {
    let mut handshake = Handshake::new(GIB, 0_u32.to_be_bytes()).unwrap();
    let (bytes, next) = handshake.option(option::EXPORT_NAME, b"disk0").unwrap();
    assert_eq!((bytes.len(), next), (134, Next::Requests(Session::default())));
    let (bytes, _) = begin().option(option::EXPORT_NAME, b"").unwrap();
    assert_eq!(bytes.len(), 10);
    assert!(begin().option(option::EXPORT_NAME, b"other").is_err());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let kind = |number, data: &[u8]| kinds(&begin().option(number, data).unwrap().0);
    assert_eq!(kind(option::GO, &named("other", &[0, 0])), [answer::ERR_UNKNOWN]);
    assert_eq!(kind(option::GO, &named("", &[0, 2, 0, 1])), [answer::ERR_INVALID]);
    assert_eq!(kind(option::GO, &[0xff; 4]), [answer::ERR_INVALID]);
    assert_eq!(kind(option::LIST, b"x"), [answer::ERR_INVALID]);
    assert_eq!(kind(5, b""), [answer::ERR_UNSUPPORTED]);
    assert_eq!(kind(option::SET_META_CONTEXT, &meta("", &["base:allocation"])), [answer::ERR_INVALID]);
    assert_eq!(kind(option::LIST_META_CONTEXT, &meta("", &["qemu:"])), [answer::ACK]);
    assert_eq!(kind(option::LIST_META_CONTEXT, &meta("", &[])), [answer::META_CONTEXT, answer::ACK]);
    assert!(Handshake::new(GIB, 4_u32.to_be_bytes()).is_err());
    assert!(parse_option_head(&[0; 16]).is_err());
    let mut endless = begin();
    let refused = (0..=NBD_OPTIONS_MAX).find(|_| endless.option(option::LIST, &[]).is_err());
    assert_eq!(refused, Some(NBD_OPTIONS_MAX));
}

#[test]
fn a_context_set_without_effect_takes_the_earlier_one_away() {
    let mut handshake = begin();
    handshake.option(option::STRUCTURED_REPLY, &[]).unwrap();
    handshake.option(option::SET_META_CONTEXT, &meta("", &["base:allocation"])).unwrap();
    handshake.option(option::SET_META_CONTEXT, &meta("", &["other:"])).unwrap();
    let (_, next) = handshake.option(option::GO, &named("", &[0, 0])).unwrap();
    assert_eq!(next, Next::Requests(Session { structured: true, block_status: false }));
}

proptest! {
    #[test]
    fn no_option_makes_it_panic_or_answer_at_length(
        number in 0_u32..12,
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut handshake = begin();
        handshake.session.structured = true;
        if let Ok((bytes, _)) = handshake.option(number, &data) {
            prop_assert!(bytes.len() < 1_024);
        }
    }
}
